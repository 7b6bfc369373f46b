"""Pass 4: nonlinear redundancy of column pairs, HSIC and RDC, from exact sums of integer features of the ranks.

Every column is seen as its copula coordinate u through one dictionary of functions that all columns share, so one
matrix of feature products holds every pair's cross-covariance C_ij. HSIC is the size of C_ij, RDC its largest canonical
correlation. Features are looked up by rank code as integers and summed without a rounding: the same bytes for any
block size, tile size, row order or thread count, and for a pair alone, in a rectangle of pairs or among all.

References
----------
Gretton, Bousquet, Smola & Schoelkopf (2005), Measuring statistical dependence with Hilbert-Schmidt norms.
Lopez-Paz, Hennig & Schoelkopf (2013), The randomized dependence coefficient.
Rahimi & Recht (2007), Random features for large-scale kernel machines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss, legvander
from scipy.special import ndtri

from descriptors import feature_kernels
from descriptors.codes import Ranks
from descriptors.feature_kernels import CELL_BITS
from descriptors.gram import EXACT, HALF, LOW

PASS = 4
HSIC_DRAW, RDC_DRAW, NULL_DRAW = range(3)  # keys of the generators

FEW_ROWS = 2000  # below this many common rows a fused value is compared with its value under independence
NULL_BUDGET = 2**28

UNIT_BITS = 18  # a feature is stored in units of 2^-18 ...
FEATURE_BITS = 21  # ... or coarser, so that no stored integer exceeds 2^21
CODE_TABLE = 2**17  # tables up to this size have an entry for each code, larger ones 2^16 cells of u

KERNEL_RANGE = 4.0  # normal scores over which the kernel's features are compressed
KERNEL_NODES = 128
KERNEL_SHARE = 5e-5  # directions that hold less than this of their variance are dropped

SIN_SCALE = math.sqrt(1 / 6)  # w, b ~ N(0, s I) with the s = 1/6 of Lopez-Paz et al.
SIN_RANK = 1e-8  # directions of the sin dictionary below this share of the largest are dropped
SIN_NODES = 64

TRUNCATION = 1e-8  # eigenvalues of C_ii below this share of the largest are dropped
ROUNDING = 1e-14  # variance below this share of the mean square is rounding noise
ROWS_AT_ONCE = 2**13  # of a block, at most
ROWS_OF_A_TASK = 16  # rows of a matrix that a thread takes at a time
WORD = 2**62  # sums up to here fit into one 64-bit word, with room for one more block


@dataclass(frozen=True)
class Similarity:
    """Similarities of all column pairs, or of a rectangle of them.

    hsic, rdc : (P, P) float64, symmetric, unit diagonal, in [0, 1]; NaN undefined; None if the weight is 0.
    fused : (P, P) float64, their weighted mean; the other one where a weight is 0.
    common : (P, P) int64, rows that both columns have.
    Of a rectangle all are (left, right), and 1 is where a column meets itself.
    """

    hsic: np.ndarray | None
    rdc: np.ndarray | None
    fused: np.ndarray
    common: np.ndarray


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
        if by_cell(n):
            feature_kernels.look_up(self._tables[0], codes, order, n, features)
        elif n in self._tables:
            feature_kernels.look_up(self._tables[n], codes, order, 0, features)
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


@dataclass(frozen=True)
class Measure:
    """A dependence measure of two feature blocks.

    prepare : (..., d, d) covariances of one block, (...) their rounding noise -> what ``compare`` needs of it.
    compare : fills in values of pairs of columns, as :func:`descriptors.feature_kernels.normalised_hsic`.
    """

    prepare: Callable[[np.ndarray, np.ndarray], np.ndarray]
    compare: Callable[..., None]


def frobenius(covariance: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """||C||_F of each matrix: (..., d, d) -> (...)."""
    del noise
    flat = covariance.reshape(*covariance.shape[:-2], -1)
    return np.asarray(np.sqrt((flat * flat).sum(axis=-1)))


def whitening(covariance: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """W with W C W' = a projection: eigenvectors over root eigenvalues, 0 for directions without variance.

    (..., d, d), (...) -> (..., d, d). Binary and few-level columns have fewer directions than features.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > np.maximum(TRUNCATION * values[..., -1:], noise[..., None])
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return np.ascontiguousarray(np.swapaxes(vectors * scale[..., None, :], -1, -2))


# Gretton et al. (2005), normalised: at most 1 by Cauchy-Schwarz
HSIC = Measure(frobenius, feature_kernels.normalised_hsic)
# Lopez-Paz et al. (2013)
RDC = Measure(whitening, feature_kernels.canonical_correlation)


@dataclass(frozen=True)
class Table:
    """The codes of a table as :func:`similarity` takes them; parameters are described there."""

    codes: Ranks
    n_valid: np.ndarray
    patterns: np.ndarray
    rows: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        return self.codes.shape[1] if self.rows is None else len(self.rows)

    def blocks(self, columns: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """(len(columns), B) codes of the chosen rows, ``size`` rows at a time."""
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            if self.rows is None:
                yield self.codes.read(columns, start, stop)
            else:
                yield self._chosen(columns, self.rows[start:stop])

    def _chosen(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes of ``rows``, ascending, which may lie far apart: a few times as many are read at once."""
        parts, place = [], 0
        while place < len(rows):
            start = int(rows[place])
            after = int(np.searchsorted(rows, start + 4 * len(rows)))
            parts.append(self.codes.read(columns, start, int(rows[after - 1]) + 1)[:, rows[place:after] - start])
            place = after
        return np.concatenate(parts, axis=1)


def ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same blocks, each read from the disk while the one before is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block


@dataclass(frozen=True)
class Tile:
    """Columns that are worked on together: their indices, (T,), and which of the tile's patterns each has, (T,)."""

    columns: np.ndarray
    pattern: np.ndarray
    first: np.ndarray  # (Q,) for each pattern one position in ``columns``

    @classmethod
    def of(cls, columns: np.ndarray, patterns: np.ndarray) -> Tile:
        _, first, pattern = np.unique(patterns[columns], return_index=True, return_inverse=True)
        return cls(columns, pattern, first)


@dataclass(frozen=True)
class Block:
    """Rows of two tiles (of one, for the pairs within it), those that have the same values missing side by side.

    features : (columns * width, B) float64 of integers, 0 where missing; the left tile's columns come first.
    starts : (S + 1,) int64, bounds of the runs of such rows.
    masks : (S, Q) bool, which of the tiles' patterns, the left tile's first, have a value in the rows of a run.
    """

    features: np.ndarray
    starts: np.ndarray
    masks: np.ndarray


def runs(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows sorted by what they miss: (Q, B) bool -> their order (B,), bounds of runs (S + 1,), masks of runs (S, Q)."""
    n_patterns, n_rows = masks.shape
    if masks.all():
        return np.arange(n_rows), np.array([0, n_rows]), np.ones((1, n_patterns), bool)
    packed = np.zeros((n_rows, 8 * math.ceil(n_patterns / 64)), np.uint8)
    packed[:, : math.ceil(n_patterns / 8)] = np.packbits(masks, axis=0).T
    words = packed.view(np.uint64)
    order = np.lexsort(words.T)
    changes = 1 + np.flatnonzero((words[order[1:]] != words[order[:-1]]).any(axis=1))
    starts = np.concatenate([[0], changes, [n_rows]])
    return order, starts, np.ascontiguousarray(masks[:, order[starts[:-1]]].T)


class Sums:
    """Integers that add up without a rounding: 64-bit words, and second ones if one would not hold them.

    Parameters
    ----------
    bound : largest absolute value that a row can add to any of them.
    n_rows : rows in all.
    """

    def __init__(self, shape: tuple[int, ...], bound: int, n_rows: int) -> None:
        self.words = np.zeros(shape, np.int64)
        self._rows = WORD // bound
        self._added = 0
        self._high = np.zeros(shape, np.int64) if n_rows > self._rows else None

    def expect(self, n_rows: int) -> None:
        """Make room in ``words`` for the sums of so many rows."""
        self._added += n_rows
        if self._added > self._rows and self._high is not None:
            self._carry(self._high)
            self._added = n_rows

    def _carry(self, high: np.ndarray) -> None:
        for more, less in zip(high, self.words, strict=True):
            more += less >> HALF
            less &= LOW

    def take(self, high: np.ndarray, low: np.ndarray) -> None:
        """Add the sums of all rows at once, high 2^32 + low."""
        if self._high is None:
            self.words += (high << HALF) + low
        else:
            self._high += high
            self.words += low
            self._carry(self._high)

    def result(self) -> np.ndarray:
        """The sums in float64, correctly rounded; they take the place of the words."""
        rounded = self.words.view(np.float64)
        if self._high is None:
            for out, less in zip(rounded, self.words, strict=True):
                out[...] = less.astype(np.float64)
            return rounded
        self._carry(self._high)
        for out, less, more in zip(rounded, self.words, self._high, strict=True):
            out[...] = np.ldexp(more.astype(np.float64), HALF) + less
        return rounded


class Moments:
    """Means and covariances of a tile's features over the rows that each pattern of the opposite tile leaves."""

    def __init__(self, n_columns: int, n_patterns: int, width: int, bound: int, n_rows: int) -> None:
        self._width = width
        self._sums = Sums((n_columns, n_patterns, width), bound, n_rows)
        self._squares = Sums((n_columns, n_patterns, width * (width + 1) // 2), bound**2, n_rows)

    def add(self, features: np.ndarray, starts: np.ndarray, masks: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """The tile's part of a block: ``features`` (T d, B), and ``masks`` (S, Q) of the opposite tile's patterns."""
        self._sums.expect(features.shape[1])
        self._squares.expect(features.shape[1])
        masks = np.ascontiguousarray(masks)

        def of_column(column: int) -> None:
            own = features[column * self._width : (column + 1) * self._width]
            sums, squares = self._sums.words[column], self._squares.words[column]
            feature_kernels.add_moments(own, starts, masks, sums, squares)

        list(pool.map(of_column, range(len(self._sums.words))))

    def take(self, sums: tuple[np.ndarray, np.ndarray], squares: tuple[np.ndarray, np.ndarray]) -> None:
        """Add the sums of all rows at once, high and low words of each."""
        self._sums.take(*sums)
        self._squares.take(*squares)

    def result(self, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From ``count`` (T, Q), the common rows: means (T, Q, d), covariances (T, Q, d, d), rounding noise (T, Q)."""
        n = np.maximum(count, 1.0)[:, :, None]
        mean = self._sums.result() / n
        row, column = np.triu_indices(self._width)
        square = np.empty((*count.shape, self._width, self._width))
        square[..., row, column] = self._squares.result() / n
        square[..., column, row] = square[..., row, column]
        noise = ROUNDING * np.trace(square, axis1=2, axis2=3)
        square -= mean[..., :, None] * mean[..., None, :]
        return mean, square, noise


class TilePair:
    """All sums that the pairs of two tiles need; ``left is right`` for the pairs within a tile."""

    def __init__(self, left: Tile, right: Tile, tables: FeatureTables, table: Table, pool: ThreadPoolExecutor) -> None:
        self.left, self.right, self.tables, self.table, self._pool = left, right, tables, table, pool
        self.within = left is right
        self.columns = left.columns if self.within else np.concatenate([left.columns, right.columns])
        self._n_valid = table.n_valid[self.columns].tolist()
        width, bound, n_rows = tables.dictionary.width, tables.dictionary.bound, table.n_rows
        self.width, self.bound = width, bound
        shape, patterns = (len(left.columns), len(right.columns)), (len(left.first), len(right.first))
        self.product = Sums((shape[0] * width, shape[1] * width), bound**2, n_rows)
        self.count = np.zeros(patterns, np.int64)
        self.moments = [Moments(shape[0], patterns[1], width, bound, n_rows)]
        if not self.within:
            self.moments.append(Moments(shape[1], patterns[0], width, bound, n_rows))
        tables.prepare(table.n_valid[self.columns])

    def accumulate(self, budget: int, read: Callable[[int], None]) -> None:
        """Read the codes once; ``read`` is told the rows of every block."""
        height = len(self.columns) * self.width
        size = min(max(budget // (8 * max(height, 1)), 64), ROWS_AT_ONCE, EXACT // self.bound**2 - 1)
        size -= 8 * (size % 512 == 0)  # or features, a multiple of 4 KB apart, would share the same few cache lines
        buffer = np.empty(height * size)
        product = np.empty(self.product.words.shape)
        for codes in ahead(self.table.blocks(self.columns, size)):
            self._add(self._look_up(np.ascontiguousarray(codes, np.uint32), buffer), product)
            read(codes.shape[1])

    def _look_up(self, codes: np.ndarray, buffer: np.ndarray) -> Block:
        n_rows, width = codes.shape[1], self.width
        features = buffer[: len(codes) * width * n_rows].reshape(-1, n_rows)
        first = self.left.first
        if not self.within:
            first = np.concatenate([first, len(self.left.columns) + self.right.first])
        order, starts, masks = runs(codes[first] != 0)

        def of_column(column: int) -> None:
            own = features[column * width : (column + 1) * width]
            self.tables.fill(own, codes[column], order, self._n_valid[column])

        list(self._pool.map(of_column, range(len(codes))))
        return Block(features, starts, masks)

    def _add(self, block: Block, product: np.ndarray) -> None:
        n_left, n_patterns = len(self.left.columns) * self.width, len(self.left.first)
        left, right = block.features[:n_left], block.features[n_left:]
        left_masks, right_masks = block.masks[:, :n_patterns], block.masks[:, n_patterns:]
        if self.within:
            right, right_masks = left, left_masks
        else:
            self.moments[-1].add(right, block.starts, left_masks, self._pool)
        self.moments[0].add(left, block.starts, right_masks, self._pool)
        self.count += (np.diff(block.starts)[:, None] * left_masks).T @ right_masks.astype(np.int64)
        self.product.expect(block.features.shape[1])
        np.matmul(left, right.T, out=product)

        def rows(first: int) -> None:
            last = min(first + self.width * ROWS_OF_A_TASK, n_left)
            feature_kernels.add_product(product, self.within, first, last, self.product.words)

        list(self._pool.map(rows, range(0, n_left, self.width * ROWS_OF_A_TASK)))

    def values(self, measure: Measure, min_common: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every pair the measure, (T, T') float64, NaN undefined, and the common rows, (T, T') int64."""
        left, right, count = self.left, self.right, self.count.astype(np.float64)
        one = other = _side(self.moments[0], count[left.pattern], measure, self._pool)
        if not self.within:
            other = _side(self.moments[-1], count.T[right.pattern], measure, self._pool)
        product = self.product.result()
        sides = [(tile.columns, tile.pattern, side.mean, side.varies) for tile, side in ((left, one), (right, other))]
        values = np.where(left.columns[:, None] == right.columns, 1.0, np.nan)
        least = max(min_common, 1)

        def rows(first: int) -> None:
            last = min(first + ROWS_OF_A_TASK, len(values))
            prepared = one.prepared, other.prepared
            measure.compare(product, count, *sides, *prepared, least, self.within, first, last, values)

        list(self._pool.map(rows, range(0, len(values), ROWS_OF_A_TASK)))
        return values, self.count[np.ix_(left.pattern, right.pattern)]


Accumulate = Callable[[TilePair, int, Callable[[int], None]], None]


@dataclass(frozen=True)
class Side:
    """A tile's columns on the rows that each pattern of the opposite tile leaves.

    mean : (T, Q, d).
    varies : (T, Q) bool.
    prepared : (T, Q, ...), by the measure.
    """

    mean: np.ndarray
    varies: np.ndarray
    prepared: np.ndarray


def _side(moments: Moments, count: np.ndarray, measure: Measure, pool: ThreadPoolExecutor) -> Side:
    mean, covariance, noise = moments.result(count)
    varies = np.trace(covariance, axis1=2, axis2=3) > noise
    prepared = list(pool.map(measure.prepare, covariance, noise))
    return Side(mean, varies, np.stack(prepared))


@dataclass(frozen=True)
class Half:
    """One half of the fused similarity: a measure, its share, and dictionaries over which it is averaged."""

    measure: Measure
    share: float
    dictionaries: list[Dictionary]


def halves(
    features: str, hsic_D: int, rdc_d: int, rdc_seeds: int, w_hsic: float, w_rdc: float, seed: int
) -> dict[str, Half]:
    """The halves with a positive weight, shares scaled to sum 1.

    Raises
    ------
    ValueError : both weights are 0.
    """
    if w_hsic + w_rdc <= 0:
        raise ValueError("w_hsic and w_rdc are both 0; one of them must be positive")
    total = w_hsic + w_rdc
    chosen = {}
    if w_hsic > 0:
        chosen["hsic"] = Half(HSIC, w_hsic / total, [hsic_dictionary(features, hsic_D, seed)])
    if w_rdc > 0:
        chosen["rdc"] = Half(RDC, w_rdc / total, rdc_dictionaries(features, rdc_d, rdc_seeds, seed))
    return chosen


def similarity(
    codes: Ranks,
    n_valid: np.ndarray,
    patterns: np.ndarray,
    *,
    features: str,
    hsic_D: int,
    rdc_d: int,
    rdc_seeds: int,
    w_hsic: float,
    w_rdc: float,
    min_common: int,
    seed: int,
    budget: int,
    rows: np.ndarray | None = None,
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    accumulate: Accumulate | None = None,
) -> Similarity:
    """Normalised HSIC, RDC and their weighted mean for column pairs, each on the rows that both columns have.

    With F the integer features of a column (0 on missing rows) and M the mask of a pattern:
    C_ij = F_i'F_j / n_ij - m_i|j m_j|i', m_i|j = F_i'M_j / n_ij; C_ii on the same common rows, so that nHSIC <= 1 and
    RDC <= 1. Ranks are those within each column's own rows of the whole table.

    Parameters
    ----------
    codes : (P, N), doubled mid-ranks, 0 = missing.
    n_valid : (P,) int64, valid values of each column in the whole table.
    patterns : (P,) int64, equal for columns that are missing in the same rows.
    features : ``orthonormal`` or ``random``.
    hsic_D : features a column for HSIC, even.
    rdc_d, rdc_seeds : features a column for RDC; draws that are averaged, in ``random``.
    w_hsic, w_rdc : weights, scaled to sum 1; a half of weight 0 is not computed.
    min_common : pairs with fewer common rows are undefined.
    seed : root seed.
    budget : bytes of memory to plan with.
    rows : ascending indices of the rows to use; None = all.
    left, right : indices of columns: only the pairs of one of ``left`` with one of ``right``, in this order; equal ones
        cost half. Both None = all pairs. A pair's values have the same bytes in any rectangle.
    threads : columns looked up, and pairs compared, at the same time; the BLAS has its own.
    progress : called with (rows read, rows to read).
    accumulate : adds up a pair of tiles in the place of :meth:`TilePair.accumulate`, to the same bytes.

    Returns
    -------
    Similarity, NaN for pairs with too few common rows or with a column that is constant on them.

    Raises
    ------
    ValueError : both weights are 0, or only one of ``left`` and ``right`` is given.

    References
    ----------
    Gretton et al. (2005); Lopez-Paz et al. (2013); Rahimi & Recht (2007).
    """
    if (left is None) != (right is None):
        raise ValueError("left and right are given both or neither")
    if left is None or right is None:
        left = right = np.arange(len(n_valid))
    table = Table(codes, n_valid, patterns, rows)
    chosen = halves(features, hsic_D, rdc_d, rdc_seeds, w_hsic, w_rdc, seed)
    plans = {
        name: [tile_pairs(table, left, right, one.width, budget) for one in half.dictionaries]
        for name, half in chosen.items()
    }
    read = _counter(progress, sum(len(plan) for half in plans.values() for plan in half) * table.n_rows)
    common = np.zeros((len(left), len(right)), np.int64)
    matrices = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, half in chosen.items():
            each = [
                _matrix(table, plan, one, half.measure, min_common, budget, common, read, pool, accumulate)
                for one, plan in zip(half.dictionaries, plans[name], strict=True)
            ]
            matrices[name] = np.mean(each, axis=0)
    fused = np.minimum(sum(half.share * matrices[name] for name, half in chosen.items()), 1.0)
    fused[left[:, None] == right] = 1.0
    return Similarity(matrices.get("hsic"), matrices.get("rdc"), fused, common)


@dataclass(frozen=True)
class Place:
    """A tile and where its columns are in the matrix."""

    tile: Tile
    where: slice


def tile_pairs(table: Table, left: np.ndarray, right: np.ndarray, width: int, budget: int) -> list[tuple[Place, Place]]:
    """``left`` x ``right`` cut so that two thirds of ``budget`` hold the sums of a pair of tiles; one half if equal."""
    n_patterns = len(np.unique(table.patterns[np.union1d(left, right)]))
    # bytes: of two columns sums of products, twice; of a column and a pattern moments and what comes of them, two sides
    room, a_pair, a_moment = 2 * budget / 3 / width**2, 24, 80
    by_column = math.sqrt(room / (a_pair + a_moment))  # each column has a pattern of its own
    by_pattern = (math.sqrt((a_moment * n_patterns) ** 2 + 4 * a_pair * room) - a_moment * n_patterns) / (2 * a_pair)
    size = max(int(max(by_column, by_pattern)), 1)

    def places(columns: np.ndarray) -> list[Place]:
        bounds = np.linspace(0, len(columns), math.ceil(len(columns) / size) + 1).astype(int).tolist()
        return [
            Place(Tile.of(columns[start:stop], table.patterns), slice(start, stop))
            for start, stop in itertools.pairwise(bounds)
        ]

    down = places(left)
    if np.array_equal(left, right):
        return list(itertools.combinations_with_replacement(down, 2))
    return list(itertools.product(down, places(right)))


def _matrix(
    table: Table,
    plan: list[tuple[Place, Place]],
    dictionary: Dictionary,
    measure: Measure,
    min_common: int,
    budget: int,
    common: np.ndarray,
    read: Callable[[int], None],
    pool: ThreadPoolExecutor,
    accumulate: Accumulate | None,
) -> np.ndarray:
    """One measure with one dictionary, a pair of tiles at a time, of the shape of ``common``, which is filled in."""
    tables = FeatureTables(dictionary, budget // 8)
    matrix = np.full(common.shape, np.nan)
    mirrored = plan and plan[0][0] is plan[0][1]
    for left, right in plan:
        sums = TilePair(left.tile, right.tile, tables, table, pool)
        (accumulate or TilePair.accumulate)(sums, budget // 8, read)
        for whole, part in zip((matrix, common), sums.values(measure, min_common), strict=True):
            whole[left.where, right.where] = part
            if mirrored:
                whole[right.where, left.where] = part.T
    return matrix


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """A function that adds up the rows that it is told and passes them on to ``progress``."""
    done = 0

    def read(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        if progress is not None:
            progress(done, total)

    return read


class Permutations:
    """Codes of complete columns without ties: the first in file order, the others shuffled."""

    def __init__(self, n_rows: int, draws: int, rng: np.random.Generator) -> None:
        ordered = 2 * np.arange(1, n_rows + 1, dtype=np.uint32)
        self._codes = np.stack([ordered, *(rng.permutation(ordered) for _ in range(draws))])
        self.shape = (draws + 1, n_rows)

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(len(columns), stop - start) codes."""
        return self._codes[columns, start:stop]


def null_quantile(
    n_rows: int,
    *,
    features: str,
    hsic_D: int,
    rdc_d: int,
    rdc_seeds: int,
    w_hsic: float,
    w_rdc: float,
    seed: int,
    quantile: float = 0.99,
    draws: int = 200,
) -> float:
    """Quantile of the fused similarity of two independent complete columns without ties, by permutation.

    Only the relative order of two columns matters, so one of them stays sorted. A maximum over many functions is far
    above 0 in small samples: the median RDC is .68, .28, .09 at 77, 500, 5000 rows with 12 Legendre polynomials, and
    .42, .16, .05 with 12 sin features, which span about five directions.

    Parameters
    ----------
    n_rows : rows, at least 2.
    quantile : in [0, 1].
    draws : permutations.
    The others as in :func:`similarity`.

    Raises
    ------
    ValueError : fewer than 2 rows.
    """
    if n_rows < 2:
        raise ValueError(f"n_rows = {n_rows} must be at least 2")
    codes = Permutations(n_rows, draws, generator(seed, NULL_DRAW, n_rows))
    patterns = np.zeros(draws + 1, np.int64)
    table = Table(codes, np.full(draws + 1, n_rows), patterns)
    sorted_one, shuffled = Tile.of(np.array([0]), patterns), Tile.of(np.arange(1, draws + 1), patterns)
    fused = np.zeros(draws)
    with ThreadPoolExecutor(1) as pool:
        for half in halves(features, hsic_D, rdc_d, rdc_seeds, w_hsic, w_rdc, seed).values():
            for dictionary in half.dictionaries:
                tables = FeatureTables(dictionary, NULL_BUDGET)
                sums = TilePair(sorted_one, shuffled, tables, table, pool)
                sums.accumulate(NULL_BUDGET // 8, _counter(None, 0))
                values, _ = sums.values(half.measure, 2)
                fused += half.share / len(half.dictionaries) * values[0]
    return float(np.quantile(fused, quantile))


def gate(similarity: Similarity, null: Callable[[int], float]) -> tuple[np.ndarray, dict[int, float]]:
    """Fused similarities without those that independent columns reach by chance on few common rows.

    A pair on fewer than 2,000 common rows whose value is below ``null`` of that many rows becomes 0. Rows are rounded
    down to two digits, which asks for few quantiles and errs towards the stricter one.

    Parameters
    ----------
    similarity : with n_ij in ``common``.
    null : rows -> value that independent columns exceed rarely, as :func:`null_quantile`.

    Returns
    -------
    fused : (P, P) float64; undefined pairs stay NaN.
    quantiles : by number of rows, those that were used.
    """
    fused = similarity.fused.copy()
    few = (similarity.common < FEW_ROWS) & ~np.isnan(fused)
    np.fill_diagonal(few, False)
    quantiles: dict[int, float] = {}
    for n in np.unique(similarity.common[few]).tolist():
        rounded = two_digits(n)
        if rounded not in quantiles:
            quantiles[rounded] = null(rounded)
        fused[few & (similarity.common == n) & (fused < quantiles[rounded])] = 0.0
    return fused, quantiles


def two_digits(n: int) -> int:
    """``n`` rounded down to two significant digits."""
    unit: int = 10 ** max(len(str(n)) - 2, 0)
    return n // unit * unit


def standard_error(n_rows: int, n_total: int | None = None) -> float:
    """What a random subset of ``n_rows`` of a table's ``n_total`` rows adds in error: sqrt((1 / n) (1 - n / N)).

    That is the standard deviation of an entry of C, in units of the features' deviations, where columns are
    independent; where they depend on one another it is up to 1.8 times as large (the root of E phi^4 of twelve Legendre
    polynomials), but a similarity, which is what counts, has less: nHSIC and RDC at most 0.7 and 0.8 of it (measured).
    ``n_total`` None: the table itself is a sample of something much larger.
    """
    left_out = 1.0 if n_total is None else 1 - n_rows / n_total
    return math.sqrt(left_out / n_rows)
