"""From scores to label sets: the best chain of the taxonomy, greedy walks, thresholds, and the limits all of them keep.

A chain is a way from a root to a class, inner classes included, so that every decoder can stop at an inner class. Its
score is the mean of its classes' scores, each class weighted by its level. A score of NaN is unscored: such a class is
never chosen and neither is a chain through it. Equal scores are decided by row, then by the order of
``Taxonomy.chains``: the same input gives the same labels, whatever the number of documents handled together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
from scipy.sparse import csr_array

from common.progress import Progress, unseen
from common.taxoclass_settings import Method, Predict
from taxoclass.expected_f1 import best_sets
from taxoclass.labels import Labels
from taxoclass.taxonomy import Taxonomy

CELLS = 2**21  # of documents x chains, handled together


class Decoded(NamedTuple):
    """What a decoder found.

    labels : of N documents.
    chain : (N,) int32, index into ``Taxonomy.chains`` of the chain that a document was given, -1 for none. Methods that
        choose single classes are given the best chain inside their label set.
    score : (N,) float32, score of that chain, NaN for none.
    """

    labels: Labels
    chain: np.ndarray
    score: np.ndarray


# --- chains


@dataclass(frozen=True)
class Chains:
    """The chains of a taxonomy as arrays.

    weights : (K, C) float64, the weight of each class on each chain; 0 off the chain.
    total : (K,) float64, sum of a chain's weights.
    length : (K,) int64, classes on a chain.
    nodes : (K, L) int64, classes from the root down, -1 behind the end.
    prefix : (K, L) int64, [k, d] is the chain of the first d + 1 classes of chain k, -1 behind the end.
    """

    weights: csr_array
    total: np.ndarray
    length: np.ndarray
    nodes: np.ndarray
    prefix: np.ndarray

    @classmethod
    def of(cls, taxonomy: Taxonomy, weights: np.ndarray | None = None) -> Chains:
        """Chains with (n levels,) positive level weights; None weighs all levels the same."""
        chains = taxonomy.chains
        length = np.array([len(chain) for chain in chains])
        index = {chain: k for k, chain in enumerate(chains)}
        nodes = np.full((len(chains), length.max()), -1)
        prefix = nodes.copy()
        for k, chain in enumerate(chains):
            nodes[k, : len(chain)] = chain
            prefix[k, : len(chain)] = [index[chain[: depth + 1]] for depth in range(len(chain))]
        on = nodes >= 0
        weight = _checked_weights(taxonomy, weights)[taxonomy.level[nodes[on]]]
        table = csr_array((weight, (np.nonzero(on)[0], nodes[on])), shape=(len(chains), len(taxonomy)))
        return cls(table, table.sum(axis=1), length, nodes, prefix)

    def score(self, node: np.ndarray) -> np.ndarray:
        """(K, B) float64: weighted mean over each chain of (C, B) class scores, -inf where one of them is."""
        return (self.weights @ node) / self.total[:, None]

    def rivals(self, chain: np.ndarray) -> np.ndarray:
        """(K, B) bool: chains that are neither a prefix nor an extension of (B,) given ones, nor these themselves."""
        related = self.prefix[:, self.length[chain] - 1] == chain
        for shorter in self.prefix[chain].T:
            on = np.flatnonzero(shorter >= 0)
            related[shorter[on], on] = True
        return ~related

    @property
    def last(self) -> np.ndarray:
        """(K,) int64: the class at each chain's end."""
        return self.nodes[np.arange(len(self.nodes)), self.length - 1]

    def within(self, labels: np.ndarray) -> np.ndarray:
        """(K, B) bool: all classes of a chain are among the (C, B) bool labels."""
        return (self.weights > 0).astype(np.int32) @ labels.astype(np.int32) == self.length[:, None]

    def within_to_the_end(self, labels: np.ndarray) -> np.ndarray:
        """(K, B) bool: as ``within``, and no longer chain goes on from it."""
        inside = self.within(labels)
        longer = np.flatnonzero(self.length > 1)
        goes_on = np.zeros_like(inside)
        np.logical_or.at(goes_on, self.prefix[longer, self.length[longer] - 2], inside[longer])
        return inside & ~goes_on

    def mark(self, labels: np.ndarray, chain: np.ndarray, documents: np.ndarray) -> None:
        """Add to the (C, B) bool labels the classes of one chain for each of some documents."""
        for node in self.nodes[chain].T:
            on = node >= 0
            labels[node[on], documents[on]] = True


def _checked_weights(taxonomy: Taxonomy, weights: np.ndarray | None) -> np.ndarray:
    n_levels = int(taxonomy.level.max()) + 1
    weights = np.ones(n_levels) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_levels,) or not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"level weights are {n_levels} positive numbers, one a level, not {weights.tolist()}")
    return weights


def blocks(scores: np.ndarray, taxonomy: Taxonomy) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of documents with their scores as (C, B) float64, classes first and unscored -inf.

    Raises
    ------
    ValueError : ``scores`` does not have one column a class.
    """
    if scores.ndim != 2 or scores.shape[1] != len(taxonomy):
        raise ValueError(f"scores of {len(taxonomy)} classes are (N, {len(taxonomy)}), not {scores.shape}")
    size = max(1, CELLS // max(len(taxonomy.chains), len(taxonomy)))
    for start in range(0, len(scores), size):
        some = slice(start, min(start + size, len(scores)))
        node = np.ascontiguousarray(np.asarray(scores[some], dtype=np.float64).T)
        node[np.isnan(node)] = -np.inf
        yield some, node


def level_weights(scores: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """How much each level's scores tell classes apart, without labels: the ``weights`` of ``decode``.

    The square of how far a document's best class of a level stands out from the mean of the level, averaged over
    documents. Vague names ("talk", "general") score alike on every document and get little weight. The square was
    chosen on MiniLM cosines of wos1k, 20news, reuters21578 and debtags, where it beats equal weights by .01 to .05
    Example-F1 (measured); dividing by the spread within the level, margins to the second best class and a mixture
    model of all levels together were no better.

    Parameters
    ----------
    scores : (N, C) float on the scale that is decoded; NaN is left out.

    Returns
    -------
    (n levels,) float64, the largest 1, all > 0; equal where nothing stands out. A level of a single class tells
    nothing apart and gets 0.001.
    """
    n_levels = int(taxonomy.level.max()) + 1
    total, count = np.zeros(n_levels), np.zeros(n_levels)
    for _, node in blocks(scores, taxonomy):
        for level in range(n_levels):
            here = node[taxonomy.level == level]
            scored = here > -np.inf
            some = scored.any(axis=0)
            mean = np.where(scored, here, 0.0).sum(axis=0)[some] / scored.sum(axis=0)[some]
            total[level] += (here.max(axis=0)[some] - mean).sum()
            count[level] += some.sum()
    weights = (total / np.maximum(count, 1)) ** 2
    return np.maximum(weights / weights.max(), 1e-3) if weights.any() else np.ones(n_levels)


def full_weights(given: Sequence[float], taxonomy: Taxonomy) -> np.ndarray:
    """(n levels,) float64: the given weights, the last one for all levels below."""
    n_levels = int(taxonomy.level.max()) + 1
    return np.array([*given, *[given[-1]] * n_levels][:n_levels], dtype=np.float64)


# --- the decoder


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How ``decode``, which explains the methods, makes label sets; what is left out asks for nothing.

    k, threshold, stop, width, marginal : of single methods; thresholds are on the scale of the scores.
    min_labels, max_labels : labels of a document; a document without a scored class has none all the same. Chains
        longer than max_labels are left out, and those shorter than min_labels where a document has others. Of too many
        labels the worst goes that no other hangs from, until there are few enough; each label hangs from the
        best-scored of its parents in the set. To too few labels the best class is added that keeps the set consistent.
    consistent : every label is a root or has a parent in the set. A label of ``topk`` and ``threshold`` without one
        gets its best-scored parent, and so on up; the other methods are consistent anyway. False: where labels are too
        many or too few, and in those two methods, the score alone decides.

    Raises
    ------
    ValueError : an unknown method, a limit that cannot be kept.
    """

    method: Method
    k: int | None = None
    threshold: float = -np.inf
    stop: float = -np.inf
    width: int | None = None
    marginal: float | None = None
    min_labels: int = 0
    max_labels: int | None = None
    consistent: bool = False

    @classmethod
    def of(cls, settings: Predict) -> Rules:
        return cls(
            method=settings.decode,
            k=settings.decode_k,
            threshold=settings.decode_threshold,
            stop=settings.decode_stop,
            width=settings.beam_width,
            marginal=settings.marginal,
            min_labels=settings.min_labels,
            max_labels=settings.max_labels,
            consistent=settings.consistent,
        )

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"decode is one of {', '.join(get_args(Method))}, not {self.method!r}")
        for name in ("k", "width", "max_labels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if not 0 <= self.min_labels <= self.most:
            raise ValueError(
                f"min_labels = {self.min_labels} must be at least 0 and at most max_labels = {self.max_labels}"
            )

    @property
    def most(self) -> float:
        return np.inf if self.max_labels is None else self.max_labels


def decode(
    scores: np.ndarray,
    taxonomy: Taxonomy,
    rules: Rules,
    weights: np.ndarray | None = None,
    progress: Progress = unseen,
) -> Decoded:
    """Label sets from scores.

    ``expected_f1``
        The set of the highest expected Example-F1, see ``taxoclass.expected_f1``, for scores that are probabilities on
        one scale for all levels (``consistent_probabilities``). It holds all ancestors of its labels.
    ``path``
        The chain of the highest score, over all chains, by one sparse product. With ``marginal``, further chains:
        the one whose classes that are *not yet labels* have the highest mean score, as long as that mean is above
        ``marginal``. With min_labels = 0 the first chain has to pass as well.
    ``topdown``
        From the best root to its best child and on, until no child scores ``stop`` or more. With min_labels = 0 the
        root has to as well.
    ``beam``
        ``path`` restricted to the chains that a beam search visits: of each length the ``width`` best extensions of
        the chains kept before. Exact when ``width`` is the number of chains.
    ``topk``, ``threshold``
        The k best classes; the classes with a score of ``threshold`` or more.
    ``prune``
        As ``threshold``, but a class stays only if one of its parents stays.

    Parameters
    ----------
    scores : (N, C) float, probabilities, similarities or logits; NaN is unscored. A memory map is read by blocks.
    weights : (n levels,) weight of each level in a chain's mean, > 0, as from ``level_weights``; default equal.
    progress : is told of each document.

    Raises
    ------
    ValueError : a shape that does not fit the taxonomy.
    """
    chains = Chains.of(taxonomy, weights)
    parts = []
    for _, node in blocks(scores, taxonomy):
        parts.append(_decode(node, taxonomy, chains, rules))
        progress(node.shape[1])
    if not parts:
        return Decoded(Labels.of([]), np.empty(0, np.int32), np.empty(0, np.float32))
    sizes, classes, chain, score = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Decoded(Labels.pack(sizes, classes), chain.astype(np.int32), score.astype(np.float32))


def _decode(node: np.ndarray, taxonomy: Taxonomy, chains: Chains, rules: Rules) -> tuple[np.ndarray, ...]:
    """Label counts, labels, chains and chain scores of one block of (C, B) scores."""
    labels = np.zeros(node.shape, dtype=bool)
    score = chains.score(node)
    if rules.method in ("path", "topdown", "beam"):
        chain = _chain(node, score, chains, rules)
        found = np.flatnonzero(chain >= 0)
        chains.mark(labels, chain[found], found)
        if rules.method == "path" and rules.marginal is not None:
            _add_chains(labels, chain, node, chains, rules)
        _limit(labels, node, taxonomy, rules)
    else:
        if rules.method == "expected_f1":
            labels = best_sets(node, taxonomy, rules.min_labels, rules.max_labels)
            inside = chains.within_to_the_end(labels)
        else:
            labels = _classes(node, taxonomy, rules)
            _limit(labels, node, taxonomy, rules)
            inside = chains.within(labels)
        chain = first_best(np.where(inside, score, -np.inf))
    best = np.where(chain >= 0, score[chain, np.arange(len(chain))], np.nan)
    return labels.sum(axis=0), np.nonzero(labels.T)[1], chain, best


def first_best(values: np.ndarray) -> np.ndarray:
    """(B,) row of the largest of each column of (K, B) values, the first of equals; -1 where all are -inf."""
    best = values.argmax(axis=0)
    return np.where(values[best, np.arange(values.shape[1])] > -np.inf, best, -1)


def _largest(values: np.ndarray, count: int | None) -> np.ndarray:
    """(K, B) bool: the ``count`` largest of each column (None: all), the first of equals, never a -inf."""
    if count is None or count >= len(values):
        return values > -np.inf
    last = np.partition(values, len(values) - count, axis=0)[len(values) - count]
    above, equal = values > last, values == last
    return (above | (equal & (equal.cumsum(axis=0) <= count - above.sum(axis=0)))) & (values > -np.inf)


# --- methods that choose chains


def _chain(node: np.ndarray, score: np.ndarray, chains: Chains, rules: Rules) -> np.ndarray:
    """(B,) chain of each document, -1 for none."""
    if rules.method == "topdown":
        return _greedy(node, chains, rules)
    if rules.method == "beam":
        score = np.where(_visited(score, chains, rules.width), score, -np.inf)
    elif rules.marginal is not None and rules.min_labels == 0:
        score = np.where(score > rules.marginal, score, -np.inf)
    short_enough = chains.length <= rules.most
    fits = short_enough & (chains.length >= rules.min_labels)
    chain = first_best(np.where(fits[:, None], score, -np.inf))
    return np.where(chain >= 0, chain, first_best(np.where(short_enough[:, None], score, -np.inf)))


def _visited(score: np.ndarray, chains: Chains, width: int | None) -> np.ndarray:
    """(K, B) bool: chains of a beam search; of each length the ``width`` best whose prefix was kept."""
    kept = np.zeros(score.shape, dtype=bool)
    for depth in range(chains.nodes.shape[1]):
        here = np.flatnonzero(chains.length == depth + 1)
        open_here = score[here]
        if depth:
            open_here = np.where(kept[chains.prefix[here, depth - 1]], open_here, -np.inf)
        kept[here] = _largest(open_here, width)
    return kept


def _greedy(node: np.ndarray, chains: Chains, rules: Rules) -> np.ndarray:
    """(B,) chain at which the walk to the best child ends."""
    step = node[chains.last]
    step[(chains.length > rules.min_labels)[:, None] & (step < rules.stop)] = -np.inf
    step[chains.length > rules.most] = -np.inf
    return first_best(np.where(_visited(step, chains, 1), chains.length[:, None], -np.inf))


def _add_chains(labels: np.ndarray, chain: np.ndarray, node: np.ndarray, chains: Chains, rules: Rules) -> None:
    """Add to documents with a chain the next one whose new classes have a mean score above ``marginal``, repeatedly."""
    assert rules.marginal is not None
    on = (chains.weights > 0).astype(np.int32)
    active = np.flatnonzero(chain >= 0)
    while len(active):
        new = ~labels[:, active]
        with np.errstate(invalid="ignore"):  # a chain without a new class: 0 / 0
            gain = (chains.weights @ np.where(new, node[:, active], 0.0)) / (chains.weights @ new.astype(np.float64))
        grown = labels[:, active].sum(axis=0) + on @ new.astype(np.int32)
        gain[~(gain > rules.marginal) | (grown > rules.most)] = -np.inf
        best = first_best(gain)
        active, best = active[best >= 0], best[best >= 0]
        chains.mark(labels, best, active)


# --- methods that choose classes


def _classes(node: np.ndarray, taxonomy: Taxonomy, rules: Rules) -> np.ndarray:
    """(C, B) bool labels of topk, threshold or prune."""
    labels = _largest(node, rules.k) if rules.method == "topk" else (node >= rules.threshold) & (node > -np.inf)
    if rules.method == "prune":
        for row in taxonomy.order.tolist():
            if len(taxonomy.parents[row]):
                labels[row] &= labels[taxonomy.parents[row]].any(axis=0)
    elif rules.consistent:
        _close(labels, node, taxonomy)
    return labels


def _close(labels: np.ndarray, node: np.ndarray, taxonomy: Taxonomy) -> None:
    """Give every label without a parent among the given labels its best-scored parent, and so on up."""
    given = labels.copy()
    for row in taxonomy.order[::-1].tolist():
        parents = taxonomy.parents[row]
        if len(parents):
            lacking = np.flatnonzero(labels[row] & ~given[parents].any(axis=0))
            labels[parents[node[np.ix_(parents, lacking)].argmax(axis=0)], lacking] = True


def _limit(labels: np.ndarray, node: np.ndarray, taxonomy: Taxonomy, rules: Rules) -> None:
    """Bring the labels of each document between min_labels and max_labels."""
    many = np.flatnonzero(labels.sum(axis=0) > rules.most)
    labels[:, many] = _trimmed(labels[:, many], node[:, many], taxonomy, rules)
    few = np.flatnonzero(labels.sum(axis=0) < rules.min_labels)
    while len(few):
        free = ~labels[:, few]
        if rules.consistent:
            free &= _under_labels(labels[:, few], taxonomy)
        best = first_best(np.where(free, node[:, few], -np.inf))
        few, best = few[best >= 0], best[best >= 0]
        labels[best, few] = True
        few = few[labels[:, few].sum(axis=0) < rules.min_labels]


def _trimmed(labels: np.ndarray, node: np.ndarray, taxonomy: Taxonomy, rules: Rules) -> np.ndarray:
    """(C, B) bool: the max_labels best labels.

    In a consistent set each label hangs from its best-scored parent among the labels, and is worth as much as the best
    label that hangs from it.
    """
    value = np.where(labels, node, -np.inf)
    if not rules.consistent:
        return _largest(value, rules.max_labels)
    own = value.copy()
    for row in taxonomy.order[::-1].tolist():
        above = taxonomy.parents[row]
        if len(above):
            some = np.flatnonzero(labels[row])
            parent = above[own[np.ix_(above, some)].argmax(axis=0)]
            value[parent, some] = np.maximum(value[parent, some], value[row, some])
    kept = np.empty_like(labels)
    kept[taxonomy.order] = _largest(value[taxonomy.order], rules.max_labels)  # of equals, the parent before the child
    return kept


def _under_labels(labels: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(C, B) bool: roots, and classes with a parent among the labels."""
    parent, child = taxonomy.edges.T
    content = np.ones(len(child), np.int32), (child, parent)
    below = csr_array(content, shape=(len(taxonomy), len(taxonomy))) @ labels.astype(np.int32) > 0
    below[taxonomy.roots] = True
    return below
