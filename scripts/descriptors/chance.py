"""Pass 4: what chance makes of similarities, of pairs with few common rows and of a subset of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.descriptors_settings import Pass4
from common.progress import unseen
from descriptors.covariance import ChosenRows, TilePair
from descriptors.dependence import values
from descriptors.features import NULL_DRAW, FeatureTables, generator
from descriptors.nonlinear import Similarity, halves
from descriptors.tiles import Tile

FEW_ROWS = 2000  # below this many common rows a fused value is compared with its value under independence
NULL_BUDGET = 2**28
DRAWS = 200  # permutations


class Permutations:
    """Codes of complete columns without ties: the first in file order, the others shuffled."""

    def __init__(self, n_rows: int, draws: int, rng: np.random.Generator) -> None:
        ordered = 2 * np.arange(1, n_rows + 1, dtype=np.uint32)
        self._codes = np.stack([ordered, *(rng.permutation(ordered) for _ in range(draws))])
        self.shape = (draws + 1, n_rows)

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(len(columns), stop - start) codes."""
        return self._codes[columns, start:stop]


def null_quantile(n_rows: int, settings: Pass4, quantile: float = 0.99) -> float:
    """Quantile of the fused similarity of two independent complete columns without ties, by permutation.

    Only the relative order of two columns matters, so one of them stays sorted. A maximum over many functions is far
    above 0 in small samples: the median RDC is .68, .28, .09 at 77, 500, 5000 rows with 12 Legendre polynomials, and
    .42, .16, .05 with 12 sin features, which span about five directions.

    Parameters
    ----------
    n_rows : rows, at least 2.
    settings : what determines the features, their weights and seed.
    quantile : in [0, 1].

    Raises
    ------
    ValueError : fewer than 2 rows.
    """
    if n_rows < 2:
        raise ValueError(f"n_rows = {n_rows} must be at least 2")
    permutations = Permutations(n_rows, DRAWS, generator(settings.random_seed, NULL_DRAW, n_rows))
    patterns = np.zeros(DRAWS + 1, np.int64)
    codes = ChosenRows(permutations, np.full(DRAWS + 1, n_rows), patterns)
    sorted_one, shuffled = Tile.of(np.array([0]), patterns), Tile.of(np.arange(1, DRAWS + 1), patterns)
    fused = np.zeros(DRAWS)
    with ThreadPoolExecutor(1) as pool:
        for half in halves(settings).values():
            for dictionary in half.dictionaries:
                tables = FeatureTables(dictionary, NULL_BUDGET)
                sums = TilePair(sorted_one, shuffled, tables, codes, pool)
                sums.accumulate(NULL_BUDGET // 8, unseen)
                found, _ = values(sums, half.measure, 2)
                fused += half.share / len(half.dictionaries) * found[0]
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


def standard_error(n_rows: int, n_total: int) -> float:
    """What a random subset of ``n_rows`` of a table's ``n_total`` rows adds in error: sqrt((1 / n) (1 - n / N)).

    That is the standard deviation of an entry of C, in units of the features' deviations, where columns are
    independent; where they depend on one another it is up to 1.8 times as large (the root of E phi^4 of twelve Legendre
    polynomials), but a similarity, which is what counts, has less: nHSIC and RDC at most 0.7 and 0.8 of it (measured).
    """
    return math.sqrt((1 - n_rows / n_total) / n_rows)
