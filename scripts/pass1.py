"""Pass 1: drop columns that hardly vary or are mostly missing; leave the rank codes of the others for later passes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import xxhash
from tqdm import tqdm

from common import files
from common.config import Pass1
from common.errors import UserError
from common.stage import Stage, run_stage
from descriptors.ranks import code_type, doubled_midranks
from descriptors.sampling import content_keys, mix
from descriptors.table import CodeWriter, Table, open_table
from descriptors.variance import Column, describe, removal_reasons

BYTES_A_VALUE = 8
BYTES_A_VALUE_IN_WORK = 88  # of one column being sorted, ranked and described
STATISTICS = [
    "mean",
    "std",
    "variance",
    "min",
    "max",
    "range",
    "clip_lower",
    "clip_upper",
    "trimmed_range",
    "normalized_variance",
    "missing_ratio",
    "n_valid",
    "n_missing",
    "n_distinct",
    "n_below_mean",
    "n_at_mean",
    "top_share",
]


class Result(NamedTuple):
    column: Column
    reasons: list[str]
    codes: np.ndarray | None
    pattern: str
    content: np.ndarray


def main() -> None:
    run_stage(
        "pass1",
        Pass1,
        inputs={"manifest": "JSON of pass 0"},
        outputs={
            "out-details": "JSON: why each column was removed",
            "out-columns": "text: the columns that stay, one a line",
            "out-stats": "npz: statistics of the columns that stay",
            "out-codes": "npy: rank codes, columns x rows, 0 = missing",
            "out-rows": "npy: content hash of each row",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    manifest = files.read_json(stage.paths.manifest)
    table = open_table(manifest["source"], 0, manifest["metadata_columns"], manifest["excluded_columns"])
    settings: Pass1 = stage.settings
    if table.rows < settings.min_effective_n:
        raise UserError(
            f"{table.rows} rows are fewer than descriptors.min_effective_n = {settings.min_effective_n}, so that no "
            "column can stay; add rows or lower it"
        )
    scan = Scan(stage, table, manifest)
    scan.run()
    columns = [name for name, reasons in zip(table.descriptors, scan.reasons, strict=True) if not reasons]
    if not columns:
        raise UserError(
            f"all {len(table.descriptors)} columns were removed, {scan.commonest_reason()}; "
            "lower descriptors.variance_threshold or raise max_missing_ratio"
        )
    fingerprint = f"{int(mix(scan.content).sum(dtype=np.uint64)):016x}"
    write(stage, manifest, table, scan, columns, fingerprint)
    stage.log(
        f"{table.rows:,} rows x {len(table.descriptors)} columns",
        f"{settings.range_mode} range",
        f"{len(table.descriptors) - len(columns)} removed, {len(columns)} stay",
    )


class Scan:
    """One read of all columns, in groups that fit the memory; ``shards`` pieces can be picked up again."""

    def __init__(self, stage: Stage, table: Table, manifest: dict[str, Any]) -> None:
        self.stage, self.table = stage, table
        self.columns: list[Column] = []
        self.reasons: list[list[str]] = []
        self.patterns: list[str] = []
        self.content = np.zeros(table.rows, np.uint64)
        self.kept = 0
        self.type = code_type(table.rows)
        self.folder = stage.scratch(stage.paths.out_codes)
        self.codes_path = self.folder / "codes.npy"
        state = [manifest, stage.parameters, stage.paths.code]
        self.fingerprint = hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def run(self) -> None:
        names = self.table.descriptors
        self._restore()
        writer = CodeWriter(self.codes_path, self.table.rows, self.type)
        threads, width = self._plan()
        piece = -(-len(names) // min(self.stage.runtime.shards, len(names)))
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(names), initial=len(self.columns), desc="pass1", unit="column", disable=None) as bar,
        ):
            while len(self.columns) < len(names):
                at = len(self.columns)
                stop = min(at + width, (at // piece + 1) * piece, len(names))
                values = self.table.columns(list(names[at:stop]), self.stage.runtime.batch_rows)
                for result in pool.map(self._examine, values, names[at:stop]):
                    self._take(writer, result)
                    bar.update()
                if stop % piece == 0 and stop < len(names):
                    writer.flush()
                    self._save()
        writer.close(self.kept)

    def _plan(self) -> tuple[int, int]:
        """Threads, and columns read at once, that fit the memory budget."""
        rows, budget = self.table.rows, self.stage.budget
        spare = budget - rows * 8
        least = rows * (BYTES_A_VALUE + BYTES_A_VALUE_IN_WORK)
        if spare < least:
            enough = self.stage.gigabytes_for(least + rows * 8)
            raise UserError(
                f"{rows:,} rows need descriptors.max_host_memory_gb >= {enough:g} to sort one column; "
                f"it is {self.stage.runtime.max_host_memory_gb:g}"
            )
        threads = max(min(self.stage.threads, (spare // 2) // (rows * BYTES_A_VALUE_IN_WORK)), 1)
        # pool.map starts them all: a finished column waits as codes and hashes until its turn to be written
        waiting = BYTES_A_VALUE + self.type.itemsize + 8
        width = (spare - threads * rows * BYTES_A_VALUE_IN_WORK) // (rows * waiting)
        return int(threads), int(max(width, 1))

    def _examine(self, values: np.ndarray, name: str) -> Result:
        settings: Pass1 = self.stage.settings
        codes, ordered = doubled_midranks(values, self.type)
        column = describe(ordered, len(values), settings.range_mode, (settings.trim_lower, settings.trim_upper))
        reasons = removal_reasons(
            column,
            settings.range_mode,
            settings.variance_threshold,
            settings.max_missing_ratio,
            settings.min_effective_n,
        )
        pattern = xxhash.xxh3_128_hexdigest(np.packbits(codes == 0).data)
        return Result(column, reasons, None if reasons else codes, pattern, content_keys(values[None], [name]))

    def _take(self, writer: CodeWriter, result: Result) -> None:
        self.columns.append(result.column)
        self.reasons.append(result.reasons)
        self.patterns.append(result.pattern)
        self.content += result.content
        if result.codes is not None:
            writer.write(self.kept, result.codes)
            self.kept += 1

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "reasons": self.reasons,
            "patterns": self.patterns,
        }
        files.write_npz(self.folder / "progress.npz", state=np.array(json.dumps(state)), content=self.content)

    def _restore(self) -> None:
        progress = self.folder / "progress.npz"
        if progress.exists() and self.codes_path.exists():
            try:
                saved = files.read_npz(progress)
                state = json.loads(str(saved["state"]))
            except (UserError, KeyError, ValueError):
                state = {}
            if state.get("fingerprint") == self.fingerprint:
                self.columns = [Column(**column) for column in state["columns"]]
                self.reasons, self.patterns, self.content = state["reasons"], state["patterns"], saved["content"]
                self.kept = sum(not reasons for reasons in self.reasons)
                self.stage.log(f"resumed after {len(self.columns)} columns")
                return
        progress.unlink(missing_ok=True)
        self.codes_path.unlink(missing_ok=True)

    def commonest_reason(self) -> str:
        first = [reasons[0].split(" ")[0] for reasons in self.reasons]
        return f"most often like this: {self.reasons[first.index(max(first, key=first.count))][0]}"


def write(
    stage: Stage, manifest: dict[str, Any], table: Table, scan: Scan, columns: list[str], fingerprint: str
) -> None:
    """All outputs; the code file was written where it could be resumed and is moved here."""
    stay = [not reasons for reasons in scan.reasons]
    kept = [column for column, stays in zip(scan.columns, stay, strict=True) if stays]
    patterns = [pattern for pattern, stays in zip(scan.patterns, stay, strict=True) if stays]
    labels = {pattern: label for label, pattern in enumerate(dict.fromkeys(patterns))}
    with files.atomic(stage.paths.out_codes) as temporary:
        os.replace(scan.codes_path, temporary)
    files.write_npy(stage.paths.out_rows, scan.content)
    files.write_npz(
        stage.paths.out_stats,
        **{name: np.array([getattr(column, name) for column in kept]) for name in STATISTICS},
        missing_pattern=np.array([labels[pattern] for pattern in patterns]),
        n_total=np.int64(table.rows),
        count=np.int64(len(kept)),
    )
    files.write_lines(stage.paths.out_columns, columns)
    removed = [
        {"descriptor": name, "reasons": reasons, **{key: getattr(column, key) for key in STATISTICS}}
        for name, reasons, column in zip(table.descriptors, scan.reasons, scan.columns, strict=True)
        if reasons
    ]
    files.write_json(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "input_fingerprint": fingerprint,
            "n_rows": table.rows,
            "n_columns": len(table.descriptors),
            "metadata_columns": manifest["metadata_columns"],
            "excluded_columns": manifest["excluded_columns"],
            "removed_count": len(removed),
            "remaining_count": len(columns),
            "removed": [entry["descriptor"] for entry in removed],
            "removed_details": removed,
        },
    )


if __name__ == "__main__":
    main()
