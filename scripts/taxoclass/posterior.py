"""What the corpus as a whole says about each document: class shares and neighbours.

Scores of single pairs are noisy per document, and say nothing of how common a class is. A posterior over the leaves,
with shares that are learnt from the corpus, and averaged over the nearest documents, repairs much of it without labels.
Probabilities of inner classes are those of the leaves below them, so that all levels are on one scale.

References
----------
Saerens, Latinne & Decaestecker (2002), Adjusting the outputs of a classifier to new a priori probabilities, Neural
Computation 14(1): class shares by expectation maximisation.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.special import softmax

from common.progress import Progress, unseen
from taxoclass.taxonomy import Taxonomy

BLOCK = 1024
SHARPNESS = 2.0  # logit of a standard deviation of a document's scores; of 1.5, 2, 3, 4 best on three of four corpora
ROUNDS = 10  # the change after five is small
SURE = 0.5  # share of the documents that is learnt from where single documents are all there is to go by


def leaf_posterior(
    scores: np.ndarray,
    taxonomy: Taxonomy,
    neighbours: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    words: csr_array | None = None,
) -> np.ndarray:
    """Probability of each leaf given the document.

    Parameters
    ----------
    scores : (N, C) float32, on any scale; NaN is unscored and gets probability 0.
    neighbours : (N, k) integer rows, as from ``nearest``; None or k = 0: no averages.
    clusters : (N, R) integer, cluster of each document in each of R clusterings; None or R = 0: none.
    words : (N, C) float32, added to the logits: what the words of the class names say.

    Returns
    -------
    (N, L) float32 over the leaves in their order; rows sum to 1, or to 0 where nothing is scored.
    """
    own = scores[:, taxonomy.leaves]
    known = ~np.isnan(own).all(axis=1)
    posterior: np.ndarray = np.zeros(own.shape, np.float32)
    logits = as_logits(own[known])
    if words is not None:
        logits += words[np.flatnonzero(known)][:, np.flatnonzero(taxonomy.leaves)].toarray()
    own = class_posterior(logits)
    n_documents, n_classes = posterior.shape
    if clusters is not None and clusters.size:
        own = pooled(own, by_cluster(logits, clusters[known]), cluster_weight(n_documents, n_classes))
    posterior[known] = own
    if neighbours is None or not neighbours.size:
        return posterior
    return smoothed(posterior, neighbours, neighbour_weight(n_documents, n_classes, neighbours.shape[1]))


def as_logits(scores: np.ndarray) -> np.ndarray:
    """Scores as logits, in units of their mean standard deviation within a document; unscored ones far below all.

    scores : (N, L) float, NaN where unscored. Returns (N, L) float32, equal where nothing tells classes apart.
    """
    scored = ~np.isnan(scores)
    values = np.where(scored, scores, 0).astype(np.float64)
    count = np.maximum(scored.sum(axis=1, keepdims=True), 1)
    centred = np.where(scored, values - values.sum(axis=1, keepdims=True) / count, 0)
    several = scored.sum(axis=1) > 1
    deviation = np.sqrt((centred**2).sum(axis=1) / count[:, 0])[several]
    spread = float(deviation.mean()) if len(deviation) else 0.0
    logits = centred * (SHARPNESS / spread) if spread > 0 else centred
    return np.where(scored, logits, -1e4).astype(np.float32)


def class_posterior(logits: np.ndarray) -> np.ndarray:
    """Posterior with class shares learnt from the corpus, posterior ~ exp(logit) x share.

    The share of a class is half the mean posterior and half an equal share, which keeps a class from dying out and from
    taking all; shares and posterior are computed in turns.

    logits : (N, L) float32. Returns (N, L) float32, rows sum to 1.
    """
    posterior = softmax(logits, axis=1)
    for _ in range(ROUNDS if len(logits) else 0):
        share = (posterior.mean(axis=0, dtype=np.float64) + 1 / logits.shape[1]) / 2
        posterior = softmax(logits + np.log(share).astype(np.float32), axis=1)
    return posterior


# --- clusters


def cluster_weight(n_documents: int, n_classes: int) -> float:
    """Weight of the clusters' word, n / (n + 1000), with n the mean number of documents of a class; 0 below a fifth.

    A cluster is of one class only where classes have many documents, and to compare classes across clusters supposes
    that none is rare. Clusters alone, against documents alone: .67 -> .82 (micro-F1) with 3,574 documents a class, .71
    -> .76 (Example-F1) with 942, .71 -> .27 with 120, .65 -> .61 with 8 (measured).
    """
    n = n_documents / max(n_classes, 1)
    weight = n / (n + 1000)
    return weight if weight >= 0.2 else 0.0


def core_share(n_documents: int, n_classes: int, clusters: np.ndarray) -> float:
    """Share of the documents to learn from: the surer half, and as much of the rest as clusters have a say.

    Without clusters the sure documents are the ones that are right; with them, those left out are as good as others
    and of another kind. clusters : (N, R), as in ``leaf_posterior``.
    """
    return SURE + (1 - SURE) * (cluster_weight(n_documents, n_classes) if clusters.size else 0.0)


def by_cluster(logits: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """What clusters of documents say of the classes: the mean over clusterings of a softmax over each cluster.

    The mean logits of a cluster are standardised over the clusters, class by class: a name that is like everything
    says nothing, one that is liked by one cluster more than by others says much.

    logits : (N, L) float32. clusters : (N, R) integer. Returns (N, L) float32, rows sum to 1.
    """
    found = np.zeros(logits.shape, np.float32)
    for each in clusters.T:
        size = np.bincount(each).astype(np.float64)
        member = csr_array((np.ones(len(each)), (each, np.arange(len(each)))))
        mean = (member @ logits) / np.maximum(size, 1)[:, None]
        centred = mean - np.average(mean, axis=0, weights=size)
        deviation = np.sqrt(np.average(centred**2, axis=0, weights=size))
        standard = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
        found += softmax(SHARPNESS * standard, axis=1).astype(np.float32)[each]
    return found / np.float32(clusters.shape[1])


def pooled(one: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Normalised one^(1 - weight) other^weight: the logarithmic opinion pool (Genest & Zidek 1986) of two (N, L)."""
    if not weight:
        return one
    least = np.finfo(np.float32).tiny
    logits = (1 - weight) * np.log(np.maximum(one, least)) + weight * np.log(np.maximum(other, least))
    return softmax(logits, axis=1).astype(np.float32)


# --- neighbours


def nearest(vectors: np.ndarray, k: int, progress: Progress = unseen) -> np.ndarray:
    """(N, min(k, N - 1)) int32: the documents of the largest cosine with each one, itself left out, best first.

    vectors : (N, d) float32, rows of length 1. All pairs are compared, a block of documents at a time, of whose size
    ``progress`` is told.
    """
    n = len(vectors)
    k = min(k, max(n - 1, 0))
    found = np.empty((n, k), np.int32)
    for start in range(0, n if k else 0, BLOCK):
        cosine = vectors[start : start + BLOCK] @ vectors.T
        here = np.arange(len(cosine))
        cosine[here, start + here] = -np.inf
        some = np.argpartition(cosine, n - k, axis=1)[:, n - k :]
        order = np.argsort(-np.take_along_axis(cosine, some, axis=1), axis=1, kind="stable")
        found[start : start + BLOCK] = np.take_along_axis(some, order, axis=1)
        progress(len(cosine))
    return found


def neighbour_weight(n_documents: int, n_classes: int, k: int) -> float:
    """Weight of the neighbours' mean, .7 n / (n + k), with n the mean number of documents of a class.

    Where a class has fewer documents than a neighbourhood, neighbours are mostly of other classes: with 7.6 documents a
    class, averages over ten cost .01 Example-F1 at a weight of .5; with 124 and 942 they gave .02 and .03 (measured).
    """
    n = n_documents / max(n_classes, 1)
    return 0.7 * n / (n + k)


def smoothed(
    posterior: np.ndarray, neighbours: np.ndarray, weight: float, known: np.ndarray | None = None
) -> np.ndarray:
    """(1 - weight) x posterior + weight x mean posterior of the neighbours; unknown rows stay and count for nobody.

    Probabilities are averaged, not logits: a document between classes stays between them.

    posterior : (N, L) float32. neighbours : (N, k) integer rows. weight : 0 to 1.
    known : (N,) bool; None: rows that are not all 0.
    """
    n, k = neighbours.shape
    known = posterior.sum(axis=1) > 0 if known is None else known
    counted = known[neighbours] & known[:, None]
    content = counted.ravel().astype(posterior.dtype), neighbours.ravel(), np.arange(0, n * k + 1, k)
    number = counted.sum(axis=1)
    share = np.where(number > 0, weight, 0).astype(posterior.dtype)[:, None]
    mean = (csr_array(content, shape=(n, n)) @ posterior) / np.maximum(number, 1).astype(posterior.dtype)[:, None]
    return (1 - share) * posterior + share * mean
