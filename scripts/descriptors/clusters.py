"""Clusters of redundant columns, and one column that stands for each.

Similarities become a threshold graph, the graph becomes clusters (Leiden consensus, leader rule or connected
components), clusters get representatives, and a repair turns the representatives into an independent dominating set of
the graph: no two of them are redundant, and every column that goes is redundant with the one that stands for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import igraph as ig
import leidenalg as la
import numpy as np

from common.descriptors_settings import Clustering
from common.progress import Progress, unseen
from descriptors.ordering import best_first

ROUNDS = 10  # of the consensus, at most
GRID = 2.0**24  # Leiden's weights and gamma are multiples of 1/GRID, so that it adds them without rounding
FINE_GRID = 2.0**40  # the same for mean strengths; 2^22 of them fit an int64
BLOCK = 2**22  # matrix entries looked at in one go


@dataclass(frozen=True)
class Cluster:
    """A column that is kept and the columns that it stands for: itself left out, ascending."""

    representative: int
    members: tuple[int, ...]


def edges(similarity: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of columns that are redundant: i < j and |s_ij| >= threshold. NaN is undefined, hence no edge.

    Parameters
    ----------
    similarity : (P, P) float, symmetric; only what lies above the diagonal is read.
    threshold : smallest absolute similarity of an edge; > 0.

    Returns
    -------
    pairs : (E, 2) int64, i < j, sorted.
    weights : (E,) float64, absolute similarities.

    Examples
    --------
    >>> pairs, weights = edges(np.array([[1, -0.9, 0.2], [-0.9, 1, np.nan], [0.2, np.nan, 1]]), threshold=0.7)
    >>> pairs.tolist(), weights.tolist()
    ([[0, 1]], [0.9])
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    weights = [np.empty(0)]
    for rows in _blocks(len(similarity), len(similarity)):
        strength = np.triu(np.abs(similarity[rows, rows.start :]), k=1)
        found = np.nonzero(strength >= threshold)
        pairs.append(np.column_stack(found) + rows.start)
        weights.append(strength[found].astype(float))
    return np.concatenate(pairs), np.concatenate(weights)


def thin(pairs: np.ndarray, weights: np.ndarray, n_nodes: int, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """k nearest neighbours: an edge stays if it is among the ``topk`` best of either endpoint.

    Best is the largest weight, then the smallest index of the neighbour.

    Parameters
    ----------
    pairs : (E, 2) int64, node indices.
    weights : (E,) float64.
    n_nodes : number of nodes P.
    topk : edges that a node may hold on to, >= 1; more than P - 1 means all.

    Returns
    -------
    pairs, weights : those that stay, in the order given.
    """
    here, there = np.concatenate([pairs, pairs[:, ::-1]]).T  # every edge as seen from either end
    edge = np.tile(np.arange(len(pairs)), 2)
    best_first = np.lexsort((there, -weights[edge], here))
    degree = np.bincount(here, minlength=n_nodes)
    rank = np.arange(len(here)) - np.repeat(np.cumsum(degree) - degree, degree)
    stays = np.unique(edge[best_first[rank < topk]])
    return pairs[stays], weights[stays]


def cluster(
    similarity: np.ndarray,
    threshold: float,
    how: Clustering,
    order: np.ndarray,
    progress: Progress = unseen,
) -> list[np.ndarray]:
    """Clusters of columns; every column is in exactly one.

    leiden : consensus of Leiden runs on the threshold graph. The quality is the constant Potts model (CPM) with
        gamma = leiden_resolution * threshold: a group gains if its mean weight, 0 where there is no edge, is above
        gamma. (With gamma = 1 nothing could ever gain.) Nodes enter in ``order``, so that the order of the columns in
        the file does not matter. Above ``topk_above`` columns the graph is thinned and the quality is modularity,
        since CPM breaks big groups of a thinned graph into pieces.
    leader : the first free column in file order leads, every free column with |s| >= threshold joins it.
    components : connected components of the threshold graph (single linkage).

    Parameters
    ----------
    similarity : (P, P) float, symmetric; NaN = undefined.
    threshold : two columns are redundant if |s| >= threshold; > 0.
    how : which of these, and of leiden its resolution, repeats, thinning and seed.
    order : (P,) int, canonical order of the columns (by name), a permutation; only leiden uses it.
    progress : is told how many Leiden runs were done since it was told last.

    Returns
    -------
    clusters : int64 arrays of columns, each ascending; sorted by first column.

    Raises
    ------
    ValueError : ``order`` is not a permutation.

    References
    ----------
    Traag, Van Dooren & Nesterov (2011), Narrow scope for resolution-limit-free community detection (CPM).
    Traag, Waltman & van Eck (2019), From Louvain to Leiden: guaranteeing well-connected communities.
    Lancichinetti & Fortunato (2012), Consensus clustering in complex networks.
    """
    n_nodes = len(similarity)
    if how.clustering == "leader":
        return _groups(_lead(similarity, threshold, np.arange(n_nodes)))
    pairs, weights = edges(similarity, threshold)
    if how.clustering == "components":
        return _groups(_components(pairs, n_nodes))
    place = _places(order, n_nodes)
    pairs, weights = _renumbered(pairs, weights, place)
    gamma, modularity = how.leiden_resolution * threshold, n_nodes > how.topk_above
    if modularity:
        pairs, weights = thin(pairs, weights, n_nodes, how.topk)
        gamma = how.leiden_resolution
    pairs = _consensus(pairs, weights, gamma, modularity, how, progress)
    return _groups(_components(pairs, n_nodes)[place])


def represent(
    similarity: np.ndarray,
    threshold: float,
    how: Clustering,
    clusters: Sequence[np.ndarray],
    stats: Mapping[str, np.ndarray],
) -> list[Cluster]:
    """The column that stands for each cluster, after the repair that makes it redundant with all it stands for.

    The representative is the best by :func:`descriptors.ordering.best_first`, with the mean |s| to the others of its
    cluster; the first in the file, if the clusters come from the leader rule. This order is found once, from the
    clusters given. The repair:

    1. members with |s| < threshold to their representative leave it and regroup;
    2. a representative that is redundant with a better one that is kept is dropped;
    3. dropped ones and their members go to the kept one with the largest |s| >= threshold, of equals to the best;
       members without any regroup.

    To regroup is the leader rule, the best first. Step 2 is the same rule: the representatives that lead are kept.

    Parameters
    ----------
    similarity : (P, P) float, symmetric; NaN = undefined.
    threshold : two columns are redundant if |s| >= threshold; > 0.
    how, clusters : how the clusters were made; int arrays that hold every column exactly once.
    stats : missing_ratio and normalized_variance, (P,) float64 each.

    Returns
    -------
    clusters : sorted by representative. Representatives are an independent dominating set of the threshold graph,
        every member has |s| >= threshold to its representative, every column appears exactly once.

    Raises
    ------
    AssertionError : that does not hold, or the clusters overlap or leave a column out: a bug.
    """
    everyone = np.arange(len(similarity))
    label = _labels(clusters, len(similarity))
    ranked = everyone if how.clustering == "leader" else _best_first(similarity, clusters, stats)

    def in_order(chosen: np.ndarray) -> np.ndarray:
        return ranked[chosen[ranked]]

    head = np.empty_like(everyone)  # of every column, the representative that stands for it
    first, which = np.unique(label[ranked], return_index=True, return_inverse=True)[1:]
    head[ranked] = ranked[first[which]]
    rejected = in_order(_strength(similarity, everyone, head) < threshold)
    head[rejected] = _lead(similarity, threshold, rejected)

    heads = in_order(head == everyone)
    kept = heads[_lead(similarity, threshold, heads) == heads]
    displaced = in_order(~np.isin(head, kept))
    head[displaced] = _nearest(similarity, displaced, kept)
    orphans = in_order(_strength(similarity, everyone, head) < threshold)
    head[orphans] = _lead(similarity, threshold, orphans)

    _check(similarity, threshold, head)
    found = [(int(head[group[0]]), group) for group in _groups(head)]
    return [Cluster(name, tuple(group[group != name].tolist())) for name, group in sorted(found, key=lambda f: f[0])]


def removals(
    clusters: Sequence[Cluster], similarity: np.ndarray, names: Sequence[str], measure: str
) -> list[dict[str, Any]]:
    """Every column that goes, in file order: {descriptor, parent, similarity, measure, reason}.

    Parameters
    ----------
    clusters : from ``represent``.
    similarity : (P, P) float; the sign is kept.
    names : of the P columns.
    measure : what the similarity is called in the reason.
    """
    pairs = sorted((member, each.representative) for each in clusters for member in each.members)
    return [
        {
            "descriptor": names[member],
            "parent": names[representative],
            "similarity": float(similarity[member, representative]),
            "measure": measure,
            "reason": f"redundant ({measure} {similarity[member, representative]:.4g})",
        }
        for member, representative in pairs
    ]


def _consensus(
    pairs: np.ndarray, weights: np.ndarray, gamma: float, modularity: bool, how: Clustering, progress: Progress
) -> np.ndarray:
    """The edges whose ends end up together: Leiden is repeated on the agreement of its runs until they all agree."""
    for number in range(ROUNDS):
        if not len(pairs):
            break
        nodes, ends = np.unique(pairs, return_inverse=True)  # isolated nodes stay out
        ends = ends.reshape(-1, 2)
        graph = ig.Graph(n=len(nodes), edges=ends)
        together = np.zeros(len(pairs), dtype=np.int64)
        for repeat in range(how.n_consensus):
            community = _leiden(graph, weights, gamma, modularity, _seed(how.random_seed, number, repeat))
            together += community[ends[:, 0]] == community[ends[:, 1]]
            progress(1)
        mostly = 2 * together >= how.n_consensus
        pairs, weights = pairs[mostly], together[mostly] / how.n_consensus
        if (weights == 1).all():
            break
    return pairs


def _leiden(graph: ig.Graph, weights: np.ndarray, gamma: float, modularity: bool, seed: int) -> np.ndarray:
    """Community of every node, from one run until nothing improves.

    CPM is igraph's, 10 to 40 times as fast as leidenalg's with the same quality (measured); modularity is leidenalg's.
    Gains that are only rounding can keep either going for ever: with equal weights 4 % of leidenalg's modularity runs
    never returned. On a grid CPM adds and compares exactly. Modularity divides by the total weight; scaled to at most
    1, its rounding stays below the 10 epsilon that leidenalg asks of a move.
    """
    weights = np.maximum(np.rint(weights * GRID), 1) / GRID
    if not modularity:
        return _constant_potts(graph, weights, round(gamma * GRID) / GRID, seed)
    weights = weights * 2.0 ** -np.ceil(np.log2(2 * weights.sum()))
    kind = la.RBConfigurationVertexPartition
    partition = la.find_partition(
        graph, kind, weights=weights.tolist(), n_iterations=-1, seed=seed, resolution_parameter=gamma
    )
    return np.array(partition.membership)


def _constant_potts(graph: ig.Graph, weights: np.ndarray, gamma: float, seed: int) -> np.ndarray:
    ig.set_random_number_generator(random.Random(seed))
    try:
        found = graph.community_leiden("CPM", weights=weights.tolist(), resolution=gamma, n_iterations=-1)
    finally:
        ig.set_random_number_generator(random)  # igraph's own choice
    return np.array(found.membership)


def _seed(seed: int, number: int, repeat: int) -> int:
    return int(np.random.SeedSequence((seed, number, repeat)).generate_state(1)[0] >> 1)


def _lead(similarity: np.ndarray, threshold: float, columns: np.ndarray) -> np.ndarray:
    """Leader rule: the first free column leads, every free one with |s| >= threshold joins it. Returns the leaders."""
    leaders = np.empty_like(columns)
    free = np.arange(len(columns))
    while free.size:
        first = columns[free[0]]
        joins = _strength(similarity, first, columns[free]) >= threshold
        leaders[free[joins]] = first
        free = free[~joins]
    return leaders


def _best_first(similarity: np.ndarray, clusters: Sequence[np.ndarray], stats: Mapping[str, np.ndarray]) -> np.ndarray:
    """All columns, those first that rather stand for others of their cluster."""
    mean = np.zeros(len(similarity))
    for members in clusters:
        mean[members] = _mean_strength(similarity, members)
    return best_first(stats["missing_ratio"], stats["normalized_variance"], mean)


def _mean_strength(similarity: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean |s| of every member to the others, 0 where undefined; on a grid, so that their order does not matter."""
    total = np.zeros(len(members), dtype=np.int64)
    if len(members) == 1:
        return total.astype(float)
    for rows in _blocks(len(members), len(members)):
        strength = _strength(similarity, members[rows, np.newaxis], members)
        strength[np.isinf(strength)] = 0
        total[rows] = np.rint(strength * FINE_GRID).astype(np.int64).sum(axis=1)
    return total / FINE_GRID / (len(members) - 1)


def _nearest(similarity: np.ndarray, columns: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of every column the kept one with the largest |s|; of several, the first."""
    nearest = np.empty_like(columns)
    for rows in _blocks(len(columns), len(kept)):
        nearest[rows] = kept[_strength(similarity, columns[rows, np.newaxis], kept).argmax(axis=1)]
    return nearest


def _strength(similarity: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """|s| between columns, broadcast; 0 where undefined, infinite from a column to itself."""
    return np.where(some == others, np.inf, np.nan_to_num(np.abs(similarity[some, others])))


def _check(similarity: np.ndarray, threshold: float, head: np.ndarray) -> None:
    """The heads are an independent dominating set, and everybody's head is near enough."""
    everyone = np.arange(len(head))
    heads = np.flatnonzero(head == everyone)
    close = _lead(similarity, threshold, heads) != heads
    if close.any():
        raise AssertionError(f"clusters: representative {heads[close][0]} is redundant with another one; this is a bug")
    astray = (head[head] != head) | (_strength(similarity, everyone, head) < threshold)
    if astray.any():
        column = astray.argmax()
        raise AssertionError(f"clusters: {head[column]} does not stand for column {column}; this is a bug")


def _components(pairs: np.ndarray, n_nodes: int) -> np.ndarray:
    return np.array(ig.Graph(n=n_nodes, edges=pairs).connected_components().membership, dtype=np.int64)


def _places(order: np.ndarray, n_nodes: int) -> np.ndarray:
    """Place of every column in ``order``."""
    if not np.array_equal(np.sort(order), np.arange(n_nodes)):
        raise ValueError(f"order is not a permutation of {n_nodes} columns")
    return np.argsort(order)


def _renumbered(pairs: np.ndarray, weights: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same graph with column c called place[c]: pairs ascending, and sorted again."""
    pairs = np.sort(place[pairs], axis=1)
    again = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[again], weights[again]


def _labels(clusters: Sequence[np.ndarray], n_nodes: int) -> np.ndarray:
    """Number of the cluster of every column."""
    members = np.concatenate([np.empty(0, dtype=np.int64), *clusters])
    if not np.array_equal(np.sort(members), np.arange(n_nodes)):
        raise AssertionError(f"clusters: they do not hold each of {n_nodes} columns exactly once; this is a bug")
    label = np.empty(n_nodes, dtype=np.int64)
    label[members] = np.repeat(np.arange(len(clusters)), [len(group) for group in clusters])
    return label


def _groups(label: np.ndarray) -> list[np.ndarray]:
    """Columns with the same label, ascending; groups by first column."""
    together = np.argsort(label, kind="stable")
    groups = np.split(together, np.flatnonzero(np.diff(label[together])) + 1)
    return sorted((group for group in groups if len(group)), key=lambda group: int(group[0]))


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows that hold about BLOCK entries each."""
    height = max(1, BLOCK // max(n_columns, 1))
    for start in range(0, n_rows, height):
        yield slice(start, min(start + height, n_rows))
