"""The compiled loops do what a line of Python with whole numbers does."""

from __future__ import annotations

import functools
import operator
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from descriptors import kernels, ranks
from descriptors.variance import describe

ULP = 2.0**-52
INDEX_BITS = np.uint64(12)


# ---- order


def unpacked(neighbours: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """``kernels.unpack`` of values that are alike in all kept bits, between a smaller and a larger one."""
    values = np.concatenate([[0.5], neighbours, [2.0]])
    keys = np.concatenate([[0], np.full(len(neighbours), 1), [2]]).astype(np.uint64)
    packed = (keys << INDEX_BITS) | np.arange(len(values), dtype=np.uint64)
    ordered = np.empty(len(values))
    distinct = kernels.unpack(packed, values, INDEX_BITS, ordered)
    return distinct, ordered, values[packed & np.uint64((1 << 12) - 1)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=kernels.LONG_RUN + 1))
def test_a_short_run_of_neighbours_is_put_in_order(steps):
    neighbours = 1 + ULP * np.array(steps)
    distinct, ordered, rows = unpacked(neighbours)
    assert distinct == len(set(steps)) + 2
    assert np.array_equal(ordered, np.sort(np.concatenate([[0.5], neighbours, [2.0]])))
    assert np.array_equal(rows, ordered)  # the row numbers moved with their values


def test_a_long_run_is_refused_only_where_it_is_out_of_order():
    rising = 1 + ULP * np.arange(kernels.LONG_RUN + 2)
    assert unpacked(rising)[0] == len(rising) + 2
    falling_at_the_end = np.append(rising[:-1], rising[0])
    assert unpacked(falling_at_the_end)[0] == -1
    assert unpacked(falling_at_the_end[1:])[0] == len(rising) + 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_keys_are_in_the_order_of_the_values_and_one_for_both_zeros(values):
    bits = np.array(values).view(np.uint64)
    keys = [int(kernels.sort_key(each)) for each in bits]
    for value, key in zip(values, keys, strict=True):
        for other, another in zip(values, keys, strict=True):
            assert (value < other) == (key < another)
    finite = np.concatenate([bits, np.array([np.nan, np.inf, -np.inf]).view(np.uint64)])
    count, low, high, used = kernels.extent(finite)
    assert (count, low, high) == (len(keys), min(keys), max(keys))
    varying = functools.reduce(operator.or_, (key ^ keys[0] for key in keys))
    assert used == varying
    # what is left out of the sorted words: no difference has a lower bit than the lowest that varies
    assert all((key - min(keys)) % (varying & -varying or 1) == 0 for key in keys)


def test_infinities_are_missing():
    values = np.array([1.0, np.inf, -np.inf, np.nan, -0.0, 5e-324])
    kernels.mark_missing(values)
    assert np.array_equal(values, [1.0, np.nan, np.nan, np.nan, -0.0, 5e-324], equal_nan=True)


# ---- codes


@pytest.mark.parametrize("shift", [1, 2, 7, 16])
def test_two_planes_joined_are_the_code_and_the_middle_is_half_a_cell_away(shift):
    rest = np.arange(1 << shift)
    for cell in (1, 2, 65_535):
        cells, codes = np.full(len(rest), cell, np.uint16), np.empty(len(rest), np.uint32)
        kernels.join_planes(cells, rest.astype(np.uint16), shift, codes)
        assert np.array_equal(codes, ((cell - 1) << shift) + rest + 1)
        middles = np.empty(len(rest), np.uint32)
        kernels.middles(cells, shift, middles)
        off = codes.astype(np.int64) - middles
        assert (off.min(), off.max()) == (-(1 << (shift - 1)), (1 << (shift - 1)) - 1)
    for join in (
        lambda: kernels.join_planes(cells * 0, rest.astype(np.uint16), shift, codes),
        lambda: kernels.middles(cells * 0, shift, codes),
    ):
        join()
        assert not codes.any()


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.integers(1, 2**31), st.sampled_from([0, 1, 5, 16])
)
def test_centred_codes_are_rounded_to_the_nearest_step_with_halves_up(codes, offset, shift):
    out, sums, step = np.empty(len(codes)), np.array([1, 2, 3]), 2**shift
    kernels.centre(np.array(codes, np.uint32), offset, shift, out, sums)
    expected = [(2 * (code - offset) + step) // (2 * step) if code else 0 for code in codes]
    assert out.tolist() == expected
    total, high, low = (int(each) for each in sums - [1, 2, 3])
    assert (total, high * 2**32 + low) == (sum(expected), sum(each**2 for each in expected))


# ---- sums


def brute_scores(counts: list[int], shift: int) -> list[int]:
    """Centred doubled mid-ranks of a sample with ``counts[k]`` values in cell k, rounded to steps, halves up."""
    n, below, scores = sum(counts[1:]), 0, [0]
    for count in counts[1:]:
        twice = 2 * below + count + 1 - (n + 1)
        scores.append((2 * twice + 2**shift) // (2 * 2**shift))
        below += count
    return scores


class RankedColumn:
    """A column ranked by ``kernels.count_column`` and ``rank_column`` on the rows that each of some patterns leaves."""

    def __init__(
        self, cells: np.ndarray, size: int, removed_rows: list[np.ndarray], shift: int, blocks: int = 1
    ) -> None:
        n_patterns = len(removed_rows)
        self.at = 3 + size * np.arange(n_patterns)  # other tables may come first
        self.own, self.tables = np.zeros(size, np.int32), np.zeros(3 + size * n_patterns, np.int32)
        removed = np.zeros(n_patterns, np.int64)
        for rows in np.array_split(np.arange(len(cells)), blocks):
            gone = [each[np.isin(each, rows)] - (rows[0] if len(rows) else 0) for each in removed_rows]
            bounds = np.concatenate(([0], np.cumsum([len(each) for each in gone])))
            places = np.concatenate(gone).astype(np.int64)
            kernels.count_column(cells[rows], places, bounds, self.own, self.tables, self.at, removed)
        self.rows, self.total, self.squares = np.zeros((3, n_patterns))
        kernels.rank_column(self.own, shift, self.tables, self.at, removed, self.rows, self.total, self.squares)
        self.scores = [self.tables[start : start + size] for start in self.at]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([0, 1, 2, 6]))
def test_a_column_is_ranked_on_the_rows_that_each_pattern_leaves(dtype, seed, size, shift):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, size, rng.integers(1, 200)).astype(dtype)
    removed = [np.flatnonzero(rng.random(len(cells)) < share) for share in (0, 0.3, 0.9, 1)]
    ranked = RankedColumn(cells, size, removed, shift, blocks=int(rng.integers(1, 4)))
    assert not ranked.tables[:3].any()
    for k, rows in enumerate(removed):
        counts = np.bincount(np.delete(cells, rows), minlength=size).tolist()
        expected = brute_scores(counts, shift)
        present = [cell for cell in range(size) if counts[cell] or cell == 0]
        assert ranked.scores[k][present].tolist() == [expected[cell] for cell in present]
        assert ranked.rows[k] == sum(counts[1:])
        assert ranked.total[k] == sum(count * score for count, score in zip(counts[1:], expected[1:], strict=True))
        assert ranked.squares[k] == sum(c * score**2 for c, score in zip(counts[1:], expected[1:], strict=True))


@pytest.mark.parametrize("shift", [0, 16])
@pytest.mark.parametrize("n_rows", [2**20 - 1, 2**20, 2**31 - 1])
def test_the_sums_of_large_ranks_are_those_of_whole_numbers(n_rows, shift):
    # the ranks of two billion rows have squares of 62 bits, whose sum does not fit 64
    counts = np.random.default_rng(0).multinomial(n_rows, np.full(20_000, 1 / 20_000))
    own, tables = np.concatenate([[5], counts]).astype(np.int32), np.zeros(20_001, np.int32)
    rows, total, squares = np.zeros((3, 1))
    at, removed = np.zeros((2, 1), np.int64)
    kernels.rank_column(own, shift, tables, at, removed, rows, total, squares)
    expected = brute_scores(own.tolist(), shift)
    assert tables.tolist() == expected
    assert (rows, total) == (n_rows, sum(c * score for c, score in zip(counts.tolist(), expected[1:], strict=True)))
    exact = sum(c * score**2 for c, score in zip(counts.tolist(), expected[1:], strict=True))
    assert squares[0] == pytest.approx(exact, rel=1e-15 if shift == 0 else 1e-16, abs=0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_the_sums_of_products_of_pairs_are_exact_at_any_width(seed, n_rows):
    rng = np.random.default_rng(seed)
    tables = rng.integers(-(2**31), 2**31, (2, 1000)).astype(np.int32)
    left, right = (rng.integers(0, 40, (columns, n_rows)).astype(np.uint32) for columns in (3, 2))
    left_at, right_at = rng.integers(0, 960, (3, 2)), rng.integers(0, 960, (2, 4))  # by column and pattern
    pairs = np.array([[0, 1, 3, 1], [2, 0, 0, 0], [1, 1, 2, 1]])
    high, low = np.zeros((2, 3, 2), np.int64)
    for part in np.array_split(np.arange(n_rows), 3):
        given = np.ascontiguousarray(left[:, part]), np.ascontiguousarray(right[:, part])
        kernels.multiply_pairs(given[0], tables[0], left_at, given[1], tables[1], right_at, pairs, high, low)
    expected = np.zeros((3, 2), object)
    for x, y, a, b in pairs:
        one, other = tables[0][left_at[x, b] + left[x]], tables[1][right_at[y, a] + right[y]]
        expected[x, y] = sum(int(p) * int(q) for p, q in zip(one, other, strict=True))
    assert np.array_equal(high.astype(object) * 2**32 + low.astype(object), expected)


def test_ranks_are_spread_over_the_rows():
    out = np.empty(4)
    kernels.look_up(np.array([2, 0, 1, 2], np.uint32), np.array([0, -5, 7], np.int32), out)
    assert out.tolist() == [7, 0, -5, 7]


# ---- statistics


def relative(values: np.ndarray, scale: float) -> tuple[float, float]:
    """Mean and standard deviation, computed near 1 and scaled back."""
    return (values / scale).mean() * scale, (values / scale).std() * scale


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-160, 1.0, 1e160, 1e300])
@pytest.mark.parametrize("mode", ["minmax", "trimmed", "iqr", "raw"])
@pytest.mark.parametrize("n_rows", [7, 4096, 9001])
def test_statistics_are_those_of_numpy_at_any_magnitude(scale, mode, n_rows):
    plain = np.sort(np.random.default_rng(n_rows).normal(1, 1, n_rows))
    values = plain * scale
    digits = 1e-12 if scale > 1e-307 else 1e-9  # subnormals have few digits
    column = describe(values, n_rows, mode, (2.5, 97.5))
    mean, std = relative(values, scale)
    assert column.mean == pytest.approx(mean, rel=digits, abs=0)
    assert column.std == pytest.approx(std, rel=digits, abs=0)
    lower, upper = np.percentile(plain, {"minmax": (0, 100), "iqr": (25, 75)}.get(mode, (2.5, 97.5)))
    assert column.normalized_variance == pytest.approx(
        np.clip(plain, lower, upper).var() / (upper - lower) ** 2, rel=digits
    )
    assert (column.n_distinct, column.top_share) == (n_rows, 1 / n_rows)
    assert column.n_below_mean == (values < column.mean).sum()


def test_values_of_all_magnitudes_together_have_the_statistics_of_the_largest():
    values = np.sort(np.concatenate([10.0 ** np.arange(-310.0, 300.0), -(10.0 ** np.arange(-310.0, 300.0))]))
    column = describe(values, len(values), "minmax", (0, 100))
    mean, std = relative(values, 1e299)
    assert column.std == pytest.approx(std, rel=1e-12)
    assert abs(column.mean - mean) <= 1e-14 * 1e299
    assert (column.min, column.max) == (values[0], values[-1])


@given(st.integers(0, 2**32 - 1), st.sampled_from(["minmax", "trimmed", "iqr", "raw"]))
def test_the_order_of_the_rows_changes_no_bit_of_any_statistic(seed, mode):
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.normal(size=6000) * 10.0 ** rng.integers(-300, 300, 6000), 9000)
    values[rng.random(9000) < 0.1] = rng.choice([0.0, -0.0, np.nan])
    found = []
    for column in (values, values[::-1].copy(), rng.permutation(values)):
        described = describe(ranks.sort(column).ordered, 9000, mode, (2.5, 97.5))
        found.append(np.array(list(asdict(described).values()), np.float64).tobytes())
    assert found[1:] == found[:-1]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 3.0]), max_size=40))
def test_runs_are_counted_as_by_numpy(values):
    counts = np.unique(values, return_counts=True)[1]
    assert kernels.runs(np.sort(np.array(values, np.float64))) == (len(counts), counts.max(initial=0))
