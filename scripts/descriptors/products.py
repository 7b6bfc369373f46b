"""What passes 0 and 1 leave for the later passes, checked for belonging together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import files
from common.errors import UserError
from common.found import placed
from descriptors.codes import CodeFile, RankCodes
from descriptors.table import Table, open_table


@dataclass(frozen=True)
class Ranked:
    """The columns that passed pass 1: names, statistics (each (P,)), rank codes (P, N)."""

    names: list[str]
    stats: dict[str, np.ndarray]
    codes: RankCodes

    @property
    def n_rows(self) -> int:
        return self.codes.shape[1]


def source(manifest_path: str, root: str | None = None) -> tuple[dict[str, Any], Table]:
    """What pass 0 found, and the table that it left to be read; its relative paths start at ``root``.

    Raises
    ------
    UserError : a file that is unreadable, or a sample that is not what was written; another number of rows.
    """
    manifest = files.read_json(manifest_path)
    paths = [placed(path, root) for path in manifest["source"]]
    if manifest["sampled"]:
        files.check_inputs(paths, [manifest_path])
    return manifest, _opened(paths, manifest_path, manifest, manifest["n_rows_kept"])


def whole(manifest_path: str, root: str | None = None) -> tuple[dict[str, Any], Table]:
    """What pass 0 found, and all rows of the input, of which a sample may have been left to the passes.

    Raises
    ------
    UserError : the files have another number of rows now.
    """
    manifest = files.read_json(manifest_path)
    paths = [placed(each["path"], root) for each in manifest["files"]]
    return manifest, _opened(paths, manifest_path, manifest, manifest["n_rows"])


def _opened(paths: list[str], manifest_path: str, manifest: Mapping[str, Any], n_rows: int) -> Table:
    table = open_table(paths, 0, manifest["metadata_columns"], manifest["excluded_columns"])
    if table.rows != n_rows:
        raise UserError(f"{manifest_path}: says {n_rows} rows, but the files have {table.rows} now; run pass0 again")
    return table


RANKED = {  # flags of what ``load`` reads beside names and record
    "stats": "npz: statistics of the columns that passed pass 1",
    "codes": "npy: their rank codes",
    "fine": "npy: the rest of the codes",
    "ecdf": "npy: doubled mid-ranks of the codes",
}


def load(
    columns_path: str, stats_path: str, codes_path: str, fine_path: str, ecdf_path: str, details_path: str
) -> Ranked:
    """Read pass 1's products; UserError where they do not belong together."""
    names, stats = files.read_lines(columns_path), files.read_npz(stats_path)
    checksums = files.recorded(details_path)
    cells, fine = (CodeFile(path, checksums.get(os.path.abspath(path))) for path in (codes_path, fine_path))
    ecdf = files.read_npy(ecdf_path, mapped=True)
    if not len(names) == int(stats["count"]) == cells.shape[0] or int(stats["n_total"]) != cells.shape[1]:
        raise UserError(
            f"{codes_path}: {cells.shape[0]} columns x {cells.shape[1]} rows do not belong to {columns_path} "
            f"({len(names)}) and {stats_path} ({int(stats['count'])} x {int(stats['n_total'])}); run pass1 again"
        )
    levels = stats["n_levels"]
    if fine.shape != (int((levels == 0).sum()), cells.shape[1]) or len(ecdf) != int((levels + (levels > 0)).sum()):
        raise UserError(f"{fine_path} and {ecdf_path} do not belong to {stats_path}; run pass1 again")
    return Ranked(names, stats, RankCodes(cells, fine, levels, ecdf, n_valid=stats["n_valid"]))


def positions(entered: Sequence[str], names: Sequence[str], path: str) -> np.ndarray:
    """(len(names),) int64, their places among the columns that passed pass 1; ``path``: where they come from."""
    places = {name: place for place, name in enumerate(entered)}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise UserError(f"{path}: column {unknown[0]} did not pass pass 1; delete the file and run the passes again")
    return np.array([places[name] for name in names], dtype=np.int64)


def stats_of(stats: Mapping[str, np.ndarray], places: np.ndarray) -> dict[str, np.ndarray]:
    """Of some columns those statistics that there are one a column of."""
    return {name: values[places] for name, values in stats.items() if values.ndim}


def origin(details_path: str) -> dict[str, str]:
    """For a record: what it says of the pass before it, whose record this is."""
    return {
        "input_fingerprint": files.read_json(details_path)["input_fingerprint"],
        "made_from": files.digest(details_path),
    }


def outcome(removed: Sequence[Mapping[str, Any]], remaining: int) -> dict[str, Any]:
    """For a record: who went, of whom ``removed`` tells more, and how many stay."""
    return {
        "removed_count": len(removed),
        "remaining_count": remaining,
        "removed": [entry["descriptor"] for entry in removed],
        "removed_details": removed,
    }
