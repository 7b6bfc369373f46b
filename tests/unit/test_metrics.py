"""Metrics by hand in both conventions, against scikit-learn, and against plain Python where scores are equal."""

from __future__ import annotations

import json
import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, ndcg_score, precision_score, recall_score

from random_taxonomies import taxonomy
from taxoclass import metrics
from taxoclass.decoding import Labels, Rules, decode
from taxoclass.metrics import Ratio, bootstrap, evaluate

NAN = math.nan


# 0 over 2 and 3, 1 over 4 and 5
TWO_LEVELS = taxonomy(6, [(0, 2), (0, 3), (1, 4), (1, 5)])


def measured(scores, labels, gold, graph=TWO_LEVELS, **settings):
    settings = {"seed": 0, "ks": (1, 3, 5), "resamples": 0} | settings
    return evaluate(np.asarray(scores, dtype=np.float32), Labels.of(labels), Labels.of(gold), graph, **settings)


def random_case(seed, n=60, graph=TWO_LEVELS):
    """Distinct scores, label sets of any kind, and gold sets that are never empty."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n * len(graph)).reshape(n, len(graph)).astype(np.float32)
    labels, gold = (rng.random((n, len(graph))) < 0.4 for _ in range(2))
    gold[np.arange(n), rng.integers(len(graph), size=n)] = True
    return scores, labels, gold


def of_case(scores, labels, gold, **settings):
    return measured(scores, map(np.flatnonzero, labels), map(np.flatnonzero, gold), **settings)


# --- by hand


def test_one_document_by_hand_in_both_conventions():
    # order of the classes: 1, 0, 4, 2, 5, 3; true are 0 and 2, at places 2 and 4
    found = measured([[0.8, 0.9, 0.5, 0.1, 0.6, 0.3]], [[0, 2, 3]], [[0, 2]])
    assert found["strict"] == pytest.approx(
        {
            "example_f1": 2 * 2 / (3 + 2),
            "p_at_1": 0,
            "p_at_3": 1 / 2,
            "p_at_5": 2 / 2,
            "mrr": 1 / 2,
            "mrr_all": (1 / 2 + 1 / 4) / 2,
        }
    )
    # the first three are 1, 0, 4; before 0 comes 1, before 2 come 1 and 4
    assert found["compat"] == pytest.approx(
        {
            "example_f1": 2 * 1 / (3 + 2),
            "p_at_1": 0,
            "p_at_3": 1 / 3,
            "p_at_5": 2 / 5,
            "mrr": (1 / 2 + 1 / 3) / 2,
        }
    )
    assert found["ndcg_at_1"] == 0
    assert found["ndcg_at_3"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert found["ndcg_at_5"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))


def test_the_conventions_weigh_documents_of_many_and_of_few_labels_differently():
    # true: {0} at place 1; {0, 2, 3} at places 4, 5, 6
    scores = [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.3, 0.9, 0.2, 0.1, 0.8, 0.7]]
    found = measured(scores, [[0], [1]], [[0], [0, 2, 3]])
    assert found["strict"]["mrr"] == pytest.approx((1 + 1 / 4) / 2)
    assert found["strict"]["mrr_all"] == pytest.approx((1 + (1 / 4 + 1 / 5 + 1 / 6) / 3) / 2)
    assert found["compat"]["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 4 + 1 / 4) / 4)
    assert found["strict"]["p_at_3"] == pytest.approx((1 + 0) / 2)
    assert found["compat"]["p_at_3"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["strict"]["example_f1"] == pytest.approx((1 + 0) / 2)
    assert found["compat"]["example_f1"] == pytest.approx((2 / 4 + 0) / 2)


def test_perfect_scores_of_two_true_classes_reach_two_thirds_in_compat_and_one_in_strict():
    found = measured([[0.9, 0.1, 0.8, 0.2, 0.3, 0.4]], [[0, 2]], [[0, 2]])
    assert (found["strict"]["p_at_3"], found["compat"]["p_at_3"]) == (1, pytest.approx(2 / 3))
    assert (found["strict"]["example_f1"], found["compat"]["example_f1"]) == (1, pytest.approx(4 / 5))
    assert found["compat"]["mrr"] == found["strict"]["mrr"] == found["ndcg_at_3"] == 1


def test_a_tie_with_a_wrong_class_costs_a_rank_in_compat_and_is_decided_by_row_in_strict():
    found = measured([[0.5, 0.5, 0.5, 0.1, 0.1, 0.1]], [[0]], [[0, 2]])
    assert found["compat"]["mrr"] == pytest.approx(1 / 2)
    assert found["strict"]["mrr"] == 1
    assert found["strict"]["mrr_all"] == pytest.approx((1 + 1 / 3) / 2)


def test_hierarchical_precision_and_recall_compare_sets_with_all_ancestors():
    # closed: {2, 0, 4, 1} against {3, 0, 4, 1} and {5, 1} against {1}: 3 + 1 common of 4 + 2 and of 4 + 1
    found = measured(np.zeros((2, 6)), [[2, 4], [5]], [[3, 4], [1]])
    assert found["hierarchical"] == pytest.approx({"precision": 4 / 6, "recall": 4 / 5, "f1": 8 / 11})
    assert found["micro_f1"] == pytest.approx(2 * 1 / (3 + 3))


def test_both_parents_of_a_class_are_its_ancestors():
    graph = taxonomy(3, [(0, 2), (1, 2)])
    found = measured(np.zeros((1, 3)), [[0, 2]], [[2]], graph)
    assert found["hierarchical"]["f1"] == 1


def test_f1_by_level_and_coverage_by_hand():
    found = measured(np.zeros((3, 6)), [[0, 2], [0, 3], [1, 4]], [[0, 2], [1, 4], [1, 5]])
    assert found["level_f1"] == {
        "0": {"f1": pytest.approx(2 * 2 / 6), "gold_labels": 3},
        "1": {"f1": pytest.approx(2 * 1 / 6), "gold_labels": 3},
    }
    assert found["class_coverage"] == {"of_all": pytest.approx(5 / 6), "of_gold": pytest.approx(4 / 5)}
    assert found["labels_per_document"] == 2


def test_a_label_without_any_of_its_parents_makes_a_set_inconsistent():
    graph = taxonomy(4, [(0, 2), (1, 2), (2, 3)])
    labels = [[0], [0, 2], [1, 2, 3], [0, 1, 2], [2], [0, 3], []]
    found = measured(np.zeros((7, 4)), labels, [[0]] * 7, graph)
    assert found["consistency_rate"] == pytest.approx(4 / 6)


def test_decoded_paths_are_always_consistent():
    scores, _, gold = random_case(0)
    labels = decode(scores, TWO_LEVELS, Rules(method="path")).labels
    assert (
        evaluate(scores, labels, Labels.where(gold), TWO_LEVELS, seed=0, ks=[1], resamples=0)["consistency_rate"] == 1
    )


# --- documents and classes that do not count


def test_documents_without_gold_labels_are_left_out():
    scores, labels, gold = random_case(1)
    gold[::3] = False
    with_them = of_case(scores, labels, gold, resamples=20)
    without = of_case(scores[gold.any(axis=1)], labels[gold.any(axis=1)], gold[gold.any(axis=1)], resamples=20)
    assert with_them.pop("documents_without_gold") == 20
    assert without.pop("documents_without_gold") == 0
    assert with_them == without
    assert with_them["documents"] == 40


def test_unscored_classes_come_last_and_never_among_the_first():
    found = measured([[NAN, 0.5, NAN, NAN, NAN, NAN]], [[]], [[0, 1]])
    assert found["strict"]["p_at_3"] == 1 / 2
    assert found["compat"]["example_f1"] == pytest.approx(2 * 1 / (1 + 2))
    assert found["compat"]["mrr"] == pytest.approx((1 + 1 / 5) / 2)
    assert found["strict"]["mrr_all"] == pytest.approx((1 + 1 / 2) / 2)


def test_a_taxonomy_smaller_than_the_cutoffs_is_measured():
    found = measured([[0.2, 0.8]], [[1]], [[1]], taxonomy(2), ks=[1, 5])
    assert found["strict"]["p_at_5"] == found["ndcg_at_5"] == 1
    assert found["compat"]["p_at_5"] == pytest.approx(1 / 5)
    assert found["compat"]["example_f1"] == pytest.approx(2 / 3)


def test_macro_f1_leaves_out_classes_that_are_neither_predicted_nor_true():
    found = measured(np.zeros((2, 6)), [[0], [0]], [[0], [1]])
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_nothing_predicted_scores_zero_everywhere():
    found = measured(np.zeros((2, 6)), [[], []], [[0], [1]])
    assert found["strict"]["example_f1"] == found["micro_f1"] == found["macro_f1"] == 0
    assert found["hierarchical"] == {"precision": 0, "recall": 0, "f1": 0}
    assert found["consistency_rate"] == 0


def test_gold_labels_that_are_nowhere_are_refused():
    with pytest.raises(ValueError, match="no document has gold labels"):
        measured(np.zeros((1, 6)), [[0]], [[]])


@pytest.mark.parametrize(("scores", "labels", "gold"), [((2, 6), 1, 2), ((2, 6), 2, 1), ((2, 5), 2, 2)])
def test_arrays_of_other_documents_or_classes_are_refused(scores, labels, gold):
    with pytest.raises(ValueError, match="do not fit together"):
        measured(np.zeros(scores), [[0]] * labels, [[0]] * gold)


# --- scikit-learn


@pytest.mark.parametrize("seed", range(4))
def test_f1_of_every_kind_is_that_of_scikit_learn(seed):
    scores, labels, gold = random_case(seed, n=25)
    found = of_case(scores, labels, gold)
    seen = (labels | gold).any(axis=0)
    assert found["strict"]["example_f1"] == pytest.approx(f1_score(gold, labels, average="samples", zero_division=0))
    assert found["micro_f1"] == pytest.approx(f1_score(gold, labels, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(gold[:, seen], labels[:, seen], average="macro"))
    for level, columns in (("0", slice(0, 2)), ("1", slice(2, 6))):
        expected = f1_score(gold[:, columns], labels[:, columns], average="micro")
        assert found["level_f1"][level]["f1"] == pytest.approx(expected)
    above = np.eye(6, dtype=int) + TWO_LEVELS.ancestors.toarray()
    closed_gold, closed = gold @ above > 0, labels @ above > 0
    assert found["hierarchical"]["precision"] == pytest.approx(precision_score(closed_gold, closed, average="micro"))
    assert found["hierarchical"]["recall"] == pytest.approx(recall_score(closed_gold, closed, average="micro"))
    assert found["hierarchical"]["f1"] == pytest.approx(f1_score(closed_gold, closed, average="micro"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 3, 5])
def test_ndcg_is_that_of_scikit_learn(seed, k):
    scores, labels, gold = random_case(seed)
    assert of_case(scores, labels, gold)[f"ndcg_at_{k}"] == pytest.approx(ndcg_score(gold, scores, k=k))


def test_compat_f1_is_that_of_scikit_learn_on_the_three_best_classes():
    scores, labels, gold = random_case(5)
    best = np.argsort(np.argsort(-scores, axis=1), axis=1) < 3
    expected = f1_score(gold, best, average="samples")
    assert of_case(scores, labels, gold)["compat"]["example_f1"] == pytest.approx(expected)


# --- plain Python, with equal and missing scores


def plain_rankings(scores, gold, k):
    """Strict and compat P@k, strict MRR, compat MRR."""
    strict_p, compat_p, strict_rr, compat_rr = [], [], [], []
    for row, true in zip(scores, gold, strict=True):
        score = [-math.inf if math.isnan(value) else value for value in row]
        order = sorted(range(len(score)), key=lambda c, s=score: (-s[c], c))
        hits = sum(c in true and score[c] > -math.inf for c in order[:k])
        strict_p.append(hits / min(k, len(true)))
        compat_p.append(hits / k)
        strict_rr.append(max(1 / (1 + order.index(c)) for c in true))
        compat_rr += [1 / (1 + sum(score[w] >= score[c] for w in order if w not in true)) for c in true]
    return [sum(values) / len(values) for values in (strict_p, compat_p, strict_rr, compat_rr)]


@st.composite
def tied_cases(draw):
    n = draw(st.integers(1, 4))
    scores = draw(hnp.arrays(np.float32, (n, 6), elements=st.sampled_from([0.0, 0.25, 0.5, NAN])))
    return scores, [draw(st.sets(st.integers(0, 5), min_size=1)) for _ in range(n)]


@settings(max_examples=80)
@given(tied_cases(), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2**22]))
def test_rankings_with_equal_scores_are_those_of_plain_python(case, k, cells):
    scores, gold = case
    with patch.object(metrics, "CELLS", cells):
        found = measured(scores, gold, gold, ks=[k])
    strict, compat = found["strict"], found["compat"]
    mine = [strict[f"p_at_{k}"], compat[f"p_at_{k}"], strict["mrr"], compat["mrr"]]
    assert mine == pytest.approx(plain_rankings(scores.tolist(), gold, k))


# --- intervals


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    case = random_case(6)
    first, again, other = (of_case(*case, resamples=50, seed=seed)["intervals"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_intervals_lie_around_their_metrics():
    found = of_case(*random_case(7, n=200), resamples=200)
    for name, (low, high) in found["intervals"].items():
        value = found
        for part in name.split("."):
            value = value[part]
        assert low < value < high


def test_the_interval_of_a_share_is_that_of_the_binomial():
    ratio = Ratio(np.repeat([1.0, 0.0], [280, 120]), np.ones(400))
    low, high = bootstrap({"share": ratio}, seed=0, resamples=4000)["share"]
    spread = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    assert (low, high) == pytest.approx((0.7 - spread, 0.7 + spread), abs=0.006)


def test_a_ratio_is_resampled_with_its_denominator():
    # each document has the ratio 0.5, whatever its weight
    whole = np.array([1.0, 10.0, 100.0])
    low, high = bootstrap({"half": Ratio(whole / 2, whole)}, seed=0, resamples=100)["half"]
    assert (low, high) == pytest.approx((0.5, 0.5))


def test_without_resamples_there_are_no_intervals():
    assert "intervals" not in of_case(*random_case(8), resamples=0)


def test_everything_measured_is_json():
    found = of_case(*random_case(9), resamples=10)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
