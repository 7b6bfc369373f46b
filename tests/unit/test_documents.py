"""Documents reach the classifier through the encoder that it was trained with, and through no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders import save_model, sentences

from common.errors import UserError
from small_models import one_thread  # noqa: F401 (a fixture)
from taxoclass.documents import name_vectors, origin, prepared, reopen
from taxoclass.encoders import Encoder
from taxoclass.taxonomy import Taxonomy

TEXTS = [*sentences(30, longest=50), "", "the cat sings", "", "the cat sings"]
LONG = [" ".join(["cat", "dog", "law"] * 20), "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A model folder to move or to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def encoder_of(folder: Path, **options) -> Encoder:
    return Encoder.load(str(folder), max_length=24, **options)


def refusal(made: dict, **options) -> str:
    with pytest.raises(UserError) as caught:
        reopen(made, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- fixed vectors


def test_vectors_are_those_of_the_encoder_with_and_without_a_cache(folder, tmp_path):
    expected = encoder_of(folder).encode(TEXTS)
    plain = prepared(encoder_of(folder), False, TEXTS)
    kept = prepared(encoder_of(folder), False, TEXTS, tmp_path)
    assert plain.values.tobytes() == kept.values.tobytes() == expected.tobytes()
    assert plain.values.dtype == np.float32 and len(plain) == len(TEXTS)
    assert plain.digest == kept.digest  # a run is resumed with either


def test_vectors_that_are_in_the_cache_are_not_run_again(folder, tmp_path):
    first = prepared(encoder_of(folder), False, TEXTS, tmp_path)
    encoder, seen = encoder_of(folder), []
    again = prepared(encoder, False, TEXTS[::-1], tmp_path, progress=seen.append)
    assert np.array_equal(again.values, first.values[::-1])
    assert encoder.tally.sequences == 0
    assert sum(seen) == len(TEXTS)  # the bar is full all the same


def test_a_new_document_costs_only_itself(folder, tmp_path):
    prepared(encoder_of(folder), False, TEXTS, tmp_path)
    encoder = encoder_of(folder)
    more = prepared(encoder, False, [*TEXTS, "a new text of the court"], tmp_path)
    assert encoder.tally.sequences == 1
    np.testing.assert_allclose(more.values[-1], encoder.encode(["a new text of the court"])[0], atol=1e-6)


@pytest.mark.parametrize("other", [{"pooling": "cls"}, {"chunks": 2}], ids=["pooling", "chunks"])
def test_the_cache_keeps_encoders_apart(folder, tmp_path, other):
    one = prepared(encoder_of(folder), False, LONG, tmp_path)
    found = prepared(encoder_of(folder, **other), False, LONG, tmp_path)
    assert found.values.tobytes() == prepared(encoder_of(folder, **other), False, LONG).values.tobytes()
    assert not np.allclose(found.values[0], one.values[0])


def test_the_budget_of_a_batch_changes_the_vectors_by_rounding_only(folder):
    one, other = (encoder_of(folder).encode(TEXTS, tokens) for tokens in (64, 8192))
    np.testing.assert_allclose(one, other, atol=1e-5)


# ---- token ids


@pytest.mark.parametrize(("architecture", "pad"), [("bert", 0), ("roberta", 1)])
def test_documents_of_a_trained_encoder_are_the_tokenizers_own_ids_cut_and_padded(tmp_path, architecture, pad):
    encoder = encoder_of(save_model(tmp_path / "model", architecture))
    documents = prepared(encoder, True, TEXTS, tmp_path / "cache")
    plain = encoder.loaded.tokenizer(TEXTS, truncation=True, max_length=24)["input_ids"]
    assert [documents.ids[start:stop].tolist() for start, stop in pairwise(documents.starts)] == plain
    assert documents.pad == pad and len(documents) == len(TEXTS)
    ids, mask = documents.batch(np.array([30, 0]))  # an empty text beside another one
    assert (ids[mask == 0] == pad).all() and mask.sum(dim=1).tolist() == [2, len(plain[0])]
    assert encoder.tally.truncated == sum(
        len(each) > 24 for each in encoder.loaded.tokenizer(TEXTS, verbose=False)["input_ids"]
    )
    assert not (tmp_path / "cache").exists()  # ids are quick to make


# ---- the same encoder later


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("pooling", "chunks"), [("mean", 1), ("cls", 1), ("mean", 3)])
def test_what_a_bundle_keeps_opens_the_same_encoder(folder, pooling, chunks, trainable):
    encoder = encoder_of(folder, pooling=pooling, chunks=chunks)
    made = json.loads(json.dumps(origin(encoder, trainable)))  # as in the header of the bundle
    found = reopen(made)
    assert origin(found, made["trainable"]) == made
    assert found.key == encoder.key
    assert found.encode(LONG).tobytes() == encoder.encode(LONG).tobytes()


def test_a_moved_encoder_is_asked_for_and_found_by_its_new_name(copy, tmp_path):
    encoder = encoder_of(copy)
    made, vectors = origin(encoder, False), encoder.encode(TEXTS)
    moved = copy.rename(tmp_path / "elsewhere")
    assert refusal(made).startswith(f"{copy}: there is no such model folder")
    found = reopen(made, name=str(moved))
    assert found.encode(TEXTS).tobytes() == vectors.tobytes()
    assert found.loaded.folder == moved
    assert made["id"] == str(copy)  # what was trained with is still told


def test_another_encoder_under_the_name_is_refused(folder, tmp_path):
    made = origin(encoder_of(folder), False)
    other = save_model(tmp_path / "other", "bert", seed=1)
    digests = made["sha256"], origin(encoder_of(other), False)["sha256"]
    message = refusal(made, name=str(other))
    assert message.startswith(f"{other}: its weights differ from the training (")
    assert digests[0] != digests[1] and all(each[:12] in message for each in digests)


def test_weights_that_changed_in_their_place_are_refused(copy):
    made = origin(encoder_of(copy), True)
    save_model(copy, "bert", seed=1)  # a fine-tuning that overwrote its start
    assert refusal(made).startswith(f"{copy}: its weights differ from the training (")


def test_a_tokenizer_that_changed_in_its_place_is_refused(copy):
    # the same weights with two words exchanged: every number would be wrong and nothing would fail
    made = origin(encoder_of(copy), False)
    text = (copy / "tokenizer.json").read_text()
    swapped = text.replace('"cat"', '"\0"').replace('"dog"', '"cat"').replace('"\0"', '"dog"')
    assert swapped != text
    (copy / "tokenizer.json").write_text(swapped)
    message = refusal(made)
    assert message.startswith(f"{copy}: its tokenizer differs from the training (")
    assert message.endswith("; give that encoder's folder, or train again")


@pytest.mark.parametrize("key", ["sha256", "tokenizer_sha256"])
def test_each_digest_of_the_bundle_is_compared(folder, key):
    made = origin(encoder_of(folder), False)
    assert "from the training" in refusal(made | {key: "0" * 64})


def test_warnings_go_where_the_caller_wants_them(folder):
    told = []
    made = origin(encoder_of(folder), False)
    assert reopen(made, warn=told.append).loaded.warn == told.append


# ---- vectors of the classes

TAXONOMY = Taxonomy(
    ("r", "a", "b"),
    (("the law",), ("cat", "green cat", "river"), ("dog", "dog of stone")),
    np.array([[0, 1], [0, 2]]),
    ("of courts", "", "old"),
)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_class_has_the_mean_of_the_vectors_of_its_names_whatever_the_pooling_of_documents(folder, pooling):
    mean = encoder_of(folder)
    expected = np.stack([np.mean([mean.encode([name])[0] for name in each], axis=0) for each in TAXONOMY.names])
    found = name_vectors(encoder_of(folder, pooling=pooling, chunks=2), TAXONOMY, "{class_name}")
    assert found.dtype == np.float32 and found.shape == (3, 16)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_text_of_a_class_is_its_template_filled_in(folder):
    encoder = encoder_of(folder)
    path, described = (name_vectors(encoder, TAXONOMY, each) for each in ("{path}", "{class_name} is {description}"))
    texts = ["the law > cat", "the law > green cat", "the law > river"]
    np.testing.assert_allclose(path[1], encoder.encode(texts).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(described[0], encoder.encode(["the law is of courts"])[0], atol=1e-6)


def test_a_template_that_reads_alike_for_all_names_of_a_class_counts_once(folder):
    encoder = encoder_of(folder)
    found = name_vectors(encoder, replace(TAXONOMY, descriptions=("law", "dog", "old")), "{description}")
    np.testing.assert_allclose(found[2], encoder.encode(["old"])[0], atol=1e-6)


def test_classes_in_another_order_have_their_own_vectors(folder):
    turned = Taxonomy(TAXONOMY.ids[::-1], TAXONOMY.names[::-1], 2 - TAXONOMY.edges)
    one, other = (name_vectors(encoder_of(folder), each, "{class_name}") for each in (TAXONOMY, turned))
    np.testing.assert_allclose(one[::-1], other, atol=1e-6)


def test_the_encoder_is_not_changed_by_making_vectors(folder):
    encoder = encoder_of(folder, pooling="cls", chunks=2)
    before = {name: value.clone() for name, value in encoder.loaded.model.state_dict().items()}
    name_vectors(encoder, TAXONOMY, "{class_name}")
    prepared(encoder, False, TEXTS)
    assert (encoder.pooling, encoder.chunks) == ("cls", 2)
    assert all(torch.equal(value, before[name]) for name, value in encoder.loaded.model.state_dict().items())
