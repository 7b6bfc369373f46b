"""Pass 2: Spearman correlation of all column pairs, exact, in one read of the codes (a few where values are missing).

Rank correlation is the Pearson correlation of mid-ranks (Spearman 1904); with d = 2 a - (n + 1) all sums are integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from descriptors.gram import ExactGram
from descriptors.ranks import centre, centre_filled, rerank


class Codes(Protocol):
    """The rank codes of a table, however they are stored: (P, N) unsigned, 0 = missing."""

    shape: tuple[int, int]

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(len(columns), stop - start) codes."""
        ...


def blocks(codes: Codes, columns: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row blocks of ``columns``, (P, B) unsigned; a few float64 copies of one fit into a quarter of ``budget``."""
    n_rows = codes.shape[1]
    step = max(min(budget // 4 // (32 * max(len(columns), 1)), n_rows), 64)
    for start in range(0, n_rows, step):
        yield codes.read(columns, start, min(start + step, n_rows))


def pairwise(
    codes: Codes,
    n_valid: np.ndarray,
    patterns: np.ndarray,
    min_common: int,
    budget: int,
    threads: int = 1,
    within: Callable[[Codes, np.ndarray, int, int], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Pairwise-complete Spearman: each pair of columns ranked on the rows that both have, as pandas does.

    Columns with missing values in the same rows share a pattern. A column is ranked once for each pattern that it
    meets, and two groups of columns are multiplied as matrices: P x (number of patterns) rankings, not P^2 / 2 pairs.

    Parameters
    ----------
    codes : (P, N).
    n_valid : (P,) int64.
    patterns : (P,) int64, equal for columns that are missing in the same rows.
    min_common : pairs with fewer common rows are undefined.
    budget : bytes of memory to plan with.
    threads : columns ranked at the same time.
    within : correlation of columns that share a pattern, :func:`same_rows` by default.
    progress : is told steps done and in all.

    Returns
    -------
    (P, P) float64, symmetric, unit diagonal; NaN where undefined.
    """
    n_columns, n_rows = codes.shape
    correlation = np.full((n_columns, n_columns), np.nan)
    groups = [np.flatnonzero(patterns == label) for label in np.unique(patterns)]
    # two tiles, each column on each pattern of the other tile
    width = max(math.isqrt(budget // 4 // (2 * 8 * n_rows)), 1) if n_rows else 1
    by_pattern = np.argsort(patterns, kind="stable")
    tiles = [by_pattern[i : i + width] for i in range(0, n_columns, width)] if len(groups) > 1 else []
    total, done = len(groups) + len(tiles) * (len(tiles) + 1) // 2, 0
    for group in groups:
        n = int(n_valid[group[0]])
        if n >= min_common:
            correlation[np.ix_(group, group)] = (within or same_rows)(codes, group, n, budget)
        done += 1
        if progress:
            progress(done, total)
    with ThreadPoolExecutor(threads) as pool:
        for i, first in enumerate(tiles):
            for second in tiles[i:]:
                _between(correlation, codes, patterns, first, second, min_common, pool)
                done += 1
                if progress:
                    progress(done, total)
    return _unit_diagonal(correlation)


def _between(
    correlation: np.ndarray,
    codes: Codes,
    patterns: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    min_common: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Fill in the pairs of two tiles of columns whose patterns differ."""
    if patterns[first[0]] == patterns[second[-1]]:
        return  # sorted by pattern: all of both tiles share one
    left_labels, right_labels = np.unique(patterns[first]), np.unique(patterns[second])
    left, left_norms, left_masks = _ranked(codes, first, patterns, right_labels, second, pool)
    if second is first:
        right, right_norms, right_masks = left, left_norms, left_masks
    else:
        right, right_norms, right_masks = _ranked(codes, second, patterns, left_labels, first, pool)
    common = (left_masks.astype(np.float64) @ right_masks.astype(np.float64).T).astype(np.int64)
    for a, left_label in enumerate(left_labels):
        rows = np.flatnonzero(patterns[first] == left_label)
        for b, right_label in enumerate(right_labels):
            n = int(common[a, b])
            if left_label == right_label or n < min_common or (second is first and b < a):
                continue
            columns = np.flatnonzero(patterns[second] == right_label)
            gram = ExactGram((len(rows), len(columns)), n, n, n)
            gram.add(left[rows, b].T, right[columns, a].T)
            block = normalise(gram.result(), left_norms[rows, b], right_norms[columns, a])
            correlation[np.ix_(first[rows], second[columns])] = block
            correlation[np.ix_(second[columns], first[rows])] = block.T


def _ranked(
    codes: Codes,
    columns: np.ndarray,
    patterns: np.ndarray,
    labels: np.ndarray,
    owners: np.ndarray,
    pool: ThreadPoolExecutor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``columns`` ranked on the rows they share with each pattern of ``labels``, that columns of ``owners`` have.

    Returns
    -------
    ranks : (p, B, N) float64 of integers, 0 outside the common rows.
    norms : (p, B) float64.
    own : (patterns of ``columns``, N) bool, valid rows.
    """
    n_rows = codes.shape[1]
    representatives = np.array([owners[np.flatnonzero(patterns[owners] == label)[0]] for label in labels])
    others = np.array([codes.read(column[None], 0, n_rows)[0] != 0 for column in representatives])
    ranks = np.empty((len(columns), len(labels), n_rows))
    norms = np.empty((len(columns), len(labels)))

    def fill(place: int) -> None:
        column = codes.read(columns[place : place + 1], 0, n_rows)[0]
        ranks[place], norms[place] = rerank(column, others & (column != 0))

    list(pool.map(fill, range(len(columns))))
    own = np.unique(patterns[columns], return_index=True)[1]
    return ranks, norms, np.array([codes.read(columns[place][None], 0, n_rows)[0] != 0 for place in own])


def same_rows(codes: Codes, columns: np.ndarray, n: int, budget: int) -> np.ndarray:
    """(p, p) Spearman correlation of columns that are all valid on the same ``n`` rows: one exact Gram matrix."""
    return _of_own_ranks(codes, columns, np.full(len(columns), n), budget)


def mean_ranks(codes: Codes, n_valid: np.ndarray, budget: int) -> np.ndarray:
    """(P, P) correlation of ranks where missing cells have their column's mean rank: a Gram matrix, never indefinite.

    Equal to Spearman's for complete columns; the more is missing, the more it is drawn to 0.
    """
    return _unit_diagonal(_of_own_ranks(codes, np.arange(codes.shape[0]), n_valid, budget))


def _of_own_ranks(codes: Codes, columns: np.ndarray, n_valid: np.ndarray, budget: int) -> np.ndarray:
    n_rows = codes.shape[1]
    gram = ExactGram((len(columns), len(columns)), n_rows, n_rows, n_rows)
    for block in blocks(codes, columns, budget):
        centred = centre(block, n_valid).T
        gram.add(centred, centred)
    sums = gram.result()
    return normalise(sums, np.diag(sums), np.diag(sums))


def normalise(sums: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """sums_ij / sqrt(left_i right_j), clipped to [-1, 1]; NaN where a norm is 0 (a column constant on these rows)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums / np.sqrt(np.outer(left, right))
    return np.where(np.outer(left > 0, right > 0), np.clip(ratio, -1.0, 1.0), np.nan)


def mean_filled(codes: Codes, n_valid: np.ndarray, n_below: np.ndarray, n_equal: np.ndarray, budget: int) -> np.ndarray:
    """Spearman after every missing cell took its column's mean value: attenuated, but positive semi-definite.

    Parameters as in :func:`descriptors.ranks.centre_filled`; returns (P, P) float64.
    """
    n_columns, n_rows = codes.shape
    gram = ExactGram((n_columns, n_columns), n_rows, n_rows, n_rows)
    for block in blocks(codes, np.arange(n_columns), budget):
        centred = centre_filled(block, n_valid, n_below, n_equal, n_rows).T
        gram.add(centred, centred)
    sums = gram.result()
    return _unit_diagonal(normalise(sums, np.diag(sums), np.diag(sums)))


def global_ranks(codes: Codes, n_valid: np.ndarray, min_common: int, budget: int) -> np.ndarray:
    """Correlation on common rows of ranks taken within each column's own rows, by four mask products.

    Cheap for any number of missingness patterns, but not Spearman's coefficient of the common rows, and far from it
    where missingness is informative.
    """
    n_columns, n_rows = codes.shape
    sums = MaskedSums(n_columns, n_rows, n_rows**2, n_rows)
    for block in blocks(codes, np.arange(n_columns), budget // 2):
        centred = centre(block, n_valid).T
        sums.add(centred, centred**2, (block != 0).T.astype(np.float64))
    return sums.correlation(min_common)


class MaskedSums:
    """Sums over the common rows of each pair: count, values, squares and products, by matrix products with the masks.

    With s_i|j = X'M and q_i|j = (X^2)'M:
    rho_ij = (c_ij - s_i|j s_j|i / n_ij) / sqrt((q_i|j - s_i|j^2 / n_ij) (q_j|i - s_j|i^2 / n_ij)).

    Parameters
    ----------
    n_columns : P.
    bound, square_bound : largest absolute integer among the values and among the squares.
    n_rows : rows in all.
    square_scale : (P,) unit of the squares over the square of the unit of the values.
    """

    def __init__(
        self, n_columns: int, bound: int, square_bound: int, n_rows: int, square_scale: np.ndarray | None = None
    ) -> None:
        shape = (n_columns, n_columns)
        self._scale = np.ones(n_columns) if square_scale is None else square_scale
        self._count = ExactGram(shape, 1, 1, n_rows)
        self._sum = ExactGram(shape, bound, 1, n_rows)
        self._square = ExactGram(shape, square_bound, 1, n_rows)
        self._product = ExactGram(shape, bound, bound, n_rows)

    def add(self, values: np.ndarray, squares: np.ndarray, mask: np.ndarray) -> None:
        """A block of rows: (B, P) float64 each; integers, 0 where missing; ``mask`` 1 where valid."""
        self._count.add(mask, mask)
        self._sum.add(values, mask)
        self._square.add(squares, mask)
        self._product.add(values, values)

    def correlation(self, min_common: int) -> np.ndarray:
        """(P, P) float64, unit diagonal; NaN for fewer than ``min_common`` common rows or no variation on them."""
        count, sums = self._count.result(), self._sum.result()
        n = np.maximum(count, 1.0)
        covariance = self._product.result() - sums * sums.T / n
        squares = self._square.result() * self._scale[:, None]
        variance = squares - sums * sums / n
        # below this share of the squares a variance is rounding noise
        varies = variance > 1e-12 * squares
        defined = (count >= min_common) & varies & varies.T
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = covariance / np.sqrt(variance * variance.T)
        return _unit_diagonal(np.where(defined, np.clip(ratio, -1.0, 1.0), np.nan))


def _unit_diagonal(correlation: np.ndarray) -> np.ndarray:
    np.fill_diagonal(correlation, 1.0)
    return correlation
