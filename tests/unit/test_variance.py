"""Pass 1's numbers are those of the textbook, whatever the unit, the order or the size of the values."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from descriptors.variance import describe, removal_reasons

MODES = ("minmax", "trimmed", "iqr", "raw")
TRIM = (2.5, 97.5)
LIMITS = {"variance_threshold": 0.002, "max_missing_ratio": 0.5, "min_effective_n": 100}

modes = st.sampled_from(MODES)
ordinary = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.floats(-1e6, 1e6, allow_subnormal=False)),
).map(np.sort)
# the largest and the smallest that a double holds, side by side
extreme = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(
        st.sampled_from([-1.7976931348623157e308, 1.7976931348623157e308, 1e300, 1e84, 5e-324, -5e-324, 0.0]),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
).map(np.sort)


def clipped(values: np.ndarray, mode: str) -> tuple[float, float, float]:
    """Lower end, upper end and normalised variance as the definition has them."""
    ends = {"minmax": (0, 100), "iqr": (25, 75)}.get(mode, TRIM)
    lower, upper = np.percentile(values, ends)
    if lower == upper:
        lower, upper = values[0], values[-1]
    # divided before it is squared, which of a small range is 0
    return lower, upper, ((np.clip(values, lower, upper) - lower) / (upper - lower)).var()


@given(ordinary, modes, st.integers(0, 5))
def test_every_number_is_numpys(values, mode, missing):
    column = describe(values, len(values) + missing, mode, TRIM)
    assert (column.n_valid, column.n_missing) == (len(values), missing)
    assert column.missing_ratio == missing / (len(values) + missing)
    assert column.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-9)
    assert column.variance == pytest.approx(values.var(), rel=1e-9, abs=1e-12 * np.abs(values).max() ** 2)
    assert column.std == pytest.approx(np.sqrt(column.variance), rel=1e-12)
    assert (column.min, column.max) == (values.min(), values.max())
    assert column.range == values.max() - values.min()
    counts = np.unique(values, return_counts=True)[1]
    assert column.n_distinct == len(counts)
    assert column.top_share == counts.max() / len(values)
    assert column.n_below_mean == (values < column.mean).sum()
    assert column.n_at_mean == (values == column.mean).sum()


@given(ordinary, modes)
def test_the_normalised_variance_is_that_of_the_clipped_values_over_the_same_range(values, mode):
    column = describe(values, len(values), mode, TRIM)
    if column.constant:
        assert column.normalized_variance == 0
        return
    lower, upper, expected = clipped(values, mode)
    scale = np.abs(values).max()
    assert column.clip_lower == pytest.approx(lower, abs=1e-14 * scale)
    assert column.clip_upper == pytest.approx(upper, abs=1e-14 * scale)
    assert column.trimmed_range == pytest.approx(upper - lower, abs=1e-14 * scale)
    # the definition itself loses digits where a small range lies far from zero
    assert column.normalized_variance == pytest.approx(expected, abs=1e-13 * scale / (upper - lower) + 1e-12)


@given(extreme, modes)
def test_the_normalised_variance_lies_between_0_and_a_quarter_for_any_values(values, mode):
    column = describe(values, len(values), mode, TRIM)
    assert 0 <= column.normalized_variance <= 0.25
    assert column.min <= column.mean <= column.max
    assert np.isfinite(column.std)
    # beside 2^1024 the last three bits of a subnormal are lost
    assert column.min - 8 * 5e-324 <= column.clip_lower <= column.clip_upper <= column.max + 8 * 5e-324


def test_the_normalised_variance_reaches_a_quarter():
    for mode in MODES:
        assert describe(np.repeat([-3.0, 5.0], 50), 100, mode, TRIM).normalized_variance == 0.25


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exponent", [-1000, -300, -1, 3, 280, 1000])
def test_a_power_of_two_as_unit_changes_no_bit_of_the_normalised_variance(mode, exponent):
    values = np.sort(np.random.default_rng(1).lognormal(size=333))
    original = describe(values, 333, mode, TRIM)
    scaled = describe(np.ldexp(values, exponent), 333, mode, TRIM)
    assert scaled.normalized_variance == original.normalized_variance
    assert scaled.clip_upper == np.ldexp(original.clip_upper, exponent)
    assert scaled.std == np.ldexp(original.std, exponent)


@given(st.integers(0, 2**32 - 1), modes, st.sampled_from([1e-12, 1e-3, 7.0, 1e9, 1e84]), st.floats(-1e4, 1e4))
def test_neither_unit_nor_origin_changes_the_normalised_variance(seed, mode, unit, origin):
    values = np.sort(np.random.default_rng(seed).normal(size=200))
    original = describe(values, 200, mode, TRIM).normalized_variance
    assert describe(values * unit, 200, mode, TRIM).normalized_variance == pytest.approx(original, rel=1e-12)
    assert describe(values + origin, 200, mode, TRIM).normalized_variance == pytest.approx(original, rel=1e-9)


@given(st.integers(0, 2**32 - 1), modes)
def test_mirrored_values_have_the_same_normalised_variance(seed, mode):
    values = np.sort(np.random.default_rng(seed).lognormal(size=100))
    original = describe(values, 100, mode, TRIM)
    mirrored = describe(-values[::-1], 100, mode, TRIM)
    assert mirrored.normalized_variance == pytest.approx(original.normalized_variance, rel=1e-12)


def test_an_unscaled_square_would_overflow_but_the_statistics_of_huge_values_are_right():
    values = np.arange(1, 1001) / 1000
    huge = describe(values * 1e300, 1000, "trimmed", TRIM)
    plain = describe(values, 1000, "trimmed", TRIM)
    assert huge.std == pytest.approx(values.std() * 1e300, rel=1e-12)
    assert huge.variance == np.inf  # 8e598 is no double
    assert huge.mean == pytest.approx(5.005e299, rel=1e-12)
    assert huge.normalized_variance == pytest.approx(plain.normalized_variance, rel=1e-12)


def test_the_statistics_of_subnormal_values_are_those_of_their_multiples():
    steps = np.arange(100.0)
    subnormal = describe(steps * 5e-324, 100, "trimmed", TRIM)
    plain = describe(steps, 100, "trimmed", TRIM)
    assert subnormal.normalized_variance == plain.normalized_variance
    assert (subnormal.n_distinct, subnormal.constant) == (100, False)


@pytest.mark.parametrize("outlier", [1e3, 1e84, 1e300, np.finfo(np.float64).max])
def test_an_outlier_of_any_size_leaves_the_trimmed_range_alone(outlier):
    # dividing by the largest value turned a unit-sized column beside 1.8e308, a marker of old tools, into subnormals
    values = np.sort(np.random.default_rng(2).normal(size=400)) * 1e-5
    values[-1] = outlier
    column = describe(values, 400, "trimmed", TRIM)
    lower, upper, expected = clipped(values, "trimmed")
    assert (column.clip_lower, column.clip_upper) == (lower, upper)
    assert column.normalized_variance == pytest.approx(expected, rel=1e-12)


def test_heavy_tails_are_clipped_in_the_numerator_too():
    # untrimmed variance over a trimmed range gives 1e5 here and passes any threshold
    values = np.sort(np.concatenate((np.random.default_rng(3).normal(size=990), np.full(10, 1e4))))
    naive = values.var() / np.subtract(*np.percentile(values, TRIM[::-1])) ** 2
    assert naive > 1e3
    assert describe(values, 1000, "trimmed", TRIM).normalized_variance == pytest.approx(0.065, abs=0.01)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_a_binary_column_with_0_1_percent_ones_is_removed_in_any_unit(unit):
    # a trimmed range floored at 1e-6 scores it 1e9
    column = describe(np.concatenate((np.zeros(999), [unit])), 1000, "trimmed", TRIM)
    assert column.degenerate and not column.constant
    assert column.normalized_variance == pytest.approx(0.001 * 0.999, rel=1e-12)
    reasons = removal_reasons(column, "trimmed", **LIMITS)
    assert reasons == ["normalised variance 0.000999 below 0.002 (degenerate trimmed range)"]


def test_the_plain_variance_is_not_said_to_be_of_a_trimmed_range():
    column = describe(np.concatenate((np.zeros(999), [1.0])), 1000, "raw", TRIM)
    assert removal_reasons(column, "raw", **LIMITS) == ["variance 0.000999 below 0.002"]


@pytest.mark.parametrize("mode", ["trimmed", "iqr"])
def test_where_the_quantiles_coincide_the_whole_range_normalises(mode):
    values = np.concatenate((np.zeros(980), np.linspace(1, 4, 20)))
    column = describe(values, 1000, mode, TRIM)
    assert column.degenerate
    assert (column.clip_lower, column.clip_upper) == (0, 4)
    assert column.normalized_variance == pytest.approx(values.var() / 16, rel=1e-12)


def test_minmax_has_no_degenerate_range_but_that_of_a_constant():
    assert not describe(np.concatenate((np.zeros(999), [1.0])), 1000, "minmax", TRIM).degenerate
    assert describe(np.ones(10), 10, "minmax", TRIM).degenerate


def test_the_trim_percentiles_are_used_as_given():
    values = np.arange(101.0)
    column = describe(values, 101, "trimmed", (10.0, 60.0))
    assert (column.clip_lower, column.clip_upper) == (10.0, 60.0)
    assert describe(values, 101, "iqr", (10.0, 60.0)).clip_upper == 75.0


@pytest.mark.parametrize("offset", [1e9, -1e9, 1e84, 1e-300])
def test_rounding_noise_on_a_large_value_is_constant_but_a_tiny_unit_is_not(offset):
    noise = np.sort(np.random.default_rng(4).integers(0, 3, 500) * np.spacing(abs(offset)))
    assert describe(offset + noise, 500, "trimmed", TRIM).constant
    # a floor in units of the data, say 1e-8, calls this one constant as well
    assert not describe(noise, 500, "trimmed", TRIM).constant
    assert describe(noise, 500, "trimmed", TRIM).normalized_variance > 0.1


def test_a_change_well_above_rounding_is_no_constant():
    assert not describe(1e9 + np.array([0.0, 1e-5]), 2, "trimmed", TRIM).constant


def test_sorted_halves_far_apart_keep_their_variance():
    # a chunked merge that forgets the shift of the mean returns 0.86 for 1.0, and real files are sorted
    values = np.sort(np.random.default_rng(5).normal(size=100_000))
    assert describe(values, 100_000, "raw", TRIM).variance == pytest.approx(values.var(), rel=1e-12)


@given(
    hnp.arrays(np.float64, st.integers(1, 50), elements=st.sampled_from([-0.0, 0.0, -0.0, 0.0, 1.0, -2.0])),
    modes,
    st.integers(0, 2**32 - 1),
)
def test_the_order_of_the_rows_changes_no_bit_even_among_both_zeros(values, mode, seed):
    shuffled = np.random.default_rng(seed).permutation(values)
    first, second = (describe(np.sort(one), len(one), mode, TRIM) for one in (values, shuffled))
    assert np.array(list(asdict(first).values())).tobytes() == np.array(list(asdict(second).values())).tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_single_value_is_constant(mode):
    column = describe(np.array([7.5]), 3, mode, TRIM)
    assert (column.mean, column.min, column.max, column.std) == (7.5, 7.5, 7.5, 0.0)
    assert (column.n_distinct, column.top_share, column.n_at_mean) == (1, 1.0, 1)
    assert column.constant and column.degenerate and column.normalized_variance == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_column_without_values_has_counts_and_no_numbers(mode):
    column = describe(np.empty(0), 30, mode, TRIM)
    assert (column.n_valid, column.n_missing, column.n_distinct, column.missing_ratio) == (0, 30, 0, 1.0)
    assert column.constant and np.isnan([column.mean, column.normalized_variance, column.clip_lower]).all()


def reasons_of(values: list[float] | np.ndarray, n_rows: int, mode: str = "trimmed", **limits) -> list[str]:
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return removal_reasons(describe(ordered, n_rows, mode, TRIM), mode, **LIMITS | limits)


def test_every_reason_that_applies_is_recorded():
    assert reasons_of([3.0] * 50, 200) == [
        "constant",
        "normalised variance 0 below 0.002",
        "missing ratio 0.75 above 0.5",
        "50 valid values, fewer than 100",
    ]
    assert reasons_of([], 200) == [
        "all values missing",
        "missing ratio 1 above 0.5",
        "0 valid values, fewer than 100",
    ]


def test_a_limit_that_is_just_met_keeps_the_column():
    values = np.arange(100.0)
    assert reasons_of(values, 200) == []
    assert reasons_of(values, 201) == ["missing ratio 0.502 above 0.5"]
    assert reasons_of(values[:-1], 198) == ["99 valid values, fewer than 100"]
    score = describe(values, 100, "trimmed", TRIM).normalized_variance
    assert reasons_of(values, 100, variance_threshold=score) == []
    assert len(reasons_of(values, 100, variance_threshold=np.nextafter(score, 1))) == 1


def test_mode_raw_compares_the_plain_variance():
    values = np.arange(100.0) / 1000
    assert reasons_of(values, 100, "raw", variance_threshold=0.00084) == ["variance 0.000833 below 0.00084"]
    assert reasons_of(values, 100, "raw", variance_threshold=0.00083) == []
    assert reasons_of(values, 100, "trimmed", variance_threshold=0.00084) == []


def test_a_constant_goes_even_where_any_variance_will_do():
    assert reasons_of([2.0] * 200, 200, variance_threshold=0.0) == ["constant"]


def test_a_trimmed_range_of_rounding_noise_counts_as_none():
    # 1000 equal values up to the last bit and a few outliers: scored on the noise it would vary as much as anything
    noisy = np.sort(np.concatenate([0.3 * (1 + np.arange(1000) % 2 * 2.0**-52), [1.0, 2.0]]))
    column = describe(noisy, len(noisy), "trimmed", (2.5, 97.5))
    assert column.degenerate and not column.constant
    assert column.normalized_variance == pytest.approx(np.var(noisy) / np.ptp(noisy) ** 2)
