"""Runs the passes one after another in this process, through the command lines that the rules use."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import load, stage_settings

NAMES = {
    "pass0": {"manifest": "pass0_sampling.json", "sample": "sampled_data.parquet"},
    "pass1": {
        "details": "pass1_variance_filtering.json",
        "columns": "pass1_columns.txt",
        "stats": "pass1_stats.npz",
        "codes": "pass1_codes.npy",
        "rows": "pass1_rows.npy",
    },
    "pass2": {
        "details": "pass2_spearman.json",
        "columns": "pass2_columns.txt",
        "matrix": "pass2_spearman_matrix.npy",
        "repaired": "pass2_spearman_repaired.npy",
    },
    "pass3": {"details": "pass3_vif.json", "columns": "pass3_columns.txt"},
    "pass4": {
        "details": "pass4_nonlinear.json",
        "columns": "final_descriptors.txt",
        "clusters": "final_cluster_info.json",
        "similarity": "pass4_similarity.npz",
        "removed": "removed_descriptors.tsv",
    },
}
INPUTS = {
    "pass0": {},
    "pass1": {"manifest": ("pass0", "manifest")},
    "pass2": {name: ("pass1", name) for name in ("details", "columns", "stats", "codes")},
    "pass3": {
        **{name: ("pass2", name) for name in ("details", "columns", "matrix", "repaired")},
        "entered": ("pass1", "columns"),
        "stats": ("pass1", "stats"),
        "manifest": ("pass0", "manifest"),
    },
    "pass4": {
        "columns": ("pass3", "columns"),
        "entered": ("pass1", "columns"),
        **{name: ("pass1", name) for name in ("stats", "codes", "rows")},
        **{number: (number, "details") for number in ("pass1", "pass2", "pass3")},
    },
}
# what does not say where the rows came from, or in which order
ORDER_FREE = [
    path for stage in NAMES if stage != "pass0" for name, path in NAMES[stage].items() if name not in ("codes", "rows")
]


class Selection(SimpleNamespace):
    """A finished run: its folder, and readers of its files."""

    folder: Path

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def npy(self, name: str) -> np.ndarray:
        return np.load(self.folder / name)

    @property
    def final(self) -> list[str]:
        return self.lines("final_descriptors.txt")

    def bytes(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in ORDER_FREE}


@pytest.fixture
def select(tmp_path, monkeypatch) -> Callable[..., Selection]:
    """select(parquet_glob, threads=1, last="pass4", **settings): runs the passes up to ``last``."""
    count = 0

    def run(parquet_glob: str | Path, threads: int = 1, last: str = "pass4", **settings) -> Selection:
        nonlocal count
        count += 1
        folder = tmp_path / f"run{count}"
        config = load({"descriptors": {"parquet_glob": str(parquet_glob), "n_metadata": 1} | settings})
        machine = {key: config["descriptors"][key] for key in ("batch_rows", "shards", "max_host_memory_gb")}
        for stage in list(NAMES)[: list(NAMES).index(last) + 1]:
            arguments = [stage, "--settings", json.dumps(stage_settings(config, stage)), "--threads", str(threads)]
            for flag, (maker, name) in INPUTS[stage].items():
                arguments += [f"--{flag}", str(folder / NAMES[maker][name])]
            for name, path in NAMES[stage].items():
                arguments += [f"--out-{name}", str(folder / path)]
            for key, value in machine.items():
                arguments += [f"--{key}", str(value)]
            monkeypatch.setattr(sys, "argv", arguments)
            importlib.import_module(stage).main()
        return Selection(folder=folder)

    return run
