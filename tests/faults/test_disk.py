"""A disk that is full at any moment: one line, and after room was made the same command ends with the same bytes."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import time

import pytest

from common import files
from faults.harness import SEED, Pipeline, remove

pytestmark = pytest.mark.xdist_group("faults")
DISK = 64 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("count", [3, pytest.param(15, marks=pytest.mark.faults)])
@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_a_full_disk_is_one_line_and_costs_one_job(
    wing, count, finished, small_disk, tmp_path, capfd, recorder, monkeypatch
):
    monkeypatch.setattr(files, "SPARE", 0)
    whole = finished(wing)
    expected, wrong = whole.bytes(), []
    for number in range(count):
        rng = random.Random(f"{SEED} disk {number}")
        pipeline = whole.copy(tmp_path / str(number))
        for name in ("results", "logs"):
            if (pipeline.folder / name).exists():
                shutil.move(pipeline.folder / name, small_disk / name)
                (pipeline.folder / name).symlink_to(small_disk / name)
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
