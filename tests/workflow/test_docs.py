"""The commands of README, CONTRIBUTING, SECURITY and docs: each is planned, or what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from both_wings import Project
from common.config import load
from common.descriptors_settings import Descriptors
from common.molecules_settings import Molecules
from common.settings import Settings
from common.taxoclass_settings import Taxoclass
from conftest import ROOT
from snakemake_runs import succeeded

MODELS: dict[str, type[Settings]] = {"molecules": Molecules, "descriptors": Descriptors, "taxoclass": Taxoclass}
PAGES = [ROOT / f"{name}.md" for name in ("README", "README.ko", "CONTRIBUTING", "SECURITY", "config/README")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PROGRAMS = {"snakemake", "make", "python", "pip", "pytest"}  # of this repository: below
ELSEWHERE = {  # of the machine, or of other projects: read by a shell, but not run
    ".", "apptainer", "chmod", "coverage", "docker", "du", "export", "git", "grep", "kill", "mkdir", "pre-commit", "ps",
    "python3.11", "sbatch", "scancel", "snakedeploy", "split", "squeue", "tail", "umask", "uv",
}  # fmt: skip


def program(command: str) -> str:
    """Its name, without the folder; nothing of what is no command."""
    found = re.match(r"(?:time )?(?:[\w./-]*/)?([\w.-]+)", command)
    return found[1] if found else ""


def commands() -> dict[str, str]:
    """The first page that has it, by command: the lines of blocks without a language, and between backquotes."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text()
        blocks = [block for language, block in BLOCK.findall(text) if language in ("", "sh")]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        quoted = [each for each in re.findall(r"`([^`]+)`", BLOCK.sub("", text)) if " " in each]
        lines += [each for each in quoted if program(each) in PROGRAMS | ELSEWHERE or each.startswith("scripts/")]
        for line in lines:
            if command := re.sub(r"(^|\s)# .*$", "", line).strip():
                found.setdefault(command, page.name)
    return found


COMMANDS = commands()


def parts(name: str) -> list:
    """What runs this program, also after another command or inside it."""
    found = {part: page for command, page in COMMANDS.items() for part in re.split(r"\s*(?:;|&&)\s*", command)}
    return [
        pytest.param(part, id=f"{page}: {part[:70]}")
        for part, page in found.items()
        if re.fullmatch(name, program(part))
    ]


def test_every_command_is_one_that_is_looked_at():
    strange = {program(command) for command in COMMANDS} - PROGRAMS - ELSEWHERE
    assert [name for name in strange if not name.endswith(".py")] == []
    read = subprocess.run(["bash", "-n"], input="\n".join(COMMANDS), capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """With what the pages speak of: my.yaml of both wings."""
    project = Project.create(tmp_path_factory.mktemp("docs") / "project", shards=1)
    (project.folder / "my.yaml").write_text((project.folder / "config" / "config.yaml").read_text())
    return project


@pytest.mark.parametrize("command", [each for each in parts("snakemake") if "storage.md" not in each.id])
def test_snakemake_plans_what_it_is_told(command, project, dry_runs):
    # the commands of storage.md need a bucket: test_storage.py
    said = [word for word in shlex.split(command.split("|")[0]) if word != "…"][1:]
    arguments = [re.sub("/path/to/winnow|/shared/winnow", str(project.folder), word) for word in said]
    if "--report" in arguments:  # of a finished run: test_report
        del arguments[(at := arguments.index("--report")) : at + 2]
    succeeded(dry_runs(project.folder, *arguments, *([] if "--cores" in arguments else ["--cores", "2"])))


@pytest.mark.parametrize("command", parts("make"))
def test_make_has_the_target(command):
    words = [word for word in shlex.split(command) if word not in ("time", "make")]
    known = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_setting, _ = word.partition("=")
        if is_setting:
            assert re.search(rf"\$\({name}\)|\$\(if \$\({name}\)", known), command
        else:
            assert re.search(rf"^{re.escape(word.replace('.venv', '$(VENV)'))}:", known, re.M), command


@pytest.mark.parametrize("command", parts(r"python|\w+\.py"))
def test_a_script_has_the_flags(command):
    script = ROOT / re.search(r"\S+\.py", command)[0]
    said = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    flags = re.findall(r" (--[\w-]+)", command)
    assert flags and [flag for flag in flags if flag not in said] == []


def test_what_commands_name_is_there():
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    for command, page in COMMANDS.items():
        for path in re.findall(r"(?<![\w./])(?:scripts|config|profiles|envs|benchmarks|tests)/[\w./-]*\w", command):
            assert (ROOT / path).exists(), f"{page}: {command}"
        for marker in re.findall(r"pytest -m (\w+)", command):
            assert any(each.startswith(f"{marker}: ") for each in markers), f"{page}: {command}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target, place in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
            if not target.startswith("http"):
                assert (other := page.parent / target if target else page).exists(), f"{page.name}: {target}"
                assert not place or place in anchors(other), f"{page.name}: {target}#{place}"


def anchors(page: Path) -> set[str]:
    """What its headings are called in a link."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_files_that_pages_name_are_there():
    for page in PAGES:
        for path in re.findall(
            r"`((?:scripts|workflow|config|profiles|envs|benchmarks|resources|tests)/[\w./-]+)`", page.read_text()
        ):
            if "results" not in path and not path.endswith(".tsv"):
                assert (ROOT / path).exists(), f"{page.name}: {path}"


SECTIONS = {
    "molecules": {"molecules_glob": "*.csv", "smiles_column": "smiles"},
    "descriptors": {"parquet_glob": "*.parquet", "n_metadata": 1},
    "taxoclass": {"classes_file": "classes", "hierarchy_file": "hierarchy", "train_corpus": "corpus"},
}


def test_settings_that_pages_name_can_be_set_so():
    for page in PAGES:
        text = page.read_text()
        for config in (yaml.safe_load(block) for language, block in BLOCK.findall(text) if language == "yaml"):
            assert config.keys() == {"set-resources"} or load(config), page.name
        for name, value in re.findall(r"`(\w+): ([^\s`]+|\[[^]`]+\])`", text):
            where = [section for section, model in MODELS.items() if name in model.model_fields]
            assert where, f"{page.name}: {name}"
            for section in where:
                load({section: SECTIONS[section] | {name: yaml.safe_load(value)}})
