"""make scaling: figures of what was not run come from rates that were measured, and from those that a user gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from taxoclass.models import MINILM_PACKAGE


def scaling(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def shipped() -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())


def rows(folder: Path) -> dict[tuple[str, int], dict]:
    found = json.loads((folder / "scaling.json").read_text())["predictions"]
    return {(row["load"], row["nodes"]): row for row in found}


def test_the_command_measures_checks_predicts_and_draws(tmp_path):
    pytest.importorskip(MINILM_PACKAGE, reason="the sentence encoder is not installed; make test does it")
    done = scaling("--tiny", "--tables", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "scaling.json").read_text())
    measured = {rule for rule, own in found["rates"]["seconds"].items() if any(own.values())}
    assert {"pass1_shard", "pass1", "pass2_shard", "similarity_shard", "core_classes", "self_train"} <= measured
    assert all(each["measured"] > 0 and each["predicted"] >= 0 for each in found["checks"])
    assert all(each["simulated"] > 0 and each["measured"] > 0 for each in found["simulations"])
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "PREDICTED" in (tmp_path / "scaling.txt").read_text()


def test_predictions_are_within_what_any_schedule_can_do(shipped):
    for row in shipped["predictions"]:
        assert row["least"] <= row["wall"] * (1 + 1e-9)
        assert row["critical_path"] <= row["wall"] * (1 + 1e-9)
        assert row["wall"] <= row["node_seconds"] * (1 + 1e-9)
        if row["nodes"] == 1:
            assert row["wall"] == pytest.approx(row["node_seconds"])
    walls = {(row["load"], row["nodes"]): row["wall"] for row in shipped["predictions"]}
    assert all(walls[load, 64] <= walls[load, 8] * 1.01 <= walls[load, 1] * 1.02 for load, _ in walls)


def test_the_page_has_the_figures_of_the_shipped_run(tmp_path, shipped):
    sys.path.append(str(ROOT / "benchmarks"))
    from scaling import blocks
    from written import renew

    page = tmp_path / "scaling.md"
    shutil.copy(ROOT / "docs" / "scaling.md", page)
    renew(page, blocks(shipped))
    assert page.read_text() == (ROOT / "docs" / "scaling.md").read_text()
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has no marks"):
        renew(page, blocks(shipped))


def test_rates_of_another_machine_take_the_place_of_those_measured(tmp_path, shipped):
    mine = tmp_path / "mine.json"
    token = shipped["rates"]["seconds"]["similarity_shard"]["token"]
    mine.write_text(json.dumps({"rates": {"seconds": {"similarity_shard": {"token": token / 100}}}}))
    done = scaling("--rates", str(mine), "--tables", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    before = {(row["load"], row["nodes"]): row for row in shipped["predictions"]}
    after = rows(tmp_path)
    texts = "texts, no neighbours, no clusters", 1
    assert after[texts]["wall"] < before[texts]["wall"]
    assert after["descriptors", 8]["wall"] == pytest.approx(before["descriptors", 8]["wall"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{"rates": {"seconds": {"pass1": {"tokens": 1}}}}', "rates.seconds.pass1.tokens is no rate; known: "),
        ('{"networks": {}}', "networks is no rate; known: node, network, rates"),
        ("{", "give JSON files that are there"),
    ],
)
def test_rates_that_are_none_are_refused_in_one_line(tmp_path, given, words):
    mine = tmp_path / "mine.json"
    mine.write_text(given)
    done = scaling("--rates", str(mine), "--tables", str(tmp_path))
    assert done.returncode != 0 and words in done.stderr and len(done.stderr.splitlines()) == 1
