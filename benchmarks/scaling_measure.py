"""The rates of the scaling model: small sharded runs of the workflow, and loops of the text stages on random data."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import synthetic
from measure import ROOT
from our_text import class_names, tree
from scaling_model import Observation, pair_counts, pass1_counts, rankings, train_counts
from scaling_model import Texts as TextSize

SEED = 11
COMMON = "the of and a to in is was it for with as on be at by this that from or an are not have"
WITH_MODEL = ("similarity_shard", "train_classifier", "self_train", "predict")
THREADED = ("pass1_shard", "pass2_shard", "pass4_shard", "pass1", "pass2", "pass3", "pass4")
SETTINGS = {"hsic_D": 8, "rdc_d": 12, "max_host_memory_gb": 2.0}  # of config/pubchem.yaml, in little memory


# ---- descriptors


@dataclass(frozen=True)
class Run:
    """A sharded run of the passes. seconds : wall. idle : the same command with nothing left to do."""

    rows: int
    columns: int
    shards: int
    seconds: float
    idle: float
    entering: tuple[int, int, int]
    jobs: list[Observation]
    file_bytes: float
    fine: float
    contradictory: bool


def descriptors(folder: Path, rows: int, columns: int, shards: int, slots: int) -> Run:
    """Run the passes in ``shards`` shards, every job on one thread and ``slots`` of them side by side."""
    paths = synthetic.write(folder / "data", rows, columns, SEED, 2)
    config = folder / "config.json"
    settings = {"parquet_glob": str(folder / "data" / "*.parquet"), "n_metadata": 1, "shards": shards, **SETTINGS}
    config.write_text(json.dumps({"results": str(folder / "results"), "descriptors": settings}))
    command = [
        *(sys.executable, "-m", "snakemake", "descriptors", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--workflow-profile", "none", "--configfile", str(config)),
        *("--cores", str(slots), "--resources", "gpu=0", "--show-failed-logs"),
        *("--set-threads", *(f"{rule}=1" for rule in THREADED)),
    ]
    seconds, idle = timed(command), timed(command)
    made = folder / "results" / "descriptors"
    stats, codes = np.load(made / "pass1_stats.npz"), np.load(made / "pass1_codes.npy", mmap_mode="r")
    names = {number: (made / f"pass{number}_columns.txt").read_text().split() for number in (1, 2, 3)}
    entering = (len(names[1]), len(names[2]), len(names[3]))
    took = spent(folder / "benchmarks", made / "provenance")
    jobs = [Observation(rule, {}, *took[rule]) for rule in ("pass0", "overview")]
    two, three, four = entering
    fine = np.load(made / "pass1_codes_fine.npy", mmap_mode="r")
    jobs += [
        Observation("pass1", {"byte merged": float(codes.nbytes + fine.nbytes)}, *took["pass1"]),
        Observation("pass2", {"column pair": two**2}, *took["pass2"]),
        Observation("pass3", {"column cube": three**3}, *took["pass3"]),
        Observation("pass4", {"column pair": four**2}, *took["pass4"]),
    ]
    features = widths()
    for shard in range(1, shards + 1):
        own = columns * shard // shards - columns * (shard - 1) // shards
        jobs.append(Observation("pass1_shard", pass1_counts(rows, own), *took[f"pass1_{shard}"]))
        patterns = stats["missing_pattern"]
        for rule, entered in (("pass2", two), ("pass4", four)):
            found: dict[str, float] = {}
            for counts in of_rectangles(rule, rows, entered, shard, shards, patterns, features):
                found = {name: found.get(name, 0.0) + count for name, count in counts.items()}
            jobs.append(Observation(f"{rule}_shard", found, *took[f"{rule}_{shard}"]))
    compressed = sum(path.stat().st_size for path in paths) / (rows * columns)
    repaired = json.loads((made / "pass2_spearman.json").read_text())["repaired_from"]
    share = fine.shape[0] / max(codes.shape[0], 1)
    contradictory = repaired != "these correlations"
    return Run(rows, columns, shards, seconds, idle, entering, jobs, compressed, share, contradictory)


def of_rectangles(
    rule: str, rows: int, columns: int, shard: int, shards: int, patterns: np.ndarray, features: tuple[int, ...]
) -> list[dict[str, float]]:
    """Counts of each rectangle of a shard."""
    from descriptors.shards import rectangles

    found = []
    for left, right in rectangles(columns, shard, shards):
        same = np.array_equal(left, right)
        if rule == "pass4":
            counts = pair_counts(rows, len(left), len(right), same, sum(each**2 for each in features))
            counts["number"] *= sum(features)
        else:
            counts = pair_counts(rows, len(left), len(right), same)
            kinds = [len(np.unique(patterns[side])) for side in (left, right)]
            counts["ranking"] = rankings(rows, len(left), len(right), same, *kinds)
        found.append(counts)
    return found


def widths() -> tuple[int, ...]:
    """Features a column of pass 4, of each measure, with the settings of these runs."""
    from common.descriptors_settings import Pass4
    from descriptors import nonlinear

    own = Pass4(**{key: SETTINGS[key] for key in ("hsic_D", "rdc_d")})
    return tuple(each.width for half in nonlinear.halves(own).values() for each in half.dictionaries)


def timed(command: Sequence[str]) -> float:
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | threads)
    if done.returncode:
        raise RuntimeError(f"snakemake ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    return time.perf_counter() - started


def spent(records: Path, provenance: Path) -> dict[str, tuple[float, float]]:
    """Processor and wall seconds of each job; the latter twice, where it has no record of its own."""
    found = {}
    for path in records.glob("*.tsv"):
        with open(path) as handle:
            wall = float(next(csv.DictReader(handle, delimiter="\t"))["s"])
        own = provenance / f"{path.stem}.json"
        found[path.stem] = (json.loads(own.read_text())["cpu_seconds"] if own.exists() else wall, wall)
    return found


def ranking(rows: int) -> Observation:
    """One column sorted, described and coded."""
    from descriptors import ranks
    from descriptors.variance import describe

    values, work = np.random.default_rng(SEED).standard_normal(rows), ranks.Workspace(rows)

    def rank() -> None:
        column = ranks.sort(values, work)
        describe(column.ordered, rows, "trimmed", (2.5, 97.5))
        column.encode()

    return Observation("ranking", pass1_counts(rows, 1), quickest(rank))


def reading(folder: Path) -> float:
    """Seconds a value, to read columns from Parquet."""
    from common.found import find_files
    from descriptors.table import open_table

    table = open_table(find_files(str(folder / "data" / "*.parquet")), 1, None, [])
    names = list(table.descriptors[:8])
    return quickest(lambda: table.columns(names, 10_000)) / (table.rows * len(names))


def processor() -> float:
    """Seconds of processor time of this process and of those that it waited for."""
    return time.process_time() + sum(os.times()[2:4])


def quickest(work: Callable[[], object], rounds: int = 3) -> float:
    """Processor seconds, the least of several; a first one is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        started = processor()
        work()
        seconds.append(processor() - started)
    return min(seconds)


@contextmanager
def clock(found: list[float]) -> Any:
    """Add the processor seconds of the block."""
    started = processor()
    yield
    found.append(processor() - started)


# ---- texts


def start_of(rule: str) -> float:
    """Seconds until a stage's script begins: a Python with its libraries."""
    return quickest(
        lambda: subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{rule}.py"), "--help"], capture_output=True, check=True
        ),
        rounds=1,
    )


def loading() -> float:
    """Seconds to have the sentence encoder ready, libraries that are there apart."""
    from taxoclass.encoders import Encoder

    return quickest(lambda: Encoder.load("all-MiniLM-L6-v2").encode(["a text"]))


def words(count: int, length: int, rng: np.random.Generator) -> list[str]:
    """Texts of common English words, some of them those of class names."""
    known = " ".join([*class_names(500), COMMON]).split()
    return [" ".join(each) for each in rng.choice(known, (count, length))]


def names_of(count: int) -> list[str]:
    return [f"{each} {turn}" for turn in range(1 + count // 500) for each in class_names(500)][:count]


def encoding(documents: int, length: int) -> Observation:
    """Texts of ``length`` words through the packaged sentence encoder, on one thread."""
    import torch

    from taxoclass.encoders import Encoder

    torch.set_num_threads(1)
    encoder = Encoder.load("all-MiniLM-L6-v2")
    texts = words(documents, length, np.random.default_rng(SEED))
    encoder.encode(texts[:8])
    before, took = encoder.tally.tokens, list[float]()
    with clock(took):
        encoder.encode(texts)
    return Observation("similarity_shard", {"token": float(encoder.tally.tokens - before)}, took[0])


def reading_texts(documents: int) -> float:
    """Seconds a document of 200 words, to read the corpus and to look its vectors up."""
    from taxoclass import products
    from taxoclass.corpus import Corpus
    from taxoclass.encoders import content_keys, distinct

    texts = words(documents, 200, np.random.default_rng(SEED))
    ids = tuple(map(str, range(documents)))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/corpus.parquet"
        products.write_corpus(path, Corpus(ids, tuple(texts), ("train",) * documents))

        def read() -> None:
            unique, _ = distinct(products.read_corpus(path).texts)
            {key: at for at, key in enumerate(content_keys(unique).tolist())}

        return quickest(read) / documents


def merging_pieces(documents: int, classes: int) -> float:
    """Seconds a byte of scores, to put two shards of ``similarity`` together and write them."""
    from taxoclass import products
    from taxoclass.products import Scored

    scores = np.zeros((documents // 2, classes), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{shard}.npz" for shard in (1, 2)]
        for shard, path in enumerate(paths, start=1):
            products.write_piece(path, "", shard, 2, Scored(scores, scores[:, :1], None))

        def merge() -> None:
            from common import files

            files.write_npz(f"{folder}/whole.npz", matrix=products.read_pieces(paths, "").scores)

        return quickest(merge) / (2 * scores.nbytes)


def texts_run(
    folder: Path, documents: int, classes: int, length: int, slots: int
) -> tuple[dict[str, tuple[float, float]], float]:
    """A run of the text stages on one thread, in two shards, of one iteration: as ``spent``, and wall seconds."""
    rng = np.random.default_rng(SEED)
    taxonomy = tree(names_of(classes))
    lines = [json.dumps({"doc_id": str(row), "text": text}) for row, text in enumerate(words(documents, length, rng))]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "classes.tsv").write_text("".join(f"{row}\t{name[0]}\n" for row, name in enumerate(taxonomy.names)))
    (folder / "hierarchy.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in taxonomy.edges.tolist()))
    settings = {
        "classes_file": str(folder / "classes.tsv"),
        "hierarchy_file": str(folder / "hierarchy.tsv"),
        "train_corpus": str(folder / "corpus.jsonl"),
        "similarity_shards": 2,
        "self_train_iterations": 1,
    }
    config = folder / "config.json"
    config.write_text(json.dumps({"results": str(folder / "results"), "taxoclass": settings}))
    staged = ("similarity_shard", "similarity", "train_classifier", "self_train", "predict")
    command = [
        *(sys.executable, "-m", "snakemake", "taxoclass", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--workflow-profile", "none", "--configfile", str(config)),
        *("--cores", str(slots), "--resources", "gpu=0", "--show-failed-logs"),
        *("--set-threads", *(f"{rule}=1" for rule in staged)),
    ]
    seconds = timed(command)
    return spent(folder / "benchmarks", folder / "results" / "taxoclass" / "provenance"), seconds


def text_loops(documents: int, classes: int, say: Callable[[str], None]) -> list[Observation]:
    """Every loop of the text stages over documents and classes, on random unit vectors, on one thread."""
    import torch

    from common.taxoclass_settings import CoreClasses, SelfTrain, TrainClassifier
    from core_classes import mine
    from taxoclass.classifier import Architecture, build
    from taxoclass.clustering import k_means
    from taxoclass.decoding import Rules, decode
    from taxoclass.posterior import nearest
    from taxoclass.prediction import opinion, predict_into, scale_of
    from taxoclass.products import SimilarityFile, array_digest, label_records
    from taxoclass.scoring import embedding_scores
    from taxoclass.self_training import SelfTraining, Silver, self_train_iteration
    from taxoclass.targets import core_targets
    from taxoclass.training import CoreTraining, Machine, Vectors, train
    from taxoclass.words import Words

    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    vectors, labels = unit(rng, documents, 384), unit(rng, 4 * classes, 384)
    taxonomy = tree(names_of(classes))
    size = TextSize(documents, classes, 0, 0, int(taxonomy.leaves.sum()))
    texts = words(documents, 60, rng)
    quiet = Machine(warn=lambda message: None)
    found: list[Observation] = []

    def record(rule: str, counts: dict[str, float], seconds: float) -> None:
        found.append(Observation(rule, counts, seconds))
        say(f"{rule}, {documents:,} x {classes:,}: {seconds:.2f} s")

    took: list[float] = []
    with clock(took):
        scores = embedding_scores(vectors, labels, np.arange(0, 4 * classes, 4))
    record("similarity_shard", {"cosine product": float(documents) * 4 * classes * 384}, took.pop())
    with clock(took):
        neighbours = nearest(vectors, 10)
    record("similarity", {"document pair": float(documents) ** 2}, took.pop())
    clusters = min(2 * size.leaves, documents // 2)
    with clock(took):
        k_means(vectors[:, :64].copy(), clusters, rng)
    record("similarity", {"cluster distance": documents * clusters * 20.0}, took.pop())
    stored = SimilarityFile(scores, neighbours, np.empty((documents, 0), np.int32), {})
    with clock(took):
        known = Words.fit(texts, taxonomy.names)
        known.matches(texts)
    record("core_classes", {"text read": float(documents)}, took.pop())
    with clock(took):
        _, cores, _ = mine(CoreClasses(), stored, texts, taxonomy)
    record("core_classes", {"text read": float(documents), "mined cell": size.cells}, took.pop())
    names = labels[::4]
    architecture = Architecture(
        document_size=384, gnn="ego", gnn_num_layers=2, encoder=None, pooling="mean", gradient_checkpointing=False
    )
    model = build(taxonomy, names, architecture, SEED)
    targets = core_targets(taxonomy, cores.indptr, cores.indices)
    documents_of = Vectors(vectors)
    learns = CoreTraining.of(TrainClassifier(epochs=2, min_steps=0))
    with tempfile.TemporaryDirectory() as scratch:
        with clock(took):
            report = train(model, documents_of, targets, texts, learns, Path(scratch), quiet)
        counts = train_counts(size, report.documents, 2, 64)
        record("train_classifier", {name: counts[name] for name in ("class step", "trained cell")}, took.pop())
        logits = np.empty((documents, classes), np.float32)
        with clock(took):
            opinion(predict_into(logits, model, documents_of, quiet), taxonomy)
        record("train_classifier", {"predicted cell": size.cells}, took.pop())
        silver = Silver.held_out(targets, texts, 0.1)
        for epochs in (1, 4):
            settings = SelfTraining.of(SelfTrain(self_train_epochs=epochs), trainable=False)
            with clock(took):
                self_train_iteration(
                    model, documents_of, taxonomy, settings, 1, Path(scratch) / str(epochs), silver, machine=quiet
                )
            counts = train_counts(size, documents, epochs, 256)
            trained = {name: counts[name] for name in ("class step", "trained cell")}
            record("self_train", trained | {"surveyed cell": 2 * size.cells}, took.pop())
    more = 2.0 * known.matches(texts)
    with clock(took):
        predict_into(logits, model, documents_of, quiet, scale_of("expected_f1", taxonomy), more)
        decoded = decode(logits, taxonomy, Rules(method="expected_f1"))
        chains = [taxonomy.chains[chain] if chain >= 0 else () for chain in decoded.chain.tolist()]
        ids = list(map(str, range(documents)))
        sum(1 for _ in label_records(ids, taxonomy, decoded.labels, chains, decoded.score, logits))
        array_digest(logits)
    record("predict", {"labelled cell": size.cells}, took.pop())
    return found


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    values = rng.standard_normal((count, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
