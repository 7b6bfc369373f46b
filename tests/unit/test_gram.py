from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from descriptors import gram
from descriptors.gram import ExactGram, fixed_point, join


def brute_force(left, right):
    return [[sum(int(a) * int(b) for a, b in zip(x, y, strict=True)) for y in right.T] for x in left.T]


@pytest.mark.parametrize("bits", [3, 20, 26, 31, 40, 52])
def test_sums_are_those_of_whole_numbers_at_any_width(bits):
    rng = np.random.default_rng(bits)
    bound = 2**bits
    left = rng.integers(-bound, bound + 1, (3000, 3)).astype(float)
    right = rng.integers(-bound, bound + 1, (3000, 2)).astype(float)
    total = ExactGram((3, 2), bound, bound, len(left))
    total.add(left, right)
    expected = np.array(brute_force(left, right))
    assert np.abs(total.result() - expected.astype(float)).max() <= np.abs(expected).max() * 2.0**-52


@given(st.integers(0, 2**32 - 1), st.sampled_from([2**10, 2**22 - 1, 2**27, 2**52]), st.integers(1, 300))
def test_neither_order_nor_blocks_change_a_bit(seed, bound, block):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-bound, bound + 1, (300, 4)).astype(float)
    once = ExactGram((4, 4), bound, bound, 300)
    once.add(rows, rows)
    often = ExactGram((4, 4), bound, bound, 300)
    shuffled = rng.permutation(rows)
    for start in range(0, 300, block):
        part = shuffled[start : start + block]
        often.add(part, part)
    assert np.array_equal(once.result(), often.result())


def test_plain_float_sums_do_depend_on_the_order():
    # what the exact sums are for: with plain float64 this fails
    rng = np.random.default_rng(0)
    rows = rng.integers(-(2**31), 2**31, (5000, 1)).astype(float)
    assert not np.array_equal(rows.T @ rows, rows[::-1].T @ rows[::-1]) or not np.array_equal(
        np.cumsum(rows**2)[-1], np.cumsum(rows[::-1] ** 2)[-1]
    )


def test_a_short_flush_interval_is_kept_below_the_exact_range():
    total = ExactGram((1, 1), 2**21, 2**21, 10**7)
    assert total._rows * 2**42 < gram.EXACT


def test_fixed_point_is_the_value_in_units_and_missing_is_zero():
    values = np.array([[1.0, np.nan], [0.25, -3.0]])
    fixed = fixed_point(values, np.array([0.0, 1.0]), np.array([0, 3]), 8)
    assert np.array_equal(fixed, [[256, 0], [64, -128]])


@pytest.mark.parametrize("bits", [10, 31])
@pytest.mark.parametrize("n_rows", [100, 2**31])
def test_sums_of_parts_of_the_rows_merge_into_those_of_all(bits, n_rows):
    rng = np.random.default_rng(bits)
    rows = rng.integers(-(2**bits), 2**bits + 1, (100, 3)).astype(float)
    whole, one, other = (ExactGram((3, 3), 2**bits, 2**bits, n_rows) for _ in range(3))
    whole.add(rows, rows)
    one.add(rows[:40], rows[:40])
    other.add(rows[40:], rows[40:])
    one.merge(other)
    assert np.array_equal(one.result(), whole.result())


@given(st.integers(-(2**61), 2**61), st.integers(0, 2**62))
def test_two_words_joined_are_their_sum(high, low):
    joined = join(np.array([high]), np.array([low]))[0]
    assert joined == pytest.approx(float(high * 2**32 + low), rel=2.0**-52, abs=0)
