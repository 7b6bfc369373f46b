from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from conftest import ArrayCodes
from descriptors import sketch, spearman
from descriptors.pearson import correlation as pearson
from descriptors.ranks import code_type, doubled_midranks
from descriptors.variance import describe

BUDGET = 10**9


def encode(table: np.ndarray) -> dict:
    """What pass 1 makes of a (N, P) table."""
    n_rows = len(table)
    pairs = [doubled_midranks(column, code_type(n_rows)) for column in table.T]
    described = [describe(ordered, n_rows, "trimmed", (2.5, 97.5)) for _, ordered in pairs]
    missing = [np.isnan(column).tobytes() for column in table.T]
    labels = {mask: label for label, mask in enumerate(dict.fromkeys(missing))}
    return {
        "codes": ArrayCodes(np.array([codes for codes, _ in pairs])),
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
    )


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
        within=lambda *given: sketch.prescreened(*given, threshold=0.9, width=1024, repeats=5, seed=1),
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
        sketches, norms = sketch.sketch(made["codes"], columns, 3000, BUDGET, width=256, repeats=4, seed=seed)
        estimate = np.mean([each.T @ each for each in sketches], axis=0) / np.sqrt(np.outer(norms, norms))
        errors.append(estimate[0, 1:] - exact[0, 1:])
    measured = np.std(errors, axis=0)
    stated = [sketch.standard_deviation(rho, 256, 4) for rho in exact[0, 1:]]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02
    assert (measured < 1.5 * np.array(stated)).all() and (measured > 0.6 * np.array(stated)).all()


def test_completing_a_sketched_matrix_fills_whole_groups():
    table = correlated_groups(500, 12, 4)
    exact = pairwise(table)
    holes = exact.copy()
    holes[0, 5] = holes[5, 0] = np.nan
    filled = sketch.complete(holes, [np.array([0, 5, 7])], lambda group: exact[np.ix_(group, group)])
    assert np.array_equal(filled, exact)
