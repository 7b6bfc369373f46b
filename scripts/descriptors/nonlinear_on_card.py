"""Pass 4 on a card: the sums of a pair of tiles, in the place of :meth:`descriptors.covariance.TilePair.accumulate`.

Integers add up without a rounding, so a card gives the bytes that the CPU gives. The functions take a
:class:`common.arrays.Accelerator`; with NumPy in CuPy's place the same lines run on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.arrays import Accelerator
from descriptors.covariance import TilePair
from descriptors.feature_kernels import CELL_BITS
from descriptors.features import by_cell
from descriptors.gram import EXACT, HALF, Words

BYTES_OF_A_FEATURE = 20  # of what is multiplied at once: as integers and as floats
BYTES_ON_HOST = 32  # of a code that is read and chosen


def accumulate(card: Accelerator, pair: TilePair, budget: int, read: Callable[[int], None]) -> None:
    """As :meth:`descriptors.covariance.TilePair.accumulate`, with the same bytes.

    Blocks are sized by the card's memory, and by ``budget``, of the host, where they are read and staged. Where tables
    of features do not fit the budget, the CPU does it. ``read`` is told the rows after the last block: a lack of memory
    begins with the first row again.
    """
    columns = pair.columns
    tables = pair.tables.of(pair.codes.n_valid[columns])
    if tables is None:
        pair.accumulate(budget, read)
        return
    size = card.block_length(len(columns), 1 / 16, budget // BYTES_ON_HOST)
    most = card.memory // 4 // (BYTES_OF_A_FEATURE * len(columns) * pair.width)
    exact = EXACT // pair.bound**2 - 1

    def summed(rows: int) -> list[Words]:
        return _sums(card, pair, *tables, rows, max(min(exact, most * rows // size), 1))

    with card.alone():
        sums = card.fitting("rows", size, summed)
        host = [(card.host(each.high), card.host(each.low)) for each in sums]
    product, count, *moments = host
    pair.product.take(*product)
    pair.count += (count[0] << HALF) + count[1]
    for taken, own, squares in zip(pair.moments, moments[::2], moments[1::2], strict=True):
        taken.take(own, squares)
    read(pair.codes.n_rows)


def _sums(
    card: Accelerator, pair: TilePair, table: np.ndarray, starts: np.ndarray, size: int, height: int
) -> list[Words]:
    """Of all rows: products of features, common rows of patterns, and of each side sums and squares by pattern.

    ``size`` rows are read, ``height`` multiplied at once.
    """
    xp, width = card.xp, pair.width
    n_left, n_right = len(pair.left.columns), len(pair.right.columns)
    n_patterns = len(pair.left.first), len(pair.right.first)
    look_up = _LookUp(xp, table, starts, pair.codes.n_valid[pair.columns])
    product, count = Words((n_left * width, n_right * width), xp), Words(n_patterns, xp)
    moments = [_Moments(card, n_left, n_patterns[1], width)]
    if not pair.within:
        moments.append(_Moments(card, n_right, n_patterns[0], width))
    blocks = card.upload(pair.codes.blocks(pair.columns, size))
    for codes in (block[:, at : at + height] for block in blocks for at in range(0, block.shape[1], height)):
        features, masks = look_up(codes), (codes != 0).astype(np.float64)
        left, left_masks = features[: n_left * width], masks[pair.left.first]
        right, right_masks = left, left_masks
        if not pair.within:
            right, right_masks = features[n_left * width :], masks[n_left:][pair.right.first]
            moments[1].add(right, left_masks)
        moments[0].add(left, right_masks)
        product.add(left @ right.T)
        count.add(left_masks @ right_masks.T)
    return [product, count, *(words for each in moments for words in (each.sums, each.squares))]


class _LookUp:
    """Integer features of blocks of codes, as :func:`descriptors.feature_kernels.look_up`, of all columns."""

    def __init__(self, xp: Any, table: np.ndarray, starts: np.ndarray, n_valid: np.ndarray) -> None:
        self._xp = xp
        self._table, self._starts = xp.asarray(table), xp.asarray(starts)[:, None]
        # of a table of cells the number that is divided by; else 0
        self._n = xp.asarray(np.array([n if by_cell(n) else 0 for n in n_valid.tolist()]))[:, None]

    def __call__(self, codes: Any) -> Any:
        """(P, B) unsigned -> (P d, B) float64 of integers, 0 where missing."""
        xp = self._xp
        place = codes.astype(np.int64)
        # the rounded quotient of integers below 2^53 is never above the next integer
        cells = 1 + ((place - 1) * (1 << (CELL_BITS - 1)) / xp.maximum(self._n, 1)).astype(np.int64)
        place = xp.where((self._n > 0) & (place > 0), cells, place) + self._starts
        return xp.swapaxes(self._table[place], 1, 2).astype(np.float64, order="C").reshape(-1, codes.shape[1])


class _Moments:
    """Sums and products of each column's features over the rows of each mask."""

    def __init__(self, card: Accelerator, n_columns: int, n_masks: int, width: int) -> None:
        self._xp = card.xp
        self._width, self._most = width, max(card.memory // 400, 1)
        self.sums = Words((n_columns, n_masks, width), card.xp)
        self.squares = Words((n_columns, n_masks, width * (width + 1) // 2), card.xp)

    def add(self, features: Any, masks: Any) -> None:
        """(T d, B) and (Q, B) float64."""
        width, n_rows = self._width, features.shape[1]
        row, column = np.triu_indices(width)
        self.sums.add(self._by_mask(features, masks, width))
        features = features.reshape(-1, width, n_rows)
        step = max(self._most // max(len(row) * n_rows, 1), 1)  # columns whose products are held at once
        for first in range(0, len(features), step):
            some = slice(first, first + step)
            products = features[some, row]
            products *= features[some, column]
            self.squares.add(self._by_mask(products.reshape(-1, n_rows), masks, len(row)), some)

    def _by_mask(self, values: Any, masks: Any, width: int) -> Any:
        """(T width, B) -> (T, Q, width), sums over the rows of each mask."""
        return self._xp.swapaxes((values @ masks.T).reshape(-1, width, len(masks)), 1, 2)
