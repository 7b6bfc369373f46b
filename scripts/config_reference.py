"""Writes what follows from the config models: the JSON schema and the tables in config/README.md. ``make generate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args, get_origin

from common import files
from common.config import STAGES, Config, Runtime, Settings

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.json"
TABLES = ROOT / "config" / "README.md"
PASSES = [(name, model) for name, (_, model) in STAGES.items()]
HEADER = """# Settings

`config.yaml` is the demo, `pubchem.yaml` a production run. A config may leave out everything but
`descriptors.parquet_glob`. A setting that several passes share is listed with the first of them. The scripts take the
same names as flags: `python scripts/pass2.py --spearman_threshold 0.9`.

This page is made by `make generate` from `scripts/common/config.py`; a test keeps it in step.

`results`: output folder (default `results`). The rest stands under `descriptors:`.
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
    seen: set[str] = set()
    parts = [HEADER]
    sections: list[tuple[str, type[Settings]]] = [(f"{name}: {model.__doc__}", model) for name, model in PASSES]
    sections.append(("machine: changes no result, reruns nothing", Runtime))
    for title, section in sections:
        parts.append(f"\n## {title.rstrip('.')}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n")
        parts += [row(name, section) for name in section.model_fields if name not in seen]
        seen |= set(section.model_fields)
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
    names = {int: "whole number", float: "number", str: "text"}
    words = list(dict.fromkeys(names.get(kind, "list of text") for kind in kinds))
    limits = {key: value for mark in field.metadata for key, value in _limits(mark).items()}
    low = f"{limits['ge']} <= " if "ge" in limits else f"{limits['gt']} < " if "gt" in limits else ""
    high = f" <= {limits['le']}" if "le" in limits else f" < {limits['lt']}" if "lt" in limits else ""
    multiple = f", multiple of {limits['multiple_of']}" if "multiple_of" in limits else ""
    null = " or null" if type(None) in get_args(field.annotation) else ""
    return low + " or ".join(words) + high + multiple + null


def _limits(mark: Any) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "multiple_of")
    return {name: getattr(mark, name) for name in names if getattr(mark, name, None) is not None}


if __name__ == "__main__":
    main()
