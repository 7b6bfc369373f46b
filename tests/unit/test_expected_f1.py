"""Sets of the highest expected Example-F1 against plain sets of classes, on any taxonomy."""

from __future__ import annotations

import math
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from random_taxonomies import dags, leaves_of, taxonomy
from taxoclass import expected_f1
from taxoclass.decoding import Rules, decode
from taxoclass.expected_f1 import best_class, best_sets, consistent_probabilities, upward

# --- data


@st.composite
def problems(draw, documents=4):
    """A taxonomy with probabilities in exact eighths, many of them equal, and not those of a softmax."""
    graph = draw(dags())
    shape = st.tuples(st.integers(1, documents), st.just(len(graph)))
    return graph, draw(hnp.arrays(np.float64, shape, elements=st.integers(0, 8).map(lambda eighths: eighths / 8)))


@st.composite
def shared_out(draw):
    """A taxonomy with one document, whose probability of 1 is shared out among the leaves in 64ths."""
    graph = draw(dags())
    n_leaves = len(leaves_of(graph))
    cuts = sorted(draw(st.lists(st.integers(0, 64), min_size=n_leaves - 1, max_size=n_leaves - 1)))
    return graph, np.diff([0, *cuts, 64])[None] / 64


# --- plain versions, for one document; p is a list


def closed(graph, row):
    """A class and all its ancestors."""
    found, waiting = set(), [row]
    while waiting:
        found.add(waiting.pop())
        waiting += [above for above, below in graph.edges.tolist() if below in found and above not in found]
    return frozenset(found)


def worth(p, labels):
    """Twice what is expected to be right, over labels given and expected."""
    return 2 * sum(p[c] for c in labels) / (len(labels) + sum(p)) if labels else 0.0


def all_sets(graph, most):
    """Every set of at most ``most`` classes that holds all ancestors of its classes."""
    for size in range(1, most + 1):
        for chosen in combinations(range(len(graph)), size):
            if all(closed(graph, c) <= set(chosen) for c in chosen):
                yield frozenset(chosen)


def sets_of(mask):
    return [frozenset(np.flatnonzero(column).tolist()) for column in mask.T]


def grown(graph, probability, most=None):
    """The label sets of (N, C) probabilities."""
    return sets_of(best_sets(probability.T.copy(), graph, most=most))


# --- closed sets


@given(dags())
def test_a_closed_set_is_a_class_with_all_its_ancestors_each_once(graph):
    found = graph.closed_sets.toarray()
    assert found.dtype == np.float64 and set(np.unique(found)) <= {0.0, 1.0}
    assert sets_of(found.T) == [closed(graph, row) for row in range(len(graph))]


# --- probabilities of all classes


@given(dags(), st.data())
def test_a_class_is_as_likely_as_the_leaves_below_it_on_however_many_ways(graph, data):
    leaves = leaves_of(graph)
    eighths = st.integers(0, 8).map(lambda value: value / 64)
    given_leaves = data.draw(hnp.arrays(np.float32, (3, len(leaves)), elements=eighths))
    found = upward(given_leaves, graph)
    assert found.dtype == np.float32 and found.shape == (3, len(graph))
    for row, mine in zip(given_leaves.tolist(), found.tolist(), strict=True):
        for c in range(len(graph)):
            below = [p for leaf, p in zip(leaves, row, strict=True) if c in closed(graph, leaf)]
            assert mine[c] == min(sum(below), 1)


def test_a_leaf_below_two_children_of_a_root_counts_once_for_the_root():
    graph = taxonomy(5, [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4)])
    assert upward(np.array([[0.75, 0.25]]), graph).tolist() == [[1.0, 0.75, 1.0, 0.75, 0.25]]


@given(dags(), st.integers(0, 2**32 - 1))
def test_no_class_is_likelier_than_a_parent_or_than_one_not_even_by_rounding(graph, seed):
    logits = np.random.default_rng(seed).normal(scale=4, size=(20, len(graph))).astype(np.float32)
    found = consistent_probabilities(logits, graph)
    assert found.min() >= 0 and found.max() <= 1
    for parent, child in graph.edges.tolist():
        assert (found[:, child] <= found[:, parent]).all()


@settings(max_examples=60)
@given(dags(), st.integers(0, 2**32 - 1))
def test_logits_become_a_softmax_over_the_leaves_and_those_of_inner_classes_count_for_nothing(graph, seed):
    logits = np.random.default_rng(seed).normal(scale=3, size=(3, len(graph))).astype(np.float32)
    found = consistent_probabilities(logits, graph)
    leaves = leaves_of(graph)
    for z, mine in zip(logits.tolist(), found.tolist(), strict=True):
        weight = {leaf: math.exp(z[leaf]) for leaf in leaves}
        for c in range(len(graph)):
            below = sum(weight[leaf] for leaf in leaves if c in closed(graph, leaf))
            assert mine[c] == pytest.approx(below / sum(weight.values()), abs=1e-6)
    inner = sorted(set(range(len(graph))) - set(leaves))
    logits[:, inner] = np.inf  # a fault would be a NaN
    assert np.array_equal(consistent_probabilities(logits, graph), found)


def test_logits_of_thousands_overflow_nothing():
    graph = taxonomy(3, [(0, 1), (0, 2)])
    assert consistent_probabilities(np.array([[0, 5000, -5000]], np.float32), graph).tolist() == [[1, 1, 0]]


# --- the best class


@settings(max_examples=80)
@given(problems(), st.sampled_from([1, 3, 4096]))
def test_the_best_class_is_that_of_the_closed_set_of_the_highest_worth(problem, block):
    graph, probability = problem
    with patch.object(expected_f1, "BLOCK", block):
        best, value = best_class(probability, graph)
    assert value.dtype == np.float64
    for p, mine, its in zip(probability.tolist(), best.tolist(), value.tolist(), strict=True):
        values = [worth(p, closed(graph, c)) if any(p) else 0.0 for c in range(len(graph))]
        values = [each if 2 * p[c] > each else 0.0 for c, each in enumerate(values)]
        assert its == max(values)
        assert mine == values.index(its)


def test_the_best_class_is_an_inner_one_where_the_leaves_are_not_told_apart():
    graph = taxonomy(5, [(0, 1), (0, 2), (0, 3), (0, 4)])
    unsure, sure = upward(np.array([[0.25, 0.25, 0.25, 0.25], [0.0, 0.9, 0.1, 0.0]]), graph)
    best, value = best_class(np.array([unsure, sure]), graph)
    assert best.tolist() == [0, 2]
    assert value == pytest.approx([2 * 1 / (1 + 2), 2 * 1.9 / (2 + 2)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_document_without_probabilities_has_no_worth_whatever_the_type(dtype):
    graph = taxonomy(3, [(0, 1), (0, 2)])
    best, value = best_class(np.array([[0, 0, 0], [0.5, 0.5, 0]], dtype), graph)
    assert best[1] == 1 and value == pytest.approx([0, 2 / 3])


def test_no_documents_have_no_best_class():
    best, value = best_class(np.empty((0, 2), np.float32), taxonomy(2, []))
    assert best.shape == value.shape == (0,)


# --- the best set


@settings(max_examples=60)
@given(shared_out(), st.none() | st.integers(1, 5))
def test_no_other_set_that_holds_its_ancestors_is_worth_more(problem, most):
    graph, leaves = problem
    probability = upward(leaves, graph).astype(float)
    (mine,), (p,) = grown(graph, probability, most), probability.tolist()
    most = most or len(graph)
    assert mine and len(mine) <= most
    assert all(closed(graph, c) <= mine for c in mine)
    assert worth(p, mine) == pytest.approx(max(worth(p, each) for each in all_sets(graph, most)), abs=1e-9)


@settings(max_examples=60)
@given(problems(), st.none() | st.integers(1, 6))
def test_a_class_lends_its_probability_to_less_likely_ancestors(problem, most):
    graph, probability = problem
    lent = [
        [max(p[c] for c in range(len(graph)) if a in closed(graph, c)) for a in range(len(graph))] for p in probability
    ]
    assert grown(graph, probability, most) == grown(graph, np.array(lent), most)


@settings(max_examples=60)
@given(problems(), st.integers(0, 4), st.integers(0, 3))
def test_a_minimum_of_labels_is_kept_with_all_ancestors(problem, least, more):
    graph, probability = problem
    for mine in sets_of(best_sets(probability.T.copy(), graph, least, max(least + more, 1))):
        assert min(least, len(graph)) <= len(mine) <= max(least + more, 1)
        assert all(closed(graph, c) <= mine for c in mine)


def test_two_paths_that_are_both_likely_are_both_given():
    graph = taxonomy(4, [(0, 2), (1, 3)])
    assert grown(graph, np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.9, 0.1]])) == [{0, 1, 2, 3}, {0, 2}]


def test_a_document_without_probabilities_has_an_empty_set_beside_one_that_has_not():
    graph = taxonomy(3, [(0, 1)])
    assert grown(graph, np.array([[0, 0, 0], [0.5, 0.25, 0], [0, 0, 0]])) == [set(), {0}, set()]


def test_a_class_whose_ancestors_do_not_fit_the_limit_is_left_out_whole():
    # leaf 3 is below two parents: four classes
    graph = taxonomy(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    probability = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert [grown(graph, probability, most) for most in (4, 3, 2, 1)] == [[{0, 1, 2, 3}], [{0, 1, 2}], [{0, 1}], [{0}]]
    below_two_roots = taxonomy(3, [(0, 2), (1, 2)])
    assert grown(below_two_roots, np.array([[0.1, 0.1, 0.9]]), 2) == [{0, 1}]


@pytest.mark.parametrize(
    ("edges", "leaves", "most"),
    [
        # a leaf is taken while the set is small, and costs more than it is worth in the end
        ([(1, 2), (1, 3), (3, 4), (0, 5), (3, 6), (0, 7), (4, 8)], [0.26, 0.12, 0.24, 0.26, 0.12], None),
        # one root and its leaf, where two roots are worth more
        ([(0, 2), (0, 3), (1, 4), (1, 5)], [0.3, 0.2, 0.25, 0.25], 2),
    ],
    ids=["a leaf too many", "two roots rather than a path"],
)
def test_no_other_set_is_worth_more(edges, leaves, most):
    graph = taxonomy(1 + max(map(max, edges)), edges)
    p = upward(np.array([leaves]), graph).astype(float)
    (mine,) = grown(graph, p, most)
    best = max(worth(p[0].tolist(), each) for each in all_sets(graph, most or len(graph)))
    assert worth(p[0].tolist(), mine) == pytest.approx(best, abs=1e-6)


# two roots share leaf 2 and have five leaves each beside it; leaf 2 cannot be, its roots are both likely
SHARED = taxonomy(13, [(0, 2), (1, 2), *((0, c) for c in range(3, 8)), *((1, c) for c in range(8, 13))])


def test_a_class_that_cannot_be_is_no_label_for_the_sake_of_its_parents():
    probability = upward(np.array([[0.0, *[0.1] * 10]]), SHARED).astype(float)
    assert probability[0, 2] == 0
    assert 2 not in grown(SHARED, probability)[0]


def test_an_unscored_class_is_no_label_for_the_sake_of_its_parents():
    scores = np.array([[0.9, 0.9, math.nan]])
    assert decode(scores, taxonomy(3, [(0, 2), (1, 2)]), Rules(method="expected_f1")).labels.indices.tolist() == [0, 1]


def test_a_class_that_cannot_be_is_not_the_best_class():
    probability = upward(np.array([[0.0, *[0.1] * 10]]), SHARED)
    assert best_class(probability, SHARED)[0].tolist() != [2]
