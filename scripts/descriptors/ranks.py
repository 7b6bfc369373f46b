"""Mid-ranks as integers. A column enters passes 2 to 4 only through its code: 0 = missing, else twice its mid-rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from descriptors import kernels

CELLS = 1 << 16  # that a 16-bit code can number, 0 = missing among them
FEW = 4096  # distinct values that are found by hashing


def doubled_midranks(counts: np.ndarray) -> np.ndarray:
    """(K + 1,) uint32: 0, and the doubled mid-ranks of K ascending values that occur ``counts`` times.

    Ranks start + 1 .. end average to (start + end + 1) / 2.
    """
    return np.concatenate(([0], 2 * np.cumsum(counts) - counts + 1)).astype(np.uint32)


class Coded(NamedTuple):
    """A column's codes as they are stored, two bytes a value where they can be.

    cells : (N,) uint16; number of the distinct value, or of the cell of ranks, from 1; 0 = missing.
    fine : (N,) uint16, place in the cell; None if there is a cell for each distinct value.
    table : (distinct + 1,) uint32, doubled mid-ranks by cell; None if there are cells of ranks.
    """

    cells: np.ndarray
    fine: np.ndarray | None
    table: np.ndarray | None


class InOrder(Protocol):
    """A sorted column.

    ordered : (n,) float64, the valid values, ascending, one zero of two.
    """

    @property
    def ordered(self) -> np.ndarray: ...

    def encode(self) -> Coded: ...


class Workspace:
    """Memory that one column after the other is sorted in: to get it anew takes as long as half a sort."""

    def __init__(self, n_rows: int) -> None:
        self.packed, self.ordered = np.empty(n_rows, np.uint64), np.empty(n_rows)
        self.codes = np.empty(n_rows, np.uint32)


@dataclass(frozen=True)
class Few:
    """A sorted column of few distinct values.

    numbers : (N,) uint16, number of a row's distinct value in ascending order, from 1; 0 = missing.
    levels : (K,) float64, the distinct values, ascending. counts : (K,) int64.
    """

    numbers: np.ndarray
    levels: np.ndarray
    counts: np.ndarray

    @property
    def ordered(self) -> np.ndarray:
        return np.repeat(self.levels, self.counts)

    def encode(self) -> Coded:
        return Coded(self.numbers, None, doubled_midranks(self.counts))


@dataclass(frozen=True)
class Many:
    """A sorted column.

    ordered : (n,) float64, the valid values, ascending, one zero of two; ``distinct`` of them differ.
    packed : (n,) uint64, the row of each in the lowest ``index_bits`` bits; those above are free for use.
    codes : (N,) uint32, free for use.
    """

    ordered: np.ndarray
    distinct: int
    packed: np.ndarray
    index_bits: np.uint64
    codes: np.ndarray

    def encode(self) -> Coded:
        n_rows = len(self.codes)
        if self.distinct < CELLS:
            cells = np.zeros(n_rows, np.uint16)
            table = np.zeros(self.distinct + 1, np.uint32)
            kernels.put_levels(self.packed, self.ordered, self.index_bits, table)
            kernels.scatter(self.packed, self.index_bits, cells)
            return Coded(cells, None, table)
        kernels.put_ranks(self.packed, self.ordered, self.distinct == len(self.ordered), self.index_bits)
        self.codes[:] = 0
        kernels.scatter(self.packed, self.index_bits, self.codes)
        cells, fine = np.empty((2, n_rows), np.uint16)
        kernels.split(self.codes, fine_bits(n_rows), cells, fine)
        return Coded(cells, fine, None)


def sort(column: np.ndarray, work: Workspace | None = None) -> Few | Many:
    """Sort a column and keep track of its rows.

    A few distinct values are found by hashing, and only they are sorted. Else the order-preserving integer of a value
    and its row number share one 64-bit word, and words are sorted: several times faster than an indirect sort. Bits
    that no value uses are left out; where the rest does not fit, the lowest go too, and values alike in all others are
    put in order afterwards.

    Parameters
    ----------
    column : (N,) float64; NaN and infinities are missing.
    work : of N rows; the result lives in it until the next column is sorted there.
    """
    bits = column.view(np.uint64)
    few = _number_few(bits)
    if few is not None:
        return few
    count, low, high, used = kernels.extent(bits)
    index_bits = np.uint64((len(column) - 1).bit_length())
    width = (int(high) - int(low)).bit_length()
    # the lowest bits that all keys share, and so all their differences lack
    unused = (int(used) & -int(used)).bit_length() - 1
    shift = max(width - (64 - int(index_bits)), unused)
    work = work or Workspace(len(column))
    packed, ordered = work.packed[:count], work.ordered[:count]
    kernels.pack(bits, np.uint64(low), np.uint64(shift), index_bits, packed)
    packed.sort()
    distinct = kernels.unpack(packed, column, index_bits, ordered)
    if distinct < 0:  # many values that differ in their lowest bits alone
        packed = np.flatnonzero(np.isfinite(column)).astype(np.uint64)
        packed = packed[np.argsort(column[packed])]
        distinct = kernels.unpack(packed, column, index_bits, ordered)
    return Many(ordered, int(distinct), packed, index_bits, work.codes)


def _number_few(bits: np.ndarray) -> Few | None:
    """None where there are more than ``FEW`` distinct values."""
    table, places = np.full(1 << kernels.HASH_BITS, kernels.EMPTY), np.zeros(1 << kernels.HASH_BITS, np.uint16)
    found, numbers = np.empty(FEW, np.uint64), np.empty(len(bits), np.uint16)
    distinct = int(kernels.number_values(bits, table, places, found, numbers))
    if distinct < 0:
        return None
    counts = np.zeros(distinct + 1, np.int64)
    kernels.count_cells(numbers, counts)
    values = found[:distinct].view(np.float64)
    ascending = np.argsort(values)
    place = np.zeros(distinct + 1, np.uint16)
    place[ascending + 1] = np.arange(1, distinct + 1)
    kernels.look_up(numbers, place, numbers)
    return Few(numbers, values[ascending], counts[1:][ascending])


def fine_bits(n_rows: int) -> int:
    """Bits of a doubled mid-rank below its cell number, in a table with ``n_rows`` rows, so that this fits 16 bits."""
    bits = 0
    while ((2 * n_rows - 1) >> bits) + 1 >= CELLS:
        bits += 1
    return bits


def centre(codes: np.ndarray, n_valid: np.ndarray) -> np.ndarray:
    """Centred ranks d = 2 a - (n + 1) within each column's own rows; 0 where missing.

    >>> centre(np.array([[2, 5, 0, 5]], np.uint32), np.array([3])).tolist()  # twice the mid-ranks 1, 2.5, none, 2.5
    [[-2.0, 1.0, 0.0, 1.0]]

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
