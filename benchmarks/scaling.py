"""make scaling: how long 10^8 molecules and 10^7 documents would take on 1, 8 and 64 nodes, from rates measured here.

Small sharded runs of the workflow and the loops of the text stages give seconds a value, a pair, a cell, a byte. These
predict runs that were not fitted, which are run and compared. Then every job of the large runs is predicted and put on
nodes, by a closed form and by a simulation with jobs of uneven length. No large run was made.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import written
from measure import ROOT, busy, cores, machine, source

sys.path.insert(0, str(ROOT / "scripts"))

import scaling_measure as measured
from descriptors.cost import SHARES as ENTERING
from our_text import MIDDLE, ROOTS
from scaling_model import (
    Node,
    Observation,
    Rates,
    Table,
    Texts,
    descriptor_jobs,
    fit,
    n_labels,
    sampled_jobs,
    score_counts,
    text_jobs,
    train_counts,
    whole_counts,
)
from scaling_simulation import Cluster, Job, closed_form, critical_path, jittered, least, lengths, simulate, wall

SHOWN = ROOT / "benchmarks" / "results"
NODES = (1, 8, 64)
PLOTTED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARDS = (1, 10, 36, 66, 136)  # up to 16 blocks of columns; of as many jobs as pairs of blocks
DRAWS = 20
SLOTS = 2  # jobs side by side in the runs that are checked
ALONE = Node(threads=1, wait=0.0)
NETWORK = {"a_node": 1e9, "shared": 5e9}  # assumed: a link of 10 Gbit/s a node, a file server of 5 GB/s
SHARES = tuple(ENTERING.values())  # of all columns, that enter passes 2, 3 and 4; as `snakemake cost` assumes
MOLECULES, COLUMNS, PASS4_ROWS = 100_000_000, 2_000, 2_000_000  # pass4_rows of config/pubchem.yaml
DOCUMENTS, CLASSES, TOKENS, TEXT_BYTES = 10_000_000, 10_000, 200.0, 1_200.0
SAMPLE, PARTS = 200_000, 640
MINING_BYTES = 60  # of core_classes at its peak, a document and class: tracemalloc, 8,000 to 32,000 x 1,000

FULL: dict[str, Any] = {
    "rankings": (2**20, 2**22, 2**24),
    "ranking_check": 2**25,
    "warm": (210_000, 24, 3),
    "tables": ((210_000, 80, 3), (250_000, 240, 3), (600_000, 80, 3)),
    "table_check": (750_000, 200, 6),
    "encoded": (200, 60),
    "texts": ((1_500, 300), (1_500, 1_200), (6_000, 300), (4_000, 1_000)),
    "text_check": (8_000, 1_500),
    "corpus": 20_000,
    "run_check": (2_000, 600, 12),
}
TINY: dict[str, Any] = {
    "rankings": (2**12, 2**13, 2**14),
    "ranking_check": 2**15,
    "warm": None,
    "tables": ((2_000, 20, 3),),
    "table_check": (2_500, 24, 3),
    "encoded": (4, 8),
    "texts": ((120, 150), (240, 150)),
    "text_check": (240, 200),
    "corpus": 200,
    "run_check": (60, 150, 8),
}


def main() -> None:
    arguments = parse()
    tables = arguments.tables.resolve()
    tables.mkdir(parents=True, exist_ok=True)
    if arguments.rates or arguments.again:
        found = others(arguments.rates, arguments.base)
    else:
        found = measure(TINY if arguments.tiny else FULL)
    rates, node = Rates(**found["rates"]), Node(**found["node"])
    found |= {"source": source(), "predictions": predict(rates, node, found), "memory": memory()}
    written.write_json(tables / "scaling.json", found)
    if tables == SHOWN:
        written.renew(ROOT / "docs" / "scaling.md", blocks(found))
    text = show(found)
    (tables / "scaling.txt").write_text(text + "\n")
    plot(found, tables / "scaling.png")
    print(f"{text}\n\n{tables}/scaling.txt, scaling.json, scaling.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scaling.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="measure almost nothing: the same lines, no true figures")
    parser.add_argument(
        "--rates",
        type=Path,
        help="measure nothing: JSON of node, network and rates of your machine, any part of those in scaling.json",
    )
    parser.add_argument("--again", action="store_true", help="measure nothing: predict anew from what was measured")
    parser.add_argument(
        "--base", type=Path, default=SHOWN / "scaling.json", help="what --rates leaves out is from here"
    )
    parser.add_argument("--tables", type=Path, default=SHOWN, help="table, plot, JSON; default benchmarks/results")
    return parser.parse_args()


def others(path: Path | None, base: Path) -> dict[str, Any]:
    """What was measured before, with the rates of another machine, if there are any, in place of these.

    Raises
    ------
    SystemExit : a file that is no JSON, a key that is not known.
    """
    try:
        found, given = (json.loads(each.read_text()) if each else {} for each in (base, path))
    except (OSError, ValueError) as error:
        raise SystemExit(f"scaling.py: {error}; give JSON files that are there") from None

    def lay(below: dict[str, Any], over: dict[str, Any], key: str) -> None:
        for name, value in over.items():
            if name not in below:
                known = ", ".join(below)
                raise SystemExit(f"scaling.py: {path}: {key}{name} is no rate; known: {known}")
            if isinstance(below[name], dict):
                lay(below[name], value, f"{key}{name}.")
            else:
                below[name] = float(value) if name != "threads" else int(value)

    lay({name: found[name] for name in ("node", "network", "rates")}, given, "")
    return found | ({"rates_of": path.name} if path else {})


# ---- what this machine does


def measure(sizes: dict[str, Any]) -> dict[str, Any]:
    """Rates, and how far they were off where they were not fitted."""
    began = busy(), time.perf_counter()
    ranked = [measured.ranking(rows) for rows in sizes["rankings"]]
    sorting = fit(ranked, {"ranking": {"start": 0.0, "value read": 0.0}})
    check = measured.ranking(sizes["ranking_check"])
    checks = [
        compared(f"rank a column of {sizes['ranking_check']:,}", sorting.of("ranking", check.counts, ALONE), check)
    ]
    if sizes["warm"]:
        table_run(*sizes["warm"])  # compiles
    runs = [table_run(*each) for each in sizes["tables"]]
    read = runs[-1][1]
    known = {
        "pass1_shard": {"value read": read, "value x log2 rows": sorting.seconds["ranking"]["value x log2 rows"]},
    }
    rates = fit([job for run, _ in runs for job in run.jobs], known)
    run, _ = table_run(*sizes["table_check"])
    what = f"{run.rows:,} x {run.columns}, {run.shards} shards"
    for rule in dict.fromkeys(job.rule for job in run.jobs):
        own = [job for job in run.jobs if job.rule == rule]
        expected = sum(rates.of(rule, job.counts, ALONE) for job in own)
        checks.append(compared(f"{rule}, {what}", expected, Observation(rule, {}, sum(job.seconds for job in own))))
    simulations = [simulated(run, rates, what)]
    text_rates(sizes, rates, checks)
    simulations.append(text_run(sizes, rates, checks))
    node = Node()
    (all_before, own_before), (all_after, own_after) = began[0], busy()
    taken = (all_after - all_before - own_after + own_before) / (time.perf_counter() - began[1]) / cores()
    return {
        "machine": machine() | {"taken_by_others": round(taken, 2)},
        "rates": asdict(rates),
        "node": asdict(node),
        "network": dict(NETWORK),
        "checks": checks,
        "simulations": simulations,
        "table": {
            "file_bytes": run.file_bytes,
            "fine": run.fine,
            "features": list(measured.widths()),
            "contradictory": run.contradictory,
        },
    }


def table_run(rows: int, columns: int, shards: int) -> tuple[measured.Run, float]:
    """A run of the passes, and the seconds of reading a value of its files."""
    say(f"passes on {rows:,} x {columns} in {shards} shards ...")
    with tempfile.TemporaryDirectory() as folder:
        run = measured.descriptors(Path(folder), rows, columns, shards, SLOTS)
        return run, measured.reading(Path(folder))


def compared(what: str, expected: float, seen: Observation) -> dict[str, Any]:
    return {"what": what, "predicted": expected, "measured": seen.seconds, "ratio": expected / seen.seconds}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def simulated(run: measured.Run, rates: Rates, what: str) -> dict[str, Any]:
    """Wall time of a real run against the simulation of its jobs, as they were measured and as they are predicted."""
    shards = run.shards
    order = ["pass0", *["pass1_shard"] * shards, "pass1", *["pass2_shard"] * shards, "pass2", "pass3"]
    order += [*["pass4_shard"] * shards, "pass4", "overview"]
    return run_against(what, order, run.jobs, rates, run.seconds, run.idle, SLOTS)


def run_against(
    what: str, order: list[str], jobs: list[Observation], rates: Rates, seconds: float, idle: float, slots: int
) -> dict[str, Any]:
    """``order`` : rules of the jobs; a sharded one's follow each other and all need the job before them."""
    waiting: dict[str, list[Observation]] = {}
    for job in jobs:
        waiting.setdefault(job.rule, []).append(job)
    known: list[Job] = []
    expected: list[Job] = []
    needs: tuple[int, ...] = ()
    for place, rule in enumerate(order):
        if place and rule != order[place - 1]:
            first = place - 1
            while first and order[first - 1] == order[place - 1]:
                first -= 1
            needs = tuple(range(first, place))
        own = waiting[rule].pop(0)
        known.append(Job(rule, own.wall, needs=needs))
        expected.append(Job(rule, rates.of(rule, own.counts, ALONE), needs=needs))
    cluster = Cluster(slots)
    return {
        "what": f"{what}, {'one job after the other' if slots == 1 else f'{slots} jobs side by side'}",
        "measured": seconds,
        "simulated": idle + wall(known, cluster),
        "predicted": idle + wall(expected, cluster),
        "snakemake_itself": idle,
    }


def text_rates(sizes: dict[str, Any], rates: Rates, checks: list[dict[str, Any]]) -> None:
    """Add those of the text stages."""
    say("texts ...")
    rules = (
        "check_corpus",
        "similarity_shard",
        "similarity",
        "core_classes",
        "train_classifier",
        "self_train",
        "predict",
    )
    reading = measured.reading_texts(sizes["corpus"])
    merging = measured.merging_pieces(sizes["corpus"], 1_000)
    loading = measured.loading()
    zero = {rule: {"start": 0.0} for rule in rules}
    seen = [measured.encoding(*sizes["encoded"])]
    for documents, classes in sizes["texts"]:
        seen += measured.text_loops(documents, classes, say)
    found = fit(seen, zero)
    for each in measured.text_loops(*sizes["text_check"], say):
        size = "{:,} x {:,}".format(*sizes["text_check"])
        what = f"{each.rule}, {' and '.join(each.counts)}, {size}"
        checks.append(compared(what, found.of(each.rule, each.counts, ALONE), each))
    for rule in rules:
        own = found.seconds.setdefault(rule, {})
        own["start"] = measured.start_of(rule) + (loading if rule in measured.WITH_MODEL else 0.0)
        own["text read"] = own.get("text read", 0.0) + reading
    found.seconds["similarity"]["byte merged"] = merging
    found.seconds["self_train"]["predicted cell"] = found.seconds["train_classifier"]["predicted cell"]
    found.seconds["predict"]["text read"] = found.seconds["core_classes"]["text read"]
    found.seconds["predict"]["token"] = found.seconds["similarity_shard"]["token"]
    found.seconds["predict"]["document pair"] = found.seconds["similarity"]["document pair"]
    found.seconds["train_classifier"]["token"] = found.seconds["similarity_shard"]["token"]
    rates.seconds |= found.seconds


def text_run(sizes: dict[str, Any], rates: Rates, checks: list[dict[str, Any]]) -> dict[str, Any]:
    """A real run of the text stages against the prediction, stage by stage and as a whole."""
    documents, classes, length = sizes["run_check"]
    say(f"text stages on {documents:,} x {classes:,} ...")
    with tempfile.TemporaryDirectory() as folder:
        took, seconds = measured.texts_run(Path(folder), documents, classes, length, 1)
    small = Texts(documents, classes, length + 2.0, 6.0 * length, classes - ROOTS - MIDDLE, clustered=False)
    epochs = max(5, math.ceil(200 / math.ceil(0.45 * documents / 64)))
    stages = {
        "check_corpus": ("check_corpus", {"text read": float(documents)}),
        "similarity_1": ("similarity_shard", score_counts(small, documents / 2)),
        "similarity_2": ("similarity_shard", score_counts(small, documents / 2)),
        "similarity": ("similarity", whole_counts(small)),
        "core_classes": ("core_classes", {"text read": float(documents), "mined cell": small.cells}),
        "train_classifier": (
            "train_classifier",
            train_counts(small, 0.45 * documents, epochs, 64) | {"token": n_labels(small)},
        ),
        "self_train_1": ("self_train", train_counts(small, documents, 3, 256) | {"surveyed cell": 2 * small.cells}),
        "predict": (
            "predict",
            {"text read": float(documents), "labelled cell": small.cells, "document pair": float(documents) ** 2},
        ),
    }
    what = f"{documents:,} documents x {classes:,} classes"
    jobs = [Observation(rule, counts, *took[name]) for name, (rule, counts) in stages.items()]
    for name, (rule, counts) in stages.items():
        seen = Observation(rule, counts, *took[name])
        checks.append(compared(f"{name}, {what}", rates.of(rule, counts, ALONE), seen))
    return run_against(what, [rule for rule, _ in stages.values()], jobs, rates, seconds, 0.0, 1)


# ---- what a large run would take


def loads(rates: Rates, node: Node, found: dict[str, Any]) -> dict[str, Callable[[int], list[Job]]]:
    """Jobs of each large run, by the number of shards."""
    told = found["table"]
    table = Table(
        MOLECULES, COLUMNS, SHARES, 6, 0.025, PASS4_ROWS, told["file_bytes"], told["fine"], tuple(told["features"])
    )
    texts = Texts(DOCUMENTS, CLASSES, TOKENS, TEXT_BYTES, CLASSES - ROOTS - MIDDLE)
    lean = replace(texts, neighbours=False, clustered=False, predict_neighbours=False)
    return {
        "descriptors": lambda shards: descriptor_jobs(table, shards, rates, node),
        "descriptors, correlations contradict each other": lambda shards: descriptor_jobs(
            replace(table, contradictory=True), shards, rates, node
        ),
        "texts, defaults": lambda shards: text_jobs(texts, shards, rates, node),
        "texts, no neighbours, no clusters": lambda shards: text_jobs(lean, shards, rates, node),
        "texts, learnt from a sample": lambda shards: sampled_jobs(texts, SAMPLE, PARTS, shards, rates, node),
    }


def predict(rates: Rates, node: Node, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a run and number of nodes, with the number of shards that is fastest there."""
    network, rows = found["network"], []
    for load, jobs_of in loads(rates, node, found).items():
        for nodes in sorted({*NODES, *PLOTTED}):
            cluster = Cluster(nodes, nodes, network["a_node"], network["shared"])
            walls = {shards: wall(jobs_of(shards), cluster) for shards in SHARDS}
            shards = min(walls, key=lambda each: walls[each])
            jobs = jobs_of(shards)
            draws = []
            if nodes in NODES:
                for draw in range(DRAWS):
                    rng = np.random.default_rng((nodes, draw))
                    draws.append(wall(jittered(jobs, rates.spread, rng), cluster))
            times = simulate(jobs, cluster)
            alone = [name for name in dict.fromkeys(job.name for job in jobs) if sum(j.name == name for j in jobs) == 1]
            own = dict(zip([job.name for job in jobs], lengths(jobs, cluster), strict=True))
            rows.append(
                {
                    "load": load,
                    "nodes": nodes,
                    "shards": shards,
                    "wall": walls[shards],
                    "low": float(np.quantile(draws, 0.05)) if draws else None,
                    "high": float(np.quantile(draws, 0.95)) if draws else None,
                    "closed_form": closed_form(jobs, cluster),
                    "least": least(jobs, cluster),
                    "critical_path": critical_path(jobs, cluster),
                    "node_seconds": sum(end - start for start, end in times),
                    "on_one_node": sum(own[name] for name in alone),
                    "jobs": len(jobs),
                    "stages": stages(jobs, times),
                }
            )
    return rows


def stages(jobs: list[Job], times: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Of jobs of one name: how many, from when to when, the longest of them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for job, each in zip(jobs, times, strict=True):
        found.setdefault(job.name, []).append(each)
    return [
        {
            "name": name,
            "jobs": len(own),
            "start": min(start for start, _ in own),
            "end": max(end for _, end in own),
            "longest": max(end - start for start, end in own),
            "runtime_minutes": granted(rule_of(name), "runtime"),
        }
        for name, own in found.items()
    ]


def rule_of(name: str) -> str:
    """The rule of a job's name: the first word, as of ``self_train 2`` and ``pass2, mean ranks``."""
    return re.split(r"[ ,]", name)[0]


def granted(rule: str, resource: str) -> int:
    """What the rule asks for, as its own lines say."""
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        part = re.search(rf"^rule {rule}:\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S)
        value = part and re.search(rf"\b{resource}=([\d_]+)", part[1])
        if value:
            return int(value[1])
    raise ValueError(f"rule {rule} asks for no {resource}")


def memory() -> list[dict[str, Any]]:
    """What stages hold at these sizes, by the arrays in their code, and what their rules ask for."""
    n, texts = float(MOLECULES), float(DOCUMENTS) * (TEXT_BYTES + 150)
    matrix, vectors = 4.0 * DOCUMENTS * CLASSES, 4.0 * DOCUMENTS * 384
    small = 4.0 * SAMPLE * CLASSES
    held = [
        ("pass1_shard", "one column in work and the rows' hashes, 42 bytes a row", 42 * n),
        ("pass1", "the rows' hashes of one shard, and their sums", 3 * 8 * n),
        ("pass2", "a few matrices of columns x columns", 5 * 8.0 * (SHARES[0] * COLUMNS) ** 2),
        ("pass4_shard", "the rows' hashes and the rows chosen by them", 3 * 8 * n),
        ("check_corpus", "all texts, as Python strings", texts),
        ("similarity_shard", f"all texts; scores of one of {max(SHARDS)} shards", texts + matrix / max(SHARDS)),
        ("similarity", "scores of all shards, and again put together", 2 * matrix + vectors),
        ("similarity", "neighbours: cosines of 1,024 documents with all", 4.0 * 1024 * DOCUMENTS),
        ("core_classes", f"{MINING_BYTES} bytes a cell", MINING_BYTES / 4 * matrix + texts),
        ("train_classifier", "probabilities of all, for the level weights", matrix + vectors + texts),
        ("self_train", "the same at its end", matrix + vectors + texts),
        ("predict", "texts and vectors; scores are on disk", vectors + texts),
        ("similarity", f"a sample of {SAMPLE:,}: scores, and again put together", 2 * small),
        ("core_classes", f"a sample of {SAMPLE:,}: {MINING_BYTES} bytes a cell", MINING_BYTES / 4 * small),
        ("self_train", f"a sample of {SAMPLE:,}: probabilities of all", small),
        ("predict", f"a part of {DOCUMENTS // PARTS:,} documents: scores", matrix / PARTS),
    ]
    return [
        {"rule": rule, "what": what, "bytes": size, "granted": granted(rule, "mem_mb") * 1e6}
        for rule, what, size in held
    ]


# ---- what was found


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}" if seconds < 360_000 else f"{seconds / 3600:,.0f}"


def show(found: dict[str, Any]) -> str:
    box, node, network = found["machine"], found["node"], found["network"]
    parts = [
        f"Measured on {box['cpu']}, {box['cores']} cores, {box['memory_gb']} GB; others took "
        f"{box['taken_by_others']:.0%} of them meanwhile. PREDICTED, not run: {MOLECULES:,} molecules x "
        f"{COLUMNS:,} descriptors (pass 4 on {PASS4_ROWS:,} rows) and {DOCUMENTS:,} "
        f"documents x {CLASSES:,} classes.",
        f"Assumed: a node has {node['threads']} threads, each worth {node['efficiency']:.0%} of one measured here, and "
        f"no card; a job waits {node['wait']:.0f} s in the queue; {network['a_node'] / 1e9:g} GB/s a node and "
        f"{network['shared'] / 1e9:g} GB/s of the shared file system; {TOKENS:.0f} tokens and {TEXT_BYTES:.0f} bytes a "
        "document.",
    ]
    if "rates_of" in found:
        parts.append(f"Rates of {found['rates_of']} in place of those measured.")
    rates = found["rates"]["seconds"]
    lines = [(rule, name, f"{value:.3g}") for rule, own in rates.items() for name, value in own.items() if value]
    parts.append("RATES, processor seconds\n" + written.aligned(("rule", "a", "seconds"), lines))
    lines = [
        (each["what"], f"{each['predicted']:.2f}", f"{each['measured']:.2f}", f"{each['ratio']:.2f}")
        for each in found["checks"]
    ]
    head = ("not fitted, processor seconds", "predicted", "measured", "ratio")
    spread = found["rates"]["spread"]
    parts.append(f"CHECK OF THE RATES (spread of fitted jobs: {spread:.0%})\n" + written.aligned(head, lines))
    lines = [
        (each["what"], f"{each['measured']:.0f}", f"{each['simulated']:.0f}", f"{each['predicted']:.0f}")
        for each in found["simulations"]
    ]
    head = ("run", "measured s", "simulated from its jobs' wall seconds", "predicted from rates, no one else there")
    parts.append("CHECK OF THE SIMULATION, wall time\n" + written.aligned(head, lines))
    lines = [
        (
            row["load"],
            str(row["nodes"]),
            str(row["shards"]),
            hours(row["wall"]),
            f"{hours(row['low'])} to {hours(row['high'])}",
            hours(row["closed_form"]),
            hours(row["least"]),
            hours(row["on_one_node"]),
            hours(row["node_seconds"]),
        )
        for row in found["predictions"]
        if row["nodes"] in NODES
    ]
    head = ("run", "nodes", "shards", "wall h", "5 to 95 %", "closed form", "least", "of it on one node", "node-hours")
    parts.append("PREDICTED, hours, as if memory and disk were no limit (see the end)\n" + written.aligned(head, lines))
    for load in dict.fromkeys(row["load"] for row in found["predictions"]):
        row = next(row for row in found["predictions"] if (row["load"], row["nodes"]) == (load, max(NODES)))
        lines = [
            (
                each["name"],
                str(each["jobs"]),
                hours(each["end"] - each["start"]),
                hours(each["longest"]),
                "" if each["longest"] <= 60 * each["runtime_minutes"] else f"above runtime={each['runtime_minutes']}",
            )
            for each in row["stages"]
        ]
        head = ("stage", "jobs", "hours", "longest job", "")
        parts.append(f"{load}, {row['nodes']} nodes, {row['shards']} shards\n" + written.aligned(head, lines))
    lines = [
        (
            each["rule"],
            each["what"],
            f"{each['bytes'] / 1e9:,.1f}",
            f"{each['granted'] / 1e9:,.0f}",
            "" if each["bytes"] <= each["granted"] else "does not fit",
        )
        for each in found["memory"]
    ]
    head = ("rule", "holds", "GB", "mem_mb asks for", "")
    parts.append("MEMORY at these sizes, by the arrays in the code\n" + written.aligned(head, lines))
    return "\n\n".join(parts)


def blocks(found: dict[str, Any]) -> dict[str, list[str]]:
    """The figures of the page, by their marks."""
    checks = sorted(found["checks"], key=lambda each: each["ratio"])
    shards = [each["ratio"] for each in checks if re.match(r"pass\d_shard", each["what"])]
    checked = (
        f"Predicted over measured, where nothing was fitted: the shards of the passes {shards[0]:.2f} to "
        f"{shards[-1]:.2f}, all {len(checks)} checks {checks[0]['ratio']:.2f} to {checks[-1]['ratio']:.2f}; the least "
        f"are {'; '.join('{what} ({ratio:.2f})'.format(**each) for each in checks[:3])}."
    )
    lines = ["| predicted run | nodes | shards | wall, hours (5 to 95 %) | of it on one node | node-hours |"]
    lines += ["|---|---|---|---|---|---|"]
    slow: list[str] = []
    for row in found["predictions"]:
        if row["nodes"] not in NODES:
            continue
        spread = f"{hours(row['wall'])} ({hours(row['low'])} to {hours(row['high'])})"
        cells = (row["load"], row["nodes"], row["shards"], spread)
        lines.append(
            "| {} | {} | {} | {} | {} | {} |".format(*cells, *map(hours, (row["on_one_node"], row["node_seconds"])))
        )
        if row["nodes"] == max(NODES):
            longest = sorted(row["stages"], key=lambda each: each["start"] - each["end"])[:4]
            parts = ", ".join(f"{each['name']} {hours(each['end'] - each['start'])}" for each in longest)
            slow.append(f"- {row['load']}, on {row['nodes']} nodes, longest stages in hours: {parts}")
    return {"table, by make scaling": lines, "stages, by make scaling": slow, "checks, by make scaling": [checked]}


def plot(found: dict[str, Any], path: Path) -> None:
    """Wall time against nodes, with the lower bound of any schedule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    titles = {
        "descriptors": f"{MOLECULES:,} molecules x {COLUMNS:,} descriptors",
        "texts": f"{DOCUMENTS:,} documents x {CLASSES:,} classes",
    }
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        names = [name for name in dict.fromkeys(row["load"] for row in found["predictions"]) if name.startswith(kind)]
        for place, name in enumerate(names):
            own = [row for row in found["predictions"] if row["load"] == name]
            nodes = [row["nodes"] for row in own]
            axis.plot(nodes, [row["wall"] / 3600 for row in own], "o-", color=f"C{place}", ms=4, label=name)
            axis.plot(nodes, [row["least"] / 3600 for row in own], ":", color=f"C{place}", lw=1)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(PLOTTED, list(map(str, PLOTTED)))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_xlabel("nodes")
        axis.set_title(f"{title} (predicted)", fontsize="medium")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    axes[0].set_ylabel("hours (dotted: no schedule is faster)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
