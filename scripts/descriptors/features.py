"""Pass 4: the functions of a column's ranks by which dependence is seen, and their values as integers.

Every column is seen as its copula coordinate u through one dictionary of functions that all columns share. Features are
looked up by rank code, as integers.

References
----------
Rahimi & Recht (2007), Random features for large-scale kernel machines.
Lopez-Paz, Hennig & Schoelkopf (2013), The randomized dependence coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss, legvander
from scipy.special import ndtri

from descriptors import feature_kernels
from descriptors.feature_kernels import CELL_BITS

PASS = 4
HSIC_DRAW, RDC_DRAW, NULL_DRAW = range(3)  # keys of the generators

UNIT_BITS = 18  # a feature is stored in units of 2^-18 ...
FEATURE_BITS = 21  # ... or coarser, so that no stored integer exceeds 2^21
CODE_TABLE = 2**17  # tables up to this size have an entry for each code, larger ones 2^16 cells of u

KERNEL_RANGE = 4.0  # normal scores over which the kernel's features are compressed
KERNEL_NODES = 128
KERNEL_SHARE = 5e-5  # directions that hold less than this of their variance are dropped

SIN_SCALE = math.sqrt(1 / 6)  # w, b ~ N(0, s I) with the s = 1/6 of Lopez-Paz et al.
SIN_RANK = 1e-8  # directions of the sin dictionary below this share of the largest are dropped
SIN_NODES = 64


@dataclass(frozen=True)
class Dictionary:
    """Functions of the copula coordinate, the same for all columns: with own ones for each, values mean nothing.

    evaluate : (m,) float64 in (0, 1) -> (m, width) float64, element by element the same for any m.
    largest : bound on the absolute value of every function.
    """

    evaluate: Callable[[np.ndarray], np.ndarray]
    width: int
    largest: float

    @property
    def bits(self) -> int:
        """Fixed-point bits of a stored feature."""
        return min(UNIT_BITS, FEATURE_BITS - math.frexp(self.largest)[1])

    @property
    def bound(self) -> int:
        """Largest absolute value of a stored feature."""
        return math.ceil(math.ldexp(self.largest, self.bits))


def hsic_dictionary(features: str, hsic_D: int, seed: int) -> Dictionary:
    """Feature map of the Gaussian kernel, sigma 1, on normal scores: k(z, z') = E cos(omega (z - z')), omega ~ N(0, 1).

    ``orthonormal``: the expectation by the positive nodes of the Gauss-Hermite rule with hsic_D nodes, each a cosine
    and a sine of amplitude sqrt(2 w); ``random``: by hsic_D / 2 draws (Rahimi & Recht 2007). Either way the features
    are rotated to their principal directions, most of which nHSIC can do without: see ``kernel_directions``.
    """
    if features == "random":
        omega = generator(seed, HSIC_DRAW, 0).standard_normal(hsic_D // 2)
        amplitude = np.full(hsic_D // 2, math.sqrt(2 / hsic_D))
    else:
        nodes, weights = hermegauss(hsic_D)
        omega = nodes[nodes > 0]
        amplitude = np.sqrt(2 * weights[nodes > 0] / math.sqrt(2 * math.pi))

    def quadrature(z: np.ndarray) -> np.ndarray:
        angle = np.multiply.outer(z, omega)
        return np.concatenate([amplitude * np.cos(angle), amplitude * np.sin(angle)], axis=1)

    directions = kernel_directions(quadrature)
    # the features are of length sqrt(k(z, z)) = 1, and so are the directions
    return Dictionary(lambda u: _combine(quadrature(ndtri(u)), directions), directions.shape[1], 1.0)


def kernel_directions(quadrature: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Principal directions of features of the normal score, (features, kept) float64, orthonormal, largest first.

    Principal component analysis of the features (kernel PCA of the kernel) with z spread evenly over (-4, 4), by the
    Gauss-Legendre rule: 16 features have 10 directions above ``KERNEL_SHARE``, and ||C||_F of those is ||C||_F of all
    to 1e-4, as C transforms by the rotation and the rest is dropped. Under the normal distribution of z itself the
    variance falls like .382^k (Zhu et al. 1998), but weights that small for the tails would drop what distinguishes
    values there, where all rows of a pair can be if others are missing: nHSIC of a parabola over the upper 1 % is then
    off by 3.5e-4, here by 0.5e-4 (measured).

    References
    ----------
    Zhu, Williams, Rohwer & Morciniec (1998), Gaussian regression and optimal finite dimensional linear models.
    """
    nodes, weights = leggauss(KERNEL_NODES)
    values = quadrature(KERNEL_RANGE * nodes)
    centred = values - (weights[:, None] * values).sum(axis=0) / 2
    # not a matrix product: its rounding would depend on the number of threads
    covariance = (weights[:, None, None] * centred[:, :, None] * centred[:, None, :]).sum(axis=0)
    variances, directions = np.linalg.eigh(covariance)
    kept = np.cumsum(np.maximum(variances, 0.0)) >= KERNEL_SHARE * variances.sum()
    directions = directions[:, kept][:, ::-1]
    return directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])


def rdc_dictionaries(features: str, rdc_d: int, rdc_seeds: int, seed: int) -> list[Dictionary]:
    """``orthonormal``: Legendre polynomials of degree 1 to rdc_d, once; ``random``: rdc_seeds draws of sin features."""
    if features == "random":
        return [sin_dictionary(rdc_d, generator(seed, RDC_DRAW, draw)) for draw in range(rdc_seeds)]
    norm = np.sqrt(2 * np.arange(1, rdc_d + 1) + 1.0)
    return [Dictionary(lambda u: legvander(2 * u - 1, rdc_d)[:, 1:] * norm, rdc_d, float(norm[-1]))]


def sin_dictionary(rdc_d: int, rng: np.random.Generator) -> Dictionary:
    """sin(w u + b), w and b ~ N(0, 1/6) (Lopez-Paz et al. 2013), as an orthonormal basis of its span under uniform u.

    The rdc_d functions are nearly dependent (about five directions above 1e-8), so products of the raw ones lose most
    of them to rounding. The basis is found once in float64, by singular values at Gauss-Legendre nodes; canonical
    correlations are those of the span, and the products of its basis are well conditioned.
    """
    slope, phase = SIN_SCALE * rng.standard_normal((2, rdc_d))
    nodes, weights = leggauss(SIN_NODES)
    raw = np.sin(np.multiply.outer((nodes + 1) / 2, slope) + phase)
    mean = weights @ raw / 2
    _, size, directions = np.linalg.svd(np.sqrt(weights / 2)[:, None] * (raw - mean), full_matrices=False)
    kept = size > SIN_RANK * size[0]
    basis = directions[kept] / size[kept, None]

    def evaluate(u: np.ndarray) -> np.ndarray:
        return _combine(np.sin(np.multiply.outer(u, slope) + phase) - mean, basis.T)

    largest = np.abs(evaluate(np.linspace(0, 1, 1025))).max()
    return Dictionary(evaluate, len(basis), 1.01 * float(largest))


def _combine(features: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """``features @ directions``, but not by the BLAS, whose rounding depends on the number of rows and of threads."""
    total = np.zeros((len(features), directions.shape[1]))
    for k, direction in enumerate(directions):
        total += features[:, k, None] * direction
    return total


def generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers keyed by (root seed, pass, what for, repeat), whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence((seed, PASS, *key)))


class FeatureTables:
    """A dictionary's integer features by rank code: a look-up a value instead of a function call.

    Columns with equally many valid values share a table, longer ones a table of 2^16 cells of u. Values of tables that
    do not fit into ``budget`` bytes are computed where they occur, which gives the same integers.
    """

    def __init__(self, dictionary: Dictionary, budget: int) -> None:
        self.dictionary = dictionary
        self._left = budget
        self._tables: dict[int, np.ndarray] = {}

    def prepare(self, n_valid: np.ndarray) -> None:
        """Make the tables of columns with ``n_valid`` values, as far as they fit; before threads look up."""
        for n in np.unique(n_valid).tolist():
            name, size = (0, 0) if by_cell(n) else (n, 4 * (2 * n + 1) * self.dictionary.width)
            if n > 0 and name not in self._tables and size <= self._left:
                self._left -= size
                missing = np.zeros((1, self.dictionary.width), np.int32)
                cells = (np.arange(1 << CELL_BITS) + 0.5) / (1 << CELL_BITS)
                u = cells if by_cell(n) else _coordinate(np.arange(1, 2 * n + 1), n)
                self._tables[name] = np.concatenate([missing, self._integers(u)])

    def of(self, n_valid: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The tables of columns with ``n_valid`` values, one after the other, and (P,) int64, where each one's begins.

        (size, width) int32. None where some did not fit.
        """
        names = [0 if by_cell(n) else n for n in n_valid.tolist()]
        if not set(names) <= self._tables.keys():
            return None
        distinct = list(dict.fromkeys(names))
        begin = dict(zip(distinct, np.cumsum([0, *(len(self._tables[name]) for name in distinct)]), strict=False))
        return np.concatenate([self._tables[name] for name in distinct]), np.array([begin[name] for name in names])

    def fill(self, features: np.ndarray, codes: np.ndarray, order: np.ndarray, n: int) -> None:
        """``features`` (width, B) float64 of integers of a column with ``n`` values: of ``codes`` (B,) in ``order``."""
        name, divisor = (0, n) if by_cell(n) else (n, 0)
        if name in self._tables:
            feature_kernels.look_up(self._tables[name], codes, order, divisor, features)
        else:
            codes = codes[order]
            valid = codes != 0
            features[:, ~valid] = 0.0
            features[:, valid] = self._integers(_coordinate(codes[valid], n)).T

    def _integers(self, u: np.ndarray) -> np.ndarray:
        return np.asarray(np.rint(np.ldexp(self.dictionary.evaluate(u), self.dictionary.bits)), np.int32)


def by_cell(n: int) -> bool:
    """Whether columns with ``n`` values share the table of cells."""
    return 2 * n + 1 > CODE_TABLE


def _coordinate(codes: np.ndarray, n: int) -> np.ndarray:
    """u = (a - 1/2) / n of codes 2 a; of code 1, which no value of a short column has, something inside (0, 1)."""
    return np.maximum(codes - 1.0, 0.5) / (2 * n)
