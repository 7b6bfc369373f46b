"""Pass 2, one shard: Spearman correlation of some blocks of column pairs."""

from __future__ import annotations

import numpy as np

from common import pieces
from common.descriptors_settings import Pass2
from common.device import open_arrays
from common.progress import progress
from common.stage import Stage, run_stage
from descriptors.shards import pairs_of, rectangles, write_shard
from pass2 import INPUTS, correlation, load


def main() -> None:
    run_stage(
        "pass2_shard",
        Pass2,
        inputs=INPUTS,
        outputs={"out-piece": "npz: the blocks"},
        work=work,
        values={"shard": "number of the shard, from 1"},
    )


def work(stage: Stage) -> None:
    ranked = load(stage)
    card = open_arrays(stage)
    shard, shards = int(stage.paths.shard), stage.runtime.shards
    blocks, angles, decided = [], [0.0], 0
    parts = rectangles(len(ranked.names), shard, shards)
    with progress(stage.name, pairs_of(parts), "pair") as bar:
        for left, right in parts:
            rho, angle, again = correlation(stage, card, ranked, False, left, right, bar)
            blocks.append(rho)
            angles.append(angle)
            decided += again
    told = {"angle": max(angles), "decided": decided}
    write_shard(
        stage.paths.out_piece, pieces.key(stage.paths.details, stage.parameters), shard, shards, {"rho": blocks}, told
    )
    stage.log(f"shard {shard} of {shards}", f"{ranked.n_rows:,} rows, {sum(map(np.size, blocks)):,} pairs")


if __name__ == "__main__":
    main()
