"""Pass 4: HSIC and RDC of column pairs, from the covariances of their features.

HSIC is the size of a pair's cross-covariance C_ij, RDC its largest canonical correlation.

References
----------
Gretton, Bousquet, Smola & Schoelkopf (2005), Measuring statistical dependence with Hilbert-Schmidt norms.
Lopez-Paz, Hennig & Schoelkopf (2013), The randomized dependence coefficient.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from descriptors import feature_kernels
from descriptors.covariance import ROWS_OF_A_TASK, Moments, TilePair

TRUNCATION = 1e-8  # eigenvalues of C_ii below this share of the largest are dropped


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


def values(sums: TilePair, measure: Measure, min_common: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every pair the measure, (T, T') float64, NaN undefined, and the common rows, (T, T') int64."""
    left, right, count = sums.left, sums.right, sums.count.astype(np.float64)
    one = other = _side(sums.moments[0], count[left.labels], measure, sums.pool)
    if not sums.within:
        other = _side(sums.moments[-1], count.T[right.labels], measure, sums.pool)
    product = sums.product.result()
    sides = [(tile.columns, tile.labels, side.mean, side.varies) for tile, side in ((left, one), (right, other))]
    found = np.where(left.columns[:, None] == right.columns, 1.0, np.nan)
    least = max(min_common, 1)

    def rows(first: int) -> None:
        last = min(first + ROWS_OF_A_TASK, len(found))
        prepared = one.prepared, other.prepared
        measure.compare(product, count, *sides, *prepared, least, sums.within, first, last, found)

    list(sums.pool.map(rows, range(0, len(found), ROWS_OF_A_TASK)))
    return found, sums.count[np.ix_(left.labels, right.labels)]


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
