"""The commands of README, CONTRIBUTING and docs: each is planned in a project of its own, or says how it is called."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from both_wings import Project
from conftest import ROOT

PAGES = [*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.M | re.S)
ELSEWHERE = ("/path/to/", "s3://", "<", "profiles/fs", "profiles/s3")  # places that a reader has; test_storage has some


def commands(start: str) -> list[tuple[str, str]]:
    """(page, command) of all lines of code blocks that begin so; a backslash joins lines, a comment is left out."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s#\s.*$", "", line.removeprefix("$ ")).strip()
                if re.match(rf"(time )?(\S*/)?{start}\b", command):
                    found.append((page.name, command))
    return found


def in_a_sentence() -> list[tuple[str, str]]:
    """(page, command) of what pages say of make between backquotes."""
    return [
        (page.name, each) for page in PAGES for each in sorted(set(re.findall(r"`(make [^`]+)`", page.read_text())))
    ]


def named(found: list[tuple[str, str]]) -> list:
    return [pytest.param(command, id=f"{page}: {command[:70]}") for page, command in found]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """With what the pages speak of: my.yaml of both wings."""
    project = Project.create(tmp_path_factory.mktemp("docs") / "project", shards=1)
    (project.folder / "my.yaml").write_text((project.folder / "config" / "config.yaml").read_text())
    return project


@pytest.mark.parametrize("command", named(commands("snakemake")))
def test_snakemake_plans_what_it_is_told(command, project, dry_runs):
    words = shlex.split(command.split("|")[0])
    arguments = words[next(at for at, word in enumerate(words) if word.endswith("snakemake")) + 1 :]
    if any(place in word for place in ELSEWHERE for word in arguments) or "…" in arguments:
        pytest.skip("speaks of a place that the reader has")
    if "--report" in arguments:  # of a finished run: test_report
        del arguments[(at := arguments.index("--report")) : at + 2]
    done = dry_runs(project.folder, *arguments, "--dry-run", *([] if "--cores" in arguments else ["--cores", "2"]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", named(commands("make") + in_a_sentence()))
def test_make_has_the_target(command):
    words = [word for word in shlex.split(command.split(";")[-1]) if word not in ("time", "make")]
    known = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_setting, _ = word.partition("=")
        if is_setting:
            assert f"$({name})" in known, command
        else:
            assert re.search(rf"^{re.escape(word.replace('.venv', '$(VENV)'))}:", known, re.M), command


@pytest.mark.parametrize("command", named(commands("python")))
def test_a_script_has_the_flags(command):
    words = shlex.split(command.split(">")[0])
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None or not (ROOT / script).exists():
        pytest.skip("not of this repository")
    said = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in said, command


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_pages_name_are_there():
    for page in PAGES:
        for path in re.findall(
            r"`((?:scripts|workflow|config|profiles|envs|benchmarks|resources|tests)/[\w./-]+)`", Path(page).read_text()
        ):
            if "results" not in path and not path.endswith(".tsv"):
                assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_measured_tables_are_those_of_the_shipped_records(tmp_path):
    sys.path.append(str(ROOT / "benchmarks"))
    import pages
    import written

    page = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", page)
    written.renew(page, pages.blocks())
    assert page.read_text() == (ROOT / "README.md").read_text(), "run benchmarks/pages.py"
