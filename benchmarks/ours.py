"""Our side: every call that the benchmarks make into scripts/ is here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from common.descriptors_settings import Clustering, Pass4
from descriptors import clusters, nonlinear, spearman, vif
from descriptors.codes import RankCodes
from descriptors.covariance import ChosenRows
from descriptors.ranks import Coded, Workspace, sort
from descriptors.table import open_table
from measure import POOLS, ROOT, Run, run

BUDGET = 3_000_000_000  # bytes; the passes get the same share of the default max_host_memory_gb: 4
MIN_COMMON = 100
SEED = 42


class Plane:
    """What pass 1 writes to a file of codes, in memory: (P, N) uint16."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.dtype = numbers, numbers.dtype
        self.shape: tuple[int, int] = (numbers.shape[0], numbers.shape[1])

    def row(self, column: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) numbers of one column."""
        return np.array(self.numbers[column, start:stop])


class Ranked:
    """What pass 1 leaves of a table for the later passes."""

    def __init__(self, values: np.ndarray, threads: int) -> None:
        """``values`` (P, N) float64, NaN = missing."""
        n_rows = values.shape[1]
        cells = np.empty(values.shape, np.uint16)
        fine: list[np.ndarray] = []
        tables: list[np.ndarray] = []
        levels = np.zeros(len(values), np.int64)

        def encode(column: np.ndarray) -> tuple[Coded, bytes]:
            coded = sort(column).encode()
            return coded, np.packbits(coded.cells == 0).tobytes()

        labels: dict[bytes, int] = {}
        patterns = []
        with ThreadPoolExecutor(threads) as pool:
            for place, (coded, mask) in enumerate(pool.map(encode, values)):
                cells[place] = coded.cells
                patterns.append(labels.setdefault(mask, len(labels)))
                if coded.table is not None:
                    levels[place] = len(coded.table) - 1
                    tables.append(coded.table)
                if coded.fine is not None:
                    fine.append(coded.fine)
        places = Plane(np.array(fine, np.uint16).reshape(len(fine), n_rows))
        ecdf = np.concatenate([np.empty(0, np.uint32), *tables])
        self.codes = RankCodes(Plane(cells), places, levels, ecdf)  # type: ignore[arg-type]
        self.patterns = np.array(patterns)
        self.n_valid = np.count_nonzero(cells, axis=1)


def correlation(values: np.ndarray, threads: int, min_common: int = MIN_COMMON) -> np.ndarray:
    """(P, P) Spearman: values -> ranks -> all pairs."""
    ranked = Ranked(values, threads)
    found = spearman.pairwise(ranked.codes, ranked.n_valid, ranked.patterns, min_common, BUDGET, threads=threads)
    return found.rho


def gram(ranked: Ranked, threads: int) -> np.ndarray:
    """(P, P) Spearman of complete columns that are ranked already: pass 2's exact matrix product."""
    everything = np.arange(ranked.codes.shape[0])
    return spearman.same_rows(ranked.codes, everything, everything, ranked.codes.shape[1], BUDGET, threads).rho


def ranking(n_rows: int) -> Callable[[np.ndarray], Coded]:
    """What codes one column after the other."""
    work = Workspace(n_rows)
    return lambda values: sort(values, work).encode()


def eliminate(matrix: np.ndarray, threshold: float) -> list[int]:
    """Removed columns, in order; with one thread, as pass 3 runs it."""
    with threadpool_limits(limits=1):
        removals = vif.eliminate(matrix, threshold, np.arange(len(matrix)), "quality")[1]
    return [removal.column for removal in removals]


def similarity(values: np.ndarray, threads: int) -> nonlinear.Similarity:
    """HSIC and RDC of all pairs with the defaults of pass 4: values -> ranks -> all pairs."""
    ranked = Ranked(values, threads)
    return nonlinear.similarity(
        ChosenRows(ranked.codes, ranked.n_valid, ranked.patterns), Pass4(), BUDGET, threads=threads
    )


def groups(values: np.ndarray, threshold: float, threads: int) -> set[int]:
    """Columns that stay: values -> ranks -> correlation -> groups by the leader rule, which is the peer's."""
    matrix = correlation(values, threads, min_common=2)
    n_columns = len(values)
    leader = Clustering(clustering="leader")
    found = clusters.cluster(matrix, threshold, leader, np.arange(n_columns))
    quality = dict.fromkeys(("missing_ratio", "normalized_variance"), np.zeros(n_columns))
    kept = clusters.represent(matrix, threshold, leader, found, quality)
    return {each.representative for each in kept}


def decode(paths: Sequence[Path], names: list[str], batch_rows: int) -> np.ndarray:
    """(P, N) float64 of Parquet columns."""
    return open_table([str(path) for path in paths], 1, None, []).columns(names, batch_rows)


def select(
    parquet_glob: str, n_metadata: int, exclude: list[str], threads: int, folder: Path, cache: Path | None = None
) -> tuple[Run, dict[str, dict[str, Any]]]:
    """All passes as one Snakemake run with the default settings; its clock, and the record that each pass leaves.

    ``cache`` is where compiled loops are looked for and left; by default beside their source.
    """
    folder.mkdir(parents=True)
    config = {
        "results": str(folder / "results"),
        "descriptors": {"parquet_glob": parquet_glob, "n_metadata": n_metadata, "exclude_columns": exclude},
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "snakemake", "descriptors", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "config.json")]
    command += ["--cores", str(threads), "--resources", "gpu=1", "--nocolor"]
    environment = {key: value for key, value in os.environ.items() if key not in (*POOLS, "PYTHONPATH")}
    if cache:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    clock = run(command, folder, folder / "snakemake.log", environment)
    records: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "results/descriptors/provenance").glob("*.json")):
        record = json.loads(path.read_text())
        records[path.stem] = {key: record[key] for key in ("seconds", "peak_memory_bytes", "threads")}
    for stage, made in (
        ("pass1", "pass1_columns.txt"),
        ("pass2", "pass2_columns.txt"),
        ("pass3", "pass3_columns.txt"),
        ("pass4", "final_descriptors.txt"),
    ):
        records[stage]["columns"] = len((folder / "results/descriptors" / made).read_text().splitlines())
    return clock, records
