"""Label sets of the highest expected Example-F1, from probabilities that are on one scale for all levels.

A set P is worth 2 x (sum of its probabilities) / (|P| + E|T|), E|T| being the sum of all probabilities: the first-order
approximation of the expectation of 2 |T & P| / (|T| + |P|) over the true set T. The best set stops at an inner class
where no class below is likely enough, and holds several paths where each is worth more than it costs.

References
----------
Ye, Chai, Lee & Chieu (2012), Optimizing F-measure: a tale of two approaches, ICML.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from taxoclass.taxonomy import Taxonomy

BLOCK = 4096  # documents handled together


def upward(leaves: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Probabilities of all classes, (N, C) float32, from those of the leaves, (N, L): sums over the leaves below."""
    below = taxonomy.closed_sets[np.flatnonzero(taxonomy.leaves)].astype(np.float32)
    return np.minimum(leaves.astype(np.float32) @ below, 1)


def consistent_probabilities(logits: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(N, C) float32 from logits: a softmax over the leaves, summed upwards; no class is likelier than a parent."""
    return upward(softmax(logits[:, taxonomy.leaves].astype(np.float64), axis=1), taxonomy)


def best_class(probability: np.ndarray, taxonomy: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """The class whose closed set has the highest expected F1 and is worth more than without it; and that value.

    probability : (N, C) float.

    Returns
    -------
    (N,) int64, of equals the first; (N,) float64, 0 where all probabilities are 0.
    """
    closed = taxonomy.closed_sets
    sizes = closed.sum(axis=1)[:, None]
    best, value = np.zeros(len(probability), dtype=np.int64), np.zeros(len(probability))
    for start in range(0, len(probability), BLOCK):
        part = probability[start : start + BLOCK].T.astype(np.float64)
        worth = 2 * (closed @ part) / (sizes + part.sum(axis=0))
        worth[2 * part <= worth] = 0  # its ancestors without it are worth more
        here = slice(start, start + BLOCK)
        best[here], value[here] = worth.argmax(axis=0), worth.max(axis=0)
    return best, value


def best_sets(probability: np.ndarray, taxonomy: Taxonomy, least: int = 0, most: int | None = None) -> np.ndarray:
    """Label sets of the highest expected F1, among those that hold all ancestors of their labels.

    Where no class is likelier than a parent, the best set of k labels is that of the k likeliest, so the search is over
    k. (A class that is likelier than a parent lends it its probability.)

    Parameters
    ----------
    probability : (C, B) float64, -inf where unscored: such a class is no label, nor is one below it.
    least, most : labels of a document, least <= most; where fewer are scored, these.

    Returns
    -------
    (C, B) bool; of equally good sets the smaller; empty where all probabilities are 0, if ``least`` allows.
    """
    p = _lent(probability, taxonomy)
    order = np.argsort(taxonomy.depth, kind="stable")
    ranked = order[np.argsort(-p[order], axis=0, kind="stable")]  # of equals, the less deep, then the first
    value = np.take_along_axis(p, ranked, axis=0)
    count = np.arange(1, len(p) + 1)[:, None]
    total = np.where(p > 0, p, 0).sum(axis=0)
    worth = 2 * np.where(value > 0, value, 0).cumsum(axis=0) / (count + total)
    worth[(value <= 0) | (count > (most or len(p)))] = 0
    size = np.where(worth.any(axis=0), worth.argmax(axis=0) + 1, 0)
    size = np.maximum(size, np.minimum(least, (p > -np.inf).sum(axis=0)))
    labels = np.empty(p.shape, dtype=bool)
    np.put_along_axis(labels, ranked, count <= size, axis=0)
    return labels


def _lent(probability: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(C, B): at least that of every class below; -inf for classes that are unscored or have an unscored ancestor."""
    p = probability.astype(np.float64)
    for row in taxonomy.order.tolist():
        for parent in taxonomy.parents[row].tolist():
            p[row, p[parent] == -np.inf] = -np.inf
    for row in taxonomy.order[::-1].tolist():
        for parent in taxonomy.parents[row].tolist():
            np.maximum(p[parent], p[row], out=p[parent])
    return p
