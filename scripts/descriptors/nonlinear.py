"""Pass 4: nonlinear redundancy of column pairs, HSIC and RDC, from exact sums of integer features of the ranks.

Every column is seen as its copula coordinate u through one dictionary of functions that all columns share
(:mod:`descriptors.features`), so one matrix of feature products (:mod:`descriptors.covariance`) holds every pair's
cross-covariance C_ij, and that its HSIC and RDC (:mod:`descriptors.dependence`): the same bytes for any block size,
tile size, row order or thread count, and for a pair alone, in a rectangle of pairs or among all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.descriptors_settings import Pass4
from descriptors.covariance import ChosenRows, TilePair
from descriptors.dependence import HSIC, RDC, Measure, values
from descriptors.features import Dictionary, FeatureTables, hsic_dictionary, rdc_dictionaries
from descriptors.tiles import Tile

Accumulate = Callable[[TilePair, int, Callable[[int], None]], None]


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
class Half:
    """One half of the fused similarity: a measure, its share, and dictionaries over which it is averaged."""

    measure: Measure
    share: float
    dictionaries: list[Dictionary]


def halves(settings: Pass4) -> dict[str, Half]:
    """The halves with a positive weight, shares scaled to sum 1."""
    features, seed, total = settings.features, settings.random_seed, settings.w_hsic + settings.w_rdc
    chosen = {}
    if settings.w_hsic > 0:
        chosen["hsic"] = Half(HSIC, settings.w_hsic / total, [hsic_dictionary(features, settings.hsic_D, seed)])
    if settings.w_rdc > 0:
        dictionaries = rdc_dictionaries(features, settings.rdc_d, settings.rdc_seeds, seed)
        chosen["rdc"] = Half(RDC, settings.w_rdc / total, dictionaries)
    return chosen


def similarity(
    codes: ChosenRows,
    settings: Pass4,
    budget: int,
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    accumulate: Accumulate = TilePair.accumulate,
) -> Similarity:
    """Normalised HSIC, RDC and their weighted mean for column pairs, each on the rows that both columns have.

    With F the integer features of a column (0 on missing rows) and M the mask of a pattern:
    C_ij = F_i'F_j / n_ij - m_i|j m_j|i', m_i|j = F_i'M_j / n_ij; C_ii on the same common rows, so that nHSIC <= 1 and
    RDC <= 1.

    Parameters
    ----------
    settings : features, their numbers and weights, seed; pairs with fewer than ``min_effective_n`` common rows are
        undefined.
    budget : bytes of memory to plan with.
    left, right : indices of columns, None = all: only the pairs of one of ``left`` with one of ``right``, in this
        order; equal ones cost half. A pair's values have the same bytes in any rectangle.
    threads : columns looked up, and pairs compared, at the same time; the BLAS has its own.
    progress : called with (rows read, rows to read).
    accumulate : adds up a pair of tiles, to the same bytes.

    Returns
    -------
    Similarity, NaN for pairs with too few common rows or with a column that is constant on them.
    """
    everything = np.arange(len(codes.n_valid))
    left = everything if left is None else left
    right = everything if right is None else right
    chosen, least = halves(settings), settings.min_effective_n
    plans = {
        name: [tile_pairs(codes.patterns, left, right, one.width, budget) for one in half.dictionaries]
        for name, half in chosen.items()
    }
    read = _counter(progress, sum(len(plan) for half in plans.values() for plan in half) * codes.n_rows)
    common = np.zeros((len(left), len(right)), np.int64)
    matrices = {}
    with ThreadPoolExecutor(threads) as pool:

        def summed(tables: FeatureTables, one: Tile, other: Tile) -> TilePair:
            sums = TilePair(one, other, tables, codes, pool)
            accumulate(sums, budget // 8, read)
            return sums

        for name, half in chosen.items():
            each = [
                _matrix(plan, partial(summed, FeatureTables(dictionary, budget // 8)), half.measure, least, common)
                for dictionary, plan in zip(half.dictionaries, plans[name], strict=True)
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


def tile_pairs(
    patterns: np.ndarray, left: np.ndarray, right: np.ndarray, width: int, budget: int
) -> list[tuple[Place, Place]]:
    """``left`` x ``right`` cut so that two thirds of ``budget`` hold the sums of a pair of tiles; one half if equal."""
    n_patterns = len(np.unique(patterns[np.union1d(left, right)]))
    # bytes: of two columns sums of products, twice; of a column and a pattern moments and what comes of them, two sides
    room, a_pair, a_moment = 2 * budget / 3 / width**2, 24, 80
    by_column = math.sqrt(room / (a_pair + a_moment))  # each column has a pattern of its own
    by_pattern = (math.sqrt((a_moment * n_patterns) ** 2 + 4 * a_pair * room) - a_moment * n_patterns) / (2 * a_pair)
    size = max(int(max(by_column, by_pattern)), 1)

    def places(columns: np.ndarray) -> list[Place]:
        bounds = np.linspace(0, len(columns), math.ceil(len(columns) / size) + 1).astype(int).tolist()
        return [
            Place(Tile.of(columns[start:stop], patterns), slice(start, stop))
            for start, stop in itertools.pairwise(bounds)
        ]

    down = places(left)
    if np.array_equal(left, right):
        return list(itertools.combinations_with_replacement(down, 2))
    return list(itertools.product(down, places(right)))


def _matrix(
    plan: list[tuple[Place, Place]],
    summed: Callable[[Tile, Tile], TilePair],
    measure: Measure,
    min_common: int,
    common: np.ndarray,
) -> np.ndarray:
    """One measure with one dictionary, a pair of tiles at a time, of the shape of ``common``, which is filled in."""
    matrix = np.full(common.shape, np.nan)
    mirrored = plan and plan[0][0] is plan[0][1]
    for left, right in plan:
        found = values(summed(left.tile, right.tile), measure, min_common)
        for whole, part in zip((matrix, common), found, strict=True):
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
