"""Core classes: the few classes that a document is most surely about, found without labels.

Similarities (N, C) are probabilities or cosines; NaN is a pair that nobody scored, which is neither a candidate nor a
competitor, and never the same as 0. Path scores multiply similarities down the taxonomy, so candidate selection wants
them in [0, 1]: probabilities as they are, cosines through ``unit_similarity``. (Of cosines, -0.9 x -0.9 would count as
0.81, and a parent at -0.1 would turn the order of its children round.)

References
----------
Shen, Qiu, Meng, Shang, Ren & Han (2021), TaxoClass: hierarchical multi-label text classification using only class
names, NAACL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.taxoclass_settings import CandidateSelection
from taxoclass.decoding import Chains, blocks, first_best
from taxoclass.expected_f1 import best_class
from taxoclass.labels import Cores, Labels, Sparse
from taxoclass.taxonomy import Taxonomy

PAIRS = 2**20  # (document, class) pairs handled together
ROUNDING = 1e-9  # .07 x 100 is 7, not 7.000000000000001 and so 8


def unit_similarity(cosine: np.ndarray) -> np.ndarray:
    """Cosines on the scale of path scores: (1 + cos) / 2, cut to [0, 1] against rounding; shape and dtype are kept.

    Affine, hence confidences are halved and the core classes of ``cores`` stay those of the cosines (with half the
    ``min_conf``, and but for classes without competitors, whose confidence is the similarity itself). Cutting negative
    cosines to 0 instead would make them, and all that is below them, equal.
    """
    return np.clip((1 + cosine) / 2, 0, 1)


# --- candidates


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How many children a class offers at a level, and how many classes the next frontier keeps.

    quota_offset : children that a class offers at level 0; >= 1.
    cap_offset, power : size of the frontier, (l + cap_offset) ** power rounded down; >= 0.
    """

    quota_offset: int
    cap_offset: int
    power: float

    @classmethod
    def of(cls, settings: CandidateSelection) -> Growth:
        return cls(
            quota_offset=settings.candidate_selection_quota,
            cap_offset=settings.candidate_selection_cap,
            power=settings.candidate_selection_power,
        )

    def __post_init__(self) -> None:
        for name, least in (("quota_offset", 1), ("cap_offset", 0), ("power", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")

    def quota(self, level: int) -> int:
        return level + self.quota_offset

    def cap(self, level: int) -> float:
        """Without a limit at level 0, and where the power is too large for a number."""
        try:
            return (level + self.cap_offset) ** self.power // 1 if level else np.inf
        except OverflowError:
            return np.inf


class _Frontier(NamedTuple):
    """(document, class) pairs, sorted by document, then class, with a path score each; class C is the virtual root."""

    rows: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class _Groups:
    """A group of classes for each class (its children, its competitors), in CSR layout."""

    def __init__(self, groups: Sequence[np.ndarray]) -> None:
        self.count = np.array([len(group) for group in groups])
        self.start = np.cumsum(self.count) - self.count
        self.items = np.concatenate(groups)

    def expand(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All members of the groups of some classes: position in ``classes`` and member."""
        counts = self.count[classes]
        position = np.repeat(np.arange(len(classes)), counts)
        place = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
        return position, self.items[self.start[classes][position] + place]


def candidates(similarity: np.ndarray, taxonomy: Taxonomy, growth: Growth) -> Sparse:
    """The classes that each document could be about, from the roots down.

    frontier(0) is a virtual root with path score 1. At level l each class of the frontier offers its l + quota_offset
    most similar children; all offers of a document make one pool; the path score of c is the largest path score of its
    parents in the frontier, times sim(c); frontier(l + 1) is the (l + cap_offset) ** power best of the pool, all of it
    at l = 0. The candidates are all frontiers together: with offsets 2 and 1 and power 2, at most 2 + 4 + 9 = 15 in
    three levels.

    In a DAG, a parent in the frontier lends its path score to a child that only another parent offered; and a class
    reached at several levels competes at each of them, and is one candidate, with its best path score. Equal
    similarities and equal path scores are decided by row.

    Parameters
    ----------
    similarity : (N, C) float32 in [0, 1], NaN where unscored; see ``unit_similarity`` for cosines.

    Returns
    -------
    The candidates of N documents with their path scores.

    Raises
    ------
    ValueError : a similarity below 0 or above 1, a shape that does not fit the taxonomy.
    """
    frontiers = _frontiers(similarity, taxonomy, growth)
    rows, classes, scores = (np.concatenate(part) for part in zip(*frontiers, strict=True))
    chosen = classes < len(taxonomy)
    keys, place = np.unique((rows * len(taxonomy) + classes)[chosen], return_inverse=True)
    best = np.zeros(len(keys))
    np.maximum.at(best, place, scores[chosen])
    return Sparse(*_csr(keys, similarity.shape), best.astype(np.float32))


def waves(similarity: np.ndarray, taxonomy: Taxonomy, growth: Growth) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which pairs to score next, so that stage 2 finds on them what it would find with all pairs scored.

    One turn of the loop a level: the children of the frontier. The last turn: the parents and siblings of the
    candidates, which their confidence needs. The caller scores the pairs in place, on the scale that ``candidates``
    takes, before it asks for more::

        similarity = np.full((n_documents, len(taxonomy)), np.nan, dtype=np.float32)
        for rows, classes in waves(similarity, taxonomy, growth):
            similarity[rows, classes] = score(rows, classes)

    Only pairs that are NaN are asked for, so a half-scored matrix is continued where it ended.

    Yields
    ------
    rows, classes : (n,) int64 each, sorted by document, then class; n > 0.

    Raises
    ------
    ValueError : as ``candidates``.
    """
    children, rivals = _children(taxonomy), competitors(taxonomy)
    families = np.zeros(similarity.shape, dtype=bool)
    for frontier in _frontiers(similarity, taxonomy, growth):
        yield from _unscored(similarity, _members(frontier.rows, frontier.classes, children, similarity.shape))
        chosen = frontier.classes < len(taxonomy)
        families |= _members(frontier.rows[chosen], frontier.classes[chosen], rivals, similarity.shape)
    yield from _unscored(similarity, families)


def expected_pairs(taxonomy: Taxonomy, growth: Growth, seed: int = 0, documents: int = 64) -> float:
    """Pairs a document that ``waves`` will ask for, the mean over documents of random similarities.

    An estimate for the log; no result depends on ``seed``.
    """
    similarity = np.full((documents, len(taxonomy)), np.nan, dtype=np.float32)
    random = np.random.default_rng(seed).random(similarity.shape, dtype=np.float32)
    for rows, classes in waves(similarity, taxonomy, growth):
        similarity[rows, classes] = random[rows, classes]
    return float((~np.isnan(similarity)).sum() / documents)


def _frontiers(similarity: np.ndarray, taxonomy: Taxonomy, growth: Growth) -> Iterator[_Frontier]:
    """frontier(0), the virtual root, frontier(1), ...; what a level needs is read when the next one is asked for."""
    _check_shape(similarity, taxonomy)
    children = _Groups(_children(taxonomy))
    n = len(similarity)
    frontier = _Frontier(np.arange(n), np.full(n, len(taxonomy)), np.ones(n))
    yield frontier
    level = 0
    while len(frontier.rows):
        quota, cap = growth.quota(level), growth.cap(level)
        parts = [_next(similarity, children, part, quota, cap) for part in _parts(frontier, children.count)]
        frontier = _Frontier(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        yield frontier
        level += 1


def _children(taxonomy: Taxonomy) -> tuple[np.ndarray, ...]:
    """Children of every class and, last, of the virtual root."""
    return (*taxonomy.children, taxonomy.roots)


def _parts(frontier: _Frontier, n_children: np.ndarray) -> Iterator[_Frontier]:
    """The frontiers of some documents at a time, with PAIRS children together, or of one document."""
    starts = np.flatnonzero(np.diff(frontier.rows, prepend=-1))
    ends = np.append(starts[1:], len(frontier.rows))
    reached = np.cumsum(n_children[frontier.classes])[ends - 1]
    first = done = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(reached, done + PAIRS, side="right")))
        yield _Frontier(*(part[starts[first] : ends[last - 1]] for part in frontier))
        first, done = last, reached[last - 1]


def _next(similarity: np.ndarray, children: _Groups, frontier: _Frontier, quota: int, cap: float) -> _Frontier:
    """The frontier below a frontier."""
    parent, classes = children.expand(frontier.classes)
    rows = frontier.rows[parent]
    values = similarity[rows, classes].astype(np.float64)
    _check_unit(values)
    scored = ~np.isnan(values)
    parent, values, keys = parent[scored], values[scored], (rows * similarity.shape[1] + classes)[scored]
    pool, first, place = np.unique(keys, return_index=True, return_inverse=True)
    lent = np.zeros(len(pool))
    np.maximum.at(lent, place, frontier.scores[parent])
    offered = np.zeros(len(pool), dtype=bool)
    offered[place[_rank(parent, values) < quota]] = True
    rows, classes = np.divmod(pool[offered], similarity.shape[1])
    scores = (lent * values[first])[offered]
    kept = _rank(rows, scores) < cap
    return _Frontier(rows[kept], classes[kept], scores[kept])


def _rank(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) int64, how many come before each value in its group, the largest first, then the earliest.

    ``groups`` are ascending, >= 0.
    """
    place = np.arange(len(groups))
    begin = np.maximum.accumulate(np.where(np.diff(groups, prepend=-1) > 0, place, 0))
    ranks = np.empty_like(place)
    ranks[np.lexsort((-values, groups))] = place - begin
    return ranks


def _csr(keys: np.ndarray, shape: tuple[int, ...]) -> Labels:
    """Labels of ascending keys document x C + class."""
    rows, classes = np.divmod(keys, shape[1])
    return Labels.pack(np.bincount(rows, minlength=shape[0]), classes)


def _by_class(classes: np.ndarray, n_classes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each class that occurs, with the positions of its pairs."""
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes, minlength=n_classes))
    for row, positions in enumerate(np.split(order, ends[:-1])):
        if len(positions):
            yield row, positions


def _members(rows: np.ndarray, classes: np.ndarray, groups: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """(N, C) bool: the pairs of a document and a member of the group of one of its classes."""
    mask = np.zeros(shape, dtype=bool)
    for row, positions in _by_class(classes, len(groups)):
        mask[np.ix_(rows[positions], groups[row])] = True
    return mask


def _unscored(similarity: np.ndarray, mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The NaN pairs of a mask, if there are any."""
    rows, classes = np.nonzero(mask & np.isnan(similarity))
    if len(rows):
        yield rows, classes


def _check_shape(similarity: np.ndarray, taxonomy: Taxonomy) -> None:
    if similarity.ndim != 2 or similarity.shape[1] != len(taxonomy):
        raise ValueError(f"similarities of {len(taxonomy)} classes are (N, {len(taxonomy)}), not {similarity.shape}")


def _check_unit(values: np.ndarray) -> None:
    wrong = values[(values < 0) | (values > 1)]
    if len(wrong):
        raise ValueError(
            f"path scores are products of similarities in [0, 1], and {wrong[0]:.3g} is none: map cosines with"
            " unit_similarity, logits to probabilities"
        )


# --- confidence and core classes


def competitors(taxonomy: Taxonomy) -> tuple[np.ndarray, ...]:
    """Of each class its parents and the other children of all its parents (of a root, the other roots), ascending."""
    return tuple(np.union1d(above, taxonomy.siblings(row)) for row, above in enumerate(taxonomy.parents))


def confidence(similarity: np.ndarray, taxonomy: Taxonomy, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How much more similar a class is to a document than the best of its parents and siblings.

    conf(D, c) = sim(D, c) - max over parents and siblings (of all parents) of c. Competitors that are NaN do not
    compete; the confidence of a class without competitors is its similarity, and of an unscored class NaN.

    Parameters
    ----------
    similarity : (N, C) float32, any scale; NaN where unscored.
    rows, classes : (n,) int, the pairs in question.

    Returns
    -------
    (n,) float32, in units of similarity.
    """
    _check_shape(similarity, taxonomy)
    values = similarity[rows, classes]
    rivals = competitors(taxonomy)
    for row, positions in _by_class(classes, len(taxonomy)):
        if len(rivals[row]):
            for some in np.array_split(positions, 1 + len(positions) * len(rivals[row]) // PAIRS):
                best = np.fmax.reduce(similarity[np.ix_(rows[some], rivals[row])], axis=1)
                values[some] -= np.where(np.isnan(best), 0, best)
    return values.astype(np.float32)


def cores(
    similarity: np.ndarray,
    taxonomy: Taxonomy,
    candidates: Sparse,
    *,
    percentile: float,
    require_positive: bool,
    min_conf: float | None,
) -> Cores:
    """The candidates that a document is surely about (``mining: taxoclass``).

    A candidate is a core class when its confidence is above the class's percentile over the documents that have it as
    a candidate, and positive (``require_positive``), and at least ``min_conf``. So the candidate of a class that only
    one document has is never a core class: nothing is above itself.

    Parameters
    ----------
    similarity : (N, C) float32, any scale; NaN where unscored.
    candidates : of the same N documents, all of them scored.
    percentile : 0 to 100, interpolated linearly.
    min_conf : in units of similarity; None: no floor.

    Raises
    ------
    ValueError : a candidate without a similarity, a percentile out of range, a shape that does not fit.
    """
    if len(candidates.indptr) != len(similarity) + 1:
        raise ValueError(
            f"candidates of {len(candidates.indptr) - 1} documents, similarities of {len(similarity)}"
            "; take both of one corpus"
        )
    values = confidence(similarity, taxonomy, candidates.labels.rows, candidates.indices)
    if np.isnan(values).any():
        raise ValueError("a candidate has no similarity: mine core classes on the matrix that candidates come from")
    thresholds = np.full(len(taxonomy), np.nan)
    for row, positions in _by_class(candidates.indices, len(taxonomy)):
        thresholds[row] = np.percentile(values[positions].astype(np.float64), percentile)
    kept = values > thresholds[candidates.indices]
    if require_positive:
        kept &= values > 0
    if min_conf is not None:
        kept &= values >= min_conf
    keys = candidates.labels.rows * len(taxonomy) + candidates.indices
    return Cores(*_csr(keys[kept], similarity.shape), values[kept], thresholds)


def path_margin(
    similarity: np.ndarray, taxonomy: Taxonomy, *, share: float, weights: np.ndarray | None = None
) -> Cores:
    """The end of the best chain, of the documents where it wins most clearly (``mining: path_margin``).

    The best chain has the largest mean similarity of all chains from a root to a class, inner classes included. Its
    gap, kept as confidence, is what it has over the best chain that is neither its prefix nor its extension (over 0
    where there is none). Kept are the documents with the largest gaps. The core class is the last class of the chain
    alone: stage 3 adds its ancestors as positives anyway, and cores higher up would make all that is below them, its
    siblings too, ignored instead of negative.

    Parameters
    ----------
    similarity : (N, C) float32, any scale; NaN where unscored, and then so is a chain through it.
    share : part of the documents with a scored chain that is kept, rounded up; 0 < share <= 1. Of equal gaps the
        earlier document's is kept.
    weights : (n levels,) weight of each level in the mean, as in ``decode``; default equal. With those of
        ``level_weights`` the core class was right .02 to .05 more often on three of four corpora (measured).

    Raises
    ------
    ValueError : a share out of range, a shape that does not fit the taxonomy.
    """
    _check_share(share)
    chains = Chains.of(taxonomy, weights)
    chain, gap = np.full(len(similarity), -1), np.full(len(similarity), -np.inf)
    for some, node in blocks(similarity, taxonomy):
        chain[some], gap[some] = _margin(chains.score(node), chains)
    count = int(np.ceil(share * (chain >= 0).sum() - ROUNDING))
    kept = np.sort(np.argsort(-gap, kind="stable")[:count])
    thresholds = np.full(len(taxonomy), gap[kept].min(initial=np.inf) if count else np.nan)
    keys = kept * len(taxonomy) + chains.last[chain[kept]]
    return Cores(*_csr(keys, similarity.shape), gap[kept].astype(np.float32), thresholds)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, not {share}")


def _margin(score: np.ndarray, chains: Chains) -> tuple[np.ndarray, np.ndarray]:
    """(B,) best chain, -1 for none, and (B,) its gap, -inf for none, from (K, B) chain scores."""
    chain = first_best(score)
    gap = np.full(len(chain), -np.inf)
    found = np.flatnonzero(chain >= 0)
    best = score[chain[found], found]
    rival = np.where(chains.rivals(chain[found]), score[:, found], -np.inf).max(axis=0)
    gap[found] = np.where(rival > -np.inf, best - rival, best)
    return chain, gap


def surest(probability: np.ndarray, taxonomy: Taxonomy, *, share: float) -> Cores:
    """The class of the best label set, of the surest documents of each class (``mining: posterior``).

    The core class of a document is the one whose set, with all its ancestors, has the highest expected Example-F1 (kept
    as confidence): an inner class, where the document does not tell those below apart. Of the documents of each class
    the surest are kept: by class and not over all, so that a class of low confidences keeps examples.

    Parameters
    ----------
    probability : (N, C) float32, on one scale for all levels, as from ``expected_f1.upward``.
    share : part of the documents of each class, rounded up; 0 < share <= 1. Of equals the earlier document is kept.

    Raises
    ------
    ValueError : a share out of range, a shape that does not fit the taxonomy.
    """
    _check_share(share)
    _check_shape(probability, taxonomy)
    best, worth = best_class(probability, taxonomy)
    known = np.flatnonzero(worth > 0)
    order = known[np.lexsort((-worth[known], best[known]))]
    sizes = np.bincount(best[known], minlength=len(taxonomy))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.sort(order[rank < np.ceil(share * np.repeat(sizes, sizes) - ROUNDING)])
    thresholds = np.full(len(taxonomy), np.nan)
    np.fmin.at(thresholds, best[kept], worth[kept])
    keys = kept * len(taxonomy) + best[kept]
    return Cores(*_csr(keys, probability.shape), worth[kept].astype(np.float32), thresholds)


def report(cores: Cores, taxonomy: Taxonomy, gold: Labels | None = None) -> dict[str, Any]:
    """What stage 2 found, for the log and for JSON; ``gold`` is only compared with, never used.

    Returns
    -------
    documents, documents_with_cores; coverage, their ratio; cores_per_document, of documents with cores;
    share_by_level, of all cores, by level from 0; classes_never_chosen, ids; and with gold, on the documents that have
    gold labels, precision, the share of cores that are gold labels, and precision_with_ancestors, the same of cores
    and their ancestors, which is what stage 3 trains on. A share of nothing is None.

    Raises
    ------
    ValueError : ``gold`` is of other documents.
    """
    sizes = cores.labels.sizes
    covered = int((sizes > 0).sum())
    levels = np.bincount(taxonomy.level[cores.indices], minlength=int(taxonomy.level.max()) + 1)
    chosen = np.bincount(cores.indices, minlength=len(taxonomy)) > 0
    found: dict[str, Any] = {
        "documents": len(sizes),
        "documents_with_cores": covered,
        "coverage": _share(covered, len(sizes)),
        "cores_per_document": _share(len(cores.indices), covered),
        "share_by_level": {str(level): _share(n, len(cores.indices)) for level, n in enumerate(levels.tolist())},
        "classes_never_chosen": [taxonomy.ids[row] for row in np.flatnonzero(~chosen)],
    }
    if gold is not None:
        if len(gold.sizes) != len(sizes):
            raise ValueError(f"core classes of {len(sizes)} documents, gold labels of {len(gold.sizes)}")
        truth, known = gold.matrix(len(taxonomy)), gold.sizes > 0
        for name, silver in (
            ("precision", cores.labels.matrix(len(taxonomy))),
            ("precision_with_ancestors", cores.labels.closed(taxonomy)),
        ):
            found[name] = _share(silver.multiply(truth).sum(), silver.sum(axis=1)[known].sum())
    return found


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
