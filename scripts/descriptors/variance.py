"""Pass 1: what one column looks like, and whether it varies enough to be kept.

Everything is computed from the sorted values, so that neither batches nor the order of rows or files change a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from descriptors import kernels
from descriptors.kernels import WIDE

ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Column:
    """Statistics of one column's valid values; NaN where there are none."""

    n_valid: int
    n_missing: int
    n_distinct: int
    n_below_mean: int
    n_at_mean: int
    top_share: float
    mean: float
    std: float
    variance: float
    min: float
    max: float
    range: float
    clip_lower: float
    clip_upper: float
    trimmed_range: float
    normalized_variance: float
    constant: bool
    degenerate: bool

    @property
    def missing_ratio(self) -> float:
        return self.n_missing / (self.n_valid + self.n_missing)


def describe(ordered: np.ndarray, n_rows: int, range_mode: str, trim: tuple[float, float]) -> Column:
    """Statistics of a column.

    Parameters
    ----------
    ordered : (n,) float64, valid values, ascending, finite.
    n_rows : rows of the table, valid or not; >= 1.
    range_mode : minmax | trimmed | iqr | raw.
    trim : lower and upper percentile of the trimmed range, in percent.

    Notes
    -----
    Normalised variance is Var(w) / (q_hi - q_lo)^2 with w = clip(x, q_lo, q_hi): the same sample in numerator and
    denominator, hence in [0, 1/4] (Popoviciu 1935). Where the quantiles coincide it falls back to min and max, and
    ``degenerate`` says so. In mode raw it is the trimmed one; the plain ``variance`` (ddof 0) is what counts there.
    """
    n = len(ordered)
    if n == 0:
        return _empty(n_rows)
    # + 0.0 makes one zero of two, which sort as equal, in the order of the rows
    low, high = float(ordered[0]) + 0.0, float(ordered[-1]) + 0.0
    # the largest value is below 2^exponent; multiplying by powers of two is exact
    exponent = max(int(np.frexp(max(abs(low), abs(high)))[1]), -1000)
    # in two steps, as 2^shift may be out of range
    shift = WIDE - exponent
    factor, again = 2.0 ** (shift // 2), 2.0 ** (shift - shift // 2)
    lowest, highest = low * factor * again, high * factor * again
    lower, upper = (lowest, highest) if range_mode == "minmax" else _quantiles(ordered, range_mode, trim, factor, again)
    constant = _equal(lowest, highest)
    degenerate = _equal(lower, upper)
    if degenerate:
        lower, upper = lowest, highest
    width = upper - lower if upper > lower else 1.0
    mean, variance, normalised = kernels.moments(ordered, factor, again, lower, upper, width)
    original_mean = float(np.ldexp(mean, exponent))
    at_mean = np.searchsorted(ordered, original_mean, "left"), np.searchsorted(ordered, original_mean, "right")
    distinct, longest = kernels.runs(ordered)
    with np.errstate(over="ignore"):
        return Column(
            n_valid=n,
            n_missing=n_rows - n,
            n_distinct=distinct,
            n_below_mean=int(at_mean[0]),
            n_at_mean=int(at_mean[1] - at_mean[0]),
            top_share=longest / n,
            mean=original_mean,
            std=float(np.ldexp(np.sqrt(variance), exponent)),
            variance=float(np.ldexp(variance, 2 * exponent)),
            min=low,
            max=high,
            range=float(np.ldexp(highest - lowest, -shift)),
            clip_lower=float(np.ldexp(lower, -shift)),
            clip_upper=float(np.ldexp(upper, -shift)),
            trimmed_range=float(np.ldexp(upper - lower, -shift)),
            normalized_variance=0.0 if constant else normalised,
            constant=constant,
            degenerate=degenerate,
        )


def _empty(n_rows: int) -> Column:
    unknown = dict.fromkeys((field.name for field in fields(Column)), float("nan"))
    counts = {"n_valid": 0, "n_missing": n_rows, "n_distinct": 0, "n_below_mean": 0, "n_at_mean": 0}
    return Column(**(unknown | counts | {"constant": True, "degenerate": True}))  # type: ignore[arg-type]


def _equal(lower: float, upper: float) -> bool:
    """Whether lower <= upper differ by rounding only; relative, since descriptors come in any unit."""
    return bool(upper - lower <= ROUNDING * max(abs(lower), abs(upper)))


def _quantiles(
    ordered: np.ndarray, range_mode: str, trim: tuple[float, float], factor: float, again: float
) -> tuple[float, float]:
    """Scaled quantiles by linear interpolation (Hyndman & Fan 1996, type 7)."""
    values = []
    for percent in (25.0, 75.0) if range_mode == "iqr" else trim:
        place = percent / 100 * (len(ordered) - 1)
        below = min(int(place), len(ordered) - 1)
        above = min(below + 1, len(ordered) - 1)
        one, other = (float(value) * factor * again for value in ordered[[below, above]])
        values.append(one + (other - one) * (place - below) + 0.0)
    return values[0], values[1]


def removal_reasons(
    column: Column, range_mode: str, variance_threshold: float, max_missing_ratio: float, min_effective_n: int
) -> list[str]:
    """Every reason that applies for dropping the column; empty = keep."""
    reasons = []
    if column.n_valid == 0:
        reasons.append("all values missing")
    elif column.constant:
        reasons.append("constant")
    if column.n_valid:
        name, value, note = "normalised variance", column.normalized_variance, ""
        if range_mode == "raw":
            name, value = "variance", column.variance
        elif column.degenerate and not column.constant:
            note = " (degenerate trimmed range)"
        if not value >= variance_threshold:
            reasons.append(f"{name} {value:.3g} below {variance_threshold:g}{note}")
    if column.missing_ratio > max_missing_ratio:
        reasons.append(f"missing ratio {column.missing_ratio:.3g} above {max_missing_ratio:g}")
    if column.n_valid < min_effective_n:
        reasons.append(f"{column.n_valid} valid values, fewer than {min_effective_n}")
    return reasons
