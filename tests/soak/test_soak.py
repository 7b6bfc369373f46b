"""Many small runs with configs drawn from the schema: each ends in one line, or with products that hold together.

``make soak`` runs 200; SOAK=1000 for more, FAULTS_SEED=1 for others. What is checked is computed here anew.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from common.config import load
from common.descriptors_settings import Descriptors
from common.errors import UserError
from common.taxoclass_settings import Taxoclass
from faults.conftest import finished, model, prepare, recorder  # noqa: F401 (fixtures)
from faults.harness import SEED, Pipeline, Recorder, configure, remove
from small_models import one_thread  # noqa: F401 (a fixture of all tests here)
from snakemake_runs import MACHINE, DryRuns, commands, succeeded
from soak.drawn import settings, write_tables
from tiny_taxoclass import CLASSES, EDGES, SETTINGS, TEST, write_data

RUNS = int(os.environ.get("SOAK", "200"))
MANY = pytest.param(range(10, 10 + RUNS // 2), marks=pytest.mark.faults)


class Soak:
    """A folder with the workflow, in which one drawn config after another is run."""

    def __init__(self, folder: Path, dry_runs: DryRuns, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.dry_runs, self.capture = folder, dry_runs, capture
        configure(folder, {})

    def run(self, config: dict[str, Any]) -> str | None:
        """The run's one line, if it has one."""
        remove(self.folder / "results")
        (self.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
        said = succeeded(self.dry_runs(self.folder, *MACHINE, "--printshellcmds", "--forceall"))
        return Pipeline(self.folder, commands(said)).run_from(0, self.capture)

    def products(self) -> dict[str, bytes]:
        """What must not differ between machines."""
        folder = self.folder / "results"
        told = ("/provenance/", "/metrics/", "/cache/", "report.html", "/shards/", "overview.png")
        found = {path.relative_to(folder.parent).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not any(each in name for each in told)}


def soak(
    wing: str,
    numbers: range,
    section: Callable[[random.Random], dict[str, Any]],
    check: Callable[[Path, dict[str, Any], Path], None],
    soaked: Soak,
    recorder: Recorder,  # noqa: F811
) -> None:
    """Run a config for each of ``numbers``; every tenth that succeeds once more, to the same bytes."""
    ended = []
    for number in numbers:
        rng = random.Random(f"{SEED} {wing} {number}")
        config = {wing: section(rng)}
        tale = f"seed {SEED}, {wing} {number}: {config}"
        started = time.perf_counter()
        try:
            complaint = soaked.run(config)
            if complaint is None:
                check(soaked.folder / "results" / wing, load(config)[wing], soaked.folder)
                if number % 10 == 0:
                    before = soaked.products()
                    if wing == "descriptors":  # texts are batched otherwise in other shards, so they round otherwise
                        config[wing]["shards"] = config[wing].get("shards", 1) % 3 + 1
                    assert soaked.run(config) is None
                    assert {name for name, content in soaked.products().items() if before.get(name) != content} == set()
        except BaseException as error:
            raise AssertionError(f"{tale}: {type(error).__name__}: {error}") from error
        ended.append(complaint)
        recorder.add(
            "a drawn config",
            wing,
            "refused in one line" if complaint else "holds together",
            time.perf_counter() - started,
        )
    refused = [each for each in ended if each is not None]
    assert len(refused) <= len(numbers) / 2, f"too many refused to learn anything: {refused}"


# ---- descriptors


def draw_descriptors(rng: random.Random, folder: Path) -> dict[str, Any]:
    remove(folder / "data")
    write_tables(folder / "data", rng.randrange(2**31))
    while True:
        section = {"parquet_glob": "data/*.parquet", "n_metadata": 1, "min_effective_n": 20} | settings(
            Descriptors, rng
        )
        if is_valid({"descriptors": section}):
            return section


def is_valid(config: dict[str, Any]) -> bool:
    try:
        load(config)
    except UserError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{path.name} has {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def check_descriptors(results: Path, given: dict[str, Any], folder: Path) -> None:
    sampled = results / "sampled_data.parquet"
    parts = [sampled] if sampled.exists() else sorted((folder / "data").glob("*.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in parts]).iloc[:, 1:].astype(float)
    table = table.replace([math.inf, -math.inf], math.nan)
    for path in results.rglob("*.json"):
        read_json(path)
    steps = [list(table.columns)]
    steps += [(results / f"pass{number}_columns.txt").read_text().splitlines() for number in (1, 2, 3)]
    steps.append((results / "final_descriptors.txt").read_text().splitlines())
    for before, after in itertools.pairwise(steps):
        assert after == [name for name in before if name in set(after)], "not a part of what was left, in order"
    removed = pd.read_csv(results / "removed_descriptors.tsv", sep="\t", keep_default_na=False)
    assert sorted([*removed["descriptor"], *steps[-1]]) == sorted(table.columns)
    for row in removed.itertuples():
        number = row[2]
        assert row.descriptor in steps[number - 1] and row.descriptor not in steps[number], row
        if number > 1:  # in pass 3 they go one after another
            assert row.in_favour_of in steps[number - (number == 3)] and row.root in steps[-1], row
    for name in steps[1]:
        assert table[name].notna().sum() >= given["min_effective_n"] and table[name].nunique() > 1, name
        assert table[name].isna().mean() <= given["max_missing_ratio"], name
    matrix = np.load(results / "pass2_spearman_matrix.npy")
    if given["missing"] == "pairwise":
        check_spearman(table, steps, matrix, removed, given)
    if given["vif_on"] == "spearman":
        kept = [steps[1].index(name) for name in steps[3]]
        left = np.nan_to_num(matrix[np.ix_(kept, kept)])
        if np.linalg.eigvalsh(left).min(initial=1) < 1e-9:  # pairs on rows of their own need not be one table's
            kept = [steps[2].index(name) for name in steps[3]]
            left = np.load(results / "pass2_spearman_repaired.npy")[np.ix_(kept, kept)]
        found = np.diag(np.linalg.inv(left))
        assert found.max(initial=1) <= given["vif_threshold"] * (1 + 1e-6), dict(zip(steps[3], found, strict=True))


def check_spearman(
    table: pd.DataFrame, steps: list[list[str]], matrix: np.ndarray, removed: pd.DataFrame, given: dict[str, Any]
) -> None:
    """Against pandas: what stayed is less alike than the threshold, what went is as alike as it says."""
    expected = table[steps[1]].corr(method="spearman", min_periods=given["min_effective_n"])
    for row in removed[removed["pass"] == 2].itertuples():
        found = expected.loc[row.descriptor, row.in_favour_of]
        assert abs(found - float(row.similarity)) < 1e-5 and abs(found) >= given["spearman_threshold"] - 1e-9, (
            row,
            found,
        )
    if given["topk_above"] >= len(steps[1]):
        left = expected.loc[steps[2], steps[2]].to_numpy(copy=True)
        np.fill_diagonal(left, 0)
        assert np.nanmax(np.abs(left), initial=0) < given["spearman_threshold"] + 1e-9
    if given["prescreen"] == "none":
        np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("numbers", [range(4), MANY], ids=["few", "many"])
def test_any_descriptors_config_ends_in_one_line_or_in_a_selection_that_holds(
    numbers,
    tmp_path,
    dry_runs,
    capfd,
    recorder,  # noqa: F811
):
    folder = Soak(tmp_path / "soak", dry_runs, capfd)
    draw = partial(draw_descriptors, folder=folder.folder)
    soak("descriptors", numbers, draw, check_descriptors, folder, recorder)


# ---- texts


def draw_taxoclass(rng: random.Random) -> dict[str, Any]:
    while True:
        section = (
            SETTINGS | {"epochs": 2, "self_train_iterations": 1, "self_train_epochs": 1} | settings(Taxoclass, rng, 0.3)
        )
        if section.get("backend") == "nli":
            section |= {"similarity_model": "models/nli", "prefilter_model": "models/encoder"}
        if section["test_corpus"] is not None and is_valid({"taxoclass": section}):
            return section


def check_taxoclass(results: Path, given: dict[str, Any], folder: Path) -> None:
    for path in results.rglob("*.json"):
        read_json(path)
    records = [json.loads(line) for line in (results / "labels.jsonl").read_text().splitlines()]
    assert [each["doc_id"] for each in records] == [each.doc_id for each in TEST]
    probabilities = np.load(results / "predictions.npy")
    assert probabilities.shape == (len(TEST), len(CLASSES)) and probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    parents = {child: {parent for parent, each in EDGES if each == child} for _, child in EDGES}
    for record in records:
        labels = record["labels"]
        assert (
            len(labels) == len(set(labels)) == len(record["names"]) == len(record["scores"])
            and set(labels) <= CLASSES.keys()
        )
        assert len(labels) >= min(given["min_labels"], len(CLASSES)), record
        assert given["max_labels"] is None or len(labels) <= given["max_labels"], record
        if given["consistent"]:
            assert all(parents.get(each, {each}) & {*labels} for each in labels), record
        assert all(0 <= score <= 1 for score in record["scores"]), record
    submitted = pd.read_csv(results / "submission.csv", dtype=str, keep_default_na=False)
    assert [sorted(each.split(",")) for each in submitted["labels"]] == [
        sorted(each["labels"]) or [""] for each in records
    ]
    cores = np.load(results / "core_classes.npz")
    assert np.isfinite(cores["core_confidence"]).all() and len(cores["core_indices"]) > 0


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    import tiny_taxoclass

    folder = tmp_path_factory.mktemp("soak_models")
    tiny_taxoclass.save_model(folder / "encoder")
    tiny_taxoclass.save_model(folder / "nli", ("contradiction", "neutral", "entailment"))
    return folder


@pytest.mark.parametrize("numbers", [range(2), MANY], ids=["few", "many"])
def test_any_taxoclass_config_ends_in_one_line_or_in_labels_that_hold(
    numbers,
    models,
    tmp_path,
    dry_runs,
    capfd,
    recorder,  # noqa: F811
):
    folder = Soak(tmp_path / "soak", dry_runs, capfd)
    write_data(folder.folder / "data")
    shutil.copytree(models, folder.folder / "models")
    soak("taxoclass", numbers, draw_taxoclass, check_taxoclass, folder, recorder)
