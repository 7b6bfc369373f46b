"""A disk that is full at any moment: one line, and after room was made the same command ends with the same bytes."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from common import files
from faults.conftest import WINGS
from faults.harness import SEED, Pipeline, Recorder, remove

DISK = 64 * 2**20
FILES = 400


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk of its own, of 64 MB and 400 files, which may be filled to the last byte."""
    monkeypatch.setattr(files, "SPARE", 0)
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},nr_inodes={FILES}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def move_to(disk: Path, pipeline: Pipeline) -> None:
    """Results and logs of a run are on a disk of their own."""
    for name in ("results", "logs"):
        if (pipeline.folder / name).exists():
            shutil.move(pipeline.folder / name, disk / name)
            (pipeline.folder / name).symlink_to(disk / name)


@pytest.mark.parametrize("count", [3, pytest.param(15, marks=pytest.mark.faults)])
@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_a_full_disk_is_one_line_and_costs_one_job(wing, count, finished, small_disk, tmp_path, capfd, recorder):
    whole = finished(wing)
    expected, wrong = whole.bytes(), []
    for number in range(count):
        rng = random.Random(f"{SEED} disk {number}")
        pipeline = whole.copy(tmp_path / str(number))
        move_to(small_disk, pipeline)
        job = rng.choice([each for each in pipeline.jobs if each != "overview"])
        needed = sum(path.stat().st_size for path in pipeline.outputs(job))
        for path in pipeline.outputs(job):
            remove(path)
        free = rng.randrange(needed + 1)
        ballast = small_disk / "ballast"
        with open(ballast, "wb") as handle:
            handle.write(bytes(max(shutil.disk_usage(small_disk).free - free, 0)))
        started = time.perf_counter()
        tale = f"seed {SEED} disk {number}: {job}, {free} of {needed} bytes free"
        try:
            complaint = pipeline.run(job, capfd)
            if complaint is not None and not re.match(r".*: (cannot be written|needs) .*(free|permissions)", complaint):
                wrong.append(f"{tale}: {complaint}")
            left = [path.name for path in (small_disk / "results").rglob("*.tmp")]
            if left:
                wrong.append(f"{tale}: left {left}")
            ballast.unlink()
            assert pipeline.run_from(pipeline.jobs.index(job), capfd) is None
            if pipeline.bytes() != expected:
                wrong.append(f"{tale}: differs in the end")
            outcome = "one line, then the same bytes" if complaint else "it fitted"
        except Exception as error:
            wrong.append(f"{tale}: {type(error).__name__}: {error}")
            outcome = "FAILED"
        recorder.add("the disk", "full while a job writes", outcome, time.perf_counter() - started)
        for path in small_disk.iterdir():
            remove(path)
        shutil.rmtree(pipeline.folder)
    assert not wrong, "\n".join(wrong)


class Refused:
    """A finished run on a disk of its own, of which one job after another finds the disk in some state."""

    def __init__(self, whole: Pipeline, disk: Path, folder: Path, capture, recorder: Recorder, case: str) -> None:
        self.pipeline, self.capture, self.recorder, self.case = whole.copy(folder), capture, recorder, case
        self.jobs = [job for job in whole.jobs if job != "overview"]
        self.expected = {job: whole.made(job) for job in self.jobs}
        move_to(disk, self.pipeline)

    def each(self, count: int, refusing: Callable[[random.Random], AbstractContextManager[str]]) -> None:
        """``refusing`` brings the disk into its state, and tells of it."""
        wrong = []
        for number in range(count):
            rng = random.Random(f"{SEED} {self.case} {number}")
            job = rng.choice(self.jobs)
            if rng.random() < 0.5:
                remove(self.pipeline.folder / "results" / "taxoclass" / "cache")
            for path in self.pipeline.outputs(job):
                remove(path)
            started = time.perf_counter()
            with refusing(rng) as state:
                complaint = self.pipeline.run(job, self.capture)
            tale = f"seed {SEED} {self.case} {number}: {job}, {state}: {complaint}"
            if complaint is not None and not re.match(CANNOT, complaint):
                wrong.append(tale)
            left = [path.name for path in (self.pipeline.folder / "results").resolve().rglob("*.tmp")]
            again = complaint and self.pipeline.run(job, self.capture)
            if left or again or self.pipeline.made(job) != self.expected[job]:
                wrong.append(f"{tale}; left {left}; again: {again}; or differs in the end")
            outcome = "one line, then the same bytes" if complaint else "it fitted"
            self.recorder.add("the disk", self.case, outcome, time.perf_counter() - started)
        assert not wrong, "\n".join(wrong)


CANNOT = r"(results/.*|.*\.state.*): cannot be (written|made|removed) \(.*\); free space or permissions\?"
SHARES = [("descriptors", 3), ("taxoclass", 3)]
SHARES += [pytest.param(wing, 40, marks=pytest.mark.faults) for wing in ("descriptors", "taxoclass")]  # type: ignore[misc]


@pytest.mark.parametrize(("wing", "count"), SHARES)
def test_results_that_are_read_only_are_one_line(wing, count, finished, small_disk, tmp_path, capfd, recorder):
    @contextmanager
    def read_only(rng: random.Random) -> Iterator[str]:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        yield "read-only"
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)

    Refused(finished(wing), small_disk, tmp_path / "run", capfd, recorder, "read-only").each(count, read_only)


@pytest.mark.parametrize(("wing", "count"), SHARES)
def test_a_disk_without_room_for_another_file_is_one_line(wing, count, finished, small_disk, tmp_path, capfd, recorder):
    @contextmanager
    def few_files(rng: random.Random) -> Iterator[str]:
        free, ballast = rng.randrange(9), small_disk / "ballast"
        ballast.mkdir()
        for number in range(os.statvfs(small_disk).f_ffree - free):
            (ballast / str(number)).touch()
        yield f"{free} more files"
        remove(ballast)

    Refused(finished(wing), small_disk, tmp_path / "run", capfd, recorder, "no inode left").each(count, few_files)


@pytest.mark.parametrize(
    "wing", ["descriptors", *(pytest.param(wing, marks=pytest.mark.faults) for wing in WINGS if wing != "descriptors")]
)
def test_on_a_slow_disk_no_one_ever_sees_a_part_of_a_product(wing, finished, tmp_path, capfd, recorder, monkeypatch):
    whole: Pipeline = finished(wing)
    pipeline, seen = whole.copy(tmp_path / "run"), []
    expected, rng = whole.bytes(), random.Random(f"{SEED} slow")
    sync, replace = os.fsync, os.replace

    def look() -> None:
        """As who waits for the product: what is there is whole."""
        time.sleep(rng.uniform(0, 0.02))
        for path in pipeline.outputs(job):
            if path.exists():
                name = str(path.relative_to(pipeline.folder))
                seen.append((name, path.read_bytes() == expected[name]))

    def slow_sync(handle: int) -> None:
        look()
        sync(handle)

    def slow_replace(*paths: Path) -> None:
        look()
        replace(*paths)
        look()

    for job in pipeline.jobs:
        for path in pipeline.outputs(job):
            remove(path)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", slow_sync)
            patch.setattr(files.os, "replace", slow_replace)
            started = time.perf_counter()
            assert pipeline.run(job, capfd) is None
        recorder.add("the disk", "slow", "never a part of a product, the same bytes", time.perf_counter() - started)
    assert seen and all(whole for _, whole in seen), seen
    assert pipeline.bytes() == expected


@pytest.mark.faults
@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_a_job_ended_before_any_of_its_files_is_in_place_goes_on(
    wing, finished, tmp_path, capfd, recorder, monkeypatch
):
    whole: Pipeline = finished(wing)
    pipeline = whole.copy(tmp_path / "run")
    replace, left = files.os.replace, 0

    def ended(*paths):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", ended)
    for job in pipeline.jobs:
        for before in itertools.count():
            left = before
            try:
                assert pipeline.run(job, capfd) is None
                break
            except KeyboardInterrupt:
                recorder.add("the process", "ended before a file is in its place", "goes on, the same bytes")
    assert pipeline.bytes() == whole.bytes()
