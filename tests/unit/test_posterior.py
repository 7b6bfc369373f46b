"""Posteriors against double loops, and that shares and neighbours help where a document alone is in doubt."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array

from random_taxonomies import dags, leaves_of, taxonomy
from taxoclass import posterior
from taxoclass.posterior import (
    as_logits,
    by_cluster,
    class_posterior,
    cluster_weight,
    core_share,
    leaf_posterior,
    nearest,
    neighbour_weight,
    pooled,
    smoothed,
)

NAN = math.nan
EIGHTHS = st.integers(-16, 16).map(lambda eighths: eighths / 8)

# --- data


@st.composite
def problems(draw, unscored=True):
    """A taxonomy with scores in exact eighths."""
    graph = draw(dags())
    shape = st.tuples(st.integers(1, 6), st.just(len(graph)))
    return graph, draw(hnp.arrays(np.float32, shape, elements=EIGHTHS | st.just(NAN) if unscored else EIGHTHS))


@st.composite
def neighbourhoods(draw):
    """Posteriors of some documents, some without any, and k rows of neighbours."""
    n, n_classes, k = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    weight = draw(hnp.arrays(np.float32, (n, n_classes), elements=st.integers(1, 8).map(float)))
    return weight / weight.sum(axis=1, keepdims=True), draw(
        hnp.arrays(np.int32, (n, k), elements=st.integers(0, n - 1))
    )


def unit_rows(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


# --- plain versions


def plain_logits(rows, sharpness=2.0):
    centred, spreads = [], []
    for row in rows:
        scored = [value for value in row if not math.isnan(value)]
        mean = sum(scored) / len(scored) if scored else 0
        centred.append([None if math.isnan(value) else value - mean for value in row])
        if len(scored) > 1:
            spreads.append(math.sqrt(sum((value - mean) ** 2 for value in scored) / len(scored)))
    spread = sum(spreads) / len(spreads) if spreads else 0
    unit = sharpness / spread if spread else 1
    return [[-1e4 if value is None else value * unit for value in row] for row in centred]


def plain_softmax(row, share):
    top = max(row)
    weight = [math.exp(value - top) * s for value, s in zip(row, share, strict=True)]
    return [value / sum(weight) for value in weight]


def plain_posterior(logits, rounds=10):
    n_classes = len(logits[0])
    found = [plain_softmax(row, [1.0] * n_classes) for row in logits]
    for _ in range(rounds):
        mean = [sum(row[c] for row in found) / len(found) for c in range(n_classes)]
        share = [(value + 1 / n_classes) / 2 for value in mean]
        found = [plain_softmax(row, share) for row in logits]
    return found


# --- logits


@settings(max_examples=80)
@given(problems())
def test_scores_as_logits_are_in_units_of_the_mean_spread_within_a_document(problem):
    _, scores = problem
    found = as_logits(scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_logits(scores.tolist()), rtol=1e-5, atol=1e-5)


def test_scores_that_tell_nothing_apart_are_equal_logits():
    assert as_logits(np.full((3, 4), 0.1, np.float32)).tolist() == [[0.0] * 4] * 3
    assert np.ptp(as_logits(np.full((3, 7), 0.1)), axis=1).tolist() == [0.0] * 3  # float64, whose mean is rounded
    assert as_logits(np.array([[0.5], [0.1], [NAN]])).tolist() == [[0.0], [0.0], [-1e4]]


def test_no_documents_have_no_logits_and_no_posterior():
    empty = np.empty((0, 3), np.float32)
    assert as_logits(empty).shape == class_posterior(empty).shape == (0, 3)
    assert leaf_posterior(np.empty((0, 3), np.float32), taxonomy(3, [(0, 1), (0, 2)])).shape == (0, 2)


@settings(max_examples=60)
@given(problems(unscored=False), st.sampled_from([0.25, 4.0, 1024.0]), EIGHTHS)
def test_neither_scale_nor_offset_of_the_scores_changes_the_posterior(problem, scale, offset):
    graph, scores = problem
    np.testing.assert_allclose(
        leaf_posterior(scale * (scores + np.float32(offset)), graph), leaf_posterior(scores, graph), atol=1e-5
    )


# --- class shares


@settings(max_examples=80)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=EIGHTHS.map(lambda x: 4 * x)))
def test_shares_and_posterior_in_turns_are_those_of_a_double_loop(logits):
    found = class_posterior(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_posterior(logits.tolist()), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_one_class_has_all_and_equal_classes_have_equal_parts():
    assert class_posterior(np.array([[3.0], [-1.0]], np.float32)).tolist() == [[1.0], [1.0]]
    np.testing.assert_allclose(class_posterior(np.zeros((5, 4), np.float32)), 0.25, atol=1e-6)


def test_a_class_that_is_never_the_best_does_not_die_out():
    # half an equal share is kept: 1 / 6 at least, of which the best class of the document has 5 / 6 at most
    logits = np.tile(np.array([[2.0, 1.0, 0.0]], np.float32), (100, 1))
    found = class_posterior(logits)[0]
    assert (np.diff(found) < 0).all()
    assert found[2] > math.exp(-2) / 6 / (1 + math.exp(-1) + math.exp(-2))


def corpus(seed, bias=0.0):
    """Of 3000 documents the true leaf out of ten, the true shares (a half, a quarter, ...) and noisy scores."""
    rng = np.random.default_rng(seed)
    shares = 0.5 ** np.minimum(np.arange(1, 11), 9)
    shares /= shares.sum()
    truth = rng.choice(10, size=3000, p=shares)
    scores = rng.normal(size=(3000, 10))
    scores[np.arange(3000), truth] += 2.0
    return truth, shares, (scores + bias * rng.normal(size=10)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_skewed_shares_are_found_better_than_by_the_best_score(seed):
    truth, shares, scores = corpus(seed)
    found = leaf_posterior(scores, taxonomy(10, []))

    def wrong(chosen):
        return np.abs(np.bincount(chosen, minlength=10) / len(scores) - shares).sum()

    assert wrong(found.argmax(axis=1)) < 0.6 * wrong(scores.argmax(axis=1))
    assert np.mean(found.argmax(axis=1) == truth) > np.mean(scores.argmax(axis=1) == truth) + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_leaves_are_found_better_than_by_the_best_score_where_names_attract(seed):
    truth, _, scores = corpus(seed, bias=0.5)
    found = leaf_posterior(scores, taxonomy(10, []))
    assert np.mean(found.argmax(axis=1) == truth) > np.mean(scores.argmax(axis=1) == truth) + 0.02


# --- the posterior of the leaves


@settings(max_examples=80)
@given(problems())
def test_the_posterior_is_over_the_leaves_that_are_scored_or_over_none(problem):
    graph, scores = problem
    found = leaf_posterior(scores, graph)
    own = scores[:, leaves_of(graph)]
    known = ~np.isnan(own).all(axis=1)
    expected = np.zeros(own.shape)
    if known.any():
        expected[known] = plain_posterior(plain_logits(own[known].tolist()))
    assert found.dtype == np.float32 and found.shape == own.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found[np.isnan(own)] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), (~np.isnan(own)).any(axis=1), atol=1e-5)


def test_scores_of_inner_classes_count_for_nothing():
    graph, scores = taxonomy(3, [(0, 1), (0, 2)]), np.array([[0.9, 0.1, 0.3], [NAN, 0.5, 0.2]], np.float32)
    other = scores.copy()
    other[:, 0] = [NAN, -7]
    assert np.array_equal(leaf_posterior(scores, graph), leaf_posterior(other, graph))


def test_one_document_and_one_leaf_are_enough():
    chain = taxonomy(2, [(0, 1)])
    assert leaf_posterior(np.array([[0.2, 0.7]], np.float32), chain, nearest(np.ones((1, 1)), 10)).tolist() == [[1.0]]
    found = leaf_posterior(np.array([[0.2, 0.7, 0.1]], np.float32), taxonomy(3, []))
    assert found[0].argsort().tolist() == [2, 0, 1]


# --- neighbours


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=9), st.integers(0, 10), st.sampled_from([1, 2, 4, 1024]))
def test_the_nearest_are_the_largest_cosines_the_best_first_also_where_many_are_equal(topics, k, block):
    # vectors of four directions: cosines are exactly 0 and 1
    vectors = np.eye(4, dtype=np.float32)[np.array(topics, dtype=int)].reshape(-1, 4)
    with patch.object(posterior, "BLOCK", block):
        found = nearest(vectors, k)
    assert found.dtype == np.int32
    assert found.shape == (len(topics), min(k, max(len(topics) - 1, 0)))
    for row, mine in enumerate(found.tolist()):
        assert row not in mine and len(set(mine)) == len(mine)
        same = [int(topics[other] == topics[row]) for other in range(len(topics)) if other != row]
        assert [int(topics[other] == topics[row]) for other in mine] == sorted(same, reverse=True)[: len(mine)]


@pytest.mark.parametrize("block", [1, 7, 40, 1024])
@pytest.mark.parametrize("k", [1, 5, 39, 60])
def test_the_nearest_are_those_of_a_double_loop_whatever_the_block(monkeypatch, k, block):
    monkeypatch.setattr(posterior, "BLOCK", block)
    vectors = unit_rows(np.random.default_rng(0).normal(size=(40, 3)))
    expected = [
        sorted((j for j in range(40) if j != i), key=lambda j: -float(vectors[i].astype(float) @ vectors[j]))[:k]
        for i in range(40)
    ]
    assert nearest(vectors, k).tolist() == expected


def test_a_copy_of_a_document_is_its_neighbour_and_it_itself_is_not():
    vectors = unit_rows(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert nearest(vectors, 1)[[0, 2], 0].tolist() == [2, 0]
    assert sorted(nearest(vectors, 3)[3].tolist()) == [0, 1, 2]  # also those of a negative cosine


def test_neighbours_weigh_less_where_a_class_has_fewer_documents_than_a_neighbourhood():
    for n_documents, n_classes, k in [(1000, 10, 10), (76, 10, 10), (5, 10, 1), (3, 0, 2)]:
        n = n_documents / (n_classes or 1)
        assert neighbour_weight(n_documents, n_classes, k) == pytest.approx(0.7 * n / (n + k))
    weights = [neighbour_weight(n, 10, 10) for n in (1, 10, 100, 10**9)]
    assert weights == sorted(weights) and weights[-1] == pytest.approx(0.7)


@settings(max_examples=80)
@given(neighbourhoods(), st.sampled_from([0.0, 0.25, 0.7, 1.0]))
def test_smoothed_probabilities_are_those_of_a_double_loop_and_sum_to_one(problem, weight):
    own, neighbours = problem
    found = smoothed(own, neighbours, weight)
    assert found.dtype == np.float32
    for row, mine in enumerate(found.tolist()):
        around = [own[other].tolist() for other in neighbours[row].tolist()]  # repeats count as often as they are there
        for c, value in enumerate(mine):
            mean = sum(each[c] for each in around) / len(around)
            assert value == pytest.approx((1 - weight) * float(own[row, c]) + weight * mean, abs=1e-6)
        assert sum(mine) == pytest.approx(1, abs=1e-5)


@settings(max_examples=40)
@given(problems(unscored=False), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_neighbours_are_averaged_with_the_weight_of_the_corpus(problem, k, seed):
    graph, scores = problem
    neighbours = np.random.default_rng(seed).integers(0, len(scores), size=(len(scores), k)).astype(np.int32)
    alone = leaf_posterior(scores, graph)
    n = len(scores) / alone.shape[1]
    weight = 0.7 * n / (n + k)
    expected = (1 - weight) * alone + weight * alone[neighbours].mean(axis=1)
    found = leaf_posterior(scores, graph, neighbours)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("neighbours", [None, np.empty((2, 0), np.int32)], ids=["none", "of width 0"])
def test_without_neighbours_every_document_stands_alone(neighbours):
    scores, graph = np.array([[0.5, 0.1], [0.2, 0.3]], np.float32), taxonomy(2, [])
    expected = plain_posterior(plain_logits(scores.tolist()))
    np.testing.assert_allclose(leaf_posterior(scores, graph, neighbours), expected, atol=1e-5)


def test_neighbours_correct_documents_whose_own_scores_are_noise():
    truth, _, scores = corpus(3)
    vectors = unit_rows(np.eye(10)[truth] + 0.3 * np.random.default_rng(4).normal(size=(3000, 10)))
    graph = taxonomy(10, [])
    alone, together = leaf_posterior(scores, graph), leaf_posterior(scores, graph, nearest(vectors, 10))
    right, more = (np.mean(each.argmax(axis=1) == truth) for each in (alone, together))
    assert more > right + 0.02


@pytest.mark.parametrize("document", [0, 1], ids=["beside one that is not scored", "not scored itself"])
def test_rows_sum_to_one_or_to_zero_with_neighbours_too(document):
    scores = np.array([[0.9, 0.1], [NAN, NAN], [0.2, 0.8]], np.float32)
    found = leaf_posterior(scores, taxonomy(2, []), np.array([[1], [0], [0]]))
    assert found[document].sum() == pytest.approx([1, 0][document], abs=1e-5)


# ---- clusters and words


def test_clusters_weigh_nothing_where_classes_have_few_documents_and_more_the_more():
    weights = [cluster_weight(n, 10) for n in (80, 1200, 2499, 2500, 9000, 36_000)]
    assert weights[:3] == [0, 0, 0]
    assert weights[3:] == pytest.approx([0.2, 0.474, 0.783], abs=1e-3)
    assert cluster_weight(0, 0) == 0


def test_half_of_the_documents_are_learnt_from_and_more_where_clusters_have_a_say():
    clusters, none = np.zeros((9000, 2), int), np.zeros((9000, 0), int)
    assert core_share(9000, 10, none) == posterior.SURE == core_share(800, 10, clusters[:800])
    weight = cluster_weight(9000, 10)
    assert core_share(9000, 10, clusters) == pytest.approx(posterior.SURE * (1 - weight) + weight)


def test_a_cluster_that_likes_a_class_more_than_others_do_is_of_it():
    # the first class is liked by all documents alike, the second by the second cluster alone
    clusters = np.array([[0], [0], [1], [1]])
    logits = np.array([[3, 0], [3, 0], [3, 1], [3, 1]], np.float32)
    found = by_cluster(logits, clusters)
    assert np.allclose(found.sum(axis=1), 1)
    assert (found[:2, 0] > 0.5).all() and (found[2:, 1] > 0.5).all()
    assert np.array_equal(by_cluster(logits, np.repeat(clusters, 2, axis=1)), found)


def test_a_pool_of_opinions_is_between_them_and_one_without_weight_says_nothing():
    one, other = np.array([[0.9, 0.1]], np.float32), np.array([[0.2, 0.8]], np.float32)
    assert pooled(one, other, 0.0) is one
    half = pooled(one, other, 0.5)
    assert np.allclose(half, np.sqrt(one * other) / np.sqrt(one * other).sum(), atol=1e-6)
    assert np.allclose(pooled(one, np.array([[1.0, 0.0]], np.float32), 0.5).sum(), 1)


def test_clusters_mend_documents_that_names_mistake():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 600)
    scores = 0.5 + 0.1 * rng.normal(size=(1200, 2))
    scores[np.arange(1200), truth] += 0.05
    graph = taxonomy(2, [])
    alone = leaf_posterior(scores.astype(np.float32), graph)
    together = leaf_posterior(scores.astype(np.float32), graph, None, truth[:, None])
    right = [(each.argmax(axis=1) == truth).mean() for each in (alone, together)]
    assert right[1] > right[0] + 0.1


def test_words_of_a_name_add_to_its_logit_and_those_of_inner_classes_do_not():
    graph = taxonomy(3, [(0, 1), (0, 2)])
    scores = np.array([[0.5, 0.4, 0.4], [0.5, 0.1, 0.4]], np.float32)
    words = csr_array(np.array([[9, 0, 2], [0, 0, 0]], np.float32))
    plain, found = leaf_posterior(scores, graph), leaf_posterior(scores, graph, words=words)
    assert found[0, 1] > plain[0, 1]
    inner = csr_array(np.array([[9, 0, 0], [0, 0, 0]], np.float32))
    assert np.array_equal(leaf_posterior(scores, graph, words=inner), plain)
