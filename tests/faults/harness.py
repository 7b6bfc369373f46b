"""Faults in a run, and what its user would then do: the jobs' own command lines in this process, without Snakemake.

A fault is drawn from a seed that is told with every failure. After it the same command is given again, as often as a
one-line error asks for it, and its advice is followed. What counts is the end: the bytes of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import yaml

import conftest
from common import files
from common.errors import UserError
from snakemake_runs import MACHINE, DryRuns, commands, succeeded
from tiny_taxoclass import Outcome, call, inside

SEED = int(os.environ.get("FAULTS_SEED", "0"))
RECORD = os.environ.get("FAULTS_RECORD")
DAMAGES = ("bit flipped", "cut short", "emptied", "removed", "replaced by a folder", "of another run", "of a neighbour")
# not looked at where no job reads them: no results, or read column by column
UNSEEN = ("pass0_sampling.json", "pass1_codes.npy", "pass1_codes_fine.npy")
ATTEMPTS = 10  # of the same command, each of which follows the advice of the one before


@dataclass
class Recorder:
    """What came of each kind of fault; written to ``FAULTS_RECORD`` after each."""

    cases: dict[tuple[str, str], dict] = field(default_factory=dict)

    def add(self, family: str, case: str, outcome: str, seconds: float | None = None) -> None:
        entry = self.cases.setdefault((family, case), {"outcomes": {}, "seconds": []})
        entry["outcomes"][outcome] = entry["outcomes"].get(outcome, 0) + 1
        if seconds is not None:
            entry["seconds"].append(round(seconds, 1))
        if RECORD:
            self.write(RECORD)

    def write(self, path: str) -> None:
        cases = [{"family": family, "case": case, **entry} for (family, case), entry in sorted(self.cases.items())]
        Path(path).write_text(json.dumps({"seed": SEED, "cases": cases}) + "\n")


def configure(folder: Path, config: dict) -> None:
    """The workflow in a folder of its own, with a config."""
    conftest.copy_workflow(folder)
    (folder / "config").mkdir()
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))


class Pipeline:
    """A finished run in a folder, and the command line of each of its jobs, in order."""

    def __init__(self, folder: Path, commands: dict[str, list[str]]) -> None:
        self.folder, self.commands, self.jobs = folder, commands, list(commands)

    @classmethod
    def finish(cls, folder: Path, dry_runs: DryRuns, capture: pytest.CaptureFixture[str]) -> Pipeline:
        said = succeeded(dry_runs(folder, *MACHINE, "--printshellcmds", "--forceall"))
        # the report tells times, and nothing reads it
        pipeline = cls(folder, {job: command for job, command in commands(said).items() if job != "report"})
        assert pipeline.run_from(0, capture) is None
        return pipeline

    def copy(self, folder: Path) -> Pipeline:
        shutil.copytree(self.folder, folder)
        return Pipeline(folder, dict(self.commands))

    def outputs(self, job: str, like: str = "--out-") -> list[Path]:
        given = itertools.pairwise(self.commands[job])
        return [self.folder / value for flag, value in given if flag.startswith(like)]

    def products(self) -> dict[Path, str]:
        """All of them with the job that makes them; a path that is in two command lines belongs to the first."""
        made: dict[Path, str] = {}
        for job in self.jobs:
            for path in self.outputs(job):
                made.setdefault(path, job)
        return made

    def made(self, job: str) -> dict[str, bytes | None]:
        """What a job has written, by name; None = nothing."""
        there = self.outputs(job)
        return {str(each.relative_to(self.folder)): each.read_bytes() if each.exists() else None for each in there}

    def bytes(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in self.products()}

    def start(self) -> str | None:
        """What the rules say before anything runs."""
        with inside(self.folder):
            try:
                details = [path for job in self.jobs if job != "predict" for path in self.outputs(job, "--out-details")]
                products, chain = (
                    [path.relative_to(self.folder) for path in each] for each in (self.products(), details)
                )
                files.check_results(products, chain)
            except UserError as error:
                return str(error)
        return None

    def run(self, job: str, capture: pytest.CaptureFixture[str]) -> str | None:
        """Its complaint, if it has one: its outputs are then gone, as Snakemake has it."""
        for path in self.outputs(job):
            remove(path)
        command = self.commands[job]
        with inside(self.folder):
            outcome: Outcome = call(Path(command[1]).stem, command[2:], capture)
        if outcome.code == 0:
            return None
        for path in self.outputs(job):
            remove(path)
        return outcome.complaint.partition(": ")[2]

    def run_from(self, first: int, capture: pytest.CaptureFixture[str]) -> str | None:
        complaints = (self.run(job, capture) for job in self.jobs[first:])
        return next((complaint for complaint in complaints if complaint is not None), None)

    def recover(self, first: int | None, checked: bool, capture: pytest.CaptureFixture[str]) -> list[str]:
        """The same command until it succeeds, doing what each complaint says; the complaints.

        first : the job that has to run again anyway. checked : whether the damage was there when the run began.
        """
        complaints: list[str] = []
        while len(complaints) < ATTEMPTS:
            complaint = self.start() if checked else None
            if complaint is None:
                lacking = [
                    number
                    for number, job in enumerate(self.jobs)
                    if not all(path.exists() for path in self.outputs(job))
                ]
                todo = [*lacking, *([] if first is None else [first])]
                complaint = self.run_from(min(todo), capture) if todo else None
            if complaint is None:
                return complaints
            complaints.append(complaint)
            first = None
            remove(self.folder / named(complaint))
        raise AssertionError(f"no end to it: {complaints}")


def named(complaint: str) -> str:
    """The file that a complaint is about, which it says may be deleted."""
    found = re.match(r"(results/[^:]+): .*; (delete it and run the same command again)$", complaint)
    assert found, complaint
    return found[1]


def without(flag: str, command: list[str]) -> list[str]:
    """A command line without a flag and its value."""
    at = command.index(flag) if flag in command else len(command)
    return command[:at] + command[at + 2 :]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():  # a disk that is read-only refuses to remove even nothing
        path.unlink()


# ---- faults inside a job, at a call of one of the scripts' functions


SCRIPTS = str(conftest.ROOT / "scripts") + os.sep


class Place(NamedTuple):
    """A function of the scripts."""

    file: str
    function: str


@contextlib.contextmanager
def watching(see: Callable[[Place], None]) -> Iterator[None]:
    """``see`` is told of every call of a function of the scripts, once the work of a script began; it may raise."""
    begun = False

    def called(frame: FrameType, event: str, _: Any) -> None:
        nonlocal begun
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if event == "call" and file.startswith(SCRIPTS):
            begun = begun or function == "work"
            if begun:
                see(Place(file.removeprefix(SCRIPTS), function))

    threading.setprofile(called)
    sys.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@contextlib.contextmanager
def struck(place: Place, number: int, strike: Callable[[], None]) -> Iterator[None]:
    """``strike`` comes at one call of one function, counted from 0."""
    left = number

    def see(each: Place) -> None:
        nonlocal left
        if each == place:
            left -= 1
            if left == -1:
                strike()

    with watching(see):
        yield


def calls(pipeline: Pipeline, job: str, capture: pytest.CaptureFixture[str]) -> Counter[Place]:
    """How often a job calls what, undisturbed."""
    counted: Counter[Place] = Counter()
    with watching(lambda place: counted.update([place])):
        assert pipeline.run(job, capture) is None
    return counted


def in_a_child(act: Callable[[], None], said: str | Path = os.devnull, seconds: int = 120) -> int:
    """What ``act`` does in a copy of this process; its exit code, negative: the signal that ended it.

    ``act`` ends it by itself, or by SystemExit; after ``seconds`` it is ended. What it says goes to the file ``said``.
    """
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 70  # an error that no one caught
        try:
            signal.alarm(seconds)
            for stream in (1, 2):
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
            act()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main_of(pipeline: Pipeline, job: str) -> None:
    """A job's own program, in this process and folder."""
    command = pipeline.commands[job]
    os.chdir(pipeline.folder)
    sys.argv = command[1:]
    importlib.import_module(Path(command[1]).stem).main()


def do_damage(path: Path, kind: str, other: Path, neighbours: list[Path], rng: random.Random) -> str:
    """Damage a file; what was done, in words."""
    content = path.read_bytes()
    if kind == "bit flipped":
        bit = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        return f"bit {bit}"
    if kind == "cut short":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "of another run":
        shutil.copy(other, path)
    elif kind == "of a neighbour":
        shutil.copy(rng.choice(neighbours), path)
    else:
        remove(path)
        if kind == "replaced by a folder":
            path.mkdir()
    return f"{kind} ({path.stat().st_size} bytes)" if path.exists() else kind


def inject(
    finished: Pipeline,
    other: Pipeline,
    scratch: Path,
    count: int,
    capture: pytest.CaptureFixture[str],
    recorder: Recorder,
) -> Iterator[str]:
    """Damage one product after another, each in a fresh copy of a finished run; tells which went wrong."""
    expected = finished.bytes()
    for number in range(count):
        rng = random.Random(f"{SEED} {number}")
        pipeline = finished.copy(scratch / str(number))
        products = pipeline.products()
        target = rng.choice([path for path in products if path.suffix != ".png" and path.exists()])
        same = [path for path in products if path.suffix == target.suffix and path != target and path.exists()]
        kind = rng.choice(DAMAGES if same else DAMAGES[:-1])
        what = do_damage(target, kind, other.folder / target.relative_to(pipeline.folder), same, rng)
        after = pipeline.jobs.index(products[target]) + 1
        first = rng.choice([*range(after, len(pipeline.jobs)), None])
        checked = first is None or rng.random() < 0.3
        name = target.relative_to(pipeline.folder).as_posix()
        tale = f"seed {SEED} {number}: {name}, {what}, from {first and pipeline.jobs[first]}, checked {checked}"
        started = time.perf_counter()
        try:
            complaints = pipeline.recover(first, checked, capture)
            found = {path.relative_to(pipeline.folder).as_posix(): path for path in products}
            unread = (
                {name} if not complaints and (not checked or name.endswith(UNSEEN) or "/shards/" in name) else set()
            )
            wrong = [path for path in expected.keys() - unread if found[path].read_bytes() != expected[path]]
            if wrong:
                yield f"{tale}: differs in the end: {wrong}; {complaints}"
            outcome = "named in one line, then the same bytes" if complaints else "not read, the same results"
            outcome = "made again, the same bytes" if kind == "removed" and not complaints else outcome
        except Exception as error:
            yield f"{tale}: {type(error).__name__}: {error}"
            outcome = "FAILED"
        recorder.add("a product", kind, outcome, time.perf_counter() - started)
        shutil.rmtree(pipeline.folder)


def draw(counted: dict[Place, int], rng: random.Random) -> tuple[Place, int, str]:
    """A call: every second time one that is made again and again."""
    looped = rng.random() < 0.5
    places = sorted(place for place, count in counted.items() if count > 2 or not looped)
    place = rng.choice(places or sorted(counted))
    return place, rng.randrange(counted[place]), "in a loop" if counted[place] > 2 else "between loops"


class Struck:
    """A finished run, of which one job after another is struck and run again; what went wrong is told at the end."""

    def __init__(self, pipeline: Pipeline, capture: pytest.CaptureFixture[str], recorder: Recorder, what: str) -> None:
        self.pipeline, self.capture, self.recorder, self.what = pipeline, capture, recorder, what
        self.jobs = [job for job in pipeline.jobs if job != "overview"]
        self.counted = {job: calls(pipeline, job, capture) for job in self.jobs}
        self.expected = {job: pipeline.made(job) for job in self.jobs}
        self.wrong: list[str] = []

    def each(self, count: int, strike: Callable[[str, Place, int], str | None]) -> None:
        """``strike`` ends a job, and may say what is wrong about the way it did."""
        for number in range(count):
            rng = random.Random(f"{SEED} {self.what} {number}")
            job = rng.choice(self.jobs)
            place, call, where = draw(self.counted[job], rng)
            tale = f"seed {SEED} {self.what} {number}: {job}, call {call} of {place.file} {place.function}"
            started, outcome = time.perf_counter(), "goes on, the same bytes"
            try:
                for path in self.pipeline.outputs(job):
                    remove(path)
                complaint = strike(job, place, call)
                again = self.pipeline.run(job, self.capture)
                differs = self.pipeline.made(job) != self.expected[job]
                left = [path.name for path in (self.pipeline.folder / "results").rglob("*.tmp")]
                if complaint or again or differs or left:
                    self.wrong.append(f"{tale}: {complaint}; again: {again}; differs: {differs}; left: {left}")
                    outcome = "FAILED"
            except Exception as error:
                self.wrong.append(f"{tale}: {type(error).__name__}: {error}")
                outcome = "FAILED"
            family = "memory" if "memory" in self.what else "the process"
            self.recorder.add(family, f"{self.what} {where}", outcome, time.perf_counter() - started)
        assert not self.wrong, "\n".join(self.wrong)
