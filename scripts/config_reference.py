"""Writes what follows from the config models: the JSON schema and the tables in config/README.md. ``make generate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from common import files
from common.config import RUNTIMES, STAGES, Config
from common.settings import Settings
from common.taxoclass_settings import Given

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.json"
TABLES = ROOT / "config" / "README.md"
HEADER = """# Settings

`config.yaml` is the demo, `pubchem.yaml` and `amazon531.yaml` are production runs. `results` is the output folder
(default `results`). A config has at least one of the sections `molecules`, `descriptors` and `taxoclass`, and may leave
out every key but the required ones. A setting that several stages share is listed with the first of them. The scripts
take the same names as flags: `python scripts/pass2.py --spearman_threshold 0.9`.

This page is made by `make generate` from the settings in `scripts/common/`; a test keeps it in step.
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    files.write_text(SCHEMA, schema())
    files.write_text(TABLES, tables())


def schema() -> str:
    """JSON schema of the whole config, for editors and for reading."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return json.dumps(made, indent=2) + "\n"


def tables() -> str:
    return HEADER + "".join(chapter(section) for section in RUNTIMES)


def chapter(section: str) -> str:
    """The tables of one section of the config, one a stage."""
    groups: list[tuple[str, type[Settings]]] = []
    if section == "taxoclass":
        groups.append(("files and iterations", Given))
    groups += [(f"{name}: {model.__doc__}", model) for name, (owner, model) in STAGES.items() if owner == section]
    groups.append(("machine: changes no result, reruns nothing", RUNTIMES[section]))
    seen: set[str] = set()
    parts = [f"\n# `{section}:`\n"]
    for title, group in groups:
        parts.append(f"\n## {title.rstrip('.')}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n")
        parts += [row(name, group) for name in group.model_fields if name not in seen]
        seen |= set(group.model_fields)
    return "".join(parts)


def row(name: str, model: type[Settings]) -> str:
    field = model.model_fields[name]
    default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
    return f"| `{name}` | {default} | {allowed(field)} | {field.description} |\n"


def allowed(field: Any) -> str:
    """Type and limits in words, for example ``0 < number <= 1``."""
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    if get_origin(field.annotation) is list:
        kinds = [field.annotation]
    if all(isinstance(kind, str) for kind in kinds):
        return ", ".join(f"`{kind}`" for kind in kinds)
    words = list(dict.fromkeys(map(kind_in_words, kinds)))
    limits = {key: value for mark in field.metadata for key, value in _limits(mark).items()}
    low = f"{limits['ge']} <= " if "ge" in limits else f"{limits['gt']} < " if "gt" in limits else ""
    high = f" <= {limits['le']}" if "le" in limits else f" < {limits['lt']}" if "lt" in limits else ""
    multiple = f", multiple of {limits['multiple_of']}" if "multiple_of" in limits else ""
    null = " or null" if type(None) in get_args(field.annotation) else ""
    return low + " or ".join(words) + high + multiple + null


def kind_in_words(kind: Any) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if kind in names:
        return names[kind]
    items = get_args(kind)[0]
    if get_origin(items) is Annotated:
        items = get_args(items)[0]
    choices = get_args(items)
    return "list of " + (
        ", ".join(f"`{choice}`" for choice in choices) if choices else names[items] + ("s" * (items is not str))
    )


def _limits(mark: Any) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "multiple_of")
    return {name: getattr(mark, name) for name in names if getattr(mark, name, None) is not None}


if __name__ == "__main__":
    main()
