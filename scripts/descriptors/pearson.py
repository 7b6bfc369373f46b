"""Pearson correlation of values, exact to the last bit of a fixed-point format and free of the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from descriptors.gram import ExactGram, fixed_point
from descriptors.spearman import MaskedSums, of_gram, told

BITS = 52  # of the largest deviation from the column's centre


def correlation(
    blocks: Callable[[], Iterable[np.ndarray]],
    n_rows: int,
    stats: dict[str, np.ndarray],
    missing: str,
    min_common: int,
    read: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Pearson correlation of all column pairs.

    Parameters
    ----------
    blocks : gives the row blocks, each (P, B) float64 with NaN = missing.
    n_rows : rows in all.
    stats : mean, min, max of each column, (P,) float64.
    missing : mean = missing cells take the column mean; otherwise each pair is taken on its common rows (Pearson needs
        no re-ranking, so that pairwise and global_ranks are the same here).
    min_common : pairs with fewer common rows are undefined.
    read : is told how many rows are done.

    Returns
    -------
    (P, P) float64, unit diagonal; NaN where a column does not vary on the rows of the pair, or these are too few.
    """
    centre = stats["mean"]
    reach = np.maximum(stats["max"] - centre, centre - stats["min"])
    exponent = np.frexp(reach)[1].astype(np.int64)
    bound = 1 << BITS
    n_columns = len(centre)
    if missing == "mean":
        gram = ExactGram((n_columns, n_columns), bound, bound, n_rows)
        for block in told(blocks(), read):
            deviations = fixed_point(block.T, centre, exponent, BITS)
            gram.add(deviations, deviations)
        return of_gram(gram.result())
    # squares in units of 2^BITS of those of the values
    totals = MaskedSums(n_columns, bound, bound, n_rows, square_scale=2.0**BITS)
    for block in told(blocks(), read):
        deviations = fixed_point(block.T, centre, exponent, BITS)
        squares = np.rint(np.square(deviations) / 2.0**BITS)
        totals.add(deviations, squares, (~np.isnan(block)).T.astype(np.float64))
    return totals.correlation(min_common)
