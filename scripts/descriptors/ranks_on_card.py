"""Pass 1 on a card: columns sorted and coded there, in the place of :mod:`descriptors.ranks`' compiled loops.

Mid-ranks are integers, so a card gives the bytes that the CPU gives. The functions take a
:class:`common.arrays.Accelerator`; with NumPy in CuPy's place the same lines run on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Accelerator
from common.lanes import Lane
from common.memory import is_out_of_memory
from descriptors import ranks
from descriptors.ranks import Coded, fine_bits

BYTES_OF_A_ROW = 56  # of a column that is sorted: values, rows, order, and what the sort takes


@dataclass(frozen=True)
class Sorted:
    """A sorted column, as :class:`descriptors.ranks.Many`.

    ordered : (n,) float64, the valid values, ascending, one zero of two.
    """

    ordered: np.ndarray
    coded: Coded

    def encode(self) -> Coded:
        return self.coded


def sort(card: Accelerator, column: np.ndarray, work: ranks.Workspace | None = None) -> ranks.InOrder:
    """Values in order, and their codes as :meth:`descriptors.ranks.Many.encode` has them.

    Several threads' columns are sorted side by side, so that copies of one overlap with the sort of another. Where the
    card's memory does not hold the column, even alone, the CPU sorts it, in ``work``: to the same bytes.

    column : (N,) float64; NaN and infinities are missing.
    """
    for size in (BYTES_OF_A_ROW * len(column), card.memory):
        try:
            return _sort(card, column, size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        card.release()
    card.warn(f"out of memory on the card: it does not hold a column of {len(column):,} rows, so the CPU sorts it")
    return ranks.sort(column, work)


def _sort(card: Accelerator, column: np.ndarray, size: int) -> Sorted:
    """Once ``size`` bytes of the card are left."""
    with card.beside(size) as lane:
        return _sorted(card.xp, lane, column)


def _sorted(xp: Any, lane: Lane, column: np.ndarray) -> Sorted:
    values = lane.put(column)
    rows = xp.flatnonzero(xp.isfinite(values))
    if not len(rows):  # which not every function of CuPy takes
        return Sorted(np.empty(0), Coded(np.zeros(len(column), np.uint16), None, np.zeros(1, np.uint32)))
    values = values[rows] + 0.0  # one zero of two
    order = xp.argsort(values, kind="stable")  # CuPy's is a radix sort
    ordered, rows = values[order], rows[order]
    del values, order
    new = xp.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = xp.flatnonzero(new)
    ends = xp.append(starts[1:], len(ordered))[: len(starts)]
    # ranks start + 1 .. end average to (start + end + 1) / 2
    table = xp.concatenate([xp.zeros(1, np.uint32), (starts + ends + 1).astype(np.uint32)])
    del starts, ends
    level = xp.cumsum(new)
    if len(table) <= ranks.CELLS:
        cells = xp.zeros(len(column), np.uint16)
        cells[rows] = level.astype(np.uint16)
        return Sorted(lane.fetch(ordered), Coded(lane.fetch(cells), None, lane.fetch(table)))
    bits = fine_bits(len(column))
    rank = table[level] - np.uint32(1)
    cells, fine = xp.zeros((2, len(column)), np.uint16)
    cells[rows] = ((rank >> np.uint32(bits)) + np.uint32(1)).astype(np.uint16)
    fine[rows] = (rank & np.uint32((1 << bits) - 1)).astype(np.uint16)
    return Sorted(lane.fetch(ordered), Coded(lane.fetch(cells), lane.fetch(fine), None))
