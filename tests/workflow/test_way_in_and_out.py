"""docs/way_in_and_out.md, followed to the letter on the demo data, and what it promises."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from conftest import ROOT, copy_workflow, write_table
from passes import table
from reporting import page as report_page

PAGE = (ROOT / "docs" / "way_in_and_out.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)


def follow(folder: Path, kind: str, text: str) -> subprocess.CompletedProcess[str]:
    """What a block does where a reader has the workflow."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHONPATH": str(folder / "scripts")}
    command = {"sh": ["bash", "-ec", text], "python": [sys.executable, "-c", text]}[kind]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """The folder of the workflow after every command of the page."""
    for package in ("rdkit", "pebble"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install -r envs/molecules.txt")
    folder = tmp_path_factory.mktemp("way")
    copy_workflow(folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    for kind, text in BLOCKS:
        if kind == "yaml":
            (folder / "my.yaml").write_text(text)
            continue
        done = follow(folder, kind, text)
        assert done.returncode == 0, text + done.stdout + done.stderr
        if kind == "python":
            assert done.stdout == f"({1128}, {len((folder / FINAL).read_text().splitlines())})\n"
    return folder


FINAL = "results/mine/descriptors/final_descriptors.txt"


def made(folder: Path) -> pa.Table:
    parts = sorted((folder / "results" / "mine" / "molecules").glob("descriptors_*_of_2.parquet"))
    return pa.concat_tables(map(pq.read_table, parts))


def test_the_molecules_are_those_of_the_input_in_order(followed):
    given = pa.concat_tables(map(pq.read_table, sorted((ROOT / "resources" / "esol").glob("*.parquet"))))
    found = made(followed)
    assert found.column("mol_id").to_pylist() == given.column("mol_id").to_pylist()
    assert len(found.schema) == 2 + 217 and "217 RDKit descriptors" in PAGE
    # the demo's own were calculated by the same package
    for name in ("MolWt", "TPSA", "MolLogP"):
        assert found.column(name).to_pylist() == pytest.approx(given.column(name).to_pylist(), rel=1e-9, nan_ok=True)
    failures = followed / "results" / "mine" / "molecules" / "failures.tsv"
    assert failures.read_text() == "row\tid\tsmiles\treason\n"


def test_the_reduced_table_is_the_input_with_fewer_columns(followed):
    final = (followed / FINAL).read_text().splitlines()
    whole = made(followed)
    names = [name for name in whole.schema.names if name in {"mol_id", "smiles", *final}]
    assert pq.read_table(followed / "results/mine/descriptors/selected.parquet").equals(whole.select(names))


def test_the_other_selections_are_ten_and_of_one_member_a_cluster(followed):
    with open(followed / "alternatives.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    final = (followed / FINAL).read_text().splitlines()
    sets = [[row for row in rows if row["set"] == str(number)] for number in range(1, 11)]
    assert all([row["final"] for row in each] == final for each in sets) and len(rows) == 10 * len(final)
    assert all(float(row["weakest_similarity"]) >= 0.7 for row in rows)


def test_the_page_shows_the_scores_that_the_run_gives(followed):
    with open(followed / "results/mine/descriptors/utility.tsv") as handle:
        found = {(row["model"], row["descriptors"]): row for row in csv.DictReader(handle, delimiter="\t")}
    header, _, *rows = [
        line.strip("| ").split(" | ") for line in PAGE.partition("R2, 95 % interval")[2].splitlines()[2:6]
    ]
    names = ["all", "after pass 2", "after pass 3", "selected", "random"]
    for row in rows:
        for name, column, cell in zip(names, header[1:], row[1:], strict=True):
            result = found[row[0], name]
            assert result["number"] in column.split()  # how many descriptors
            shown = [float(number) for number in re.findall(r"\.\d+", cell)]
            given = [float(result[key]) for key in ("mean", "low", "high")]
            # another machine rounds otherwise, which may grow another tree
            assert shown == pytest.approx(given[: len(shown)], abs=0.01)


def test_the_report_has_the_scores(followed):
    found = json.loads((followed / "results" / "mine" / "descriptors" / "utility.json").read_text())
    page = (followed / "results" / "mine" / "report.html").read_text()
    for model, sets in found["models"].items():
        for name, result in sets.items():
            cells = "".join(f"<td>{re.escape(html.escape(each))}</td>" for each in (model, name))
            assert re.search(rf"{cells}.*?>{re.escape(report_page.cell(result['mean']))}<", page), (model, name)


def test_the_report_has_the_stages_of_the_molecules(followed):
    page = (followed / "results" / "mine" / "report.html").read_text()
    assert page.count("<td>molecules_shard</td>") == 2 and page.count("<td>read_molecules</td>") == 1


def test_nothing_is_left_to_do_and_other_shards_make_the_same_table(followed):
    dry = "snakemake --configfile my.yaml -n"
    assert "Nothing to be done" in (done := follow(followed, "sh", dry)).stdout + done.stderr
    config = yaml.safe_load((followed / "my.yaml").read_text())
    config["molecules"]["molecule_shards"] = 3
    (followed / "three.yaml").write_text(yaml.safe_dump({key: config[key] for key in ("results", "molecules")}))
    before = made(followed)
    done = follow(followed, "sh", "snakemake --cores 2 --configfile three.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = sorted((followed / "results" / "mine" / "molecules").glob("descriptors_*_of_3.parquet"))
    assert pa.concat_tables(map(pq.read_table, parts)).equals(before)


def test_after_an_interruption_only_the_shard_that_is_missing_is_calculated(followed):
    lost = followed / "results" / "mine" / "molecules" / "descriptors_2_of_2.parquet"
    before = lost.read_bytes()
    lost.unlink()
    done = follow(followed, "sh", "snakemake molecules --cores 2 --configfile my.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", done.stdout + done.stderr)
    assert ran == ["molecules_shard", "molecules_failures", "molecules"]
    assert lost.read_bytes() == before


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"utility_target": "nobody"}, "utility_target names 'nobody'"),
        ({"utility_target": "c0"}, "is one of the descriptors and would predict itself"),
        (
            {"utility_target": "y", "utility_file": "no.csv", "utility_key": "m0"},
            "utility_file = 'no.csv' is no readable",
        ),
        ({"utility_target": "y", "utility_file": "no.csv"}, "utility_file and utility_key belong together"),
    ],
)
def test_a_property_that_cannot_be_is_told_before_anything_runs(tmp_path, section, words):
    copy_workflow(tmp_path)
    write_table(tmp_path / "data" / "t.parquet", table())
    config = {"descriptors": {"parquet_glob": "data/*.parquet", "n_metadata": 1} | section}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    done = follow(tmp_path, "sh", "snakemake --cores 1 --configfile my.yaml")
    told = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert done.returncode != 0 and len(told) == 1 and words in told[0]


def test_the_reduced_table_is_made_with_a_run_only_if_asked_for(tmp_path):
    copy_workflow(tmp_path)
    write_table(tmp_path / "data" / "t.parquet", table())
    for asked in (False, True):
        config = {"parquet_glob": "data/*.parquet", "n_metadata": 1, "selected_table": asked}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({"descriptors": config}))
        done = follow(tmp_path, "sh", "snakemake --configfile my.yaml -n")
        assert done.returncode == 0 and ("rule selected:" in done.stdout) == asked
