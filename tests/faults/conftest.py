"""What the tests of faults share: a record of what came of them, and finished runs to do damage to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import write_table
from faults.harness import Pipeline, Recorder, configure
from small_models import one_thread  # noqa: F401 (a fixture of all tests here)
from tiny_taxoclass import SETTINGS, save_model, write_data

WINGS = {
    "descriptors": {"pass4_rows": 150},
    "descriptors, sampled": {"sample_rows": 400, "vif_on": "pearson"},
    "descriptors, in shards": {"shards": 2},
    "taxoclass": {},
    "taxoclass, in shards": {"similarity_shards": 2},
}


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "encoder")


def write_descriptors(folder: Path, seed: int) -> None:
    for part in range(3):
        rng = np.random.default_rng([seed, part])
        latent = rng.normal(size=(200, 5))
        columns = {f"c{k}": latent[:, k % 5] + 0.1 * (k // 5) * rng.normal(size=200) for k in range(15)}
        columns["c5"][::9] = np.nan
        columns["tied"] = rng.integers(0, 3, 200).astype(float)
        write_table(folder / "data" / f"part{part}.parquet", columns | {"constant": np.ones(200)})


@pytest.fixture(scope="session")
def prepare(tmp_path_factory, dry_runs, model) -> Callable[..., Path]:
    """prepare(wing, seed): a folder with the workflow, data and a config, not run; other seeds have other data."""

    def make(wing: str, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("run") / "a folder with spaces"
        if wing.startswith("descriptors"):
            section = {"parquet_glob": "data/*.parquet", "n_metadata": 1, "n_consensus": 2} | WINGS[wing]
            configure(folder, {"descriptors": section})
            write_descriptors(folder, seed)
            return folder
        settings = {"self_train_iterations": 2, "epochs": 2, "self_train_epochs": 1, "self_train_stop": 0.0}
        configure(folder, {"taxoclass": SETTINGS | settings | WINGS[wing]})
        write_data(folder / "data")
        (folder / "models").mkdir()
        (folder / "models" / "encoder").symlink_to(model)
        train = folder / "data" / "train.tsv"
        rows = [line.split("\t") for line in train.read_text().splitlines()]
        texts = [text for _, text in rows]
        turned = texts[seed:] + texts[:seed]  # the same ids with other texts
        train.write_text("".join(f"{doc_id}\t{text}\n" for (doc_id, _), text in zip(rows, turned, strict=True)))
        return folder

    return make


@pytest.fixture
def finished(prepare, dry_runs, capfd) -> Callable[..., Pipeline]:
    """finished(wing, seed): a run of the wing in this process, made once."""

    def make(wing: str, seed: int = 0) -> Pipeline:
        if (wing, seed) not in FINISHED:
            FINISHED[wing, seed] = Pipeline.finish(prepare(wing, seed), dry_runs, capfd)
        return FINISHED[wing, seed]

    return make


FINISHED: dict[tuple[str, int], Pipeline] = {}
