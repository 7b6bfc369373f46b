"""A small project with data of both wings, run as a user runs it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

import tiny_taxoclass as tiny
from conftest import copy_workflow, write_table
from passes import table
from snakemake_runs import ENVIRONMENT, SNAKEMAKE, ended

HERE = ["--cores", "2", "--resources", "gpu=0"]
PRODUCTS = ["descriptors/final_descriptors.txt", "taxoclass/core_classes.npz", "taxoclass/labels.jsonl"]
SHORT = 300.0  # seconds after which a run is stuck


@dataclass
class Project:
    """Data of both wings, a config, and the workflow beside them."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, texts: bool = True, shards: int = 2) -> Project:
        copy_workflow(folder)
        for part in range(2):
            write_table(folder / "data" / f"part{part}.parquet", table(part))
        settings = {
            "descriptors": {"parquet_glob": "data/*.parquet", "n_metadata": 1, "n_consensus": 2, "shards": shards}
        }
        if texts:
            tiny.write_data(folder / "data")
            tiny.save_model(folder / "models" / "encoder")
            settings["taxoclass"] = tiny.SETTINGS | {"similarity_shards": shards, "self_train_iterations": 1}
        (folder / "config").mkdir()
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
        return cls(folder)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        log = open(self.folder / "said.txt", "a")  # noqa: SIM115 (the process writes on)
        command = [*SNAKEMAKE, *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, stdout=log, stderr=log, text=True)

    def run(self, *arguments: str) -> list[str]:
        """Rules that ended, in order."""
        before = len(self.said)
        assert self.start(*arguments).wait(SHORT) == 0, self.said[-5000:]
        return ended(self.said[before:])

    @property
    def said(self) -> str:
        path = self.folder / "said.txt"
        return path.read_text() if path.exists() else ""

    def bytes(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name in PRODUCTS if (path := self.folder / "results" / name).exists()}
