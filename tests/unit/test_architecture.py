"""Imports run down the house that docs/architecture.md draws, and what that page names is there."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PAGE = (ROOT / "docs" / "architecture.md").read_text()

DOOR = "door"
BELOW = {
    DOOR: {"reporting", "molecules", "descriptors", "taxoclass", "common"},
    "reporting": {"descriptors", "taxoclass", "common"},
    "molecules": {"common"},
    "descriptors": {"common"},
    "taxoclass": {"common"},
    "common": set(),
}

ROOM = re.compile(r"^\| `(\w+)/` \| (.*) \| (.*)\|$", re.M)
PLACE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|smk|yaml))(?:: ((?:rule )?[\w.]+))?`")
PRODUCT = re.compile(r"`([\w.]+\.(?:npy|npz|json|txt|tsv|csv|jsonl|parquet|pt))`")
OPENS = re.compile(r"\bfiles\.(read|write|atomic|map)|(?<!def )\bopen\(|\bpieces\.(read|write)|\bpq\.|\bnp\.load")
IN_RULES = re.compile(r"^\s*def (\w+)|^\s*(rule \w+):|^(\w+) = ", re.M)


def floor(module: str) -> str:
    """The folder of a module; one in none is a door."""
    return module.rpartition(".")[0] or DOOR


def sources() -> dict[str, str]:
    """Of each module of scripts/ its text."""
    found = {path.relative_to(SCRIPTS).with_suffix(""): path for path in SCRIPTS.rglob("*.py")}
    return {".".join(name.parts): path.read_text() for name, path in found.items() if name.name != "__init__"}


def imports() -> dict[str, set[str]]:
    """Of each module those of scripts/ that it imports anywhere, for types too."""
    texts = sources()
    found: dict[str, set[str]] = {name: set() for name in texts}
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: a relative import"
                found[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & texts.keys()
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & texts.keys()
    return found


def against_the_rule(uses: dict[str, set[str]]) -> list[str]:
    """Imports that run up, from wing to wing, or from a door to another one that is not its stage's."""

    def allowed(name: str, other: str) -> bool:
        if floor(name) == floor(other):
            return floor(name) != DOOR or name == f"{other}_shard"
        return floor(other) in BELOW[floor(name)]

    return [f"{name} -> {other}" for name in uses for other in uses[name] if not allowed(name, other)]


def test_no_import_runs_up_or_from_wing_to_wing_or_in_a_circle():
    uses = imports()
    assert {floor(name) for name in uses} == BELOW.keys()
    assert against_the_rule(uses) == []
    graphlib.TopologicalSorter(uses).prepare()  # CycleError: a circle


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("common.files", "descriptors.table"),
        ("descriptors.table", "taxoclass.labels"),
        ("taxoclass.labels", "reporting.page"),
        ("reporting.page", "molecules.reading"),
        ("descriptors.table", "pass1"),
        ("pass2", "pass1"),
    ],
)
def test_an_import_against_the_rule_is_seen(module, other):
    uses = imports()
    uses[module].add(other)
    assert against_the_rule(uses) == [f"{module} -> {other}"]


LONGEST = 60  # lines of a function, its docstring and decorators with it, without a reason
REASON = "# long: "


def without_a_reason(text: str) -> list[str]:
    """Functions of more than LONGEST lines that have no comment with a reason on the line before them."""
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            told = lines[first - 2].strip().startswith(REASON) if first > 1 else False
            if node.end_lineno - first + 1 > LONGEST and not told:
                found.append(node.name)
    return found


def test_a_long_function_says_why_it_is():
    found = {name: without_a_reason(text) for name, text in sources().items()}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_a_long_function_without_a_reason_is_seen():
    allowed = "def one():\n" + "    x = 1\n" * (LONGEST - 1)
    longer = allowed + "    x = 1\n"
    assert without_a_reason(allowed) == []
    assert without_a_reason(longer) == without_a_reason(f"@cached\n{allowed}") == ["one"]
    assert without_a_reason(f"{REASON}it lists what there is\n{longer}") == []


# ---- what the page says


def quoted(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def defined(path: Path) -> set[str]:
    """Functions, classes with their members, values, rules of a file."""
    text = path.read_text()
    if path.suffix != ".py":
        return {name for found in IN_RULES.findall(text) for name in found if name}
    found = set()
    for node in ast.parse(text).body:
        owned = node.body if isinstance(node, ast.ClassDef) else []
        for each, owner in [(node, ""), *((member, f"{node.name}.") for member in owned)]:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                found.add(owner + each.name)
            elif isinstance(each, ast.Assign | ast.AnnAssign):
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                found |= {owner + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_table_of_rooms_has_every_module_once_and_tells_which_of_the_wings_open_files():
    texts = sources()
    rooms = {folder: (quoted(names), quoted(opening)) for folder, names, opening in ROOM.findall(PAGE)}
    assert rooms.keys() == BELOW.keys() - {DOOR}
    for folder, (names, opening) in rooms.items():
        there = {name.split(".")[1]: text for name, text in texts.items() if floor(name) == folder}
        assert sorted(names) == sorted(there), folder
        if folder in ("molecules", "descriptors", "taxoclass"):
            assert sorted(opening) == sorted(name for name, text in there.items() if OPENS.search(text)), folder


def test_the_files_and_functions_that_the_page_names_are_there():
    places = PLACE.findall(PAGE)
    assert len(places) > 100
    for name, function in places:
        path = next((base / name for base in (SCRIPTS, ROOT) if (base / name).is_file()), None)
        assert path is not None, name
        assert not function or function in defined(path), f"{name}: {function}"


def test_no_name_on_the_page_is_unknown_to_the_code():
    known = set(re.findall(r"\w+", "".join([*sources().values(), rules()])))
    assert set(quoted(PAGE)) <= known


def test_the_products_that_the_page_names_are_those_of_rules():
    named = set(PRODUCT.findall(PAGE))
    assert len(named) > 30
    assert [name for name in sorted(named) if f'/{name}"' not in rules()] == []


def rules() -> str:
    return "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
