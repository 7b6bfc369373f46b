"""Configs drawn from the models of the settings, and tables that a real folder might hold."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from conftest import write_table

# what names files, columns or models, and where a test's seconds go
NOT_DRAWN = {
    "parquet_glob", "n_metadata", "metadata_columns", "exclude_columns", "utility_target", "utility_file",
    "utility_key", "selected_table", "classes_file", "hierarchy_file", "keywords_file", "train_corpus", "test_corpus",
    "gold_labels", "text_field", "train_split", "test_split", "similarity_model", "prefilter_model",
    "doc_encoder_model", "loggers", "local_files_only", "device", "hypothesis_template", "class_template",
    "word_language",
}  # fmt: skip
MOST: dict[str, float] = {
    "n_consensus": 6, "rdc_seeds": 3, "m": 2048, "r": 6, "shards": 5, "similarity_shards": 4, "epochs": 3,
    "min_steps": 20, "self_train_iterations": 2, "self_train_epochs": 2, "gnn_num_layers": 4, "clusterings": 3,
    "bootstrap_resamples": 50, "min_effective_n": 60, "doc_max_length": 120, "similarity_max_length": 120,
    "max_host_memory_gb": 6.0, "doc_chunks": 3, "similarity_chunks": 3, "vif_threshold": 50.0,
}  # fmt: skip


def settings(model: type[BaseModel], rng: random.Random, share: float = 0.4) -> dict[str, Any]:
    """About ``share`` of a model's settings, each anywhere within its limits; they need not go together."""
    fields = model.model_json_schema()["properties"]
    return {
        key: value(field, MOST.get(key), rng)
        for key, field in fields.items()
        if key not in NOT_DRAWN and rng.random() < share
    }


def value(field: Mapping[str, Any], most: float | None, rng: random.Random) -> Any:
    if "anyOf" in field:
        kind = rng.choice(field["anyOf"])
        return value({key: each for key, each in field.items() if key != "anyOf"} | kind, most, rng)
    if "enum" in field:
        return rng.choice(field["enum"])
    if field["type"] == "array":
        return [value(field["items"], 5, rng) for _ in range(rng.randint(1, 3))]
    if field["type"] in ("boolean", "null"):
        return {"boolean": rng.random() < 0.5, "null": None}[field["type"]]
    return number(field, most, rng)


def number(field: Mapping[str, Any], most: float | None, rng: random.Random) -> float:
    """Its default, a limit, or anything between; large ranges by their logarithm."""
    whole = field["type"] == "integer"
    least = field.get("minimum", field.get("exclusiveMinimum", 0))
    largest = min(field.get("maximum", field.get("exclusiveMaximum", math.inf)), most or math.inf)
    if largest == math.inf:
        largest = 4 * max(field.get("default") or 1, 1)
    start = max(least, 1 if whole else 1e-3)
    drawn = rng.choice([least, largest, math.exp(rng.uniform(math.log(start), math.log(max(largest, start))))])
    if "exclusiveMinimum" in field:
        drawn = max(drawn, least + 1e-3)
    if not whole:
        return float(min(drawn, largest if "exclusiveMaximum" not in field else largest * 0.99))
    step = field.get("multipleOf", 1)
    return int(round(drawn / step) * step)


def write_tables(folder: Path, seed: int) -> None:
    """One to three Parquet files: columns that follow a few hidden ones, and the odd sorts that descriptors have."""
    choose = random.Random(seed)
    n_columns, n_hidden = choose.randint(4, 24), choose.randint(1, 6)
    kinds = [
        choose.choice(["linear", "square", "steps", "gaps", "constant", "huge", "copy", "rare"])
        for _ in range(n_columns)
    ]
    for part in range(choose.randint(1, 3)):
        rng = np.random.default_rng([seed, part])
        n_rows = int(rng.integers(40, 160))
        hidden = rng.normal(size=(n_rows, n_hidden))
        columns: dict[str, np.ndarray] = {}
        for number_, kind in enumerate(kinds):
            column = hidden[:, number_ % n_hidden] + choose.choice([0.01, 0.3, 1.0]) * rng.normal(size=n_rows)
            if kind == "square":
                column = column**2
            elif kind == "steps":
                column = np.round(column)
            elif kind == "gaps":
                column[rng.random(n_rows) < 0.3] = np.nan
            elif kind == "constant":
                column = np.full(n_rows, 3.0)
            elif kind == "huge":
                column = column * 1e150
                column[:2] = np.inf, 1e84
            elif kind == "copy" and columns:
                column = next(iter(columns.values())).copy()
            elif kind == "rare":
                column = (rng.random(n_rows) < 0.05).astype(float)
            columns[f"d{number_}"] = column
        write_table(folder / f"part{part}.parquet", columns)
