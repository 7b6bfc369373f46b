"""Two columns ranked on their common rows: SciPy's ranks of those rows are the oracle, for any ties and any gaps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from conftest import ArrayCodes, doubled_midranks
from descriptors import common_rows
from descriptors.common_rows import Products
from descriptors.tiles import Tile


def products(table: np.ndarray, wide: int, min_common: int = 1, right: np.ndarray | None = None) -> Products:
    """All pairs of columns of a (P, N) table one by one; those of more than ``wide`` cells by bits."""
    codes = ArrayCodes(np.array([doubled_midranks(column) for column in table]))
    patterns = np.arange(len(table))
    everything = np.arange(len(table))
    left = Tile.of(everything if right is None else np.setdiff1d(everything, right), patterns)
    other = left if right is None else Tile.of(right, patterns)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("descriptors.pair_kernels.WIDE", wide)
        return common_rows.products(codes, left, other, min_common, 10**8, pool, 2)


def expected(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int, int]:
    """Common rows, sum of products of doubled centred ranks on them, sums of the squares of either."""
    both = np.isfinite(x) & np.isfinite(y)
    one, other = (2 * rankdata(column[both]) - (both.sum() + 1) for column in (x, y))
    return both.sum(), int(one @ other), int(one @ one), int(other @ other)


@st.composite
def tables(draw):
    """(P, N): columns without ties, with few and with many of them; each misses rows of its own, up to all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, n_columns = draw(st.integers(2, 200)), draw(st.integers(2, 6))
    kinds = draw(st.lists(st.sampled_from([1, 2, 5, 40, 10**6]), min_size=n_columns, max_size=n_columns))
    share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95]))
    table = np.stack([rng.integers(0, kind, n_rows) + (kind == 10**6) * rng.random(n_rows) for kind in kinds])
    table[rng.random(table.shape) < share] = np.nan
    return table


@given(tables(), st.sampled_from([0, 50, 10**6]))
def test_sums_are_those_of_the_common_rows_ranked_anew(table, wide):
    found = products(table, wide)
    for x, y in np.ndindex(len(table), len(table)):
        if x == y:
            continue
        rows, product, left, right = expected(table[x], table[y])
        assert found.rows[x, y] == rows
        if rows:
            assert (found.sums[x, y], found.left_squares[x, y], found.right_squares[x, y]) == (product, left, right)
            assert found.left_total[x, y] == found.right_total[x, y] == 0


@given(tables())
def test_a_wide_column_beside_a_narrow_one_changes_nothing(table):
    # sizes of the cells differ between the columns: the first half of them is wide
    codes = ArrayCodes(np.array([doubled_midranks(column) for column in table]))
    n_rows, half = table.shape[1], len(table) // 2
    codes.sizes = np.where(np.arange(len(table)) < half, n_rows + 2, n_rows + 1)
    left = Tile.of(np.arange(len(table)), np.arange(len(table)))
    found = []
    for wide in (n_rows + 1, 10**6):
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
            patch.setattr("descriptors.pair_kernels.WIDE", wide)
            found.append(common_rows.products(codes, left, left, 1, 10**8, pool, 1))
    off = ~np.eye(len(table), dtype=bool)
    for mixed, narrow in zip(*found, strict=True):
        assert np.array_equal(mixed[off], narrow[off])


@given(tables(), st.sampled_from([0, 10**6]))
def test_two_tiles_are_a_part_of_one(table, wide):
    right = np.arange(len(table) // 2, len(table))
    whole, part = products(table, wide), products(table, wide, right=right)
    for one, other in zip(whole, part, strict=True):
        assert np.array_equal(one[: right[0], right[0] :], other)


@pytest.mark.parametrize("wide", [0, 10**6])
def test_pairs_of_too_few_common_rows_have_no_sum(wide):
    table = np.random.default_rng(0).random((3, 100))
    table[0, :60], table[1, 55:] = np.nan, np.nan
    found = products(table, wide, min_common=10)
    assert found.rows[0, 1] == 0 and found.sums[0, 1] == 0
    assert found.rows[0, 2] == 40 and found.sums[0, 2] != 0


def test_bits_count_all_places_of_a_word():
    # values at every place of several words, each removed once
    n_rows = 260
    x = np.arange(n_rows, dtype=float)
    for gone in range(n_rows):
        y = x.copy()
        y[gone] = np.nan
        found = products(np.stack([x, y]), wide=0)
        assert found.sums[0, 1] == expected(x, y)[1]


@pytest.mark.parametrize("ties", [1, 2, 3, 4, 63, 64, 65, 130])
def test_ties_of_any_size_lose_any_number_of_their_values(ties):
    rng = np.random.default_rng(ties)
    x = np.repeat(np.arange(9.0), ties)
    for count in {0, 1, 2, ties // 2, ties - 1, ties}:
        y = rng.random(len(x))
        y[4 * ties : 4 * ties + count] = np.nan
        found = products(np.stack([x, y]), wide=0)
        rows, product, left, _ = expected(x, y)
        assert (found.rows[0, 1], found.sums[0, 1], found.left_squares[0, 1]) == (rows, product, left)
