"""Both pipelines in shards on a real Slurm of one node: grants, order, loss and return of jobs, and the same bytes.

One run is hurt on its way: a job is cancelled, another killed, the run itself interrupted and started again. The tests
look at what came of it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import one_node_slurm as slurm
from both_wings import HERE, PRODUCTS, SHORT, Project
from conftest import ROOT
from snakemake_runs import ended

pytestmark = pytest.mark.slurm

# without accounting Slurm answers through squeue; the jobs are short
ON_SLURM = [
    "--workflow-profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "10",
]  # fmt: skip
CLUSTER = ROOT / "docs" / "cluster.md"
KILLS = int(os.environ.get("KILLS", "0"))


def hurt_on_its_way(
    project: Project, run: subprocess.Popen[str], *harms: tuple[str, Callable[[slurm.Job], None]]
) -> list[slurm.Job]:
    """Do something to the first job of each of some rules as soon as it runs; these jobs."""
    met: dict[str, slurm.Job] = {}
    deadline = time.monotonic() + SHORT
    while len(met) < len(harms):
        for rule, harm in harms:
            if rule not in met and (job := slurm.running(rule)):
                harm(job)
                met[rule] = job
        assert run.poll() is None and time.monotonic() < deadline, project.said[-5000:]
        time.sleep(0.1)
    return [met[rule] for rule, _ in harms]


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[None]:
    if why_not := slurm.why_not():
        pytest.skip(why_not)
    if " " in sys.executable:
        pytest.skip(
            "Snakemake does not quote its Python in a job of a cluster: use an environment in a path without spaces"
        )
    with slurm.started(tmp_path_factory.mktemp("slurm")):
        yield


@dataclass
class Hurt:
    """A run that was hurt: its project, what it was to give, its jobs, what each of its two starts did."""

    project: Project
    expected: dict[str, bytes]
    jobs: list[slurm.Job]
    cancelled: slurm.Job
    killed: slurm.Job
    first: list[str]
    second: list[str]


@pytest.fixture(scope="module")
def hurt(node, tmp_path_factory) -> Hurt:
    folder = tmp_path_factory.mktemp("projects")
    here, project = Project.create(folder / "here"), Project.create(folder / "a cluster")
    reference = here.start(*HERE)
    run = project.start(*ON_SLURM)
    cancelled, killed, _ = hurt_on_its_way(
        project,
        run,
        ("pass1_shard", slurm.cancel),
        ("similarity_shard", slurm.kill),
        ("train_classifier", lambda job: run.send_signal(signal.SIGINT)),
    )
    assert run.wait(SHORT) != 0
    slurm.cancel_all()
    first = ended(project.said)
    second = project.run(*ON_SLURM)
    assert reference.wait(SHORT) == 0, here.said[-5000:]
    return Hurt(project, here.bytes(), slurm.jobs(), cancelled, killed, first, second)


def test_the_result_is_that_of_a_run_on_one_machine_byte_for_byte(hurt):
    assert sorted(hurt.expected) == sorted(PRODUCTS)
    assert hurt.project.bytes() == hurt.expected


def test_each_job_is_granted_what_its_rule_asks_for(hurt):
    asked = {"pass1_shard 1": 480, "pass4_shard 2": 480, "similarity_shard 1": 1440, "train_classifier": 1440}
    for rule, minutes in asked.items():
        granted = {(job.gpus, job.memory, job.minutes) for job in hurt.jobs if job.rule == rule}
        assert granted == {(1, "40000M", minutes)}, rule
    [pass3] = {(job.gpus, job.memory, job.minutes) for job in hurt.jobs if job.rule == "pass3"}
    assert pass3 == (0, "8000M", 60)


def overlapping(jobs: list[slurm.Job]) -> list[tuple[str, str]]:
    ran = sorted((job for job in jobs if job.end > job.start), key=lambda job: job.start)
    return [
        (one.rule, other.rule) for at, one in enumerate(ran) for other in ran[at + 1 :] if other.start < one.end
    ]  # fmt: skip


def test_gpu_jobs_never_overlap_and_cpu_jobs_do(hurt):
    assert overlapping([job for job in hurt.jobs if job.gpus]) == []
    assert ("pass0", "check_corpus") in [tuple(sorted(pair, reverse=True)) for pair in overlapping(hurt.jobs)]


def test_shards_are_jobs_of_their_own_and_merges_are_none(hurt):
    rules = {job.rule for job in hurt.jobs}
    assert {f"{stage}_shard {k}" for stage in ("pass1", "pass2", "pass4", "similarity") for k in (1, 2)} <= rules
    assert not rules & {"pass1", "pass2", "pass4", "similarity", "overview", "evaluate"}
    assert {"pass1", "pass2", "pass4", "similarity", "overview", "evaluate"} <= {*hurt.first, *hurt.second}


def test_a_job_that_was_cancelled_or_killed_is_run_again(hurt):
    for lost, state in [(hurt.cancelled, "CANCELLED"), (hurt.killed, "FAILED")]:
        states = [job.state for job in hurt.jobs if job.rule == lost.rule]
        assert states[0] == state and states[-1] == "COMPLETED", lost.rule


def test_an_interrupted_run_takes_its_jobs_with_it_and_goes_on_where_it_was(hurt):
    states = [job.state for job in hurt.jobs if job.rule == "train_classifier"]
    assert states == ["CANCELLED", "COMPLETED"]
    assert "similarity" in hurt.first and "train_classifier" in hurt.second
    assert not set(hurt.first) & set(hurt.second)


def test_nothing_is_left_to_do_or_lying_about(hurt):
    assert hurt.project.run("--dry-run", *ON_SLURM) == []
    assert "Nothing to be done" in hurt.project.said[-2000:]
    results = hurt.project.folder / "results"
    assert not [path for path in results.rglob("*") if ".tmp" in path.name or path.name == ".state"]
    assert not any(path.is_file() for path in results.glob("*/shards/*"))


def test_what_no_node_has_fails_at_once_and_says_why(node, tmp_path):
    project = Project.create(tmp_path / "project", texts=False)
    run = project.start(*ON_SLURM, "--set-resources", "pass0:mem_mb=9000000")
    assert run.wait(SHORT) != 0
    assert "Memory specification can not be satisfied" in project.said
    assert {(job.state, job.end - job.start) for job in slurm.jobs() if job.memory == "9000000M"} <= {("FAILED", 0)}


@pytest.mark.skipif(KILLS == 0, reason="minutes a kill: KILLS=5 make test-slurm")
@pytest.mark.parametrize("seed", range(max(KILLS, 1)))
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_result(hurt, tmp_path, seed):
    """kill -9 of Snakemake, its jobs cancelled as a user would, and started again."""
    project = Project.create(tmp_path / "project", texts=False)
    run = project.start(*ON_SLURM)
    moment = random.Random(seed).uniform(5, 60)
    print(f"seed {seed}: kill -9 after {moment:.1f} s")
    time.sleep(moment)
    run.kill()
    run.wait()
    recipe = next(line for line in CLUSTER.read_text().splitlines() if line.startswith("scancel --name"))
    subprocess.run(recipe, shell=True, cwd=project.folder, check=True)
    slurm.wait_for_none()
    assert project.start("--unlock", "--cores", "1").wait(SHORT) == 0
    project.run(*ON_SLURM)
    assert project.bytes().items() <= hurt.expected.items() and "descriptors/final_descriptors.txt" in project.bytes()
