"""Clusters against plain Python, scipy and what the repair promises: independence, domination, coverage."""

from __future__ import annotations

import math
import random
from itertools import combinations
from types import SimpleNamespace

import igraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from common.descriptors_settings import Clustering
from descriptors import clusters
from descriptors.clusters import Cluster, cluster, edges, removals, represent, thin

METHODS = ("leiden", "leader", "components")
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
THRESHOLD = 0.7


@st.composite
def matrices(draw, largest=14, undefined=True):
    """Symmetric similarities of both signs, many of them tied or exactly at the threshold, some undefined."""
    size = draw(st.integers(0, largest))
    values = [0.0, 0.2, 0.65, THRESHOLD, -THRESHOLD, 0.75, -0.8, 0.9, 1.0, -1.0] + [math.nan] * undefined
    upper = draw(st.lists(st.sampled_from(values), min_size=size * size, max_size=size * size))
    matrix = np.triu(np.array(upper).reshape(size, size), 1)
    return matrix + matrix.T + np.eye(size)


@st.composite
def tables(draw, **kinds):
    """A similarity matrix with the quality of its columns, where ties are common."""
    matrix = draw(matrices(**kinds))
    size = len(matrix)
    missing = draw(st.lists(st.sampled_from([0.0, 1e-8, 0.1, 0.5]), min_size=size, max_size=size))
    variance = draw(st.lists(st.sampled_from([0.002, 0.1, 0.25]), min_size=size, max_size=size))
    return matrix, np.array(missing), np.array(variance)


def noisy(size, seed):
    """Random similarities without ties."""
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.uniform(0.4, 1, (size, size)) * rng.choice([-1, 1], (size, size)), 1)
    return matrix + matrix.T + np.eye(size)


def blocks(sizes, within, between=0.0, seed=0):
    """Groups of columns that are alike, with ``between`` from group to group."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    matrix = np.full((len(group), len(group)), between)
    inside = group[:, None] == group
    matrix[inside] = np.random.default_rng(seed).uniform(*within, inside.sum())
    matrix = np.triu(matrix, 1)
    groups = [np.flatnonzero(group == each).tolist() for each in range(len(sizes))]
    return matrix + matrix.T + np.eye(len(group)), groups


def find(matrix, method="leiden", threshold=THRESHOLD, order=None, **changes):
    how = Clustering(**{"clustering": method, "n_consensus": 4, "random_seed": 1557} | changes)
    order = np.arange(len(matrix)) if order is None else order
    return [group.tolist() for group in cluster(matrix, threshold, how, order)]


def pick(matrix, groups, missing=None, variance=None, threshold=THRESHOLD, leader=False):
    missing = np.zeros(len(matrix)) if missing is None else missing
    variance = np.full(len(matrix), 0.1) if variance is None else variance
    how, stats = Clustering(clustering="leader" if leader else "leiden"), {"missing_ratio": missing}
    stats["normalized_variance"] = variance
    return represent(matrix, threshold, how, [np.array(group, dtype=int) for group in groups], stats)


def promises_hold(matrix, kept, threshold=THRESHOLD):
    """Independent, dominating, complete: each checked pair by pair."""
    heads = [each.representative for each in kept]
    assert heads == sorted(heads)
    assert sorted(heads + [member for each in kept for member in each.members]) == list(range(len(matrix)))
    assert not any(abs(matrix[a, b]) >= threshold for a, b in combinations(heads, 2))
    for each in kept:
        assert list(each.members) == sorted(each.members)
        assert all(abs(matrix[member, each.representative]) >= threshold for member in each.members)


def plain_lead(matrix, threshold, columns):
    """Leader rule, column by column: {column: its leader}."""
    leader = {}
    for i in columns:
        if i not in leader:
            leader |= {j: i for j in columns if j not in leader and (j == i or abs(matrix[i, j]) >= threshold)}
    return leader


def plain_represent(matrix, threshold, groups, missing, variance):
    """The same choice and repair, one column at a time."""

    def strength(i, j):
        return 0.0 if math.isnan(matrix[i, j]) else abs(matrix[i, j])

    def key(i, group):
        others = [strength(i, j) for j in group if j != i]
        mean = round(math.fsum(others) / len(others), 9) if others else 0.0
        return round(missing[i], 6), -mean, -variance[i], i

    keys = {i: key(i, group) for group in groups for i in group}
    head = {i: min(group, key=keys.get) for group in groups for i in group}
    rejected = [i for i in head if i != head[i] and strength(i, head[i]) < threshold]
    head |= plain_lead(matrix, threshold, sorted(rejected, key=keys.get))
    kept = []
    for i in sorted({i for i in head if head[i] == i}, key=keys.get):
        if all(strength(i, better) < threshold for better in kept):
            kept.append(i)
    orphans = []
    for i in sorted(head, key=keys.get):
        if head[i] not in kept:
            nearest = max(kept, key=lambda j, i=i: strength(i, j))  # the first of equals, and kept is in key order
            if strength(i, nearest) >= threshold:
                head[i] = nearest
            else:
                orphans.append(i)
    head |= plain_lead(matrix, threshold, orphans)
    members = {top: tuple(i for i in sorted(head) if head[i] == top and i != top) for top in set(head.values())}
    return [Cluster(top, members[top]) for top in sorted(members)]


# edges and thinning


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_edges_are_the_pairs_at_or_above_the_threshold_of_either_sign(matrix):
    pairs, weights = edges(matrix, THRESHOLD)
    expected = [(i, j) for i, j in combinations(range(len(matrix)), 2) if abs(matrix[i, j]) >= THRESHOLD]
    assert [tuple(pair) for pair in pairs.tolist()] == expected
    assert weights.tolist() == [abs(matrix[pair]) for pair in expected]
    assert (pairs.dtype, weights.dtype, pairs.shape[1]) == (np.int64, np.float64, 2)


@pytest.mark.parametrize("entries", [1, 7, 50, 10**6])
def test_the_size_of_a_block_changes_nothing(monkeypatch, entries):
    matrix, quality = noisy(30, 0), np.linspace(0, 1, 30)
    groups = find(matrix, "components", 0.9)
    whole = edges(matrix, 0.9), pick(matrix, groups, variance=quality, threshold=0.9)
    monkeypatch.setattr("descriptors.clusters.BLOCK", entries)
    pairs, weights = edges(matrix, 0.9)
    assert np.array_equal(pairs, whole[0][0]) and np.array_equal(weights, whole[0][1])
    assert pick(matrix, groups, variance=quality, threshold=0.9) == whole[1]


def test_single_precision_gives_the_same_edges_as_the_same_numbers_in_double():
    single = noisy(40, 1).astype(np.float32)
    assert np.array_equal(edges(single, 0.75)[0], edges(single.astype(float), 0.75)[0])


@settings(deadline=None, max_examples=60)
@given(matrices(), st.integers(1, 5))
def test_thinning_keeps_an_edge_that_is_among_the_best_of_either_end(matrix, topk):
    pairs, weights = edges(matrix, THRESHOLD)
    edge = {tuple(pair): weight for pair, weight in zip(pairs.tolist(), weights, strict=True)}
    best = set()
    for node in range(len(matrix)):
        mine = [pair for pair in edge if node in pair]
        mine.sort(key=lambda pair, node=node: (-edge[pair], sum(pair) - node))
        best |= set(mine[:topk])
    thinned, kept_weights = thin(pairs, weights, len(matrix), topk)
    assert [tuple(pair) for pair in thinned.tolist()] == [pair for pair in edge if pair in best]
    assert kept_weights.tolist() == [edge[tuple(pair)] for pair in thinned.tolist()]


@settings(deadline=None, max_examples=60)
@given(matrices(), st.integers(1, 5))
def test_thinning_leaves_every_node_its_k_edges_or_all_it_had(matrix, topk):
    pairs, weights = edges(matrix, THRESHOLD)
    before = np.bincount(pairs.ravel(), minlength=len(matrix))
    after = np.bincount(thin(pairs, weights, len(matrix), topk)[0].ravel(), minlength=len(matrix))
    assert (after >= np.minimum(before, topk)).all()


def test_a_topk_beyond_the_number_of_columns_keeps_every_edge():
    pairs, weights = edges(np.ones((6, 6)), 0.5)
    assert np.array_equal(thin(pairs, weights, 6, 40)[0], pairs)


# clusters


@EVERY_METHOD
@settings(deadline=None, max_examples=60)
@given(matrix=matrices())
def test_every_column_is_in_exactly_one_cluster(method, matrix):
    groups = find(matrix, method)
    assert sorted(column for group in groups for column in group) == list(range(len(matrix)))
    assert groups == sorted(sorted(group) for group in groups)


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_leader_clusters_are_those_of_plain_python(matrix):
    leader = plain_lead(matrix, THRESHOLD, range(len(matrix)))
    assert find(matrix, "leader") == [[i for i in leader if leader[i] == top] for top in sorted(set(leader.values()))]


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_components_are_those_of_scipy(matrix):
    label = connected_components(np.abs(matrix) >= THRESHOLD)[1]
    assert find(matrix, "components") == sorted(np.flatnonzero(label == each).tolist() for each in set(label))


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_leiden_never_joins_what_the_graph_does_not_connect(matrix):
    label = connected_components(np.abs(matrix) >= THRESHOLD)[1]
    assert all(len(set(label[group])) == 1 for group in find(matrix))


@EVERY_METHOD
@pytest.mark.parametrize("size", [0, 1, 2])
def test_tables_of_no_one_or_two_columns_have_clusters(method, size):
    together, apart = np.ones((size, size)), np.eye(size)
    assert find(apart, method) == [[column] for column in range(size)]
    assert find(together, method) == ([list(range(size))] if size else [])
    promises_hold(together, pick(together, find(together, method)))


@EVERY_METHOD
def test_identical_columns_are_one_cluster(method):
    assert find(np.ones((9, 9)), method, threshold=0.95) == [list(range(9))]


@EVERY_METHOD
def test_columns_without_edges_stay_alone(method):
    assert find(np.full((5, 5), np.nan), method) == [[0], [1], [2], [3], [4]]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="should be 'leiden', 'leader' or 'components'"):
        find(np.eye(3), "ward")


def test_an_order_that_is_no_permutation_is_refused():
    with pytest.raises(ValueError, match="order is not a permutation of 3 columns"):
        find(np.eye(3), order=np.array([0, 0, 2]))


def test_three_cliques_with_a_few_edges_between_them_are_three_clusters():
    matrix, cliques = blocks([20, 15, 10], within=(0.9, 1.0))
    for a, b in [(0, 20), (5, 22), (21, 36), (30, 44), (2, 40)]:
        matrix[a, b] = matrix[b, a] = 0.97
    assert len(find(matrix, "components", 0.9)) == 1
    assert find(matrix, threshold=0.9) == cliques


def test_a_resolution_that_ignores_the_threshold_could_never_join_anything():
    matrix, cliques = blocks([20, 15, 10], within=(0.9, 0.99))
    assert len(find(matrix, threshold=0.9, leiden_resolution=1 / 0.9)) == 45  # gamma = 1
    assert find(matrix, threshold=0.9, leiden_resolution=1.0) == cliques  # gamma = threshold


def test_the_sign_of_a_correlation_does_not_matter():
    matrix = noisy(40, 3)
    assert find(matrix) == find(np.abs(matrix))


@pytest.mark.parametrize("topk_above", [5, 32_768])
@pytest.mark.parametrize("seed", range(5))
def test_another_order_of_columns_gives_the_same_clusters_and_representatives(seed, topk_above):
    rng = np.random.default_rng(seed)
    matrix, missing, variance = noisy(60, seed), rng.uniform(0, 0.5, 60), rng.uniform(0, 0.25, 60)
    names = rng.permutation([f"d{i:02}" for i in range(60)])

    def by_name(shuffled):
        again, labels = matrix[np.ix_(shuffled, shuffled)], names[shuffled]
        groups = find(again, threshold=0.85, order=np.argsort(labels), topk=3, topk_above=topk_above)
        kept = pick(again, groups, missing[shuffled], variance[shuffled], threshold=0.85)
        return (
            {frozenset(labels[group]) for group in groups},
            {labels[each.representative]: frozenset(labels[list(each.members)]) for each in kept},
        )

    assert by_name(np.arange(60)) == by_name(rng.permutation(60))


@pytest.mark.parametrize("topk_above", [5, 32_768])
def test_even_tied_similarities_give_the_same_leiden_clusters_in_another_order(topk_above):
    rng = np.random.default_rng(0)
    matrix = np.triu(rng.choice([0.0, 0.9, 1.0], (60, 60), p=[0.7, 0.2, 0.1]), 1)
    matrix += matrix.T
    options = {"threshold": 0.9, "leiden_resolution": 0.5, "topk": 4, "topk_above": topk_above}
    expected = find(matrix, **options)
    for _ in range(5):
        shuffled = rng.permutation(60)
        groups = find(matrix[np.ix_(shuffled, shuffled)], order=np.argsort(shuffled), **options)
        assert sorted(sorted(shuffled[group].tolist()) for group in groups) == expected


def test_clear_structure_does_not_depend_on_the_seed():
    matrix, groups = blocks([12, 9, 7, 5, 1, 1], within=(0.85, 1.0), between=0.3)
    assert all(find(matrix, threshold=0.8, random_seed=seed) == groups for seed in range(8))


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before():
    matrix = noisy(80, 5)

    def run(seed):
        how = Clustering(n_consensus=5, random_seed=seed)
        return [group.tobytes() for group in cluster(matrix, 0.8, how, np.arange(80))]

    first = run(7)
    run(8)
    np.random.random(5)
    igraph.Graph.Erdos_Renyi(20, 0.3)
    assert run(7) == first


def scripted(monkeypatch, communities):
    """Replaces Leiden by runs with a known result; returns what they were called with."""
    calls, script = [], iter(communities)

    def run(graph, weights, gamma, modularity, seed):
        calls.append(SimpleNamespace(weights=weights.tolist(), gamma=gamma, modularity=modularity, seed=seed))
        return np.array(next(script))

    monkeypatch.setattr(clusters, "_leiden", run)
    return calls


def test_the_consensus_drops_what_under_half_of_the_runs_join_and_weighs_the_rest_by_agreement(monkeypatch):
    first = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    calls = scripted(monkeypatch, first + [[0, 0, 1, 1]] * 4)
    assert find(np.full((4, 4), 0.9), n_consensus=4) == [[0, 1], [2, 3]]
    assert [call.weights for call in calls] == [[0.9] * 6] * 4 + [[1.0, 0.5, 0.5, 0.75]] * 4  # 01, 02, 12, 23


def test_two_runs_of_five_are_under_half_and_three_are_not(monkeypatch):
    scripted(monkeypatch, [[0, 0, 1]] * 2 + [[0, 1, 1]] * 3 + [[0, 0]] * 5)
    assert find(np.full((3, 3), 0.9), n_consensus=5) == [[0], [1, 2]]


def test_every_run_of_leiden_is_told(monkeypatch):
    calls, told = scripted(monkeypatch, [[0, 0], [0, 1]] * 100), []
    cluster(np.full((2, 2), 0.9), THRESHOLD, Clustering(n_consensus=4), np.arange(2), told.append)
    assert told == [1] * len(calls)


def test_runs_that_never_agree_stop_after_ten_rounds_of_different_seeds(monkeypatch):
    calls = scripted(monkeypatch, [[0, 0], [0, 1]] * 100)
    assert find(np.full((2, 2), 0.9), n_consensus=2) == [[0, 1]]  # half of the runs are enough
    assert len(calls) == len({call.seed for call in calls}) == 20


@pytest.mark.parametrize(("topk_above", "gamma", "modularity"), [(2, 0.5 * 0.8, False), (1, 0.5, True)])
def test_gamma_is_resolution_times_threshold_except_for_the_modularity_of_a_thinned_graph(
    monkeypatch, topk_above, gamma, modularity
):
    calls = scripted(monkeypatch, [[0, 0]])
    find(np.full((2, 2), 0.9), threshold=0.8, leiden_resolution=0.5, topk_above=topk_above, n_consensus=1)
    assert [(call.gamma, call.modularity) for call in calls] == [(gamma, modularity)]


def test_columns_without_edges_never_enter_leiden(monkeypatch):
    matrix = np.eye(6)
    matrix[1, 4] = matrix[4, 1] = 0.9
    scripted(monkeypatch, [[0, 0]])  # two nodes; six would not fit
    assert find(matrix, n_consensus=1) == [[0], [1, 4], [2], [3], [5]]


def test_above_topk_above_the_graph_is_thinned_and_the_groups_still_found():
    matrix, groups = blocks([20, 15, 10], within=(0.9, 1.0))
    assert find(matrix, threshold=0.9, topk=8, topk_above=5) == groups
    assert find(matrix, threshold=0.9, topk=1, topk_above=5) != groups


def test_cpm_on_a_thinned_graph_would_have_broken_the_groups():
    matrix, groups = blocks([40, 40], within=(0.9, 1.0))
    pairs, weights = thin(*edges(matrix, 0.9), 80, 5)
    thinned = np.zeros((80, 80))
    thinned[pairs[:, 0], pairs[:, 1]] = thinned[pairs[:, 1], pairs[:, 0]] = weights
    assert len(find(thinned, threshold=0.9)) > len(groups)
    assert len(find(matrix, threshold=0.9, topk=5, topk_above=5)) < len(find(thinned, threshold=0.9))


@pytest.mark.parametrize("seed", [9, 26, 28, 36, 43, 56])
def test_gains_that_are_only_rounding_do_not_keep_leiden_going_for_ever(seed):
    pairs = np.argwhere(np.triu(np.random.default_rng(seed).random((110, 110)) < 0.3, 1))
    graph = igraph.Graph(n=110, edges=pairs)  # with weights 0.9 as they are, leidenalg 0.12 never returns from these
    assert len(clusters._leiden(graph, np.full(len(pairs), 0.9), 2.0, True, seed)) == 110


def test_weights_are_added_without_rounding(monkeypatch):
    seen = {}

    def record(*_, **options):
        seen.clear()
        seen.update(options)
        return SimpleNamespace(membership=[])

    monkeypatch.setattr(clusters.la, "find_partition", record)
    weights = np.array([0.1, 0.2, 0.7])
    clusters._leiden(SimpleNamespace(community_leiden=record), weights, 0.3, False, 0)
    assert all((value * clusters.GRID).is_integer() for value in (*seen["weights"], seen["resolution"]))
    assert seen["weights"] == pytest.approx(weights, abs=1e-7) and seen["n_iterations"] == -1
    clusters._leiden(None, weights, 0.3, True, 0)
    assert sum(seen["weights"]) <= 0.5 and seen["resolution_parameter"] == 0.3


def factors(n_columns=300, seed=0):
    """Correlations of columns that share factors: large and small groups, many edges between them, no cliques."""
    rng = np.random.default_rng(seed)
    loadings = rng.dirichlet(np.full(12, 0.08), n_columns).T
    table = rng.standard_normal((400, 12)) @ np.sqrt(loadings) + 0.35 * rng.standard_normal((400, n_columns))
    return np.corrcoef(table.T)


def potts_quality(pairs, weights, community, gamma):
    together = community[pairs[:, 0]] == community[pairs[:, 1]]
    size = np.bincount(community)
    return weights[together].sum() - gamma * (size * (size - 1) / 2).sum()


@pytest.mark.parametrize("seed", range(4))
def test_runs_of_the_constant_potts_model_are_as_good_as_those_of_leidenalg(seed):
    pairs, weights = edges(factors(seed=seed), 0.6)
    graph = igraph.Graph(n=300, edges=pairs)
    ours = [clusters._leiden(graph, weights, 0.6, False, run) for run in range(5)]
    theirs = [
        clusters.la.find_partition(
            graph,
            clusters.la.CPMVertexPartition,
            weights=weights.tolist(),
            n_iterations=-1,
            seed=run,
            resolution_parameter=0.6,
        ).membership
        for run in range(5)
    ]
    found, reference = ([potts_quality(pairs, weights, np.array(run), 0.6) for run in runs] for runs in (ours, theirs))
    assert np.mean(found) >= 0.98 * np.mean(reference) > 100


def test_a_run_depends_on_its_seed_alone_and_leaves_the_random_numbers_of_others_alone():
    pairs, weights = edges(factors(), 0.6)
    graph = igraph.Graph(n=300, edges=pairs)
    first = clusters._leiden(graph, weights, 0.6, False, 7)
    random.seed(1)
    expected = random.random()
    random.seed(1)
    again = clusters._leiden(graph, weights, 0.6, False, 7)
    assert random.random() == expected
    np.testing.assert_array_equal(again, first)
    others = [clusters._leiden(graph, weights, 0.6, False, seed) for seed in range(8)]
    assert len({other.tobytes() for other in others}) > 1


# representatives


@EVERY_METHOD
@settings(deadline=None, max_examples=60)
@given(table=tables())
def test_representatives_are_independent_and_stand_only_for_what_they_are_redundant_with(method, table):
    matrix, missing, variance = table
    promises_hold(matrix, pick(matrix, find(matrix, method), missing, variance, leader=method == "leader"))


@settings(deadline=None, max_examples=60)
@given(tables(), st.randoms(use_true_random=False))
def test_whatever_the_clusters_the_repair_is_that_of_plain_python(table, random):
    matrix, missing, variance = table
    label = [random.randrange(1 + len(matrix) // 3) for _ in matrix]
    groups = [[i for i in range(len(matrix)) if label[i] == each] for each in sorted(set(label))]
    kept = pick(matrix, groups, missing, variance)
    assert kept == plain_represent(matrix, THRESHOLD, groups, missing, variance)
    promises_hold(matrix, kept)


@pytest.mark.parametrize("seed", range(20))
def test_larger_repairs_are_those_of_plain_python(seed):
    rng = np.random.default_rng(seed)
    matrix, missing, variance = noisy(60, seed), rng.choice([0, 0.1], 60), rng.uniform(0, 0.25, 60)
    label = rng.integers(0, 12, 60)
    groups = [np.flatnonzero(label == each).tolist() for each in range(12)]
    for threshold in (0.6, 0.8, 0.95, 0.98):
        kept = pick(matrix, groups, missing, variance, threshold)
        assert kept == plain_represent(matrix, threshold, groups, missing, variance)
        promises_hold(matrix, kept, threshold)


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_leader_clusters_need_no_repair_and_their_first_column_represents(matrix):
    groups = find(matrix, "leader")
    assert pick(matrix, groups, leader=True) == [Cluster(group[0], tuple(group[1:])) for group in groups]


@EVERY_METHOD
def test_a_chain_ends_with_everybody_near_its_representative(method):
    matrix = 1 - np.abs(np.subtract.outer(np.arange(50), np.arange(50))) / 50  # only the next two are redundant
    assert find(matrix, "components", 0.95) == [list(range(50))]
    kept = pick(matrix, find(matrix, method, 0.95), threshold=0.95, leader=method == "leader")
    promises_hold(matrix, kept, 0.95)
    assert len(kept) >= 10


def choice(missing=(0, 0, 0), variance=(0.1, 0.1, 0.1), s01=0.9, s02=0.9, s12=0.9):
    matrix = np.array([[1, s01, s02], [s01, 1, s12], [s02, s12, 1]])
    (each,) = pick(matrix, [[0, 1, 2]], np.array(missing, dtype=float), np.array(variance), threshold=0.8)
    return each.representative


def test_the_column_with_the_fewest_missing_values_represents_before_anything_else():
    assert choice(missing=(0.2, 0.2, 0.1), variance=(0.2, 0.2, 0.01), s01=0.99) == 2


def test_missing_ratios_that_differ_by_less_than_a_millionth_are_equal():
    assert choice(missing=(0.1000004, 0.1000003, 0.1000001), s01=0.95, s12=0.85) == 0


def test_then_the_column_nearest_to_the_others_represents_before_the_one_with_more_variance():
    assert choice(s01=0.95, s02=0.85, s12=0.95, variance=(0.2, 0.1, 0.2)) == 1


def test_a_strong_negative_correlation_is_as_near_as_a_positive_one():
    assert choice(s01=-0.95, s02=0.85, s12=-0.95) == 1


def test_mean_similarities_that_differ_only_by_rounding_are_equal():
    assert choice(s01=0.9, s02=0.9 + 1e-11, s12=0.9 - 1e-11, variance=(0.1, 0.2, 0.1)) == 1


def test_then_the_larger_normalised_variance_represents_and_at_last_the_first_column():
    assert choice(variance=(0.1, 0.2, 0.15)) == 1
    assert choice() == 0


def test_an_undefined_pair_counts_nothing_towards_the_mean():
    matrix = np.array([[1, 0.8, np.nan], [0.8, 1, 0.8], [np.nan, 0.8, 1]])
    assert pick(matrix, [[0, 1, 2]]) == [Cluster(1, (0, 2))]


def test_an_undefined_diagonal_is_no_trouble():
    matrix = np.full((4, 4), 0.9)
    np.fill_diagonal(matrix, np.nan)
    assert find(matrix, threshold=0.8) == [[0, 1, 2, 3]]
    assert pick(matrix, [[0, 1, 2, 3]]) == [Cluster(0, (1, 2, 3))]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1, 1e12))
def test_a_column_of_astronomic_values_is_not_preferred_for_its_variance(seed, unit):
    """Ipc has a variance of 1e23: ranked by raw variance it would represent every cluster it is in."""
    rng = np.random.default_rng(seed)
    size = rng.normal(30, 8, 2000)
    columns = np.column_stack([size, size**2, unit * np.exp(size)])  # all the same to a rank correlation
    low, high = np.percentile(columns, [2.5, 97.5], axis=0)
    normalised = np.clip(columns, low, high).var(axis=0) / (high - low) ** 2
    assert columns.var(axis=0).argmax() == 2
    (each,) = pick(np.ones((3, 3)), [[0, 1, 2]], variance=normalised)
    assert each.representative == normalised.argmax() != 2


def test_a_dropped_representative_and_its_members_go_to_the_nearest_kept_one():
    matrix = np.eye(6)
    for i, j, s in [(0, 1, 0.9), (2, 3, 0.8), (0, 2, 0.75), (4, 3, 0.85), (2, 4, 0.95), (0, 3, 0.8), (2, 5, 0.9)]:
        matrix[i, j] = matrix[j, i] = s
    # 0 and 4 are kept, 2 is redundant with both; 3 goes with 2 to the nearer one, 5 finds nobody and leads itself
    missing = np.array([0, 0.5, 0.2, 0.5, 0.1, 0.5])
    kept = pick(matrix, [[0, 1], [2, 3, 5], [4]], missing)
    assert kept == [Cluster(0, (1,)), Cluster(4, (2, 3)), Cluster(5, ())]


def test_clusters_that_overlap_or_leave_a_column_out_are_refused():
    for groups in ([[0, 1], [1, 2]], [[0, 1]], [[0, 1, 3]]):
        with pytest.raises(AssertionError, match="exactly once"):
            pick(np.eye(3), groups)


def test_an_empty_cluster_is_passed_over():
    assert pick(np.eye(2), [[], [0], [], [1]]) == [Cluster(0, ()), Cluster(1, ())]


@pytest.mark.parametrize(
    ("head", "message"),
    [([0, 0, 2], "representative 2 is redundant"), ([0, 0, 1], "1 does not stand for column 2")],
)
def test_a_repair_that_failed_would_be_noticed(head, message):
    matrix = np.array([[1, 0.8, 0.8], [0.8, 1, 0.8], [0.8, 0.8, 1]])
    with pytest.raises(AssertionError, match=message):
        clusters._check(matrix, 0.7, np.array(head))


def test_a_column_far_from_its_representative_would_be_noticed():
    with pytest.raises(AssertionError, match="0 does not stand for column 1; this is a bug"):
        clusters._check(np.eye(2), 0.7, np.array([0, 0]))


def test_removals_name_the_representative_and_keep_the_sign():
    matrix = np.array([[1, -0.9, 0], [-0.9, 1, 0], [0, 0, 1.0]])
    (entry,) = removals([Cluster(1, (0,)), Cluster(2, ())], matrix, ["a", "b", "c"], "spearman")
    assert entry == {
        "descriptor": "a",
        "parent": "b",
        "similarity": -0.9,
        "measure": "spearman",
        "reason": "redundant (spearman -0.9)",
    }


def test_removals_are_in_file_order():
    entries = removals([Cluster(0, (3,)), Cluster(4, (1, 2))], np.ones((5, 5)), "abcde", "spearman")
    assert [entry["descriptor"] for entry in entries] == ["b", "c", "d"]
