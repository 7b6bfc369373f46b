"""Real runs of Snakemake that are ended at any moment: the same command ends with the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.harness import SEED, Pipeline
from snakemake_runs import ENVIRONMENT, MACHINE, SNAKEMAKE

pytestmark = pytest.mark.faults
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


def start(folder: Path) -> subprocess.Popen[str]:
    command = [*SNAKEMAKE, *MACHINE]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run(folder: Path) -> tuple[int, str, float]:
    started = time.perf_counter()
    process = start(folder)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said, time.perf_counter() - started


def jobs_below(pid: int) -> list[int]:
    """The processes of scripts that a run has started."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,pgid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [
        int(each)
        for each, group, command in rows
        if int(group) == pid and re.match(r"\S*python \S.*/scripts/", command)
    ]


@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
@pytest.mark.parametrize("number", range(6))
def test_a_run_that_is_ended_anywhere_goes_on_to_the_same_bytes(wing, number, prepare, finished, recorder):
    whole: Pipeline = finished(wing)
    folder = prepare(wing)
    rng = random.Random(f"{SEED} process {number}")
    what, whom = rng.choice(sorted(SIGNALS)), ["a job", "the main process", "the group"][number % 3]
    process = start(folder)
    deadline = time.monotonic() + rng.uniform(3, 40)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    victims = jobs_below(process.pid) if whom == "a job" else [process.pid]
    with contextlib.suppress(ProcessLookupError):
        for victim in victims:
            (os.killpg if whom == "the group" else os.kill)(victim, SIGNALS[what])
    process.communicate(timeout=600)
    survivors = time.monotonic() + 120
    while jobs_below(process.pid) and time.monotonic() < survivors:
        time.sleep(0.1)  # of a main process killed alone its job goes on: it must not harm the run after it
    code, said, seconds = run(folder)
    if code and "--unlock" in said:
        subprocess.run([*SNAKEMAKE, "--unlock"], cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
        code, said, seconds = run(folder)
    tale = f"seed {SEED} process {number}: {what} to {whom}"
    assert code == 0, f"{tale}: {said}"
    made = Pipeline(folder, whole.commands).bytes()
    assert [name for name, content in whole.bytes().items() if made[name] != content] == [], tale
    assert not [path for path in (folder / "results").rglob(".*") if path.is_file()], tale
    recorder.add("the process", f"{what} to {whom}", "goes on, the same bytes", seconds)


def test_a_second_run_in_the_same_folder_is_refused_and_does_no_harm(prepare, finished, recorder):
    folder = prepare("descriptors")
    first = start(folder)
    while not (folder / "logs" / "pass0.log").exists() and first.poll() is None:
        time.sleep(0.05)
    code, said, seconds = run(folder)
    first_said, _ = first.communicate(timeout=600)
    assert code != 0 and "lock" in said.lower()
    assert first.returncode == 0, first_said
    whole = finished("descriptors")
    assert Pipeline(folder, whole.commands).bytes() == whole.bytes()
    recorder.add("the process", "two runs in one folder", "the second is refused, the same bytes", seconds)


def test_the_lock_of_a_killed_run_is_told_of_and_can_be_taken_away(prepare, finished, recorder):
    folder = prepare("descriptors")
    first = start(folder)
    while not (folder / "logs" / "pass0.log").exists() and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=600)
    assert list((folder / ".snakemake" / "locks").iterdir())
    code, said, _ = run(folder)
    assert code != 0 and "--unlock" in said
    subprocess.run([*SNAKEMAKE, "--unlock"], cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
    code, said, seconds = run(folder)
    assert code == 0, said
    whole = finished("descriptors")
    assert Pipeline(folder, whole.commands).bytes() == whole.bytes()
    recorder.add("the process", "a stale lock", "refused with its remedy, then the same bytes", seconds)


@pytest.mark.parametrize("number", range(8))
def test_a_job_without_memory_ends_and_leaves_nothing_half_made(number, finished, tmp_path, capfd, recorder):
    whole: Pipeline = finished("descriptors")
    pipeline = whole.copy(tmp_path / "run")
    rng = random.Random(f"{SEED} memory {number}")
    job = rng.choice(["pass1", "pass2", "pass3", "pass4"])
    for path in pipeline.outputs(job):
        path.unlink()
    limit = int(rng.uniform(0.3, 2.5) * 2**30)
    command = [sys.executable, *pipeline.commands[job][1:]]
    done = subprocess.run(
        command,
        cwd=pipeline.folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    left = [path for path in pipeline.outputs(job) if path.exists()]
    record = next(path for path in pipeline.outputs(job) if path.suffix == ".json")
    assert record.exists() == (done.returncode == 0), (limit, done.stderr, left)
    assert pipeline.run_from(pipeline.jobs.index(job), capfd) is None
    assert pipeline.bytes() == whole.bytes()
    recorder.add(
        "memory", "less than a job needs", "it ended, run again: the same bytes" if done.returncode else "enough"
    )
