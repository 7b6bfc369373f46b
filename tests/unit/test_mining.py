"""Stage 2 against an independent plain-Python version, and the traps that the method has been seen to fall into."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.taxoclass_settings import CandidateSelection
from random_taxonomies import closed, dags, taxonomy
from taxoclass import mining
from taxoclass.decoding import Labels
from taxoclass.expected_f1 import consistent_probabilities, upward
from taxoclass.mining import (
    Growth,
    Sparse,
    competitors,
    confidence,
    path_margin,
    report,
    surest,
    unit_similarity,
)
from taxoclass.posterior import leaf_posterior

NAN = math.nan

# --- data


def tree(*branching):
    """A tree: ``branching[0]`` roots, each with ``branching[1]`` children, and so on; level after level."""
    edges, level, n = [], list(range(branching[0])), branching[0]
    for width in branching[1:]:
        below = []
        for parent in level:
            edges += [(parent, n + child) for child in range(width)]
            below += range(n, n + width)
            n += width
        level = below
    return taxonomy(n, edges)


def similarities(n_classes, low=0, documents=(1, 6), unscored=True):
    """(N, C) float32 eighths, so that sums and products are exact and equal values are common."""
    values = st.integers(8 * low, 8).map(lambda eighths: eighths / 8)
    shape = st.tuples(st.integers(*documents), st.just(n_classes))
    return hnp.arrays(np.float32, shape, elements=values | st.just(NAN) if unscored else values)


@st.composite
def problems(draw, low=0, unscored=True):
    graph = draw(dags())
    return graph, draw(similarities(len(graph), low, unscored=unscored))


GROWTH = st.fixed_dictionaries(
    {"quota_offset": st.integers(1, 3), "cap_offset": st.integers(0, 2), "power": st.sampled_from([0, 0.5, 1, 2])}
)


# --- the plain version: one document, dictionaries and lists; ``sim`` is called for each similarity that is needed


def relatives(graph):
    parents = {row: set() for row in range(len(graph))}
    children = {row: set() for row in range(len(graph))}
    for parent, child in graph.edges.tolist():
        parents[child].add(parent)
        children[parent].add(child)
    children[None] = {row for row, above in parents.items() if not above}
    return parents, children


def growth_of(quota_offset=2, cap_offset=1, power=2) -> Growth:
    """By the settings' defaults, but for what is given."""
    return Growth(quota_offset=quota_offset, cap_offset=cap_offset, power=power)


def candidates(similarity, graph, **growth):
    return mining.candidates(similarity, graph, growth_of(**growth))


def waves(similarity, graph, **growth):
    return mining.waves(similarity, graph, growth_of(**growth))


def expected_pairs(graph, seed=0, documents=64, **growth):
    return mining.expected_pairs(graph, growth_of(**growth), seed, documents)


def cores(similarity, graph, found, **rules):
    """By the settings' defaults, but for what is given."""
    usual = {"percentile": 50, "require_positive": True, "min_conf": None}
    return mining.cores(similarity, graph, found, **(usual | rules))


def plain_candidates(sim, graph, quota_offset=2, cap_offset=1, power=2):
    """{class: path score}."""
    _, children = relatives(graph)
    found, frontier, level = {}, {None: 1.0}, 0
    while frontier:
        scored = {above: {c: sim(c) for c in children[above] if not math.isnan(sim(c))} for above in frontier}
        pool = set()
        for below in scored.values():
            pool |= set(sorted(below, key=lambda c, s=below: (-s[c], c))[: level + quota_offset])
        score = {c: max(frontier[above] * sim(c) for above in frontier if c in scored[above]) for c in pool}
        best = sorted(pool, key=lambda c: (-score[c], c))
        if level:
            best = best[: math.floor((level + cap_offset) ** power)]
        frontier = {c: score[c] for c in best}
        for c, value in frontier.items():
            found[c] = max(value, found.get(c, 0.0))
        level += 1
    return found


def plain_confidence(sim, graph, c):
    parents, children = relatives(graph)
    rivals = set(parents[c])
    for above in parents[c] or {None}:
        rivals |= children[above] - {c}
    scored = [sim(rival) for rival in rivals if not math.isnan(sim(rival))]
    return sim(c) - max(scored) if scored else sim(c)


def plain_percentile(values, percentile):
    values = sorted(values)
    place = (len(values) - 1) * percentile / 100
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def plain_cores(similarity, graph, found, percentile, require_positive, min_conf):
    """[{class: confidence}, ...], {class: threshold}; ``found`` are the candidates of each document."""
    conf = [
        {c: plain_confidence(row.__getitem__, graph, c) for c in each}
        for row, each in zip(similarity.tolist(), found, strict=True)
    ]
    threshold = {}
    for c in {c for each in found for c in each}:
        threshold[c] = plain_percentile([each[c] for each in conf if c in each], percentile)
    chosen = [
        {
            c: value
            for c, value in each.items()
            if value > threshold[c] and (value > 0 or not require_positive) and (min_conf is None or value >= min_conf)
        }
        for each in conf
    ]
    return chosen, threshold


def plain_chains(graph):
    _, children = relatives(graph)
    open_chains, chains = [(root,) for root in children[None]], []
    while open_chains:
        chain = open_chains.pop()
        chains.append(chain)
        open_chains += [(*chain, child) for child in children[chain[-1]]]
    return chains


def as_dicts(indptr, indices, values):
    return [
        dict(zip(indices[start:stop].tolist(), values[start:stop].tolist(), strict=True))
        for start, stop in pairwise(indptr.tolist())
    ]


# --- candidates


@settings(max_examples=120)
@given(problems(), GROWTH, st.sampled_from([1, 5, 2**20]))
def test_candidates_and_path_scores_are_those_of_plain_python(problem, growth, pairs):
    graph, similarity = problem
    with patch.object(mining, "PAIRS", pairs):
        found = candidates(similarity, graph, **growth)
    assert as_dicts(*found) == [plain_candidates(row.__getitem__, graph, **growth) for row in similarity.tolist()]
    assert [array.dtype for array in found] == [np.int64, np.int32, np.float32]
    assert all((np.diff(found.indices[start:stop]) > 0).all() for start, stop in pairwise(found.indptr))


@pytest.mark.parametrize("seed", range(3))
def test_candidates_of_many_documents_in_a_wide_taxonomy_are_those_of_plain_python(seed):
    rng = np.random.default_rng(seed)
    wide = tree(5, 6, 7)
    extra = [(int(rng.integers(5, 35)), int(row)) for row in rng.choice(np.arange(35, 245), 20, replace=False)]
    graph = taxonomy(len(wide), sorted({*map(tuple, wide.edges.tolist()), *extra}))
    similarity = (rng.integers(0, 1025, size=(40, len(graph))) / 1024).astype(np.float32)
    with patch.object(mining, "PAIRS", 1000):
        found = as_dicts(*candidates(similarity, graph))
    assert found == [pytest.approx(plain_candidates(row.__getitem__, graph), rel=1e-7) for row in similarity.tolist()]


def test_two_roots_then_four_then_nine_classes_are_candidates():
    rng = np.random.default_rng(0)
    graph = tree(6, 10, 8)
    found = candidates(rng.random((50, len(graph)), dtype=np.float32), graph)
    levels = graph.level[found.indices].reshape(50, 15)
    assert all(np.bincount(row).tolist() == [2, 4, 9] for row in levels)


def test_a_weak_branch_survives_beside_a_strong_one():
    # without quotas the four best path scores of level 1 are all in the strong branch
    graph = tree(2, 10)
    similarity = np.concatenate(([0.9, 0.8], np.linspace(0.99, 0.9, 10), np.linspace(0.3, 0.2, 10)))
    found = candidates(similarity[None].astype(np.float32), graph)
    assert found.indices.tolist() == [0, 1, 2, 3, 4, 12]


def test_a_strong_root_carries_its_children_past_more_similar_ones():
    # by similarity alone, without path scores, the children of the weak root fill the level
    graph = tree(2, 3)
    similarity = np.array([[0.9, 0.1, 0.5, 0.4, 0.3, 0.8, 0.7, 0.6]], dtype=np.float32)
    found = candidates(similarity, graph)
    assert found.indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.values == pytest.approx([0.9, 0.1, 0.45, 0.36, 0.27, 0.08])


def test_an_unscored_class_is_no_candidate_and_one_of_similarity_zero_is():
    similarity = np.array([[0.5, NAN], [0.5, 0], [NAN, 0.5], [NAN, NAN]], dtype=np.float32)
    assert as_dicts(*candidates(similarity, tree(1, 1))) == [{0: 0.5}, {0: 0.5, 1: 0.0}, {}, {}]


def test_a_class_reached_at_two_levels_is_one_candidate_with_its_best_path_score():
    graph = taxonomy(3, [(0, 1), (0, 2), (1, 2)])
    found = candidates(np.array([[0.5, 1.0, 0.25], [0.5, 0.5, 1.0]], dtype=np.float32), graph)
    assert as_dicts(*found) == [{0: 0.5, 1: 0.5, 2: 0.125}, {0: 0.5, 1: 0.25, 2: 0.5}]


def test_a_parent_lends_its_path_score_to_a_child_that_only_another_parent_offered():
    # the child 5 is the worst of four of the good root 0, which offers three, and the only one of root 1
    graph = taxonomy(6, [(0, 2), (0, 3), (0, 4), (0, 5), (1, 5)])
    found = candidates(np.array([[1.0, 0.5, 0.5, 0.5, 0.5, 0.25]], dtype=np.float32), graph)
    assert as_dicts(*found)[0][5] == 0.25


def test_equal_similarities_are_decided_by_row():
    found = candidates(np.full((1, 4 + 4 * 5), 0.5, dtype=np.float32), tree(4, 5))
    assert found.indices.tolist() == [0, 1, 4, 5, 6, 9]


def test_no_document_has_no_candidates():
    found = candidates(np.empty((0, 3), np.float32), tree(1, 2))
    assert [array.tolist() for array in found] == [[0], [], []]


def test_negative_similarities_are_refused_because_two_refusals_would_multiply_to_a_match():
    cosine = np.array([[-0.9, 0.1, -0.9, 0.9]], dtype=np.float32)
    with pytest.raises(ValueError, match="unit_similarity"):
        candidates(cosine, taxonomy(4, [(0, 2), (1, 3)]))
    scores = candidates(unit_similarity(cosine), taxonomy(4, [(0, 2), (1, 3)])).values
    assert scores[2] == pytest.approx(0.05**2)
    assert scores[3] == pytest.approx(0.55 * 0.95)


def test_logits_are_refused():
    with pytest.raises(ValueError, match="3 is none"):
        candidates(np.array([[0.5, 3.0]], dtype=np.float32), tree(2))


def test_cosines_on_the_unit_scale_keep_type_and_order_and_stay_inside_in_spite_of_rounding():
    cosine = np.array([np.nextafter(np.float32(-1), -2), -1, -0.5, 0, 0.5, np.nextafter(np.float32(1), 2), NAN])
    unit = unit_similarity(cosine.astype(np.float32))
    assert unit.dtype == np.float32
    assert np.array_equal(unit, [0, 0, 0.25, 0.5, 0.75, 1, NAN], equal_nan=True)


@given(problems(low=-1, unscored=False), st.integers(0, 100))
def test_core_classes_on_the_unit_scale_are_those_of_the_cosines(problem, percentile):
    graph, cosine = problem
    unit = unit_similarity(cosine)
    found = candidates(unit, graph)
    mine, theirs = (cores(scale, graph, found, percentile=percentile) for scale in (unit, cosine))
    # a class without competitors has its similarity for a confidence, which is positive on one scale only
    rivalled = np.array([len(each) > 0 for each in competitors(graph)])
    pairs = [
        [(row, c) for row, c in zip(each.labels.rows.tolist(), each.indices.tolist(), strict=True) if rivalled[c]]
        for each in (mine, theirs)
    ]
    assert pairs[0] == pairs[1]


def test_growth_is_that_of_the_settings():
    given = {"candidate_selection_quota": 3, "candidate_selection_cap": 4, "candidate_selection_power": 0.5}
    assert Growth.of(CandidateSelection(**given)) == Growth(quota_offset=3, cap_offset=4, power=0.5)


@pytest.mark.parametrize("growth", [{"quota_offset": 0}, {"cap_offset": -1}, {"power": -1}])
def test_selection_that_cannot_offer_anything_is_refused(growth):
    [name] = growth
    with pytest.raises(ValueError, match=f"^{name} = {growth[name]} must be at least"):
        candidates(np.ones((1, 2), np.float32), tree(2), **growth)


def test_a_power_beyond_all_numbers_is_no_limit():
    chain, everyone = tree(1, 1, 1, 1, 1), np.ones((2, 5), np.float32)
    found = candidates(everyone, chain, power=1e4)
    assert [part.tolist() for part in found] == [part.tolist() for part in candidates(everyone, chain, power=9)]


@pytest.mark.parametrize("call", [candidates, lambda s, g: path_margin(s, g, share=1), lambda s, g: list(waves(s, g))])
def test_a_matrix_of_another_taxonomy_is_refused(call):
    with pytest.raises(ValueError, match=r"\(N, 3\), not \(1, 2\)"):
        call(np.ones((1, 2), np.float32), tree(3))


# --- confidence


@settings(max_examples=80)
@given(problems(low=-1), st.sampled_from([1, 7, 2**20]))
def test_confidence_is_that_of_plain_python(problem, pairs):
    graph, similarity = problem
    rows, classes = np.nonzero(np.ones(similarity.shape))
    with patch.object(mining, "PAIRS", pairs):
        values = confidence(similarity, graph, rows, classes)
    expected = [plain_confidence(row.__getitem__, graph, c) for row in similarity.tolist() for c in range(len(graph))]
    assert np.array_equal(values, np.array(expected, dtype=np.float32), equal_nan=True)


def test_the_siblings_of_all_parents_compete_and_grandparents_do_not():
    # 4 has the parents 1 and 2 (children of 0), the siblings 3 (under 1) and 5 (under 2)
    graph = taxonomy(6, [(0, 1), (0, 2), (1, 3), (1, 4), (2, 4), (2, 5)])
    assert competitors(graph)[4].tolist() == [1, 2, 3, 5]
    similarity = np.array([[1.0, 0.1, 0.2, 0.3, 0.9, 0.6]], dtype=np.float32)
    assert confidence(similarity, graph, np.array([0]), np.array([4])) == pytest.approx([0.3])


def test_an_unscored_competitor_does_not_compete():
    similarity = np.array([[0.25, 0.5, NAN], [NAN, 0.5, NAN]], dtype=np.float32)
    assert confidence(similarity, tree(1, 2), np.array([0, 1]), np.array([1, 1])).tolist() == [0.25, 0.5]


def test_the_confidence_of_an_only_class_is_its_similarity():
    assert confidence(np.array([[0.75]], np.float32), tree(1), np.array([0]), np.array([0])).tolist() == [0.75]


# --- core classes


@settings(max_examples=120)
@given(problems(), st.integers(0, 100), st.booleans(), st.none() | st.sampled_from([-0.125, 0.0, 0.25]))
def test_cores_and_thresholds_are_those_of_plain_python(problem, percentile, require_positive, min_conf):
    graph, similarity = problem
    found = candidates(similarity, graph)
    mine = cores(similarity, graph, found, percentile=percentile, require_positive=require_positive, min_conf=min_conf)
    chosen, threshold = plain_cores(
        similarity, graph, [list(each) for each in as_dicts(*found)], percentile, require_positive, min_conf
    )
    expected = [threshold.get(c, NAN) for c in range(len(graph))]
    assert np.allclose(mine.thresholds, expected, rtol=0, atol=1e-12, equal_nan=True)
    if percentile in (0, 50, 100):  # elsewhere the interpolation may round to either side of a confidence
        assert as_dicts(mine.indptr, mine.indices, mine.confidence) == chosen


def noisy_documents(rng, graph, n, noise):
    """Similarities of documents that are each about one chain to a leaf, and that leaf."""
    leaf = rng.choice(np.flatnonzero(graph.leaves), n)
    on = graph.ancestors.toarray()[leaf] | (np.arange(len(graph)) == leaf[:, None])
    return np.clip(0.4 + 0.2 * on + noise * rng.normal(size=on.shape), 0, 1).astype(np.float32), leaf


def test_no_document_has_two_core_classes_among_the_roots():
    # without a virtual root the roots have no siblings: each is its own confidence, and documents had 2.4 of them
    rng = np.random.default_rng(1)
    graph = tree(6, 4)
    similarity, _ = noisy_documents(rng, graph, 400, noise=0.1)
    found = cores(similarity, graph, candidates(similarity, graph))
    roots = np.bincount(found.labels.rows[graph.level[found.indices] == 0], minlength=400)
    assert roots.max() == 1
    above = similarity[:, :6] > np.median(similarity[:, :6], axis=0)
    assert above.sum(axis=1).mean() > 2.4


def test_requiring_a_positive_confidence_makes_silver_labels_more_precise():
    rng = np.random.default_rng(2)
    graph = tree(4, 5, 3)
    similarity, leaf = noisy_documents(rng, graph, 500, noise=0.12)
    gold = Labels.of(closed(graph, [row]) for row in leaf.tolist())
    found = candidates(similarity, graph)
    with_it, without = (
        report(cores(similarity, graph, found, require_positive=positive), graph, gold)["precision"]
        for positive in (True, False)
    )
    assert with_it > without + 0.1


def test_the_only_document_of_a_class_does_not_exceed_its_own_median():
    similarity = np.array([[0.9, 0.1]], dtype=np.float32)
    found = cores(similarity, tree(2), candidates(similarity, tree(2)))
    assert found.indices.tolist() == []
    assert found.thresholds == pytest.approx([0.8, -0.8])


def test_a_class_as_similar_as_its_best_sibling_is_no_core_class_and_one_at_the_floor_is():
    # confidences of class 0: -0.25, 0 and 0.25
    similarity = np.array([[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]], dtype=np.float32)
    documents = [
        found.labels.rows[found.indices == 0].tolist()
        for found in (
            cores(similarity, tree(2), candidates(similarity, tree(2)), percentile=0, **settings)
            for settings in ({}, {"require_positive": False}, {"min_conf": 0.25}, {"min_conf": 0.26})
        )
    ]
    assert documents == [[2], [1, 2], [2], []]


def test_a_class_that_is_nowhere_a_candidate_has_no_threshold():
    similarity = np.array([[0.9, 0.5, 0.1], [0.8, 0.6, 0.1]], dtype=np.float32)
    found = cores(similarity, tree(3), candidates(similarity, tree(3)))
    assert np.isnan(found.thresholds).tolist() == [False, False, True]


def test_candidates_without_a_similarity_or_of_other_documents_are_refused():
    graph, found = tree(2), candidates(np.full((1, 2), 0.5, np.float32), tree(2))
    with pytest.raises(ValueError, match="has no similarity"):
        cores(np.array([[0.5, NAN]], np.float32), graph, found)
    with pytest.raises(ValueError, match="1 documents, similarities of 2"):
        cores(np.full((2, 2), 0.5, np.float32), graph, found)


# --- the margin of the best path


def plain_margin(sim, chains):
    """Last class and gap of the best chain, None without one."""
    score = {chain: sum(sim[c] for c in chain) / len(chain) for chain in chains}
    score = {chain: value for chain, value in score.items() if not math.isnan(value)}
    if not score:
        return None
    best = max(score.values())
    outcomes = set()
    for chain in (chain for chain, value in score.items() if value == best):
        rivals = [v for other, v in score.items() if other != chain[: len(other)] and chain != other[: len(chain)]]
        outcomes.add((chain[-1], best - max(rivals) if rivals else best))
    return outcomes


@settings(max_examples=80)
@given(problems(low=-1))
def test_the_core_of_each_document_is_the_end_of_its_best_chain_with_its_gap(problem):
    graph, similarity = problem
    found = as_dicts(*path_margin(similarity, graph, share=1)[:3])
    for row, mine in zip(similarity.tolist(), found, strict=True):
        outcomes = plain_margin(row, plain_chains(graph))
        if outcomes is None:
            assert mine == {}
        else:
            ((end, gap),) = mine.items()
            assert any(end == c and gap == pytest.approx(value, abs=1e-6) for c, value in outcomes)


def test_prefix_and_extensions_of_the_best_chain_are_no_rivals():
    # best is (0, 2) with 0.7; (0,) and (0, 2, 4) come close, but the rival is (1, 3) with 0.3
    graph = taxonomy(5, [(0, 2), (2, 4), (1, 3)])
    found = path_margin(np.array([[0.65, 0.2, 0.75, 0.4, 0.65]], np.float32), graph, share=1)
    assert found.indices.tolist() == [2]
    assert found.confidence == pytest.approx([0.4])


@pytest.mark.parametrize(("share", "kept"), [(0.2, [2]), (0.4, [2, 3]), (0.5, [0, 2, 3]), (1.0, [0, 1, 2, 3, 4])])
def test_the_share_of_documents_with_the_largest_gaps_is_kept(share, kept):
    gaps = np.array([0.2, 0.1, 0.4, 0.3, 0.2])
    similarity = np.column_stack([0.5 + gaps, np.full(5, 0.5)])
    with_unscored = np.vstack([similarity, np.full((3, 2), NAN)]).astype(np.float32)
    found = path_margin(with_unscored, tree(2), share=share)
    assert np.flatnonzero(found.labels.sizes).tolist() == kept
    assert found.confidence == pytest.approx(gaps[kept])
    assert found.thresholds == pytest.approx(gaps[kept].min())


def test_documents_without_a_scored_chain_have_no_cores():
    found = path_margin(np.full((2, 2), NAN, np.float32), tree(2), share=1)
    assert found.labels.sizes.tolist() == [0, 0]
    assert np.isnan(found.thresholds).all()


@pytest.mark.parametrize("share", [0, 1.5, NAN])
def test_a_share_of_no_or_too_many_documents_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        path_margin(np.ones((1, 1), np.float32), tree(1), share=share)


def test_a_weight_on_the_lower_level_turns_the_best_chain():
    graph = taxonomy(4, [(0, 2), (1, 3)])
    similarity = np.array([[0.6, 0.2, 0.5, 0.8]], np.float32)
    ends = [path_margin(similarity, graph, share=1, weights=w).indices.tolist() for w in (None, np.array([0.1, 1.0]))]
    assert ends == [[0], [3]]


# --- the surest documents of each class


def plain_worth(p, labels):
    return 2 * sum(p[c] for c in labels) / (len(labels) + sum(p))


def plain_surest(probability, graph, share):
    """[{class: worth} of each document]."""
    by_class = {c: [] for c in range(len(graph))}
    for document, p in enumerate(probability.tolist()):
        worth = [plain_worth(p, closed(graph, [c])) if sum(p) > 0 else 0 for c in range(len(graph))]
        worth = [each if 2 * p[c] > each else 0 for c, each in enumerate(worth)]
        if max(worth) > 0:
            by_class[worth.index(max(worth))].append((-max(worth), document))
    found = [{} for _ in probability]
    for c, documents in by_class.items():
        for worth, document in sorted(documents)[: math.ceil(share * len(documents))]:
            found[document][c] = -worth
    return found


@settings(max_examples=100)
@given(problems(unscored=False), st.sampled_from([1 / 8, 0.25, 0.5, 0.75, 1]))
def test_of_each_class_the_rounded_up_share_of_its_surest_documents_is_kept(problem, share):
    graph, probability = problem
    found = surest(np.repeat(probability, 3, axis=0), graph, share=share)  # equals: the earlier document is kept
    expected = plain_surest(np.repeat(probability, 3, axis=0), graph, share)
    assert [each.keys() for each in as_dicts(*found[:3])] == [each.keys() for each in expected]
    for mine, plain in zip(as_dicts(*found[:3]), expected, strict=True):
        assert mine == pytest.approx(plain, abs=1e-6)
    for c in range(len(graph)):
        kept = [each[c] for each in expected if c in each]
        assert found.thresholds[c] == pytest.approx(min(kept)) if kept else np.isnan(found.thresholds[c])
    assert (found.indptr.dtype, found.indices.dtype, found.confidence.dtype) == (np.int64, np.int32, np.float32)


def of_leaves(graph, *rows):
    return upward(np.array(rows, np.float32), graph)


def test_a_document_that_does_not_tell_leaves_apart_has_their_parent_as_its_core():
    graph = tree(2, 4)
    found = surest(of_leaves(graph, [0.25] * 4 + [0] * 4, [0] * 5 + [0.9, 0.1, 0]), graph, share=1)
    assert found.indices.tolist() == [0, 7]


def test_a_class_of_low_confidences_keeps_its_surest_documents_beside_one_of_high_ones():
    graph = tree(4)
    sure, less = [0.9, 0.1, 0, 0], [[0.1, share, 0.4 - share / 2, 0.5 - share / 2] for share in (0.55, 0.6, 0.65)]
    found = surest(np.array([sure, *less, sure, sure], np.float32), graph, share=0.3)
    assert found.labels.sizes.tolist() == [1, 0, 0, 1, 0, 0]
    assert found.indices.tolist() == [0, 1]
    assert found.confidence[1] < found.confidence[0]
    assert found.thresholds[:2] == pytest.approx(found.confidence)
    assert np.isnan(found.thresholds[2:]).all()


@settings(max_examples=60)
@given(problems())
def test_a_document_without_a_scored_leaf_is_never_among_the_surest(problem):
    graph, scores = problem
    found = surest(upward(leaf_posterior(scores, graph), graph), graph, share=1)
    assert found.labels.sizes.tolist() == (~np.isnan(scores[:, graph.leaves])).any(axis=1).astype(int).tolist()
    leaves_below = [
        {leaf for leaf in np.flatnonzero(graph.leaves) if c in closed(graph, [leaf])} for c in range(len(graph))
    ]
    for document, c in zip(found.labels.rows, found.indices, strict=True):
        assert len(leaves_below[c]) > 1 or not np.isnan(scores[document, list(leaves_below[c])]).any()


@pytest.mark.parametrize("nothing", [0.0, NAN])
def test_documents_of_nothing_have_no_surest_class_and_no_part_in_the_shares(nothing):
    graph = tree(2)
    probability = np.array([[nothing, nothing], [0.6, 0.4], [nothing, nothing], [0.9, 0.1]], np.float32)
    found = surest(probability, graph, share=0.5)
    assert found.labels.sizes.tolist() == [0, 0, 0, 1] and found.indices.tolist() == [0]
    empty = surest(probability[[0, 2]], graph, share=1)
    assert empty.labels.sizes.tolist() == [0, 0] and np.isnan(empty.thresholds).all()
    assert surest(probability[:0], graph, share=1).indptr.tolist() == [0]


def test_all_documents_of_a_corpus_are_kept_by_a_share_of_one_in_order():
    rng = np.random.default_rng(6)
    graph = tree(3, 4, 2)
    probability = consistent_probabilities(rng.normal(scale=4, size=(200, len(graph))).astype(np.float32), graph)
    whole, half = (surest(probability, graph, share=share) for share in (1, 0.5))
    assert whole.labels.sizes.tolist() == [1] * 200
    assert 100 <= len(half.indices) <= 100 + len(graph)
    kept = np.flatnonzero(half.labels.sizes)
    assert np.array_equal(half.indices, whole.indices[kept])
    assert np.array_equal(half.confidence, whole.confidence[kept])


@pytest.mark.parametrize("share", [0, 1.5, NAN])
def test_a_share_of_no_or_too_many_documents_of_a_class_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        surest(np.ones((1, 1), np.float32), tree(1), share=share)


def test_probabilities_of_another_taxonomy_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 2\), not \(1, 3\)"):
        surest(np.ones((1, 3), np.float32), tree(2), share=1)


def test_a_class_that_cannot_be_is_never_a_core():
    # two roots, each likely by five leaves of its own, over one leaf that is not
    graph = taxonomy(13, [(0, 2), (1, 2), *((0, c) for c in range(3, 8)), *((1, c) for c in range(8, 13))])
    found = surest(of_leaves(graph, [0.0, *[0.1] * 10]), graph, share=1)
    assert found.indices.tolist() != [2]


# --- the report


def found_cores(sets, n_classes):
    labels = Labels.of(sets)
    return mining.Cores(*labels, np.ones(len(labels.indices), np.float32), np.zeros(n_classes))


def test_the_report_counts_what_was_found():
    # 0 over 2 and 3, 1 over 4; the last document has no gold labels and counts for no precision
    graph = taxonomy(5, [(0, 2), (0, 3), (1, 4)])
    chosen = found_cores([[2], [0, 4], [], [4]], 5)
    found = report(chosen, graph, Labels.of([[0, 2], [1], [0], []]))
    assert json.loads(json.dumps(found)) == {
        "documents": 4,
        "documents_with_cores": 3,
        "coverage": 0.75,
        "cores_per_document": pytest.approx(4 / 3),
        "share_by_level": {"0": 0.25, "1": 0.75},
        "classes_never_chosen": ["id-1", "id-3"],
        "precision": pytest.approx(1 / 3),
        "precision_with_ancestors": pytest.approx(3 / 5),
    }


def test_the_report_on_nothing_has_no_shares_and_without_gold_no_precision():
    found = report(found_cores([[], []], 2), tree(2))
    assert found["coverage"] == 0
    assert found["cores_per_document"] is None
    assert found["share_by_level"] == {"0": None}
    assert "precision" not in found


def test_gold_labels_of_other_documents_are_refused():
    with pytest.raises(ValueError, match="gold labels of 2"):
        report(found_cores([[0]], 1), tree(1), Labels.of([[0], [0]]))


# --- scoring from the top down


def scored_in_waves(full, graph, start=None, **growth):
    """The matrix that waves leave behind, and the pairs of each wave."""
    partial = np.full_like(full, NAN) if start is None else start
    turns = []
    for rows, classes in waves(partial, graph, **growth):
        turns.append(list(zip(rows.tolist(), classes.tolist(), strict=True)))
        partial[rows, classes] = full[rows, classes]
    return partial, turns


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


@settings(max_examples=80)
@given(problems(), GROWTH)
def test_scoring_in_waves_gives_the_candidates_and_cores_of_scoring_everything(problem, growth):
    graph, full = problem
    partial, _ = scored_in_waves(full, graph, **growth)
    everything, some = (candidates(each, graph, **growth) for each in (full, partial))
    assert same(everything, some)
    assert same(*(cores(each, graph, everything, percentile=20) for each in (full, partial)))


@settings(max_examples=80)
@given(problems(unscored=False), GROWTH)
def test_waves_ask_once_for_each_pair_that_selection_and_confidence_read_and_for_no_other(problem, growth):
    graph, full = problem
    _, turns = scored_in_waves(full, graph, **growth)
    asked = [pair for turn in turns for pair in turn]
    needed = set()
    for document, row in enumerate(full.tolist()):

        def read(c, document=document, row=row):
            needed.add((document, c))
            return row[c]

        for c in plain_candidates(read, graph, **growth):
            plain_confidence(read, graph, c)
    assert len(asked) == len(set(asked))
    assert set(asked) == needed
    assert all(turn == sorted(turn) for turn in turns)


@settings(max_examples=50)
@given(dags(), GROWTH, st.integers(0, 3))
def test_the_expected_pairs_are_those_that_plain_python_reads_of_the_same_random_similarities(graph, growth, seed):
    found = expected_pairs(graph, documents=8, seed=seed, **growth)
    asked = chosen = 0
    for row in np.random.default_rng(seed).random((8, len(graph)), dtype=np.float32).tolist():
        needed = set()

        def read(c, row=row, needed=needed):
            needed.add(c)
            return row[c]

        each = plain_candidates(read, graph, **growth)
        for c in each:
            plain_confidence(read, graph, c)
        asked, chosen = asked + len(needed), chosen + len(each)
    assert found == asked / 8
    assert max(len(graph.roots), chosen / 8) <= found <= len(graph)
    assert expected_pairs(graph, documents=8, seed=seed, **growth) == found


def test_the_expected_pairs_are_about_those_that_are_asked_for():
    # of Amazon's size: an estimate from 64 random documents, and what 300 other ones ask for
    rng = np.random.default_rng(5)
    graph = tree(6, 11, 7)
    partial, _ = scored_in_waves(rng.random((300, len(graph)), dtype=np.float32), graph)
    asked = (~np.isnan(partial)).sum() / 300
    assert abs(expected_pairs(graph) - asked) < 0.1 * asked
    assert 15 < expected_pairs(graph) < len(graph) / 4


def test_more_children_offered_are_more_pairs_expected():
    graph = tree(5, 6, 4)
    counts = [expected_pairs(graph, quota_offset=offset, cap_offset=offset, power=2) for offset in (1, 2, 5)]
    assert counts == sorted(counts) and counts[-1] > 1.5 * counts[0]
    assert expected_pairs(tree(7)) == 7  # roots alone are all asked for


def test_a_half_scored_matrix_is_continued():
    rng = np.random.default_rng(3)
    graph = tree(4, 5, 3)
    full = rng.random((10, len(graph)), dtype=np.float32)
    half = np.where(rng.random(full.shape) < 0.5, full, NAN)
    known = ~np.isnan(half)
    partial, turns = scored_in_waves(full, graph, start=half.astype(np.float32))
    assert not any(known[pair] for turn in turns for pair in turn)
    assert same(candidates(partial, graph), candidates(full, graph))


def test_a_pair_that_cannot_be_scored_does_not_stop_the_waves():
    full = np.array([[0.5, NAN, 0.5, 0.5]], dtype=np.float32)
    partial, turns = scored_in_waves(full, tree(2, 1))
    assert np.array_equal(partial, [[0.5, NAN, 0.5, NAN]], equal_nan=True)
    assert turns == [[(0, 0), (0, 1)], [(0, 2)], [(0, 1)]]


def test_an_eighth_of_the_pairs_of_a_wide_taxonomy_is_enough():
    # 6 + 66 + 462 classes, as in Amazon-531
    rng = np.random.default_rng(4)
    graph = tree(6, 11, 7)
    full = rng.random((20, len(graph)), dtype=np.float32)
    partial, _ = scored_in_waves(full, graph)
    assert (~np.isnan(partial)).mean() < 1 / 7
    assert Sparse(*candidates(partial, graph)).labels.sizes.tolist() == [15] * 20
