"""The workflow as its users drive it: what runs, what runs again, and what an interruption costs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from common import files
from conftest import ROOT, copy_workflow, write_table
from passes import NAMES, ORDER_FREE, table
from snakemake_runs import SNAKEMAKE, DryRuns, ended, jobs, refusal, succeeded

PASSES = list(NAMES)


class Project:
    """A copy of the workflow with data of its own, as a user has it."""

    def __init__(self, folder: Path, dry_runs: DryRuns) -> None:
        self.folder = folder
        self.results = folder / "results" / "descriptors"
        self.dry_runs = dry_runs

    @classmethod
    def create(cls, folder: Path, dry_runs: DryRuns, **settings) -> Project:
        copy_workflow(folder)
        for k in range(3):
            write_table(folder / "data" / f"part{k}.parquet", table(k))
        project = cls(folder, dry_runs)
        project.configure(**settings)
        return project

    def configure(self, **settings) -> None:
        section = {"parquet_glob": "data/*.parquet", "n_metadata": 1, "n_consensus": 2} | settings
        path = self.folder / "config" / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"results": "results", "descriptors": section}))

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*SNAKEMAKE, "--cores", "2", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)

    def run(self, *arguments: str) -> list[str]:
        """Rules that ran, in order; the report is no pass."""
        return ended(succeeded(self.snakemake("descriptors", "--resources", "gpu=1", *arguments)))

    def dry_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.dry_runs(self.folder, "descriptors", "--cores", "2", *arguments)

    def planned(self) -> set[str]:
        """Rules that a run would run."""
        return set(jobs(succeeded(self.dry_run())))

    def bytes(self) -> dict[str, bytes]:
        return {name: (self.results / name).read_bytes() for name in ORDER_FREE}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dry_runs) -> Project:
    """A project that ran through once; copy it before changing it."""
    project = Project.create(tmp_path_factory.mktemp("finished") / "a folder with spaces", dry_runs)
    assert [name for name in project.run() if name in PASSES] == PASSES
    return project


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    return Project(folder, finished.dry_runs)


@pytest.fixture
def fresh(tmp_path, dry_runs):
    """fresh(**settings): a project that has not run."""
    return lambda **settings: Project.create(tmp_path / "fresh", dry_runs, **settings)


def test_a_finished_run_has_nothing_to_do(finished):
    assert finished.planned() == set()


def test_until_pass3_stops_there(fresh):
    project = fresh()
    assert project.run("--until", "pass3") == PASSES[:4]
    assert not (project.results / "final_descriptors.txt").exists()


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ({"n_metadata": 2}, 0),
        ({"variance_threshold": 0.003}, 1),
        ({"max_missing_ratio": 0.4}, 1),
        ({"spearman_threshold": 0.9}, 2),
        ({"clustering": "leader"}, 2),
        ({"vif_threshold": 5.0}, 3),
        ({"ties": "column_order"}, 3),
        ({"nonlinear_threshold": 0.6}, 4),
        ({"w_hsic": 0.7, "w_rdc": 0.3}, 4),
    ],
)
def test_a_changed_setting_reruns_exactly_its_pass_and_later_ones(copied, setting, first):
    copied.configure(**setting)
    assert copied.planned() - {"overview"} == set(PASSES[first:])


def test_settings_of_the_machine_rerun_nothing(copied):
    copied.configure(batch_rows=17, max_host_memory_gb=2.0, max_gpu_memory_gb=20.0)
    assert copied.planned() == set()


def test_touching_files_reruns_nothing(copied):
    for pattern in ("data/*", "scripts/**/*.py", "workflow/**/*", "results/descriptors/*"):
        for path in sorted(copied.folder.glob(pattern)):
            os.utime(path)
    assert copied.planned() == set()


@pytest.mark.parametrize(
    ("module", "expected"),
    [("vif.py", {"pass2", "pass3", "pass4"}), ("nonlinear.py", {"pass4"}), ("lineage.py", {"pass4"})],
)
def test_an_edit_of_the_numerics_reruns_the_passes_that_use_them(copied, module, expected):
    path = copied.folder / "scripts" / "descriptors" / module
    path.write_text(path.read_text() + "\n# an edit\n")
    assert copied.planned() - {"overview"} == expected


def test_other_data_rerun_everything(copied):
    write_table(copied.folder / "data" / "part1.parquet", table(7))
    assert copied.planned() - {"overview"} == set(PASSES)


def test_a_further_file_reruns_everything(copied):
    write_table(copied.folder / "data" / "part9.parquet", table(9))
    assert copied.planned() - {"overview"} == set(PASSES)


def test_a_lost_product_is_made_again_with_the_same_bytes(copied):
    before = copied.bytes()
    (copied.results / "pass2_columns.txt").unlink()
    assert "pass2" in copied.run()
    assert copied.bytes() == before


def test_the_graph_is_nothing_but_dot(finished):
    said = finished.snakemake("--dag").stdout
    assert said.startswith("digraph") and said.rstrip().endswith("}")


def test_with_or_without_a_gpu_the_device_is_told(fresh):
    project = fresh()
    for resources, words in (("gpu=1", "(CuPy sees no GPU)"), ("gpu=0", "(no GPU granted)")):
        succeeded(project.snakemake("--resources", resources, "--until", "pass1", "--forcerun", "pass1"))
        assert words in (project.folder / "logs" / "pass1.log").read_text()


def test_the_passes_say_what_they_did_in_their_logs_and_provenance(finished):
    for name in PASSES:
        log = (finished.folder / "logs" / f"{name}.log").read_text()
        assert re.search(rf"(?m)^{name}  \| .*(rows|columns)", log) and re.search(rf"(?m)^{name}  \| .* MB", log)
        provenance = json.loads((finished.results / "provenance" / f"{name}.json").read_text())
        assert provenance["seconds"] > 0 and provenance["versions"]["numpy"] == np.__version__
    assert (finished.folder / "results" / "effective_config.json").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"spearman_treshold": 0.9}, ["descriptors.spearman_treshold", "0.9", "did you mean spearman_threshold?"]),
        ({"vif_threshold": "ten"}, ["descriptors.vif_threshold", "'ten'", "number"]),
        ({"missing": "drop"}, ["descriptors.missing", "'drop'", "'pairwise', 'global_ranks' or 'mean'"]),
        ({"parquet_glob": "nowhere/*.parquet"}, ["descriptors.parquet_glob", "nowhere/*.parquet", "matches no file"]),
        ({"variance_threshold": 0.3}, ["variance_threshold = 0.3", "at most 0.25"]),
        ({"pass4_rows": 99}, ["pass4_rows = 99", "min_effective_n = 100"]),
        ({"metadata_columns": ["nobody"]}, ["descriptors.metadata_columns", "'nobody'", "data/part0.parquet"]),
        ({"parquet_glob": "**/*.parquet"}, ["descriptors.parquet_glob", "results/descriptors/own.parquet"]),
    ],
)
def test_a_bad_config_ends_in_one_line(copied, config, words):
    (copied.results / "own.parquet").touch()
    copied.configure(**config)
    said = refusal(copied.dry_run())
    assert all(word in said for word in words)


def test_bad_data_are_named_before_anything_runs_and_cost_nothing(copied):
    path = copied.folder / "data" / "part1.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    before = copied.bytes()
    assert "data/part1.parquet: not a readable Parquet file" in refusal(copied.snakemake("--resources", "gpu=1"))
    path.write_bytes(good)
    assert copied.bytes() == before
    assert copied.planned() == set()


def test_another_seed_does_not_read_everything_again(copied):
    copied.configure(random_seed=7)
    assert copied.planned() - {"overview"} == {"pass2", "pass3", "pass4"}


def test_a_sample_that_was_deleted_is_made_again(fresh):
    project = fresh(sample_rows=300)
    project.run("--until", "pass1")
    before = (project.results / "pass1_stats.npz").read_bytes()
    (project.results / "sampled_data.parquet").unlink()
    assert project.run("--until", "pass1", "--forcerun", "pass1") == ["pass0", "pass1"]
    assert (project.results / "pass1_stats.npz").read_bytes() == before


def test_results_of_other_settings_without_a_record_are_not_taken_for_these(copied):
    shutil.rmtree(copied.folder / ".snakemake")
    assert copied.planned() == set()
    copied.configure(spearman_threshold=0.5)
    assert "pass2_spearman.json: was made with spearman_threshold = 0.95, not 0.5" in refusal(copied.dry_run())


def test_products_of_different_runs_are_not_mixed(copied, tmp_path):
    copied.configure(spearman_threshold=0.8)
    other = files.read_json(copied.results / "pass2_spearman.json")
    files.write_json(tmp_path / "other.json", other | {"edges": other["edges"] + 1})
    inputs = {
        "columns": "pass3_columns.txt", "entered": "pass1_columns.txt", "stats": "pass1_stats.npz",
        "codes": "pass1_codes.npy", "fine": "pass1_codes_fine.npy", "ecdf": "pass1_ecdf.npy",
        "rows": "pass1_rows.npy", "pass1": "pass1_variance_filtering.json",
        "pass3": "pass3_vif.json",
    }  # fmt: skip
    command = [sys.executable, copied.folder / "scripts" / "pass4.py", "--pass2", tmp_path / "other.json"]
    for flag, name in inputs.items():
        command += [f"--{flag}", copied.results / name]
    for name in ("details", "columns", "clusters", "similarity", "removed"):
        command += [f"--out-{name}", tmp_path / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "was not made from" in done.stderr


def test_a_config_of_ones_own_inherits_nothing_from_the_demo(copied):
    (copied.folder / "own.yaml").write_text("results: own\ndescriptors: {n_metadata: 1}\n")
    assert "descriptors.parquet_glob is required" in refusal(copied.dry_run("--configfile", "own.yaml"))


def test_it_runs_from_another_folder(finished, tmp_path):
    config = {"results": "out", "descriptors": {"parquet_glob": f"{finished.folder}/data/*.parquet", "n_metadata": 1}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    command = [*SNAKEMAKE, "--cores", "2", "-s", finished.folder / "Snakefile", "--configfile", "my.yaml"]
    succeeded(subprocess.run([*command, "--until", "pass1"], cwd=tmp_path, capture_output=True, text=True, check=False))
    assert (tmp_path / "out" / "descriptors" / "pass1_columns.txt").exists()


@pytest.mark.parametrize("results", ["config/config.yaml/inside", "re{sul}ts"])
def test_a_results_folder_that_cannot_be_is_one_line(copied, results):
    (copied.folder / "own.yaml").write_text(
        yaml.safe_dump({"results": results, "descriptors": {"parquet_glob": "data/*.parquet", "n_metadata": 1}})
    )
    assert results.split("/")[0] in refusal(copied.dry_run("--configfile", "own.yaml"))


def group_kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("victim", ["pass1", "pass2", "pass4", "anywhere"])
def test_resume_after_kill_9_gives_the_same_bytes(finished, fresh, victim):
    project = fresh()
    process = subprocess.Popen(
        [*SNAKEMAKE, "--cores", "2", "--resources", "gpu=1"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    wait = random.Random(victim).uniform(0.0, 0.5) if victim != "anywhere" else 4.0
    log = project.folder / "logs" / f"{victim}.log"
    while victim != "anywhere" and not log.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(wait)
    group_kill(process)
    assert not list(project.results.glob("final_descriptors.txt*")) or victim in ("pass4", "anywhere")
    succeeded(project.snakemake("--unlock"))
    project.run()
    assert project.bytes() == finished.bytes()
    assert not [path.name for path in project.results.iterdir() if path.name.startswith(".")]


def rules() -> dict[str, str]:
    text = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    return {name: body for _, name, body in re.findall(r"^( *)rule (\w+):\n(.*?)(?=^\1?\S|\Z)", text, re.M | re.S)}


def test_gpu_rules_declare_their_three_resources_and_no_rule_computes():
    found = rules()
    for name, body in found.items():
        assert body.lstrip().startswith('"""'), name
        assert "message:" not in body and "run:" not in body, name
        if name in ("molecules", "descriptors", "taxoclass"):
            continue
        for part in ("log:", "conda:", "runtime="):
            assert part in body, (name, part)
        # Snakemake takes a benchmark for an output: a rule without others would be done for good
        assert ("benchmark:" in body) == ("output:" in body), name
    declared = {name for name, body in found.items() if "gpu=1," in body}
    gpu_passes = {f"pass{number}{part}" for number in (1, 2, 4) for part in ("", "_shard")}
    assert declared == gpu_passes | {"similarity", "similarity_shard", "train_classifier", "self_train", "predict"}
    for name in declared:
        mem_gb = int(re.search(r"mem_gb=(\d+),", found[name])[1])
        mem_mb = int(re.search(r"mem_mb=([\d_]+),", found[name])[1])
        assert (mem_gb, mem_mb) == (40, 1000 * mem_gb), name


@pytest.mark.parametrize("name", PASSES)
def test_each_script_runs_by_hand_with_flags_named_as_the_keys(name):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"], capture_output=True, text=True, check=True
    )
    from common.config import STAGES

    assert all(f"--{key} " in done.stdout for key in STAGES[name][1].model_fields)


def test_shards_are_jobs_of_their_own_and_the_bytes_are_the_same(finished, fresh):
    project = fresh(shards=3)
    made = project.run()
    assert {"pass1_shard", "pass2_shard", "pass4_shard"} <= set(made)
    assert project.bytes() == finished.bytes()
    assert not (project.results / "shards").exists() or not any((project.results / "shards").iterdir())
    assert project.planned() == set()


def test_the_cost_is_told_before_anything_runs_and_what_it_was_afterwards(finished, fresh):
    project = fresh()
    assert re.search(r"pass4 +~\d+", succeeded(project.snakemake("cost")))
    assert not project.results.exists()
    finished.snakemake("cost")
    after = succeeded(finished.snakemake("cost"))  # it is told each time that it is asked for
    lines = [line.split() for line in after.splitlines() if re.match(r" *pass[1-4] ", line)]
    assert [len(line) for line in lines] == [9] * 4 and "~" not in str(lines)
