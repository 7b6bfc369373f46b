"""Pass 4: of columns that depend on one another in any way (HSIC and RDC), keep one representative a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from common import files, pieces
from common.arrays import Accelerator
from common.descriptors_settings import Pass4
from common.device import open_arrays
from common.progress import Bar, progress
from common.stage import Stage, run_stage
from descriptors import chance, clusters, lineage, nonlinear, nonlinear_on_card, ordering, products
from descriptors.covariance import ChosenRows, TilePair
from descriptors.sampling import content_sample
from descriptors.shards import read_shards

INPUTS = {
    "columns": "text: columns that passed pass 3",
    "entered": "text: columns that passed pass 1",
    **products.RANKED,
    "rows": "npy: content hash of each row (read for pass4_rows)",
    "pass1": "JSON of pass 1",
    "pass2": "JSON of pass 2",
    "pass3": "JSON of pass 3",
}


def main() -> None:
    run_stage(
        "pass4",
        Pass4,
        inputs=INPUTS | {"pieces": "npz of every shard, in order, where the pass is done in shards"},
        outputs={
            "out-details": "JSON: why each column was removed",
            "out-columns": "text: the final descriptors, one a line",
            "out-clusters": "JSON: which descriptors each final one stands for",
            "out-similarity": "npz: HSIC, RDC and fused similarity of the columns that entered",
            "out-removed": "tsv: every removed descriptor of every pass, with the reason",
        },
        work=work,
        optional=("pieces",),
        several=("pieces",),
    )


def work(stage: Stage) -> None:
    settings: Pass4 = stage.settings
    entering = load(stage)
    if stage.paths.pieces:
        similarity = merged(stage, entering)
    else:
        everything = np.arange(len(entering.names))
        with progress(stage.name, len(everything) ** 2, "pair") as bar:
            similarity = compare(stage, open_arrays(stage), entering, everything, everything, bar)
    gated, quantiles = chance.gate(similarity, partial(chance.null_quantile, settings=settings))
    if quantiles:
        stage.warn(
            f"some pairs have fewer than {chance.FEW_ROWS:,} common rows, where independent columns look alike; "
            "they are joined only above the 99 % quantile of independent columns"
        )
    with progress(stage.name, unit="run", what="clusters") as bar:  # how many have to agree is not known before
        order = ordering.name_order(entering.names)
        groups = clusters.cluster(gated, settings.nonlinear_threshold, settings, order, bar.update)
    kept = clusters.represent(gated, settings.nonlinear_threshold, settings, groups, entering.stats)
    write(stage, entering, similarity, kept, quantiles, len(clusters.edges(gated, settings.nonlinear_threshold)[0]))


@dataclass(frozen=True)
class Entering:
    """The columns that passed pass 3, of the ``entered``."""

    names: list[str]
    entered: list[str]
    stats: dict[str, np.ndarray]
    codes: ChosenRows
    n_rows: int  # of which some may be chosen


def load(stage: Stage) -> Entering:
    settings: Pass4 = stage.settings
    files.check_chain(stage.paths.pass1, stage.paths.pass2, stage.paths.pass3)
    paths = stage.paths
    ranked = products.load(paths.entered, paths.stats, paths.codes, paths.fine, paths.ecdf, paths.pass1)
    names = files.read_lines(stage.paths.columns)
    places = products.positions(ranked.names, names, stage.paths.columns)
    rows = None
    if settings.pass4_rows is not None and settings.pass4_rows < ranked.n_rows:
        rows = content_sample(files.read_npy(stage.paths.rows), settings.random_seed, settings.pass4_rows)
    stats = products.stats_of(ranked.stats, places)
    codes = ChosenRows(ranked.codes.subset(places), stats["n_valid"], stats["missing_pattern"], rows)
    return Entering(names, ranked.names, stats, codes, ranked.n_rows)


def compare(
    stage: Stage, card: Accelerator | None, entering: Entering, left: np.ndarray, right: np.ndarray, bar: Bar
) -> nonlinear.Similarity:
    """Similarity of the columns ``left`` with the columns ``right``; ``bar`` counts pairs."""
    # a pair of tiles has to fit on the card as well; the values do not depend on it
    budget = stage.runtime.budget if card is None else min(stage.runtime.budget, card.memory // 3)
    with stage.blas():
        return nonlinear.similarity(
            entering.codes,
            stage.settings,
            budget,
            left,
            right,
            stage.threads,
            bar.share(len(left) * len(right)),
            TilePair.accumulate if card is None else partial(nonlinear_on_card.accumulate, card),
        )


def merged(stage: Stage, entering: Entering) -> nonlinear.Similarity:
    """The shards put together."""
    matrices, _ = read_shards(stage.paths.pieces, pieces.key(stage.paths.pass3, stage.parameters), len(entering.names))
    return nonlinear.Similarity(matrices.get("hsic"), matrices.get("rdc"), matrices["fused"], matrices["common"])


def write(
    stage: Stage,
    entering: Entering,
    similarity: nonlinear.Similarity,
    kept: list[clusters.Cluster],
    quantiles: dict[int, float],
    edges: int,
) -> None:
    settings, names = stage.settings, entering.names
    removed = clusters.removals(kept, similarity.fused, names, "HSIC + RDC")
    final = [names[cluster.representative] for cluster in kept]
    halves = {"hsic": similarity.hsic, "rdc": similarity.rdc}
    number = {"hsic": settings.hsic_D, "rdc": settings.rdc_d}
    computed = {name: matrix for name, matrix in halves.items() if matrix is not None}
    for entry in removed:
        pair = names.index(entry["descriptor"]), names.index(entry["parent"])
        entry |= {name: float(matrix[pair]) for name, matrix in computed.items()}
    rows = entering.codes.n_rows
    files.write_npz(stage.paths.out_similarity, fused=similarity.fused, common_rows=similarity.common, **computed)
    files.write_lines(stage.paths.out_columns, final)
    write_lineage(stage, entering.entered, final, removed)
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            **products.origin(stage.paths.pass3),
            "n_rows": entering.n_rows,
            "rows_used": rows,
            "standard_error": chance.standard_error(rows, entering.n_rows),
            "null_quantiles": quantiles,
            "edges": edges,
            **products.outcome(removed, len(final)),
        },
    )
    stage.log(
        f"{rows:,} rows x {len(names)} columns",
        f"{' + '.join(f'{name.upper()} {number[name]}' for name in computed)} features, {settings.features}",
        f"{len(removed)} joined {sum(1 for cluster in kept if cluster.members)} clusters, {len(final)} stay",
    )


def write_lineage(stage: Stage, entered: list[str], final: list[str], removed: list[dict]) -> None:
    """Who stands for whom, over all passes."""
    earlier = [files.read_json(path) for path in (stage.paths.pass1, stage.paths.pass2, stage.paths.pass3)]
    first = {entry["descriptor"]: entry["reasons"] for entry in earlier[0]["removed_details"]}
    later = {2: earlier[1]["removed_details"], 3: earlier[2]["removed_details"], 4: removed}
    parents = {
        entry["descriptor"]: lineage.Parent(entry["parent"], number, entry["similarity"], entry["measure"])
        for number, entries in later.items()
        for entry in entries
    }
    reasons = {entry["descriptor"]: entry["reason"] for entries in later.values() for entry in entries}
    info = lineage.cluster_info(entered, final, parents)
    info["metadata"] |= {
        "input_fingerprint": earlier[0]["input_fingerprint"],
        "parameters": {
            f"pass{number}": each["parameters"]
            for number, each in enumerate([*earlier, {"parameters": stage.parameters}], start=1)
        },
    }
    files.write_json(stage.paths.out_clusters, info)
    rows = [lineage.HEADER, *lineage.removal_table(entered, parents, first, reasons)]
    cells = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    files.write_lines(stage.paths.out_removed, ["\t".join(row) for row in cells])


if __name__ == "__main__":
    main()
