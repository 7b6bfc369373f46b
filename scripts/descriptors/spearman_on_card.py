"""Pass 2 on a card: the sums of products of centred ranks, in the place of :func:`descriptors.spearman.centred_gram`.

Integers add up without a rounding, so a card gives the bytes that the CPU gives. The functions take a
:class:`common.arrays.Accelerator`; with NumPy in CuPy's place the same lines run on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from common.arrays import Accelerator
from descriptors.codes import Codes
from descriptors.gram import HALF, ExactGram

MASK = (1 << HALF) - 1
BYTES_OF_A_RANK = 40  # of a value that is centred: its code, integers, their squares, the score
BYTES_ON_HOST = 12  # of a code that is read, copied and pinned, whose pool rounds up
LONG = 1 << 22  # rows that are read at once, at most


def centred_gram(
    card: Accelerator, codes: Codes, left: np.ndarray, right: np.ndarray, n_valid: np.ndarray, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`descriptors.spearman.centred_gram`, with the same bytes; blocks are sized by the card's memory
    and by ``budget``, of the host, where they are read and staged.

    Where the sums of all pairs do not fit, the codes are read again for each part of the columns.
    """
    if 40 * len(left) * len(right) > card.memory // 2 and max(len(left), len(right)) > 1:
        return _halved(card, codes, left, right, n_valid, n, budget)
    symmetric = np.array_equal(left, right)
    columns = left if symmetric else np.concatenate([left, right])
    bound = (n >> codes.shift) + 1

    def add(step: int) -> tuple[Any, Any]:
        gram = ExactGram((len(left), len(right)), bound, bound, n, card.xp)
        told = card.xp.zeros((len(columns), 3), np.int64)
        centres = card.xp.asarray(n_valid + 1, np.int64)[:, None]
        for block in card.upload(_blocks(codes, columns, step)):
            ranks = _centred(card.xp, block, centres, codes.shift, told)
            gram.add(ranks[: len(left)].T, (ranks if symmetric else ranks[len(left) :]).T)
        return gram.result(), told

    width = max(len(columns), 1)
    step = min(card.memory // 4 // (BYTES_OF_A_RANK * width), budget // 4 // (BYTES_ON_HOST * width), LONG)
    with card.alone():
        (sums, told), _ = card.fitting("rows", max(step, 1), add)
        return card.host(sums), card.host(told)


def _halved(
    card: Accelerator, codes: Codes, left: np.ndarray, right: np.ndarray, n_valid: np.ndarray, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """The wider side in two."""
    valid = n_valid if np.array_equal(left, right) else n_valid[: len(left)]
    right_valid = n_valid if np.array_equal(left, right) else n_valid[len(left) :]
    by_rows = len(left) >= len(right)
    middle = (len(left) if by_rows else len(right)) // 2
    sums, told = [], []
    for part in (slice(None, middle), slice(middle, None)):
        rows, columns = (part, slice(None)) if by_rows else (slice(None), part)
        one, other = left[rows], right[columns]
        own = valid[rows] if np.array_equal(one, other) else np.concatenate([valid[rows], right_valid[columns]])
        each, of_them = centred_gram(card, codes, one, other, own, n, budget)
        sums.append(each)
        told.append((of_them[: len(one)], of_them[-len(other) :]))
    first, second = told
    of_left = np.concatenate([first[0], second[0]]) if by_rows else first[0]
    of_right = first[1] if by_rows else np.concatenate([first[1], second[1]])
    whole = of_left if np.array_equal(left, right) else np.concatenate([of_left, of_right])
    return np.concatenate(sums, axis=0 if by_rows else 1), whole


def _blocks(codes: Codes, columns: np.ndarray, step: int) -> Iterator[np.ndarray]:
    n_rows = codes.shape[1]
    return (codes.read(columns, start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _centred(xp: Any, codes: Any, centres: Any, shift: int, told: Any) -> Any:
    """As :func:`descriptors.kernels.centre`, of all columns: (P, B) float64 of integers; adds to ``told`` (P, 3)."""
    ranks = codes.astype(np.int64)
    ranks = xp.where(ranks == 0, 0, (ranks - centres + ((1 << shift) >> 1)) >> shift)
    squares = ranks * ranks
    low = (squares & MASK).sum(axis=1)
    told[:, 0] += ranks.sum(axis=1)
    told[:, 1] += (squares >> HALF).sum(axis=1) + (low >> HALF)
    told[:, 2] += low & MASK
    return ranks.astype(np.float64)
