"""What a run cannot choose: loggers, networks, clocks, languages, users, names of folders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from conftest import ROOT
from faults.harness import SEED, Pipeline, in_a_child, main_of, remove
from snakemake_runs import ENVIRONMENT
from taxoclass import metrics_log

WINGS = [pytest.param(wing, marks=mark) for wing, mark in (("descriptors", ()), ("taxoclass", pytest.mark.faults))]


def rerun(pipeline: Pipeline, whole: Pipeline, capture: pytest.CaptureFixture[str]) -> None:
    """All jobs again, to the same bytes."""
    assert pipeline.run_from(0, capture) is None
    assert pipeline.bytes() == whole.bytes()


# ---- loggers


class Bad:
    """A logger that fails at the first, or at a later, of what is asked of it."""

    def __init__(self, when: str) -> None:
        self.when, self.left = when, 5 if when == "later" else 1
        self.meet("opening")

    def meet(self, now: str) -> None:
        if now == "writing":
            self.left -= 1
        if now == self.when or (now == "writing" and self.left <= 0 and self.when in ("writing", "later")):
            self.fail()

    def fail(self) -> None:
        raise OSError("no network")

    def write(self, record: dict[str, object]) -> None:
        self.meet("writing")

    def close(self) -> None:
        self.meet("closing")


class Hanging(Bad):
    end = threading.Event()

    def fail(self) -> None:
        self.end.wait()


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (Hanging, "writing"),
        *(
            pytest.param(kind, when, marks=pytest.mark.faults)
            for kind in (Bad, Hanging)
            for when in ("opening", "writing", "later", "closing")
            if (kind, when) != (Hanging, "writing")
        ),
    ],
)
@pytest.mark.parametrize("job", ["train_classifier", "self_train 1"])
def test_a_logger_that_raises_or_hangs_is_left_out(job, kind, when, finished, tmp_path, capfd, recorder, monkeypatch):
    whole: Pipeline = finished("taxoclass")
    pipeline = whole.copy(tmp_path / "run")
    pipeline.commands |= {job: [*pipeline.commands[job], "--loggers", "wandb"]}
    monkeypatch.setitem(metrics_log.SINKS, "wandb", lambda folder: kind(when))
    monkeypatch.setattr(metrics_log, "PATIENCE", 0.2)
    kind_of_end = threading.Event()
    monkeypatch.setattr(Hanging, "end", kind_of_end)
    started = time.perf_counter()
    done = threading.Timer(60, kind_of_end.set)  # so that a hang ends, and is one
    done.start()
    try:
        assert pipeline.run(job, capfd) is None
        assert not kind_of_end.is_set(), "it hung"
    finally:
        done.cancel()
        kind_of_end.set()
    assert pipeline.made(job) == whole.made(job)
    what = "hangs" if kind is Hanging else "raises"
    recorder.add("outside", f"a logger that {what}", "left out, the same bytes", time.perf_counter() - started)


# ---- network, clock


@pytest.mark.parametrize("wing", WINGS)
def test_no_network_is_asked_for(wing, finished, tmp_path, capfd, recorder, monkeypatch):
    whole = finished(wing)
    pipeline = whole.copy(tmp_path / "run")

    def refuse(*_, **__):
        raise OSError("network is unreachable")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    started = time.perf_counter()
    rerun(pipeline, whole, capfd)
    recorder.add("outside", "no network", "the same bytes", time.perf_counter() - started)


@pytest.mark.parametrize("wing", WINGS)
@pytest.mark.parametrize("number", [0, *(pytest.param(each, marks=pytest.mark.faults) for each in range(1, 8))])
def test_a_clock_that_jumps_changes_nothing(wing, number, finished, tmp_path, capfd, recorder, monkeypatch):
    whole = finished(wing)
    pipeline = whole.copy(tmp_path / "run")
    rng = random.Random(f"{SEED} clock {number}")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + rng.uniform(-(10**9), 10**9))
    started = time.perf_counter()
    for job in pipeline.jobs:
        assert pipeline.run(job, capfd) is None
        for path in pipeline.outputs(job):
            at = clock() + rng.uniform(-(10**9), 10**9)
            os.utime(path, (at, at))
    assert pipeline.bytes() == whole.bytes()
    assert pipeline.start() is None  # nor is it taken for damage
    recorder.add("outside", "a clock that jumps", "the same bytes", time.perf_counter() - started)


# ---- language, names


ALL_JOBS = """
import importlib, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
for command in json.loads(Path(sys.argv[2]).read_bytes()):
    sys.argv = command[1:]
    importlib.import_module(Path(command[1]).stem).main()
"""
LANGUAGES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "LANG": "C"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"},
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "COLUMNS": "1", "TERM": "dumb"},
]


@pytest.mark.parametrize("wing", WINGS)
@pytest.mark.parametrize(
    "language", [0, *(pytest.param(each, marks=pytest.mark.faults) for each in range(1, len(LANGUAGES)))]
)
def test_another_language_changes_nothing(wing, language, finished, tmp_path, recorder):
    whole = finished(wing)
    pipeline = whole.copy(tmp_path / "ein Ordner mit Umlauten äöü und 中文")
    for path in pipeline.products():
        remove(path)
    (tmp_path / "commands.json").write_text(json.dumps([pipeline.commands[job] for job in pipeline.jobs]))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", ALL_JOBS, str(ROOT / "scripts"), str(tmp_path / "commands.json")],
        cwd=pipeline.folder,
        env={name: value for name, value in ENVIRONMENT.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
        | LANGUAGES[language],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert pipeline.bytes() == whole.bytes()
    recorder.add("outside", "another locale", "the same bytes", time.perf_counter() - started)


# ---- users and masks


@pytest.mark.parametrize("wing", WINGS)
@pytest.mark.parametrize(
    "mask", [0o777, *(pytest.param(each, marks=pytest.mark.faults) for each in (0o077, 0o000, 0o377))]
)
def test_any_umask_leads_to_the_same_bytes(wing, mask, finished, tmp_path, capfd, recorder):
    whole = finished(wing)
    pipeline = whole.copy(tmp_path / "run")
    before, started = os.umask(mask), time.perf_counter()
    try:
        if mask == 0o777 and os.geteuid():
            pytest.skip("what only root can read")
        assert pipeline.run_from(0, capfd) is None
    finally:
        os.umask(before)
    assert pipeline.bytes() == whole.bytes()
    recorder.add("outside", "a umask", "the same bytes", time.perf_counter() - started)


NOBODY = 65534


@contextlib.contextmanager
def anyones(pipeline: Pipeline):
    """A copy of a run where any user may go."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Pipeline(Path(shutil.copytree(pipeline.folder, Path(name) / "run")), pipeline.commands)


def as_nobody(pipeline: Pipeline, job: str, said: Path, mask: int = 0o022) -> int:
    """A job of a user without rights, who is started where the run is."""

    def act() -> None:
        os.umask(mask)
        os.chdir(pipeline.folder)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        main_of(pipeline, job)

    remove(said)
    return in_a_child(act, said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("wing", WINGS)
@pytest.mark.parametrize("place", ["their own", "results of another", "inputs of another"])
def test_a_user_without_rights_has_the_same_bytes_or_one_line(wing, place, finished, tmp_path, recorder):
    whole: Pipeline = finished(wing)
    said, started = tmp_path / "said", time.perf_counter()
    with anyones(whole) as pipeline:
        jobs = [job for job in pipeline.jobs if job != "overview"]
        for path in [pipeline.folder, *pipeline.folder.rglob("*")]:
            if place == "their own" and not path.is_symlink():
                os.chown(path, NOBODY, NOBODY)
        first = jobs[0]
        if place == "inputs of another":
            for path in (pipeline.folder / "data").iterdir():
                path.chmod(0)
        for job in jobs if place == "their own" else [first]:
            for path in pipeline.outputs(job):
                remove(path)
            code = as_nobody(pipeline, job, said)
            told = said.read_text().splitlines()
            if place == "their own":
                assert code == 0, told
            else:
                assert code == 2 and "Permission denied" in told[-1], told
                assert not any(path.exists() for path in pipeline.outputs(job))
        if place == "their own":
            assert all(pipeline.made(job) == whole.made(job) for job in jobs)
    outcome = "the same bytes" if place == "their own" else "one line"
    recorder.add("outside", f"a user without rights, {place}", outcome, time.perf_counter() - started)
