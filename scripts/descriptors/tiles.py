"""Columns that are worked on together, by the rows that they miss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tile(NamedTuple):
    """Columns of few patterns.

    columns : (p,) positions in the codes. patterns : (Q,) the different ones. labels : (p,) which of them each has.
    first : (Q,) for each pattern the place of a column that has it.
    """

    columns: np.ndarray
    patterns: np.ndarray
    labels: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray, patterns: np.ndarray) -> Tile:
        different, first, labels = np.unique(patterns[columns], return_index=True, return_inverse=True)
        return cls(columns, different, labels, first)
