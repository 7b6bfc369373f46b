"""Pass 2 on a card: the sums of products of centred ranks, in the place of :func:`descriptors.spearman.centred_gram`.

Integers add up without a rounding, so a card gives the bytes that the CPU gives. The functions take a
:class:`common.arrays.Accelerator`; with NumPy in CuPy's place the same lines run on the CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from common.arrays import Accelerator
from descriptors.codes import Codes, row_blocks
from descriptors.gram import HALF, LOW, WORD, ExactGram

BYTES_OF_A_SUM = 40  # of a pair: two words, a product, and what becomes of them
BYTES_ON_HOST = 12  # of a code that is read: its cell, the place there, and what becomes of them


def centred_gram(
    card: Accelerator, codes: Codes, left: np.ndarray, right: np.ndarray, n_valid: np.ndarray, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`descriptors.spearman.centred_gram`, with the same bytes.

    Blocks are sized by the card's memory, and by ``budget``, of the host, where they are read and staged. Where the
    sums of all pairs do not fit on the card, the codes are read again for each part of the columns.
    """
    with card.alone():
        if np.array_equal(left, right):
            side = Side(left, n_valid)
            sums, told, _ = _sums(card, codes, side, side, n, budget)
            return sums, told
        valid, right_valid = np.split(n_valid, [len(left)])
        sums, told, right_told = _sums(card, codes, Side(left, valid), Side(right, right_valid), n, budget)
        return sums, np.concatenate([told, right_told])


class Side(NamedTuple):
    """Columns, and how many values each has."""

    columns: np.ndarray
    n_valid: np.ndarray


def _sums(
    card: Accelerator, codes: Codes, left: Side, right: Side, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p, q) sums of products, and what is told of the columns of either side, (p, 3) and (q, 3)."""
    n_left, n_right = len(left.columns), len(right.columns)
    if BYTES_OF_A_SUM * n_left * n_right <= card.memory // 2 or max(n_left, n_right) == 1:
        return _in_blocks(card, codes, left, right, n, budget)
    if n_left < n_right:
        sums, right_told, told = _sums(card, codes, right, left, n, budget)
        return sums.T, told, right_told
    upper, lower = (Side(*(each[half] for each in left)) for half in (slice(n_left // 2), slice(n_left // 2, None)))
    above, told_above, right_told = _sums(card, codes, upper, right, n, budget)
    below, told_below, _ = _sums(card, codes, lower, right, n, budget)
    return np.concatenate([above, below]), np.concatenate([told_above, told_below]), right_told


def _in_blocks(
    card: Accelerator, codes: Codes, left: Side, right: Side, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_sums``, of pairs whose sums fit on the card."""
    symmetric = np.array_equal(left.columns, right.columns)
    columns, n_valid = left if symmetric else (np.concatenate(both) for both in zip(left, right, strict=True))
    n_left, bound = len(left.columns), (n >> codes.shift) + 1
    one, other = slice(n_left), slice(None) if symmetric else slice(n_left, None)
    width, complete = max(len(columns), 1), bool((n_valid == codes.shape[1]).all())

    def add(step: int) -> tuple[Any, Any]:
        gram = ExactGram((n_left, len(right.columns)), bound, bound, n, card.xp)
        told = card.xp.zeros((len(columns), 3), np.int64)
        # halves up, as the CPU rounds
        centres = card.xp.asarray(n_valid + 1 - ((1 << codes.shift) >> 1), np.float64)[:, None]
        height = min(max(step // 2, 1), gram.rows, WORD // bound**2)
        for block in card.upload(row_blocks(codes, columns, step)):
            for first in range(0, block.shape[1], height):
                ranks = _centred(card.xp, block[:, first : first + height], centres, codes.shift, complete)
                gram.add(ranks[one].T, ranks[other].T)
                _tell(ranks, told)
        return gram.result(), told

    # of half a block, which is centred and told of, another 40 bytes a code
    step = card.block_length(width, 1 / 8, budget // 4 // BYTES_ON_HOST)
    sums, told = (card.host(each) for each in card.fitting("rows", step, add))
    return sums, told[one], told[other]


def _centred(xp: Any, codes: Any, centres: Any, shift: int, complete: bool) -> Any:
    """As :func:`descriptors.kernels.centre`, of all columns: (P, B) float64 of integers. ``complete``: none is 0.

    ``centres``, (P, 1), are half a step of 2^``shift`` less than those.
    """
    ranks = codes.astype(np.float64)
    ranks -= centres
    if shift:
        ranks *= 0.5**shift
        ranks = xp.floor(ranks)
    return ranks if complete else xp.where(codes != 0, ranks, 0.0)


def _tell(ranks: Any, told: Any) -> None:
    """Add to ``told`` (P, 3) the sums of (P, B) ranks and, high and low, of their squares: each fits one word."""
    whole = ranks.astype(np.int64)
    told[:, 0] += whole.sum(axis=1)
    whole *= whole
    squares = whole.sum(axis=1)
    told[:, 1] += squares >> HALF
    told[:, 2] += squares & LOW
