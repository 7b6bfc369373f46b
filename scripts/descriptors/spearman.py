"""Pass 2: Spearman correlation of all column pairs, exact, in one read of the codes (a few where values are missing).

Rank correlation is the Pearson correlation of mid-ranks (Spearman 1904); with d = 2 a - (n + 1) all sums are integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from descriptors import kernels
from descriptors.codes import Codes, row_blocks
from descriptors.common_rows import BYTES_A_VALUE, FEW, products
from descriptors.gram import ExactGram, join
from descriptors.ranks import centre, centre_filled
from descriptors.tiles import Tile

ROUNDING = 1e-9  # of an angle in float64, near 0
STRIP = 1 << 13  # rows of a block that is centred and multiplied while it is in the cache
LONG = 1 << 20  # rows of one column that are read at once


@dataclass(frozen=True)
class Correlations:
    """Spearman correlation of some columns, left, with some, right.

    rho : (p, q) float64, NaN = undefined.
    angle : (p, q) float32; arccos(rho) is known up to this. None where every rank was told apart: 0.
    """

    rho: np.ndarray
    angle: np.ndarray | None

    def where(self, defined: np.ndarray) -> Correlations:
        """The others are undefined, and certainly so."""
        angle = None if self.angle is None else np.where(defined, self.angle, np.float32(0))
        return Correlations(np.where(defined, self.rho, np.nan), angle)

    @classmethod
    def undefined(cls, shape: tuple[int, int], shift: int) -> Correlations:
        """Of no pair yet; ``shift`` as in :class:`descriptors.codes.Codes`."""
        return cls(np.full(shape, np.nan), np.zeros(shape, np.float32) if shift else None)

    def put(self, rows: np.ndarray, columns: np.ndarray, each: Correlations, mirrored: bool) -> None:
        """``each`` comes to some ``rows`` and ``columns``; ``mirrored``: and to the pairs the other way round."""
        for matrix, block in ((self.rho, each.rho), (self.angle, each.angle)):
            if matrix is not None and block is not None:
                matrix[np.ix_(rows, columns)] = block
                if mirrored:
                    matrix[np.ix_(columns, rows)] = block.T

    def set_diagonal(self) -> None:
        """Of every column with itself: 1, exactly."""
        np.fill_diagonal(self.rho, 1.0)
        if self.angle is not None:
            np.fill_diagonal(self.angle, 0.0)

    @property
    def largest_angle(self) -> float:
        return 0.0 if self.angle is None else float(self.angle.max(initial=0.0))


def blocks(codes: Codes, columns: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row blocks of ``columns``, (P, B) unsigned; a few float64 copies of one fit into a quarter of ``budget``."""
    n_rows = codes.shape[1]
    size = max(min(budget // 4 // (32 * max(len(columns), 1)), n_rows), 64)
    return (block.whole() for block in row_blocks(codes, columns, size))


def told(blocks: Iterable[np.ndarray], read: Callable[[int], None] | None) -> Iterator[np.ndarray]:
    """(P, B) blocks as they are; ``read`` is told how many rows are done."""
    done = 0
    for block in blocks:
        yield block
        done += block.shape[1]
        if read:
            read(done)


def pairwise(
    codes: Codes,
    n_valid: np.ndarray,
    patterns: np.ndarray,
    min_common: int,
    budget: int,
    threads: int = 1,
    within: Callable[..., Correlations] | None = None,
    progress: Callable[[int, int], None] | None = None,
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
) -> Correlations:
    """Pairwise-complete Spearman: each pair of columns ranked on the rows that both have, as pandas does.

    Columns with missing values in the same rows share a pattern. A column is ranked once for each pattern that it
    meets, by counting its cells on the common rows, and two groups of columns are multiplied as matrices: P x (number
    of patterns) rankings, not P^2 / 2 pairs. The memory does not grow with the rows, but for tables of the cells.

    Parameters
    ----------
    codes : (P, N).
    n_valid : (P,) int64.
    patterns : (P,) int64, equal for columns that are missing in the same rows.
    min_common : pairs with fewer common rows are undefined.
    budget : bytes of memory to plan with.
    threads : columns worked on at the same time.
    within : correlation of columns that share a pattern, :func:`same_rows` by default.
    progress : is told work done and in all, in pairs of columns times rows.
    left, right : the columns to correlate, all by default; the same ones, or none in common.

    Returns
    -------
    (p, q) correlations, of a column with itself 1; NaN where a column does not vary on the rows of the pair, or these
    are too few.
    """
    everything = np.arange(codes.shape[0])
    left = everything if left is None else left
    right = everything if right is None else right
    symmetric = np.array_equal(left, right)
    found = Correlations.undefined((len(left), len(right)), codes.shift)
    pairs = _tile_pairs(codes, patterns, left, right, symmetric, budget)
    groups = _sharing(patterns[left], patterns[right])
    sizes = [len(one) * len(other) for one, other in [*pairs, *groups]]
    reads = _parts(codes.shape[1], sizes, progress or (lambda *_: None))
    with ThreadPoolExecutor(threads) as pool:
        for first, second in pairs:
            one = Tile.of(left[first], patterns)
            other = one if symmetric and first is second else Tile.of(right[second], patterns)
            again = _ranked_again(codes, one, other, min_common, budget // 4, pool, threads, next(reads))
            found.put(first, second, again, symmetric)
        for rows, columns in groups:
            n, read = int(n_valid[left[rows[0]]]), next(reads)
            if n >= min_common and not (symmetric and len(rows) == 1):
                given = codes, left[rows], right[columns], n, budget, threads
                found.put(rows, columns, (within or same_rows)(*given, read=read), symmetric)
    next(reads, None)
    if symmetric:
        found.set_diagonal()
    return found


def _sharing(left: np.ndarray, right: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Places of the columns of either side that share a pattern, pattern by pattern."""
    return [(np.flatnonzero(left == label), np.flatnonzero(right == label)) for label in np.intersect1d(left, right)]


def _parts(n_rows: int, sizes: list[int], progress: Callable[[int, int], None]) -> Iterator[Callable[[int], None]]:
    """For each part, of so many pairs of columns, what is to be told how many rows of it are done."""
    total, done = n_rows * sum(sizes), 0
    for size in sizes:

        def read(rows: int, before: int = done, size: int = size) -> None:
            progress(before + size * rows, total)

        yield read
        done += size * n_rows
        progress(done, total)


def _ranked_again(
    codes: Codes,
    left: Tile,
    right: Tile,
    min_common: int,
    budget: int,
    pool: ThreadPoolExecutor,
    threads: int,
    read: Callable[[int], None],
) -> Correlations:
    """Of the columns of two tiles, each pair ranked on its common rows; undefined where they share a pattern."""
    sums = products(codes, left, right, min_common, budget, pool, threads, read)
    differ = left.patterns[left.labels][:, None] != right.patterns[right.labels]
    return _coefficients(
        sums.sums,
        Totals(sums.left_total, sums.left_squares, codes.split[left.columns][:, None]),
        Totals(sums.right_total, sums.right_squares, codes.split[right.columns]),
        sums.rows,
        codes.shift,
        REGROUPED,
    ).where(differ & (sums.rows >= min_common))


def _tile_pairs(
    codes: Codes, patterns: np.ndarray, left: np.ndarray, right: np.ndarray, symmetric: bool, budget: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of tiles, as positions in ``left`` and ``right``, that have pairs of columns with different patterns.

    A tile has columns of few patterns; a table for each of its columns and each pattern of the other one fits. Or its
    columns fit, if they are ranked pair by pair.
    """
    ordered = [np.argsort(patterns[side], kind="stable") for side in (left, right)]
    largest = 4 * int(codes.sizes.max(initial=1))
    width = max(len(left), len(right), 1)

    def cut() -> list[list[np.ndarray]]:
        return [[side[i : i + width] for i in range(0, len(side), width)] for side in ordered]

    def needed(tiles: list[list[np.ndarray]]) -> int:
        labels = [
            max((len(np.unique(patterns[side[tile]])) for tile in parts), default=0)
            for side, parts in zip((left, right), tiles, strict=True)
        ]
        return width * (labels[0] + labels[1]) * largest

    alone = max(int(np.unique(patterns[side], return_counts=True)[1].max(initial=1)) for side in (left, right))
    by_pairs = budget // 4 // (2 * BYTES_A_VALUE * codes.shape[1]) if alone <= FEW else 0
    while width > max(by_pairs, 1) and needed(cut()) > budget // 2:
        width = (width + 1) // 2
    lefts, rights = cut()
    if symmetric:
        pairs = [(one, other) for i, one in enumerate(lefts) for other in lefts[i:]]
    else:
        pairs = [(one, other) for one in lefts for other in rights]
    return [
        (one, other)
        for one, other in pairs
        if len(np.unique(np.concatenate([patterns[left[one]], patterns[right[other]]]))) > 1
    ]


class Totals(NamedTuple):
    """Of the columns on one side: sums of their scores, and of the squares; whether a cell may hold several values.

    (p, 1) or (p, q) float64, bool; (q,) or (p, q) on the right.
    """

    total: np.ndarray
    squares: np.ndarray
    split: np.ndarray


# a score is off its rank by at most half a step from rounding, and where a cell holds several values by ...
MIDDLE = 0.5  # ... half a step, as the middle of its cell
REGROUPED = 1.0  # ... one, as the mid-rank of all rows in its cell


def _coefficients(
    sums: np.ndarray, left: Totals, right: Totals, n: np.ndarray | int, shift: int, within_cell: float
) -> Correlations:
    """Correlations, with their angles, from the (p, q) sums of products of scores over n rows.

    Scores and ranks, as vectors, differ by at most sqrt(n) times the error of a score, so their angle is at most its
    arcsine over the length of the scores; angles between vectors obey the triangle inequality.
    """
    if shift == 0:
        return Correlations(normalise(sums, left.squares, right.squares), None)
    n = np.maximum(n, 1)
    squares, angles = [], []
    for side in (left, right):
        error = np.sqrt(n) * (0.5 + within_cell * side.split)
        square = side.squares - side.total**2 / n
        with np.errstate(invalid="ignore", divide="ignore"):
            angles.append(np.where(square > error**2, np.arcsin(np.minimum(error / np.sqrt(square), 1)), np.pi))
        squares.append(square)
    rho = normalise(sums - left.total * right.total / n, *squares)
    return Correlations(rho, np.asarray(angles[0] + angles[1], np.float32))


# codes, left, right, n_valid, n -> what ``centred_gram`` returns
Gram = Callable[[Codes, np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def same_rows(
    codes: Codes,
    left: np.ndarray,
    right: np.ndarray,
    n: int,
    budget: int,
    threads: int = 1,
    gram: Gram | None = None,
    read: Callable[[int], None] | None = None,
) -> Correlations:
    """(p, q) Spearman correlation of columns that are all valid on the same ``n`` rows: one exact Gram matrix.

    ``gram`` : computes it in the place of :func:`centred_gram`, to the same bytes. ``read`` : as there.
    """
    symmetric = np.array_equal(left, right)
    columns = left if symmetric else np.concatenate([left, right])
    gram = gram or partial(centred_gram, budget=budget, threads=threads, read=read)
    sums, told = gram(codes, left, right, np.full(len(columns), n), n)
    total, squares = told[:, 0].astype(np.float64), join(told[:, 1], told[:, 2])
    one, other = slice(len(left)), slice(len(left)) if symmetric else slice(len(left), None)
    split = codes.split[columns]
    return _coefficients(
        sums,
        Totals(total[one, None], squares[one, None], split[one, None]),
        Totals(total[other], squares[other], split[other]),
        n,
        codes.shift,
        MIDDLE,
    )


def centred_gram(
    codes: Codes,
    left: np.ndarray,
    right: np.ndarray,
    n_valid: np.ndarray,
    n: int,
    budget: int,
    threads: int,
    read: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products of ranks centred within each column's own rows, and what :func:`centred` tells.

    Every thread reads, centres and multiplies blocks of rows of its own, as many threads as have room for a matrix of
    sums; as integers these add up the same in any order. ``n_valid`` is of the left columns and, if they are others,
    of the right ones after them; none is above ``n``. ``read`` is told how many rows are done.
    """
    symmetric = np.array_equal(left, right)
    columns = left if symmetric else np.concatenate([left, right])
    bound = (n >> codes.shift) + 1
    n_rows, width = codes.shape[1], max(len(columns), 1)
    workers = int(np.clip(budget // 4 // max(24 * len(left) * len(right), 1), 1, threads))
    # of a block that is read, and of one that is centred
    step = int(np.clip(budget // 8 // workers // (4 * width), 1024, min(LONG, -(-n_rows // (4 * workers)) + 1024)))
    strip = int(np.clip(budget // 8 // workers // (8 * width), 512, STRIP))

    lock, done = Lock(), 0

    def tell(rows: int) -> None:
        nonlocal done
        with lock:
            done += rows
            if read:
                read(done)

    def add(worker: int) -> tuple[ExactGram, np.ndarray]:
        gram = ExactGram((len(left), len(right)), bound, bound, n)
        told = np.zeros((len(columns), 3), np.int64)
        starts = range(worker * step, n_rows, workers * step)
        for block in centred(codes, columns, n_valid, starts, step, strip, told):
            ranks = block[: len(left)].T
            gram.add(ranks, ranks if symmetric else block[len(left) :].T)
            tell(block.shape[1])
        return gram, told

    with threadpool_limits(max(threads // workers, 1), user_api="blas"), ThreadPoolExecutor(workers) as pool:
        (gram, told), *others = pool.map(add, range(workers))
    for more, also in others:
        gram.merge(more)
        told += also
    return gram.result(), told


def centred(
    codes: Codes,
    columns: np.ndarray,
    n_valid: np.ndarray,
    starts: Sequence[int],
    step: int,
    strip: int,
    told: np.ndarray,
) -> Iterator[np.ndarray]:
    """Ranks centred within each column's own rows, (P, B) float64 of integers in units of 2^shift, halves up.

    ``step`` rows from each of ``starts`` are read at once and yielded by ``strip`` rows, in an array that is used
    again. ``told`` (P, 3) int64: their sums, and the sums of their squares in two words, are added to it.
    """
    centres = n_valid + 1
    ahead = np.empty(len(columns) * strip)
    for start in starts:
        read = codes.read(columns, start, min(start + step, codes.shape[1]))
        for first in range(0, read.shape[1], strip):
            block = read[:, first : first + strip]
            out = ahead[: block.size].reshape(block.shape)
            for place, each in enumerate(block):
                kernels.centre(each, int(centres[place]), codes.shift, out[place], told[place])
            yield out


def settle(
    found: Correlations,
    codes: Codes,
    n_valid: np.ndarray,
    patterns: np.ndarray,
    min_common: int,
    budget: int,
    threshold: float,
    left: np.ndarray,
    right: np.ndarray,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """``found.rho``, and pairs that may lie on either side of ``threshold`` computed with all ranks told apart.

    Parameters
    ----------
    codes : of all columns, with all ranks told apart.
    progress : is told pairs done and in all.
    The others as in :func:`pairwise`; ``left``, ``right`` as they were there.

    Returns
    -------
    rho : (p, q) float64, on the side of the threshold where the exact coefficients are.
    count : how many pairs were computed again.
    """
    rho = found.rho.copy()
    if found.angle is None:
        return rho, 0
    distance = np.abs(np.arccos(np.abs(np.nan_to_num(rho))) - math.acos(min(threshold, 1.0)))
    # undefined with an error: all of the common rows may be in one cell, and differ within it
    unsure = np.where(np.isnan(rho), found.angle > 0, distance <= found.angle + ROUNDING)
    unsure[left[:, None] == right[None, :]] = False
    symmetric = np.array_equal(left, right)
    pairs = np.argwhere(np.triu(unsure) if symmetric else unsure)
    for done, (i, j) in enumerate(pairs, start=1):
        exact = pairwise(codes, n_valid, patterns, min_common, budget, threads, left=left[[i]], right=right[[j]]).rho[
            0, 0
        ]
        rho[i, j] = exact
        if symmetric:
            rho[j, i] = exact
        if progress:
            progress(done, len(pairs))
    return rho, len(pairs)


def mean_ranks(
    codes: Codes, n_valid: np.ndarray, budget: int, threads: int = 1, read: Callable[[int], None] | None = None
) -> np.ndarray:
    """(P, P) correlation of ranks where missing cells have their column's mean rank: a Gram matrix, never indefinite.

    Equal to Spearman's for complete columns; the more is missing, the more it is drawn to 0. ``read`` is told how many
    rows are done, here and in the functions below.
    """
    everything = np.arange(codes.shape[0])
    sums, _ = centred_gram(codes, everything, everything, n_valid, codes.shape[1], budget, threads, read)
    return of_gram(sums)


def of_gram(sums: np.ndarray) -> np.ndarray:
    """(P, P) correlations from sums of products of deviations; NaN where a column is constant, 1 with itself."""
    return _unit_diagonal(normalise(sums, np.diag(sums)[:, None], np.diag(sums)))


def normalise(sums: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """sums_ij / sqrt(left_i right_j), clipped to [-1, 1]; NaN where a norm is 0 (a column constant on these rows).

    ``left``, (p, 1) or (p, q), and ``right``, (q,) or (p, q), are sums of squares.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sums / np.sqrt(left * right)
    return np.where((left > 0) & (right > 0), np.clip(ratio, -1.0, 1.0), np.nan)


def mean_filled(
    codes: Codes,
    n_valid: np.ndarray,
    n_below: np.ndarray,
    n_equal: np.ndarray,
    budget: int,
    read: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Spearman after every missing cell took its column's mean value: attenuated, but positive semi-definite.

    Parameters as in :func:`descriptors.ranks.centre_filled`; returns (P, P) float64.
    """
    n_columns, n_rows = codes.shape
    gram = ExactGram((n_columns, n_columns), n_rows, n_rows, n_rows)
    for block in told(blocks(codes, np.arange(n_columns), budget), read):
        centred = centre_filled(block, n_valid, n_below, n_equal, n_rows).T
        gram.add(centred, centred)
    return of_gram(gram.result())


def global_ranks(
    codes: Codes, n_valid: np.ndarray, min_common: int, budget: int, read: Callable[[int], None] | None = None
) -> np.ndarray:
    """Correlation on common rows of ranks taken within each column's own rows, by four mask products.

    Cheap for any number of missingness patterns, but not Spearman's coefficient of the common rows, and far from it
    where missingness is informative.
    """
    n_columns, n_rows = codes.shape
    sums = MaskedSums(n_columns, n_rows, n_rows**2, n_rows)
    for block in told(blocks(codes, np.arange(n_columns), budget // 2), read):
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
    square_scale : unit of the squares over the square of the unit of the values.
    """

    def __init__(self, n_columns: int, bound: int, square_bound: int, n_rows: int, square_scale: float = 1.0) -> None:
        shape, self._scale = (n_columns, n_columns), square_scale
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
        squares = self._square.result() * self._scale
        variance = squares - sums * sums / n
        # below this share of the squares a variance is rounding noise
        varies = variance > 1e-12 * squares
        defined = (count >= min_common) & varies & varies.T
        return _unit_diagonal(np.where(defined, normalise(covariance, variance, variance.T), np.nan))


def _unit_diagonal(correlation: np.ndarray) -> np.ndarray:
    np.fill_diagonal(correlation, 1.0)
    return correlation
