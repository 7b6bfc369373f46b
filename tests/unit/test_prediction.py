"""What is predicted is the model's own for every document in its place; an opinion is its best set of labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import random_array
from scipy.special import expit

import self_train
from common.errors import UserError
from common.taxoclass_settings import Predict
from predict import with_own
from random_taxonomies import closed, dags
from small_models import (
    QUIET,
    N,
    corpus,
    model_of,
    one_thread,  # noqa: F401 (a fixture)
    token_corpus,
    toy,
    trained_encoder,
)
from taxoclass import prediction
from taxoclass.bundle import Bundle
from taxoclass.decoding import Rules, decode, level_weights
from taxoclass.posterior import nearest, neighbour_weight
from taxoclass.prediction import average_into, opinion, predict_into, scale_of
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import Machine


def empty(n: int) -> np.ndarray:
    return np.full((n, len(toy())), np.nan, dtype=np.float32)


def plain(model, documents) -> np.ndarray:
    """Logits, one document at a time, in its place."""
    with torch.inference_mode():
        return np.array([model(*documents.batch(np.array([row])))[0].numpy() for row in range(len(documents))])


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_every_document_has_its_own_logits_in_its_place(kind):
    # tokens are run by length, the longest first
    documents, _ = corpus() if kind == "vectors" else token_corpus()
    model = model_of() if kind == "vectors" else trained_encoder().eval()
    out = empty(len(documents))
    found = predict_into(out, model, documents, QUIET)
    assert found is out and found.dtype == np.float32
    np.testing.assert_allclose(found, plain(model, documents), rtol=1e-5, atol=1e-5)
    assert (np.ptp(found, axis=0) > 0).all()  # documents differ: a wrong order would be seen


@pytest.mark.parametrize("batch", [1, 7, 128])
def test_how_many_are_predicted_at_once_changes_no_logit(batch):
    documents, _ = token_corpus()
    model = trained_encoder().eval()
    machine = Machine(predict_batch=batch, warn=lambda text: None)
    one, other = (predict_into(empty(40), model, documents, each) for each in (QUIET, machine))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_memory_map_is_filled_as_an_array_is(tmp_path):
    documents, _ = corpus()
    mapped = np.lib.format.open_memmap(tmp_path / "p.npy", mode="w+", dtype=np.float32, shape=(N, len(toy())))
    predict_into(mapped, model_of(), documents, QUIET)
    mapped.flush()
    assert np.array_equal(np.load(tmp_path / "p.npy"), predict_into(empty(N), model_of(), documents, QUIET))


def test_a_model_that_was_just_trained_predicts_without_dropout():
    documents, _ = token_corpus()
    model = trained_encoder(dropout=0.5).train()
    one, other = (predict_into(empty(40), model, documents, QUIET) for _ in range(2))
    assert np.array_equal(one, other)
    np.testing.assert_allclose(one, plain(model.eval(), documents), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was():
    documents, _ = corpus()
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict_into(empty(N), model, documents, QUIET)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- scales


@st.composite
def problems(draw, elements):
    graph = draw(dags())
    shape = st.tuples(st.integers(1, 5), st.just(len(graph)))
    return graph, draw(hnp.arrays(np.float32, shape, elements=elements))


LOGITS = st.integers(-64, 64).map(lambda value: value / 8)


def leaves_below(graph, row: int) -> list[int]:
    below, waiting = set(), [row]
    while waiting:
        each = waiting.pop()
        below.add(each)
        waiting += graph.children[each].tolist()
    return [each for each in below if not len(graph.children[each])]


@settings(max_examples=60)
@given(problems(LOGITS))
def test_on_the_scale_of_expected_f1_a_class_is_as_likely_as_the_leaves_below_it_together(problem):
    graph, logits = problem
    found = scale_of("expected_f1", graph)(logits)
    assert found.dtype == np.float32
    for row, z in zip(found, logits.astype(float), strict=True):
        leaves = [each for each in range(len(graph)) if not len(graph.children[each])]
        share = dict(zip(leaves, np.exp(z[leaves]) / np.exp(z[leaves]).sum(), strict=True))
        expected = [sum(share[leaf] for leaf in leaves_below(graph, each)) for each in range(len(graph))]
        np.testing.assert_allclose(row, expected, atol=1e-6)
        assert all(row[child] <= row[parent] + 1e-6 for parent, child in graph.edges.tolist())


@pytest.mark.parametrize("method", ["path", "topk", "threshold", "topdown", "beam", "prune"])
def test_on_the_scale_of_all_other_decoders_a_class_stands_for_itself(method):
    logits = np.linspace(-20, 20, 12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(scale_of(method, toy())(logits), expit(logits))


@pytest.mark.parametrize("method", ["expected_f1", "path"])
def test_what_is_written_is_the_scale_of_the_logits(method):
    documents, _ = corpus()
    logits = predict_into(empty(N), model_of(), documents, QUIET)
    found = predict_into(empty(N), model_of(), documents, QUIET, scale_of(method, toy()))
    np.testing.assert_allclose(found, scale_of(method, toy())(logits), atol=1e-6)


@pytest.mark.parametrize("method", ["expected_f1", "path"])
def test_logits_of_any_size_are_probabilities(method):
    logits = np.array([[1e4, -1e4, 0, 1e4, -1e4, 3e38], [-3e38] * 6], dtype=np.float32)
    found = scale_of(method, toy())(logits)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("method", ["expected_f1", "path"])
def test_a_memory_map_is_filled_with_the_scale_too_whatever_is_predicted_at_once(tmp_path, method):
    documents, _ = token_corpus()
    model, scale, seen = trained_encoder().eval(), scale_of(method, toy()), []

    def watched(z):
        seen.append(z.shape)
        return scale(z)

    mapped = np.lib.format.open_memmap(tmp_path / "p.npy", mode="w+", dtype=np.float32, shape=(40, len(toy())))
    predict_into(mapped, model, documents, Machine(predict_batch=7, warn=lambda text: None), watched)
    assert [shape[0] for shape in seen] == [7] * 5 + [5]
    np.testing.assert_allclose(mapped, scale(plain(model, documents)), atol=1e-5)


# ---- opinion


def plain_sets(graph) -> list[frozenset[int]]:
    """Of each class itself and all its ancestors."""
    return [frozenset({row, *closed(graph, [row])}) for row in range(len(graph))]


@settings(max_examples=60)
@given(problems(LOGITS))
def test_the_opinion_is_the_default_decoder_with_weights_for_the_others(problem):
    graph, logits = problem
    found = opinion(logits, graph)
    probability = scale_of("expected_f1", graph)(logits)
    expected = decode(probability, graph, Rules.of(Predict())).labels
    assert all(np.array_equal(one, other) for one, other in zip(found.labels, expected, strict=True))
    assert np.array_equal(found.weights, level_weights(expit(logits), graph))
    for p, each in zip(
        probability.astype(float), np.split(found.labels.indices, found.labels.indptr[1:-1]), strict=True
    ):
        labels = frozenset(each.tolist())
        assert labels and labels == closed(graph, sorted(labels))

        def worth(rows: frozenset[int], p: np.ndarray = p) -> float:
            return 2 * p[list(rows)].sum() / (len(rows) + p.sum())

        assert worth(labels) >= max(map(worth, plain_sets(graph))) - 1e-6  # no single path is worth more


def test_an_opinion_is_formed_block_by_block(monkeypatch):
    logits, told = 3 * np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32), []
    whole = opinion(logits, toy())
    monkeypatch.setattr(prediction, "BLOCK", 20)
    found = opinion(logits, toy(), told.append)
    assert all(np.array_equal(one, other) for one, other in zip(found.labels, whole.labels, strict=True))
    assert np.array_equal(found.weights, whole.weights) and told == [20, 20, 10]


def test_the_weights_of_an_opinion_are_a_number_a_level_that_the_bundle_can_keep():
    found = opinion(np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32), toy())
    assert found.weights.shape == (int(toy().level.max()) + 1,)
    assert found.weights.dtype == np.float64 and found.weights.max() == 1 and (found.weights > 0).all()


# ---- settings of a bundle and of the command line


def bundle_of(**decoding) -> Bundle:
    return Bundle(model_of(), toy(), {}, {}, {"level_weights": [1.0, 1.0, 1.0], "decoding": decoding})


def refusal(given: Predict, model: Bundle) -> str:
    with pytest.raises(UserError) as caught:
        with_own(given, model)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_settings_of_the_command_line_win_over_those_of_the_bundle_and_these_over_the_defaults():
    model = bundle_of(**Predict(decode="topk", decode_k=5, max_labels=4).model_dump())
    found = with_own(Predict(decode_k=2), model)
    assert (found.decode, found.decode_k, found.max_labels) == ("topk", 2, 4)
    assert with_own(Predict(), model) == Predict(decode="topk", decode_k=5, max_labels=4)
    assert with_own(Predict(decode="expected_f1", decode_k=3), model).model_dump() == Predict(max_labels=4).model_dump()


def test_a_limit_of_the_bundle_is_lifted_by_null():
    assert with_own(Predict(max_labels=None), bundle_of(max_labels=2)).max_labels is None


def test_a_bundle_without_settings_of_its_own_leaves_those_that_are_given():
    model = Bundle(model_of(), toy(), {}, {}, {"level_weights": [1.0]})
    assert with_own(Predict(decode="beam", beam_width=9), model) == Predict(decode="beam", beam_width=9)


def test_settings_that_contradict_those_of_the_bundle_are_refused_in_one_line():
    message = refusal(Predict(min_labels=3), bundle_of(**Predict(max_labels=2).model_dump()))
    assert "min_labels = 3 must be at most max_labels = 2" in message


def test_a_setting_of_the_bundle_that_is_no_longer_known_is_refused_in_one_line():
    assert "decode_kk is not a setting" in refusal(Predict(), bundle_of(decode_kk=3))


@pytest.mark.parametrize("number", ["x", "0", "-1", "1.5", "", "\u00b2", "1\n2"])
def test_an_iteration_that_is_no_number_ends_in_one_line(tmp_path, capsys, monkeypatch, number):
    files = ["taxonomy", "corpus", "cores", "model", "details", "labels", "cache", "metrics"]
    files += ["out-model", "out-labels", "out-details"]
    flags = [part for name in files for part in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr("sys.argv", ["self_train.py", *flags, f"--iteration={number}"])
    with pytest.raises(SystemExit) as caught:
        self_train.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"self_train: --iteration {number!r} is not a whole number from 1"
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_to_the_logits_is_added_to_those_of_its_document():
    documents, _ = corpus()
    model, n = model_of(), len(documents)
    more = random_array((n, len(toy())), density=0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    alone, found = (predict_into(empty(n), model, documents, more=each) for each in (None, more))
    np.testing.assert_allclose(found, alone + more.toarray(), atol=1e-6)


@pytest.mark.parametrize("n_documents", [1, 2, 30, 300])
def test_probabilities_are_averaged_with_those_of_near_documents_column_by_column(n_documents):
    rng = np.random.default_rng(0)
    taxonomy = Taxonomy(tuple(map(str, range(70))), tuple((f"c{row}",) for row in range(70)), np.empty((0, 2), int))
    vectors = rng.normal(size=(n_documents, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    probability = rng.random((n_documents, 70)).astype(np.float32)
    probability[:, 3] = 0  # a class that no one has
    found = probability.copy()
    average_into(found, vectors, taxonomy, 10)
    near = nearest(vectors, 10)
    if not near.size:
        assert np.array_equal(found, probability)
        return
    weight = neighbour_weight(n_documents, 70, near.shape[1])
    np.testing.assert_allclose(found, (1 - weight) * probability + weight * probability[near].mean(axis=1), atol=1e-5)
