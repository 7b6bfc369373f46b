"""Stage 1, one shard: a block of the documents compared with all classes."""

from __future__ import annotations

from common import pieces
from common.stage import Stage, run_stage
from common.taxoclass_settings import Similarity
from similarity import INPUTS, score
from taxoclass import products


def main() -> None:
    run_stage(
        "similarity_shard",
        Similarity,
        inputs=INPUTS,
        outputs={"out-piece": "npz: scores and vectors of these documents"},
        work=work,
        values={"shard": "number of the shard, from 1"},
    )


def work(stage: Stage) -> None:
    taxonomy, corpus = products.read_taxonomy(stage.paths.taxonomy), products.read_corpus(stage.paths.corpus)
    shard, shards = int(stage.paths.shard), stage.runtime.similarity_shards
    texts = corpus.texts[pieces.part(len(corpus), shard, shards)]
    key = pieces.key(stage.paths.details, stage.parameters)
    products.write_piece(stage.paths.out_piece, key, shard, shards, score(stage, taxonomy, texts))
    stage.log(f"shard {shard} of {shards}", f"{len(texts):,} documents x {len(taxonomy):,} classes")


if __name__ == "__main__":
    main()
