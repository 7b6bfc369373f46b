"""Pass 1: drop columns that hardly vary or are mostly missing; leave the rank codes of the others for later passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import files, pieces
from common.descriptors_settings import Pass1
from common.device import open_arrays
from common.errors import UserError
from common.found import ROOT, SOURCE
from common.progress import Bar, progress
from common.stage import Stage, run_stage
from descriptors import products, ranks, ranks_on_card
from descriptors.codes import CodeFile, CodesWriter
from descriptors.scan import STATISTICS, Scanned, scan
from descriptors.table import Table


def main() -> None:
    run_stage(
        "pass1",
        Pass1,
        inputs={
            "manifest": "JSON of pass 0",
            "pieces": "npz of every shard, in order, where the pass is done in shards",
            "piece-codes": "npy of every shard: cell numbers",
            "piece-fine": "npy of every shard: places in the cells",
        },
        outputs={
            "out-details": "JSON: why each column was removed",
            "out-columns": "text: the columns that stay, one a line",
            "out-stats": "npz: statistics of the columns that stay",
            "out-codes": "npy: rank codes, columns x rows, 0 = missing",
            "out-fine": "npy: the rest of the code of columns with more than 65,535 different values",
            "out-ecdf": "npy: doubled mid-ranks of the values of the other columns",
            "out-rows": "npy: content hash of each row",
        },
        work=work,
        values=ROOT | SOURCE,
        optional=("pieces", "piece-codes", "piece-fine", *ROOT, *SOURCE),
        several=("pieces", "piece-codes", "piece-fine"),
    )


def work(stage: Stage) -> None:
    manifest, table = source(stage)
    with files.atomic(stage.paths.out_codes) as codes, files.atomic(stage.paths.out_fine) as fine:
        writer = CodesWriter(Path(codes), Path(fine), table.rows)
        if stage.paths.pieces:
            scanned = merged(stage, table, writer)
        else:
            scanned = scan_columns(stage, table, table.descriptors, writer)
        columns = [name for name, reasons in zip(table.descriptors, scanned.reasons, strict=True) if not reasons]
        if not columns:
            raise UserError(
                f"all {len(table.descriptors)} columns were removed, {scanned.commonest_reason()}; "
                "check that these are descriptors, or lower variance_threshold or raise max_missing_ratio"
            )
    write(stage, manifest, table, scanned, columns)
    stage.log(
        f"{table.rows:,} rows x {len(table.descriptors)} columns",
        f"{stage.settings.range_mode} range",
        f"{len(table.descriptors) - len(columns)} removed, {len(columns)} stay",
    )


def scan_columns(stage: Stage, table: Table, names: Sequence[str], writer: CodesWriter) -> Scanned:
    """Some columns, sorted on the card that the rule was granted, or on the CPU."""
    card = open_arrays(stage)
    sort = ranks.sort if card is None else partial(ranks_on_card.sort, card)
    with progress(stage.name, len(names), "column") as bar:
        return scan(table, names, stage.settings, stage.runtime, writer, stage.threads, bar.update, sort)


def source(stage: Stage) -> tuple[dict[str, Any], Table]:
    """What pass 0 found, and the table, checked against it."""
    manifest, table = products.source(stage.paths.manifest, stage.paths.root)
    if stage.paths.source not in (None, manifest.get("files_digest")):
        raise UserError(f"{stage.paths.manifest}: was not made from the files of parquet_glob; {files.AGAIN}")
    if table.rows < stage.settings.min_effective_n:
        raise UserError(
            f"{table.rows} rows are fewer than descriptors.min_effective_n = {stage.settings.min_effective_n}, so that "
            "no column can stay; add rows or lower it"
        )
    return manifest, table


def merged(stage: Stage, table: Table, writer: CodesWriter) -> Scanned:
    """The shards put together, in order."""
    found = Scanned.read(stage.paths.pieces, pieces.key(stage.paths.manifest, stage.parameters))

    def with_codes(bar: Bar) -> Iterator[Scanned]:
        for piece, *codes in zip(found, stage.paths.piece_codes, stage.paths.piece_fine, strict=True):
            writer.append(*map(CodeFile, codes, piece.checksums))
            yield piece
            bar.update(len(piece.columns))

    with progress(stage.name, len(table.descriptors), "column", "merging shards") as bar:
        scanned = Scanned.together(with_codes(bar))
    writer.close()
    return replace(scanned, checksums=writer.checksums)


def write(stage: Stage, manifest: dict[str, Any], table: Table, scanned: Scanned, columns: list[str]) -> None:
    """All outputs but the codes."""
    stay = [not reasons for reasons in scanned.reasons]
    kept = [column for column, stays in zip(scanned.columns, stay, strict=True) if stays]
    patterns = [pattern for pattern, stays in zip(scanned.patterns, stay, strict=True) if stays]
    labels = {pattern: label for label, pattern in enumerate(dict.fromkeys(patterns))}
    files.write_npy(stage.paths.out_ecdf, scanned.ecdf)
    files.write_npy(stage.paths.out_rows, scanned.content)
    files.write_npz(
        stage.paths.out_stats,
        **{name: np.array([getattr(column, name) for column in kept]) for name in STATISTICS},
        missing_pattern=np.array([labels[pattern] for pattern in patterns]),
        n_levels=scanned.levels,
        n_total=np.int64(table.rows),
        count=np.int64(len(kept)),
    )
    files.write_lines(stage.paths.out_columns, columns)
    removed = [
        {"descriptor": name, "reasons": reasons, **{key: getattr(column, key) for key in STATISTICS}}
        for name, reasons, column in zip(table.descriptors, scanned.reasons, scanned.columns, strict=True)
        if reasons
    ]
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "input_fingerprint": scanned.input_fingerprint,
            "n_rows": table.rows,
            "n_columns": len(table.descriptors),
            "metadata_columns": manifest["metadata_columns"],
            "excluded_columns": manifest["excluded_columns"],
            **products.outcome(removed, len(columns)),
        },
        dict(zip((stage.paths.out_codes, stage.paths.out_fine), scanned.checksums, strict=True)),
    )


if __name__ == "__main__":
    main()
