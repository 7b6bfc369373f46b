from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from common.descriptors_settings import Pass2
from conftest import ArrayCodes, doubled_midranks, few_cells, store
from descriptors import common_rows, sketch, spearman
from descriptors.codes import RankCodes
from descriptors.pearson import correlation as pearson
from descriptors.variance import describe

BUDGET = 10**9


def encode(table: np.ndarray) -> dict:
    """What pass 1 makes of a (N, P) table."""
    n_rows = len(table)
    ordered = [np.sort(column[np.isfinite(column)]) for column in table.T]
    described = [describe(column, n_rows, "trimmed", (2.5, 97.5)) for column in ordered]
    missing = [np.isnan(column).tobytes() for column in table.T]
    labels = {mask: label for label, mask in enumerate(dict.fromkeys(missing))}
    return {
        "codes": ArrayCodes(np.array([doubled_midranks(column) for column in table.T])),
        "patterns": np.array([labels[mask] for mask in missing]),
        **{
            name: np.array([getattr(column, name) for column in described])
            for name in ("n_valid", "n_below_mean", "n_at_mean", "mean", "min", "max")
        },
    }


def pairwise(table: np.ndarray, min_common: int = 2, budget: int = BUDGET, threads: int = 1, **more) -> np.ndarray:
    made = encode(table)
    return spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], min_common, budget, threads=threads, **more
    ).rho


@st.composite
def tables(draw, missing: bool):
    """(N, P) tables with ties, informative missingness and few patterns."""
    seed, n_rows, n_columns = draw(st.integers(0, 2**32 - 1)), draw(st.integers(5, 60)), draw(st.integers(1, 8))
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n_rows, n_columns)) + rng.normal(size=(n_rows, 1))
    ties = rng.random(n_columns) < 0.5
    table[:, ties] = np.round(table[:, ties])
    if missing:
        masks = rng.random((n_rows, 3)) < [0.0, 0.2, 0.5]
        masks[:, 2] |= table[:, 0] > 1
        table[masks[:, rng.integers(0, 3, n_columns)]] = np.nan
    return table


@given(tables(missing=False))
def test_complete_data_give_the_coefficients_of_scipy(table):
    ours = pairwise(table)
    for i in range(table.shape[1]):
        for j in range(i):
            if np.ptp(table[:, i]) and np.ptp(table[:, j]):
                assert ours[i, j] == pytest.approx(spearmanr(table[:, i], table[:, j]).statistic, abs=1e-12)


@given(tables(missing=True), st.integers(2, 30))
def test_missing_data_give_the_coefficients_of_pandas(table, min_common):
    ours = pairwise(table, min_common)
    theirs = pd.DataFrame(table).corr("spearman", min_periods=min_common).to_numpy(copy=True)
    np.fill_diagonal(theirs, 1.0)
    # pandas gives rounding noise for a column that is constant on the common rows
    for i, j in np.argwhere(np.isnan(ours) != np.isnan(theirs)):
        both = ~np.isnan(table[:, [i, j]]).any(axis=1)
        assert min(np.ptp(table[both, i]), np.ptp(table[both, j])) == 0
        theirs[i, j] = ours[i, j]
    assert np.allclose(ours, theirs, atol=1e-12, rtol=0, equal_nan=True)


def test_edges_are_those_of_pandas_on_real_descriptors(shared_data):
    frame = pd.read_parquet(shared_data / "molecules" / "esol_descriptors.parquet").iloc[:, 6::12]
    frame = frame.replace([np.inf, -np.inf], np.nan)
    frame = frame.loc[:, (frame.notna().sum() >= 100) & (frame.nunique() > 1)]
    assert frame.isna().any().sum() > 10
    ours = pairwise(frame.to_numpy(np.float64), 100)
    theirs = frame.corr("spearman", min_periods=100).to_numpy()
    off = ~np.eye(len(theirs), dtype=bool)
    assert np.array_equal((np.abs(ours) >= 0.95) & off, (np.abs(theirs) >= 0.95) & off)


@settings(max_examples=50)
@given(tables(missing=True), st.integers(0, 2**32 - 1))
def test_row_order_tile_size_and_threads_do_not_change_a_bit(table, seed):
    reference = pairwise(table)
    shuffled = np.random.default_rng(seed).permutation(table)
    assert np.array_equal(reference, pairwise(shuffled), equal_nan=True)
    assert np.array_equal(reference, pairwise(table, budget=2000, threads=3), equal_nan=True)


def test_columns_keep_their_values_when_they_change_places():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(300, 6)) + rng.normal(size=(300, 1))
    table[rng.random(table.shape) < 0.1] = np.nan
    order = rng.permutation(6)
    assert np.array_equal(pairwise(table)[np.ix_(order, order)], pairwise(table[:, order]))


def test_monotone_transforms_change_nothing_but_the_sign():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(200, 4)) + rng.normal(size=(200, 1))
    changed = table.copy()
    changed[:, 0] = np.exp(changed[:, 0])
    changed[:, 1] = -(changed[:, 1] ** 3)
    signs = np.array([1, -1, 1, 1])
    assert np.array_equal(pairwise(table) * np.outer(signs, signs), pairwise(changed))


def test_a_duplicate_is_correlated_exactly_one():
    column = np.random.default_rng(0).normal(size=1000).round(1)
    column[::7] = np.nan
    assert pairwise(np.column_stack([column, column, -column]))[0].tolist() == [1.0, 1.0, -1.0]


def test_informative_missingness_separates_pairwise_from_global_ranks():
    # ten rows: on the common rows the two columns agree perfectly, ranks among each one's own rows do not say so
    table = np.array([[1, 1], [2, 2], [3, np.nan], [4, np.nan], [5, np.nan], [6, 3], [7, 4], [np.nan, 0.5], [9, 9.0]])
    made = encode(table)
    assert pairwise(table)[0, 1] == 1.0
    assert spearman.global_ranks(made["codes"], made["n_valid"], 2, BUDGET)[0, 1] < 0.99


@given(tables(missing=True))
def test_global_ranks_are_pearson_of_own_ranks_on_common_rows(table):
    made = encode(table)
    ours = spearman.global_ranks(made["codes"], made["n_valid"], 3, BUDGET)
    theirs = pd.DataFrame(table).rank().corr(min_periods=3).to_numpy()
    agree = np.isclose(ours, theirs, atol=1e-9) | np.isnan(ours) | np.isnan(theirs)
    assert agree.all()


@given(tables(missing=True))
def test_mean_filled_equals_ranking_the_filled_table(table):
    table = table[:, ~np.isnan(table).all(axis=0)]
    if table.shape[1] == 0:
        return
    made = encode(table)
    ours = spearman.mean_filled(made["codes"], made["n_valid"], made["n_below_mean"], made["n_at_mean"], BUDGET)
    filled = np.where(np.isnan(table), made["mean"], table)
    theirs = pd.DataFrame(filled).corr("spearman").to_numpy(copy=True)
    np.fill_diagonal(theirs, 1.0)
    assert np.allclose(ours, theirs, atol=1e-12, equal_nan=True)


@given(tables(missing=True), st.sampled_from(["mean", "pairwise"]))
def test_pearson_equals_pandas(table, missing):
    table = table[:, ~np.isnan(table).all(axis=0)] * 1e84
    if table.shape[1] == 0:
        return
    made = encode(table)
    ours = pearson(lambda: np.array_split(table.T, 3, axis=1), len(table), made, missing, 3)
    filled = np.where(np.isnan(table), made["mean"], table) if missing == "mean" else table
    theirs = pd.DataFrame(filled / 1e84).corr(min_periods=3).to_numpy()
    both = ~np.isnan(ours) & ~np.isnan(theirs) & ~np.eye(len(ours), dtype=bool)
    assert np.allclose(ours[both], theirs[both], atol=1e-9)
    shuffled = np.random.default_rng(0).permutation(table)
    again = pearson(lambda: [shuffled.T], len(table), made, missing, 3)
    assert np.array_equal(ours, again, equal_nan=True)


@pytest.mark.parametrize("missing", ["mean", "pairwise"])
def test_pearson_of_columns_far_from_nil_that_reach_far_down_keeps_its_digits(missing):
    rng = np.random.default_rng(0)
    table = np.maximum(50 - np.exp(rng.normal(size=(500, 3)) + rng.normal(size=(500, 1))), 20)
    ours = pearson(lambda: [table.T], len(table), encode(table), missing, 3)
    assert np.allclose(ours, np.corrcoef(table.T), rtol=1e-12, atol=0)


# ---- cells of several ranks


def by_pandas(table: np.ndarray, min_common: int) -> np.ndarray:
    theirs = pd.DataFrame(table).corr("spearman", min_periods=min_common).to_numpy(copy=True)
    np.fill_diagonal(theirs, 1.0)
    return theirs


@st.composite
def tables_in_cells(draw):
    """(N, P) tables of correlated columns, continuous and tied, with several patterns of missing values."""
    seed, n_rows = draw(st.integers(0, 2**32 - 1)), draw(st.integers(80, 400))
    n_columns, missing = draw(st.integers(2, 9)), draw(st.sampled_from([0.0, 0.1, 0.4]))
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n_rows, n_columns)) * rng.uniform(0.02, 1, n_columns) + rng.normal(size=(n_rows, 1))
    for column in table.T:
        kind = rng.integers(0, 5)
        if kind == 0:
            column[:] = np.round(column * 2)  # few values
        elif kind == 1:
            column[column < rng.normal()] = -3  # one large tie
        elif kind == 2:
            column[:] = -np.exp(column)
    masks = rng.random((n_rows, 4)) < [0.0, missing, missing, missing]
    masks[:, 3] |= (table[:, 0] > 0.5) & (missing > 0)  # informative
    table[masks[:, rng.integers(0, 4, n_columns)]] = np.nan
    return table


# more rows than a cell can hold: fewer may share one
MIN_COMMON = 40


def in_cells(folder, table: np.ndarray) -> tuple[RankCodes, np.ndarray, np.ndarray]:
    stored = store(folder, table)
    return stored.open(), stored.n_valid, stored.patterns


def bits(found: spearman.Correlations, left=slice(None), right=slice(None)) -> list[bytes]:
    return [matrix[left][:, right].tobytes() for matrix in (found.rho, found.angle) if matrix is not None]


@settings(max_examples=60)
@given(tables_in_cells(), st.sampled_from([16, 32, 64]))
def test_the_angle_says_how_far_cells_of_ranks_are_from_the_coefficients_of_pandas(tmp_path_factory, table, cells):
    with few_cells(cells, 4):
        codes, *more = in_cells(tmp_path_factory.getbasetemp(), table)
        assert codes.shift > 0
        found = spearman.pairwise(codes, *more, MIN_COMMON, BUDGET)
        apart = spearman.pairwise(codes.told_apart(), *more, MIN_COMMON, BUDGET)
    theirs = by_pandas(table, MIN_COMMON)
    known = ~np.isnan(theirs) & ~np.isnan(apart.rho)
    assert np.allclose(apart.rho[known], theirs[known], atol=1e-12, rtol=0) and apart.angle is None
    known &= ~np.isnan(found.rho)
    off = np.abs(np.arccos(found.rho) - np.arccos(np.clip(theirs, -1, 1)))
    assert (off[known] <= found.angle[known] + 1e-7).all()  # an arc cosine near 0 has 8 digits
    assert np.array_equal(np.isnan(found.rho), np.isnan(apart.rho))
    assert np.array_equal(found.rho, found.rho.T, equal_nan=True) and np.array_equal(found.angle, found.angle.T)
    assert found.largest_angle == found.angle.max() and apart.largest_angle == 0


def doubled(column: np.ndarray) -> np.ndarray:
    """Twice the mid-ranks less their mean."""
    return 2 * rankdata(column) - (len(column) + 1)


@given(st.integers(0, 2**32 - 1), st.integers(40, 300), st.floats(0, 1), st.sampled_from([2, 10, 10**6]))
def test_a_score_is_off_its_rank_by_no_more_than_the_angle_reckons_with(tmp_path_factory, seed, n_rows, share, values):
    # all columns of a table at once hardly ever come near it, so that an angle too small would not be seen
    rng = np.random.default_rng(seed)
    column = np.round(rng.normal(size=n_rows) * values) if share < 0.5 else rng.normal(size=n_rows)
    with few_cells(16, 4):
        codes, *_ = in_cells(tmp_path_factory.getbasetemp(), column[:, None])
    if not codes.split[0]:
        return
    step = 1 << codes.shift
    told = np.zeros((1, 3), np.int64)
    (centred,) = next(spearman.centred(codes, np.array([0]), np.array([n_rows]), [0], n_rows, n_rows, told))
    assert np.abs(centred * step - doubled(column)).max() <= (0.5 + spearman.MIDDLE) * step
    rows = np.flatnonzero(rng.random(n_rows) < share)
    if len(rows):
        regrouped = doubled(codes.cells(0, 0, n_rows)[rows])
        assert np.abs(regrouped - doubled(column[rows])).max() <= spearman.REGROUPED * step


def test_the_rank_of_a_cell_may_be_nearly_a_step_off(tmp_path):
    # one value and 13 equal ones in each cell: the angle has to reckon with more than half a step
    column = np.repeat(np.arange(24.0), [1, 13, 1, 1] * 6)
    with few_cells(16, 4):
        codes, *_ = in_cells(tmp_path, column[:, None])
    assert codes.split[0] and codes.shift == 4
    off = np.abs(doubled(codes.cells(0, 0, 96)) - doubled(column)).max() / 16
    assert 0.75 < off <= spearman.REGROUPED


@settings(max_examples=50)
@given(tables_in_cells(), st.integers(0, 10**6), st.sampled_from([1e-9, -1e-9]), st.booleans())
def test_pairs_near_the_threshold_are_settled_where_pandas_has_them(tmp_path_factory, table, pair, step, halves):
    theirs = by_pandas(table, MIN_COMMON)
    i, j = np.triu_indices(len(theirs), 1)
    defined = np.abs(theirs[i, j])[~np.isnan(theirs[i, j])]
    if not len(defined):
        return
    threshold = float(np.clip(defined[pair % len(defined)] + step, 1e-3, 1))
    everything = np.arange(len(theirs))
    left, right = (everything[::2], everything[1::2]) if halves else (everything, everything)
    with few_cells(16, 4):
        codes, *more = in_cells(tmp_path_factory.getbasetemp(), table)
        found = spearman.pairwise(codes, *more, MIN_COMMON, BUDGET, left=left, right=right)
        apart = codes.told_apart()
        rho, count = spearman.settle(found, apart, *more, MIN_COMMON, BUDGET, threshold, left, right)
    theirs = theirs[np.ix_(left, right)]
    defined = ~np.isnan(rho) & ~np.isnan(theirs)
    assert np.array_equal(np.abs(rho[defined]) >= threshold, np.abs(theirs[defined]) >= threshold)
    settled = rho != found.rho
    settled &= ~np.isnan(rho)
    assert np.allclose(rho[settled], theirs[settled], atol=1e-12, rtol=0)
    assert settled.sum() <= count * (1 if halves else 2)


def test_only_pairs_that_may_lie_on_either_side_are_settled(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2000, 1)) + rng.normal(size=(2000, 5)) * [0.1, 0.1, 0.1, 3, 30]
    everything = np.arange(5)
    with few_cells(512, 4):
        codes, *more = in_cells(tmp_path, table)
        found = spearman.pairwise(codes, *more, 2, BUDGET)
        given = (found, codes.told_apart(), *more, 2, BUDGET)
        assert spearman.settle(*given, 0.7, everything, everything)[1] == 0
        assert spearman.settle(*given, float(found.rho[0, 1]), everything, everything)[1] >= 1
        exact = spearman.pairwise(codes.told_apart(), *more, 2, BUDGET)
        same, none = spearman.settle(exact, codes.told_apart(), *more, 2, BUDGET, 0.7, everything, everything)
    assert none == 0 and np.array_equal(same, exact.rho) and same is not exact.rho


@pytest.mark.parametrize("rows", [2, 5, 15])
def test_a_pair_whose_common_rows_share_a_cell_is_not_taken_for_undefined(tmp_path, rows):
    # a column that has values only where another one is lowest: one cell of ranks, but not one value
    table = np.random.default_rng(0).normal(size=(300, 2))
    lowest = np.argsort(table[:, 0])[:rows]
    table[np.setdiff1d(np.arange(300), lowest), 1] = np.nan
    everything = np.arange(2)
    with few_cells(16, 1):
        codes, *more = in_cells(tmp_path, table)
        found = spearman.pairwise(codes, *more, 2, BUDGET)
        exact = spearman.pairwise(codes.told_apart(), *more, 2, BUDGET).rho[0, 1]
        threshold = abs(exact) - 1e-9
        rho, _ = spearman.settle(found, codes.told_apart(), *more, 2, BUDGET, threshold, everything, everything)
    assert exact == pytest.approx(by_pandas(table, 2)[0, 1], abs=1e-12)
    assert np.abs(rho[0, 1]) >= threshold


@settings(max_examples=60)
@given(tables_in_cells(), st.integers(0, 2**32 - 1), st.booleans())
def test_rectangles_have_the_bytes_of_the_whole(tmp_path_factory, table, seed, cut):
    rng = np.random.default_rng(seed)
    order = rng.permutation(table.shape[1])
    left, right = np.split(order, [rng.integers(0, len(order) + 1)])
    with few_cells(32, 4, 10 if cut else 10_000):
        codes, *more = in_cells(tmp_path_factory.getbasetemp(), table)
        whole = spearman.pairwise(codes, *more, 20, BUDGET)
        for one, other in ((left, right), (left, left), (right, right)):
            if len(one) and len(other):
                part = spearman.pairwise(codes, *more, 20, BUDGET, left=one, right=other)
                assert bits(part) == bits(whole, one, other)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (3, 0)])
def test_a_rectangle_may_be_empty(left, right):
    # where there are more shards than columns
    made = encode(np.random.default_rng(0).normal(size=(50, 6)))
    found = spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], 2, BUDGET, left=np.arange(left), right=np.arange(3, 3 + right)
    )
    assert found.rho.shape == (left, right)


@settings(max_examples=40)
@given(tables_in_cells(), st.sampled_from([1, 3000, 20_000]), st.integers(1, 4), st.booleans())
def test_neither_small_tiles_nor_threads_change_a_byte(tmp_path_factory, table, budget, threads, cut):
    with few_cells(32, 4, 10 if cut else 10_000):
        codes, *more = in_cells(tmp_path_factory.getbasetemp(), table)
        reference = spearman.pairwise(codes, *more, 20, BUDGET)
        again = spearman.pairwise(codes, *more, 20, budget, threads=threads)
        assert bits(again) == bits(reference)


@pytest.mark.parametrize("budget", [3000, 10**5, 10**7])
def test_many_patterns_and_columns_a_pattern_change_no_byte_in_any_tiles(tmp_path, monkeypatch, budget):
    # patterns of one column and of many: pairs one by one and as matrices, both in several parts
    rng = np.random.default_rng(1)
    table = rng.normal(size=(2500, 22)) + rng.normal(size=(2500, 1))
    masks = rng.random((2500, 8)) < np.linspace(0, 0.9, 8)
    masks[:, 3] = masks[:, 0]
    table[masks[:, np.minimum(np.arange(22), 7)]] = np.nan
    with few_cells(256, 4):
        codes, *more = in_cells(tmp_path, table)
        reference = bits(spearman.pairwise(codes, *more, 100, BUDGET))
        monkeypatch.setattr(common_rows, "PART", 5)
        monkeypatch.setattr(common_rows, "PAIRS", 3)
        found = spearman.pairwise(codes, *more, 100, budget, threads=2)
        assert bits(found) == reference
        apart = spearman.pairwise(codes.told_apart(), *more, 100, budget, threads=2)
    theirs = by_pandas(table, 100)
    assert np.allclose(apart.rho, theirs, atol=1e-12, rtol=0, equal_nan=True)
    assert (np.abs(np.arccos(found.rho) - np.arccos(theirs)) <= found.angle + 1e-8)[~np.isnan(theirs)].all()


def test_pairs_ranked_one_by_one_change_no_byte_and_stay_within_the_angle(tmp_path, monkeypatch):
    # the same cells, in each of them the other way round; gaps of their own; columns wide enough for bits
    x = np.arange(400.0)
    y = x.reshape(-1, 8)[:, ::-1].ravel()
    table = np.column_stack([x, y])
    table[0, 0], table[1, 1] = np.nan, np.nan
    monkeypatch.setattr("descriptors.pair_kernels.WIDE", 10)
    with few_cells(64, 4):
        codes, *more = in_cells(tmp_path, table)
        assert codes.shift == 4 and codes.split.all()
        found, small = (spearman.pairwise(codes, *more, 100, budget) for budget in (BUDGET, 3000))
    assert bits(found) == bits(small)
    off = abs(np.arccos(found.rho[0, 1]) - np.arccos(by_pandas(table, 100)[0, 1]))
    assert off <= found.angle[0, 1]


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "gaps"])
def test_70_000_rows_with_a_fine_plane_have_the_coefficients_of_pandas(tmp_path, monkeypatch, missing):
    rng = np.random.default_rng(7)
    n_rows = 70_000
    table = rng.normal(size=(n_rows, 7)) * [0.05, 0.1, 1, 1, 1, 0.2, 0.1] + rng.normal(size=(n_rows, 1))
    table[:, 3] = np.round(table[:, 3])
    table[:, 4] = np.maximum(table[:, 4], 1.5)
    if missing:
        table[rng.random(n_rows) < 0.01, 1] = np.nan
        table[table[:, 2] > 1, 2] = np.nan
        table[rng.random(n_rows) < 0.05, 5:] = np.nan
    theirs = by_pandas(table, 100)
    threshold = float(theirs[0, 1]) - 1e-9
    everything = np.arange(7)
    stored = store(tmp_path, table)
    more = stored.n_valid, stored.patterns, 100, 10**7
    whole = spearman.pairwise(stored.open(), *more)
    assert np.allclose(whole.rho, theirs, atol=1e-12, rtol=0) and whole.angle is None
    monkeypatch.setattr("descriptors.codes.EXACT_ROWS", 1000)
    codes = stored.open()
    assert codes.shift == 2 and codes.split.any()
    found = spearman.pairwise(codes, *more, threads=2)
    assert (np.abs(np.arccos(found.rho) - np.arccos(theirs)) <= found.angle + 1e-8).all()
    assert 0 < found.largest_angle < 1e-3
    rho, count = spearman.settle(found, codes.told_apart(), *more, threshold, everything, everything)
    assert np.array_equal(np.abs(rho) >= threshold, np.abs(theirs) >= threshold) and count >= 1
    if not missing:
        assert count < 5


def test_memory_changes_no_byte_of_a_pair_that_is_settled_in_a_large_table():
    # squares of 400,000 ranks add up to more than float64 holds exactly
    rng = np.random.default_rng(0)
    codes = ArrayCodes(np.array([2 * rng.permutation(400_000) + 2 for _ in range(2)], np.uint32))
    given = codes, np.full(2, 400_000), np.zeros(2, int), 100
    found = [
        spearman.pairwise(*given, budget, left=np.array([0]), right=np.array([1])).rho[0, 0]
        for budget in (10**5, 10**6, 10**7, 10**8)
    ]
    assert len(set(found)) == 1
    assert spearman.pairwise(*given, 10**8).rho[0, 1] == found[0]


class WatchedCodes(ArrayCodes):
    def __init__(self, codes: np.ndarray) -> None:
        super().__init__(codes)
        self.rows: list[int] = []

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        self.rows.append(stop - start)
        return super().read(columns, start, stop)


@pytest.mark.parametrize(
    ("columns", "budget", "threads", "workers", "rows"),
    [
        (4, 1, 4, 1, 1024),  # no fewer rows than that
        (4, 8 * 16 * 2000, 1, 1, 2000),  # an eighth of the budget is for the codes that are read, 16 bytes a row
        (4, 8 * 3 * 16 * 2000, 3, 3, 2000),
        (64, 4 * 2 * 24 * 64**2, 5, 2, 1024),  # and a quarter for matrices of sums, one a worker
        (4, BUDGET, 4, 4, 100_000 // 16 + 1024),  # or some worker would have no block
    ],
)
def test_as_many_workers_as_have_room_read_an_eighth_of_the_budget_at_once(
    monkeypatch, columns, budget, threads, workers, rows
):
    pools, limits = [], []
    pool, limited = spearman.ThreadPoolExecutor, spearman.threadpool_limits
    monkeypatch.setattr(spearman, "ThreadPoolExecutor", lambda n: pools.append(n) or pool(n))
    monkeypatch.setattr(spearman, "threadpool_limits", lambda n, **more: limits.append(n) or limited(n, **more))
    codes, everything = WatchedCodes(np.ones((columns, 100_000), np.uint32)), np.arange(columns)
    spearman.centred_gram(codes, everything, everything, np.full(columns, 100_000), 100_000, budget, threads)
    assert (pools, limits, max(codes.rows)) == ([workers], [threads // workers], rows)


@pytest.mark.parametrize(("budget", "rows"), [(1, 64), (4 * 32 * 4 * 500, 500), (BUDGET, 2000)])
def test_blocks_of_four_columns_are_of_so_many_rows_that_float64_copies_fit(budget, rows):
    codes = ArrayCodes(np.ones((4, 2000), np.uint32))
    assert next(spearman.blocks(codes, np.arange(4), budget)).shape == (4, rows)


def test_progress_is_told_up_to_the_end():
    table = np.random.default_rng(0).normal(size=(50, 6))
    table[::3, :2] = np.nan
    table[::4, 2] = np.nan
    made, told = encode(table), []
    spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], 2, 2000, progress=lambda *each: told.append(each)
    )
    done = [each for each, _ in told]
    assert done == sorted(done) and {total for _, total in told} == {done[-1]}


@pytest.mark.parametrize("patterns", [6, 2])
def test_progress_of_columns_with_gaps_is_told_inside_of_a_tile(patterns):
    rng = np.random.default_rng(0)
    table, gaps = rng.normal(size=(20_000, 24)), rng.random((20_000, patterns)) < 0.1
    table[np.tile(gaps, 24 // patterns)] = np.nan
    made, told = encode(table), []
    spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], 2, 10**7, 2, progress=lambda *each: told.append(each)
    )
    done = [each for each, _ in told]
    assert done == sorted(done) and len(set(done)) > 2 * patterns and {total for _, total in told} == {done[-1]}


def test_progress_of_pairs_one_by_one_is_told_in_even_steps():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2000, 16))
    table[rng.random(table.shape) < 0.1] = np.nan  # 120 pairs of columns, each with a pattern of its own
    made, told = encode(table), []
    spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], 2, BUDGET, 2, progress=lambda *each: told.append(each)
    )
    done, total = [each for each, _ in told], told[-1][1]
    assert done == sorted(done) and done[-1] == total and max(np.diff([0, *done])) <= total / 5


def test_progress_of_complete_columns_is_told_block_by_block():
    made, told = encode(np.random.default_rng(0).normal(size=(100_000, 3))), []
    spearman.pairwise(
        made["codes"], made["n_valid"], made["patterns"], 2, BUDGET, 2, progress=lambda *each: told.append(each)
    )
    assert len(told) > 5 and told[-1] == (3 * 3 * 100_000,) * 2


# ---- the sketch


def correlated_groups(n_rows: int, n_columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_rows, n_columns // 4))
    return np.repeat(latent, 4, axis=1) + rng.normal(size=(n_rows, n_columns)) * rng.uniform(0.05, 0.6, n_columns)


@pytest.mark.parametrize("missing", [False, True])
def test_the_sketch_leaves_out_no_edge(missing):
    table = correlated_groups(4000, 60, 1)
    if missing:
        table[::5, ::7] = np.nan
    exact = pairwise(table)
    screened = pairwise(
        table,
        within=partial(sketch.prescreened, settings=Pass2(spearman_threshold=0.9, m=1024, r=5, random_seed=1)),
    )
    known = ~np.isnan(screened)
    assert np.isnan(screened).sum() > 100
    assert np.array_equal(screened[known], exact[known])
    assert np.array_equal(np.abs(screened) >= 0.9, np.abs(exact) >= 0.9)


def test_the_spread_of_the_sketch_is_the_stated_one():
    table = correlated_groups(3000, 8, 2)
    made = encode(table)
    exact = pairwise(table)
    columns = np.arange(8)
    errors = []
    for seed in range(40):
        sketches, norms = sketch.sketch(made["codes"], columns, 3000, BUDGET, Pass2(m=256, r=4, random_seed=seed))
        estimate = np.mean([each.T @ each for each in sketches], axis=0) / np.sqrt(np.outer(norms, norms))
        errors.append(estimate[0, 1:] - exact[0, 1:])
    measured = np.std(errors, axis=0)
    stated = [sketch.standard_deviation(rho, 256, 4) for rho in exact[0, 1:]]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02
    assert (measured < 1.5 * np.array(stated)).all() and (measured > 0.6 * np.array(stated)).all()


def test_a_sketch_is_the_same_in_any_blocks_of_rows_and_its_norms_are_exact():
    made, told = encode(correlated_groups(1000, 8, 3)), []
    given = made["codes"], np.arange(8), 1000
    whole, norms = sketch.sketch(*given, BUDGET, Pass2(m=64, r=3))
    found, also = sketch.sketch(*given, 1, Pass2(m=64, r=3), told.append)
    assert np.array_equal(found, whole) and np.array_equal(also, norms)
    assert norms.tolist() == [np.square(2 * rankdata(codes) - 1001).sum() for codes in made["codes"].codes]
    assert told == [*range(64, 1000, 64), 1000]
    assert len({each.tobytes() for each in whole}) == 3  # each repeat has buckets of its own


@pytest.mark.parametrize("tile", [1, 7, 2048])
def test_columns_are_linked_by_the_mean_of_their_estimates_in_any_tiles(monkeypatch, tile):
    monkeypatch.setattr(sketch, "TILE", tile)
    # by the mean of two repeats 0 is linked with 9, and 9 with 4 (by a negative one), both exactly at the bound
    estimates = np.stack([np.eye(12), np.eye(12)])
    for (one, other), (first, second) in {(0, 9): (0.75, 0.25), (4, 9): (-0.5, -0.5), (2, 3): (0.9, 0.0)}.items():
        estimates[:, one, other] = estimates[:, other, one] = first, second
    roots = np.linalg.cholesky(estimates).swapaxes(1, 2)
    groups = sketch.linked(roots, 0.5 - 1e-9)
    assert [group.tolist() for group in groups] == [[0, 4, 9], *([each] for each in (1, 2, 3, 5, 6, 7, 8, 10, 11))]


def test_a_candidate_is_within_four_deviations_of_the_threshold(monkeypatch):
    bounds, linked = [], sketch.linked
    monkeypatch.setattr(sketch, "linked", lambda sketches, bound: bounds.append(bound) or linked(sketches, bound))
    pairwise(
        correlated_groups(500, 8, 3),
        within=partial(sketch.prescreened, settings=Pass2(spearman_threshold=0.9, m=256, r=4)),
    )
    assert bounds == [pytest.approx(0.9 - 4 * np.sqrt(1.81 / 1024))]


def test_completing_a_sketched_matrix_fills_whole_groups():
    table = correlated_groups(500, 12, 4)
    exact = pairwise(table)
    holes = exact.copy()
    holes[0, 5] = holes[5, 0] = np.nan
    filled = sketch.complete(holes, [np.array([0, 5, 7])], lambda group: exact[np.ix_(group, group)])
    assert np.array_equal(filled, exact)
