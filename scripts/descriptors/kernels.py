"""Compiled loops over the values and codes of a column; each reads and writes arrays that its caller made.

They release the interpreter's lock, so that several columns can be worked on at the same time, and add integers only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from descriptors import sampling
from descriptors.sampling import GOLDEN

EXPONENT = np.uint64(0x7FF0000000000000)
SIGN = np.uint64(1 << 63)
ONE = np.uint64(1)
EMPTY = ~np.uint64(0)
HASH_BITS = 14
HASH_SHIFT, HASH_MASK = np.uint64(64 - HASH_BITS), np.uint64((1 << HASH_BITS) - 1)
WIDE = 1021  # largest values near 2^1021: differences do not overflow, small values hardly ever underflow
DOWN = 2.0**-WIDE
BLOCK = 4096  # values added up before they join the sum of all
EXACT_CUBES = 1 << 20  # whose cube fits an int64
LONG_RUN = 64  # values alike to the last kept bit that are still sorted one by one


@njit(nogil=True, cache=True)
def mark_missing(values):
    """NaN for infinities, in place."""
    for i in range(len(values)):
        if not np.isfinite(values[i]):
            values[i] = np.nan


@njit(nogil=True, cache=True)
def sort_key(bits):
    """Order-preserving integer of a float64's bits; both zeros are one."""
    if bits == SIGN:
        return SIGN
    return ~bits if bits & SIGN else bits | SIGN


@njit(nogil=True, cache=True)
def extent(bits):
    """Of the finite values: how many, the smallest key, the largest, and the bits that are not the same in all."""
    count, low, high = 0, ~np.uint64(0), np.uint64(0)
    some, every = np.uint64(0), ~np.uint64(0)
    for i in range(len(bits)):
        if bits[i] & EXPONENT != EXPONENT:
            key = sort_key(bits[i])
            count += 1
            low, high = min(low, key), max(high, key)
            some, every = some | key, every & key
    return count, low, high, some & ~every


@njit(nogil=True, cache=True)
def pack(bits, low, shift, index_bits, packed):
    """Key (its distance from ``low``, without the lowest ``shift`` bits) above row number, of every finite value."""
    if len(packed) == len(bits):  # none is missing: several at a time
        for i in range(len(bits)):
            packed[i] = (((sort_key(bits[i]) - low) >> shift) << index_bits) | np.uint64(i)
        return
    at = 0
    for i in range(len(bits)):
        if bits[i] & EXPONENT != EXPONENT:
            packed[at] = (((sort_key(bits[i]) - low) >> shift) << index_bits) | np.uint64(i)
            at += 1


@njit(nogil=True, cache=True)
def runs(ordered):
    """Of ascending values: how many differ, and how often the commonest occurs."""
    distinct, longest, start = 0, 0, 0
    for at in range(1, len(ordered) + 1):
        if at == len(ordered) or ordered[at] != ordered[start]:
            distinct += 1
            longest = max(longest, at - start)
            start = at
    return distinct, longest


@njit(nogil=True, cache=True)
def unpack(packed, values, index_bits, ordered):
    """Values in the order of ``packed``, sorted by key: those alike in the kept bits are put in order, if they are few.

    Returns the number of distinct values; -1 if a long run is out of order.
    """
    mask = (ONE << index_bits) - ONE
    # by itself: many rows are under way at a time
    for at in range(len(packed)):
        ordered[at] = values[packed[at] & mask] + 0.0
    start, distinct, repaired = 0, np.int64(len(packed) > 0), False
    for at in range(1, len(packed)):
        distinct += ordered[at] != ordered[at - 1]
        if ordered[at] < ordered[at - 1]:
            repaired = True
            if at - start > LONG_RUN:
                return -1
            value, row, place = ordered[at], packed[at], at
            while place > start and ordered[place - 1] > value:
                ordered[place], packed[place] = ordered[place - 1], packed[place - 1]
                place -= 1
            ordered[place], packed[place] = value, row
        elif packed[at] >> index_bits != packed[at - 1] >> index_bits:
            start = at
    return runs(ordered)[0] if repaired else distinct


@njit(nogil=True, cache=True)
def number_values(bits, values, places, found, numbers):
    """Number of each row's value in order of appearance, from 1, 0 = missing; values are kept in ``found`` as bits.

    ``values`` and ``places`` are a hash table of 2^14 slots, empty where ``values`` has all bits set (a NaN).
    Returns how many there are; -1 if more than fit into ``found``.
    """
    number = 0
    for i in range(len(bits)):
        value = bits[i]
        if value & EXPONENT == EXPONENT:
            numbers[i] = 0
            continue
        if value == SIGN:
            value = np.uint64(0)
        slot = (value * GOLDEN) >> HASH_SHIFT
        while values[slot] != value:
            if values[slot] == EMPTY:
                if number == len(found):
                    return -1
                found[number] = value
                number += 1
                values[slot], places[slot] = value, number
                break
            slot = (slot + ONE) & HASH_MASK
        numbers[i] = places[slot]
    return number


@njit(nogil=True, cache=True)
def put_levels(packed, ordered, index_bits, table):
    """Above each row number that of the distinct value, from 1; its doubled mid-rank in ``table``.

    Ranks start + 1 .. at average to (start + at + 1) / 2.
    """
    mask = (ONE << index_bits) - ONE
    start, level = 0, np.uint64(0)
    for at in range(1, len(ordered) + 1):
        if at == len(ordered) or ordered[at] != ordered[start]:
            level += ONE
            table[level] = start + at + 1
            for k in range(start, at):
                packed[k] = (level << index_bits) | (packed[k] & mask)
            start = at


@njit(nogil=True, cache=True)
def put_ranks(packed, ordered, distinct, index_bits):
    """Above each row number its doubled mid-rank; ``distinct``: there are no ties."""
    mask = (ONE << index_bits) - ONE
    for at in range(len(packed)):
        packed[at] = (np.uint64(2 * at + 2) << index_bits) | (packed[at] & mask)
    if distinct:
        return
    start = 0
    for at in range(1, len(ordered) + 1):
        if at == len(ordered) or ordered[at] != ordered[start]:
            if at > start + 1:
                above = np.uint64(start + at + 1) << index_bits
                for k in range(start, at):
                    packed[k] = above | (packed[k] & mask)
            start = at


@njit(nogil=True, cache=True)
def scatter(packed, index_bits, out):
    """What is above each row number goes to that row."""
    mask = (ONE << index_bits) - ONE
    for at in range(len(packed)):
        out[packed[at] & mask] = packed[at] >> index_bits


@njit(nogil=True, cache=True)
def split(codes, shift, cells, fine):
    """Doubled mid-ranks less 1, cut in two: cell number (from 1) and place in the cell; 0 and 0 where missing."""
    within = np.uint32((1 << shift) - 1)
    for n in range(len(codes)):
        rank = codes[n] - np.uint32(1)
        cells[n] = (rank >> np.uint32(shift)) + np.uint32(1) if codes[n] else np.uint32(0)
        fine[n] = rank & within if codes[n] else np.uint32(0)


mix = njit(nogil=True, cache=True)(sampling.mix)


@njit(nogil=True, cache=True)
def add_content(bits, key, nan_bits, total):
    """One column's summand of every row's content hash; one pattern for all that is missing, one for both zeros."""
    for i in range(len(bits)):
        value = bits[i]
        if value & EXPONENT == EXPONENT:
            value = nan_bits
        elif value == SIGN:
            value = np.uint64(0)
        total[i] += mix(value ^ key)


@njit(nogil=True, cache=True)
def look_up(cells, table, codes):
    """codes[n] = table[cells[n]]; of any types."""
    for n in range(len(cells)):
        codes[n] = table[cells[n]]


@njit(nogil=True, cache=True)
def join_planes(cells, fine, shift, codes):
    """Doubled mid-ranks of the two parts of ``split``; 0 for cell 0."""
    for n in range(len(cells)):
        cell = np.int64(cells[n])
        codes[n] = ((cell - 1) << shift) + np.int64(fine[n]) + 1 if cell else 0


@njit(nogil=True, cache=True)
def middles(cells, shift, codes):
    """Doubled mid-ranks in the middle of their cells; 0 for cell 0."""
    for n in range(len(cells)):
        cell = np.int64(cells[n])
        codes[n] = ((2 * cell - 1) << (shift - 1)) + 1 if cell else 0


@njit(nogil=True, cache=True)
def from_words(high, low):
    """high 2^32 + low as float64; both int64, ``low`` not negative."""
    return np.float64(high + (low >> 32)) * 4294967296.0 + np.float64(low & 0xFFFFFFFF)


@njit(nogil=True, cache=True)
def centre(codes, offset, shift, out, sums):
    """Doubled mid-ranks less ``offset`` in units of 2^shift, halves rounded up, as float64; 0 where missing.

    ``sums`` (3,) int64: their sum is added to the first; that of their squares, high 2^32 + low, to the others.
    """
    half = (1 << shift) >> 1
    total, high, low = np.int64(0), np.int64(0), np.int64(0)
    for n in range(len(codes)):
        code = np.int64(codes[n])
        each = (code - offset + half) >> shift if code else np.int64(0)
        out[n] = each
        total += each
        square = each * each
        high += square >> 32
        low += square & 0xFFFFFFFF
    sums[0] += total
    sums[1] += high + (low >> 32)
    sums[2] += low & 0xFFFFFFFF


@njit(nogil=True, cache=True)
def count_cells(cells, counts):
    """Add up how often every cell occurs."""
    for n in range(len(cells)):
        counts[cells[n]] += 1


@njit(nogil=True, cache=True)
def count_column(cells, rows, bounds, own, tables, at, removed):
    """How often each cell occurs (``own``), and how often on the rows taken out by each pattern (negative, ``tables``).

    ``rows[bounds[k]:bounds[k + 1]]`` are taken out by pattern k, whose table begins at ``at[k]``; ``removed[k]`` counts
    those of them where the column has a value.
    """
    for n in range(len(cells)):
        own[cells[n]] += 1
    for k in range(len(at)):
        for place in range(bounds[k], bounds[k + 1]):
            cell = cells[rows[place]]
            tables[at[k] + cell] -= 1
            removed[k] += cell != 0


@njit(nogil=True, cache=True)
def score(own, n, shift, table):
    """Centred doubled mid-ranks of n rows by cell, in units of 2^shift, halves rounded up; cell 0 (missing) scores 0.

    A cell occurs ``own + table`` times; its score takes the place of ``table``. Returns the sums of the scores and of
    their squares over the rows; with all ranks told apart they are 0 and (n^3 - sum t^3) / 3, t the sizes of the ties.
    """
    half = np.int64((1 << shift) >> 1)
    below = -n  # twice those below, less n
    total, whole, high, low = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    cubic = shift == 0 and n <= EXACT_CUBES
    if cubic:
        for k in range(1, len(own)):
            count = np.int64(own[k]) + table[k]
            table[k] = below + count
            below += 2 * count
            whole += count * count * count
        whole = (n * n * n - whole) // 3
    else:
        for k in range(1, len(own)):
            count = np.int64(own[k]) + table[k]
            each = (below + count + half) >> shift
            table[k] = each
            below += 2 * count
            total += count * each
            square = each * each
            high += count * (square >> 32)
            low += count * (square & 0xFFFFFFFF)
    table[0] = 0
    return np.float64(total), np.float64(whole) if cubic else from_words(high, low)


@njit(nogil=True, cache=True)
def rank_column(own, shift, tables, at, removed, rows, total, squares):
    """Scores of a column on the rows of each pattern, from what ``count_column`` left; how many rows, their sums."""
    n_own = np.int64(0)
    for k in range(1, len(own)):
        n_own += own[k]
    for pattern in range(len(at)):
        n = n_own - removed[pattern]
        rows[pattern] = n
        table = tables[at[pattern] : at[pattern] + len(own)]
        total[pattern], squares[pattern] = score(own, n, shift, table)


@njit(nogil=True, cache=True)
def multiply_pairs(left, left_tables, left_at, right, right_tables, right_at, pairs, high, low):
    """Add the products of two columns' scores over a block of rows to exact sums in two words, high 2^32 + low.

    ``pairs`` (K, 4): column of the left, of the right, pattern of the left one, of the right one.
    """
    for k in range(len(pairs)):
        x, y, a, b = pairs[k]
        one, other = left_at[x, b], right_at[y, a]
        upper, lower = np.int64(0), np.int64(0)
        for n in range(left.shape[1]):
            product = np.int64(left_tables[one + left[x, n]]) * np.int64(right_tables[other + right[y, n]])
            upper += product >> 32
            lower += product & 0xFFFFFFFF
        high[x, y] += upper
        low[x, y] += lower


@njit(nogil=True, cache=True)
def moments(ordered, factor, again, lower, upper, width):
    """Mean and variance of w / 2^WIDE, and variance of (clip(w, lower, upper) - lower) / width.

    w = ordered * factor * again, two powers of two, whose product may be out of range. Sums are taken by blocks, so
    that their rounding does not grow with the length, in the order of the values.
    """
    n = len(ordered)
    mean, clipped_mean = 0.0, 0.0
    for start in range(0, n, BLOCK):
        total, clipped_total = 0.0, 0.0
        for k in range(start, min(start + BLOCK, n)):
            w = ordered[k] * factor * again
            total += w * DOWN
            clipped_total += (min(max(w, lower), upper) - lower) / width
        mean += total
        clipped_mean += clipped_total
    low, high = ordered[0] * factor * again * DOWN, ordered[n - 1] * factor * again * DOWN
    mean, clipped_mean = min(max(mean / n, low), high), clipped_mean / n
    variance, clipped_variance = 0.0, 0.0
    for start in range(0, n, BLOCK):
        total, clipped_total = 0.0, 0.0
        for k in range(start, min(start + BLOCK, n)):
            w = ordered[k] * factor * again
            total += (w * DOWN - mean) ** 2
            clipped_total += ((min(max(w, lower), upper) - lower) / width - clipped_mean) ** 2
        variance += total
        clipped_variance += clipped_total
    return mean, variance / n, clipped_variance / n
