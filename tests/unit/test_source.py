"""A digest follows exactly the source that a script runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import STAGES
from common.source import source_digest, used_modules

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

TREE = {
    "door.py": "import json\nfrom wing import a\nfrom common.files import write\n",
    "other.py": "from wing.c import f\n",
    "wing/__init__.py": "",
    "wing/a.py": "from wing.b import f\nimport numpy as np\n",
    "wing/b.py": "def f():\n    import wing.d\n    return wing.d\n",
    "wing/c.py": "def f(): pass\n",
    "wing/d.py": "if True:\n    from wing.a import f  # a circle\n",
    "wing/unused.py": "import wing.a\n",
    "common/__init__.py": "",
    "common/files.py": "import wing.e\ndef write(): pass\n",
    "wing/e.py": "",
}


@pytest.fixture
def tree(tmp_path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def used(root: Path, script: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in used_modules(root / script, root)]


def test_imports_are_followed_through_modules_functions_and_circles_but_the_ground_is_left_out(tree):
    assert used(tree, "door.py") == ["door.py", "wing/a.py", "wing/b.py", "wing/d.py", "wing/e.py"]
    assert used(tree, "other.py") == ["other.py", "wing/c.py"]


@pytest.mark.parametrize("name", TREE)
def test_an_edit_changes_the_digest_of_exactly_the_scripts_that_use_the_file(tree, name):
    before = {script: source_digest(tree / script, tree) for script in ("door.py", "other.py")}
    affected = {script for script in before if name in used(tree, script)}
    with open(tree / name, "a") as handle:
        handle.write("\n# an edit\n")
    after = {script: source_digest(tree / script, tree) for script in before}
    assert {script for script in before if before[script] != after[script]} == affected


def test_neither_a_touch_nor_another_place_changes_the_digest(tree, tmp_path_factory):
    before = source_digest(tree / "door.py", tree)
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
    assert source_digest(tree / "door.py", tree) == before
    moved = tree.rename(tmp_path_factory.mktemp("elsewhere") / "checkout")
    assert source_digest(moved / "door.py", moved) == before


def test_code_that_moves_from_one_module_to_another_is_an_edit(tree):
    before = source_digest(tree / "door.py", tree)
    a, b = tree / "wing/a.py", tree / "wing/b.py"
    one, other = a.read_text(), b.read_text()
    a.write_text(one[:-1])
    b.write_text(one[-1] + other)
    assert source_digest(tree / "door.py", tree) != before


# imports each script afresh and tells what came with it
PROBE = """
import importlib, json, sys
found = {}
for name in sys.argv[2:]:
    for module in [m for m in sys.modules if m.split(".")[0] in ("molecules", "descriptors", "taxoclass", "common")]:
        del sys.modules[module]
    importlib.import_module(name)
    found[name] = sorted(m for m in sys.modules if m.startswith(("molecules.", "descriptors.", "taxoclass.")))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What each stage's script really imports of the wings."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE, "", *STAGES],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_when_it_runs_is_in_its_digest(stage, imported):
    assert imported[stage], "every stage uses its wing"
    digested = {
        path.relative_to(SCRIPTS).with_suffix("").as_posix().replace("/", ".")
        for path in used_modules(SCRIPTS / f"{stage}.py", SCRIPTS)
    }
    assert set(imported[stage]) <= digested
    assert stage in digested
    assert not any(name.startswith("common") for name in digested)


@pytest.fixture(scope="module")
def users() -> dict[str, set[str]]:
    """Of each module of the wings the stages that run it."""
    found: dict[str, set[str]] = {}
    for stage in STAGES:
        for path in used_modules(SCRIPTS / f"{stage}.py", SCRIPTS):
            found.setdefault(path.relative_to(SCRIPTS).as_posix(), set()).add(stage)
    return found


def test_stages_that_share_no_numerics_do_not_rerun_for_one_another(users):
    assert users["descriptors/variance.py"] == {"pass1"}
    assert users["descriptors/nonlinear.py"] == {"pass4"}
    assert "pass0" not in users["descriptors/ranks.py"]
    assert users["taxoclass/scoring.py"] == {"similarity", "train_classifier", "self_train", "predict"}
    assert users["taxoclass/encoders.py"] == users["taxoclass/scoring.py"]
    assert users["taxoclass/training.py"] == {"train_classifier", "self_train", "predict"}
    assert users["taxoclass/self_training.py"] == {"self_train"}
    assert users["taxoclass/metrics.py"] == {"evaluate"}


def test_an_edit_in_one_wing_reruns_nothing_of_the_other(users):
    for module, stages in users.items():
        wing = module.split("/")[0]
        if wing in ("molecules", "descriptors", "taxoclass"):
            assert {STAGES[stage][0] for stage in stages} == {wing}, module
