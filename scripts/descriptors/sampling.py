"""Stateless sampling: a row is kept by the hash of its place (pass 0) or content (pass 4), never by call order."""

from __future__ import annotations

import numpy as np
import xxhash

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(state: np.ndarray) -> np.ndarray:
    """splitmix64 finaliser (Steele, Lea & Flood 2014): (n,) uint64 -> (n,) uint64, every bit depends on every bit."""
    state = state ^ (state >> np.uint64(30))
    state = state * np.uint64(0xBF58476D1CE4E5B9)
    state = state ^ (state >> np.uint64(27))
    state = state * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def key(*parts: int | str) -> np.uint64:
    """64-bit key of a seed and names."""
    return np.uint64(xxhash.xxh3_64_intdigest("\0".join(map(str, parts)).encode()))


def row_hashes(seed: int, file_key: str, n_rows: int) -> np.ndarray:
    """h(seed, file key, row index): (n_rows,) uint64; the same whatever else is sampled beside it."""
    index = np.arange(1, n_rows + 1, dtype=np.uint64)
    return mix(mix(index * GOLDEN) ^ key(seed, file_key))


def keep_fraction(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """(n,) bool: hash below ``fraction`` of the hash range; 0 < fraction < 1."""
    return hashes < np.uint64(int(fraction * 2.0**64))


def keep_smallest(hashes: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool: the ``count`` smallest hashes (all, where there are fewer), earlier rows first among equals.

    >>> keep_smallest(np.array([7, 2, 2, 2], np.uint64), 2).tolist()
    [False, True, True, False]
    """
    keep = np.ones(len(hashes), dtype=bool)
    if count < len(hashes):
        keep[np.argsort(hashes, kind="stable")[count:]] = False
    return keep


def content_sample(row_content: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Indices (ascending) of ``count`` rows chosen by content: the same rows of a table in any order and any split.

    Rows of equal content are told apart by a running number; which of them is taken makes no difference.
    """
    order = np.argsort(row_content, kind="stable")
    ordered = row_content[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    occurrence = np.arange(len(ordered)) - np.repeat(first, np.diff(first, append=len(ordered)))
    hashes = np.empty(len(order), np.uint64)
    hashes[order] = mix(mix(ordered ^ key(seed, "pass4_rows")) + occurrence.astype(np.uint64) * GOLDEN)
    return np.flatnonzero(keep_smallest(hashes, count))
