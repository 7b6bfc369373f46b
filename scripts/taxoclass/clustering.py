"""Clusters of documents, several times over: finer than the classes, so that each is of one class.

References
----------
Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information Theory 28(2): k-means.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from common.progress import Progress, unseen
from taxoclass.posterior import cluster_weight

DIMENSIONS = 64  # principal ones that clusters are looked for in
PER_CLASS = (2, 3, 4, 6, 8)  # clusters a class, in turn
ROUNDS = 20
BLOCK = 8192


def clusterings(
    vectors: np.ndarray,
    n_classes: int,
    count: int,
    seed: int,
    progress: Progress = unseen,
) -> np.ndarray:
    """Clusters of the documents, ``count`` times over, of 2 to 8 clusters a class in turn.

    Parameters
    ----------
    vectors : (N, d) float32.
    n_classes : of the taxonomy.
    count : how many clusterings.
    progress : is told of each.

    Returns
    -------
    (N, count) int32: cluster of each document; (N, 0) where documents are so few that they would weigh nothing.
    """
    n_documents = len(vectors)
    if not count or not cluster_weight(n_documents, n_classes):
        return np.empty((n_documents, 0), np.int32)
    rng = np.random.default_rng(seed)
    reduced = principal(vectors, DIMENSIONS)
    found = []
    for turn in range(count):
        found.append(k_means(reduced, PER_CLASS[turn % len(PER_CLASS)] * n_classes, rng))
        progress(1)
    return np.stack(found, axis=1)


def principal(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """(N, min(d, dimensions)) float32 of length 1: centred vectors in their directions of largest variance."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    reduced = centred @ directions[:, ::-1][:, :dimensions].astype(np.float32)
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), np.float32(1e-12))


def k_means(values: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm, until no value changes its cluster or ``ROUNDS`` are over.

    Parameters
    ----------
    values : (N, d) float32.
    n_clusters : at most N; a cluster that loses its last value keeps its centre, so fewer may come back.
    rng : draws the values that are the first centres.

    Returns
    -------
    (N,) int32, cluster of each value.
    """
    n = len(values)
    centres = values[np.sort(rng.choice(n, n_clusters, replace=False))]
    found = np.full(n, -1, np.int32)
    for _ in range(ROUNDS):
        before = found.copy()
        half = (centres * centres).sum(axis=1) / 2
        for start in range(0, n, BLOCK):
            part = slice(start, start + BLOCK)
            found[part] = (values[part] @ centres.T - half).argmax(axis=1)
        if np.array_equal(found, before):
            break
        member = csr_array((np.ones(n, np.float32), (found, np.arange(n))), shape=(n_clusters, n))
        count = np.bincount(found, minlength=n_clusters)
        # an empty cluster keeps its centre
        centres = np.where((count > 0)[:, None], (member @ values) / np.maximum(count, 1)[:, None], centres)
        centres = centres.astype(np.float32)
    return found
