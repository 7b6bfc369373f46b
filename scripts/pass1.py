"""Pass 1: drop columns that hardly vary or are mostly missing; leave the rank codes of the others for later passes."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np

from common import files
from common.descriptors_settings import Pass1
from common.errors import UserError
from common.stage import Stage, run_stage
from descriptors.scan import STATISTICS, Scan
from descriptors.table import open_table


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
    if table.rows != manifest["n_rows_kept"]:
        raise UserError(
            f"{stage.paths.manifest}: says {manifest['n_rows_kept']} rows, but the files have {table.rows} now; "
            "run pass0 again"
        )
    if table.rows < settings.min_effective_n:
        raise UserError(
            f"{table.rows} rows are fewer than descriptors.min_effective_n = {settings.min_effective_n}, so that no "
            "column can stay; add rows or lower it"
        )
    state = json.dumps([manifest, stage.parameters, stage.paths.code])
    scan = Scan(
        table,
        settings,
        stage.runtime,
        folder=stage.scratch(stage.paths.out_codes),
        fingerprint=hashlib.sha256(state.encode()).hexdigest(),
        threads=stage.threads,
        log=stage.log,
    )
    scan.run()
    columns = [name for name, reasons in zip(table.descriptors, scan.reasons, strict=True) if not reasons]
    if not columns:
        raise UserError(
            f"all {len(table.descriptors)} columns were removed, {scan.commonest_reason()}; "
            "check that these are descriptors, or lower variance_threshold or raise max_missing_ratio"
        )
    write(stage, manifest, scan, columns)
    stage.log(
        f"{table.rows:,} rows x {len(table.descriptors)} columns",
        f"{settings.range_mode} range",
        f"{len(table.descriptors) - len(columns)} removed, {len(columns)} stay",
    )


def write(stage: Stage, manifest: dict[str, Any], scan: Scan, columns: list[str]) -> None:
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
        n_total=np.int64(scan.table.rows),
        count=np.int64(len(kept)),
    )
    files.write_lines(stage.paths.out_columns, columns)
    removed = [
        {"descriptor": name, "reasons": reasons, **{key: getattr(column, key) for key in STATISTICS}}
        for name, reasons, column in zip(scan.table.descriptors, scan.reasons, scan.columns, strict=True)
        if reasons
    ]
    files.write_json(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "input_fingerprint": scan.input_fingerprint,
            "n_rows": scan.table.rows,
            "n_columns": len(scan.table.descriptors),
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
