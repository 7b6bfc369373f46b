"""Pass 4: exact sums of products of features, for the covariances of all pairs of columns of two tiles.

Integers are summed without a rounding: the same bytes for any block size, tile size, row order or thread count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.arrays import Unread
from descriptors import feature_kernels
from descriptors.codes import Ranks, row_blocks, unread
from descriptors.features import FeatureTables
from descriptors.gram import EXACT, HALF, LOW, WORD
from descriptors.tiles import Tile

ROUNDING = 1e-14  # variance below this share of the mean square is rounding noise
ROWS_AT_ONCE = 2**13  # of a block, at most
ROWS_OF_A_TASK = 16  # rows of a matrix that a thread takes at a time


@dataclass(frozen=True)
class ChosenRows:
    """Rank codes of which all rows are used, or some; ranks are those within each column's own rows of all.

    codes : (P, N), doubled mid-ranks, 0 = missing.
    n_valid : (P,) int64, valid values of each column in all rows.
    patterns : (P,) int64, equal for columns that are missing in the same rows.
    rows : ascending indices of the rows to use; None = all.
    """

    codes: Ranks
    n_valid: np.ndarray
    patterns: np.ndarray
    rows: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        return self.codes.shape[1] if self.rows is None else len(self.rows)

    def blocks(self, columns: np.ndarray, size: int) -> Iterator[Unread]:
        """(len(columns), B) codes of the chosen rows, ``size`` rows at a time."""
        if self.rows is None:
            return row_blocks(self.codes, columns, size)
        chosen = (self.rows[start : start + size] for start in range(0, len(self.rows), size))
        return (unread(columns, len(rows), partial(self._chosen, rows=rows)) for rows in chosen)

    def _chosen(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes of ``rows``, ascending, which may lie far apart: a few times as many are read at once."""
        parts, place = [], 0
        while place < len(rows):
            start = int(rows[place])
            after = int(np.searchsorted(rows, start + 4 * len(rows)))
            parts.append(self.codes.read(columns, start, int(rows[after - 1]) + 1)[:, rows[place:after] - start])
            place = after
        return np.concatenate(parts, axis=1)


def ahead(blocks: Iterable[Unread]) -> Iterator[np.ndarray]:
    """Whole blocks, each read from the disk while the one before is worked on."""
    whole = (block.whole() for block in blocks)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, whole, None)
        while (read := coming.result()) is not None:
            coming = reader.submit(next, whole, None)
            yield read


@dataclass(frozen=True)
class Block:
    """Rows of two tiles (of one, for the pairs within it), those that have the same values missing side by side.

    features : (columns * width, B) float64 of integers, 0 where missing; the left tile's columns come first.
    starts : (S + 1,) int64, bounds of the runs of such rows.
    masks : (S, Q) bool, which of the tiles' patterns, the left tile's first, have a value in the rows of a run.
    """

    features: np.ndarray
    starts: np.ndarray
    masks: np.ndarray


def runs(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by what they miss: (Q, B) bool -> their order (B,), bounds of runs (S + 1,), masks of runs (S, Q)."""
    n_patterns, n_rows = masks.shape
    if masks.all():
        return np.arange(n_rows), np.array([0, n_rows]), np.ones((1, n_patterns), bool)
    packed = np.zeros((n_rows, 8 * math.ceil(n_patterns / 64)), np.uint8)
    packed[:, : math.ceil(n_patterns / 8)] = np.packbits(masks, axis=0).T
    words = packed.view(np.uint64)
    order = np.lexsort(words.T)
    changes = 1 + np.flatnonzero((words[order[1:]] != words[order[:-1]]).any(axis=1))
    starts = np.concatenate([[0], changes, [n_rows]])
    return order, starts, np.ascontiguousarray(masks[:, order[starts[:-1]]].T)


class Sums:
    """Integers that add up without a rounding: 64-bit words, and second ones if one would not hold them.

    Parameters
    ----------
    bound : largest absolute value that a row can add to any of them.
    n_rows : rows in all.
    """

    def __init__(self, shape: tuple[int, ...], bound: int, n_rows: int) -> None:
        self.words = np.zeros(shape, np.int64)
        self._rows = WORD // bound
        self._added = 0
        self._high = np.zeros(shape, np.int64) if n_rows > self._rows else None

    def expect(self, n_rows: int) -> None:
        """Make room in ``words`` for the sums of so many rows."""
        self._added += n_rows
        if self._added > self._rows and self._high is not None:
            self._carry(self._high)
            self._added = n_rows

    def _carry(self, high: np.ndarray) -> None:
        for more, less in zip(high, self.words, strict=True):
            more += less >> HALF
            less &= LOW

    def take(self, high: np.ndarray, low: np.ndarray) -> None:
        """Add the sums of all rows at once, high 2^32 + low."""
        if self._high is None:
            self.words += (high << HALF) + low
        else:
            self._high += high
            self.words += low
            self._carry(self._high)

    def result(self) -> np.ndarray:
        """The sums in float64, correctly rounded; they take the place of the words."""
        rounded = self.words.view(np.float64)
        if self._high is None:
            for out, less in zip(rounded, self.words, strict=True):
                out[...] = less.astype(np.float64)
            return rounded
        self._carry(self._high)
        for out, less, more in zip(rounded, self.words, self._high, strict=True):
            out[...] = np.ldexp(more.astype(np.float64), HALF) + less
        return rounded


class Moments:
    """Means and covariances of a tile's features over the rows that each pattern of the opposite tile leaves."""

    def __init__(self, n_columns: int, n_patterns: int, width: int, bound: int, n_rows: int) -> None:
        self._width = width
        self._sums = Sums((n_columns, n_patterns, width), bound, n_rows)
        self._squares = Sums((n_columns, n_patterns, width * (width + 1) // 2), bound**2, n_rows)

    def add(self, features: np.ndarray, starts: np.ndarray, masks: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """The tile's part of a block: ``features`` (T d, B), and ``masks`` (S, Q) of the opposite tile's patterns."""
        self._sums.expect(features.shape[1])
        self._squares.expect(features.shape[1])
        masks = np.ascontiguousarray(masks)

        def of_column(column: int) -> None:
            own = features[column * self._width : (column + 1) * self._width]
            sums, squares = self._sums.words[column], self._squares.words[column]
            feature_kernels.add_moments(own, starts, masks, sums, squares)

        list(pool.map(of_column, range(len(self._sums.words))))

    def take(self, sums: tuple[np.ndarray, np.ndarray], squares: tuple[np.ndarray, np.ndarray]) -> None:
        """Add the sums of all rows at once, high and low words of each."""
        self._sums.take(*sums)
        self._squares.take(*squares)

    def result(self, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From ``count`` (T, Q), the common rows: means (T, Q, d), covariances (T, Q, d, d), rounding noise (T, Q)."""
        n = np.maximum(count, 1.0)[:, :, None]
        mean = self._sums.result() / n
        row, column = np.triu_indices(self._width)
        square = np.empty((*count.shape, self._width, self._width))
        square[..., row, column] = self._squares.result() / n
        square[..., column, row] = square[..., row, column]
        noise = ROUNDING * np.trace(square, axis1=2, axis2=3)
        square -= mean[..., :, None] * mean[..., None, :]
        return mean, square, noise


class TilePair:
    """All sums that the pairs of two tiles need; ``left is right`` for the pairs within a tile."""

    def __init__(
        self, left: Tile, right: Tile, tables: FeatureTables, codes: ChosenRows, pool: ThreadPoolExecutor
    ) -> None:
        self.left, self.right, self.tables, self.codes, self.pool = left, right, tables, codes, pool
        self.within = left is right
        self.columns = left.columns if self.within else np.concatenate([left.columns, right.columns])
        self._n_valid = codes.n_valid[self.columns].tolist()
        width, bound, n_rows = tables.dictionary.width, tables.dictionary.bound, codes.n_rows
        self.width, self.bound = width, bound
        shape, patterns = (len(left.columns), len(right.columns)), (len(left.first), len(right.first))
        self.product = Sums((shape[0] * width, shape[1] * width), bound**2, n_rows)
        self.count = np.zeros(patterns, np.int64)
        self.moments = [Moments(shape[0], patterns[1], width, bound, n_rows)]
        if not self.within:
            self.moments.append(Moments(shape[1], patterns[0], width, bound, n_rows))
        tables.prepare(codes.n_valid[self.columns])

    def accumulate(self, budget: int, read: Callable[[int], None]) -> None:
        """Read the codes once; ``read`` is told the rows of every block."""
        height = len(self.columns) * self.width
        size = min(max(budget // (8 * max(height, 1)), 64), ROWS_AT_ONCE, EXACT // self.bound**2 - 1)
        size -= 8 * (size % 512 == 0)  # or features, a multiple of 4 KB apart, would share the same few cache lines
        buffer = np.empty(height * size)
        product = np.empty(self.product.words.shape)
        for codes in ahead(self.codes.blocks(self.columns, size)):
            self._add(self._look_up(np.ascontiguousarray(codes, np.uint32), buffer), product)
            read(codes.shape[1])

    def _look_up(self, codes: np.ndarray, buffer: np.ndarray) -> Block:
        n_rows, width = codes.shape[1], self.width
        features = buffer[: len(codes) * width * n_rows].reshape(-1, n_rows)
        first = self.left.first
        if not self.within:
            first = np.concatenate([first, len(self.left.columns) + self.right.first])
        order, starts, masks = runs(codes[first] != 0)

        def of_column(column: int) -> None:
            own = features[column * width : (column + 1) * width]
            self.tables.fill(own, codes[column], order, self._n_valid[column])

        list(self.pool.map(of_column, range(len(codes))))
        return Block(features, starts, masks)

    def _add(self, block: Block, product: np.ndarray) -> None:
        n_left, n_patterns = len(self.left.columns) * self.width, len(self.left.first)
        left, right = block.features[:n_left], block.features[n_left:]
        left_masks, right_masks = block.masks[:, :n_patterns], block.masks[:, n_patterns:]
        if self.within:
            right, right_masks = left, left_masks
        else:
            self.moments[-1].add(right, block.starts, left_masks, self.pool)
        self.moments[0].add(left, block.starts, right_masks, self.pool)
        self.count += (np.diff(block.starts)[:, None] * left_masks).T @ right_masks.astype(np.int64)
        self.product.expect(block.features.shape[1])
        np.matmul(left, right.T, out=product)

        def rows(first: int) -> None:
            last = min(first + self.width * ROWS_OF_A_TASK, n_left)
            feature_kernels.add_product(product, self.within, first, last, self.product.words)

        list(self.pool.map(rows, range(0, n_left, self.width * ROWS_OF_A_TASK)))
