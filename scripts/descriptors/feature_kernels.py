"""Inner loops of pass 4, compiled: look-ups of features, their exact sums, and the two measures of a pair of columns.

A buffer of features is (columns * width, rows) float64 of integers, C-contiguous: a feature's rows lie side by side.
Compiled without fast-math, so each value has the same bits however the loops are cut; only where sums of integers stay
below 2^53, hence exact in any order, may the compiler change the order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(nogil=True, cache=True, error_model="numpy")
exact_sums = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})

Side = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # as in normalised_hsic

CELL_BITS = 16
LANES = 8  # pairs computed side by side
SMALLEST_PIVOT = 1e-300


@compiled
def look_up(table: np.ndarray, codes: np.ndarray, order: np.ndarray, n: int, features: np.ndarray) -> None:
    """``features`` (width, B) of one column: rows of ``table``, (size, width) int32, by code or by cell.

    ``codes`` (B,) unsigned, taken in ``order`` (B,); ``n`` 0: the row of the table is the code; else it is
    1 + floor(2^16 u) with u = (code - 1) / (2 n), and 0 for code 0.
    """
    scale = 1 << (CELL_BITS - 1)
    for b in range(len(order)):
        code = np.int64(codes[order[b]])
        if n > 0 and code > 0:
            # the rounded quotient of integers below 2^53 is never above the next integer
            code = 1 + np.int64(np.float64((code - 1) * scale) / n)
        if code >= len(table):
            raise IndexError("a code is above twice the number of values that its column is said to have")
        row = table[code]
        for k in range(len(features)):
            features[k, b] = row[k]


@exact_sums
def add_moments(
    features: np.ndarray, starts: np.ndarray, masks: np.ndarray, sums: np.ndarray, squares: np.ndarray
) -> None:
    """Add one column's sums and products of features over the rows of each mask; no sum of a block may reach 2^53.

    Parameters
    ----------
    features : (width, B) float64 of integers.
    starts : (S + 1,) bounds of runs of rows that are in the same masks.
    masks : (S, Q) bool, C-contiguous, the masks that the rows of a run are in.
    sums : (Q, width) int64.
    squares : (Q, width (width + 1) / 2) int64, in the order of numpy.triu_indices.
    """
    width = len(features)
    total, products = np.empty(sums.shape[1]), np.empty(squares.shape[1])
    for run in range(len(starts) - 1):
        total[:] = 0.0
        products[:] = 0.0
        for start in range(starts[run], starts[run + 1], 128):  # what stays in the first cache
            stop = min(start + 128, starts[run + 1])
            place = 0
            for k in range(width):
                own = features[k, start:stop]
                for x in own:
                    total[k] += x
                for k_too in range(k, width):
                    other, product = features[k_too, start:stop], 0.0
                    for row in range(len(own)):
                        product += own[row] * other[row]
                    products[place] += product
                    place += 1
        for mask in range(masks.shape[1]):
            if masks[run, mask]:
                for k in range(width):
                    sums[mask, k] += np.int64(total[k])
                for place in range(len(products)):
                    squares[mask, place] += np.int64(products[place])


@compiled
def add_product(product: np.ndarray, upper: bool, first: int, last: int, sums: np.ndarray) -> None:
    """``sums[first:last] += product[first:last]``, integers; with ``upper`` only from the diagonal to the right."""
    for i in range(first, last):
        for j in range(i if upper else 0, product.shape[1]):
            sums[i, j] += np.int64(product[i, j])


@compiled
def normalised_hsic(
    product: np.ndarray,
    count: np.ndarray,
    left: Side,
    right: Side,
    left_norm: np.ndarray,
    right_norm: np.ndarray,
    least: int,
    within: bool,
    first: int,
    last: int,
    values: np.ndarray,
) -> None:
    """||C_ij||_F^2 / (||C_ii||_F ||C_jj||_F) of the columns ``first`` to ``last`` of one tile with all of another.

    Parameters
    ----------
    product : (T d, T' d) float64, sums of products of features.
    count : (Q, Q') float64, common rows of two patterns.
    left, right : (columns, patterns, means, varies) of the tiles: (T,), (T,), (T, Q', d), (T, Q') and (T',), (T',),
        (T', Q, d), (T', Q); the order of the column numbers decides which of a pair comes first in the arithmetic.
    left_norm, right_norm : (T, Q'), (T', Q) float64, ||C_ii||_F on the rows of each pattern.
    least : fewest common rows of a defined pair.
    within : both tiles are the same: only pairs above the diagonal of ``product`` are looked at, and mirrored.
    values : (T, T') float64; undefined pairs are left alone, and so are those of a column with itself.
    """
    columns, patterns, mean, varies = left
    other_columns, other_patterns, other_mean, other_varies = right
    width = mean.shape[2]
    for a in range(first, last):
        for b in range(a + 1 if within else 0, len(other_columns)):
            p, q = patterns[a], other_patterns[b]
            n = count[p, q]
            if n >= least and varies[a, q] and other_varies[b, p] and columns[a] != other_columns[b]:
                swapped = columns[a] > other_columns[b]
                total = 0.0
                for k in range(width):
                    for m in range(width):
                        i, j = (m, k) if swapped else (k, m)
                        cross = product[a * width + i, b * width + j] / n - mean[a, q, i] * other_mean[b, p, j]
                        total += cross * cross
                values[a, b] = min(total / (left_norm[a, q] * right_norm[b, p]), 1.0)
                if within:
                    values[b, a] = values[a, b]


@compiled
def canonical_correlation(
    product: np.ndarray,
    count: np.ndarray,
    left: Side,
    right: Side,
    left_white: np.ndarray,
    right_white: np.ndarray,
    least: int,
    within: bool,
    first: int,
    last: int,
    values: np.ndarray,
) -> None:
    """Largest singular value of W_i C_ij W_j', at most 1: columns ``first`` to ``last`` of one tile, all of another.

    The root of the largest eigenvalue of that matrix times its transpose, which of the largest keeps all digits; the
    pairs of a column are computed ``LANES`` at a time, each in a lane of its own that the others do not touch.
    ``left_white`` (T, Q', d, d) and ``right_white`` (T', Q, d, d) are W; the others as in ``normalised_hsic``.
    """
    columns, patterns, mean, varies = left
    other_columns, other_patterns, _, other_varies = right
    width = mean.shape[2]
    lanes = np.zeros((5, width, width, LANES))
    others = np.empty(LANES, np.int64)
    largest = np.empty(LANES)
    for a in range(first, last):
        # typed: a literal would compile what it is given to twice
        p, filled, b = patterns[a], np.int64(0), np.int64(a + 1 if within else 0)
        while b < len(other_columns) or filled:
            full = filled == LANES or b == len(other_columns)
            if not full:
                q = other_patterns[b]
                swapped = columns[a] > other_columns[b]
                # all lanes the same way round
                full = filled > 0 and swapped != (columns[a] > other_columns[others[0]])
            if full:
                swapped = columns[a] > other_columns[others[0]]
                _whitened(product, count, left, right, left_white, right_white, a, others, filled, swapped, lanes)
                _tridiagonal(lanes[0], lanes[1, 0], lanes[1, 1])
                _largest_eigenvalue(lanes[1, 0], lanes[1, 1], largest)
                for lane in range(filled):
                    values[a, others[lane]] = min(np.sqrt(largest[lane]), 1.0)
                    if within:
                        values[others[lane], a] = values[a, others[lane]]
                filled = np.int64(0)
            else:
                defined = count[p, q] >= least and varies[a, q] and other_varies[b, p]
                if defined and columns[a] != other_columns[b]:
                    others[filled] = b
                    filled += 1
                b += 1


@compiled
def _whitened(
    product: np.ndarray,
    count: np.ndarray,
    left: Side,
    right: Side,
    left_white: np.ndarray,
    right_white: np.ndarray,
    a: int,
    others: np.ndarray,
    filled: np.int64,
    swapped: bool,
    lanes: np.ndarray,
) -> None:
    """``lanes[0]``: the whitened cross-covariance times its transpose, of column ``a`` and ``others[:filled]``."""
    _, patterns, mean, _ = left
    _, other_patterns, other_mean, _ = right
    width, p = mean.shape[2], patterns[a]
    cross, one, two, half, whole = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    own, other = (two, one) if swapped else (one, two)
    for k in range(width):
        for m in range(width):
            to = cross[m, k] if swapped else cross[k, m]
            for lane in range(filled):
                b = others[lane]
                q = other_patterns[b]
                to[lane] = product[a * width + k, b * width + m] / count[p, q] - mean[a, q, k] * other_mean[b, p, m]
                own[k, m, lane] = left_white[a, q, k, m]
                other[k, m, lane] = right_white[b, p, k, m]
    half[:] = 0.0
    whole[:] = 0.0
    for i in range(width):
        for k in range(width):
            for j in range(width):
                for lane in range(LANES):
                    half[i, j, lane] += one[i, k, lane] * cross[k, j, lane]
    for i in range(width):
        for k in range(width):
            for j in range(width):
                for lane in range(LANES):
                    whole[i, j, lane] += half[i, k, lane] * two[j, k, lane]
    cross[:] = 0.0
    for i in range(width):
        for k in range(width):
            for j in range(i + 1):
                for lane in range(LANES):
                    cross[i, j, lane] += whole[i, k, lane] * whole[j, k, lane]


@compiled
def _tridiagonal(matrix: np.ndarray, diagonal: np.ndarray, beside: np.ndarray) -> None:
    """Householder's reduction of a symmetric matrix (its lower triangle, destroyed) in each lane.

    ``beside[i]`` is the entry next to the diagonal between i - 1 and i.
    """
    h, along = np.empty(LANES), np.empty(LANES)
    beside[0] = 0.0
    for i in range(len(matrix) - 1, 0, -1):
        # v = row - beside e_last, H = 1 - v v' / h; nothing to reflect where the row is 0
        row = matrix[i]
        h[:] = 0.0
        for k in range(i):
            for lane in range(LANES):
                h[lane] += row[k, lane] * row[k, lane]
        for lane in range(LANES):
            last = row[i - 1, lane]
            beside[i, lane] = -np.copysign(np.sqrt(h[lane]), last)
            square = h[lane] - last * beside[i, lane]
            h[lane] = 1.0 / square if square > 0.0 else 0.0
            row[i - 1, lane] = last - beside[i, lane]
        along[:] = 0.0
        diagonal[:i] = 0.0
        for k in range(i):
            for j in range(i):
                entry = matrix[max(j, k), min(j, k)]
                for lane in range(LANES):
                    diagonal[j, lane] += entry[lane] * row[k, lane]
        for j in range(i):
            for lane in range(LANES):
                diagonal[j, lane] *= h[lane]
                along[lane] += diagonal[j, lane] * row[j, lane]
        for j in range(i):
            for lane in range(LANES):
                diagonal[j, lane] -= 0.5 * h[lane] * along[lane] * row[j, lane]
        for j in range(i):
            for k in range(j + 1):
                entry = matrix[j, k]
                for lane in range(LANES):
                    entry[lane] -= row[j, lane] * diagonal[k, lane] + diagonal[j, lane] * row[k, lane]
    for i in range(len(matrix)):
        # lane by lane: to copy an array takes Numba three seconds more to compile, and so does to add one
        for lane in range(LANES):
            diagonal[i, lane] = matrix[i, i, lane]


@compiled
def _largest_eigenvalue(diagonal: np.ndarray, beside: np.ndarray, largest: np.ndarray) -> None:
    """Of a tridiagonal matrix in each lane, positive semi-definite: bisection by Sturm's sequence, to rounding.

    It is at most the trace and at least a share of it; an eigenvalue above x makes a pivot of the matrix less x
    positive (Sylvester's law of inertia). 54 halvings leave less than the last bit of it.

    References
    ----------
    Barth, Martin & Wilkinson (1967), Calculation of the eigenvalues of a symmetric tridiagonal matrix by bisection.
    """
    low, middle, pivot, highest = np.empty((4, LANES))
    squares = np.empty(beside.shape)
    low[:] = 0.0
    largest[:] = 0.0
    for i in range(len(diagonal)):
        for lane in range(LANES):
            squares[i, lane] = beside[i, lane] * beside[i, lane]
            largest[lane] += diagonal[i, lane]
    for _ in range(54):
        for lane in range(LANES):
            middle[lane] = 0.5 * (low[lane] + largest[lane])
            pivot[lane] = 1.0
            highest[lane] = -1.0
        for i in range(len(diagonal)):
            for lane in range(LANES):
                x = diagonal[i, lane] - middle[lane] - squares[i, lane] / pivot[lane]
                x = x if abs(x) > SMALLEST_PIVOT else -SMALLEST_PIVOT
                pivot[lane] = x
                highest[lane] = max(highest[lane], x)
        for lane in range(LANES):
            above = highest[lane] > 0.0
            low[lane] = middle[lane] if above else low[lane]
            largest[lane] = largest[lane] if above else middle[lane]
