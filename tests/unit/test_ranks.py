"""A column becomes its mid-ranks, whatever its values: SciPy's ranks and NumPy's order are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata

from conftest import doubled_midranks, few_cells
from descriptors import ranks
from descriptors.ranks import Coded, Few, Many, centre, centre_filled, fine_bits, sort

ULP = 2.0**-52
LARGEST = np.finfo(np.float64).max
values = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(st.sampled_from([np.nan, -0.0, 0.0, 1.0, 2.0, 1e84, -1e84]), st.floats(-5, 5)),
)
# neighbours of any size, signs, both zeros, infinities, NaN, subnormals
doubles = st.one_of(
    st.sampled_from([-0.0, 0.0, 5e-324, -5e-324, 1.5e-310, LARGEST, -LARGEST, np.inf, -np.inf, np.nan]),
    st.integers(-40, 40).map(lambda k: 1 + k * ULP),
    st.integers(-40, 40).map(lambda k: -1e300 * (1 + k * ULP)),
    st.integers(-9, 9).map(lambda k: k * 5e-324),
    st.floats(width=32),
    st.floats(),
)


def decoded(coded: Coded, n_rows: int) -> np.ndarray:
    """Doubled mid-ranks from what is stored."""
    cells = coded.cells.astype(np.int64)
    if coded.table is not None:
        return coded.table[cells].astype(np.int64)
    return np.where(cells > 0, ((cells - 1) << fine_bits(n_rows)) + coded.fine + 1, 0)


def check(column: np.ndarray, kind: type[Few] | type[Many]) -> None:
    """The ranks, the order and the stored codes of a column are right."""
    given = column.copy()
    found = sort(column)
    assert type(found) is kind
    assert np.array_equal(column, given, equal_nan=True)
    finite = column[np.isfinite(column)]
    assert found.ordered.tobytes() == (np.sort(finite) + 0.0).tobytes()  # one zero of two
    coded = found.encode()
    assert coded.cells.dtype == np.uint16
    assert np.array_equal(decoded(coded, len(column)), doubled_midranks(column))
    assert (coded.fine is None) != (coded.table is None)


@given(hnp.arrays(np.float64, st.integers(1, 150), elements=doubles))
def test_few_values_found_by_hashing_are_those_of_sorting(column):
    check(column, Few)


@given(hnp.arrays(np.float64, st.integers(1, 150), elements=doubles), st.integers(1, 5))
def test_many_values_of_any_kind_are_ranked_as_by_scipy(column, few):
    with few_cells(1 << 16, few):
        distinct = len(np.unique(column[np.isfinite(column)] + 0.0))
        check(column, Few if distinct <= few else Many)


@given(hnp.arrays(np.float64, st.integers(16, 150), elements=doubles))
def test_cells_of_ranks_and_places_in_them_make_up_the_midranks(column):
    with few_cells(16, 3):
        distinct = len(np.unique(column[np.isfinite(column)] + 0.0))
        check(column, Few if distinct <= 3 else Many)
        assert (sort(column).encode().fine is not None) == (distinct >= 16)


@pytest.mark.parametrize("distinct", [1, 4095, 4096, 4097, 9000])
def test_either_way_is_taken_on_either_side_of_the_limit(distinct):
    rng = np.random.default_rng(distinct)
    column = rng.permutation(np.concatenate([np.arange(distinct), rng.integers(0, distinct, 2000), [np.nan] * 9]))
    check(column * 0.1 - 100, Few if distinct <= ranks.FEW else Many)


# what sits beside the values: with the huge ones the lowest bits of the mantissa do not fit the sorted word
BESIDE = {
    "nothing": [],
    "one huge value": [1e308],
    "huge values of both signs": [1e308, -1e308, LARGEST, -LARGEST],
    "subnormal values": [5e-324, -5e-324, 0.0, -0.0, 1e-310],
    "missing values": [np.nan, np.inf, -np.inf] * 5,
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("neighbours", [2, 8, 60, 65, 66, 127, 700])
def test_values_that_differ_only_in_their_lowest_bits_keep_their_order(beside, neighbours):
    # of up to 65 neighbours the order is repaired, beyond that they are sorted again
    rng = np.random.default_rng(neighbours)
    bases = np.concatenate([[1.0], -(10.0 ** rng.uniform(-200, 200, 5)), rng.normal(size=5000)])
    column = np.concatenate([bases[:6, None] * (1 + ULP * np.arange(neighbours))[None]])
    column = np.concatenate([column.ravel(), bases[6:], BESIDE[beside]])
    column = np.concatenate([column, rng.choice(column, 500)])
    check(rng.permutation(column), Many)


@pytest.mark.parametrize("order", ["ascending", "descending", "two halves"])
def test_many_neighbours_are_sorted_again_from_any_order(order):
    # ascending neighbours need no repair at all, descending ones the most
    neighbours = 1 + ULP * np.arange(5000)
    arranged = {
        "ascending": neighbours,
        "descending": neighbours[::-1],
        "two halves": np.concatenate([neighbours[2500:], neighbours[:2500]]),
    }
    check(np.concatenate([[1e308, -1e308], arranged[order], [np.nan]]), Many)


@pytest.mark.parametrize("factor", [1, -1, 0.1, 1e-320, 1e300])
def test_numbers_with_common_trailing_zeros_are_ranked_as_any_others(factor):
    # the bits that no value uses are left out of the sorted words
    rng = np.random.default_rng(0)
    column = (rng.integers(-6000, 6000, 20_000) * np.float64(factor)).astype(np.float64)
    check(column, Many)
    if abs(factor) == 1:
        check((column / 8).astype(np.float32).astype(np.float64), Many)


def test_float32_values_of_every_magnitude_are_ranked_as_by_scipy():
    rng = np.random.default_rng(1)
    column = (rng.choice([-1, 1], 20_000) * rng.lognormal(sigma=15, size=20_000)).astype(np.float32).astype(np.float64)
    column[rng.random(20_000) < 0.1] = np.nan
    check(column, Many)


@pytest.mark.parametrize("distinct", [65_535, 65_536])
def test_the_fine_plane_begins_where_16_bits_cannot_number_the_values(distinct):
    rng = np.random.default_rng(2)
    column = rng.permutation(np.concatenate([np.arange(distinct), rng.integers(0, distinct, 4000), [np.nan] * 7]))
    check(column, Many)
    assert (sort(column).encode().fine is None) == (distinct == 65_535)


def test_the_last_cell_of_65_536_different_values_is_not_taken_for_missing():
    # one cell more than 16 bits can number, were a bit less cut off
    check(np.random.default_rng(0).permutation(65_536) + 0.5, Many)


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=doubles), st.integers(0, 2**32 - 1), st.booleans())
def test_neither_order_nor_ties_across_rows_change_what_a_row_gets(column, seed, many):
    order = np.random.default_rng(seed).permutation(len(column))
    with few_cells(16, 2 if many else 100):
        one, other = sort(column), sort(column[order])
        assert one.ordered.tobytes() == other.ordered.tobytes()
        for mine, theirs in zip(one.encode(), other.encode(), strict=True):
            assert (mine is None and theirs is None) or np.array_equal(
                mine[order] if len(mine) == len(order) and mine.dtype == np.uint16 else mine, theirs
            )


def test_a_column_without_values_has_no_rank():
    for column in (np.full(5, np.nan), np.array([np.inf, -np.inf, np.nan])):
        check(column, Few)
        assert sort(column).encode().table.tolist() == [0]


@example(32_767)
@example(32_768)
@example(65_536)
@example(2**30)
@given(st.integers(1, 2**31 - 2**16))
def test_the_bits_in_a_cell_are_the_fewest_that_leave_16_bits_for_its_number(n_rows):
    bits = fine_bits(n_rows)
    largest = 2 * n_rows - 1  # doubled mid-ranks less 1 go up to here
    assert (largest >> bits) + 1 < 1 << 16 and bits <= 16
    assert bits == 0 or (largest >> (bits - 1)) + 1 >= 1 << 16


@given(values)
def test_centred_ranks_sum_to_zero_and_missing_ones_are_zero(column):
    codes, ordered = doubled_midranks(column), column[np.isfinite(column)]
    centred = centre(codes[None], np.array([len(ordered)]))[0]
    assert centred.sum() == 0
    assert (centred[np.isnan(column)] == 0).all()


@given(values)
def test_filling_with_the_mean_equals_filling_the_values_before_ranking(column):
    codes, ordered = doubled_midranks(column), column[np.isfinite(column)]
    if not len(ordered):
        return
    mean = ordered.mean()
    below, equal = (ordered < mean).sum(), (ordered == mean).sum()
    filled = np.where(np.isnan(column), mean, column)
    ours = centre_filled(codes[None], *(np.array([x]) for x in (len(ordered), below, equal)), len(column))[0]
    assert np.array_equal(ours, 2 * rankdata(filled) - (len(column) + 1))
