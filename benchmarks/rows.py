"""The rows of the table: one function each, from a Context to a Row."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import molecules
import ours
import peers
import synthetic
from measure import Check, Comparison, Context, Point, Row, Timing, against, alternate, duration, run

SEED = 7
SPEARMAN_THRESHOLD = 0.95
GIGA = 1e9
FEW_ROWS = 1000  # of a first call, which imports and compiles

SPEARMAN: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "winnow": ours.correlation,
    "scipy": lambda values, threads: peers.scipy_spearman(values),
    "pandas": lambda values, threads: peers.pandas_spearman(values),
}
PEERS = ("scipy", "pandas")

ROWS: dict[str, Callable[[Context], Row]] = {}


def row(function: Callable[[Context], Row]) -> Callable[[Context], Row]:
    ROWS[function.__name__] = function
    return function


def shape(n_rows: int, n_columns: int) -> str:
    return f"{n_rows:,} x {n_columns:,}"


def real(size: str, context: Context) -> str:
    """The size of a table of real molecules, or a warning that they are others than asked for."""
    return size if context.molecules is not None else f"{size}, OTHER DATA"


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest absolute difference; infinite where only one of them is defined."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.nanmax(np.abs(one - other), initial=0.0))


@row
def spearman_complete(context: Context) -> Row:
    """Spearman of all pairs, no missing values, against scipy and pandas."""
    n_rows, n_columns = context.rows(200_000), 400
    values, _ = synthetic.table(n_rows, n_columns, SEED)
    for side in SPEARMAN.values():
        side(values[:5, :FEW_ROWS], context.threads)
    sides = {name: partial(side, values, context.threads) for name, side in SPEARMAN.items()}
    timings, results = alternate(sides, context.patience)
    checks = []
    for name in PEERS:
        largest = difference(results["winnow"], results[name])
        checks.append(Check(f"largest difference to {name} {largest:.1e}, at most 1e-12", largest <= 1e-12))
    return Row(
        "Spearman, complete",
        shape(n_rows, n_columns),
        [
            against("scipy.stats.spearmanr", timings["winnow"], timings["scipy"], 5),
            against("pandas DataFrame.corr", timings["winnow"], timings["pandas"], 12),
        ],
        checks,
    )


def _spearman_missing(context: Context, patterns: int | None, title: str) -> Row:
    n_rows, n_columns = context.rows(200_000), 400
    values, columns = synthetic.table(n_rows, n_columns, SEED)
    synthetic.take_out(values, 0.05, patterns, SEED)
    sample = np.sort(_related(columns), axis=None)
    ours.correlation(values[:5, :FEW_ROWS], context.threads)
    peers.pandas_spearman(values[:5, :FEW_ROWS])
    timings, results = alternate(
        {
            "winnow": lambda: ours.correlation(values, context.threads, min_common=1),
            "pandas": lambda: peers.pandas_spearman(values[sample]),
        },
        context.patience,
    )
    part = results["winnow"][np.ix_(sample, sample)]
    edges = np.triu(np.abs(part) >= SPEARMAN_THRESHOLD, 1)
    same = np.array_equal(edges, np.triu(np.abs(results["pandas"]) >= SPEARMAN_THRESHOLD, 1))
    largest = difference(part, results["pandas"])
    pairs = len(sample) * (len(sample) + 1) // 2
    return Row(
        title,
        shape(n_rows, n_columns),
        [
            against(
                "pandas DataFrame.corr",
                timings["winnow"],
                timings["pandas"],
                100,
                times=n_columns * (n_columns + 1) / 2 / pairs,
                note=f"extrapolated from the {pairs} pairs of {len(sample)} columns",
            )
        ],
        [
            Check(f"the same {int(edges.sum())} edges at {SPEARMAN_THRESHOLD} in the sample", same),
            Check(f"largest difference in the sample {largest:.1e}, at most 1e-12", largest <= 1e-12),
        ],
    )


def _related(columns: list[synthetic.Column], n_pairs: int = 6) -> np.ndarray:
    """(n_pairs, 2): places of some bases and of one copy of each, so that a sample has edges."""
    bases = {column.sources[0]: place for place, column in enumerate(columns) if column.kind == "base"}
    copies = {column.sources[0]: place for place, column in enumerate(columns) if column.kind == "copy"}
    both = sorted(bases.keys() & copies.keys())[:n_pairs]
    return np.array([(bases[source], copies[source]) for source in both])


@row
def spearman_patterns(context: Context) -> Row:
    """Spearman of all pairs, 5 % missing in 12 patterns, against pandas."""
    return _spearman_missing(context, 12, "Spearman, 5 % missing, 12 patterns")


@row
def spearman_random_missing(context: Context) -> Row:
    """Spearman of all pairs, 5 % missing, each column in its own rows, against pandas."""
    return _spearman_missing(context, None, "Spearman, 5 % missing, each its own")


@row
def vif(context: Context) -> Row:
    """VIF elimination, 1,000 columns, against regressions and against numpy.linalg.inv at each step."""
    n_columns, n_rows, threshold, n_steps, n_sampled = 1_000, 3_000, 10.0, 4, 2
    rng = np.random.default_rng(SEED)
    loadings = rng.standard_normal((350, n_columns)) * (rng.random((350, n_columns)) < 0.02)
    data = rng.standard_normal((n_rows, 350)) @ loadings + 0.2 * rng.standard_normal((n_rows, n_columns))
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    matrix = np.corrcoef(data, rowvar=False)
    timings, results = alternate(
        {
            "winnow": lambda: ours.eliminate(matrix, threshold),
            "inv": lambda: peers.reinverting_loop(matrix, threshold),
        },
        context.patience,
        rounds=3,
    )
    removed = results["winnow"]
    peers.statsmodels_vif(data[:FEW_ROWS, :5], 0)
    # what a regression costs at some steps of the elimination, linear in between
    at = np.linspace(0, len(removed), n_steps).astype(int)
    costs, largest = [], 0.0
    for step in at:
        alive = np.delete(np.arange(n_columns), removed[:step])
        fresh = np.diag(np.linalg.inv(matrix[np.ix_(alive, alive)]))
        part = np.ascontiguousarray(data[:, alive])
        chosen = rng.choice(len(alive), n_sampled, replace=False)
        started = time.perf_counter()
        found = [peers.statsmodels_vif(part, int(column)) for column in chosen]
        costs.append((time.perf_counter() - started) / n_sampled)
        largest = max(largest, float(np.max(np.abs(found / fresh[chosen] - 1))))
    steps = np.arange(len(removed) + 1)
    total = float(((n_columns - steps) * np.interp(steps, at, costs)).sum())
    note = (
        f"extrapolated: {n_sampled} of the columns at {n_steps} of {len(steps)} steps, {n_rows:,} rows, "
        f"{costs[0]:.2f} s a regression at first, {costs[-1]:.2f} s at last"
    )
    comparison = against("statsmodels VIF, column by column", timings["winnow"], Timing(total, 1), 1000, note=note)
    return Row(
        "VIF elimination",
        f"{n_columns:,} columns, {len(removed)} go",
        [
            Comparison(**{**vars(comparison), "theirs": "~" + comparison.theirs}),
            against("numpy.linalg.inv at each step", timings["winnow"], timings["inv"], 20),
        ],
        [
            Check("the same removed columns in the same order as the re-inverting loop", removed == results["inv"]),
            Check(f"statsmodels' VIF of the sample within {largest:.0e}, at most 1e-6", largest <= 1e-6),
        ],
        ["winnow uses one thread here, as pass 3 does; the peers all"],
    )


@row
def nonlinear(context: Context) -> Row:
    """HSIC and RDC of all pairs, against loops over pairs."""
    n_rows, n_columns, n_pairs = context.rows(40_000), 200, 4
    n_hsic = min(4_000, n_rows)
    values, columns = synthetic.table(n_rows, n_columns, SEED)
    sample = _related(columns, n_pairs)
    scores = {int(place): peers.normal_scores(values[place, :n_hsic]) for place in sample.ravel()}
    few = values[:2, :FEW_ROWS]
    ours.similarity(few, context.threads)
    for function in (peers.hyppo_hsic, peers.dcor_distance, peers.paper_rdc):
        function(*few)

    def loop(function: Callable[[np.ndarray, np.ndarray], float]) -> list[float]:
        return [function(values[i], values[j]) for i, j in sample]

    timings, results = alternate(
        {
            "winnow": lambda: ours.similarity(values, context.threads),
            "hyppo": lambda: [peers.hyppo_hsic(scores[int(i)], scores[int(j)]) for i, j in sample],
            "rdc": lambda: loop(peers.paper_rdc),
            "dcor": lambda: loop(peers.dcor_distance),
        },
        context.patience,
        rounds=3,
    )
    places = sample.ravel()
    small = ours.similarity(values[places, :n_hsic], context.threads).hsic
    assert small is not None  # its weight is positive
    found = np.array([small[2 * k, 2 * k + 1] for k in range(n_pairs)])
    largest = difference(found, np.array(results["hyppo"]))
    all_pairs = n_columns * (n_columns - 1) / 2 / n_pairs
    squared = (n_rows / n_hsic) ** 2
    sampled = f"extrapolated from {n_pairs} pairs"
    shorter = f"{sampled}, HSIC of {n_hsic:,} rows times (N/n)^2, since a kernel matrix of all takes "
    shorter += f"{8 * n_rows**2 / GIGA:.1f} GB"
    both = Timing(timings["hyppo"].seconds * squared + timings["rdc"].seconds, timings["hyppo"].rounds)
    return Row(
        "HSIC + RDC of all pairs",
        shape(n_rows, n_columns),
        [
            against("hyppo Hsic + RDC, pair by pair", timings["winnow"], both, 1000, all_pairs, shorter),
            against("RDC alone, as published, in numpy", timings["winnow"], timings["rdc"], None, all_pairs, sampled),
            against(
                "dcor distance correlation (neither)",
                timings["winnow"],
                timings["dcor"],
                None,
                all_pairs,
                f"{sampled}; its O(N log N) algorithm, another measure",
            ),
        ],
        [Check(f"normalised HSIC of the sample within {largest:.0e} of hyppo's, at most 1e-3", largest <= 1e-3)],
    )


@row
def correlated_selection(context: Context) -> Row:
    """Removal of correlated columns of real descriptors, against feature-engine."""
    threshold = 0.8
    frame, origin = molecules.frame(context.molecules, context.scratch / "frame", context.rows(40_000))
    # the order in which the peer looks at the columns, so that both have the same groups
    order = frame.isna().sum().sort_values(kind="mergesort").index
    values = np.ascontiguousarray(frame[order].to_numpy().T)
    ours.groups(values[:5, :FEW_ROWS], threshold, context.threads)
    peers.smart_selection(frame.iloc[:FEW_ROWS, :5], threshold)
    timings, results = alternate(
        {
            "winnow": lambda: ours.groups(values, threshold, context.threads),
            "feature-engine": lambda: peers.smart_selection(frame, threshold),
        },
        context.patience,
    )
    kept = {str(order[place]) for place in results["winnow"]}
    apart = len(kept ^ set(results["feature-engine"]))
    return Row(
        "correlated columns removed",
        real(shape(*frame.shape), context),
        [
            against(
                "feature_engine SmartCorrelatedSelection",
                timings["winnow"],
                timings["feature-engine"],
                10,
            )
        ],
        [Check(f"the same {len(kept)} columns stay ({apart} differ)", apart == 0)],
        [f"data: {origin}"],
    )


@row
def passes_real(context: Context) -> Row:
    """All passes on real descriptors as one Snakemake run, against a fixed limit."""
    pattern, origin = molecules.files(context.molecules, context.scratch / "real")
    comparisons, details = [], {}
    for what in ("first run ever", "later runs"):
        clock, records = ours.select(
            pattern,
            molecules.N_METADATA,
            [],
            context.threads,
            context.scratch / what.replace(" ", "_"),
            context.scratch / "compiled",
        )
        details[what] = {"wall": clock.seconds, **records}
        limit = 30.0
        comparisons.append(
            Comparison(
                f"{limit:g} s, {what}",
                duration(clock.seconds),
                duration(limit),
                clock.seconds,
                "s",
                limit,
                at_least=False,
                note="one run, Snakemake's start and the picture included",
            )
        )
    return Row(
        "all passes, one Snakemake run",
        real(shape(molecules.HIV_ROWS, molecules.HIV_COLUMNS), context),
        comparisons,
        notes=[f"data: {origin}", "the first one compiles, the later one finds it done", _passes(records)],
        details=details,
    )


def _passes(records: dict[str, dict[str, Any]]) -> str:
    return ", ".join(
        f"{stage} {record['seconds']:.1f} s {record['peak_memory_bytes'] / GIGA:.2f} GB"
        + (f" {record['columns']} stay" if "columns" in record else "")
        for stage, record in records.items()
    )


@row
def passes_large(context: Context) -> Row:
    """All passes on 2,000,000 synthetic rows, and on parts of them: memory limit and linear time."""
    n_rows, n_columns, n_files = context.rows(2_000_000), 400, 20
    paths = synthetic.write(context.scratch / "large", n_rows, n_columns, SEED, n_files)
    names = [column.name for column in synthetic.plan(n_columns, SEED, blemished=True)]
    # the first one only compiles
    wanted = [(1, 20), (1, n_columns), (n_files // 4, n_columns), (n_files, n_columns)]
    wanted += [(n_files // 4, n_columns // 4), (n_files // 4, n_columns // 2)]
    seconds: dict[tuple[int, int], float] = {}
    peaks: dict[tuple[int, int], int] = {}
    seen: dict[str, Any] = {}
    notes: list[str] = []
    for files, columns in wanted:
        label = f"{files}_files_{columns}_columns"
        folder = context.scratch / f"glob_{label}"
        folder.mkdir()
        for path in paths[:files]:
            (folder / path.name).symlink_to(path)
        clock, records = ours.select(
            str(folder / "*.parquet"), 1, names[columns:], context.threads, context.scratch / f"run_{label}"
        )
        seconds[files, columns] = sum(record["seconds"] for record in records.values())
        peaks[files, columns] = max(
            clock.peak_of_a_child, *(record["peak_memory_bytes"] for record in records.values())
        )
        seen[label] = {"wall": clock.seconds, "peak_seen": clock.peak_of_a_child, **records}
        if columns == n_columns:
            notes.append(f"{n_rows * files // n_files:,} rows: {duration(clock.seconds)} in all; {_passes(records)}")
        for product in (context.scratch / f"run_{label}").rglob("*.npy"):
            product.unlink()
    linear = seconds[n_files, n_columns] / (4 * seconds[n_files // 4, n_columns])
    largest = peaks[n_files, n_columns]
    points = [
        Point(
            "winnow, all passes", n_rows * files // n_files, columns, seconds[files, columns], peaks[files, columns], by
        )
        for by in ("rows", "columns")
        for files, columns in wanted
        if (columns == n_columns if by == "rows" else files == n_files // 4)
    ]
    return Row(
        "passes 1-4, one Snakemake run",
        shape(n_rows, n_columns),
        [
            Comparison(
                "2 GB in any job",
                f"{largest / GIGA:.2f} GB",
                "2 GB",
                largest / GIGA,
                "GB",
                2.0,
                at_least=False,
                note="largest of the passes' own records and of all processes, looked at every 20 ms",
            ),
            Comparison(
                f"4 x the time of {n_rows // 4:,} rows",
                duration(seconds[n_files, n_columns]),
                duration(4 * seconds[n_files // 4, n_columns]),
                100 * linear,
                "%",
                115.0,
                at_least=False,
                note="sum of the passes' seconds, one run each",
            ),
        ],
        (),
        notes,
        points,
        seen,
    )


@row
def gram(context: Context) -> Row:
    """The matrix product of pass 2, against what numpy's BLAS does with ready float64."""
    n_rows, n_columns = context.rows(200_000), 400
    ranked = ours.Ranked(synthetic.table(n_rows, n_columns, SEED)[0], context.threads)
    left = np.random.default_rng(SEED).standard_normal((n_rows, n_columns))
    right = left.copy()
    timings, _ = alternate(
        {
            "winnow": lambda: ours.gram(ranked, context.threads),
            "general": lambda: left.T @ right,
            "symmetric": lambda: left.T @ left,
            "torch": peers.torch_product(left, context.threads),
        },
        context.patience,
    )
    # a symmetric result takes half the arithmetic
    half = n_rows * n_columns * (n_columns + 1) / GIGA
    operations = {"winnow": half, "symmetric": half, "general": 2 * half, "torch": 2 * half}
    rate = {name: operations[name] / timing.seconds for name, timing in timings.items()}

    def compared(title: str, side: str, target: float | None = None) -> Comparison:
        one, other = timings["winnow"], timings[side]
        return Comparison(
            title,
            duration(one.seconds),
            duration(other.seconds),
            100 * other.seconds / one.seconds,
            "%",
            target,
            note=f"median of {one.rounds}; {rate['winnow']:.1f} and {rate[side]:.1f} GFLOP/s",
        )

    return Row(
        "Gram stage of pass 2",
        shape(n_rows, n_columns),
        [
            compared("numpy float64, the same product (A'A)", "symmetric", 60.0),
            compared("numpy float64, general product (A'B)", "general"),
            compared("torch float64 (A'A, which it takes as general)", "torch"),
        ],
        notes=["from codes to correlations; the others multiply float64 that is ready, A'A counts half the operations"],
    )


@row
def ranking(context: Context) -> Row:
    """Mid-ranks of one column, against numpy.sort of the same values."""
    comparisons = []
    for full in (200_000, 2_000_000):
        n_rows = context.rows(full)
        rng = np.random.default_rng(SEED)
        for kind, values in (
            ("all of them different", rng.standard_normal(n_rows)),
            ("12 of them different", np.floor(12 * rng.random(n_rows))),
        ):
            timings, _ = alternate(
                {"winnow": partial(ours.ranking(n_rows), values), "sort": partial(np.sort, values)}, 30.0, rounds=15
            )
            one, other = timings["winnow"], timings["sort"]
            comparisons.append(
                Comparison(
                    f"numpy.sort, {n_rows:,} values, {kind}",
                    duration(one.seconds),
                    duration(other.seconds),
                    one.seconds / other.seconds,
                    "x as long",
                    3.0,
                    at_least=False,
                    note=f"median of {one.rounds}; one thread",
                )
            )
    return Row("ranking of one column", "1 column", comparisons)


@row
def decode(context: Context) -> Row:
    """Parquet to numpy, against pyarrow.parquet.read_table."""
    n_rows, n_columns = context.rows(200_000), 400
    paths = synthetic.write(context.scratch / "decode", n_rows, n_columns, SEED, 1)
    names = [column.name for column in synthetic.plan(n_columns, SEED, blemished=True)]
    timings, results = alternate(
        {
            "winnow": lambda: ours.decode(paths, names, 10_000),
            "pyarrow": lambda: peers.read_parquet([str(path) for path in paths], names),
        },
        context.patience,
    )
    same = np.array_equal(results["winnow"], results["pyarrow"], equal_nan=True)
    return Row(
        "Parquet to columns",
        shape(n_rows, n_columns),
        [against("pyarrow.parquet.read_table to numpy", timings["winnow"], timings["pyarrow"])],
        [Check("the same values", same)],
        ["from the page cache; batches of 10,000 rows, pass 1's default"],
    )


@row
def scaling(context: Context) -> Row:
    """Spearman in a process of its own for several sizes: time and peak memory, for the plot."""
    sizes = [("rows", context.rows(n), 200) for n in (25_000, 50_000, 100_000, 200_000)]
    sizes += [("columns", context.rows(50_000), p) for p in (50, 100, 200, 400)]
    points = []
    for by, n_rows, n_columns in sizes:
        for side in SPEARMAN:
            answer = context.scratch / "probe.json"
            command = [sys.executable, str(Path(__file__).with_name("worker.py")), "probe", side]
            command += [str(n_rows), str(n_columns), str(context.threads), str(answer)]
            peak = run(command, context.scratch, context.scratch / "probe.log").peak_by_kernel
            seconds = json.loads(answer.read_text())["seconds"]
            points.append(Point(side, n_rows, n_columns, seconds, peak, by))
    last = {point.side: point for point in points if point.series == "rows"}
    ours_last = last["winnow"]
    return Row(
        "Spearman, peak memory",
        shape(ours_last.rows, ours_last.columns),
        [
            Comparison(
                side,
                f"{ours_last.peak_bytes / GIGA:.2f} GB",
                f"{last[side].peak_bytes / GIGA:.2f} GB",
                last[side].peak_bytes / ours_last.peak_bytes,
                note="one process, the table itself included; smaller sizes are in the plot",
            )
            for side in PEERS
        ],
        points=points,
    )


def probe(side: str, n_rows: int, n_columns: int, threads: int) -> float:
    """Seconds of one side on one table."""
    values, _ = synthetic.table(n_rows, n_columns, SEED)
    SPEARMAN[side](values[:5, :FEW_ROWS], threads)
    started = time.perf_counter()
    SPEARMAN[side](values, threads)
    return time.perf_counter() - started
