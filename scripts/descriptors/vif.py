"""Pass 3: drop the columns that the others explain, by variance inflation factor (VIF)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy.linalg.lapack import dpotri

from common.progress import Progress, unseen

Ties = Literal["quality", "column_order"]

EXACT = "exact dependence"
INFLATED = "variance inflation"

SMALLEST_EIGENVALUE = 1e-8  # of a repaired matrix; below minus this a matrix counts as indefinite
RANK_TOLERANCE = 1e-10  # a residual or an eigenvalue that counts as 0; times trace / P, which is 1
LEVERAGE_TOLERANCE = 1e-8  # null-space leverage above which a column takes part in an exact dependence
TIE_TOLERANCE = 1e-9  # relative: values that close are equal
REFRESH_EVERY = 64  # removals between two inverses from scratch
REFRESH_BELOW = 1e-6  # and before a choice that rests on a VIF fallen to this share of its fresh value (cancellation)
BLOCK = 64  # columns that the Cholesky factor grows by at once


@dataclass(frozen=True)
class Removal:
    """A column that went; ``parent`` stands for it (a survivor, or one that goes later). Indices into the input."""

    column: int
    vif: float
    parent: int
    reason: str


def repair(correlation: np.ndarray) -> tuple[np.ndarray, float]:
    """Shrink to the identity, (1 - lam) R + lam I, by the smallest lam that makes R positive definite.

    The eigenvalues become (1 - lam) mu + lam, so the smallest one, mu, reaches 1e-8 at lam = (1e-8 - mu) / (1 - mu).

    Parameters
    ----------
    correlation : (P, P) float64, symmetric; NaN = undefined pair, counts as 0. The diagonal counts as 1.

    Returns
    -------
    repaired : (P, P) float64, a new array; unit diagonal, smallest eigenvalue >= 1e-8 (to rounding).
    lam : in [0, 1); 0 = nothing but NaN was changed.

    References
    ----------
    Ledoit & Wolf (2004), J. Multivariate Analysis 88, 365 (shrinkage to the identity).
    """
    repaired = np.where(np.isnan(correlation), 0.0, correlation).astype(np.float64)
    np.fill_diagonal(repaired, 1.0)
    smallest = float(np.linalg.eigvalsh(repaired).min(initial=1.0))
    if smallest >= SMALLEST_EIGENVALUE:
        return repaired, 0.0
    lam = (SMALLEST_EIGENVALUE - smallest) / (1.0 - smallest)
    repaired *= 1.0 - lam
    np.fill_diagonal(repaired, 1.0)
    return repaired, lam


def is_positive_semidefinite(correlation: np.ndarray) -> bool:
    """No NaN, and no eigenvalue below -1e-8: what ``eliminate`` takes without ``repair``.

    Parameters
    ----------
    correlation : (P, P) float64, symmetric.
    """
    return bool(np.isfinite(correlation).all()) and _eigenvalues_exceed(correlation, -SMALLEST_EIGENVALUE)


def vif_values(correlation: np.ndarray) -> np.ndarray:
    """VIF_j = [R^-1]_jj, from a fresh inverse.

    Parameters
    ----------
    correlation : (P, P) float64, symmetric positive definite, unit diagonal.

    Returns
    -------
    vif : (P,) float64, >= 1.

    Raises
    ------
    ValueError : not a correlation matrix (square, finite, symmetric, unit diagonal).
    numpy.linalg.LinAlgError : ``correlation`` is not positive definite.

    References
    ----------
    Belsley, Kuh & Welsch (1980), Regression Diagnostics, ch. 3.
    """
    _check(correlation)
    try:
        factor = np.linalg.cholesky(np.asarray(correlation, dtype=np.float64))
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(
            "correlation matrix is not positive definite, so its VIF are undefined; eliminate exact dependences first"
        ) from None
    return np.diag(_inverse(factor)).copy()


def eliminate(
    correlation: np.ndarray,
    threshold: float,
    quality: np.ndarray,
    ties: Ties,
    progress: Progress = unseen,
) -> tuple[np.ndarray, list[Removal]]:
    """Drop exact linear combinations, then the column with the largest VIF until every VIF is below ``threshold``.

    VIF_j = [R^-1]_jj. One inverse serves 64 removals: removing column k turns S = R^-1 into S - S_k S_k' / S_kk, of
    which a step needs only the diagonal and one column. With ``ties="quality"`` all arithmetic is done in quality
    order, so the result does not depend, to the last bit, on the order of the columns.

    Parameters
    ----------
    correlation : (P, P) float64, symmetric positive semi-definite (smallest eigenvalue >= -1e-8), unit diagonal.
    threshold : VIF at or above which a column goes; > 1. A VIF that equals it to rounding (1e-9) is at it.
    quality : (P,) int, each column's position in the quality order, a permutation of 0..P-1; 0 = best.
    ties : "quality": of columns that depend on each other exactly, and of equal VIF, the worst goes;
        "column_order": the first in index order goes.
    progress : is told how many columns went since it was told last.

    Returns
    -------
    survivors : (Q,) int64, indices into ``correlation``, ascending.
    removals : in order of removal; parents form a forest whose roots are the survivors.

    Raises
    ------
    ValueError : an argument is not as described above.
    numpy.linalg.LinAlgError : ``correlation`` is indefinite; ``repair`` it first.
    ArithmeticError : a survivor's VIF, from an inverse of its own, is not below ``threshold``: rounding is in the way.

    References
    ----------
    Belsley, Kuh & Welsch (1980), Regression Diagnostics, ch. 3.
    """
    _check(correlation)
    _check_options(len(correlation), threshold, quality, ties)
    if not is_positive_semidefinite(correlation):
        raise np.linalg.LinAlgError("correlation matrix is indefinite (smallest eigenvalue < -1e-8); repair it first")
    order = np.argsort(quality) if ties == "quality" else np.arange(len(correlation))
    ordered = correlation[np.ix_(order, order)].astype(np.float64)
    worst = -1 if ties == "quality" else 0
    dependent = [] if ties == "quality" else _first_dependent_go(ordered)
    inflated = _inflated_go(ordered, _without(len(order), dependent), threshold, worst, progress)
    removals = _relabel(dependent + inflated, order)
    survivors = _without(len(order), removals)
    _confirm(correlation, survivors, threshold)
    return survivors, removals


def eliminate_contradictory(
    pairwise: np.ndarray,
    consistent: np.ndarray,
    threshold: float,
    quality: np.ndarray,
    ties: Ties,
    progress: Progress = unseen,
) -> tuple[np.ndarray, list[Removal]]:
    """As ``eliminate``, for pairwise-complete correlations that no one sample can have (a negative eigenvalue).

    Shrinking them until they are positive definite would hide every dependence behind one bad pair. So the elimination
    first runs on ``consistent``; then, while the pairwise correlations of those left contradict each other or have a
    VIF at or above the threshold, the column with the largest VIF of their repaired form goes, and they are looked at
    afresh. In the end they need no repair, and all their VIFs are below the threshold.

    Parameters
    ----------
    pairwise : (P, P) float64, symmetric; NaN = undefined, counts as 0.
    consistent : (P, P) float64, a positive semi-definite correlation of the same columns, their gaps filled somehow.
    threshold, quality, ties, progress : as in ``eliminate``.

    Returns
    -------
    survivors, removals : as in ``eliminate``.
    """
    survivors, removals = eliminate(consistent, threshold, quality, ties, progress)
    while True:
        repaired, shrinkage = repair(pairwise[np.ix_(survivors, survivors)])
        ranks = np.argsort(np.argsort(quality[survivors]))
        kept, more = eliminate(repaired, threshold, ranks, ties)
        if not more:
            return survivors, removals
        if shrinkage > 0:
            more = more[:1]
            kept = _without(len(survivors), more)
        progress(len(more))
        removals += _relabel(more, survivors)
        survivors = survivors[kept]


def _check(correlation: np.ndarray) -> None:
    if correlation.ndim != 2 or correlation.shape[0] != correlation.shape[1]:
        raise ValueError(f"correlation matrix has shape {correlation.shape}; it must be square")
    if not np.isfinite(correlation).all():
        raise ValueError("correlation matrix has undefined entries; repair it first")
    if not np.allclose(correlation, correlation.T, rtol=0, atol=1e-9):
        raise ValueError("correlation matrix is not symmetric")
    if not np.allclose(np.diag(correlation), 1, rtol=0, atol=1e-9):
        raise ValueError("correlation matrix has a diagonal other than 1")


def _check_options(size: int, threshold: float, quality: np.ndarray, ties: str) -> None:
    if not threshold > 1:
        raise ValueError(f"threshold = {threshold!r} must be above 1, the smallest VIF there is")
    if not np.array_equal(np.sort(quality), np.arange(size)):
        raise ValueError(f"quality must be a permutation of 0..{size - 1}, one position for each column")
    if ties not in get_args(Ties):
        raise ValueError(f"ties = {ties!r} is not one of {', '.join(get_args(Ties))}")


def _inflated_go(
    correlation: np.ndarray,
    alive: np.ndarray,
    threshold: float,
    worst: int,
    progress: Progress,
) -> list[Removal]:
    """Screen, invert, remove up to 64 columns, and again, until an inverse from scratch has no VIF to remove.

    ``worst`` is the end of a run of equals that goes first: -1 = last, 0 = first. Later screens leave nothing over
    unless rounding has it that way: a part of a regular matrix is regular.
    """
    removals: list[Removal] = []
    while True:
        part = correlation[np.ix_(alive, alive)]
        factor, left_over = _screen(part)
        kept = _without(len(part), left_over)
        if worst == -1:
            left_over.reverse()
        inflated = _relabel(_remove_batch(_inverse(factor), threshold, worst), kept)
        removals += _relabel(left_over + inflated, alive)
        progress(len(left_over) + len(inflated))
        if not inflated:
            return removals
        alive = alive[_without(len(part), left_over + inflated)]


def _screen(correlation: np.ndarray) -> tuple[np.ndarray, list[Removal]]:
    """Cholesky that visits the columns in order and leaves over those that the kept ones before them explain fully.

    Left-looking, a block of columns at a time. Not pivoted by size: the order alone says who explains whom.

    Returns
    -------
    factor : (Q, Q) float64, lower triangular: the Cholesky factor of the kept columns.
    left_over : the other columns, ascending; parent = the kept column with the largest |correlation|.
    """
    size = len(correlation)
    upper = np.zeros((size, size))
    kept: list[int] = []
    for start in range(0, size, BLOCK):
        block = slice(start, min(start + BLOCK, size))
        above = upper[: len(kept)]
        residual = correlation[block, start:] - above[:, block].T @ above[:, start:]
        for j in range(len(residual)):
            if residual[j, j] > RANK_TOLERANCE:
                row = residual[j, j:] / math.sqrt(residual[j, j])
                residual[j + 1 :, j:] -= np.outer(row[1 : len(residual) - j], row)
                upper[len(kept), start + j :] = row
                kept.append(start + j)
    factor = upper[: len(kept)][:, kept].T
    left_over = sorted(set(range(size)) - set(kept))
    return factor, _explained_exactly(correlation, left_over, np.array(kept, dtype=np.int64))


def _first_dependent_go(correlation: np.ndarray) -> list[Removal]:
    """While the matrix is singular, the first column that takes part in an exact dependence goes.

    The null space after column k goes is {v : v_k = 0}, what is orthogonal to row k of its basis: no need for a new
    eigendecomposition. Leverages only fall on the way, so one sweep in index order finds every column that goes.
    """
    alive = np.arange(len(correlation))
    gone: list[int] = []
    while not _eigenvalues_exceed(part := correlation[np.ix_(alive, alive)], RANK_TOLERANCE):
        dependent = _sweep(_null_space(part))
        if not dependent:
            break
        gone += alive[dependent].tolist()
        alive = np.delete(alive, dependent)
    return _explained_exactly(correlation, gone, alive)


def _null_space(correlation: np.ndarray) -> np.ndarray:
    """(P, D) float64, orthonormal: the eigenvectors of zero eigenvalues."""
    values, vectors = np.linalg.eigh(correlation)
    return vectors[:, values <= RANK_TOLERANCE]


def _sweep(basis: np.ndarray) -> list[int]:
    """Columns, ascending, that have leverage in the null space left when those before them are gone.

    ``basis``, (P, D) float64, has a row for each column. A row, less its part along the rows of the columns that went,
    is that column in the null space left. The projection is done twice: once leaves rounding errors along them.
    """
    gone: list[int] = []
    directions = np.empty((basis.shape[1], basis.shape[1]))
    for k, row in enumerate(basis):
        used = directions[: len(gone)]
        for _ in range(2):
            row = row - (used @ row) @ used
        leverage = row @ row
        if leverage > LEVERAGE_TOLERANCE:
            directions[len(gone)] = row / math.sqrt(leverage)
            gone.append(k)
    return gone


def _remove_batch(inverse: np.ndarray, threshold: float, worst: int) -> list[Removal]:
    """Remove columns of the largest VIF, at most 64, from S = ``inverse``, (Q, Q) float64, without touching S.

    After m removals the inverse of the rest is S - U U', U (Q, m): the diagonal is kept up to date and a column costs
    O(Q m) when its turn comes. Where a near-duplicate goes, its twin falls from 1e9 to 10 and keeps 7 digits, too few
    to recognise ties by: when such a column is next, the batch ends.
    """
    fresh = np.diag(inverse)
    vif = fresh.copy()
    updates = np.empty((len(inverse), REFRESH_EVERY))
    removals: list[Removal] = []
    for step in range(min(REFRESH_EVERY, len(inverse) - 1)):  # the last column has nothing to be explained by
        k = int(_largest(vif)[worst])
        in_question = vif >= 0.999 * vif[k]
        if _is_below(vif[k], threshold) or (vif < REFRESH_BELOW * fresh)[in_question].any():
            break
        column = inverse[k] - updates[:, :step] @ updates[k, :step]
        largest, vif[k] = float(vif[k]), -np.inf
        removals.append(Removal(k, largest, _best_explainer(column, vif), INFLATED))
        updates[:, step] = column / math.sqrt(largest)
        vif -= updates[:, step] ** 2
    return removals


def _best_explainer(column: np.ndarray, vif: np.ndarray) -> int:
    """The column j without which R^2 of column k would fall the most; ``column`` = S_k, ``vif`` -inf where gone.

    Without j, S_kk becomes S_kk (1 - r^2) with r^2 = S_jk^2 / (S_jj S_kk), and R^2 = 1 - 1 / S_kk. The fall
    (1 / S_kk) r^2 / (1 - r^2) grows with r^2, the squared partial correlation; S_kk is the same for all j.
    """
    return int(_largest(np.where(np.isfinite(vif), column**2 / vif, -np.inf))[0])


def _explained_exactly(correlation: np.ndarray, gone: list[int], kept: np.ndarray) -> list[Removal]:
    """Removals of columns that ``kept`` explains fully; parent = the first with the largest |correlation|."""
    closest = (int(kept[_largest(np.abs(correlation[k, kept]))[0]]) for k in gone)
    return [Removal(k, math.inf, parent, EXACT) for k, parent in zip(gone, closest, strict=True)]


def _largest(values: np.ndarray) -> np.ndarray:
    """Positions of the largest value and of those that equal it to rounding, ascending."""
    return np.flatnonzero(values >= values.max() * (1 - TIE_TOLERANCE))


def _is_below(vif: float, threshold: float) -> bool:
    """Clearly below: a VIF of 10 that rounding made 9.999999999999998 is not."""
    return vif < threshold * (1 - TIE_TOLERANCE)


def _eigenvalues_exceed(correlation: np.ndarray, bound: float) -> bool:
    """Whether the smallest eigenvalue is above ``bound``: R - bound I has a Cholesky factor."""
    try:
        np.linalg.cholesky(correlation - bound * np.eye(len(correlation)))
    except np.linalg.LinAlgError:
        return False
    return True


def _inverse(factor: np.ndarray) -> np.ndarray:
    """(L L')^-1, both triangles, of a lower Cholesky factor L, (Q, Q) float64."""
    if not len(factor):
        return np.empty((0, 0))
    lower = np.tril(dpotri(factor, lower=1)[0])
    inverse: np.ndarray = lower + np.tril(lower, -1).T
    return inverse


def _confirm(correlation: np.ndarray, survivors: np.ndarray, threshold: float) -> None:
    largest = float(vif_values(correlation[np.ix_(survivors, survivors)]).max(initial=1.0))
    if not largest < threshold:
        raise ArithmeticError(
            f"largest VIF of the survivors is {largest!r} in a fresh inverse, threshold {threshold!r}: "
            "rounding hides the difference; lower vif_threshold"
        )


def _without(size: int, removals: list[Removal]) -> np.ndarray:
    """(Q,) int64, ascending: 0..size-1 without the removed columns."""
    return np.delete(np.arange(size, dtype=np.int64), [removal.column for removal in removals])


def _relabel(removals: list[Removal], labels: np.ndarray) -> list[Removal]:
    """The same removals where position i is column ``labels[i]``."""
    return [
        replace(removal, column=int(labels[removal.column]), parent=int(labels[removal.parent])) for removal in removals
    ]
