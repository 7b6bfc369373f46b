"""Exact sums of products of integer columns: the same bits for any block size, row order, thread count or machine."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

EXACT = 2**53  # every integer up to here is a float64
LIMB_BITS = 22  # two limbs' product leaves room for 2^9 rows before a sum could round
HALF = 32
LOW = (1 << HALF) - 1
WORD = 2**62  # sums up to here fit into one 64-bit word, with room for one more block


class Words:
    """Integers that add up without a rounding, high 2^32 + low in two int64 words each."""

    def __init__(self, shape: tuple[int, ...], xp: Any = np) -> None:
        self.high, self.low = xp.zeros(shape, np.int64), xp.zeros(shape, np.int64)

    def add(self, block: Any, at: slice = slice(None)) -> None:
        """float64 of integers, to those ``at`` a place of the first axis."""
        whole = block.astype(np.int64)
        self.low[at] += whole & LOW
        whole >>= HALF
        self.high[at] += whole


class ExactGram:
    """Accumulates sum_n left[n, i] * right[n, j] of integers without a rounding.

    Blocks are multiplied in float64 by the BLAS, at most as many rows at a time as keep every partial sum below 2^53,
    and added into 64-bit integers (two words where one could overflow). Columns too wide for that are cut into limbs.

    Parameters
    ----------
    shape : (p, q), columns left and right.
    left_bound, right_bound : largest absolute value that can occur on either side.
    n_rows : rows in all; only used to take the short way where the whole sum stays below 2^53.
    xp : module of the arrays that are added, NumPy or CuPy.
    """

    def __init__(
        self, shape: tuple[int, int], left_bound: int, right_bound: int, n_rows: int, xp: ModuleType = np
    ) -> None:
        self.shape = shape
        self._xp: Any = xp
        self._short = max(n_rows, 1) * left_bound * right_bound < EXACT
        bits = max(left_bound, right_bound, 1).bit_length()
        self._limbs = 1 if self._short else math.ceil(bits / LIMB_BITS)
        self._width = math.ceil(bits / self._limbs)
        product = left_bound * right_bound if self._limbs == 1 else 1 << (2 * self._width)
        self._rows = max(EXACT // max(product, 1) - 1, 1)
        self._float = self._xp.zeros(shape) if self._short else None
        self._words: dict[int, Words] = {}  # by the shift of the limb pair

    @property
    def rows(self) -> int:
        """A block of so many rows is multiplied at once."""
        return EXACT if self._short else self._rows

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add a block: ``left`` (B, p) and ``right`` (B, q), float64 of integers within the bounds."""
        if self._float is not None:
            self._float += left.T @ right
            return
        for start in range(0, len(left), self._rows):
            rows = slice(start, start + self._rows)
            left_limbs = _split(left[rows], self._limbs, self._width)
            right_limbs = left_limbs if right is left else _split(right[rows], self._limbs, self._width)
            for i, one in enumerate(left_limbs):
                for j, other in enumerate(right_limbs):
                    self._of((i + j) * self._width).add(one.T @ other)

    def merge(self, other: ExactGram) -> None:
        """Add another one's sums, of other rows of the same columns."""
        if self._float is not None and other._float is not None:
            self._float += other._float
        for shift, words in other._words.items():
            own = self._of(shift)
            own.high += words.high
            own.low += words.low

    def _of(self, shift: int) -> Words:
        if shift not in self._words:
            self._words[shift] = Words(self.shape, self._xp)
        return self._words[shift]

    def result(self) -> np.ndarray:
        """(p, q) float64: the exact sums, rounded once a limb pair."""
        if self._float is not None:
            return self._float
        total = self._xp.zeros(self.shape)
        for shift in sorted(self._words):
            words = self._words[shift]
            total += np.ldexp(join(words.high, words.low), shift)
        return total


def join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """high 2^32 + low as float64, rounded once; of int64, ``low`` not negative."""
    carried, rest = high + (low >> HALF), low & LOW
    return np.ldexp(carried.astype(np.float64), HALF) + rest


def _split(block: np.ndarray, limbs: int, width: int) -> list[np.ndarray]:
    """Signed limbs, lowest first: block = sum_k limb_k 2^(k width), each at most 2^width in absolute value."""
    parts = []
    for _ in range(limbs - 1):
        rest = np.rint(np.ldexp(block, -width))
        parts.append(block - np.ldexp(rest, width))
        block = rest
    return [*parts, block]


def fixed_point(values: np.ndarray, centre: np.ndarray, scale_exponent: np.ndarray, bits: int) -> np.ndarray:
    """(values - centre) in units of 2^(scale_exponent - bits), rounded to integers; NaN (missing) becomes 0.

    ``values`` (B, P); ``centre``, ``scale_exponent`` (P,) with abs(values - centre) <= 2^scale_exponent.
    """
    return np.rint(np.ldexp(np.nan_to_num(values - centre), bits - scale_exponent))
