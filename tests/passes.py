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

from common import files
from common.config import load, stage_settings

NAMES = {
    "pass0": {"manifest": "pass0_sampling.json", "sample": "sampled_data.parquet"},
    "pass1": {
        "details": "pass1_variance_filtering.json",
        "columns": "pass1_columns.txt",
        "stats": "pass1_stats.npz",
        "codes": "pass1_codes.npy",
        "fine": "pass1_codes_fine.npy",
        "ecdf": "pass1_ecdf.npy",
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
    "pass2": {name: ("pass1", name) for name in ("details", "columns", "stats", "codes", "fine", "ecdf")},
    "pass3": {
        **{name: ("pass2", name) for name in ("details", "columns", "matrix", "repaired")},
        "entered": ("pass1", "columns"),
        "stats": ("pass1", "stats"),
        "manifest": ("pass0", "manifest"),
    },
    "pass4": {
        "columns": ("pass3", "columns"),
        "entered": ("pass1", "columns"),
        **{name: ("pass1", name) for name in ("stats", "codes", "fine", "ecdf", "rows")},
        **{number: (number, "details") for number in ("pass1", "pass2", "pass3")},
    },
}
# what does not say where the rows came from, or in which order
ORDER_FREE = [
    path
    for stage in NAMES
    if stage != "pass0"
    for name, path in NAMES[stage].items()
    if name not in ("codes", "fine", "rows")
]
# the files of a shard, by the flag that the merge takes them with
PIECES = {
    "pass1": {"pieces": "piece", "piece-codes": "codes", "piece-fine": "fine"},
    "pass2": {"pieces": "piece"},
    "pass4": {"pieces": "piece"},
}


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
        return {name: _said(self.folder / name) for name in ORDER_FREE}

    def all_bytes(self) -> dict[str, bytes]:
        """Of what passes 1 to 4 wrote, by stage and name."""
        return {
            f"{stage} {name}": (self.folder / path).read_bytes()
            for stage, products in NAMES.items()
            if stage != "pass0"
            for name, path in products.items()
            if (self.folder / path).exists()
        }


def table(seed: int = 0, n_rows: int = 400) -> dict[str, np.ndarray]:
    """Columns of which some are alike, one has gaps, one follows another nonlinearly, and one is constant."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_rows, 8))
    columns = {f"c{k}": latent[:, k % 8] + 0.1 * (k // 8) * rng.normal(size=n_rows) for k in range(24)}
    columns["c5"][::9] = np.nan
    return columns | {"square": latent[:, 0] ** 2, "constant": np.ones(n_rows)}


def _said(path: Path) -> bytes:
    """A file's bytes; of a JSON without the checksums of other files, some of which are in the order of the rows."""
    if path.suffix != ".json":
        return path.read_bytes()
    return json.dumps(files.read_json(path) | {files.RECORD: None}).encode()


@pytest.fixture
def select(tmp_path, monkeypatch) -> Callable[..., Selection]:
    """select(parquet_glob, threads=1, last="pass4", **settings): runs the passes up to ``last``.

    With several ``shards``, passes 1, 2 and 4 are done shard by shard and then merged, as the rules do.
    """
    count = 0

    def door(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", list(arguments))
        importlib.import_module(arguments[0]).main()

    def run(parquet_glob: str | Path, threads: int = 1, last: str = "pass4", **settings) -> Selection:
        nonlocal count
        count += 1
        folder = tmp_path / f"run{count}"
        config = load({"descriptors": {"parquet_glob": str(parquet_glob), "n_metadata": 1} | settings})
        machine = {key: config["descriptors"][key] for key in ("batch_rows", "shards", "max_host_memory_gb")}
        shards = machine["shards"]
        for stage in list(NAMES)[: list(NAMES).index(last) + 1]:
            given = ["--settings", json.dumps(stage_settings(config, stage)), "--threads", str(threads)]
            for flag, (maker, name) in INPUTS[stage].items():
                given += [f"--{flag}", str(folder / NAMES[maker][name])]
            for key, value in machine.items():
                given += [f"--{key}", str(value)]
            pieces = []
            whole = stage == "pass2" and config["descriptors"]["prescreen"] != "none"
            if shards > 1 and stage in PIECES and not whole:
                for shard in range(1, shards + 1):
                    outputs = [
                        text
                        for name in PIECES[stage].values()
                        for text in (f"--out-{name}", str(folder / "shards" / f"{stage}_{shard}_{name}"))
                    ]
                    door(f"{stage}_shard", *given, "--shard", str(shard), *outputs)
                for flag, name in PIECES[stage].items():
                    made = [str(folder / "shards" / f"{stage}_{shard}_{name}") for shard in range(1, shards + 1)]
                    pieces += [f"--{flag}", *made]
            outputs = [text for name, path in NAMES[stage].items() for text in (f"--out-{name}", str(folder / path))]
            door(stage, *given, *pieces, *outputs)
        return Selection(folder=folder)

    return run
