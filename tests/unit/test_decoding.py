"""Decoders against plain-Python versions on random taxonomies, and what all of them promise."""

from __future__ import annotations

import math
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.taxoclass_settings import Predict
from random_taxonomies import closed, dags, taxonomy
from taxoclass import decoding
from taxoclass.decoding import Decoded, Rules, full_weights, level_weights
from taxoclass.labels import Cores, Labels, Sparse

NAN = math.nan
METHODS = ["expected_f1", "path", "topk", "threshold", "topdown", "beam", "prune"]


def decode(scores, graph, method="path", weights=None, **rules) -> Decoded:
    """By the settings' defaults, but for what is given, and without a stop."""
    usual = {"k": 3, "threshold": 0.5, "width": 4, "min_labels": 1, "consistent": True}
    return decoding.decode(scores, graph, Rules(method=method, **(usual | rules)), weights)


# --- data


@st.composite
def problems(draw, documents=4, unscored=True):
    """A taxonomy with scores in exact eighths, many of them equal."""
    graph = draw(dags())
    values = st.integers(-8, 8).map(lambda eighths: eighths / 8)
    shape = st.integers(1, documents), st.just(len(graph))
    elements = values | st.just(NAN) if unscored else values
    return graph, draw(hnp.arrays(np.float32, st.tuples(*shape), elements=elements))


@st.composite
def ranked_problems(draw):
    """A taxonomy with one document whose scores are all different."""
    graph = draw(dags())
    return graph, np.array([draw(st.permutations(range(len(graph))))], dtype=np.float32)


LIMITS = st.sampled_from([(0, None), (1, None), (2, None), (3, None), (1, 1), (0, 2), (2, 2), (1, 3), (3, 4)])

# --- plain versions, for one document; scores are a list, NaN where unscored


def relatives(graph):
    parents = {row: set() for row in range(len(graph))}
    children = {row: set() for row in range(len(graph))}
    for parent, child in graph.edges.tolist():
        parents[child].add(parent)
        children[parent].add(child)
    return parents, children


def level_of(graph):
    """{class: edges on the shortest way from a root}."""
    parents, _ = relatives(graph)

    def level(c):
        return 1 + min(map(level, parents[c])) if parents[c] else 0

    return {c: level(c) for c in parents}


def chain_score(chain, score, weight=None):
    weights = [weight[c] if weight else 1 for c in chain]
    return sum(w * score[c] for w, c in zip(weights, chain, strict=True)) / sum(weights)


def scored_chains(graph, score, weight=None):
    """{chain: score} in the order of Taxonomy.chains, which breaks ties."""
    found = {chain: chain_score(chain, score, weight) for chain in graph.chains}
    return {chain: value for chain, value in found.items() if not math.isnan(value)}


def plain_path(graph, score, min_labels, max_labels, weight=None):
    found = scored_chains(graph, score, weight)
    short = [chain for chain in found if len(chain) <= (max_labels or len(graph))]
    fits = [chain for chain in short if len(chain) >= min_labels] or short
    return max(fits, key=found.get, default=None)


def plain_more(graph, score, labels, marginal, max_labels):
    """Labels and those of further chains."""
    while True:
        gain = {}
        for chain in graph.chains:
            new = [c for c in chain if c not in labels]
            if new and len(labels) + len(new) <= (max_labels or len(graph)):
                gain[chain] = sum(score[c] for c in new) / len(new)
        gain = {chain: value for chain, value in gain.items() if value > marginal}
        if not gain:
            return labels
        labels = labels | set(max(gain, key=gain.get))


def plain_topdown(graph, score, stop):
    roots = [chain[0] for chain in graph.chains if len(chain) == 1 and not math.isnan(score[chain[0]])]
    if not roots:
        return None
    chain = (max(roots, key=score.__getitem__),)
    while True:
        below = [c for c in sorted(relatives(graph)[1][chain[-1]]) if score[c] >= stop]
        if not below:
            return chain
        chain = (*chain, max(below, key=score.__getitem__))


def plain_beam(graph, score, width):
    found = scored_chains(graph, score)
    visited, beam = [], [()]
    while beam:
        open_here = [chain for chain in found if chain[:-1] in beam]
        beam = sorted(open_here, key=found.get, reverse=True)[:width]
        visited += beam
    return max((chain for chain in found if chain in visited), key=found.get, default=None)


def plain_closed(graph, score, labels):
    """Labels and the best-scored parent of each that has none among them, and so on up."""
    parents, _ = relatives(graph)
    open_labels, closed = list(labels), set()
    while open_labels:
        c = open_labels.pop()
        closed.add(c)
        if parents[c] and not parents[c] & set(labels):
            best = max(sorted(parents[c]), key=lambda p: -math.inf if math.isnan(score[p]) else score[p])
            open_labels.append(best)
    return closed


def is_consistent(graph, labels):
    parents, _ = relatives(graph)
    return all(not parents[c] or parents[c] & labels for c in labels)


def sets(labels):
    return [set(labels.indices[start:stop].tolist()) for start, stop in pairwise(labels.indptr.tolist())]


def fit_for(method, scores):
    """Scores that the method takes: probabilities for the one that adds them up."""
    return np.abs(scores) if method == "expected_f1" else scores


def chain_of(graph, decoded, document=0):
    return graph.chains[decoded.chain[document]] if decoded.chain[document] >= 0 else None


# --- label sets


def test_label_sets_are_ascending_without_repeats():
    labels = Labels.of([[3, 1, 3], [], [0]])
    assert labels.indptr.tolist() == [0, 2, 2, 3]
    assert labels.indices.tolist() == [1, 3, 0]
    assert (labels.indptr.dtype, labels.indices.dtype) == (np.int64, np.int32)
    assert labels.rows.tolist() == [0, 0, 2]
    assert labels.matrix(4).toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_label_sets_are_those_of_a_mask_of_parts_one_after_the_other_and_of_pairs_without_their_values():
    mask = np.array([[False, True, False, True], [False] * 4, [True, False, False, False]])
    found = Labels.where(mask)
    assert sets(found) == [{1, 3}, set(), {0}] and found.sizes.tolist() == [2, 0, 1]
    joined = Labels.joined([found, Labels.of([]), Labels.of([[2]])])
    assert sets(joined) == [{1, 3}, set(), {0}, {2}]
    assert (joined.indptr.dtype, joined.indices.dtype) == (np.int64, np.int32)
    assert sets(Sparse(*found, np.ones(3, np.float32)).labels) == sets(found)
    assert sets(Cores(*found, np.ones(3, np.float32), np.full(4, NAN)).labels) == sets(found)
    nothing = Sparse.empty(3)
    assert sets(nothing.labels) == [set()] * 3 and len(nothing.values) == 0
    assert [each.dtype for each in nothing] == [np.int64, np.int32, np.float32]


@given(dags(), st.data())
def test_closed_label_sets_are_those_of_the_taxonomy(graph, data):
    chosen = data.draw(st.lists(st.sets(st.integers(0, len(graph) - 1)), min_size=1, max_size=4))
    found = Labels.of(chosen).closed(graph).toarray()
    assert [set(np.flatnonzero(row).tolist()) for row in found] == [closed(graph, sorted(each)) for each in chosen]
    assert set(np.unique(found)) <= {0.0, 1.0}


# --- path


@settings(max_examples=60)
@given(problems(), LIMITS, st.none() | st.lists(st.integers(1, 4), min_size=8, max_size=8), st.sampled_from([1, 2**21]))
def test_the_path_is_the_best_of_all_chains(problem, limits, weights, cells):
    graph, scores = problem
    min_labels, max_labels = limits
    used = None if weights is None else np.array(weights[: int(graph.level.max()) + 1], dtype=float)
    weight = None if weights is None else {c: weights[level] for c, level in level_of(graph).items()}
    with patch.object(decoding, "CELLS", cells):
        found = decode(scores, graph, "path", weights=used, min_labels=min_labels, max_labels=max_labels)
    for document, score in enumerate(scores.tolist()):
        best = plain_path(graph, score, min_labels, max_labels, weight)
        assert chain_of(graph, found, document) == best
        if best is None:
            assert math.isnan(found.score[document])
        else:
            assert found.score[document] == np.float32(chain_score(best, score, weight))
            assert len(best) < min_labels or sets(found.labels)[document] == set(best)


@settings(max_examples=60)
@given(problems(), st.integers(-8, 8), st.none() | st.integers(1, 6))
def test_further_chains_are_those_with_the_best_new_classes_above_the_marginal(problem, eighths, max_labels):
    graph, scores = problem
    found = decode(scores, graph, marginal=eighths / 8, max_labels=max_labels)
    for score, mine in zip(scores.tolist(), sets(found.labels), strict=True):
        first = plain_path(graph, score, 1, max_labels)
        assert mine == (plain_more(graph, score, set(first), eighths / 8, max_labels) if first else set())


def test_the_path_may_end_at_an_inner_class():
    graph = taxonomy(3, [(0, 1), (1, 2)])
    found = decode(np.array([[0.9, 0.8, 0.1], [0.5, 0.9, 0.8], [0.2, 0.3, 0.8]]), graph)
    assert sets(found.labels) == [{0}, {0, 1, 2}, {0, 1, 2}]
    found = decode(np.array([[0.7, 0.9, 0.1]]), graph)
    assert sets(found.labels) == [{0, 1}]
    assert found.score == pytest.approx([0.8])


def test_the_path_looks_past_a_vague_root_where_the_greedy_walk_does_not():
    # the right leaf, 5, is under the root that comes second
    graph = taxonomy(6, [(0, 2), (0, 3), (1, 4), (1, 5)])
    scores = np.array([[0.5, 0.45, 0.2, 0.3, 0.2, 0.9]])
    assert sets(decode(scores, graph, "path").labels) == [{1, 5}]
    assert sets(decode(scores, graph, "topdown").labels) == [{0, 3}]


def test_a_chain_holds_one_parent_of_a_class_with_two():
    graph = taxonomy(3, [(0, 2), (1, 2)])
    found = decode(np.array([[0.3, 0.6, 0.9]]), graph)
    assert sets(found.labels) == [{1, 2}]


def test_a_second_path_is_added_and_a_third_below_the_marginal_is_not():
    graph = taxonomy(6, [(0, 3), (1, 4), (2, 5)])
    scores = np.array([[0.9, 0.6, 0.3, 0.9, 0.8, 0.4]])
    assert sets(decode(scores, graph, marginal=0.5).labels) == [{0, 1, 3, 4}]
    assert sets(decode(scores, graph, marginal=0.5, max_labels=3).labels) == [{0, 1, 3}]
    scores[0, 1] = 0.4  # now only as a whole is the second path above the marginal, and for that there is no room
    assert sets(decode(scores, graph, marginal=0.5).labels) == [{0, 1, 3, 4}]
    assert sets(decode(scores, graph, marginal=0.5, max_labels=3).labels) == [{0, 3}]


def test_a_chain_that_is_too_long_is_left_out_rather_than_cut():
    # cut to one label, the best chain would leave root 0
    graph = taxonomy(3, [(0, 2)])
    found = decode(np.array([[0.5, 0.6, 0.9]]), graph, max_labels=1)
    assert sets(found.labels) == [{1}]
    assert found.chain.tolist() == [graph.chains.index((1,))]


def test_without_a_minimum_a_document_below_the_marginal_has_no_labels():
    graph, scores = taxonomy(2, []), np.array([[0.4, 0.3], [0.4, 0.6]])
    assert sets(decode(scores, graph, marginal=0.5, min_labels=0).labels) == [set(), {1}]
    assert sets(decode(scores, graph, marginal=0.5, min_labels=1).labels) == [{0}, {1}]


def test_equal_scores_are_decided_by_row():
    graph = taxonomy(4, [(1, 2), (0, 3)])
    assert sets(decode(np.full((1, 4), 0.5), graph).labels) == [{0}]
    assert sets(decode(np.full((1, 4), 0.5), graph, "topk", k=2, consistent=False).labels) == [{0, 1}]


# --- other methods


@settings(max_examples=60)
@given(problems(), st.integers(-8, 9))
def test_the_greedy_walk_goes_to_the_best_child_until_none_reaches_the_stop(problem, eighths):
    graph, scores = problem
    found = decode(scores, graph, "topdown", stop=eighths / 8)
    expected = [plain_topdown(graph, score, eighths / 8) for score in scores.tolist()]
    assert [chain_of(graph, found, document) for document in range(len(scores))] == expected
    assert sets(found.labels) == [set(chain or ()) for chain in expected]


def test_the_greedy_walk_ignores_the_stop_up_to_the_minimum_and_ends_at_the_maximum():
    graph = taxonomy(5, [(0, 1), (1, 2), (2, 3)])
    scores = np.array([[0.9, 0.3, 0.4, 0.2, 0.8]])
    for stop, low, high, chain in [
        (0.5, 0, None, (0,)),
        (0.5, 1, None, (0,)),
        (0.5, 2, None, (0, 1)),
        (0.5, 3, 3, (0, 1, 2)),
        (0.0, 1, 2, (0, 1)),
        (0.0, 1, None, (0, 1, 2, 3)),
        (0.95, 1, None, (0,)),
        (0.95, 0, None, None),
    ]:
        found = decode(scores, graph, "topdown", stop=stop, min_labels=low, max_labels=high)
        assert chain_of(graph, found) == chain
        assert sets(found.labels) == [set(chain or ())]


@settings(max_examples=60)
@given(problems(), st.integers(1, 4))
def test_the_beam_finds_the_best_chain_that_it_visits(problem, width):
    graph, scores = problem
    found = decode(scores, graph, "beam", width=width)
    expected = [plain_beam(graph, score, width) for score in scores.tolist()]
    assert [chain_of(graph, found, document) for document in range(len(scores))] == expected


@settings(max_examples=50)
@given(problems(), LIMITS)
def test_a_beam_as_wide_as_the_taxonomy_is_the_exact_path(problem, limits):
    graph, scores = problem
    min_labels, max_labels = limits
    wide, exact = (
        decode(scores, graph, method, width=len(graph.chains), min_labels=min_labels, max_labels=max_labels)
        for method in ("beam", "path")
    )
    assert wide.chain.tolist() == exact.chain.tolist()
    assert sets(wide.labels) == sets(exact.labels)


@settings(max_examples=60)
@given(problems(), st.integers(1, 9), st.booleans())
def test_topk_gives_the_k_best_classes_and_what_they_hang_from(problem, k, consistent):
    graph, scores = problem
    found = decode(scores, graph, "topk", k=k, consistent=consistent)
    for score, mine in zip(scores.tolist(), sets(found.labels), strict=True):
        best = sorted((c for c in range(len(graph)) if not math.isnan(score[c])), key=lambda c: (-score[c], c))[:k]
        assert mine == (plain_closed(graph, score, best) if consistent else set(best))


@pytest.mark.parametrize("k", [1, 2, 30, 299, 300, 301])
def test_of_many_classes_the_k_best_are_those_of_sorting(k):
    scores = np.random.default_rng(0).permutation(np.arange(300) // 3)[None] / 64
    found = decode(scores, taxonomy(300, []), "topk", k=k)
    assert sets(found.labels) == [set(np.argsort(-scores[0], kind="stable")[:k].tolist())]


@settings(max_examples=60)
@given(problems(), st.integers(-8, 9), st.booleans())
def test_threshold_gives_the_classes_that_reach_it_and_what_they_hang_from(problem, eighths, consistent):
    graph, scores = problem
    found = decode(scores, graph, "threshold", threshold=eighths / 8, min_labels=0, consistent=consistent)
    for score, mine in zip(scores.tolist(), sets(found.labels), strict=True):
        over = {c for c in range(len(graph)) if score[c] >= eighths / 8}
        assert mine == (plain_closed(graph, score, over) if consistent else over)


@settings(max_examples=60)
@given(problems(), st.integers(-8, 9))
def test_prune_keeps_what_reaches_the_threshold_all_the_way_down(problem, eighths):
    graph, scores = problem
    found = decode(scores, graph, "prune", threshold=eighths / 8, min_labels=0)
    for score, mine in zip(scores.tolist(), sets(found.labels), strict=True):
        over = {chain for chain in graph.chains if all(score[c] >= eighths / 8 for c in chain)}
        assert mine == {chain[-1] for chain in over}


@pytest.mark.parametrize(("two_parents", "one_parent"), [(2, 3), (3, 2)])
def test_labels_get_their_own_best_parent_whatever_hangs_from_another(two_parents, one_parent):
    # the first could hang from 0, which the second needs anyway, but its better parent is 1
    graph = taxonomy(4, [(0, two_parents), (1, two_parents), (0, one_parent)])
    scores = np.array([[0.1, 0.3, 0.9, 0.9]] * 2)
    scores[1, one_parent] = 0.2
    found = decode(scores, graph, "threshold")
    assert sets(found.labels) == [{0, 1, 2, 3}, {1, two_parents}]


def test_a_threshold_of_minus_infinity_leaves_unscored_classes_out():
    found = decode(np.array([[0.5, NAN]]), taxonomy(2, []), "threshold", threshold=-np.inf)
    assert sets(found.labels) == [{0}]


# --- the highest expected Example-F1


def plain_expected_f1(graph, score, max_labels):
    """The best of all sets that hold their ancestors; a class lends its probability to less likely ancestors."""
    usable = {c for c in range(len(graph)) if not any(math.isnan(score[a]) for a in closed(graph, [c]))}
    p = {a: max(score[c] for c in usable if a in closed(graph, [c])) for a in usable}
    # of equals the less deep, then the first
    order = sorted(usable, key=lambda c: (-p[c], longest_way(graph, c), c))
    best, value = set(), 0.0
    for size in range(1, min(max_labels or len(graph), len(order)) + 1):
        worth = 2 * sum(p[c] for c in order[:size]) / (size + sum(p.values()))
        if p[order[size - 1]] > 0 and worth > value + 1e-12:
            best, value = set(order[:size]), worth
    return best


def longest_way(graph, row):
    return max((1 + longest_way(graph, parent) for parent in graph.parents[row].tolist()), default=0)


@settings(max_examples=80)
@given(problems(), st.none() | st.integers(1, 5), st.booleans())
def test_the_set_of_the_highest_expected_f1_is_the_best_number_of_likeliest_classes(problem, max_labels, consistent):
    graph, scores = problem[0], np.abs(problem[1])
    found = decode(scores, graph, "expected_f1", min_labels=0, max_labels=max_labels, consistent=consistent)
    assert sets(found.labels) == [plain_expected_f1(graph, score, max_labels) for score in scores.tolist()]


def test_the_chain_of_an_expected_f1_set_is_its_best_to_the_end_by_the_weights():
    # two paths; the roots alone would have higher means
    graph, scores = taxonomy(4, [(0, 2), (1, 3)]), np.array([[0.9, 0.8, 0.5, 0.7]])
    equal = decode(scores, graph, "expected_f1")
    assert sets(equal.labels) == [{0, 1, 2, 3}]
    assert chain_of(graph, equal) == (1, 3) and equal.score == pytest.approx([0.75])
    top_heavy = decode(scores, graph, "expected_f1", weights=np.array([1.0, 0.1]))
    assert chain_of(graph, top_heavy) == (0, 2) and top_heavy.score == pytest.approx([0.95 / 1.1])


@settings(max_examples=50)
@given(problems(), LIMITS)
def test_only_a_minimum_of_labels_makes_a_set_of_expected_f1_more_than_the_best(problem, limits):
    graph, scores = problem[0], np.abs(problem[1])
    least, most = limits
    free, bound = (decode(scores, graph, "expected_f1", min_labels=n, max_labels=most) for n in (0, least))
    for score, mine, fuller in zip(scores.tolist(), sets(free.labels), sets(bound.labels), strict=True):
        assert mine <= fuller
        if len(mine) >= least:
            assert mine == fuller
        else:
            assert len(fuller) <= least and not any(math.isnan(score[c]) for c in fuller - mine)


def test_a_set_of_expected_f1_holds_all_ancestors_also_where_a_minimum_fills_it_up():
    # 2 is below 0 and 1, and as likely as 1; 3 is below 0 alone
    for shared, root in ((1, 2), (2, 1)):
        graph = taxonomy(4, [(0, shared), (root, shared), (0, 3)])
        scores = np.array([[1.0, 0.25, 0.25, 0.75]])
        for labels in sets(decode(scores, graph, "expected_f1", min_labels=3).labels):
            assert labels == closed(graph, sorted(labels))


# --- limits


def plain_trimmed(graph, score, labels, max_labels):
    """Drop the worst label that no other hangs from, until there are few enough."""
    parents, _ = relatives(graph)
    held_by = {c: max(parents[c] & labels, key=score.__getitem__, default=None) for c in labels}
    while len(labels) > max_labels:
        labels = labels - {min(labels - {held_by[c] for c in labels}, key=score.__getitem__)}
    return labels


@settings(max_examples=60)
@given(ranked_problems(), st.integers(1, 6), st.integers(0, 8))
def test_of_too_many_labels_the_worst_that_none_hangs_from_go_first(problem, max_labels, threshold):
    graph, scores = problem
    found = decode(scores, graph, "threshold", threshold=threshold, min_labels=0, max_labels=max_labels)
    over = plain_closed(graph, scores[0].tolist(), {c for c in range(len(graph)) if scores[0, c] >= threshold})
    assert sets(found.labels) == [plain_trimmed(graph, scores[0].tolist(), over, max_labels)]


@settings(max_examples=60)
@given(ranked_problems(), st.integers(1, 6), st.integers(0, 8), st.booleans())
def test_to_too_few_labels_the_best_that_fit_are_added(problem, min_labels, threshold, consistent):
    graph, scores = problem
    parents, _ = relatives(graph)
    score = scores[0].tolist()
    limits = {"min_labels": min(min_labels, len(graph)), "consistent": consistent}
    found = decode(scores, graph, "threshold", threshold=threshold, **limits)
    labels = {c for c in range(len(graph)) if score[c] >= threshold}
    if consistent:
        labels = plain_closed(graph, score, labels)
    while len(labels) < limits["min_labels"]:
        free = {c for c in range(len(graph)) if not consistent or not parents[c] or parents[c] & labels} - labels
        labels = labels | {max(free, key=score.__getitem__)}
    assert sets(found.labels) == [labels]


@settings(max_examples=60)
@given(problems(), st.sampled_from(METHODS), LIMITS, st.booleans(), st.sampled_from([None, -0.5, 0.5]))
def test_every_method_keeps_the_limits_and_gives_consistent_sets_of_scored_classes(
    problem, method, limits, consistent, marginal
):
    graph, scores = problem[0], fit_for(method, problem[1])
    min_labels, max_labels = limits
    settings = {"marginal": marginal, "k": 2, "threshold": 0.25, "stop": 0.0, "consistent": consistent}
    found = decode(scores, graph, method, min_labels=min_labels, max_labels=max_labels, **settings)
    assert (found.labels.indptr.dtype, found.labels.indices.dtype) == (np.int64, np.int32)
    assert all((np.diff(found.labels.indices[a:b]) > 0).all() for a, b in pairwise(found.labels.indptr))
    for score, mine in zip(scores.tolist(), sets(found.labels), strict=True):
        assert len(mine) <= (max_labels or len(graph))
        reachable = {c for chain in scored_chains(graph, score) for c in chain}
        if method == "expected_f1":  # nor is a class below one that is unscored, by whichever parent
            reachable = {c for c in range(len(graph)) if not any(math.isnan(score[a]) for a in closed(graph, [c]))}
        assert len(mine) >= min(min_labels, len(reachable))
        if consistent or (method in ("expected_f1", "path", "topdown", "beam", "prune") and min_labels == 0):
            assert is_consistent(graph, mine)
        if not consistent:
            assert not any(math.isnan(score[c]) for c in mine)


@settings(max_examples=60)
@given(problems(), st.sampled_from(METHODS))
def test_the_chain_that_is_told_lies_in_the_label_set_and_has_its_score(problem, method):
    graph, scores = problem[0], fit_for(method, problem[1])
    _, children = relatives(graph)
    found = decode(scores, graph, method, threshold=0.25, stop=0.0, min_labels=0)
    for document, (score, mine) in enumerate(zip(scores.tolist(), sets(found.labels), strict=True)):
        chain = chain_of(graph, found, document)
        within = {each: value for each, value in scored_chains(graph, score).items() if set(each) <= mine}
        if method == "expected_f1":  # the score of its classes falls from level to level: others would end too early
            within = {each: value for each, value in within.items() if not children[each[-1]] & mine}
        inside = list(within.values())
        if chain is None:
            assert not inside
        else:
            assert chain in within
            assert found.score[document] == np.float32(chain_score(chain, score))
            if method != "topdown":
                assert chain_score(chain, score) == max(inside)


@settings(max_examples=50)
@given(problems(), st.sampled_from(METHODS))
def test_documents_are_decoded_one_by_one_as_together(problem, method):
    graph, scores = problem[0], fit_for(method, problem[1])
    together = decode(scores, graph, method, threshold=0.25)
    with patch.object(decoding, "CELLS", 1):
        apart = decode(scores, graph, method, threshold=0.25)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(together[1:], apart[1:], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(together.labels, apart.labels, strict=True))


@pytest.mark.parametrize("cells", [1, 2**21])
def test_progress_is_told_of_every_document(cells):
    done = []
    with patch.object(decoding, "CELLS", cells):
        decoding.decode(np.ones((5, 2)), taxonomy(2, []), Rules(method="path"), progress=done.append)
    assert sum(done) == 5 and len(done) == (5 if cells == 1 else 1)


@pytest.mark.parametrize("method", METHODS)
def test_no_documents_give_no_labels(method):
    found = decode(np.empty((0, 2)), taxonomy(2, []), method)
    assert found.labels.indptr.tolist() == [0]
    assert len(found.chain) == len(found.score) == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_document_without_scores_has_no_labels(method):
    found = decode(np.full((1, 2), NAN), taxonomy(2, [(0, 1)]), method, threshold=0.0)
    assert sets(found.labels) == [set()]
    assert found.chain.tolist() == [-1]
    assert math.isnan(found.score[0])


def test_half_precision_scores_in_a_file_are_decoded(tmp_path):
    scores = np.lib.format.open_memmap(tmp_path / "scores.npy", mode="w+", dtype=np.float16, shape=(2, 3))
    scores[:] = [[0.75, 0.5, 0.25], [0.25, 0.5, 0.875]]
    assert sets(decode(scores, taxonomy(3, [(0, 2), (1, 2)])).labels) == [{0}, {1, 2}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "decode is one of expected_f1, path, topk"),
        ({"min_labels": 3, "max_labels": 2}, "min_labels = 3 .* at most max_labels = 2"),
        ({"min_labels": -1}, "min_labels = -1 must be at least 0"),
        ({"max_labels": 0}, "max_labels = 0 must be at least 1"),
        ({"method": "topk", "k": 0}, "k = 0 must be at least 1"),
        ({"method": "beam", "width": 0}, "width = 0 must be at least 1"),
        ({"weights": np.array([1.0])}, "2 positive numbers"),
        ({"weights": np.array([1.0, 0.0])}, "2 positive numbers"),
        ({"weights": np.array([1.0, NAN])}, "2 positive numbers"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        decode(np.ones((1, 2)), taxonomy(2, [(0, 1)]), **settings)


def test_what_rules_leave_out_limits_nothing():
    graph, scores = taxonomy(4, [(0, 1), (1, 2)]), np.array([[0.5, 0.4, 0.9, NAN]])
    for method in ("topk", "threshold", "prune"):
        assert sets(decoding.decode(scores, graph, Rules(method=method)).labels) == [{0, 1, 2}]
    assert chain_of(graph, decoding.decode(scores, graph, Rules(method="topdown"))) == (0, 1, 2)
    wide, exact = (decoding.decode(scores, graph, Rules(method=method)) for method in ("beam", "path"))
    assert wide.chain == exact.chain


def test_rules_are_those_of_the_settings():
    given = {"marginal": 0.25, "min_labels": 2, "max_labels": 6, "consistent": False}
    other = {"k": 5, "threshold": 0.75, "stop": 0.125, "width": 7}
    decoders = {"decode_k": 5, "decode_threshold": 0.75, "decode_stop": 0.125, "beam_width": 7}
    assert Rules.of(Predict(decode="beam", **decoders, **given)) == Rules(method="beam", **other, **given)


def test_scores_of_another_taxonomy_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 2\), not \(1, 3\)"):
        decode(np.ones((1, 3)), taxonomy(2, []))


# --- level weights


def test_the_weight_of_a_level_is_the_square_of_how_far_its_best_class_stands_out():
    # roots stand out by 0.1 on both documents, leaves by 0.3 and 0.1
    graph = taxonomy(5, [(0, 2), (0, 3), (1, 4)])
    scores = np.array([[0.5, 0.7, 0.1, 0.1, 0.55], [0.7, 0.5, 0.3, 0.15, 0.15]])
    assert level_weights(scores, graph) == pytest.approx([0.25, 1.0])


@given(problems(unscored=False), st.sampled_from([1, 2**21]))
def test_level_weights_do_not_depend_on_scale_offset_or_blocks(problem, cells):
    graph, scores = problem
    with patch.object(decoding, "CELLS", cells):
        weights = level_weights(2 * scores + 4, graph)
    assert weights == pytest.approx(level_weights(scores, graph))
    assert weights.max() == 1
    assert weights.min() > 0


def test_unscored_classes_have_no_part_in_level_weights():
    graph = taxonomy(7, [(0, 2), (0, 3), (1, 4), (0, 5), (1, 6)])
    scores = np.array([[0.5, 0.7, 0.1, 0.1, 0.55, NAN, NAN], [0.7, 0.5, 0.3, NAN, 0.15, 0.15, NAN]])
    with_nothing = np.vstack([scores, np.full(7, NAN)])
    assert level_weights(with_nothing, graph) == pytest.approx([0.25, 1.0])


def test_a_level_that_tells_nothing_apart_keeps_a_little_weight():
    assert level_weights(np.array([[0.5, 0.1, 0.3]]), taxonomy(3, [(0, 1), (0, 2)])).tolist() == [0.001, 1.0]
    assert level_weights(np.full((1, 3), 0.5), taxonomy(3, [(0, 1), (0, 2)])).tolist() == [1.0, 1.0]


def test_weights_estimated_without_labels_find_more_leaves_below_vague_roots():
    rng = np.random.default_rng(0)
    graph = taxonomy(4 + 20, [(c % 4, 4 + c) for c in range(20)])
    leaf = rng.integers(4, 24, size=1000)
    scores = rng.normal(size=(1000, 24))
    scores[:, 4:] *= 0.7
    scores[np.arange(1000), leaf] += 2.5
    equal, estimated = (
        np.mean([int(row) in each for row, each in zip(leaf, sets(found.labels), strict=True)])
        for found in (decode(scores, graph), decode(scores, graph, weights=level_weights(scores, graph)))
    )
    assert estimated > equal + 0.03


POSITIVE = st.floats(1e-3, 1e3)


@given(dags(), st.lists(POSITIVE, min_size=1, max_size=6))
def test_given_weights_reach_down_to_the_last_level(graph, given_weights):
    found = full_weights(given_weights, graph)
    depth = max(level_of(graph).values()) + 1
    assert found.dtype == np.float64
    assert found.tolist() == [given_weights[min(level, len(given_weights) - 1)] for level in range(depth)]


@given(problems(), POSITIVE)
def test_one_weight_for_all_levels_decodes_as_equal_weights(problem, weight):
    graph, scores = problem
    one = decode(scores, graph, weights=full_weights([1], graph))
    other = decode(scores, graph, weights=None)
    assert all(np.array_equal(a, b) for a, b in zip(one.labels, other.labels, strict=True))
    assert full_weights([weight], graph).tolist() == [weight] * (max(level_of(graph).values()) + 1)


def test_whole_numbers_are_weights_and_the_list_stays_as_it_was():
    given_weights = [1, 3]
    assert full_weights(given_weights, taxonomy(4, [(0, 1), (1, 2), (2, 3)])).tolist() == [1.0, 3.0, 3.0, 3.0]
    assert given_weights == [1, 3]
