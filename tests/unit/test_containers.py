"""The images, as far as that can be seen without building them: steps and pins of the Makefile, files of a run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

RECIPES = (ROOT / "envs" / "Dockerfile", ROOT / "envs" / "apptainer.def")


def pip_steps(text: str) -> list[str]:
    """What is handed to pip, in order, however make, a shell or a definition file spells it."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"(?:\$\(PIP\)|pip install)( [^&\n]+)", text)
    steps = []
    for step in found:
        step = re.sub(r"--(no-cache-dir|quiet|disable-pip-version-check)|\"", "", step)
        step = re.sub(r"\$\((?:shell )?(grep [^)]*)\)", r"<\1>", step)
        step = re.sub(r"\$\{ENVIRONMENT\}|\{\{ environment \}\}", "cpu", step)
        steps.append(" ".join(step.split()))
    return steps


def copied(recipe: Path) -> list[str]:
    """Files and folders of the repository that are in the image."""
    text = recipe.read_text()
    if recipe.name == "Dockerfile":
        return re.findall(r"^COPY (\S+) \S+$", text, re.M)
    return re.findall(r"^    (\S+) /opt/winnow/\1$", text, re.M)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_an_image_is_installed_by_the_steps_of_the_makefile(recipe):
    makefile = (ROOT / "Makefile").read_text()
    rule = re.search(r"^\$\(VENV\)/\.done:.*?(?=^\S)", makefile, re.M | re.S)
    assert rule is not None
    ours = pip_steps(rule[0].replace("$(PINS)", "-r envs/dev.txt"))
    # a cluster's and a developer's packages are for those who submit jobs and those who test
    assert [step.replace("dev.txt", "cpu.txt") for step in ours] == pip_steps(recipe.read_text())
    assert len(ours) == 3


def test_both_images_have_the_same_files_and_the_same_base():
    one, other = RECIPES
    assert sorted(copied(one)) == sorted(copied(other))
    base = {re.search(r"^(?:FROM|From:) (\S+)$", path.read_text(), re.M)[1] for path in RECIPES}
    assert len(base) == 1
    conda = (ROOT / "envs" / "cpu.yaml").read_text()
    assert f"python={re.search(r'python:([0-9.]+)', base.pop())[1]}" in conda


@pytest.mark.parametrize("environment", ["cpu", "gpu", "cluster"])
def test_every_environment_that_an_image_may_be_built_from_is_there(environment):
    assert (ROOT / "envs" / f"{environment}.txt").is_file()


def test_the_files_of_an_image_are_all_that_a_run_needs(tmp_path):
    inside = tmp_path / "winnow"
    inside.mkdir()
    for name in copied(RECIPES[0]):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, inside / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, inside / name)
    data = tmp_path / "data"
    data.mkdir()
    config = (ROOT / "config" / "config.yaml").read_text().replace("resources/", f"{ROOT}/resources/")
    (data / "my.yaml").write_text(config)
    entry = re.search(r"^ENTRYPOINT \[(.*)\]$", RECIPES[0].read_text(), re.M)[1]
    words = [word.strip(' "').replace("/opt/winnow", str(inside)) for word in entry.split(",")]
    assert words[0] == "snakemake"
    command = [sys.executable, "-m", *words, "--configfile", "my.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=data, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"pass4", "predict"} <= set(done.stdout.split())
