"""Too little memory, the host's or the card's: one line that says so, and what was kept stays good."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from common import arrays, files
from common.arrays import Accelerator
from descriptors import ranks_on_card
from faults.conftest import WINGS
from faults.harness import Pipeline, Place, Struck, in_a_child, main_of, remove, struck, without
from taxoclass.inference import Loaded
from taxoclass.training import Runner

EVERYWHERE = [pytest.param(wing, 40, marks=pytest.mark.faults) for wing in WINGS]
TOLD = r"out of memory( \(.*\))?; state kept, give .* and run the same command again$"


@pytest.mark.parametrize(("wing", "count"), [("descriptors", 4), ("taxoclass", 4), *EVERYWHERE])
def test_a_lack_of_memory_at_any_call_is_one_line(wing, count, finished, tmp_path, capfd, recorder):
    pipeline = finished(wing).copy(tmp_path / "run")

    def strike(job: str, place: Place, call: int) -> str | None:
        def refuse() -> None:
            raise MemoryError("Unable to allocate 7.00 GiB")

        with struck(place, call, refuse):
            complaint = pipeline.run(job, capfd)
        if complaint is None and place.file == "taxoclass/metrics_log.py":
            return None  # a logger is left out
        return None if re.match(TOLD, complaint or "") else f"says {complaint}"

    Struck(pipeline, capfd, recorder, "no memory").each(count, strike)


ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 7")
ON_CPU_TOO = MemoryError("Unable to allocate 7.00 GiB for an array")
READERS = {
    "arrays": ("pass3", files.np, "load", ON_CPU_TOO),
    "a table": ("pass0", pq, "read_metadata", pa.ArrowMemoryError("malloc of size 7 failed")),
    "columns": ("pass1", pq, "ParquetFile", pa.ArrowMemoryError("malloc of size 7 failed")),
    "the corpus": ("similarity", pq, "read_table", pa.ArrowMemoryError("malloc of size 7 failed")),
    "the cache": ("similarity", files.np, "load", ON_CPU_TOO),
    "a model": ("similarity", AutoModel, "from_pretrained", ON_CPU),
    "a tokenizer": ("similarity", AutoTokenizer, "from_pretrained", ON_CPU_TOO),
    "a bundle": ("self_train 2", torch, "load", ON_CPU),
}


@pytest.mark.parametrize("what", READERS)
def test_what_does_not_fit_in_memory_is_not_taken_for_damaged(what, finished, tmp_path, capfd, recorder, monkeypatch):
    job, module, name, error = READERS[what]
    whole: Pipeline = finished("descriptors" if job.startswith("pass") else "taxoclass")
    pipeline = whole.copy(tmp_path / "run")
    cache = sorted(path for path in (pipeline.folder / "results").rglob("cache/**/*") if path.is_file())

    def refuse(*_, **__):
        raise error

    started = time.perf_counter()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        complaint = pipeline.run(job, capfd)
    assert complaint is not None and re.match(TOLD, complaint), complaint
    assert re.search(r"(results|data|models)/\S+: ", complaint), complaint
    assert all(path.exists() for path in cache)
    assert pipeline.run_from(pipeline.jobs.index(job), capfd) is None
    assert pipeline.bytes() == whole.bytes()
    recorder.add("memory", f"too little to read {what}", "one line, then the same bytes", time.perf_counter() - started)


def bomb_of_rows(folder: Path) -> None:
    """A Parquet file of some kilobytes whose columns take half a gigabyte each."""
    rows, columns = 2 * 10**6, {"m0": pa.string(), "a": pa.float64(), "b": pa.float64()}
    same = pa.table(
        {name: pa.repeat(pa.scalar("x" if name == "m0" else 1.5, kind), rows) for name, kind in columns.items()}
    )
    with pq.ParquetWriter(folder / "data" / "part0.parquet", same.schema) as writer:
        for _ in range(30):
            writer.write_table(same, row_group_size=rows)
    for path in (folder / "data").glob("part[12].parquet"):
        path.unlink()


def bomb_of_text(folder: Path) -> None:
    """Half a gigabyte of one letter, compressed to next to nothing."""
    text = pa.array(["x" * 10**8] * 5)
    table = pa.table({"doc_id": [f"d{number}" for number in range(5)], "text": text})
    pq.write_table(table, folder / "data" / "train.parquet", compression="zstd", use_dictionary=False)


BOMBS = {
    "descriptors": (bomb_of_rows, "pass1", "part0.parquet"),
    "taxoclass": (bomb_of_text, "check_corpus", "train.parquet"),
}


@pytest.mark.faults
@pytest.mark.parametrize("wing", BOMBS)
def test_a_small_file_that_unpacks_to_more_than_the_memory_is_one_line(wing, finished, tmp_path, capfd, recorder):
    pipeline, said = finished(wing).copy(tmp_path / "run"), tmp_path / "said"
    fill, job, name = BOMBS[wing]
    fill(pipeline.folder)
    assert (pipeline.folder / "data" / name).stat().st_size < 10**7
    command = [each.replace("train.tsv", "train.parquet") for each in pipeline.commands[job]]
    pipeline.commands |= {
        "pass0": without("--source", pipeline.commands.get("pass0", [])),
        job: without("--source", command),
    }
    if wing == "descriptors":
        assert pipeline.run("pass0", capfd) is None
    for path in pipeline.outputs(job):
        remove(path)

    def act() -> None:
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        main_of(pipeline, job)

    started = time.perf_counter()
    code, told = in_a_child(act, said), said.read_text().splitlines()
    assert code == 2 and re.match(rf"{job}: {TOLD}", told[-1]), told
    assert not any(path.exists() for path in pipeline.outputs(job))
    recorder.add("inputs", "a file that unpacks to gigabytes", "refused in one line", time.perf_counter() - started)


# ---- the card's


class OutOfMemoryError(MemoryError):
    """CuPy's, by name."""


class Small(Accelerator):
    """A card, with NumPy in CuPy's place, on which no block of more than ``rows`` rows fits."""

    def __init__(self, rows: int, warn: Callable[[str], None]) -> None:
        super().__init__(np, 10**9, 2, warn)
        self.rows = rows

    def upload(self, blocks):
        for block in super().upload(blocks):
            if block.shape[1] > self.rows:
                raise OutOfMemoryError
            yield block


SIZES = [1, 2, 3, 5, 13, 34, 89, 233, 610]


@pytest.mark.parametrize("rows", [0, 55, *(pytest.param(rows, marks=pytest.mark.faults) for rows in SIZES)])
@pytest.mark.parametrize("job", ["pass1", "pass2", "pass4"])
def test_a_card_of_any_size_gives_the_same_bytes_or_one_line(
    job, rows, finished, tmp_path, capfd, recorder, monkeypatch
):
    whole: Pipeline = finished("descriptors")
    pipeline = whole.copy(tmp_path / "run")
    sort = ranks_on_card._sort

    def sorted_if_it_fits(card: Accelerator, column: np.ndarray, size: int) -> ranks_on_card.Sorted:
        if len(column) > rows:
            raise OutOfMemoryError
        return sort(card, column, size)

    monkeypatch.setattr(arrays.gc, "collect", lambda: 0)  # which takes its time where torch is loaded
    monkeypatch.setattr(ranks_on_card, "_sort", sorted_if_it_fits)
    monkeypatch.setattr(f"{job}.open_arrays", lambda stage: Small(rows, stage.warn))
    started = time.perf_counter()
    complaint = pipeline.run(job, capfd)
    if complaint is not None:
        assert rows == 0 and re.match(r"out of memory on the card with one of rows at a time; .*device: cpu", complaint)
        monkeypatch.undo()
        assert pipeline.run(job, capfd) is None
    assert complaint or rows or job == "pass1"  # which the CPU does, then
    assert pipeline.made(job) == whole.made(job)
    outcome = "one line, then the same bytes" if complaint else "in smaller parts, the same bytes"
    recorder.add("memory", f"{job}: no more than some rows on the card", outcome, time.perf_counter() - started)


BATCHES = [1, 2, 3, 4, *range(6, 17)]  # of at most 16 documents


@pytest.mark.parametrize("most", [0, 5, *(pytest.param(most, marks=pytest.mark.faults) for most in BATCHES)])
@pytest.mark.parametrize("job", ["similarity", "train_classifier", "self_train 1"])
def test_a_card_that_holds_any_number_of_texts_gives_the_same_answers_or_one_line(
    job, most, finished, tmp_path, capfd, recorder, monkeypatch
):
    whole: Pipeline = finished("taxoclass")
    pipeline = whole.copy(tmp_path / "run")
    remove(pipeline.folder / "results" / "taxoclass" / "cache")
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    tried = []

    def only(size: int) -> None:
        tried.append(size)
        if size > most:
            raise full

    forward, logits = Loaded.forward, Runner.logits
    monkeypatch.setattr(
        Loaded, "forward", lambda self, inputs: (only(len(inputs["input_ids"])), forward(self, inputs))[1]
    )
    monkeypatch.setattr(Runner, "logits", lambda self, rows: (only(len(rows)), logits(self, rows))[1])
    started = time.perf_counter()
    complaint = pipeline.run(job, capfd)
    if complaint is None:
        assert most and (max(tried) > most or most >= 16)
        # sums of other batches are rounded otherwise
        for (name, now), then in zip(pipeline.made(job).items(), whole.made(job).values(), strict=True):
            if name.endswith(".npz"):
                close(pipeline.folder / name, whole.folder / name)
            elif name.endswith(".json"):
                assert now is not None and then is not None
                assert numbers(json.loads(now)) == pytest.approx(numbers(json.loads(then)), rel=1e-2, abs=1e-3)
        outcome = "in smaller batches, the same answers"
    else:
        assert most == 0 and re.match(r".*out of memory with one (text|document)", complaint), complaint
        monkeypatch.undo()
        assert pipeline.run(job, capfd) is None
        assert pipeline.made(job) == whole.made(job)
        outcome = "one line, then the same bytes"
    recorder.add(
        "memory", f"{job.split()[0]}: no more than some texts on the card", outcome, time.perf_counter() - started
    )


def close(made: Path, expected: Path) -> None:
    with np.load(made) as one, np.load(expected) as other:
        for name in other.files:
            if other[name].dtype.kind == "f":
                np.testing.assert_allclose(one[name], other[name], atol=1e-4)
            else:
                assert np.array_equal(one[name], other[name]), name


def numbers(tree: object) -> list[float]:
    """All fractions in what a job tells of its learning."""
    if isinstance(tree, dict):
        return [each for value in tree.values() for each in numbers(value)]
    if isinstance(tree, list):
        return [each for value in tree for each in numbers(value)]
    return [tree] if isinstance(tree, float) else []
