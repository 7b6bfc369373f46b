"""Pass 1, one shard: statistics and rank codes of a block of columns."""

from __future__ import annotations

from pathlib import Path

from common import files, pieces
from common.descriptors_settings import Pass1
from common.found import ROOT, SOURCE
from common.stage import Stage, run_stage
from descriptors.codes import CodesWriter
from pass1 import scan_columns, source


def main() -> None:
    run_stage(
        "pass1_shard",
        Pass1,
        inputs={"manifest": "JSON of pass 0"},
        outputs={
            "out-piece": "npz: what was found",
            "out-codes": "npy: cell numbers of the columns that stay",
            "out-fine": "npy: places in the cells",
        },
        work=work,
        values={"shard": "number of the shard, from 1"} | ROOT | SOURCE,
        optional=(*ROOT, *SOURCE),
    )


def work(stage: Stage) -> None:
    _, table = source(stage)
    shard, shards = int(stage.paths.shard), stage.runtime.shards
    names = table.descriptors[pieces.part(len(table.descriptors), shard, shards)]
    with files.atomic(stage.paths.out_codes) as codes, files.atomic(stage.paths.out_fine) as fine:
        scanned = scan_columns(stage, table, names, CodesWriter(Path(codes), Path(fine), table.rows))
    scanned.write(stage.paths.out_piece, pieces.key(stage.paths.manifest, stage.parameters), shard, shards)
    stage.log(f"shard {shard} of {shards}", f"{table.rows:,} rows x {len(names)} columns")


if __name__ == "__main__":
    main()
