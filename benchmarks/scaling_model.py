"""How long each job of the workflow takes: a start and a few counts, each at a measured rate; and which jobs there are.

A count is what the code does so many times: values sorted, products of two numbers, pairs of columns, bytes copied.
Rates are seconds of one thread a count. What the threads of a node share is divided by them, the rest is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from scaling_simulation import Job

Counts = Mapping[str, float]
# counts whose seconds more threads do not shorten: the code has one reader or writer, or keeps NumPy and torch to one
SERIAL = {"value read", "byte merged", "column pair", "column cube", "text read", "cosine product"} | {
    f"{each} cell" for each in ("mined", "trained", "predicted", "surveyed", "labelled")
}


@dataclass(frozen=True)
class Observation:
    """One job that was run: of which rule, what it had to do, seconds of processor time that it took, and of wall time.

    On a machine that is shared the former say what the job costs, the latter what others were doing as well.
    """

    rule: str
    counts: Counts
    seconds: float
    wall: float = math.nan


@dataclass(frozen=True)
class Node:
    """threads : of a node and of a job. efficiency : of each of several threads, against one alone. wait : seconds
    until a job that may run does, in a queue."""

    threads: int = 8
    efficiency: float = 0.8
    wait: float = 15.0

    @property
    def speed(self) -> float:
        return 1.0 if self.threads == 1 else self.threads * self.efficiency


@dataclass
class Rates:
    """seconds : by rule and count. spread : standard deviation of the logarithm of measured over fitted, by rule."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    spread: float = 0.0

    def of(self, rule: str, counts: Counts, node: Node) -> float:
        """Seconds of a job on a node; KeyError for what was not measured."""
        own = self.seconds[rule]
        total = own.get("start", 0.0)
        for name, count in counts.items():
            total += own[name] * count / (1.0 if name in SERIAL else node.speed)
        return total


def fit(observations: Iterable[Observation], known: Mapping[str, Mapping[str, float]] | None = None) -> Rates:
    """Rates of every rule by non-negative least squares of relative errors; counts that explain nothing get 0.

    known : by rule, rates that were measured by themselves and are not fitted again.
    """
    rates, residuals = Rates(), []
    by_rule: dict[str, list[Observation]] = {}
    for each in observations:
        by_rule.setdefault(each.rule, []).append(each)
    for rule, own in by_rule.items():
        given = (known or {}).get(rule, {})
        counted = dict.fromkeys(["start", *(name for each in own for name in each.counts)])
        names = [name for name in counted if name not in given]
        table = np.array([[({"start": 1.0} | dict(each.counts)).get(name, 0.0) for name in names] for each in own])
        before = np.array([sum(given.get(name, 0.0) * count for name, count in each.counts.items()) for each in own])
        seconds = np.array([each.seconds for each in own])
        left = np.maximum(seconds - before - given.get("start", 0.0), 0.0)
        scale = np.maximum(table.max(axis=0), 1e-300)
        found = nnls(table / scale / seconds[:, None], left / seconds)[0] / scale
        rates.seconds[rule] = dict(given) | dict(zip(names, found.tolist(), strict=True))
        if len(own) > len(names):
            fitted = before + given.get("start", 0.0) + table @ found
            residuals += np.log(seconds / np.maximum(fitted, 1e-9)).tolist()
    rates.spread = float(np.std(residuals)) if residuals else 0.0
    return rates


# ---- descriptors


@dataclass(frozen=True)
class Table:
    """What the passes see. rows, columns : that pass 1 reads. shares : of them that enter pass 2, 3 and 4.

    patterns : of missing values that columns share; own : share of columns missing in rows of their own.
    pass4_rows : rows that pass 4 looks at. file_bytes : a value in the Parquet files, compressed.
    features : a column in pass 4, of each measure. fine : share of columns with 32-bit codes.
    """

    rows: int
    columns: int
    shares: tuple[float, float, float]
    patterns: int
    own: float
    pass4_rows: int
    file_bytes: float
    fine: float
    features: tuple[int, ...]
    contradictory: bool = False

    def entering(self, number: int) -> int:
        return self.columns if number == 1 else round(self.columns * self.shares[number - 2])


def blocks(columns: int, shards: int) -> list[tuple[int, int, bool]]:
    """(left, right, whether they are the same) columns of each shard, as ``descriptors.shards.rectangles`` deals them.

    With one shard all pairs.
    """
    n_blocks = 1
    while n_blocks * (n_blocks + 1) // 2 < shards:
        n_blocks += 1
    sizes = [len(each) for each in np.array_split(np.arange(columns), n_blocks)]
    pairs = [(sizes[i], sizes[j], i == j) for i in range(n_blocks) for j in range(i, n_blocks)]
    # a shard with several rectangles stands as one of as many pairs
    found = []
    for shard in range(shards):
        own = pairs[shard::shards]
        found.append(own[0] if len(own) == 1 else (sum(each[0] for each in own), own[0][1], False))
    return found


def pass1_counts(rows: int, columns: int) -> dict[str, float]:
    values = float(rows) * columns
    return {"value read": values, "value": values, "value x log2 rows": values * math.log2(max(rows, 2))}


def pair_counts(rows: int, left: int, right: int, same: bool, width: int = 1) -> dict[str, float]:
    """Of the columns of two blocks, ``width`` features each: products of numbers, and numbers made."""
    pairs = left * (left + 1) / 2 if same else left * right
    return {"product": rows * pairs * width, "number": rows * (left if same else left + right)}


def rankings(rows: int, left: int, right: int, same: bool, patterns_left: float, patterns_right: float) -> float:
    """Values ranked again: each column once for every pattern on the other side."""
    if same:
        return rows * left * max(patterns_left - 1, 0)
    return rows * (left * max(patterns_right - 1, 0) + right * max(patterns_left - 1, 0))


def descriptor_jobs(table: Table, shards: int, rates: Rates, node: Node, start: int = 0) -> list[Job]:
    """The passes of one run; ``start`` is the place of the first one in a longer list."""
    jobs: list[Job] = []

    def add(rule: str, counts: Counts, moved: float, needs: tuple[int, ...], gpu: bool, name: str = "") -> int:
        seconds = node.wait + rates.of(rule, counts, node)
        jobs.append(Job(name or rule, seconds, moved, needs, gpu))
        return start + len(jobs) - 1

    n = table.rows
    one, two, three, four = (table.entering(number) for number in (1, 2, 3, 4))
    code = 2 * (1 + table.fine)
    last = add("pass0", {}, 0.0, (), False)
    hashes = 8.0 * n
    if shards > 1:
        sizes = [one * shard // shards - one * (shard - 1) // shards for shard in range(1, shards + 1)]
        made = [
            add(
                "pass1_shard",
                pass1_counts(n, size),
                n * size * table.file_bytes + code * n * two * size / one + hashes,
                (last,),
                True,
            )
            for size in sizes
        ]
        merged = n * two * code
        last = add("pass1", {"byte merged": merged}, 2 * merged + hashes * (shards + 1), tuple(made), True)
    else:
        moved = n * one * table.file_bytes + code * n * two + hashes
        last = add("pass1_shard", pass1_counts(n, one), moved, (last,), True, "pass1")

    def patterns(columns: int) -> float:
        return table.patterns + table.own * columns

    def pass2(left: int, right: int, same: bool) -> tuple[Counts, float]:
        counts = pair_counts(n, left, right, same)
        counts["ranking"] = rankings(n, left, right, same, patterns(left), patterns(right))
        return counts, 2.0 * n * (left if same else left + right)

    if shards > 1:
        made = [add("pass2_shard", *pass2(*each), (last,), True) for each in blocks(two, shards)]
        counts, moved = {"column pair": two**2}, 8.0 * two**2
        last = add("pass2", counts, moved, tuple(made), True)
    else:
        last = add("pass2_shard", *pass2(two, two, True), (last,), True, "pass2")
    if table.contradictory:
        # ranks with missing cells at the mean rank, of the columns that stay: one Gram matrix on one node
        counts = pair_counts(n, three, three, True)
        last = add("pass2_shard", counts, code * n * three, (last,), True, "pass2, mean ranks")
    last = add("pass3", {"column cube": three**3}, 8.0 * two**2, (last,), False)
    width, wide = sum(each**2 for each in table.features), sum(table.features)

    def pass4(left: int, right: int, same: bool) -> tuple[Counts, float]:
        counts = pair_counts(table.pass4_rows, left, right, same, width)
        counts["number"] *= wide
        # a sample of the rows is read from everywhere: whole columns go over the network
        return counts, hashes + code * n * (left if same else left + right) * len(table.features)

    if shards > 1:
        made = [add("pass4_shard", *pass4(*each), (last,), True) for each in blocks(four, shards)]
        last = add("pass4", {"column pair": four**2}, 32.0 * four**2, tuple(made), True)
    else:
        last = add("pass4_shard", *pass4(four, four, True), (last,), True, "pass4")
    add("overview", {}, 8.0 * two**2, (last,), False)
    return jobs


# ---- texts


@dataclass(frozen=True)
class Texts:
    """documents x classes. tokens, text_bytes : of a document. label_tokens : of a text that stands for a class.

    names : such texts a class. neighbours, clustered : whether nearest documents, and clusters, are looked for.
    """

    documents: int
    classes: int
    tokens: float
    text_bytes: float
    leaves: int
    dimension: int = 384
    names: int = 4
    label_tokens: float = 10.0
    iterations: int = 3
    neighbours: bool = True
    clustered: bool = True
    predict_neighbours: bool = True

    @property
    def cells(self) -> float:
        return float(self.documents) * self.classes

    @property
    def matrix_bytes(self) -> float:
        return 4.0 * self.cells


CLUSTERS_A_CLASS = 2 * (2 + 3 + 4 + 6 + 8)  # of ten clusterings together, as taxoclass.clustering has them
LLOYD = 20  # rounds at most


def score_counts(texts: Texts, documents: float) -> dict[str, float]:
    """A shard of ``similarity``: every shard reads the whole corpus, encodes its own part and multiplies."""
    return {
        "text read": texts.documents,
        "token": documents * texts.tokens + texts.classes * texts.names * texts.label_tokens,
        "cosine product": documents * texts.classes * texts.names * texts.dimension,
    }


def whole_counts(texts: Texts) -> dict[str, float]:
    """What ``similarity`` does with all vectors on one node."""
    counts = {"text read": float(texts.documents), "byte merged": texts.matrix_bytes}
    if texts.neighbours:
        counts["document pair"] = float(texts.documents) ** 2
    if texts.clustered:
        counts["cluster distance"] = float(texts.documents) * CLUSTERS_A_CLASS * texts.leaves * LLOYD
    return counts


def n_labels(texts: Texts) -> float:
    """Tokens of the class names that stage 3 begins with."""
    return texts.classes * texts.label_tokens


def train_counts(texts: Texts, documents: float, epochs: float, batch: int) -> dict[str, float]:
    """Steps of the graph network over all classes, and of documents x classes."""
    steps = math.ceil(documents / batch) * epochs
    return {
        "text read": float(texts.documents),
        "class step": steps * texts.classes,
        "trained cell": documents * epochs * texts.classes,
        "predicted cell": texts.cells,
    }


def text_jobs(texts: Texts, shards: int, rates: Rates, node: Node, start: int = 0) -> list[Job]:
    """The stages of one run, as the workflow has them."""
    jobs: list[Job] = []

    def add(rule: str, counts: Counts, moved: float, needs: tuple[int, ...], gpu: bool, name: str = "") -> int:
        jobs.append(Job(name or rule, node.wait + rates.of(rule, counts, node), moved, needs, gpu))
        return start + len(jobs) - 1

    n, corpus, matrix = texts.documents, texts.documents * texts.text_bytes, texts.matrix_bytes
    vectors = 4.0 * n * texts.dimension
    part = (matrix + 2 * vectors) / shards
    last = add("check_corpus", {"text read": float(n)}, 2 * corpus, (), False)
    made = [
        add("similarity_shard", score_counts(texts, n / shards), corpus + part, (last,), True) for _ in range(shards)
    ]
    last = add("similarity", whole_counts(texts), corpus + 2 * matrix + vectors, tuple(made), True)
    last = add("core_classes", {"text read": float(n), "mined cell": texts.cells}, corpus + matrix, (last,), False)
    counts = train_counts(texts, 0.9 * n / 2, 5, 64) | {"token": n_labels(texts)}
    last = add("train_classifier", counts, corpus + vectors + 3 * matrix, (last,), True)
    for turn in range(1, texts.iterations + 1):
        counts = train_counts(texts, n, 3, 256) | {"surveyed cell": 2 * texts.cells}
        # logits written twice, and read by two surveys, three epochs and the masses
        last = add("self_train", counts, corpus + vectors + 8 * matrix, (last,), True, f"self_train {turn}")
    counts = {"text read": float(n), "labelled cell": texts.cells}
    if texts.predict_neighbours:
        counts["document pair"] = float(n) ** 2
    add("predict", counts, corpus + vectors + 4 * matrix, (last,), True)
    return jobs


def sampled_jobs(
    texts: Texts, sample: int, parts: int, shards: int, rates: Rates, node: Node, start: int = 0
) -> list[Job]:
    """The way round it: the workflow on a sample, then ``predict.py`` on parts of the corpus, each by itself."""
    small = Texts(**{**vars(texts), "documents": sample})
    jobs = text_jobs(small, shards, rates, node, start)
    last = start + len(jobs) - 1
    n = texts.documents / parts
    counts = {"text read": n, "token": n * texts.tokens, "labelled cell": n * texts.classes}
    moved = n * (texts.text_bytes + 4.0 * texts.classes)
    part = Job("predict a part", node.wait + rates.of("predict", counts, node), moved, (last,), True)
    return jobs + [part] * parts
