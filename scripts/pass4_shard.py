"""Pass 4, one shard: HSIC and RDC of some blocks of column pairs."""

from __future__ import annotations

import numpy as np

from common import pieces
from common.descriptors_settings import Pass4
from common.device import open_arrays
from common.progress import progress
from common.stage import Stage, run_stage
from descriptors.shards import pairs_of, rectangles, write_shard
from pass4 import INPUTS, compare, load


def main() -> None:
    run_stage(
        "pass4_shard",
        Pass4,
        inputs=INPUTS,
        outputs={"out-piece": "npz: the blocks"},
        work=work,
        values={"shard": "number of the shard, from 1"},
    )


def work(stage: Stage) -> None:
    entering = load(stage)
    shard, shards = int(stage.paths.shard), stage.runtime.shards
    card, parts = open_arrays(stage), rectangles(len(entering.names), shard, shards)
    with progress(stage.name, pairs_of(parts), "pair") as bar:
        found = [compare(stage, card, entering, left, right, bar) for left, right in parts]
    blocks = {
        name: [getattr(each, name) for each in found]
        for name in ("hsic", "rdc", "fused", "common")
        if not found or getattr(found[0], name) is not None
    }
    write_shard(stage.paths.out_piece, pieces.key(stage.paths.pass3, stage.parameters), shard, shards, blocks)
    pairs = sum(np.size(each.fused) for each in found)
    stage.log(f"shard {shard} of {shards}", f"{entering.n_rows:,} rows, {pairs:,} pairs")


if __name__ == "__main__":
    main()
