"""What the passes will cost on a table: bytes, operations, memory and time, before any of them runs.

Row and column counts come from the Parquet footers, the machine's speed from a few seconds of the passes' own loops.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from descriptors import codes, kernels, ranks, scan
from descriptors.table import Table
from descriptors.variance import describe

# of all columns, that enter a pass; of four tables .79 to .93, .42 to .71, .16 to .58
SHARES = {"pass2": 0.85, "pass3": 0.6, "pass4": 0.35}
SAMPLE = 1_000_000  # values that the loops are timed on, at most
LONGEST = 0.3  # seconds that a loop is repeated
PAIR = 5e-6  # seconds to get RDC from the sums of a pair of columns: never what counts
START = 1.5  # seconds until a job's work begins: a Python with its libraries, and Snakemake's own
INTERPRETER = 160_000_000  # bytes


@dataclass(frozen=True)
class Rates:
    """Of this machine with the threads given.

    decode, rank, rerank : seconds a value, to read it from Parquet; to sort, describe and code it; to rank it again on
        other rows. look_up : seconds a feature. flops : a second, of the symmetric matrix product.
    """

    decode: float
    rank: float
    rerank: float
    look_up: float
    flops: float


@dataclass(frozen=True)
class Cost:
    """Of one pass: columns that enter, bytes read and written, floating-point operations, peak bytes, seconds."""

    columns: int
    read: float
    written: float
    flops: float
    memory: float
    seconds: float


def measure(table: Table, batch_rows: int, threads: int) -> Rates:
    """Time the inner loops; the BLAS has its threads from the caller."""
    rng = np.random.default_rng(0)
    names = list(table.descriptors[: 4 * threads])
    part = Table(table.parts[:1], (), (), tuple(names))
    rows = min(table.rows, SAMPLE)
    size = min(rows + 1, ranks.CELLS)  # of a column that is ranked again
    values = rng.standard_normal((threads, rows))
    cells = rng.integers(0, size, (threads, rows)).astype(np.uint32)
    counts = np.full(size, rows // size + 1, np.int32)
    tables, out = np.empty((threads, size), np.int32), np.empty((threads, rows))

    works = [ranks.Workspace(rows) for _ in range(threads)]

    def rank(k: int) -> None:
        column = ranks.sort(values[k], works[k])
        describe(column.ordered, rows, "trimmed", (2.5, 97.5))
        column.encode()

    def rerank(k: int) -> None:
        tables[k] = 0
        kernels.score(counts, rows, 0, tables[k])
        kernels.look_up(cells[k], tables[k], out[k])

    block = rng.integers(-1000, 1000, (400, 8192)).astype(np.float64)
    with ThreadPoolExecutor(threads) as pool:

        def together(work: Callable[[int], None]) -> Callable[[], object]:
            return lambda: list(pool.map(work, range(threads)))

        return Rates(
            decode=_seconds(lambda: part.columns(names, batch_rows)) / max(part.rows * len(names), 1),
            rank=_seconds(together(rank)) / values.size,
            rerank=_seconds(together(rerank)) / values.size,
            look_up=_seconds(together(lambda k: kernels.look_up(cells[k], tables[k], out[k]))) / values.size,
            flops=block.shape[0] ** 2 * block.shape[1] / _seconds(lambda: block @ block.T),
        )


def _seconds(work: Callable[[], object]) -> float:
    """The fastest of several: what others do on the machine is not what is asked for."""
    work()  # compiled and in memory
    times: list[float] = []
    while sum(times) < LONGEST:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def missing_patterns(table: Table) -> int:
    """Columns told apart by how many nulls each row group has, a lower bound on those missing in different rows."""
    seen: dict[str, list[int]] = {name: [] for name in table.descriptors}
    for part in table.parts:
        for group in range(part.footer.num_row_groups):
            chunks = part.footer.row_group(group)
            for k in range(chunks.num_columns):
                chunk = chunks.column(k)
                if chunk.path_in_schema in seen:
                    told = chunk.is_stats_set and chunk.statistics.has_null_count
                    seen[chunk.path_in_schema].append(chunk.statistics.null_count if told else 0)
    return len(set(map(tuple, seen.values())))


def entering(n_columns: int, known: dict[str, int]) -> dict[str, int]:
    """Columns that enter each pass: as ``known`` from finished passes, else a share of those before."""
    columns = {"pass1": n_columns}
    before, share = n_columns, 1.0
    for name, usual in SHARES.items():
        if name in known:
            before, share = known[name], usual
        columns[name] = known.get(name, round(before * usual / share))
    return columns


# long: four passes side by side, from the same few numbers
def estimate(
    n_rows: int,
    columns: dict[str, int],
    *,
    bytes_in_files: int,
    patterns: int,
    hsic_features: int,
    rdc_features: int,
    pass4_rows: int | None,
    budget: int,
    threads: int,
    rates: Rates,
) -> dict[str, Cost]:
    """Costs by pass.

    Parameters
    ----------
    n_rows : N. columns : that enter each pass.
    bytes_in_files : compressed. patterns : of missing values, at least 1.
    hsic_features, rdc_features : features a column of each measure.
    budget : bytes that a pass may plan with.
    """
    one, two, three, four = (columns[f"pass{k}"] for k in (1, 2, 3, 4))
    code = 2 if n_rows < ranks.CELLS else 4
    sample = n_rows if pass4_rows is None else min(pass4_rows, n_rows)
    values = n_rows * one
    rerankings = two * (patterns - 1) * n_rows
    product2, product4 = n_rows * two**2, sample * four**2 * (hsic_features**2 + rdc_features**2)
    features = sample * four * (hsic_features + rdc_features)
    shortened = 2 if n_rows > codes.EXACT_ROWS else code
    rank_tables = 4 * two * patterns * min(n_rows, ranks.CELLS) if patterns > 1 else 0

    def held(wanted: float) -> float:
        return INTERPRETER + min(wanted, budget)

    return {
        "pass1": Cost(
            one,
            bytes_in_files,
            code * n_rows * two,
            0,
            held(scan.needed(n_rows, threads, scan.GROUP * threads, True)),
            START + values * (rates.decode + rates.rank),
        ),
        "pass2": Cost(
            two,
            shortened * n_rows * two * (1 if patterns == 1 else 3),
            16 * two**2,
            product2,
            held(min(budget / 4, code * n_rows * two) + min(budget / 2, rank_tables)) + 32 * two**2,
            START
            + n_rows * two * rates.look_up * (1 if patterns == 1 else 3)
            + rerankings * rates.rerank
            + product2 / rates.flops,
        ),
        "pass3": Cost(
            three,
            8 * two**2 + 8 * three**2,
            0,
            3 * three**3,
            INTERPRETER + 40 * three**2 + 8 * two**2,
            START + 10 * three**3 / rates.flops,
        ),
        "pass4": Cost(
            four,
            2 * sample * four * 2,
            32 * four**2,
            product4,
            held(budget / 4) + 24 * four**2 * rdc_features**2,
            START + features * rates.look_up + product4 / rates.flops + four**2 / 2 * PAIR / threads,
        ),
    }
