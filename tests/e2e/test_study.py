"""make study: the same workflow as its users', one switch at a time; what is done is not done again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from taxoclass.models import MINILM_PACKAGE

FLOOR = "floor: best path by cosine"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """One text set, laid out as make study wants it."""
    folder = tmp_path_factory.mktemp("texts")
    demo = ROOT / "resources" / "wos1k"
    own = folder / "abstracts"
    own.mkdir()
    for name, given in (("labels.tsv", "classes.tsv"), ("taxonomy.tsv", "hierarchy.tsv")):
        shutil.copy(demo / given, own / name)
    for name in ("gold.tsv", "corpus.jsonl.gz"):
        shutil.copy(demo / name, own / name)
    return folder


def study(texts: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "study.py"), "--texts", str(texts), "--threads", "1"]
    command += ["--out", str(folder / "runs"), "--tables", str(folder / "tables"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_each_switch_is_a_row_with_its_figures_and_is_not_run_again(texts, tmp_path):
    pytest.importorskip(MINILM_PACKAGE, reason="the sentence encoder is not installed; make test does it")
    few = ("--documents", "80", "--max-length", "16", "--only", FLOOR, "no self-training")
    done = study(texts, tmp_path, *few)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "tables" / "study.json").read_text())["runs"]
    assert {run["variant"] for run in runs} == {FLOOR, "no self-training"}
    for run in runs:
        low, high = run["interval"]
        assert 0 < low <= run["strict"] <= high < 1 and run["documents_evaluated"] == 80
    assert (tmp_path / "tables" / "study.png").stat().st_size > 10_000
    table = (tmp_path / "tables" / "study.txt").read_text()
    assert all(f"abstracts  {run['variant']}" in table and f"{run['strict']:.3f}" in table for run in runs)
    again = study(texts, tmp_path, *few)
    assert again.stdout.count("done before") == 2
    # figures of another size are not shown beside these
    other = study(texts, tmp_path, "--documents", "60", "--max-length", "16", "--only", FLOOR)
    assert other.returncode == 0
    assert [run["documents"] for run in json.loads((tmp_path / "tables" / "study.json").read_text())["runs"]] == [60]


def test_what_is_not_measured_anew_stays_in_the_record_with_its_own_source(tmp_path):
    sys.path.append(str(ROOT / "benchmarks"))
    import study as module

    now = {"documents": None, "max_length": 128, "threads": 2, "source": "new"}
    record = tmp_path / "study.json"
    old = [now | {"source": "old", "set": "wos1k", "variant": variant} for variant in (FLOOR, "defaults", "gone")]
    record.write_text(json.dumps({"runs": [*old, old[1] | {"set": "cut", "documents": 60}]}))
    anew = [now | {"set": "wos1k", "variant": "defaults"}]
    assert module.kept(record, anew, now) == old[:1]
    assert module.kept(tmp_path / "none.json", anew, now) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sets", "abstract"), "--sets 'abstract': is none of abstracts"),
        (("--only", "gnn: none"), "--only 'gnn: none': is none of floor"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(texts, tmp_path, arguments, words):
    done = study(texts, tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr


def test_a_folder_without_text_sets_is_refused(tmp_path):
    done = study(tmp_path, tmp_path)
    assert done.returncode == 2 and "no text sets among the folders" in done.stderr
