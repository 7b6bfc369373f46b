"""Compiled loops that rank two columns on the rows that they share, a pair at a time, without a table of all ranks.

Removing rows lowers a doubled mid-rank by two for each removed value below, and by one for each removed tie. Bits at
the mid-ranks of the removed values, with counts by word, tell both: they fit the innermost cache, where a table of
scores does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from descriptors.kernels import from_words, score

WIDE = 1 << 15  # cells of a column from which bits are faster than a table of its scores
WORD = 5  # a word has 2^5 bits, and above them twice the number of those in all words before


class Side(NamedTuple):
    """Some columns.

    cells : (p, N) uint32, 0 = missing; of a wide column doubled mid-ranks.
    own : flat int32, how often each cell occurs; of a wide column, each mid-rank by half its double.
    at : (p + 1,) int64, where the columns begin in ``own``.
    wide : (p,) bool.
    cubes : (p,) int64, sum of t^3 over the ties of size t; of wide columns.
    gone, bounds : int64, rows where column i has no value: ``gone[bounds[i]:bounds[i + 1]]``.
    """

    cells: np.ndarray
    own: np.ndarray
    at: np.ndarray
    wide: np.ndarray
    cubes: np.ndarray
    gone: np.ndarray
    bounds: np.ndarray


@intrinsic
def count_bits(typing, word):
    """How many bits of a uint64 are set, in one instruction."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True)
def flip(words, place):
    """Set a bit that is clear, clear one that is set."""
    words[place >> WORD] ^= np.uint64(1) << np.uint64(place & 31)


@njit(nogil=True, cache=True)
def mark(codes, own, distinct, rows, words, seen):
    """Bits for the values that go with ``rows``; how many values go, and by how much the sum of t^3 falls.

    ``distinct``: there are no ties at all, so that ``own`` need not be looked up.
    With r of t tied values gone and p half their code: r // 2 bits below p, as many above, and one at p if r is odd.
    Twice the bits below p and the one at p are then twice the removed values below the tie and those in it. Where all
    of it goes, no value is left that looks there, and the last bit takes the place left.
    """
    words[:] = 0
    count, fall, tied = np.int64(0), np.int64(0), False
    for k in range(len(rows)):
        place = np.int64(codes[rows[k]]) >> 1
        if place == 0:
            continue
        count += 1
        if distinct or own[place] == 1:
            flip(words, place)
            fall += 1
            continue
        ties = np.int64(own[place])
        tied = True
        left = ties - seen[place]
        fall += left * left * left - (left - 1) * (left - 1) * (left - 1)
        half = np.int64(seen[place]) >> 1
        if not seen[place] & 1:
            flip(words, place)
        elif left == 1:
            flip(words, place + 1 + half)
        else:
            flip(words, place)
            flip(words, place - 1 - half)
            flip(words, place + 1 + half)
        seen[place] += 1
    twice = np.uint64(0)
    for k in range(len(words)):
        here = count_bits(words[k]) << np.uint64(1)
        words[k] |= twice << np.uint64(32)
        twice += here
    if tied:
        for k in range(len(rows)):
            seen[np.int64(codes[rows[k]]) >> 1] = 0
    return count, fall


@njit(nogil=True, cache=True)
def lower(code, middle, words):
    """Centred doubled mid-rank of one row among the values that are left, ``middle`` = n + 1; 0 where missing."""
    word = words[code >> np.uint32(WORD + 1)]
    upto = word << np.uint64(np.uint32(63) - ((code >> np.uint32(1)) & np.uint32(31)))
    gone = np.int32(word >> np.uint64(32)) + 2 * np.int32(count_bits(upto)) - np.int32(upto >> np.uint64(63))
    return np.int32(code) - gone - middle if code else np.int32(0)


# one loop for each kind of pair: written to no array, its scores are ranked eight rows at a time


@njit(nogil=True, cache=True)
def multiply_wide(left, left_words, right, right_words, n):
    """Sum of products of two wide columns' scores."""
    total, middle = np.int64(0), np.int32(n + 1)
    for row in range(len(left)):
        total += np.int64(lower(left[row], middle, left_words)) * np.int64(lower(right[row], middle, right_words))
    return total


@njit(nogil=True, cache=True)
def multiply_mixed(left, words, right, table, n):
    """Sum of products of a wide column's scores and another one's."""
    total, middle = np.int64(0), np.int32(n + 1)
    for row in range(len(left)):
        total += np.int64(lower(left[row], middle, words)) * np.int64(table[right[row]])
    return total


@njit(nogil=True, cache=True)
def multiply_tables(left, one, right, other):
    """Sum of products of two columns' scores by cell, in two words."""
    high, low = np.int64(0), np.int64(0)
    for row in range(len(left)):
        product = np.int64(one[left[row]]) * np.int64(other[right[row]])
        high += product >> 32
        low += product & 0xFFFFFFFF
    return high, low


@njit(nogil=True, cache=True)
def take_out(side, column, other, partner, work):
    """A column without the rows that its partner misses: number of values left, and how much its sum of t^3 falls.

    ``work``: table of scores, words of bits, values seen of a tie.
    """
    table, words, seen = work
    rows = other.gone[other.bounds[partner] : other.bounds[partner + 1]]
    cells, own = side.cells[column], side.own[side.at[column] : side.at[column + 1]]
    n_own = len(cells) - (side.bounds[column + 1] - side.bounds[column])
    if side.wide[column]:
        count, fall = mark(cells, own, side.cubes[column] == n_own, rows, words, seen)
        return n_own - count, fall
    table[: len(own)] = 0
    count = 0
    for k in range(len(rows)):
        cell = cells[rows[k]]
        table[cell] -= 1
        count += cell != 0
    return n_own - count, np.int64(0)


@njit(nogil=True, cache=True)
def finish(side, column, n, fall, shift, table):
    """Sums of the scores of the n values left, and of their squares; ``table`` becomes the scores, if not wide."""
    if side.wide[column]:
        return 0.0, np.float64((n * n * n - (side.cubes[column] - fall)) // 3)
    return score(side.own[side.at[column] : side.at[column + 1]], n, shift, table)


@njit(nogil=True, cache=True)
def rank_pairs(left, right, shift, min_common, pairs, size, out):
    """Both columns of each pair ranked on their common rows and multiplied.

    Parameters
    ----------
    left, right : :class:`Side`.
    pairs : (K, 2) int64, columns of either side.
    size : most cells of a column that is not wide.
    out : (6, p, q) float64; sum of products, rows, and of either column the sums of the scores and of their squares.
        Pairs of fewer than ``min_common`` common rows get the rows alone.
    """
    n_rows = left.cells.shape[1]
    wide = n_rows if left.wide.any() or right.wide.any() else 0
    words, seen = (wide >> WORD) + 1, np.zeros(wide + 1, np.int32)
    first = (np.empty(size, np.int32), np.empty(words, np.uint64), seen)
    second = (np.empty(size, np.int32), np.empty(words, np.uint64), seen)
    for pair in range(len(pairs)):
        x, y = pairs[pair]
        n, fall_x = take_out(left, x, right, y, first)
        out[1, x, y] = n
        if n < min_common:
            continue
        fall_y = take_out(right, y, left, x, second)[1]
        out[2, x, y], out[3, x, y] = finish(left, x, n, fall_x, shift, first[0])
        out[4, x, y], out[5, x, y] = finish(right, y, n, fall_y, shift, second[0])
        one, other = left.cells[x], right.cells[y]
        if left.wide[x] and right.wide[y]:
            out[0, x, y] = multiply_wide(one, first[1], other, second[1], n)
        elif left.wide[x]:
            out[0, x, y] = multiply_mixed(one, first[1], other, second[0], n)
        elif right.wide[y]:
            out[0, x, y] = multiply_mixed(other, second[1], one, first[0], n)
        else:
            high, low = multiply_tables(one, first[0], other, second[0])
            out[0, x, y] = from_words(high, low)
