"""Puts the failures of all shards into one file."""

from __future__ import annotations

from common import files
from common.settings import Settings
from common.stage import Stage, run_stage


def main() -> None:
    run_stage(
        "molecules_failures",
        Settings,
        inputs={"failures": "tsv of every shard, in order"},
        outputs={"out-failures": "tsv: row, id, smiles and reason"},
        work=work,
        several=("failures",),
    )


def work(stage: Stage) -> None:
    header, *_ = files.read_lines(stage.paths.failures[0])
    lines = [line for path in stage.paths.failures for line in files.read_lines(path)[1:]]
    files.write_lines(stage.paths.out_failures, [header, *lines])
    stage.log(f"{len(lines):,} molecules failed", f"{len(stage.paths.failures)} shards")


if __name__ == "__main__":
    main()
