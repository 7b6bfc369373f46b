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
from scipy.sparse import csr_array, eye_array
from scipy.special import softmax

from taxoclass.taxonomy import Taxonomy

BLOCK = 4096  # documents handled together
ROUNDING = 1e-9


def closed_sets(taxonomy: Taxonomy) -> csr_array:
    """(C, C) float64: row c is 1 at c and at all its ancestors."""
    closed = taxonomy.ancestors.astype(np.float64) + eye_array(len(taxonomy), format="csr")
    return csr_array(closed)


def upward(leaves: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Probabilities of all classes, (N, C) float32, from those of the leaves, (N, L): sums over the leaves below."""
    below = closed_sets(taxonomy)[np.flatnonzero(taxonomy.leaves)].astype(np.float32)
    return np.minimum(leaves.astype(np.float32) @ below, 1)


def consistent_probabilities(logits: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(N, C) float32 from logits: a softmax over the leaves, summed upwards; no class is likelier than a parent."""
    return upward(softmax(logits[:, taxonomy.leaves].astype(np.float64), axis=1), taxonomy)


def best_class(probability: np.ndarray, taxonomy: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """The class whose closed set has the highest expected F1, and that value.

    probability : (N, C) float.

    Returns
    -------
    (N,) int64, of equals the first; (N,) float64, 0 where all probabilities are 0.
    """
    closed = closed_sets(taxonomy)
    sizes = closed.sum(axis=1)[:, None]
    best, value = np.zeros(len(probability), dtype=np.int64), np.zeros(len(probability))
    for start in range(0, len(probability), BLOCK):
        part = probability[start : start + BLOCK].T.astype(np.float64)
        worth = 2 * (closed @ part) / (sizes + part.sum(axis=0))
        here = slice(start, start + BLOCK)
        best[here], value[here] = worth.argmax(axis=0), worth.max(axis=0)
    return best, value


def best_sets(probability: np.ndarray, closed: csr_array, most: int) -> np.ndarray:
    """Label sets, grown greedily from closed sets while the expected F1 rises.

    probability : (C, B) float64. closed : of ``closed_sets``. most : labels of a document.

    Returns
    -------
    (C, B) bool, closed under all ancestors; empty where all probabilities are 0.
    """
    total = probability.sum(axis=0)
    labels = np.zeros(probability.shape, dtype=bool)
    value = np.zeros(probability.shape[1])
    active = np.arange(probability.shape[1])
    while len(active):
        new, p = ~labels[:, active], probability[:, active]
        added = closed @ new.astype(np.float64)
        size = (~new).sum(axis=0) + added
        worth = 2 * ((p * ~new).sum(axis=0) + closed @ (p * new)) / (size + total[active])
        worth[(added == 0) | (size > most)] = -np.inf
        best = worth.argmax(axis=0)
        gain = worth[best, np.arange(len(active))]
        grows = gain > value[active] + ROUNDING
        active, best = active[grows], best[grows]
        labels[:, active] |= closed[best].toarray().T > 0
        value[active] = gain[grows]
    return labels
