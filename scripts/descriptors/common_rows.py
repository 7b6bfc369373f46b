"""Columns ranked again on the rows that they share: sums of products of ranks for the pairs of two tiles of columns.

A column is ranked once for each missingness pattern that it meets, by counting how often each of its cells occurs on
the common rows. Groups of columns are then multiplied as matrices; where a pattern has few columns, pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from descriptors import kernels, pair_kernels
from descriptors.codes import Codes
from descriptors.gram import ExactGram, join
from descriptors.ranks import doubled_midranks
from descriptors.tiles import Tile

PART = 64  # columns of either side that are multiplied by one thread
PAIRS = 16  # pairs that one thread takes at a time
FEW = 3  # columns of a pattern up to which pairs one by one are faster than matrices
BYTES_A_VALUE = 8  # of a value, while its column is ranked pair by pair


class Reranked(NamedTuple):
    """A tile's columns ranked on the rows that each pattern of the other tile leaves.

    tables : flat int32, centred doubled mid-ranks by cell; that of column i on pattern k begins at ``at[i, k]``.
    size : (p,) cells of a column.
    rows, total, squares : (p, Q) float64, how many rows, sums of the ranks and of their squares over them.
    """

    tables: np.ndarray
    at: np.ndarray
    size: np.ndarray
    rows: np.ndarray
    total: np.ndarray
    squares: np.ndarray

    def table(self, column: int, pattern: int) -> np.ndarray:
        start = self.at[column, pattern]
        return self.tables[start : start + self.size[column]]


class Products(NamedTuple):
    """Of the pairs of two tiles, (p, q) float64 each: sums of products of ranks over the common rows, how many rows,
    and of either column the sum of its ranks and of their squares over them. No meaning where two share a pattern."""

    sums: np.ndarray
    rows: np.ndarray
    left_total: np.ndarray
    left_squares: np.ndarray
    right_total: np.ndarray
    right_squares: np.ndarray


class Part(NamedTuple):
    """Some columns of one pattern of the left tile and some of another pattern of the right one: places, patterns."""

    i: np.ndarray
    j: np.ndarray
    a: int
    b: int
    gram: ExactGram


def products(
    codes: Codes,
    left: Tile,
    right: Tile,
    min_common: int,
    budget: int,
    pool: ThreadPoolExecutor,
    threads: int,
    read: Callable[[int], None] | None = None,
) -> Products:
    """All sums that the correlations of two tiles need, in two reads of their rows; ``right is left`` for one tile.

    Pairs with fewer than ``min_common`` common rows have no sum. ``read`` is told how far that is, in rows.
    """
    n_rows = codes.shape[1]
    tell = read or (lambda rows: None)
    tiles = [left] if right is left else [left, right]
    width = 4 * sum(len(tile.columns) for tile in tiles) + 16 * PART * threads
    step = int(np.clip(budget // width, 1024, 1 << 18))
    lefts, rights = np.bincount(left.labels), np.bincount(right.labels)
    # spreading the ranks of p and q columns over the rows costs as much as about FEW (p + q) / 2 pairs one by one
    few = 2 * np.outer(lefts, rights) <= FEW * np.add.outer(lefts, rights)
    if few.all() and BYTES_A_VALUE * n_rows * sum(len(tile.columns) for tile in tiles) <= budget:
        return _pair_by_pair(codes, tiles, min_common, pool, tell)
    sides = _rank(codes, tiles, step, pool, lambda rows: tell(rows // 2))
    one, other = sides[0], sides[-1]
    rows = one.rows[:, right.labels]
    differ = left.patterns[left.labels][:, None] != right.patterns[right.labels]
    wanted = differ & (rows >= min_common)
    if right is left:
        wanted &= left.labels[:, None] < right.labels
    in_pairs, parts = _plan(codes, left, right, wanted, few[np.ix_(left.labels, right.labels)], rows)
    pairs = np.argwhere(in_pairs)
    pairs = np.column_stack([pairs, left.labels[pairs[:, 0]], right.labels[pairs[:, 1]]])
    high, low, done = *np.zeros((2, *wanted.shape), np.int64), 0
    for cells in _row_blocks(codes, tiles, step, pool):
        multiply = partial(kernels.multiply_pairs, cells[0], one.tables, one.at, cells[-1], other.tables, other.at)
        list(pool.map(multiply, np.array_split(pairs, max(len(pairs) // PAIRS, 1)), repeat(high), repeat(low)))
        # each part in one thread: many small products side by side, not many threads on a small one
        with threadpool_limits(1, user_api="blas"):
            list(pool.map(partial(_multiply_part, cells, one, other), parts))
        done += cells[0].shape[1]
        tell((n_rows + done) // 2)
    sums = join(high, low)
    for part in parts:
        sums[np.ix_(part.i, part.j)] = part.gram.result()
    if right is left:
        sums = sums + sums.T
    return Products(
        sums,
        rows,
        one.total[:, right.labels],
        one.squares[:, right.labels],
        other.total[:, left.labels].T,
        other.squares[:, left.labels].T,
    )


def _pair_by_pair(
    codes: Codes, tiles: list[Tile], min_common: int, pool: ThreadPoolExecutor, tell: Callable[[int], None]
) -> Products:
    """All pairs one by one: for columns that each have a pattern of their own."""
    cells = next(_row_blocks(codes, tiles, codes.shape[1], pool))
    sides = [
        _side(block, codes.sizes[tile.columns], codes.shift, pool) for tile, block in zip(tiles, cells, strict=True)
    ]
    size = max(int(np.diff(side.at)[~side.wide].max(initial=1)) for side in sides)
    left, right = tiles[0], tiles[-1]
    differ = left.patterns[left.labels][:, None] != right.patterns[right.labels]
    pairs = np.argwhere(np.triu(differ, 1) if len(tiles) == 1 else differ)
    out = np.zeros((6, *differ.shape))

    def rank(chosen: np.ndarray) -> None:
        pair_kernels.rank_pairs(sides[0], sides[-1], codes.shift, min_common, chosen, size, out)

    parts = np.array_split(pairs, max(len(pairs) // PAIRS, 1))
    for done, _ in enumerate(pool.map(rank, parts), start=1):
        tell(codes.shape[1] * done // len(parts))
    if len(tiles) == 1:
        lower = np.tril_indices(len(differ), -1)
        for here, there in ((0, 0), (1, 1), (2, 4), (3, 5), (4, 2), (5, 3)):
            out[here][lower] = out[there].T[lower]
    return Products(*out)


def _side(cells: np.ndarray, sizes: np.ndarray, shift: int, pool: ThreadPoolExecutor) -> pair_kernels.Side:
    """What :mod:`descriptors.pair_kernels` needs of some columns; their ``cells`` (p, N) are changed in place."""
    n_rows = cells.shape[1]
    # bits round no score, so that in larger steps they would not give the bytes of tables, nor be in the angles' unit
    wide = (sizes > pair_kernels.WIDE) & (n_rows <= kernels.EXACT_CUBES) & (shift == 0)
    at = np.concatenate(([0], np.cumsum(np.where(wide, n_rows + 1, sizes))))
    own, cubes = np.zeros(at[-1], np.int32), np.zeros(len(cells), np.int64)

    def count(place: int) -> np.ndarray:
        column, mine = cells[place], own[at[place] : at[place + 1]]
        if wide[place]:
            counts = np.zeros(sizes[place], np.int32)
            kernels.count_cells(column, counts)
            ties = counts[1:].astype(np.int64)
            table = doubled_midranks(ties)
            kernels.look_up(column, table, column)
            found = ties > 0
            mine[table[1:][found] >> 1] = ties[found]
            cubes[place] = (ties**3).sum()
        else:
            kernels.count_cells(column, mine)
        return np.flatnonzero(column == 0)

    gone = list(pool.map(count, range(len(cells))))
    bounds = np.concatenate(([0], np.cumsum([len(rows) for rows in gone])))
    return pair_kernels.Side(cells, own, at, wide, cubes, np.concatenate(gone), bounds)


def _plan(
    codes: Codes, left: Tile, right: Tile, wanted: np.ndarray, few: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, list[Part]]:
    """Which of the ``wanted`` pairs are multiplied one by one, (p, q) bool, and the others in parts."""
    parts = []
    x, y = np.nonzero(wanted & ~few)
    for a, b in np.unique(np.column_stack([left.labels[x], right.labels[y]]), axis=0):
        i, j = np.flatnonzero(left.labels == a), np.flatnonzero(right.labels == b)
        n = int(rows[i[0], j[0]])
        bound = (n >> codes.shift) + 1
        parts += [
            Part(x, y, int(a), int(b), ExactGram((len(x), len(y)), bound, bound, n))
            for x in _chunks(i, PART)
            for y in _chunks(j, PART)
        ]
    return wanted & few, parts


def _row_blocks(codes: Codes, tiles: list[Tile], step: int, pool: ThreadPoolExecutor) -> Iterator[list[np.ndarray]]:
    """By tile, the cells of a block of rows, (p, B) uint32."""
    for start in range(0, codes.shape[1], step):
        stop = min(start + step, codes.shape[1])
        cells = [np.empty((len(tile.columns), stop - start), np.uint32) for tile in tiles]
        for tile, block in zip(tiles, cells, strict=True):
            list(pool.map(partial(_read, codes, tile, start, stop, block), range(len(tile.columns))))
        yield cells


def _read(codes: Codes, tile: Tile, start: int, stop: int, block: np.ndarray, place: int) -> None:
    block[place] = codes.cells(int(tile.columns[place]), start, stop)


def _rank(
    codes: Codes, tiles: list[Tile], step: int, pool: ThreadPoolExecutor, tell: Callable[[int], None]
) -> list[Reranked]:
    """Every tile's columns on the patterns of the other one (or its own)."""
    ranked, own, removed = [], [], []
    for tile, other in zip(tiles, tiles[::-1], strict=True):
        size = codes.sizes[tile.columns]
        n_patterns = len(other.patterns)
        starts = np.concatenate(([0], np.cumsum(n_patterns * size)))
        at = starts[:-1, None] + np.arange(n_patterns) * size[:, None]
        told = np.zeros((3, len(size), n_patterns))
        ranked.append(Reranked(np.zeros(starts[-1], np.int32), at, size, *told))
        own.append([np.zeros(each, np.int32) for each in size])
        removed.append(np.zeros(at.shape, np.int64))
    done = 0
    for cells in _row_blocks(codes, tiles, step, pool):
        gone = [
            [np.flatnonzero(block[place] == 0) for place in tile.first]
            for tile, block in zip(tiles, cells, strict=True)
        ]
        for k, block in enumerate(cells):
            rows = gone[-1 - k]
            bounds = np.concatenate(([0], np.cumsum([len(each) for each in rows])))
            each, shared = ranked[k], (repeat(np.concatenate(rows)), repeat(bounds))
            list(pool.map(kernels.count_column, block, *shared, own[k], repeat(each.tables), each.at, removed[k]))
        done += cells[0].shape[1]
        tell(done)
    for each, counts, taken in zip(ranked, own, removed, strict=True):
        shift, tables, sums = repeat(codes.shift), repeat(each.tables), (each.rows, each.total, each.squares)
        list(pool.map(kernels.rank_column, counts, shift, tables, each.at, taken, *sums))
    return ranked


def _multiply_part(cells: list[np.ndarray], left: Reranked, right: Reranked, part: Part) -> None:
    n_left = len(part.i)
    ranks = np.empty((n_left + len(part.j), cells[0].shape[1]))
    for x, out in zip(part.i, ranks[:n_left], strict=True):
        kernels.look_up(cells[0][x], left.table(x, part.b), out)
    for y, out in zip(part.j, ranks[n_left:], strict=True):
        kernels.look_up(cells[-1][y], right.table(y, part.a), out)
    part.gram.add(ranks[:n_left].T, ranks[n_left:].T)


def _chunks(positions: np.ndarray, size: int) -> list[np.ndarray]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]
