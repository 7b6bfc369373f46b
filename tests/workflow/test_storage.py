"""Inputs and results that lie elsewhere: in a bucket, or on a slower disk than the jobs work on."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_workflow import Project, table

from conftest import ROOT, write_table
from snakemake_runs import ENVIRONMENT, DryRuns, ended, jobs, refusal, succeeded
from tiny_taxoclass import SETTINGS, save_model
from tiny_taxoclass import Project as TextProject

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
TABLES = {"parquet_glob": "data/*.parquet", "n_metadata": 1, "n_consensus": 2}
# training is left out for its time: to its files nothing happens that does not to these
UNTIL = ["--until", "overview", "core_classes"]
STORAGE_PROFILES = ["s3", "fs"]
CLUSTER_PROFILES = ["kubernetes", "cluster-generic"]


def profile(name: str) -> str:
    return str(ROOT / "profiles" / name)


def snakemake(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "snakemake")) -> str:
    """What a run that succeeds says."""
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder, env=ENVIRONMENT | KEYS, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return succeeded(done)


# ---- a bucket


class Bucket:
    """A bucket of a server on this machine, with the arguments that name a prefix of it."""

    def __init__(self, address: str) -> None:
        import boto3

        self.address = address
        place = {"endpoint_url": address, "region_name": "us-east-1"}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        self.bucket = boto3.resource("s3", **place, **keys).create_bucket(Bucket="bucket")

    def arguments(self, prefix: str) -> list[str]:
        return ["--default-storage-prefix", f"s3://bucket/{prefix}", "--storage-s3-endpoint-url", self.address]

    def put(self, prefix: str, folder: Path, *names: str) -> None:
        for path in (path for name in names for path in folder.glob(name)):
            self.bucket.upload_file(str(path), f"{prefix}/{path.relative_to(folder)}")

    def content(self, prefix: str) -> dict[str, bytes]:
        """Bytes of all objects below a prefix, by the rest of their names."""
        found = self.bucket.objects.filter(Prefix=f"{prefix}/")
        return {each.key.removeprefix(f"{prefix}/"): each.get()["Body"].read() for each in found}

    def delete(self, name: str) -> None:
        self.bucket.Object(name).delete()


@pytest.fixture(scope="module")
def bucket():
    server = pytest.importorskip("moto.server", reason="moto[s3] of envs/dev.txt is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield Bucket(f"http://{host}:{port}")
    running.stop()


@pytest.fixture(scope="module")
def dry_runs(tmp_path_factory):
    server = DryRuns(tmp_path_factory.mktemp("dry_runs"), ENVIRONMENT | KEYS)
    yield server
    server.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory, dry_runs) -> TextProject:
    """A project with both sections, whose files are all here."""
    folder = tmp_path_factory.mktemp("local")
    save_model(folder / "models" / "encoder")
    project = TextProject.create(folder / "project", folder / "models", dry_runs)
    for k in range(2):
        write_table(project.folder / "data" / f"part{k}.parquet", table(k))
    sections = {"results": "results", "descriptors": TABLES, "taxoclass": SETTINGS}
    (project.folder / "config" / "config.yaml").write_text(yaml.safe_dump(sections))
    return project


class Away:
    """The same project with its files in the bucket, run in a folder that has its config, models and gold labels."""

    prefix = "some/where"

    def __init__(self, folder: Path, bucket: Bucket, local: TextProject) -> None:
        self.folder = folder
        shutil.copytree(local.folder / "models", folder / "models")
        bucket.put(self.prefix, local.folder, "data/*.parquet", "data/classes.tsv", "data/hierarchy.tsv", "data/t*")
        self.config = yaml.safe_load((local.folder / "config" / "config.yaml").read_text())
        self.config["taxoclass"]["gold_labels"] = str(local.folder / "data" / "gold.tsv")
        self.arguments = [
            "--snakefile", str(ROOT / "Snakefile"), "--configfile", "my.yaml", "--profile", profile("default"),
            "--workflow-profile", profile("s3"), *bucket.arguments(self.prefix), "--cores", "2", "--max-threads", "1",
            "--resources", "gpu=0", "--scheduler", "greedy",
        ]  # fmt: skip
        (folder / "my.yaml").write_text(yaml.safe_dump(self.config))


@pytest.fixture(scope="module")
def away(tmp_path_factory, bucket, local) -> Away:
    project = Away(tmp_path_factory.mktemp("away"), bucket, local)
    snakemake(project.folder, *project.arguments, *UNTIL)
    return project


def test_results_in_a_bucket_have_the_bytes_of_a_local_run(away, bucket, local, capsys):
    local.replayed(capsys, *UNTIL)
    here = {
        path.relative_to(local.folder).as_posix(): path.read_bytes()
        for path in (local.folder / "results").rglob("*")
        if path.is_file() and not {"cache", "provenance", "metrics"} & set(path.parts)
    }
    assert {"results/descriptors/final_descriptors.txt", "results/taxoclass/core_classes.npz"} < here.keys()
    there = {name: content for name, content in bucket.content(away.prefix).items() if name.startswith("results/")}
    assert there.keys() == here.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_logs_and_benchmarks_are_in_the_bucket_and_records_in_the_working_folder(away, bucket):
    names = bucket.content(away.prefix).keys()
    assert {f"{kind}.{end}" for kind, end in (("logs/pass4", "log"), ("benchmarks/similarity", "tsv"))} < names
    for name in ("descriptors/provenance/pass4.json", "taxoclass/provenance/similarity.json", "effective_config.json"):
        assert (away.folder / "results" / name).exists() and f"results/{name}" not in names


def test_a_finished_run_has_nothing_to_do_and_a_deleted_object_is_made_again(away, bucket, dry_runs):
    bucket.delete(f"{away.prefix}/results/descriptors/overview.png")
    assert ended(snakemake(away.folder, *away.arguments, *UNTIL)) == ["overview"]
    assert "results/descriptors/overview.png" in bucket.content(away.prefix)
    assert jobs(succeeded(dry_runs(away.folder, *away.arguments, *UNTIL))) == {}


def test_relative_paths_are_planned_in_the_bucket_and_absolute_ones_here(away, dry_runs):
    said = succeeded(dry_runs(away.folder, *away.arguments))
    inputs = {each for line in re.findall(r"^    input: (.*)$", said, re.M) for each in line.split(", ")}
    gold, template = away.config["taxoclass"]["gold_labels"], str(ROOT / "scripts" / "reporting" / "page.html.j2")
    assert {each for each in inputs if not each.startswith(f"s3://bucket/{away.prefix}/results/")} == {gold, template}


def test_inputs_in_the_bucket_are_known_by_content_and_faulty_ones_refused(away, bucket, dry_runs):
    name = f"{away.prefix}/data/train.tsv"
    before = bucket.bucket.Object(name).get()["Body"].read()
    try:
        bucket.bucket.Object(name).put(Body=before)
        assert jobs(succeeded(dry_runs(away.folder, *away.arguments, *UNTIL))) == {}
        bucket.bucket.Object(name).put(Body=before + b"no tab\n")
        said = refusal(dry_runs(away.folder, *away.arguments))
        assert said.startswith("Error: data/train.tsv: line ") and "tab" in said
        bucket.delete(name)
        said = refusal(dry_runs(away.folder, *away.arguments))
        assert "train_corpus" in said and f"s3://bucket/{away.prefix}" in said
    finally:
        bucket.bucket.Object(name).put(Body=before)


def test_results_of_other_settings_in_the_bucket_are_not_taken_for_these(away, tmp_path, dry_runs):
    elsewhere = tmp_path / "another folder"
    shutil.copytree(away.folder, elsewhere, ignore=shutil.ignore_patterns(".snakemake"))
    (elsewhere / "my.yaml").write_text(
        (away.folder / "my.yaml").read_text().replace("similarity_max_length: 48", "similarity_max_length: 40")
    )
    said = refusal(dry_runs(elsewhere, *away.arguments))
    assert f"s3://bucket/{away.prefix}/results/taxoclass/" in said and "similarity_max_length = 48, not 40" in said


@pytest.mark.parametrize("results", ["/tmp/results", "../results"])
def test_results_above_the_prefix_are_refused(away, tmp_path, dry_runs, results):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(away.config | {"results": results}))
    assert f"config: results = {results!r}" in refusal(dry_runs(tmp_path, *away.arguments))


# ---- machines that share nothing, or little


@pytest.fixture
def project(tmp_path, dry_runs) -> Project:
    return Project.create(tmp_path / "a folder", dry_runs, sample_rows=300)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, dry_runs) -> dict[str, bytes]:
    """What passes 0 and 1 make of that project where all files are here."""
    project = Project.create(tmp_path_factory.mktemp("expected") / "project", dry_runs, sample_rows=300)
    project.run("--until", "pass1", "--scheduler", "greedy")
    return {path.name: path.read_bytes() for path in project.results.iterdir() if path.is_file()}


def test_pods_that_share_nothing_make_the_same(project, expected, bucket, tmp_path):
    bucket.put("pods", project.folder, "data/*")
    shutil.rmtree(project.folder / "data")
    subprocess.run("git init --quiet && git add --all", shell=True, cwd=project.folder, check=True)
    pods = tmp_path / "pods"
    snakemake(
        project.folder, str(pods), "--workflow-profile", profile("kubernetes"), *bucket.arguments("pods"),
        "--seconds-between-status-checks", "1", "--scheduler", "greedy", "--envvars", *KEYS, "--until", "pass1",
        program=(str(ROOT / "tests" / "pods.py"),),
    )  # fmt: skip
    made = bucket.content("pods/results/descriptors")
    assert {name: content for name, content in made.items() if name in expected} == expected
    resources = {}
    for path in pods.glob("*.json"):
        [container] = json.loads(path.read_text())["spec"]["template"]["spec"]["containers"]
        rule = re.search(r"--target-jobs '(\w+):", container["args"][1])
        resources[rule[1]] = container["resources"]["limits"]
    assert resources.keys() == {"pass0", "pass1"}
    assert resources["pass1"] | {"nvidia.com/gpu": "1", "memory": "40000M"} == resources["pass1"]
    assert "nvidia.com/gpu" not in resources["pass0"] and resources["pass0"]["memory"] == "4000M"


@pytest.mark.skipif(" " in sys.executable, reason="Snakemake does not quote its Python in a job of a cluster")
def test_jobs_of_a_cluster_on_their_nodes_disk_make_the_same(project, expected, tmp_path):
    if shutil.which("rsync") is None:
        pytest.skip("snakemake-storage-plugin-fs needs rsync, which is not installed")
    project.configure(sample_rows=300, shards=2)
    shared = tmp_path / "shared"
    shutil.move(project.folder / "data", shared / "data")
    # each job has a disk of its own
    submit = tmp_path / "submit"
    submit.write_text(
        f'#!/bin/sh\nexport TMPDIR=$(mktemp -d -p "{tmp_path}" disk.XXXX)\necho "$@" >> "{tmp_path}/submitted"\n'
        'for script; do :; done\nsh "$script" > "$TMPDIR/log" 2>&1 &\necho $!\n'
    )
    submit.chmod(0o755)
    snakemake(
        project.folder, "--profile", profile("cluster-generic"), "--workflow-profile", profile("fs"),
        "--default-storage-prefix", str(shared), "--cluster-generic-submit-cmd",
        f"'{submit}' {{rule}} {{threads}} {{resources.mem_mb}} {{resources.runtime}} {{resources.gpu}}",
        "--seconds-between-status-checks", "1", "--latency-wait", "5", "--scheduler", "greedy", "--until", "pass1",
    )  # fmt: skip
    made = {path.name: path.read_bytes() for path in (shared / "results" / "descriptors").iterdir() if path.is_file()}
    assert {name: content for name, content in made.items() if name in expected} == expected
    submitted = [line.split()[:5] for line in (tmp_path / "submitted").read_text().splitlines()]
    assert submitted[0] == ["pass0", "1", "4000", "60", "0"]
    assert submitted[1:] == [["pass1_shard", "8", "40000", "480", "1"]] * 2  # their merge is local


# ---- profiles


PAGE = (ROOT / "docs" / "storage.md").read_text().replace("\\\n", " ")
COMMANDS = re.findall(r"^snakemake (.*)$", PAGE, re.M)
ALONE = sorted(path.name for path in (ROOT / "profiles").iterdir() if f"profiles/{path.name} " not in PAGE)


def test_there_are_no_profiles_but_those_that_are_tested():
    assert ALONE == ["gpu", "slurm"] and len(COMMANDS) == 4
    assert all(f"profiles/{name} " in " ".join(COMMANDS) for name in [*STORAGE_PROFILES, *CLUSTER_PROFILES])


@pytest.mark.parametrize("command", [*COMMANDS, *(f"--workflow-profile profiles/{name} --cores 1" for name in ALONE)])
def test_every_profile_and_every_command_of_the_page_gives_a_plan(command, bucket, project, dry_runs):
    bucket.put("plan", project.folder, "data/*")
    there = {
        "my.yaml": "config/config.yaml",
        "s3://my-bucket/my-project": "s3://bucket/plan",
        "https://s3.example.org": bucket.address,
        "/project/winnow": str(project.folder),
    }
    arguments = [there.get(each, each) for each in shlex.split(command)]
    said = succeeded(dry_runs(project.folder, *arguments))
    assert {"pass0", "pass1", "pass2", "pass3", "pass4"} < jobs(said).keys()


@pytest.mark.parametrize("name", [*STORAGE_PROFILES, *CLUSTER_PROFILES, "slurm"])
def test_no_profile_of_a_cluster_limits_the_resources_of_the_run(name):
    keys = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert "resources" not in keys


@pytest.mark.parametrize("name", [*STORAGE_PROFILES, *CLUSTER_PROFILES])
def test_every_key_of_a_profile_has_a_comment(name):
    lines = (ROOT / "profiles" / name / "config.yaml").read_text().splitlines()
    keys = [at for at, line in enumerate(lines) if re.match(r" *[\w-]+:", line)]
    assert len(keys) > 4
    assert [lines[at] for at in keys if not lines[at - 1].lstrip().startswith("#")] == []
