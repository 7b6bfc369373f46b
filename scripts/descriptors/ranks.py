"""Mid-ranks as integers. A column enters passes 2 to 4 only through its code: 0 = missing, else twice its mid-rank."""

from __future__ import annotations

import numpy as np


def code_type(n_rows: int) -> np.dtype:
    """Smallest unsigned type that holds every code of a table with ``n_rows`` rows (codes go up to 2 n_rows)."""
    return np.min_scalar_type(2 * n_rows)


def doubled_midranks(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Codes of one column, and its valid values in ascending order.

    Parameters
    ----------
    values : (N,) float64, NaN = missing.
    dtype : unsigned integer type that holds 2 N.

    Returns
    -------
    codes : (N,) ``dtype``; 2 a with a the mid-rank among the valid values (ties averaged, first rank 1), 0 if missing.
    ordered : (n,) float64, the valid values, ascending.
    """
    valid = np.flatnonzero(~np.isnan(values))
    present = values[valid]
    order = np.argsort(present)
    ordered = present[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else valid
    counts = np.diff(starts, append=len(ordered))
    codes = np.zeros(len(values), dtype)
    # ranks starts+1 .. starts+counts average to starts + (counts + 1) / 2
    codes[valid[order]] = np.repeat(2 * starts + counts + 1, counts)
    return codes, ordered


def rerank(codes: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred ranks of one column on several subsets of its rows: a counting sort, O(N) a subset.

    Parameters
    ----------
    codes : (N,) unsigned codes of the column, ranked among its own rows (those where the code is not 0).
    masks : (B, N) bool, the subsets; none contains a row where the code is 0.

    Returns
    -------
    centred : (B, N) float64 of integers 2 a - (n + 1), a the mid-rank among the n rows of the subset; 0 outside it.
    norms : (B,) float64, their sums of squares.
    """
    n_own = int(np.count_nonzero(codes))
    proper = np.count_nonzero(masks, axis=1) < n_own
    centred, norms = np.empty(masks.shape), np.empty(len(masks))
    if not proper.all():
        # all of its rows: they are ranked already
        own = centre(codes[None], np.array([n_own]))[0]
        centred[~proper], norms[~proper] = own, own @ own
    if proper.any():
        centred[proper], norms[proper] = _count_ranks(codes, masks[proper])
    return centred, norms


def _count_ranks(codes: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    level = (np.cumsum(np.bincount(codes) > 0, dtype=np.int32) - 1)[codes]
    n_levels = int(level.max()) + 1
    counts = np.array([np.bincount(level, mask, n_levels) for mask in masks])
    upto = np.cumsum(counts, axis=1)
    ranks = 2 * upto - counts - upto[:, -1:]
    centred = np.take(ranks, level, axis=1)
    centred *= masks
    return centred, np.einsum("bk,bk,bk->b", ranks, ranks, counts)


def centre(codes: np.ndarray, n_valid: np.ndarray) -> np.ndarray:
    """Centred ranks d = 2 a - (n + 1) within each column's own rows; 0 where missing.

    Parameters
    ----------
    codes : (P, B) unsigned.
    n_valid : (P,) valid values of each column in the whole table.

    Returns
    -------
    (P, B) float64 of integers.
    """
    centred = codes.astype(np.float64)
    centred -= (n_valid + 1.0)[:, None]
    centred[codes == 0] = 0.0
    return centred


def centre_filled(
    codes: np.ndarray, n_valid: np.ndarray, n_below: np.ndarray, n_equal: np.ndarray, n_rows: int
) -> np.ndarray:
    """Centred ranks after every missing cell took its column's mean value.

    Parameters
    ----------
    codes : (P, B) unsigned.
    n_valid, n_below, n_equal : (P,) valid values; those below the column mean; those equal to it.
    n_rows : rows of the whole table.

    Returns
    -------
    (P, B) float64 of integers 2 a - (N + 1).
    """
    missing = (n_rows - n_valid)[:, None]
    below, upto = 2 * n_below[:, None], 2 * (n_below + n_equal)[:, None]
    ranks = codes.astype(np.int64)
    at_mean = (ranks == 0) | ((ranks > below) & (ranks <= upto))
    ranks += np.where(ranks > upto, 2 * missing, 0)
    ranks = np.where(at_mean, below + n_equal[:, None] + missing + 1, ranks)
    return (ranks - (n_rows + 1)).astype(np.float64)
