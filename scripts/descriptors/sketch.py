"""CountSketch prescreen of pass 2 (Charikar, Chen & Farach-Colton 2002): which pairs are worth an exact look.

The sketch never decides. A pair is a candidate if its estimate lies within four standard deviations of the threshold;
columns linked by candidates are then correlated exactly, all others stay NaN = not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from common.descriptors_settings import Pass2
from descriptors.codes import Codes
from descriptors.ranks import centre
from descriptors.sampling import GOLDEN, key, mix
from descriptors.spearman import Correlations, blocks, same_rows

DEVIATIONS = 4.0
TILE = 2048


def standard_deviation(rho: float, width: int, repeats: int) -> float:
    """Of the mean of ``repeats`` sketch estimates of a correlation ``rho``: sqrt((1 + rho^2) / (width repeats))."""
    return float(np.sqrt((1.0 + rho * rho) / (width * repeats)))


def prescreened(
    codes: Codes,
    columns: np.ndarray,
    others: np.ndarray,
    n: int,
    budget: int,
    threads: int,
    settings: Pass2,
    read: Callable[[int], None] | None = None,
) -> Correlations:
    """As :func:`descriptors.spearman.same_rows`, but exact only within groups of columns linked by candidates.

    ``others`` are the same columns. Pairs of different groups, whose correlation is below the threshold, are NaN.
    ``read`` is told how many rows are sketched.
    """
    assert np.array_equal(columns, others)
    sketches, norms = sketch(codes, columns, n, budget, settings, read)
    threshold = settings.spearman_threshold
    bound = threshold - DEVIATIONS * standard_deviation(threshold, settings.m, settings.r)
    groups = linked(sketches / np.sqrt(np.maximum(norms, 1.0)), bound)
    found = Correlations.undefined((len(columns), len(columns)), codes.shift)
    for group in groups:
        found.put(group, group, same_rows(codes, columns[group], columns[group], n, budget, threads), False)
    return found


def sketch(
    codes: Codes,
    columns: np.ndarray,
    n: int,
    budget: int,
    settings: Pass2,
    read: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Signed bucket sums of the centred ranks, (r, m, p) float64, and their exact norms (p,)."""
    width = settings.m
    sketches = np.zeros((settings.r, width, len(columns)))
    norms = np.zeros(len(columns))
    at = 0
    for block in blocks(codes, columns, budget):
        centred = centre(block, np.full(len(columns), n)).T
        norms += np.square(centred).sum(axis=0)
        index = np.arange(at + 1, at + len(centred) + 1, dtype=np.uint64) * GOLDEN
        for repeat in range(settings.r):
            hashed = mix(mix(index) ^ key(settings.random_seed, 2, "countsketch", repeat))
            # the high bits choose the bucket, the lowest the sign
            bucket = ((hashed >> np.uint64(32)) * np.uint64(width)) >> np.uint64(32)
            sign = 1.0 - 2.0 * (hashed & np.uint64(1)).astype(np.float64)
            place = csr_array((sign, (bucket.astype(np.int64), np.arange(len(centred)))), shape=(width, len(centred)))
            sketches[repeat] += place @ centred
        at += len(centred)
        if read:
            read(at)
    return sketches, norms


def linked(sketches: np.ndarray, bound: float) -> list[np.ndarray]:
    """Groups of columns connected by pairs whose mean estimate is at least ``bound`` in absolute value, ascending."""
    repeats, _, n_columns = sketches.shape
    rows, cols = [], []
    for i in range(0, n_columns, TILE):
        for j in range(i, n_columns, TILE):
            estimate = sum(each[:, i : i + TILE].T @ each[:, j : j + TILE] for each in sketches) / repeats
            one, other = np.nonzero(np.abs(estimate) >= bound)
            rows.append(one + i)
            cols.append(other + j)
    one, other = np.concatenate(rows), np.concatenate(cols)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(n_columns, n_columns))
    count, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1])


def complete(
    correlation: np.ndarray, groups: Sequence[np.ndarray], exact: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """``correlation`` with every pair inside the groups computed; ``exact`` gives the matrix of any columns."""
    for group in groups:
        block = np.ix_(group, group)
        if np.isnan(correlation[block]).any():
            correlation[block] = exact(group)
    return correlation
