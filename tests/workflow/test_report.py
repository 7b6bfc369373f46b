"""The report of a small run of both wings: its numbers against the files, and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from both_wings import HERE, Project
from snakemake_runs import commands, succeeded

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = Project.create(tmp_path_factory.mktemp("report") / "project", shards=1)
    assert "report" in project.run(*HERE)
    return project


@pytest.fixture(scope="module")
def page(project) -> Path:
    return project.folder / "results" / "report.html"


def tables(page: Path) -> dict[str, list[list[str]]]:
    """Rows of every table by the first word of its header."""
    found = {}
    for text in re.findall(r"<table>(.*?)</table>", page.read_text(), re.S):
        header = [html.unescape(cell) for cell in re.findall(r"<th(?: [^>]*)?>(.*?)</th>", text)]
        lines = re.findall(r"<tr>(.*?)</tr>", text.split("<tbody>")[1], re.S)
        found[header[0]] = [
            [html.unescape(each) for each in re.findall(r"<td[^>]*>(.*?)</td>", line)] for line in lines
        ]
    return found


def results(project: Project, name: str) -> str:
    return (project.folder / "results" / name).read_text()


def test_every_descriptor_is_there_with_what_became_of_it(project, page):
    rows = {row[0]: row for row in tables(page)["descriptor"]}
    final = results(project, "descriptors/final_descriptors.txt").split()
    removed = [line.split("\t") for line in results(project, "descriptors/removed_descriptors.tsv").splitlines()[1:]]
    assert sorted(rows) == sorted([*final, *(line[0] for line in removed)])
    assert all(rows[name][1] == "kept" for name in final)
    for name, number, _, parent, similarity, _, root in removed:
        assert rows[name][1] == f"pass {number}" and rows[name][3] == parent
        if parent:
            assert float(rows[name][4]) == pytest.approx(float(similarity), abs=5e-4)
            assert re.split(r" → ", rows[name][5])[-1].split(" (")[0] == root


def test_counts_by_reason_are_those_of_the_passes(project, page):
    rows = tables(page)["pass"]
    for number, name in enumerate(
        ["pass1_variance_filtering", "pass2_spearman", "pass3_vif", "pass4_nonlinear"], start=1
    ):
        removed = json.loads(results(project, f"descriptors/{name}.json"))["removed_count"]
        assert sum(int(row[2]) for row in rows if row[0] == str(number)) == removed


def test_the_thresholds_of_this_run_leave_what_it_left(project, dry_runs, monkeypatch):
    import report
    from reporting import selection

    seen = {}
    for name in ("kept_by_clusters", "kept_by_vif"):
        real = getattr(selection, name)
        monkeypatch.setattr(
            selection,
            name,
            lambda made, *rest, real=real: seen.setdefault((real.__name__, *rest[:1]), real(made, *rest)),
        )
    said = succeeded(dry_runs(project.folder, *HERE, "--forcerun", "report", "--printshellcmds", "--until", "report"))
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("sys.argv", commands(said)["report"][1:])
    report.main()
    left = {
        number: json.loads(results(project, f"descriptors/{name}.json"))
        for number, name in [(2, "pass2_spearman"), (3, "pass3_vif"), (4, "pass4_nonlinear")]
    }
    assert seen["kept_by_clusters", 2][left[2]["parameters"]["spearman_threshold"]] == left[2]["remaining_count"]
    assert seen["kept_by_clusters", 4][left[4]["parameters"]["nonlinear_threshold"]] == left[4]["remaining_count"]
    assert seen["kept_by_vif",][left[3]["parameters"]["vif_threshold"]] == left[3]["remaining_count"]


def test_classes_are_counted_as_they_were_given(project, page):
    records = [json.loads(line) for line in results(project, "taxoclass/labels.jsonl").splitlines()]
    text = page.read_text()
    for name in {name for record in records for name in record["names"]}:
        count = sum(record["names"].count(name) for record in records)
        notes = re.findall(rf'>{html.escape(name)} <span class="note">([\d,]+) documents', text)
        assert sum(map(int, set(notes))) == count  # a name twice is two classes; one with two parents is told twice


def test_metrics_are_those_of_evaluate(project, page):
    metrics = json.loads(results(project, "taxoclass/metrics.json"))
    rows = {row[0]: row[1:] for row in tables(page)["metric"]}
    low, high = metrics["intervals"]["strict.example_f1"]
    assert [float(cell) for cell in rows["Example-F1"]] == pytest.approx(
        [metrics["strict"]["example_f1"], low, high], abs=5e-4
    )
    assert {"level_f1.0.f1", "level_f1.1.f1"} <= set(metrics["intervals"])


def test_the_rules_are_those_that_snakemake_draws(project, page):
    graph = json.loads(results(project, "rulegraph.json"))
    before = len(project.said)
    assert project.start("--rulegraph", *HERE).wait(120) == 0
    dot = project.said[before:]
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', dot, re.M))
    edges = {(names[one], names[other]) for one, other in re.findall(r"^\s*(\d+) -> (\d+)", dot, re.M)}
    assert {tuple(edge) for edge in graph["edges"]} == {edge for edge in edges if edge[1] in graph["jobs"]}
    assert set(graph["jobs"]) == set(names.values()) - {"all"}
    for name in graph["jobs"]:
        assert f">{name}<" in page.read_text()


def test_it_needs_nothing_beside_it(page):
    text = page.read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert "@import" not in text and "fetch(" not in text


def test_it_is_in_the_report_of_snakemake(project):
    assert project.start("--report", "snakemake.zip", *HERE).wait(120) == 0, project.said[-3000:]
    names = zipfile.ZipFile(project.folder / "snakemake.zip").namelist()
    for made in ("report.html", "overview.png", "removed_descriptors.tsv"):
        assert any(name.endswith(made) and "data" in name for name in names), made


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_it_opens_without_an_error_at_any_width(browser, page, width, scheme):
    complaints: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    opened.goto(page.as_uri())
    assert complaints == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ground, ink = opened.evaluate(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number))"
    )
    assert (sum(ground) > sum(ink)) == (scheme == "light")
    hidden = opened.evaluate("[...document.querySelectorAll('figure svg')].filter(e => e.clientWidth < 200).length")
    assert hidden == 0
    opened.close()


def test_search_shows_the_rows_with_all_words(browser, project, page):
    final = results(project, "descriptors/final_descriptors.txt").split()[0]
    opened = browser.new_page()
    opened.goto(page.as_uri())
    box, table = opened.locator("input[type=search]").first, opened.locator("div.wide table").nth(1)
    everything = table.locator("tbody tr:visible").count()
    box.fill(f"{final} kept")
    names = table.locator("tbody tr:visible td:first-child").all_inner_texts()
    assert final in names and len(names) < everything
    assert opened.locator("output").first.inner_text() == f"{len(names)} of {everything}"
    box.fill("nothing has this name")
    assert table.locator("tbody tr:visible").count() == 0
    box.fill("")
    assert table.locator("tbody tr:visible").count() == everything
    opened.close()


def test_it_prints_with_all_that_was_folded(browser, page, tmp_path):
    opened = browser.new_page()
    opened.goto(page.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false; })")
    opened.pdf(path=tmp_path / "page.pdf")
    assert opened.evaluate("[...document.querySelectorAll('details')].every(each => each.open)")
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
    opened.close()
