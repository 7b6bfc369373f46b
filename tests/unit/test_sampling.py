"""Whether a row is kept depends on its own place or content and the seed, on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chisquare

from descriptors import kernels
from descriptors.sampling import content_sample, keep_fraction, keep_smallest, key, mix, row_hashes
from descriptors.scan import NAN

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """The generator's finaliser in plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_the_mixer_is_splitmix64(states):
    assert mix(np.array(states, np.uint64)).tolist() == [splitmix64(state) for state in states]


def test_the_mixer_gives_the_published_sequence():
    # splitmix64 from seed 1234567
    states = (np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN)) + np.uint64(1234567)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, 99), st.text(max_size=5), st.integers(1, 20))
def test_rows_are_hashed_as_ever_so_that_a_sample_stays_the_same(seed, file, n_rows):
    expected = [splitmix64(splitmix64(row * GOLDEN & MASK) ^ int(key(seed, file))) for row in range(1, n_rows + 1)]
    assert row_hashes(seed, file, n_rows).tolist() == expected


def test_keys_tell_apart_where_one_name_ends_and_the_next_begins():
    assert len({int(key(*parts)) for parts in [(1, "ab"), (1, "a", "b"), (11, "b"), ("a", "b"), ("ab",)]}) == 5


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 0.5, 0.999])
def test_a_share_keeps_a_binomial_number_of_rows(fraction):
    kept = keep_fraction(row_hashes(42, "part-0.parquet", 100_000), fraction).sum()
    low, high = binom.interval(1 - 1e-6, 100_000, fraction)
    assert low <= kept <= high


def test_a_share_next_to_1_and_a_tiny_one_are_taken_as_they_are():
    hashes = np.array([0, 1, 2**63, MASK], np.uint64)
    assert keep_fraction(hashes, np.nextafter(1, 0)).tolist() == [True, True, True, False]
    assert keep_fraction(hashes, 2.0**-64).tolist() == [True, False, False, False]


@given(st.integers(0, 300), st.integers(0, 200), st.integers(0, 2**63 - 1))
def test_rows_that_are_added_behind_change_nothing_for_those_before(n_rows, more, seed):
    assert np.array_equal(row_hashes(seed, "f", n_rows + more)[:n_rows], row_hashes(seed, "f", n_rows))


def test_the_same_seed_keeps_the_same_rows_and_another_seed_or_file_others():
    one = keep_fraction(row_hashes(1, "a.parquet", 10_000), 0.1)
    assert np.array_equal(one, keep_fraction(row_hashes(1, "a.parquet", 10_000), 0.1))
    for other in (row_hashes(2, "a.parquet", 10_000), row_hashes(1, "b.parquet", 10_000)):
        # independent choices agree on about 1 % of the rows
        assert binomtest(int((one & keep_fraction(other, 0.1)).sum()), 10_000, 0.01).pvalue > 1e-6


@given(st.lists(st.integers(0, MASK), max_size=60), st.integers(1, 70))
def test_a_count_keeps_exactly_that_many_smallest_hashes(hashes, count):
    hashes = np.array(hashes, np.uint64)
    keep = keep_smallest(hashes, count)
    assert keep.sum() == min(count, len(hashes))
    assert np.array_equal(np.sort(hashes[keep]), np.sort(hashes)[:count])


def test_among_equal_hashes_the_earlier_rows_are_kept():
    assert keep_smallest(np.array([5, 7, 5, 5], np.uint64), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize("period", [2, 7, 16, 64, 1000, 4096])
def test_kept_rows_are_spread_evenly_over_any_period(period):
    # the low bits of a multiply-add hash are periodic: every other row, or none of a batch, would be taken
    kept = np.flatnonzero(keep_fraction(row_hashes(7, "sorted by id", 400_000), 0.25))
    phases = 400_000 // period * period
    assert chisquare(np.bincount(kept[kept < phases] % period, minlength=period)).pvalue > 1e-6
    assert chisquare(np.bincount(kept * period // 400_000, minlength=period)).pvalue > 1e-6


def test_every_bit_of_a_hash_is_a_fair_coin_and_knows_nothing_of_the_next_row():
    hashes = row_hashes(3, "f", 50_000)
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(50_000)
    assert np.abs((bits[1:] ^ bits[:-1]).mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(50_000)


NAMES = ["a", "b", "c"]


def content_keys(values: np.ndarray, names: list[str]) -> np.ndarray:
    """(N,) sums over the columns of their summands."""
    total = np.zeros(values.shape[1], np.uint64)
    for column, name in zip(values, names, strict=True):
        kernels.add_content(column.view(np.uint64), key(name), NAN, total)
    return total


def table(n_rows: int, seed: int = 0) -> np.ndarray:
    """(3, n_rows) with missing cells, both zeros and repeated rows."""
    choices = np.array([np.nan, -0.0, 0.0, 1.0, 2.0])
    return choices[np.random.default_rng(seed).integers(0, len(choices), (3, n_rows))]


@given(st.integers(0, 2**32 - 1), st.permutations(range(3)))
def test_content_keys_follow_the_rows_and_ignore_the_order_of_the_columns(seed, order):
    values = table(30, seed)
    rows = np.random.default_rng(seed).permutation(30)
    names = [NAMES[place] for place in order]
    assert np.array_equal(content_keys(values[order][:, rows], names), content_keys(values, NAMES)[rows])


def test_content_keys_of_column_groups_add_up_to_those_of_the_table():
    values = table(50)
    parts = content_keys(values[:1], NAMES[:1]) + content_keys(values[1:], NAMES[1:])
    assert np.array_equal(parts, content_keys(values, NAMES))


@given(st.integers(0, 2**32 - 1))
def test_content_keys_are_equal_exactly_where_the_rows_are(seed):
    values = table(60, seed)
    keys = content_keys(values, NAMES)
    rows = np.nan_to_num(values.T, nan=-9.0)
    same = (rows[:, None] == rows).all(axis=2)
    assert np.array_equal(keys[:, None] == keys, same)


def test_a_value_in_another_column_makes_another_row():
    keys = content_keys(np.array([[1.0, 2.0], [2.0, 1.0]]), ["a", "b"])
    assert keys[0] != keys[1]


def test_every_nan_is_the_same_and_so_are_both_zeros():
    # plain, with its sign set, with a payload
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000000, 0x7FF800000000BEEF], np.uint64)
    assert np.isnan(nans.view(np.float64)).all()
    assert len(set(content_keys(nans.view(np.float64)[None], ["a"]).tolist())) == 1
    assert len(set(content_keys(np.array([[0.0, -0.0]]), ["a"]).tolist())) == 1
    assert len(set(content_keys(np.array([[np.nan, 0.0, 5e-324]]), ["a"]).tolist())) == 3


def sampled(values: np.ndarray, seed: int, count: int) -> list[tuple[float, ...]]:
    chosen = content_sample(content_keys(values, NAMES), seed, count)
    assert np.array_equal(chosen, np.unique(chosen))  # ascending, no row twice
    return sorted(map(tuple, np.nan_to_num(values[:, chosen], nan=-9.0).T.tolist()))


@given(st.integers(0, 2**32 - 1), st.integers(1, 220), st.integers(0, 5))
def test_the_same_rows_by_content_are_sampled_from_a_table_in_any_order(seed, count, root):
    # 200 rows of 64 possible contents: most rows are there several times
    values = table(200, seed)
    shuffled = values[:, np.random.default_rng(seed).permutation(200)]
    assert sampled(values, root, count) == sampled(shuffled, root, count)
    assert len(sampled(values, root, count)) == min(count, 200)


def test_of_equal_rows_a_share_is_sampled_and_not_all_or_none():
    # with one hash a content, a table of two contents would give one of them only
    keys = np.repeat(np.array([11, 12], np.uint64), 5_000)
    chosen = content_sample(keys, 0, 2_000)
    assert binomtest(int((chosen < 5_000).sum()), 2_000, 0.5).pvalue > 1e-6


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 9))
def test_rows_of_equal_content_are_sampled_as_ever(contents, seed):
    root = int(key(seed, "pass4_rows"))
    hashes = [
        splitmix64((splitmix64(content ^ root) + contents[:row].count(content) * GOLDEN) & MASK)
        for row, content in enumerate(contents)
    ]
    count = (len(contents) + 1) // 2
    expected = sorted(sorted(range(len(contents)), key=hashes.__getitem__)[:count])
    assert content_sample(np.array(contents, np.uint64), seed, count).tolist() == expected


def test_another_seed_samples_other_rows():
    keys = mix(np.arange(10_000, dtype=np.uint64))
    first, second = (set(content_sample(keys, seed, 1_000).tolist()) for seed in (1, 2))
    assert binomtest(len(first & second), 10_000, 0.01).pvalue > 1e-6


def test_a_sample_of_no_rows_is_empty():
    assert len(content_sample(np.empty(0, np.uint64), 1, 10)) == 0
