"""Numbers at the end of their range, through the stages: results that keep their promises, or one line."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from conftest import write_table
from faults.harness import SEED, Pipeline, remove, without
from taxoclass.encoders import Encoder
from taxoclass.training import Runner

ROWS = 200


# ---- descriptors


def ties(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.round(base)


def tied_but_for_one(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS) == rng.integers(ROWS), base, 1.0)


def infinities(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.where(rng.random(ROWS) < 0.1, rng.choice([np.inf, -np.inf, np.nan]), base)


def huge(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * 10.0 ** rng.integers(150, 307)


def tiny(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * 5e-324 * rng.integers(1, 10**6)


def far(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """Digits that are left of a large offset."""
    return base + 10.0 ** rng.integers(8, 16)


def one_value_is_all(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS) == rng.integers(ROWS), 1e84, base)


def constant(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.full(ROWS, rng.choice([0.0, -0.0, 1e84, 5e-324]))


def mostly_missing(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return np.where(rng.random(ROWS) < rng.choice([0.5, 0.97]), np.nan, base)


def payloads(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """NaN of both signs and of any bits."""
    bits = rng.integers(1, 2**51, ROWS).astype(np.uint64) | np.uint64(0x7FF8000000000000)
    bits |= rng.integers(0, 2, ROWS).astype(np.uint64) << np.uint64(63)
    return np.where(rng.random(ROWS) < 0.2, bits.view(np.float64), base)


def plain(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base


KINDS = [
    ties, tied_but_for_one, infinities, huge, tiny, far, one_value_is_all, constant, mostly_missing, payloads, plain
]  # fmt: skip


def nasty(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of all kinds and few causes: copies, sums and pairs that lack each other's rows make matrices singular
    and indefinite."""
    causes = rng.normal(size=(ROWS, 4))
    columns = {}
    for number in range(int(rng.integers(3, 14))):
        kind = KINDS[rng.integers(len(KINDS))]
        weights = rng.choice([0.0, 1.0, -1.0], 4)
        columns[f"{kind.__name__} {number}"] = kind(rng, causes @ weights + 1e-9 * rng.normal(size=ROWS))
    names = list(columns)
    columns["copy"], columns["sum"] = columns[names[0]].copy(), np.nan_to_num(columns[names[0]]) + columns[names[-1]]
    rows = np.array_split(rng.permutation(ROWS), 3)
    for number in range(3 * int(rng.integers(2))):  # three columns, no two of which tell of the same rows
        column = causes[:, 0] * (-1) ** (number == 2) + 0.3 * causes[:, number + 1]
        column[rows[number]] = np.nan
        columns[f"contradictory {number}"] = column
    return columns


def lists(pipeline: Pipeline) -> list[list[str]]:
    """The columns that every pass leaves."""
    names = ["pass1_columns.txt", "pass2_columns.txt", "pass3_columns.txt", "final_descriptors.txt"]
    return [(pipeline.folder / "results" / "descriptors" / name).read_text().splitlines() for name in names]


def promises(pipeline: Pipeline) -> list[str]:
    """What a finished selection promises that is not so."""
    left = lists(pipeline)
    wrong = [f"a pass adds columns: {left}" for before, after in pairwise(left) if not set(after) <= set(before)]
    wrong += ["nothing is left"] if not left[-1] else []
    folder = pipeline.folder / "results" / "descriptors"
    details = json.loads((folder / "pass3_vif.json").read_text())
    threshold = details["parameters"]["vif_threshold"]
    wrong += [
        f"VIF of {name} is {value}"
        for name, value in details["vif_values"].items()
        if not 0.99 <= float(value) < threshold * (1 + 1e-6)
    ]
    matrix = np.load(folder / "pass2_spearman_matrix.npy")
    told = np.isfinite(matrix)
    wrong += ["a correlation is no correlation"] if (np.abs(matrix[told]) > 1 + 1e-6).any() else []
    return wrong


@pytest.mark.parametrize("count", [4, pytest.param(80, marks=pytest.mark.faults)])
def test_columns_of_any_numbers_are_selected_from_or_refused_in_one_line(count, finished, tmp_path, capfd, recorder):
    pipeline, wrong = finished("descriptors").copy(tmp_path / "run"), []
    pipeline.commands = {job: without("--source", command) for job, command in pipeline.commands.items()}
    pipeline.jobs.remove("overview")
    for path in (pipeline.folder / "data").iterdir():
        path.unlink()
    table = pipeline.folder / "data" / "part0.parquet"
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        columns = nasty(rng)
        write_table(table, columns)
        started, outcome = time.perf_counter(), "selected from"
        tale = f"seed {SEED} numbers {number}: {', '.join(columns)}"
        try:
            complaint = pipeline.run_from(0, capfd)
            if complaint is None:
                broken, chosen = promises(pipeline), lists(pipeline)
                order = rng.permutation(ROWS)
                write_table(table, {name: column[order] for name, column in columns.items()})
                if pipeline.run_from(0, capfd) is not None or lists(pipeline) != chosen:
                    broken.append(f"rows in another order: {chosen} became {lists(pipeline)}")
                if broken:
                    wrong.append(f"{tale}: {broken}")
            else:
                outcome = "refused in one line"
                if "columns were removed" not in complaint:
                    wrong.append(f"{tale}: {complaint}")
        except Exception as error:
            wrong.append(f"{tale}: {type(error).__name__}: {str(error)[-600:]}")
            outcome = "FAILED"
        recorder.add("numbers", "tables of nasty columns", outcome, time.perf_counter() - started)
    assert not wrong, "\n".join(wrong)


# ---- gradients and logits


def spoilt(value: float) -> Callable[[Runner], None]:
    def spoil(runner: Runner) -> None:
        parameters = [each for each in runner.inner.parameters() if each.grad is not None]
        parameters[0].grad.view(-1)[0] = value

    return spoil


LEARNING = ["train_classifier", "self_train 1"]


@pytest.mark.parametrize("job", LEARNING)
@pytest.mark.parametrize(
    ("value", "number"),
    [
        (math.nan, 0),
        *(
            pytest.param(value, number, marks=pytest.mark.faults)
            for value in (math.nan, math.inf, -math.inf)
            for number in range(1, 8)
        ),
    ],
)
def test_gradients_that_are_not_finite_are_left_out_or_end_in_one_line(
    job, value, number, finished, tmp_path, capfd, recorder, monkeypatch
):
    pipeline = finished("taxoclass").copy(tmp_path / "run")
    rng = random.Random(f"{SEED} gradients {number}")
    first, row = rng.randrange(2 if job == "train_classifier" else 1), [1, 2, 4, 5, 99, 5, 99, 5][number]
    gradients, step, spoil = Runner.gradients, -1, spoilt(value)

    def sometimes(self: Runner, *arguments: object) -> float:
        nonlocal step
        step += 1
        loss = gradients(self, *arguments)  # type: ignore[arg-type]
        if first <= step < first + row:
            spoil(self)
        return loss

    started = time.perf_counter()
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "gradients", sometimes)
        complaint = pipeline.run(job, capfd)
    assert step >= first
    if complaint is None:
        assert row < 5 or step < first + 4, (first, row, step)
        details = next(path for path in pipeline.outputs(job) if path.suffix == ".json")
        history = json.loads(details.read_text())["history"]
        assert sum(epoch["nonfinite_steps"] for epoch in history) == min(row, step + 1 - first)
        assert all(each is None or math.isfinite(each) for epoch in history for each in epoch.values())
        assert pipeline.run_from(pipeline.jobs.index(job) + 1, capfd) is None
        outcome = "left out and counted"
    else:
        assert row >= 5 and re.match(r"5 steps in a row had non-finite gradients .*; state kept, lower", complaint)
        assert pipeline.run_from(pipeline.jobs.index(job), capfd) is None
        outcome = "one line, then goes on"
    case = "gradients that are not finite"
    recorder.add("numbers", case, outcome, time.perf_counter() - started)


@pytest.mark.parametrize("job", LEARNING)
@pytest.mark.parametrize(
    "scale", [1e30, *(pytest.param(scale, marks=pytest.mark.faults) for scale in (-1e30, 1e4, 1e38, 0.0, 1e-38))]
)
def test_saturated_logits_end_finite_or_in_one_line(job, scale, finished, tmp_path, capfd, recorder, monkeypatch):
    pipeline = finished("taxoclass").copy(tmp_path / "run")
    logits = Runner.logits
    monkeypatch.setattr(Runner, "logits", lambda self, rows: scale * logits(self, rows))
    started = time.perf_counter()
    complaint = pipeline.run(job, capfd)
    if complaint is None:
        weights = torch.load(pipeline.folder / next(str(p) for p in pipeline.outputs(job) if p.suffix == ".pt"))
        assert all(bool(each.isfinite().all()) for each in tensors(weights))
        outcome = "weights that are finite"
    else:
        assert "non-finite gradients" in complaint, complaint
        outcome = "one line"
    recorder.add("numbers", "saturated logits", outcome, time.perf_counter() - started)


def tensors(tree: object) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree] if tree.is_floating_point() else []
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [found for item in items for found in tensors(item)]


# ---- vectors and texts


VECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all the same": lambda vectors: np.ones_like(vectors),
    "all zero": lambda vectors: np.zeros_like(vectors),
    "as large as float32 allows": lambda vectors: vectors * np.float32(1e37),
    "as small as float32 allows": lambda vectors: vectors * np.float32(1e-44),
    "some not a number": lambda vectors: np.where(
        np.arange(len(vectors))[:, None] % 3 == 1, np.float32(np.nan), vectors
    ),
    "some infinite": lambda vectors: np.where(np.arange(len(vectors))[:, None] % 3 == 1, np.float32(np.inf), vectors),
}


@pytest.mark.parametrize(
    "kind", ["all zero", *(pytest.param(kind, marks=pytest.mark.faults) for kind in VECTORS if kind != "all zero")]
)
def test_vectors_of_any_numbers_lead_to_labels_or_to_one_line(kind, finished, tmp_path, capfd, recorder, monkeypatch):
    pipeline = finished("taxoclass").copy(tmp_path / "run")
    remove(pipeline.folder / "results" / "taxoclass" / "cache")
    pooled = Encoder._pooled
    monkeypatch.setattr(Encoder, "_pooled", lambda self, inputs: lambda: VECTORS[kind](pooled(self, inputs)()))
    started = time.perf_counter()
    complaint = pipeline.run_from(0, capfd)
    if "not a number" in kind or "infinite" in kind:
        assert complaint is not None and "a vector is not finite" in complaint
    if complaint is None:
        assert np.isfinite(np.load(pipeline.folder / "results" / "taxoclass" / "predictions.npy")).all()
    recorder.add(
        "numbers", "vectors of texts", "labels" if complaint is None else "one line", time.perf_counter() - started
    )


TEXTS: dict[str, Callable[[str], str]] = {
    "all the same": lambda text: "the same old zoo",
    "all empty": lambda text: "",
    "one word": lambda text: text.split()[0] if text.split() else "",
    "one letter, long": lambda text: "a" * 20_000,
    "unknown letters": lambda text: "\u4e2d\u6587" * 20,
}


@pytest.mark.faults
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_that_say_nothing_lead_to_labels_or_to_one_line(kind, finished, tmp_path, capfd, recorder):
    pipeline = finished("taxoclass").copy(tmp_path / "run")
    pipeline.commands = {job: without("--source", command) for job, command in pipeline.commands.items()}
    train = pipeline.folder / "data" / "train.tsv"
    rows = [line.split("\t") for line in train.read_text().splitlines()]
    train.write_text("".join(f"{doc_id}\t{TEXTS[kind](text)}\n" for doc_id, text in rows))
    started = time.perf_counter()
    complaint = pipeline.run_from(0, capfd)
    recorder.add(
        "numbers",
        "texts that say nothing",
        "labels" if complaint is None else "one line",
        time.perf_counter() - started,
    )
    assert complaint is None or len(complaint.splitlines()) == 1
