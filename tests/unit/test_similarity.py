"""Stage 1 depends on exactly the settings that it reads: no other one may score a corpus again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from test_encoders import LABELS, WORDS, save_model, sentences

import similarity
import similarity_shard
from common import files
from common.errors import UserError
from common.stage import Stage
from common.taxoclass_settings import Similarity, TaxoclassRuntime
from small_models import one_thread  # noqa: F401 (a fixture)
from taxoclass import products
from taxoclass.corpus import Corpus
from taxoclass.taxonomy import Taxonomy

# three roots, three children each, one child each: enough for every limit of the selection to leave something out
NAMES = [*WORDS[:20], "green cat"]
TAXONOMY = Taxonomy(
    tuple(f"c{row}" for row in range(21)),
    tuple((name, "old stone") if row == 2 else (name,) for row, name in enumerate(NAMES)),
    np.array([*((row // 3 - 1, row) for row in range(3, 12)), *((row - 9, row) for row in range(12, 21))]),
)
TEXTS = [*sentences(6, longest=60), ""]
IDS = tuple(f"d{row}" for row in range(len(TEXTS)))
CASES = {
    "embedding": {"backend": "embedding"},
    "nli, all": {"backend": "nli"},
    "nli, from the top": {"backend": "nli", "candidates": "topdown"},
    "nli, on the best paths": {"backend": "nli", "candidates": "paths", "candidate_paths": 2},
}
# a value other than that of the runs here
OTHER = {
    "candidate_selection_quota": 1,
    "candidate_selection_cap": 3,
    "candidate_selection_power": 0,
    "candidate_paths": 5,
    "nli_score": "entail_vs_contra",
    "similarity_chunks": 3,
    "neighbours": 1,
    "similarity_max_length": 20,
    "class_names": "mean",
    "hypothesis_template": "very {path}",
}


class Watched(Similarity):
    """Settings that know which of them were read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in Similarity.model_fields:
            Watched.read.add(name)
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    encoder = str(save_model(folder / "encoder", "bert"))
    return {
        "embedding": encoder,
        "nli": str(save_model(folder / "nli", "bert", labels=LABELS)),
        "prefilter_model": encoder,
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    corpus = Corpus(IDS, tuple(TEXTS), ("train",) * len(TEXTS))
    products.write_taxonomy(str(folder / "taxonomy.json"), TAXONOMY)
    products.write_corpus(str(folder / "corpus.parquet"), corpus)
    files.write_json(folder / "details.json", {})
    return folder


@pytest.fixture
def stage_of(models, inputs, tmp_path):
    """stage_of(Similarity or Watched, settings, pieces=None, shards=1, **paths): the stage as its script gets it."""

    def make(kind: type[Similarity], settings: dict[str, Any], shards: int = 1, **more: Any) -> Stage:
        given = {"similarity_model": models[settings["backend"]], "prefilter_model": models["prefilter_model"]}
        given |= {"similarity_max_length": 40, "batch_tokens": 64} | settings
        paths = argparse.Namespace(
            taxonomy=str(inputs / "taxonomy.json"),
            corpus=str(inputs / "corpus.parquet"),
            details=str(inputs / "details.json"),
            cache=str(tmp_path / "cache"),
            out_similarity=str(tmp_path / "similarity.npz"),
            out_details=str(tmp_path / "similarity.json"),
            **{"pieces": None} | more,
        )
        runtime = TaxoclassRuntime(device="cpu", similarity_shards=shards)
        return Stage("similarity", kind(**given), runtime, paths, 1, None, started=0.0)

    return make


@pytest.fixture
def score(stage_of):
    """score(Similarity or Watched, settings): the bytes of the scores and of the neighbours."""

    def run(kind: type[Similarity], **settings: Any) -> tuple[bytes, bytes]:
        stage = stage_of(kind, settings)
        Watched.read.clear()  # of its own checks
        similarity.work(stage)
        found = products.read_similarity(stage.paths.out_similarity, IDS, TAXONOMY)
        return found.similarity.tobytes(), found.neighbours.tobytes()

    return run


def relevant(case: str) -> set[str]:
    return set(Similarity.relevant(Similarity(**CASES[case]).model_dump()))


@pytest.mark.parametrize("case", CASES)
def test_the_stage_depends_on_exactly_the_settings_that_it_reads(score, case):
    score(Watched, **CASES[case])
    # which of the candidates, embedding need not ask: it has them all
    assert Watched.read | {"candidates"} == relevant(case)


@pytest.mark.parametrize("case", CASES)
def test_a_setting_that_is_left_out_changes_no_byte_and_one_that_is_not_does(score, case):
    plain = score(Similarity, **CASES[case])
    for key, value in OTHER.items():
        same = score(Similarity, **CASES[case] | {key: value}) == plain
        assert same == (key not in relevant(case)), key


# ---- shards


@pytest.fixture
def in_shards(stage_of, tmp_path):
    """in_shards(case, shards): the file of stage 1 put together from shards, each with a cache of its own."""

    def run(case: str, shards: int) -> products.SimilarityFile:
        pieces = []
        for shard in range(1, shards + 1):
            pieces.append(str(tmp_path / f"piece_{shard}.npz"))
            more = {"shard": str(shard), "out_piece": pieces[-1]}
            stage = stage_of(Similarity, CASES[case], shards, **more)
            stage.paths.cache = str(tmp_path / f"cache_{shard}")
            similarity_shard.work(stage)
        merged = stage_of(Similarity, CASES[case], shards, pieces=pieces)
        merged.paths.cache = str(tmp_path / "nothing here")
        similarity.work(merged)
        return products.read_similarity(merged.paths.out_similarity, IDS, TAXONOMY)

    return run


@pytest.mark.parametrize("shards", [1, 3, len(TEXTS) + 4])
@pytest.mark.parametrize("case", CASES)
def test_documents_in_shards_are_scored_as_all_together(stage_of, in_shards, case, shards):
    whole = stage_of(Similarity, CASES[case])
    similarity.work(whole)
    expected = products.read_similarity(whole.paths.out_similarity, IDS, TAXONOMY)
    found = in_shards(case, shards)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)  # batches differ, so roundings do
    assert np.array_equal(np.isnan(found.similarity), np.isnan(expected.similarity))
    assert np.array_equal(found.neighbours, expected.neighbours)
    assert found.meta == expected.meta


@pytest.mark.parametrize("wrong", ["another order", "other settings", "one is missing", "something else"])
def test_a_shard_of_another_run_is_refused(stage_of, in_shards, tmp_path, wrong):
    in_shards("embedding", 3)
    pieces, settings = [str(tmp_path / f"piece_{shard}.npz") for shard in (1, 2, 3)], dict(CASES["embedding"])
    if wrong == "another order":
        pieces.reverse()
    if wrong == "other settings":
        settings["class_names"] = "mean"
    if wrong == "one is missing":
        del pieces[2]
    if wrong == "something else":
        files.write_npz(pieces[0], scores=np.zeros(1))
    with pytest.raises(UserError, match=r"piece_\d\.npz: is not shard \d of \d of this run; delete it and run"):
        similarity.work(stage_of(Similarity, settings, 3, pieces=pieces))
