"""Pass 3 against statsmodels, against regression after regression, and its invariants."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.outliers_influence import variance_inflation_factor
from threadpoolctl import threadpool_limits

from descriptors import vif
from descriptors.vif import Removal, eliminate, is_positive_semidefinite, repair, vif_values

BOTH_TIES = pytest.mark.parametrize("ties", ["quality", "column_order"])


@pytest.fixture(scope="module", autouse=True)
def _one_thread_as_in_the_pass():
    with threadpool_limits(1):
        yield


# --- data


def correlated(seed, rows=200, columns=12, noise=0.3):
    """(rows, columns): columns share half as many factors."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(rows, columns // 2))
    return factors @ rng.normal(size=(columns // 2, columns)) + noise * rng.normal(size=(rows, columns))


def correlation(table):
    return np.corrcoef(table, rowvar=False).reshape(table.shape[1], table.shape[1])


def shuffled(seed, size):
    return np.random.default_rng(seed).permutation(size)


@st.composite
def tables(draw, max_columns=7):
    """Small integers: equal VIF, duplicates, sums and more columns than rows all turn up."""
    shape = draw(st.integers(3, 12)), draw(st.integers(2, max_columns))
    table = draw(hnp.arrays(np.int64, shape, elements=st.integers(-2, 2))).astype(float)
    table = table[:, table.std(axis=0) > 0]
    assume(table.shape[1] >= 2)
    return table


# --- oracles


def statsmodels_vif(table):
    with_constant = np.column_stack([np.ones(len(table)), table])
    return np.array([variance_inflation_factor(with_constant, j + 1) for j in range(table.shape[1])])


def r_squared(table, column, explanatory):
    centred = table - table.mean(axis=0)
    y, x = centred[:, column], centred[:, explanatory]
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1 - residual @ residual / (y @ y)


def elimination_by_regression(table, threshold, rank, worst=max, best=min):
    """(column, vif, parent) of each removal: a regression per column and step, and one per omitted column."""
    live, removed = list(range(table.shape[1])), []
    while len(live) > 1:
        others = {k: [j for j in live if j != k] for k in live}
        inflation = {k: 1 / (1 - r_squared(table, k, others[k])) for k in live}
        largest = max(inflation.values())
        if largest < threshold * (1 - 1e-9):
            break
        k = worst((j for j in live if inflation[j] >= largest * (1 - 1e-9)), key=lambda j: rank[j])
        without = {j: r_squared(table, k, [i for i in others[k] if i != j]) for j in others[k]}
        parent = best((j for j in others[k] if without[j] <= min(without.values()) + 1e-9), key=lambda j: rank[j])
        removed.append((k, inflation[k], parent))
        live.remove(k)
    return removed


def elimination_by_inversion(matrix, threshold, rank):
    """The same from an inverse per step, and one per omitted column."""
    live, removed = list(range(len(matrix))), []
    while len(live) > 1:
        values = np.diag(np.linalg.inv(matrix[np.ix_(live, live)]))
        if values.max() < threshold:
            break
        k = max((j for j, v in zip(live, values, strict=True) if v >= values.max() * (1 - 1e-9)), key=lambda j: rank[j])
        others = [j for j in live if j != k]
        without = {j: _vif_without(matrix, k, [i for i in others if i != j]) for j in others}
        removed.append((k, values.max(), min(without, key=lambda j: without[j])))
        live = others
    return removed


def _vif_without(matrix, k, explanatory):
    y = matrix[explanatory, k]
    return 1 / (1 - y @ np.linalg.solve(matrix[np.ix_(explanatory, explanatory)], y))


def dependent_columns_one_at_a_time(matrix):
    """What ``ties="column_order"`` promises, with an eigendecomposition for each removal."""
    live, removed = list(range(len(matrix))), []
    while True:
        values, vectors = np.linalg.eigh(matrix[np.ix_(live, live)])
        leverage = (vectors[:, values <= 1e-10] ** 2).sum(axis=1)
        if not (leverage > 1e-8).any():
            return removed
        removed.append(live.pop(int(np.flatnonzero(leverage > 1e-8)[0])))


def rank_of(table):
    centred = (table - table.mean(axis=0)) / table.std(axis=0)
    return int(np.linalg.matrix_rank(centred, tol=1e-8))


def exact(removals):
    return [removal for removal in removals if removal.reason == "exact dependence"]


def same_removals(removals, expected, relative=1e-6):
    assert [(removal.column, removal.parent) for removal in removals] == [(k, parent) for k, _, parent in expected]
    values = [value for _, value, _ in expected]
    np.testing.assert_allclose([removal.vif for removal in removals], values, rtol=relative)


# --- VIF values


@pytest.mark.parametrize(("rows", "columns"), [(50, 2), (60, 7), (200, 30)])
def test_vif_equals_statsmodels_with_a_constant(rows, columns):
    table = correlated(rows, rows, columns) + 5.0
    np.testing.assert_allclose(vif_values(correlation(table)), statsmodels_vif(table), rtol=1e-8)


def test_vif_of_a_singular_matrix_is_an_error_not_a_large_number():
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        vif_values(np.ones((3, 3)))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[1, np.nan], [np.nan, 1]]), "undefined"),
        (np.array([[1, 0.2], [0.3, 1]]), "symmetric"),
        (np.diag([1.0, 2.0]), "diagonal"),
    ],
)
def test_what_is_no_correlation_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        vif_values(matrix)
    with pytest.raises(ValueError, match=message):
        eliminate(matrix, 10.0, np.arange(len(matrix)), "quality")


# --- elimination against regressions


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [2.0, 10.0])
def test_elimination_is_that_of_a_regression_per_column_and_step(seed, threshold):
    table, quality = correlated(seed), shuffled(seed, 12)
    expected = elimination_by_regression(table, threshold, quality)
    assert len(expected) > 1
    for ties in ("quality", "column_order"):
        survivors, removals = eliminate(correlation(table), threshold, quality, ties)
        same_removals(removals, expected)
        assert {removal.reason for removal in removals} == {"variance inflation"}
        assert survivors.tolist() == sorted(set(range(12)) - {k for k, _, _ in expected})
        assert survivors.dtype == np.int64


@settings(deadline=None, max_examples=80)
@given(tables(), st.integers(0, 99), st.sampled_from([1.5, 2.0, 5.0]))
def test_equal_vif_and_equal_explainers_are_decided_by_quality_or_by_column_order(table, seed, threshold):
    assume(rank_of(table) == table.shape[1])
    quality = shuffled(seed, table.shape[1])
    _, removals = eliminate(correlation(table), threshold, quality, "quality")
    same_removals(removals, elimination_by_regression(table, threshold, quality))
    _, removals = eliminate(correlation(table), threshold, quality, "column_order")
    position = np.arange(table.shape[1])
    same_removals(removals, elimination_by_regression(table, threshold, position, worst=min))


def test_elimination_is_that_of_a_statsmodels_loop():
    table = correlated(3, rows=150, columns=16)
    live, expected = list(range(16)), []
    while (values := statsmodels_vif(table[:, live])).max() >= 5.0:
        expected.append(live.pop(int(values.argmax())))
    survivors, removals = eliminate(correlation(table), 5.0, shuffled(0, 16), "quality")
    assert [removal.column for removal in removals] == expected
    assert survivors.tolist() == live


@BOTH_TIES
def test_more_removals_than_one_batch_holds_are_those_of_repeated_inversion(ties):
    matrix = correlation(correlated(1, rows=400, columns=100))
    quality = shuffled(1, 100)
    expected = elimination_by_inversion(matrix, 1.5, quality)
    assert len(expected) > vif.REFRESH_EVERY + 5
    same_removals(eliminate(matrix, 1.5, quality, ties)[1], expected)


def test_one_inverse_serves_many_removals(monkeypatch):
    inverses, inverse = [], vif._inverse
    monkeypatch.setattr(vif, "_inverse", lambda factor: inverses.append(1) or inverse(factor))
    removals = eliminate(correlation(correlated(1, rows=400, columns=100)), 1.5, shuffled(1, 100), "quality")[1]
    # one a batch, one that finds nothing more to remove, one of the survivors
    assert len(inverses) == math.ceil(len(removals) / vif.REFRESH_EVERY) + 2


def test_the_batch_size_changes_nothing(monkeypatch):
    matrix, quality = correlation(correlated(2, columns=40)), shuffled(2, 40)
    survivors, removals = eliminate(matrix, 3.0, quality, "quality")
    monkeypatch.setattr(vif, "REFRESH_EVERY", 1)
    survivors_fresh, removals_fresh = eliminate(matrix, 3.0, quality, "quality")
    assert survivors.tolist() == survivors_fresh.tolist()
    same_removals(removals, [(removal.column, removal.vif, removal.parent) for removal in removals_fresh], 1e-10)


def test_the_column_of_largest_vif_has_the_explainer_it_cannot_do_without_as_parent():
    rng = np.random.default_rng(0)
    major, minor, other = rng.normal(size=(3, 500))
    total = 3 * major + minor + 0.1 * rng.normal(size=500)
    _, removals = eliminate(correlation(np.column_stack([minor, other, total, major])), 10.0, np.arange(4), "quality")
    assert [(removal.column, removal.parent) for removal in removals] == [(2, 3)]


def test_of_equal_vif_the_worst_goes_or_the_first():
    equicorrelated = np.full((4, 4), 0.9) + 0.1 * np.eye(4)
    quality = np.array([2, 0, 3, 1])
    _, by_quality = eliminate(equicorrelated, 5.0, quality, "quality")
    assert [(removal.column, removal.parent) for removal in by_quality] == [(2, 1), (0, 1), (3, 1)]
    _, by_order = eliminate(equicorrelated, 5.0, quality, "column_order")
    assert [(removal.column, removal.parent) for removal in by_order] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("threshold", [2.0, 5.0, 10.0, 30.0])
def test_a_vif_that_equals_the_threshold_to_rounding_goes_and_one_just_below_stays(threshold):
    for vif_value, removed in ((threshold, 1), (threshold * (1 - 1e-6), 0)):
        r = math.sqrt(1 - 1 / vif_value)
        _, removals = eliminate(np.array([[1, r], [r, 1]]), threshold, np.arange(2), "quality")
        assert len(removals) == removed


def test_the_twin_of_a_near_duplicate_keeps_its_digits():
    """Without a fresh inverse after such a removal, the twin's VIF would be wrong in the seventh digit or so."""
    rng = np.random.default_rng(5)
    table = correlated(5, rows=500, columns=12, noise=1.0)
    table = np.hstack([table, table + 1e-4 * rng.normal(size=table.shape)])
    matrix = correlation(table)
    survivors, removals = eliminate(matrix, 1.2, np.arange(24), "quality")
    assert removals[0].vif > 1e8
    small = [removal for removal in removals if removal.vif < 100]
    assert len(small) > 3
    gone = len(removals) - len(small)
    live = [j for j in range(24) if j not in {removal.column for removal in removals[:gone]}]
    for removal in small:
        fresh = vif_values(matrix[np.ix_(live, live)])[live.index(removal.column)]
        assert removal.vif == pytest.approx(fresh, rel=1e-9)
        live.remove(removal.column)
    assert live == survivors.tolist()


# --- invariants


def assert_forest(survivors, removals, columns):
    """Every removed column leads to a survivor: a parent survives or goes later than its child."""
    gone_at = {removal.column: position for position, removal in enumerate(removals)}
    assert len(gone_at) == len(removals)
    assert sorted([*gone_at, *survivors.tolist()]) == list(range(columns))
    for removal in removals:
        assert gone_at.get(removal.parent, math.inf) > gone_at[removal.column]


@BOTH_TIES
@settings(deadline=None, max_examples=80)
@given(tables(max_columns=10), st.integers(0, 99), st.sampled_from([1.01, 2.0, 10.0]))
def test_survivors_are_below_the_threshold_and_stand_for_all_others(ties, table, seed, threshold):
    columns = table.shape[1]
    survivors, removals = eliminate(correlation(table), threshold, shuffled(seed, columns), ties)
    assert all(a < b for a, b in pairwise(survivors))
    assert_forest(survivors, removals, columns)
    if len(survivors) > 1:
        assert statsmodels_vif(table[:, survivors]).max() < threshold
    dependent = exact(removals)
    assert len(dependent) == columns - rank_of(table)
    assert removals[: len(dependent)] == dependent
    assert all(removal.vif == math.inf for removal in dependent)
    assert all(threshold * (1 - 1e-9) <= removal.vif < math.inf for removal in removals[len(dependent) :])


@settings(deadline=None, max_examples=80)
@given(tables(max_columns=10), st.integers(0, 99), st.sampled_from([1.5, 2.0, 10.0]))
def test_a_permutation_of_the_columns_gives_the_same_result_to_the_last_bit(table, seed, threshold):
    matrix, quality = correlation(table), shuffled(seed, table.shape[1])
    survivors, removals = eliminate(matrix, threshold, quality, "quality")
    order = shuffled(seed + 1, table.shape[1])
    moved = eliminate(matrix[np.ix_(order, order)], threshold, quality[order], "quality")
    assert sorted(order[moved[0]].tolist()) == survivors.tolist()
    named = [Removal(int(order[r.column]), r.vif, int(order[r.parent]), r.reason) for r in moved[1]]
    assert named == removals


def test_a_permutation_of_many_columns_gives_the_same_vif_to_the_last_bit():
    matrix, quality, order = correlation(correlated(4, 300, 200)), shuffled(4, 200), shuffled(5, 200)
    survivors, removals = eliminate(matrix, 5.0, quality, "quality")
    moved = eliminate(matrix[np.ix_(order, order)], 5.0, quality[order], "quality")
    assert sorted(order[moved[0]].tolist()) == survivors.tolist()
    assert [removal.vif for removal in moved[1]] == [removal.vif for removal in removals]


@BOTH_TIES
def test_the_input_is_left_as_it_was(ties):
    matrix, quality = correlation(correlated(6)), shuffled(6, 12)
    copies = matrix.copy(), quality.copy()
    eliminate(matrix, 2.0, quality, ties)
    assert np.array_equal(matrix, copies[0]) and np.array_equal(quality, copies[1])


# --- exact dependence


def test_of_duplicates_only_the_best_stays():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    matrix = correlation(np.column_stack([a, -a, b, 2 * a + 1]))
    survivors, removals = eliminate(matrix, 10.0, np.array([2, 0, 3, 1]), "quality")
    assert removals == [Removal(0, math.inf, 1, "exact dependence"), Removal(3, math.inf, 1, "exact dependence")]
    assert survivors.tolist() == [1, 2]
    survivors, removals = eliminate(matrix, 10.0, np.array([2, 0, 3, 1]), "column_order")
    assert removals == [Removal(0, math.inf, 3, "exact dependence"), Removal(1, math.inf, 3, "exact dependence")]
    assert survivors.tolist() == [2, 3]


@pytest.mark.parametrize("worst", range(3))
def test_of_a_sum_and_its_terms_the_worst_goes(worst):
    b, c = np.random.default_rng(1).normal(size=(2, 50))
    table = np.column_stack([3 * b + c, b, c])
    quality = np.roll([2, 0, 1], worst)
    _, removals = eliminate(correlation(table), 1000.0, quality, "quality")
    parent = {0: 1, 1: 0, 2: 0}[worst]  # the other two of b, c and their sum that correlate most: 3 b + c with b
    assert removals == [Removal(worst, math.inf, parent, "exact dependence")]


def test_exactly_dependent_columns_go_worst_first_and_before_all_others():
    table = correlated(7, rows=100, columns=6)
    table = np.hstack([table, table[:, [0]] + table[:, [1]], table[:, [2]] - 3 * table[:, [3]], 2 * table[:, [4]]])
    quality = np.array([0, 1, 2, 3, 4, 5, 7, 8, 6])
    _, removals = eliminate(correlation(table), 2.0, quality, "quality")
    assert [removal.column for removal in exact(removals)] == [7, 6, 8]
    assert removals[:3] == exact(removals)
    assert len(removals) > 3


@BOTH_TIES
@pytest.mark.parametrize("columns", [12, 90])
def test_with_more_columns_than_rows_as_many_go_as_the_rank_lacks(columns, ties):
    table = np.random.default_rng(8).normal(size=(columns // 3, columns))
    survivors, removals = eliminate(correlation(table), 1e6, shuffled(8, columns), ties)
    assert len(exact(removals)) == columns - (columns // 3 - 1) == columns - rank_of(table)
    assert_forest(survivors, removals, columns)


def test_the_screen_keeps_exactly_those_columns_that_better_ones_do_not_explain():
    table = np.random.default_rng(9).normal(size=(20, 70))
    quality = shuffled(9, 70)
    _, removals = eliminate(correlation(table), 1e6, quality, "quality")
    assert {removal.column for removal in exact(removals)} == set(np.argsort(quality)[19:].tolist())


def test_a_column_at_a_millionth_of_a_dependence_is_inflated_but_not_exactly_dependent():
    a, b, noise = np.random.default_rng(10).normal(size=(3, 200))
    for scale, reason in ((1e-4, "variance inflation"), (1e-7, "exact dependence")):
        for ties in ("quality", "column_order"):
            table = np.column_stack([a, b, a + b + scale * noise])
            _, removals = eliminate(correlation(table), 10.0, np.arange(3), ties)
            assert [removal.reason for removal in removals] == [reason]


@settings(deadline=None, max_examples=80)
@given(tables(max_columns=10))
def test_column_order_drops_the_first_dependent_column_one_at_a_time(table):
    matrix = correlation(table)
    _, removals = eliminate(matrix, 1e6, np.arange(len(matrix)), "column_order")
    assert [removal.column for removal in exact(removals)] == dependent_columns_one_at_a_time(matrix)


def test_column_order_drops_the_first_dependent_columns_of_many():
    table = correlated(11, rows=100, columns=50)
    table = np.hstack([table, table[:, :8] + table[:, 10:18], table[:, 45:], table[:, 20:25] @ np.ones((5, 1))])
    matrix = correlation(table[:, shuffled(11, 64)])
    expected = dependent_columns_one_at_a_time(matrix)
    assert len(expected) == 14 and expected != list(range(14))
    _, removals = eliminate(matrix, 1e6, np.arange(64), "column_order")
    assert [removal.column for removal in exact(removals)] == expected


def test_column_order_looks_again_for_what_a_removal_made_singular():
    """Of three near-copies, two the same, the third is 1.17e-10 from dependent; without the first, 0.87e-10."""
    r = math.sqrt(1 - 1.75e-10)
    matrix = np.array([[1, 1, r], [1, 1, r], [r, r, 1]])
    assert dependent_columns_one_at_a_time(matrix) == [0, 1]
    survivors, removals = eliminate(matrix, 10.0, np.arange(3), "column_order")
    assert [(r.column, r.parent, r.reason) for r in removals] == [(k, 2, "exact dependence") for k in (0, 1)]
    assert survivors.tolist() == [2]


@settings(deadline=None, max_examples=60)
@given(tables(max_columns=10))
def test_column_order_is_the_screen_from_the_last_column_to_the_first(table):
    """A column depends on what is left when its turn comes exactly if those after it explain it."""
    matrix = correlation(table)
    first_goes = eliminate(matrix, 1e6, np.arange(len(matrix)), "column_order")
    last_is_best = eliminate(matrix, 1e6, np.arange(len(matrix))[::-1], "quality")
    assert [r.column for r in exact(first_goes[1])] == [r.column for r in exact(last_is_best[1])]


def test_the_parent_of_a_dependent_column_is_the_kept_column_most_correlated_with_it():
    table = correlated(13, rows=80, columns=8)
    table = np.hstack([table, table @ np.random.default_rng(13).normal(size=(8, 3))])
    matrix = correlation(table)
    for ties, quality in (("quality", shuffled(13, 11)), ("column_order", np.arange(11))):
        _, removals = eliminate(matrix, 1e6, quality, ties)
        dependent = exact(removals)
        kept = sorted(set(range(11)) - {removal.column for removal in dependent})
        assert len(kept) == 8
        for removal in dependent:
            assert removal.parent == kept[int(np.abs(matrix[removal.column, kept]).argmax())]


# --- edges and errors


@BOTH_TIES
def test_no_column_and_one_column_survive_as_they_are(ties):
    for size in (0, 1):
        survivors, removals = eliminate(np.eye(size), 1.5, np.arange(size), ties)
        assert survivors.tolist() == list(range(size)) and removals == []
        assert survivors.dtype == np.int64
        assert vif_values(np.eye(size)).tolist() == [1.0] * size


@BOTH_TIES
@pytest.mark.parametrize(("r", "reasons"), [(0.5, []), (-0.99, ["variance inflation"]), (-1.0, ["exact dependence"])])
def test_two_columns_work(r, reasons, ties):
    survivors, removals = eliminate(np.array([[1, r], [r, 1]]), 10.0, np.array([1, 0]), ties)
    assert [removal.reason for removal in removals] == reasons
    assert survivors.tolist() == ([1] if reasons else [0, 1])
    assert all(removal.parent == 1 for removal in removals)


@BOTH_TIES
def test_a_threshold_close_to_one_never_takes_the_last_column(ties):
    survivors, _ = eliminate(correlation(correlated(14)), 1 + 1e-9, np.arange(12), ties)
    assert len(survivors) == 1


@BOTH_TIES
@pytest.mark.parametrize("r", [0.0, -0.9])
def test_an_indefinite_matrix_is_an_error_and_a_repaired_one_is_not(r, ties):
    matrix = np.array([[1, 1, 1], [1, 1, r], [1, r, 1]])  # 1 and 2 are duplicates of 0, but not of each other
    with pytest.raises(np.linalg.LinAlgError, match="repair"):
        eliminate(matrix, 10.0, np.arange(3), ties)
    survivors, removals = eliminate(repair(matrix)[0], 10.0, np.arange(3), ties)
    assert_forest(survivors, removals, 3)


@pytest.mark.parametrize(
    ("threshold", "quality", "ties", "message"),
    [
        (1.0, [0, 1], "quality", "threshold"),
        (math.nan, [0, 1], "quality", "threshold"),
        (10.0, [0, 0], "quality", "permutation"),
        (10.0, [0, 1, 2], "quality", "permutation"),
        (10.0, [0, 1], "file_order", "file_order"),
    ],
)
def test_an_argument_out_of_its_range_is_refused(threshold, quality, ties, message):
    with pytest.raises(ValueError, match=message):
        eliminate(np.eye(2), threshold, np.array(quality), ties)


def test_survivors_above_the_threshold_are_an_error_not_a_result(monkeypatch):
    monkeypatch.setattr(vif, "_is_below", lambda value, threshold: True)
    with pytest.raises(ArithmeticError, match="fresh inverse"):
        eliminate(correlation(correlated(15)), 2.0, np.arange(12), "quality")


# --- repair


def indefinite(seed, size=12):
    """Pairwise-complete correlations of few rows with many gaps."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(9, size))
    valid = rng.random(table.shape) > 0.3
    matrix = np.eye(size)
    for i in range(size):
        for j in range(i):
            common = valid[:, i] & valid[:, j]
            defined = common.sum() > 2
            matrix[i, j] = matrix[j, i] = np.corrcoef(table[common][:, [i, j]].T)[0, 1] if defined else np.nan
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_repair_shrinks_just_enough(seed):
    matrix = indefinite(seed)
    repaired, lam = repair(matrix)
    filled = np.nan_to_num(matrix)
    assert np.linalg.eigvalsh(filled)[0] < -0.1
    np.testing.assert_allclose(repaired, (1 - lam) * filled + lam * np.eye(12), atol=1e-15)
    assert np.linalg.eigvalsh(repaired)[0] >= 1e-8 - 1e-10
    less = lam - 1e-7
    assert np.linalg.eigvalsh((1 - less) * filled + less * np.eye(12))[0] < 1e-8 - 1e-10
    assert np.array_equal(np.diag(repaired), np.ones(12))
    assert np.array_equal(repaired, repaired.T)
    assert vif_values(repaired).min() >= 1 - 1e-9


@given(tables())
@settings(deadline=None, max_examples=50)
def test_repair_makes_any_correlation_matrix_positive_definite(table):
    repaired, lam = repair(correlation(table))
    assert 0 <= lam < 1e-7  # a true correlation matrix is at worst singular
    assert np.linalg.eigvalsh(repaired)[0] >= 1e-8 - 1e-10


def test_repair_leaves_a_positive_definite_matrix_alone():
    matrix = correlation(correlated(16))
    np.fill_diagonal(matrix, 1.0)
    repaired, lam = repair(matrix)
    assert lam == 0.0
    assert np.array_equal(repaired, matrix)
    assert repaired is not matrix


def test_repair_takes_an_undefined_pair_for_independent_and_an_undefined_column_for_itself():
    nan = math.nan
    matrix = np.array([[1, 0.5, nan], [0.5, 1, nan], [nan, nan, nan]])
    repaired, lam = repair(matrix)
    assert repaired.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert lam == 0.0
    assert np.isnan(matrix[2, 2])


def test_repair_of_no_column_is_no_column():
    repaired, lam = repair(np.empty((0, 0)))
    assert repaired.shape == (0, 0) and lam == 0.0


def test_positive_semidefinite_means_no_nan_and_no_eigenvalue_below_minus_1e_8():
    assert is_positive_semidefinite(np.empty((0, 0)))
    assert is_positive_semidefinite(np.ones((3, 3)))
    assert is_positive_semidefinite(correlation(correlated(17, rows=5)))
    assert not is_positive_semidefinite(np.array([[1, np.nan], [np.nan, 1]]))
    assert not is_positive_semidefinite(indefinite(0))
    assert is_positive_semidefinite(np.array([[1, 1 + 0.9e-8], [1 + 0.9e-8, 1]]))
    assert not is_positive_semidefinite(np.array([[1, 1 + 1.1e-8], [1 + 1.1e-8, 1]]))


def contradictory():
    """Correlations of 40 columns, pair by pair on common rows, and with missing cells at the mean."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(140, 40)) @ rng.normal(size=(40, 40)) + 2 * rng.normal(size=(140, 40))
    data[:, 20:][rng.random((140, 20)) < 0.4] = np.nan
    frame = pd.DataFrame(data)
    raw = frame.corr().to_numpy()
    assert np.linalg.eigvalsh(raw).min() < -1e-3
    return raw, frame.fillna(frame.mean()).corr().to_numpy()


def test_contradictory_correlations_end_consistent_and_below_the_threshold():
    raw, consistent = contradictory()
    survivors, removals = vif.eliminate_contradictory(raw, consistent, 4.0, np.arange(40), "quality")
    for matrix in (raw, consistent):
        part = matrix[np.ix_(survivors, survivors)]
        assert np.linalg.eigvalsh(part).min() > 0
        assert np.diag(np.linalg.inv(part)).max() < 4.0
    gone = [removal.column for removal in removals]
    assert sorted([*gone, *survivors.tolist()]) == list(range(40))
    for order, removal in enumerate(removals):
        assert removal.parent not in gone[: order + 1]


def test_while_correlations_contradict_each_other_one_column_goes_at_a_time():
    raw, consistent = contradictory()
    first, _ = eliminate(consistent, 4.0, np.arange(40), "quality")
    live, expected = first.tolist(), []
    while True:
        values = np.diag(np.linalg.inv(repair(raw[np.ix_(live, live)])[0]))
        if values.max() < 4.0:
            break
        expected.append(live.pop(int(values.argmax())))
    survivors, removals = vif.eliminate_contradictory(raw, consistent, 4.0, np.arange(40), "quality")
    assert [removal.column for removal in removals[40 - len(first) :]] == expected
    assert survivors.tolist() == live
