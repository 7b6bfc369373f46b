"""Orders of columns that do not follow from where they are in the file: by quality, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_first(
    missing_ratio: np.ndarray, normalized_variance: np.ndarray, strength: np.ndarray | None = None
) -> np.ndarray:
    """(P,) int64, the columns by how much rather they are kept than others that say the same.

    By fewest missing cells, largest ``strength`` if given, largest normalised variance, file order; rounded, so that
    the last bit of a sum does not choose among duplicates in other units.
    """
    strength = np.zeros(len(missing_ratio)) if strength is None else strength
    return np.lexsort((-np.round(normalized_variance, 12), -np.round(strength, 9), np.round(missing_ratio, 6)))


def quality_ranks(missing_ratio: np.ndarray, normalized_variance: np.ndarray) -> np.ndarray:
    """(P,) int64, place of each column in the order of ``best_first``, 0 = best."""
    return np.argsort(best_first(missing_ratio, normalized_variance))


def name_order(names: Sequence[str]) -> np.ndarray:
    """(P,) int64: the columns sorted by name, an order that does not depend on the file's."""
    return np.array(sorted(range(len(names)), key=lambda place: names[place]), dtype=np.int64)
