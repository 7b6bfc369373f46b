"""HSIC and RDC of column pairs: known populations, a direct float64 oracle, bounds, and the same bytes however run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite import hermgauss
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import eval_legendre, ndtr, ndtri
from scipy.stats import rankdata, spearmanr
from sklearn.cross_decomposition import CCA
from threadpoolctl import threadpool_limits

from common.descriptors_settings import Pass4
from descriptors import feature_kernels, nonlinear
from descriptors import features as module
from descriptors.chance import FEW_ROWS, gate, null_quantile, standard_error, two_digits
from descriptors.covariance import ChosenRows, Sums, runs
from descriptors.features import RDC_DRAW, FeatureTables, generator, hsic_dictionary, rdc_dictionaries
from descriptors.nonlinear import Similarity

N = 20_000


class InMemory:
    def __init__(self, codes):
        self.codes, self.shape = codes, codes.shape

    def read(self, columns, start, stop):
        return self.codes[columns, start:stop]


def coded(values):
    """(P, N) values, NaN missing -> codes, valid counts, pattern labels."""
    ranks = rankdata(values, axis=1, nan_policy="omit")
    codes = np.rint(2 * np.nan_to_num(ranks)).astype(np.uint32)
    patterns = np.unique(codes != 0, axis=0, return_inverse=True)[1].reshape(-1)
    return codes, np.count_nonzero(codes, axis=1), patterns


def similarity(codes, n_valid, patterns, rows=None, **chosen):
    """Settings and what else there is to choose by their names; a memory of 256 MB."""
    own = {name: chosen.pop(name) for name in Pass4.model_fields.keys() & chosen.keys()}
    table = ChosenRows(InMemory(codes), n_valid, patterns, rows)
    return nonlinear.similarity(table, Pass4(**{"min_effective_n": 2} | own), **{"budget": 2**28} | chosen)


def compare(*columns, **chosen):
    return similarity(*coded(np.array(columns, float)), **chosen)


def same_bytes(one, other):
    parts = ("hsic", "rdc", "fused", "common")
    return all(getattr(one, part).tobytes() == getattr(other, part).tobytes() for part in parts)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def gaussian_pair(rho, n, seed=0):
    x, noise = normal(2, n, seed=seed)
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@st.composite
def tables(draw, missing=False):
    """Continuous, binary, few-level, rare-level and dependent columns, some in tied steps, some with missing cells."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(8, 150))
    base = rng.standard_normal(n)
    makers = {
        "continuous": lambda: rng.standard_normal(n),
        "binary": lambda: rng.permutation(np.arange(n) < max(n // 3, 1)).astype(float),
        "rare": lambda: rng.permutation(np.arange(n) == 0).astype(float),
        "levels": lambda: rng.integers(0, 6, n).astype(float),
        "many_levels": lambda: np.round(3 * rng.standard_normal(n)),
        "monotone": lambda: np.exp(base),
        "square": lambda: base**2,
        "noisy": lambda: base + 0.3 * rng.standard_normal(n),
    }
    kinds = draw(st.lists(st.sampled_from(sorted(makers)), min_size=2, max_size=5))
    values = np.stack([makers[kind]() for kind in kinds])
    if missing:
        for column in range(0, len(values), 2):
            values[column, rng.random(n) < 0.3] = np.nan
    return values


def population_hsic(n_features, rho):
    """nHSIC of a bivariate normal by quadrature over x, and over y given x."""
    x, weights = hermegauss(120)
    weights /= weights.sum()
    dictionary = hsic_dictionary("orthonormal", n_features, 0)

    def features(scores):
        return dictionary.evaluate(ndtr(np.clip(scores, -8, 8)))

    at_x = features(x)
    at_y = np.stack([weights @ features(rho * score + np.sqrt(1 - rho**2) * x) for score in x])
    mean = weights @ at_x
    own = (at_x * weights[:, None]).T @ at_x - np.outer(mean, mean)
    cross = (at_x * weights[:, None]).T @ at_y - np.outer(mean, mean)
    return float(np.sum(cross**2) / np.sum(own**2))


def exact_hsic(rho):
    """The same for the Gaussian kernel, sigma 1, from the characteristic functions of the normal distribution."""

    def unnormalised(r):
        return 1 / np.sqrt(9 - 4 * r**2) - 2 / np.sqrt(9 - r**2) + 1 / 3

    return unnormalised(rho) / unnormalised(1.0)


@pytest.mark.parametrize("rho", [0.2, 0.7, 0.95])
def test_sixteen_quadrature_features_are_the_gaussian_kernel_to_1e_4(rho):
    assert population_hsic(16, rho) == pytest.approx(exact_hsic(rho), abs=1e-4)


def test_eight_quadrature_features_are_within_half_a_percent_for_a_strong_linear_pair():
    assert exact_hsic(0.95) == pytest.approx(0.8337, abs=1e-4)
    assert population_hsic(8, 0.95) == pytest.approx(0.8369, abs=1e-4)


def dependences(n=4_000):
    """Pairs of columns, by name: linear, curved, checkered, few-valued, rare, and seen on an end of the table only."""
    rng = np.random.default_rng(3)
    x, noise = rng.standard_normal((2, n))
    u, other = rng.random((2, n))
    pairs = {f"linear {rho}": (x, rho * x + np.sqrt(1 - rho**2) * noise) for rho in (0.2, 0.8, 0.99)}
    pairs |= {"parabola": (x, x**2 + 0.1 * noise), "cubic": (x, x**3 - 2 * x + 0.1 * noise)}
    pairs |= {f"checkerboard {k}": (u, np.floor(k * u) % 2 + 2 * np.floor(k * other / 2) + 0.9 * u) for k in (2, 4, 8)}
    pairs |= {f"wave {k}": (u, np.sin(k * np.pi * u) + 0.05 * noise) for k in (2, 4, 12)}
    pairs |= {"binary": (x, x > 0.3), "rare": (x, x > 3), "zero-inflated": (np.maximum(x, 1.5), x + 0.2 * noise > 1.7)}
    pairs |= {"three levels": (np.digitize(x, [2.2, 2.7]), np.digitize(x + 0.1 * noise, [2.1, 2.8]))}
    for cut in (1, 2):
        end = np.where(x > cut, x, np.nan)
        pairs |= {f"end {cut}": (end, x + 0.2 * noise), f"parabola at end {cut}": (end, (x - cut - 0.4) ** 2)}
    return pairs


@pytest.mark.parametrize("features", ["orthonormal", "random"])
@pytest.mark.parametrize("name", dependences())
def test_the_directions_kept_give_the_hsic_of_all_features_to_1e_4(monkeypatch, features, name):
    columns = np.array(dependences()[name], float)
    found = compare(*columns, features=features, w_rdc=0.0).hsic[0, 1]
    assert found > 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(module, "KERNEL_SHARE", -1.0)
        assert compare(*columns, features=features, w_rdc=0.0).hsic[0, 1] == pytest.approx(found, abs=1e-4)
    if features == "orthonormal":
        codes, n_valid, _ = coded(columns)
        assert found == pytest.approx(direct_pair(codes, n_valid)[0], abs=1e-4)


@pytest.mark.parametrize(("hsic_D", "width"), [(2, 2), (8, 8), (16, 10), (32, 12), (128, 12)])
def test_the_directions_kept_are_few_and_their_features_at_most_one(hsic_D, width):
    dictionary = hsic_dictionary("orthonormal", hsic_D, 0)
    assert dictionary.width == width
    values = dictionary.evaluate(np.linspace(0, 1, 4_003)[1:-1])
    assert (np.linalg.norm(values, axis=1) <= 1 + 1e-12).all()
    assert np.abs(values).max() <= dictionary.largest == 1.0


def test_a_coordinate_has_the_same_features_alone_and_among_many():
    u = np.random.default_rng(0).random(3_000)
    for features in ("orthonormal", "random"):
        for dictionary in (hsic_dictionary(features, 16, 5), *rdc_dictionaries(features, 12, 1, 5)):
            with threadpool_limits(1):
                one_by_one = np.concatenate([dictionary.evaluate(u[k : k + 1]) for k in range(200)])
            np.testing.assert_array_equal(dictionary.evaluate(u)[:200], one_by_one)


def test_a_gaussian_copula_of_correlation_07_has_hsic_336_and_rdc_69():
    found = compare(*gaussian_pair(0.7, 200_000))
    assert found.hsic[0, 1] == pytest.approx(exact_hsic(0.7), abs=0.005)
    assert found.rdc[0, 1] == pytest.approx(0.69, abs=0.01)
    assert found.fused[0, 1] == pytest.approx(0.3 * found.hsic[0, 1] + 0.7 * found.rdc[0, 1], abs=1e-12)


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_two_identical_columns_score_one(features):  # a pipeline in use scored them 0.01
    x = normal(N)
    found = compare(x, x.copy(), np.exp(x), features=features)
    for matrix in (found.hsic, found.rdc, found.fused):
        np.testing.assert_allclose(matrix, 1.0, atol=1e-6)


def test_with_own_weights_for_each_column_or_without_the_square_identical_columns_would_not_score_one():
    z = ndtri((np.arange(N) + 0.5) / N)
    own, other = (np.cos(np.outer(z[::20], normal(2_000, seed=k)) + 7 * normal(2_000, seed=9 + k)) for k in range(2))
    linear = [np.mean((own - own.mean(0)) * (right - right.mean(0))) for right in (own, other)]
    assert abs(linear[1] / linear[0]) < 0.05
    assert compare(z, z).hsic[0, 1] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_a_parabola_is_joined_though_its_rank_correlation_is_nil(features):
    x = normal(N)
    found = compare(x, x**2, features=features)
    assert abs(spearmanr(x, x**2)[0]) < 0.03
    assert found.fused[0, 1] >= 0.7
    if features == "orthonormal":
        assert found.fused[0, 1] == pytest.approx(0.82, abs=0.01)


def test_a_sine_is_joined():
    x = np.random.default_rng(0).uniform(-1, 1, N)
    assert compare(x, np.sin(3 * x)).fused[0, 1] >= 0.7


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), features=st.sampled_from(["orthonormal", "random"]))
def test_independent_columns_are_never_joined(seed, features):
    found = compare(*normal(8, 2_000, seed=seed), features=features, random_seed=seed)
    assert found.fused[np.triu_indices(8, 1)].max() < 0.3


# bounds


@settings(max_examples=60, deadline=None)
@given(table=tables(), features=st.sampled_from(["orthonormal", "random"]))
def test_similarities_of_complete_columns_are_in_the_unit_interval(table, features):
    _assert_bounded(compare(*table, features=features))


@settings(max_examples=60, deadline=None)
@given(table=tables(missing=True), features=st.sampled_from(["orthonormal", "random"]))
def test_similarities_of_incomplete_columns_are_in_the_unit_interval(table, features):
    _assert_bounded(compare(*table, features=features))


def _assert_bounded(found):
    for matrix in (found.hsic, found.rdc, found.fused):
        defined = matrix[~np.isnan(matrix)]
        assert ((defined >= 0) & (defined <= 1)).all()
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(np.diag(matrix), 1.0)


@settings(max_examples=100, deadline=None)
@given(table=tables(missing=True))
def test_rdc_is_at_least_the_absolute_correlation_of_the_ranks(table):
    codes = coded(table)[0].astype(float)
    rdc = compare(*table).rdc
    for i, j in np.argwhere(~np.isnan(rdc)):
        both = (codes[i] > 0) & (codes[j] > 0)
        assert i == j or rdc[i, j] >= abs(np.corrcoef(codes[i, both], codes[j, both])[0, 1]) - 1e-6


@settings(max_examples=40, deadline=None)
@given(table=tables())
def test_rdc_of_complete_columns_is_at_least_spearman(table):
    rdc = compare(*table).rdc
    for i, j in zip(*np.triu_indices(len(table), 1), strict=True):
        assert rdc[i, j] >= abs(spearmanr(table[i], table[j])[0]) - 1e-6


# a direct float64 computation, pair by pair


def direct_pair(codes, n_valid, hsic_D=16, rdc_d=12):
    """nHSIC and RDC of two columns from explicit features of their common rows."""
    both = (codes[0] > 0) & (codes[1] > 0)
    u = [(codes[k, both] - 1.0) / (2 * n_valid[k]) for k in range(2)]
    left, right = (_centred(hermite_features(one, hsic_D)) for one in u)
    hsic = np.sum((left.T @ right) ** 2) / np.sqrt(np.sum((left.T @ left) ** 2) * np.sum((right.T @ right) ** 2))
    left, right = (_orthonormal(_centred(legendre_features(one, rdc_d))) for one in u)
    return hsic, np.linalg.svd(left.T @ right, compute_uv=False)[0]


def hermite_features(u, hsic_D):
    nodes, weights = hermgauss(hsic_D)
    angle = np.outer(ndtri(u), np.sqrt(2) * nodes[nodes > 0])
    size = np.sqrt(2 * weights[nodes > 0] / np.sqrt(np.pi))
    return np.hstack([size * np.cos(angle), size * np.sin(angle)])


def legendre_features(u, rdc_d):
    return np.stack([np.sqrt(2 * k + 1) * eval_legendre(k, 2 * u - 1) for k in range(1, rdc_d + 1)], axis=1)


def _centred(features):
    return features - features.mean(axis=0)


def _orthonormal(features):
    basis, size, _ = np.linalg.svd(features, full_matrices=False)
    return basis[:, size > 1e-4 * size[0]]


def mixed_columns(n=3_000):
    x, y, noise = normal(3, n)
    return np.stack([x, y, x**2 + 0.3 * noise, x > 0.5, np.floor(2 * np.abs(y)).clip(0, 4), np.sin(2 * x) + 0.5 * y])


def with_holes(values):
    holes = values.copy()
    n = values.shape[1]
    holes[0, : n // 3] = np.nan
    holes[2, np.random.default_rng(5).random(n) < 0.2] = np.nan
    holes[3, n // 4 : n // 2] = np.nan
    holes[4, np.argsort(values[4])[-n // 5 :]] = np.nan
    return holes


@pytest.fixture
def _every_direction(monkeypatch):
    """The kernel's features as they are: what dropping some of their directions does is tested elsewhere."""
    monkeypatch.setattr(module, "KERNEL_SHARE", -1.0)


@pytest.mark.usefixtures("_every_direction")
@pytest.mark.parametrize("columns", [mixed_columns(), with_holes(mixed_columns())], ids=["complete", "missing"])
def test_every_pair_equals_the_direct_computation(columns):
    codes, n_valid, _ = coded(columns)
    found = compare(*columns)
    for i, j in zip(*np.triu_indices(len(columns), 1), strict=True):
        pair = [i, j]
        hsic, rdc = direct_pair(codes[pair], n_valid[pair])
        assert found.hsic[i, j] == pytest.approx(hsic, abs=1e-5)
        assert found.rdc[i, j] == pytest.approx(rdc, abs=1e-5)
        assert found.common[i, j] == np.count_nonzero((codes[i] > 0) & (codes[j] > 0))


def test_rdc_equals_the_canonical_correlation_of_scikit_learn():
    columns = mixed_columns()[[0, 2]]
    codes, n_valid, _ = coded(columns)
    blocks = [legendre_features((codes[k] - 1.0) / (2 * n_valid[k]), 12) for k in range(2)]
    scores = CCA(n_components=1, max_iter=10_000, tol=1e-12).fit(*blocks).transform(*blocks)
    assert compare(*columns).rdc[0, 1] == pytest.approx(np.corrcoef(*(s[:, 0] for s in scores))[0, 1], abs=1e-5)


@pytest.mark.usefixtures("_every_direction")
def test_long_columns_looked_up_by_cell_equal_the_direct_computation():
    n = 70_000
    columns = np.stack([*gaussian_pair(0.6, n), np.where(np.arange(n) % 3 == 0, np.nan, normal(n))])
    columns[2] += columns[0] ** 2
    codes, n_valid, _ = coded(columns)
    found = compare(*columns)
    for i, j in ((0, 1), (0, 2), (1, 2)):  # column 2 has few enough values for a table by code
        hsic, rdc = direct_pair(codes[[i, j]], n_valid[[i, j]])
        assert found.hsic[i, j] == pytest.approx(hsic, abs=1e-5)
        assert found.rdc[i, j] == pytest.approx(rdc, abs=1e-5)


def test_sin_features_keep_a_fast_oscillation_that_a_float32_gram_route_loses():
    x = normal(N)
    columns = x, np.sin(4 * x)
    u = [(code - 1.0) / (2 * N) for code in coded(np.array(columns))[0]]
    slope, phase = np.sqrt(1 / 6) * generator(42, RDC_DRAW, 0).standard_normal((2, 12))
    raw = [_centred(np.sin(np.outer(one, slope) + phase)) for one in u]
    reference = np.linalg.svd(_qr_basis(raw[0]).T @ _qr_basis(raw[1]), compute_uv=False)[0]
    assert reference > 0.87
    assert compare(*columns, features="random", rdc_seeds=1).rdc[0, 1] == pytest.approx(reference, abs=1e-3)
    assert _float32_gram_rdc(*raw) < 0.4


def test_every_draw_of_sin_features_keeps_enough_directions():
    widths = [dictionary.width for dictionary in rdc_dictionaries("random", 12, 50, 1)]
    assert min(widths) >= 5


def _qr_basis(features):
    """Orthonormal basis of one column's raw features in float64, directions above 1e-8 of the largest."""
    basis, triangle = np.linalg.qr(features)
    rotation, size, _ = np.linalg.svd(triangle)
    return basis @ rotation[:, size > 1e-8 * size[0]]


def _float32_gram_rdc(left, right):
    """Canonical correlation from float32 products of the raw features."""
    left, right = left.astype(np.float32), right.astype(np.float32)
    return np.linalg.svd(_whiten(left.T @ left) @ (left.T @ right) @ _whiten(right.T @ right).T, compute_uv=False)[0]


def _whiten(gram):
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-6 * values[-1]
    return (vectors[:, kept] / np.sqrt(values[kept])).T


# the same bytes


def test_strictly_monotone_transforms_change_nothing():
    columns = with_holes(mixed_columns(500))
    steps = [np.exp, np.arctan, lambda v: v**3, lambda v: 2 * v - 7, lambda v: np.exp(5 * v), lambda v: v]
    moved = [step(column) for step, column in zip(steps, columns, strict=True)]
    assert same_bytes(compare(*columns), compare(*moved))


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_tiles_and_blocks_of_any_size_give_the_same_bytes(features):
    columns = with_holes(mixed_columns(1_000))
    whole = compare(*columns, features=features)
    for budget in (1, 30_000, 1_000_000):
        assert same_bytes(whole, compare(*columns, features=features, budget=budget))


@settings(max_examples=10, deadline=None)
@given(table=tables(missing=True), seed=st.integers(0, 2**32))
def test_the_order_of_rows_changes_no_byte(table, seed):
    order = np.random.default_rng(seed).permutation(table.shape[1])
    assert same_bytes(compare(*table), compare(*table[:, order]))


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_the_number_of_threads_changes_no_byte(features):
    columns = np.concatenate([with_holes(mixed_columns(N)), normal(6, N, seed=1)])
    with threadpool_limits(1):
        one = compare(*columns, features=features)
    with threadpool_limits(2):
        assert same_bytes(one, compare(*columns, features=features))
        assert same_bytes(one, compare(*columns, features=features, threads=3))


def looked_up(tables, codes, n_valid, order):
    tables.prepare(n_valid)
    features = np.full((len(codes), tables.dictionary.width, len(order)), np.nan)
    for own, column, n in zip(features, codes, n_valid.tolist(), strict=True):
        tables.fill(own, column, order, n)
    return features


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_features_are_the_same_integers_with_and_without_room_for_tables_and_in_any_order(features):
    codes, n_valid, _ = coded(with_holes(mixed_columns(501)))
    order = np.random.default_rng(0).permutation(501)
    for dictionary in (hsic_dictionary(features, 8, 1), *rdc_dictionaries(features, 9, 1, 1)):
        whole = looked_up(FeatureTables(dictionary, 2**30), codes, n_valid, np.arange(501))
        assert 0 < np.abs(whole).max() <= dictionary.bound <= 2**21
        assert (whole[:, :, codes[0] == 0][0] == 0).all() and (whole == np.rint(whole)).all()
        cramped = FeatureTables(dictionary, 0)
        np.testing.assert_array_equal(looked_up(cramped, codes, n_valid, order), whole[:, :, order])


def test_tables_take_no_more_than_their_budget_and_of_some_columns_lie_one_after_the_other():
    dictionary = hsic_dictionary("orthonormal", 8, 0)
    sizes = {n: 4 * (2 * n + 1) * dictionary.width for n in (100, 200, 300)}
    for budget, fitting in ((sizes[100] + sizes[200], [100, 200]), (sizes[100] + sizes[200] - 1, [100])):
        tables = FeatureTables(dictionary, budget)
        tables.prepare(np.array([300, 100, 0, 200, 100, 70_000]))  # of no value there is no table, of many one of cells
        for n in (100, 200, 300):
            assert (tables.of(np.array([n])) is not None) == (n in fitting)
    tables = FeatureTables(dictionary, 2**20)
    n_valid = np.array([300, 70_000, 100, 300])
    tables.prepare(n_valid)
    table, starts = tables.of(n_valid)
    assert starts.tolist() == [0, 601, 601 + 2**16 + 1, 0] and len(table) == 601 + 2**16 + 1 + 201
    for start, n in zip(starts.tolist(), n_valid.tolist(), strict=True):
        features = np.empty((dictionary.width, 3))
        tables.fill(features, np.array([0, 2, 2 * n], np.uint32), np.arange(3), n)
        last = 2**16 if n == 70_000 else 2 * n
        assert np.array_equal(table[[start, start + (1 if n == 70_000 else 2), start + last]].T, features)


def test_a_cell_is_that_of_the_exact_quotient_and_zero_is_missing():
    cells = 2**16
    table = np.arange(cells + 1, dtype=np.int32)[:, None]
    for n in (65_536, 65_537, 99_991, 10**8):
        edges = [1 + -(-2 * n * cell // cells) for cell in (1, 2, 3, 1_000, 32_768, cells - 1)]
        codes = np.array([0, 1, 2, 2 * n - 1, 2 * n, *edges, *(edge - 1 for edge in edges)], np.uint32)
        features = np.empty((1, len(codes)))
        feature_kernels.look_up(table, codes, np.arange(len(codes)), n, features)
        expected = [0] + [1 + (code - 1) * cells // (2 * n) for code in codes[1:].tolist()]
        assert features[0].tolist() == expected


def test_more_rows_than_one_exact_product_holds_sum_without_a_rounding():
    x, y = gaussian_pair(0.5, 30_000)
    y[::7] = np.nan
    codes, n_valid, _ = coded(np.stack([x, y]))
    found = compare(x, y, rdc_d=32)
    assert same_bytes(found, compare(x, y, rdc_d=32, budget=2**20))
    assert found.rdc[0, 1] == pytest.approx(direct_pair(codes, n_valid, rdc_d=32)[1], abs=1e-4)


def test_a_row_subset_equals_a_table_of_those_rows_with_the_ranks_of_the_whole_table():
    codes, n_valid, patterns = coded(with_holes(mixed_columns(2_000)))
    rows = np.sort(np.random.default_rng(0).permutation(2_000)[:700])
    whole = similarity(codes, n_valid, patterns, rows=rows)
    cut = similarity(codes[:, rows], n_valid, patterns)
    assert same_bytes(whole, cut)
    assert same_bytes(whole, similarity(codes, n_valid, patterns, rows=rows, budget=1))


def test_the_seed_moves_random_features_only():
    x, y = gaussian_pair(0.7, 1_000)
    one, other = {"random_seed": 1}, {"random_seed": 2}
    assert same_bytes(compare(x, y, **one), compare(x, y, **other))
    assert not same_bytes(compare(x, y, **one, features="random"), compare(x, y, **other, features="random"))


@pytest.mark.parametrize("n", [100, 70_000])
def test_a_code_that_its_column_cannot_have_is_an_error_and_reads_no_other_memory(n):
    tables = FeatureTables(hsic_dictionary("orthonormal", 4, 0), 2**28)
    for code, fine in ((2 * n, True), (4 * n, False)):
        codes = np.array([[2, code]], np.uint32)
        if fine:
            assert np.isfinite(looked_up(tables, codes, np.array([n]), np.arange(2))).all()
        else:
            with pytest.raises(IndexError, match="above twice the number"):
                looked_up(tables, codes, np.array([n]), np.arange(2))


# rectangles of pairs


def part_of(whole, left, right):
    return {part: getattr(whole, part)[np.ix_(left, right)] for part in ("hsic", "rdc", "fused", "common")}


@pytest.mark.parametrize("features", ["orthonormal", "random"])
@pytest.mark.parametrize("budget", [2**28, 300_000])
@pytest.mark.parametrize(
    ("left", "right"),
    [([0, 1, 2], [3, 4, 5]), ([3, 4, 5], [0, 1, 2]), ([4, 1], [2, 4, 5, 0]), ([5, 0, 3], [5, 0, 3]), ([], [1, 2])],
    ids=["above the diagonal", "below it", "across it", "a block of it", "none"],
)
def test_a_pair_has_the_same_bytes_in_any_rectangle(features, budget, left, right):
    columns = with_holes(mixed_columns(1_000))
    whole = compare(*columns, features=features)
    part = compare(*columns, features=features, budget=budget, left=np.array(left, int), right=np.array(right, int))
    for name, values in part_of(whole, np.array(left, int), np.array(right, int)).items():
        assert getattr(part, name).tobytes() == values.tobytes()


@settings(max_examples=15, deadline=None)
@given(table=tables(missing=True), data=st.data())
def test_rectangles_put_together_are_the_whole(table, data):
    whole, n = compare(*table), len(table)
    cut = data.draw(st.integers(0, n))
    order = np.random.default_rng(cut).permutation(n)
    for left in (order[:cut], order[cut:]):
        for right in (order[:cut], order[cut:]):
            part = compare(*table, left=left, right=right)
            for name, values in part_of(whole, left, right).items():
                assert getattr(part, name).tobytes() == values.tobytes()


def test_a_side_of_a_rectangle_that_is_not_given_is_all_columns():
    columns, one = normal(3, 50), np.array([1])
    assert same_bytes(compare(*columns, left=one), compare(*columns, left=one, right=np.arange(3)))
    assert same_bytes(compare(*columns, right=one), compare(*columns, left=np.arange(3), right=one))


# the parts of the sums


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.floats(0, 1))
def test_rows_that_miss_the_same_columns_are_put_side_by_side(seed, n_patterns, share):
    masks = np.random.default_rng(seed).random((n_patterns, 90)) >= share * np.arange(n_patterns)[:, None] / n_patterns
    order, starts, of_runs = runs(masks)
    assert sorted(order.tolist()) == list(range(90))
    assert starts[0] == 0 and starts[-1] == 90 and (np.diff(starts) > 0).all()
    np.testing.assert_array_equal(np.repeat(of_runs, np.diff(starts), axis=0), masks[:, order].T)
    assert len({row.tobytes() for row in of_runs}) == len(of_runs)


def test_sums_beyond_one_word_are_rounded_once():
    rng = np.random.default_rng(0)
    bound = 2**52 - 1
    small, large = Sums((3, 2), bound, 1_000), Sums((3, 2), bound, 5_000)
    exact = np.zeros((3, 2), object)
    for count in range(1, 4_001):
        added = rng.integers(-bound, bound, (3, 2)) // 7 + bound // 2
        for sums in (small, large) if count <= 1_000 else (large,):
            sums.expect(1)
            sums.words += added
        exact += added.astype(object)
        if count == 1_000:
            assert small.result().tolist() == exact.astype(float).tolist()
    assert exact.min() > 2**62 and (exact % 2**9).any()
    assert large.result().tolist() == [[float(int(value)) for value in row] for row in exact]


@pytest.mark.parametrize("width", [1, 2, 3, 5, 12, 31])
def test_the_largest_singular_value_is_that_of_lapack(width):
    n_columns = 13
    rng = np.random.default_rng(width)
    cross = rng.standard_normal((n_columns, n_columns, width, width))
    cross /= np.linalg.norm(cross, 2, axis=(2, 3))[..., None, None] * rng.uniform(1, 1e4, (n_columns, n_columns, 1, 1))
    cross[0, 1], cross[0, 2], cross[0, 3] = 0, np.eye(width), 0.5 * np.eye(width)[::-1]
    cross[0, 4] = np.outer(np.arange(width) == 0, np.arange(width) == width - 1) / 4
    cross[0, 5] = 2 * np.eye(width)  # above 1 by more than rounding: clipped
    whitening = rng.standard_normal((2, n_columns, 1, width, width))
    whitening = np.linalg.qr(whitening)[0]
    tile = (
        np.arange(n_columns),
        np.zeros(n_columns, int),
        np.zeros((n_columns, 1, width)),
        np.ones((n_columns, 1), bool),
    )
    other = (tile[0] + n_columns, *tile[1:])
    values = np.full((n_columns, n_columns), np.nan)
    product = np.swapaxes(cross, 1, 2).reshape(n_columns * width, -1)
    feature_kernels.canonical_correlation(
        product, np.ones((1, 1)), tile, other, *whitening, 1, False, 0, n_columns, values
    )
    expected = np.minimum(np.linalg.norm(cross, 2, axis=(2, 3)), 1.0)
    np.testing.assert_allclose(values, expected, rtol=2e-14)


# few levels, few rows, few columns


def test_binary_and_few_level_columns_score_by_the_dependence_of_their_levels():
    rng = np.random.default_rng(0)
    bit, three = rng.integers(0, 2, N), rng.integers(0, 3, N)
    rdc = compare(bit, 1 - bit, three, three == 1).rdc
    assert rdc[0, 1] == pytest.approx(1.0, abs=1e-6)  # one function of a bit, whatever its sign
    assert rdc[2, 3] == pytest.approx(1.0, abs=1e-6)  # an indicator of the middle level
    assert rdc[0, 2] < 0.05


def test_a_column_that_is_constant_on_the_common_rows_is_undefined_there_only():
    x, y = normal(2, 400)
    steps = np.where(np.arange(400) < 200, 1.0, np.arange(400.0))
    x[200:] = np.nan
    found = compare(x, steps, y)
    for matrix in (found.hsic, found.rdc, found.fused):
        assert np.isnan(matrix[0, 1]) and np.isnan(matrix[1, 0])
        assert not np.isnan(matrix[[0, 1], [2, 2]]).any()
    assert np.isnan(compare(np.ones(50), y[:50]).fused[0, 1])


def test_pairs_with_too_few_common_rows_are_undefined():
    x, y, z = normal(3, 300)
    x[:160], y[170:] = np.nan, np.nan
    found = compare(x, y, z, min_effective_n=100)
    assert found.common[0, 1] == 10
    assert np.isnan(found.fused[0, 1]) and np.isnan(found.rdc[0, 1])
    assert not np.isnan(found.fused[:2, 2]).any()
    x[:] = np.nan
    assert np.isnan(compare(x, z, min_effective_n=2).fused[0, 1])


@pytest.mark.parametrize("n_columns", [0, 1, 2])
def test_tables_of_no_one_and_two_columns_are_fine(n_columns):
    codes, n_valid, patterns = coded(normal(2, 100))
    found = similarity(codes[:n_columns], n_valid[:n_columns], patterns[:n_columns])
    assert found.fused.shape == found.common.shape == (n_columns, n_columns)
    np.testing.assert_array_equal(np.diag(found.fused), 1.0)


def test_a_half_without_weight_is_not_computed():
    pair = gaussian_pair(0.5, 500)
    both, hsic, rdc = compare(*pair), compare(*pair, w_rdc=0.0), compare(*pair, w_hsic=0.0)
    assert hsic.rdc is None and rdc.hsic is None
    np.testing.assert_array_equal(hsic.fused, both.hsic)
    np.testing.assert_array_equal(rdc.fused, both.rdc)
    np.testing.assert_array_equal(hsic.common, both.common)
    with pytest.raises(ValueError, match="both 0"):
        compare(*pair, w_hsic=0.0, w_rdc=0.0)


def test_weights_are_scaled_to_sum_one():
    pair = gaussian_pair(0.5, 500)
    np.testing.assert_allclose(compare(*pair, w_hsic=3.0, w_rdc=7.0).fused, compare(*pair).fused, rtol=1e-14)


def test_progress_counts_every_row_of_every_read_and_ends_at_the_total():
    told = []
    compare(*mixed_columns(500), budget=200_000, progress=lambda *step: told.append(step))
    done, totals = zip(*told, strict=True)
    assert len(set(totals)) == 1 and done[-1] == totals[0]
    assert list(done) == sorted(done)


# chance


@pytest.mark.parametrize(
    ("features", "n_rows", "typical"),
    [
        ("random", 77, 0.42),  # about five directions
        ("random", 500, 0.16),
        ("random", 5_000, 0.05),
        ("orthonormal", 77, 0.68),  # all twelve
        ("orthonormal", 500, 0.28),
        ("orthonormal", 5_000, 0.09),
    ],
)
def test_rdc_of_independent_columns_is_far_above_nil_in_small_samples(features, n_rows, typical):
    rdc_alone = Pass4(w_hsic=0.0, features=features, rdc_seeds=4, random_seed=1)
    assert null_quantile(n_rows, rdc_alone, quantile=0.5) == pytest.approx(typical, abs=0.02)


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_the_null_quantile_is_that_of_similarities_of_independent_columns(features):
    fused = compare(*normal(30, 200, seed=4), features=features).fused[np.triu_indices(30, 1)]
    for quantile, slack in ((0.5, 0.01), (0.99, 0.05)):
        assert null_quantile(200, Pass4(features=features), quantile=quantile) == pytest.approx(
            np.quantile(fused, quantile), abs=slack
        )


def test_the_null_quantile_depends_on_the_seed_alone():
    assert null_quantile(300, Pass4(random_seed=7)) == null_quantile(300, Pass4(random_seed=7))
    assert null_quantile(300, Pass4(random_seed=7)) != null_quantile(300, Pass4(random_seed=8))
    with threadpool_limits(1):
        one = null_quantile(1_900, Pass4(random_seed=7))
    assert one == null_quantile(1_900, Pass4(random_seed=7))
    with pytest.raises(ValueError, match="at least 2"):
        null_quantile(1, Pass4(random_seed=7))


def test_the_gate_removes_chance_similarity_on_few_rows_and_keeps_dependence():
    columns = [*gaussian_pair(0.9, 150), *normal(6, 150, seed=8)]
    found = compare(*columns, min_effective_n=100)
    fused, quantiles = gate(found, lambda n: null_quantile(n, Pass4(random_seed=42)))
    assert list(quantiles) == [150]
    assert fused[0, 1] == found.fused[0, 1] > 0.6
    others = fused[2:, 2:][np.triu_indices(6, 1)]
    assert np.mean(others == 0) > 0.8 and (found.fused[2:, 2:] > 0.1).all()


def test_the_gate_asks_only_for_the_rows_it_needs_and_leaves_undefined_pairs():
    common = np.array([[3_000, 1_999, 2_000], [1_999, 2_500, 1_234], [2_000, 1_234, 2_400]])
    fused = np.array([[1.0, 0.1, 0.1], [0.1, 1.0, np.nan], [0.1, np.nan, 1.0]])
    gated, quantiles = gate(Similarity(None, None, fused, common), lambda n: n / 10_000)
    assert quantiles == {1_900: 0.19}
    np.testing.assert_array_equal(gated, [[1.0, 0.0, 0.1], [0.0, 1.0, np.nan], [0.1, np.nan, 1.0]])
    assert fused[0, 1] == 0.1
    common[:] = FEW_ROWS
    assert gate(Similarity(None, None, fused, common), lambda n: 1.0)[1] == {}


def test_the_gate_compares_each_pair_with_the_quantile_of_its_own_rows_which_it_may_equal():
    common = np.array([[900, 100, 500], [100, 900, 900], [500, 900, 900]])
    fused = np.array([[1.0, 0.3, 0.6], [0.3, 1.0, 0.7], [0.6, 0.7, 1.0]])
    gated, quantiles = gate(Similarity(None, None, fused, common), {100: 0.2, 500: 0.6, 900: 0.8}.__getitem__)
    assert list(quantiles) == [100, 500, 900]
    np.testing.assert_array_equal(gated, [[1.0, 0.3, 0.6], [0.3, 1.0, 0.0], [0.6, 0.0, 1.0]])


def test_row_counts_are_rounded_down_to_two_digits():
    assert [two_digits(n) for n in (2, 10, 99, 101, 199, 1_999)] == [2, 10, 99, 100, 190, 1_900]


def resampled(dependence, n_rows, n_total, draws=120):
    """Over random subsets of rows: deviation of the entries of C, and of nHSIC, RDC and the fused similarity."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, n_total))
    codes, n_valid, patterns = coded(np.stack([x, dependence(x, noise)]))
    left, right = (legendre_features((code - 1.0) / (2 * n_total), 12) for code in codes)
    entries, similarities = [], []
    for _ in range(draws):
        rows = np.sort(rng.choice(n_total, n_rows, replace=False))
        entries.append(_centred(left[rows]).T @ right[rows] / n_rows)
        found = similarity(codes, n_valid, patterns, rows=rows)
        similarities.append([found.hsic[0, 1], found.rdc[0, 1], found.fused[0, 1]])
    return np.std(entries, axis=0), np.std(similarities, axis=0)


@pytest.mark.parametrize(("n_rows", "n_total"), [(300, 4_000), (1_500, 3_000), (2_700, 3_000)])
def test_the_standard_error_is_that_of_c_over_random_rows_of_independent_columns(n_rows, n_total):
    entries, similarities = resampled(lambda x, noise: noise, n_rows, n_total)
    assert np.sqrt(np.mean(entries**2)) == pytest.approx(standard_error(n_rows, n_total), rel=0.06)
    assert (similarities < standard_error(n_rows, n_total)).all()


@pytest.mark.parametrize("rho", [0.4, 0.7, 0.95, 1.0])
def test_the_standard_error_covers_the_similarities_of_dependent_columns_but_not_quite_their_c(rho):
    entries, similarities = resampled(lambda x, noise: rho * x + np.sqrt(1 - rho**2) * noise, 300, 4_000)
    error = standard_error(300, 4_000)
    assert error < entries.max() < 1.8 * error
    assert (similarities < 0.9 * error).all()


def test_the_standard_error_is_nil_for_all_rows_and_one_over_the_root_without_end():
    assert standard_error(10_000, 10_000) == 0.0
    assert standard_error(10_000, 10**12) == pytest.approx(0.01, rel=1e-7)
