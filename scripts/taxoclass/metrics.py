"""How good label sets and scores are, in two conventions: ``strict``, and ``compat``, that of the published numbers.

Only documents with gold labels count. Equal scores are ranked by class row, unscored (NaN) classes come last and never
among the top k. All but macro-F1 and the coverages are ratios of sums over documents, which is what the bootstrap draws
from.

References
----------
Shen et al. (2021), TaxoClass, NAACL: Example-F1, P@k, MRR. Kiritchenko, Matwin & Famili (2005), functional annotation
of genes using hierarchical text categorization: hierarchical precision and recall. Järvelin & Kekäläinen (2002),
cumulated gain-based evaluation: nDCG. Efron & Tibshirani (1993), an introduction to the bootstrap: intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from taxoclass.labels import Labels
from taxoclass.taxonomy import Taxonomy

CELLS = 2**22  # of scores, handled together
COMPAT_LABELS = 3  # labels of a document in the published numbers
INSIDE = 0.95  # probability inside an interval


class Ratio(NamedTuple):
    """A metric as the sum of ``part`` over the sum of ``whole``, (N,) float64 each, one a document."""

    part: np.ndarray
    whole: np.ndarray

    @property
    def value(self) -> float:
        """The metric; 0 where there is nothing to divide by."""
        return float(self.part.sum() / self.whole.sum()) if self.whole.sum() else 0.0


def evaluate(
    scores: np.ndarray,
    labels: Labels,
    gold: Labels,
    taxonomy: Taxonomy,
    *,
    seed: int,
    ks: Sequence[int],
    resamples: int,
) -> dict[str, Any]:
    """All metrics of decoded label sets and of the scores that they come from.

    Parameters
    ----------
    scores : (N, C) float, larger is likelier; NaN is unscored.
    labels : decoded label sets of the N documents.
    gold : true label sets; a document without any is left out.
    seed, resamples : of the bootstrap; 0 resamples leave the intervals out.
    ks : cut-offs of P@k and nDCG@k.

    Returns
    -------
    documents, documents_without_gold;
    strict : example_f1 of ``labels``, p_at_k, mrr (of a document's first true class), mrr_all (mean over a document's
        true classes);
    compat : example_f1 of the three best-scored classes, p_at_k, mrr;
    micro_f1, macro_f1, hierarchical (precision, recall, f1), ndcg_at_k, level_f1 (level, 0 for the roots -> micro-F1 of
    its classes, and gold labels),
    class_coverage (predicted classes among all, among gold classes), consistency_rate, labels_per_document;
    intervals : metric -> 95 % interval [low, high], names joined by ".".

    Raises
    ------
    ValueError : shapes that do not fit together, no document with gold labels.
    """
    n_classes = len(taxonomy)
    _check_shapes(scores, labels, gold, n_classes)
    some = np.flatnonzero(gold.sizes)
    if not len(some):
        raise ValueError("no document has gold labels")
    predicted, truth = labels.matrix(n_classes)[some], gold.matrix(n_classes)[some]
    closed, closed_truth = labels.closed(taxonomy)[some], gold.closed(taxonomy)[some]
    ranking = Ranking.of(scores, some, truth, max([*ks, COMPAT_LABELS]))
    ratios = _ratios(predicted, truth, closed, closed_truth, ranking, taxonomy, ks)
    levels = [np.flatnonzero(taxonomy.level == level) for level in range(int(taxonomy.level.max()) + 1)]
    by_level = {f"level_f1.{n}.f1": overlap(predicted[:, here], truth[:, here]) for n, here in enumerate(levels)}
    gold_labels = {f"level_f1.{n}.gold_labels": int(truth[:, here].sum()) for n, here in enumerate(levels)}
    found = {
        "documents": len(some),
        "documents_without_gold": len(scores) - len(some),
        **_nested({name: ratio.value for name, ratio in ratios.items()}),
        "macro_f1": macro_f1(predicted, truth),
        **_nested({name: ratio.value for name, ratio in by_level.items()} | gold_labels),
        "class_coverage": coverage(predicted, truth),
    }
    if resamples:
        found["intervals"] = bootstrap(ratios | by_level, seed=seed, resamples=resamples)
    return found


def _check_shapes(scores: np.ndarray, labels: Labels, gold: Labels, n_classes: int) -> None:
    if scores.shape != (len(labels.sizes), n_classes) or len(gold.sizes) != len(labels.sizes):
        raise ValueError(
            f"scores {scores.shape}, label sets of {len(labels.sizes)} documents and gold labels of"
            f" {len(gold.sizes)} do not fit together, or not to {n_classes} classes"
        )


def _ratios(
    predicted: csr_array,
    truth: csr_array,
    closed: csr_array,
    closed_truth: csr_array,
    ranking: Ranking,
    taxonomy: Taxonomy,
    ks: Sequence[int],
) -> dict[str, Ratio]:
    """The metrics of ``evaluate`` that are averages over documents; ``closed`` are label sets with all ancestors."""
    sizes = predicted.sum(axis=1)
    both = shared(closed, closed_truth)
    return {
        "strict.example_f1": example_f1(predicted, truth),
        **{f"strict.p_at_{k}": ranking.precision(k, strict=True) for k in ks},
        "strict.mrr": ranking.first(),
        "strict.mrr_all": ranking.mean(),
        "compat.example_f1": ranking.top_f1(COMPAT_LABELS),
        **{f"compat.p_at_{k}": ranking.precision(k, strict=False) for k in ks},
        "compat.mrr": ranking.pairs(),
        "micro_f1": overlap(predicted, truth),
        "hierarchical.precision": Ratio(both, closed.sum(axis=1)),
        "hierarchical.recall": Ratio(both, closed_truth.sum(axis=1)),
        "hierarchical.f1": overlap(closed, closed_truth),
        **{f"ndcg_at_{k}": ranking.ndcg(k) for k in ks},
        "consistency_rate": consistency(predicted, taxonomy),
        "labels_per_document": Ratio(sizes, np.ones(len(sizes))),
    }


def _nested(flat: Mapping[str, float]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


# --- label sets: (N, C) float64 sparse matrices of 0 and 1


def shared(predicted: csr_array, truth: csr_array) -> np.ndarray:
    """(N,) float64: labels that two sets have in common."""
    return np.asarray(predicted.multiply(truth).sum(axis=1))


def overlap(predicted: csr_array, truth: csr_array) -> Ratio:
    """2 |T & P| / (|T| + |P|), both summed over documents: micro-F1, and on closed sets hierarchical F1."""
    return Ratio(2 * shared(predicted, truth), predicted.sum(axis=1) + truth.sum(axis=1))


def example_f1(predicted: csr_array, truth: csr_array) -> Ratio:
    """2 |T & P| / (|T| + |P|) of each document, averaged over documents; no T is empty."""
    part, whole = overlap(predicted, truth)
    return Ratio(part / whole, np.ones(len(part)))


def macro_f1(predicted: csr_array, truth: csr_array) -> float:
    """Mean F1 of the classes that are predicted or true somewhere."""
    part, whole = 2 * predicted.multiply(truth).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0)
    return float((part[whole > 0] / whole[whole > 0]).mean())


def coverage(predicted: csr_array, truth: csr_array) -> dict[str, float]:
    """Share of all classes, and of the classes that are true somewhere, that are predicted somewhere."""
    seen, true = predicted.sum(axis=0) > 0, truth.sum(axis=0) > 0
    return {"of_all": float(seen.mean()), "of_gold": float(seen[true].mean())}


def consistency(predicted: csr_array, taxonomy: Taxonomy) -> Ratio:
    """Share of the non-empty label sets in which every label is a root or has a parent in the set."""
    parent, child = taxonomy.edges.T
    content = np.ones(len(parent)), (parent, child)
    below = predicted @ csr_array(content, shape=(len(taxonomy), len(taxonomy)))
    supported = shared(predicted, (below > 0).astype(np.float64)) + predicted[:, taxonomy.roots].sum(axis=1)
    sizes = predicted.sum(axis=1)
    return Ratio(((supported == sizes) & (sizes > 0)).astype(np.float64), (sizes > 0).astype(np.float64))


# --- rankings


class Ranking(NamedTuple):
    """Where the true classes of n documents come when all classes are sorted by score.

    hits : (n, K) bool, the class at each of the first K places is scored and true.
    scored : (n,) int64, classes with a score.
    rows : (T,) int64, the document of each (document, true class) pair.
    strict, compat : (T,) int64, rank of each pair among all classes; 1 + number of non-true classes scored as high.
    """

    hits: np.ndarray
    scored: np.ndarray
    rows: np.ndarray
    strict: np.ndarray
    compat: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, documents: np.ndarray, truth: csr_array, depth: int) -> Ranking:
        """Ranking of (N, C) scores on n documents with (n, C) truth, the first ``depth`` places."""
        parts = zip(*_ranked(scores, documents, truth, depth), strict=True)
        hits, scored, strict, compat = (np.concatenate(part) for part in parts)
        rows = np.repeat(np.arange(len(documents)), np.diff(truth.indptr))
        return cls(hits, scored, rows, strict, compat)

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64: true classes of each document."""
        return np.bincount(self.rows, minlength=len(self.hits))

    def precision(self, k: int, *, strict: bool) -> Ratio:
        """True classes among the first k, over min(k, true classes) (strict) or k, averaged over documents."""
        possible = np.minimum(k, self.counts) if strict else k
        return Ratio(self.hits[:, :k].sum(axis=1) / possible, np.ones(len(self.hits)))

    def top_f1(self, k: int) -> Ratio:
        """Example-F1 of the first k classes, fewer where fewer are scored."""
        sizes = np.minimum(k, self.scored) + self.counts
        return Ratio(2 * self.hits[:, :k].sum(axis=1) / sizes, np.ones(len(self.hits)))

    def first(self) -> Ratio:
        """1 / rank of each document's first true class, averaged over documents."""
        best = np.zeros(len(self.hits))
        np.maximum.at(best, self.rows, 1 / self.strict)
        return Ratio(best, np.ones(len(best)))

    def mean(self) -> Ratio:
        """1 / rank averaged over each document's true classes, then over documents."""
        total = np.bincount(self.rows, weights=1 / self.strict, minlength=len(self.hits))
        return Ratio(total / self.counts, np.ones(len(total)))

    def pairs(self) -> Ratio:
        """1 / compat rank averaged over all (document, true class) pairs."""
        total = np.bincount(self.rows, weights=1 / self.compat, minlength=len(self.hits))
        return Ratio(total, self.counts.astype(np.float64))

    def ndcg(self, k: int) -> Ratio:
        """Discounted gain of the first k places over that of a perfect ranking, averaged over documents.

        References
        ----------
        Järvelin & Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4).
        """
        discount = 1 / np.log2(np.arange(2, k + 2))
        best = np.cumsum(discount)[np.minimum(self.counts, k) - 1]
        hits = self.hits[:, :k]
        return Ratio(hits @ discount[: hits.shape[1]] / best, np.ones(len(hits)))


def _ranked(
    scores: np.ndarray, documents: np.ndarray, truth: csr_array, depth: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """hits, scored, strict and compat of ``Ranking``, some documents at a time."""
    size = max(1, CELLS // scores.shape[1])
    for start in range(0, len(documents), size):
        some = slice(start, start + size)
        values = np.asarray(scores[documents[some]], dtype=np.float64)
        values[np.isnan(values)] = -np.inf
        true = truth[some].toarray() > 0
        top = np.argsort(-values, axis=1, kind="stable")[:, :depth]
        scored = values > -np.inf
        yield np.take_along_axis(true & scored, top, axis=1), scored.sum(axis=1), *_ranks(values, true)


def _ranks(values: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strict and compat ranks of the true pairs of a block."""
    rows, classes = np.nonzero(true)
    own = values[rows, classes][:, None]
    higher = values[rows] > own
    equal = values[rows] == own
    earlier = np.arange(values.shape[1]) < classes[:, None]
    strict = 1 + (higher | (equal & earlier)).sum(axis=1)
    compat = 1 + ((higher | equal) & ~true[rows]).sum(axis=1)
    return strict, compat


# --- intervals


def bootstrap(ratios: Mapping[str, Ratio], *, seed: int, resamples: int) -> dict[str, list[float]]:
    """Percentile intervals of ratios of sums, over documents drawn with replacement.

    All ratios see the same draws, so intervals of one call may be compared.

    Parameters
    ----------
    ratios : metrics of the same N > 0 documents.
    seed : the same seed gives the same intervals.

    Returns
    -------
    metric -> [low, high].
    """
    parts = np.column_stack([ratio.part for ratio in ratios.values()])
    wholes = np.column_stack([ratio.whole for ratio in ratios.values()])
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(ratios)))
    for each in drawn:
        times = np.bincount(rng.integers(len(parts), size=len(parts)), minlength=len(parts))
        whole = times @ wholes
        each[:] = np.divide(times @ parts, whole, out=np.zeros_like(whole), where=whole > 0)
    low, high = np.quantile(drawn, [(1 - INSIDE) / 2, (1 + INSIDE) / 2], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(ratios)}
