"""Pass 2: of columns that rank the molecules alike (Spearman), keep one representative a cluster."""

from __future__ import annotations

from functools import partial

import numpy as np

from common import files, pieces
from common.arrays import Accelerator
from common.descriptors_settings import Pass2
from common.device import open_arrays
from common.progress import Bar, progress
from common.stage import Stage, run_stage
from descriptors import clusters, ordering, products, sketch, spearman, spearman_on_card, vif
from descriptors.shards import read_shards

INPUTS = {
    "details": "JSON of pass 1",
    "columns": "text: columns that passed pass 1",
    **products.RANKED,
}


def main() -> None:
    run_stage(
        "pass2",
        Pass2,
        inputs=INPUTS | {"pieces": "npz of every shard, in order, where the pass is done in shards"},
        outputs={
            "out-details": "JSON: clusters, and why each column was removed",
            "out-columns": "text: the columns that stay, one a line",
            "out-matrix": "npy: Spearman correlation of the columns that entered, NaN = undefined",
            "out-repaired": "npy: a positive definite correlation of the columns that stay, for pass 3",
        },
        work=work,
        optional=("pieces",),
        several=("pieces",),
    )


def work(stage: Stage) -> None:
    settings: Pass2 = stage.settings
    ranked = load(stage)
    card = None if stage.paths.pieces else open_arrays(stage)
    sketched = settings.prescreen == "countsketch"
    everything = np.arange(len(ranked.names))
    if stage.paths.pieces:
        matrices, told = read_shards(
            stage.paths.pieces, pieces.key(stage.paths.details, stage.parameters), len(ranked.names)
        )
        matrix = matrices["rho"]
        angle, decided = max(each["angle"] for each in told), sum(int(each["decided"]) for each in told)
    else:
        with progress(stage.name, len(everything) ** 2, "pair") as bar:
            matrix, angle, decided = correlation(stage, card, ranked, sketched, everything, everything, bar)
    with progress(stage.name, unit="run", what="clusters") as bar:  # how many have to agree is not known before
        order = ordering.name_order(ranked.names)
        groups = clusters.cluster(matrix, settings.spearman_threshold, settings, order, bar.update)

    def exact(columns: np.ndarray) -> np.ndarray:
        nonlocal angle, decided
        with progress(stage.name, len(columns) ** 2, "pair", "in a cluster") as bar:
            found, largest, near = correlation(stage, card, ranked, False, columns, columns, bar)
        angle, decided = max(angle, largest), decided + near
        return found

    if sketched:
        matrix = sketch.complete(matrix, groups, exact)
    kept = clusters.represent(matrix, settings.spearman_threshold, settings, groups, ranked.stats)
    stay = np.array([cluster.representative for cluster in kept])
    if sketched:
        matrix = sketch.complete(matrix, [stay], exact)
    write(stage, ranked, matrix, kept, stay, angle, decided)


def load(stage: Stage) -> products.Ranked:
    paths = stage.paths
    return products.load(paths.columns, paths.stats, paths.codes, paths.fine, paths.ecdf, paths.details)


def correlation(
    stage: Stage,
    card: Accelerator | None,
    ranked: products.Ranked,
    sketched: bool,
    left: np.ndarray,
    right: np.ndarray,
    bar: Bar,
) -> tuple[np.ndarray, float, int]:
    """Spearman correlation of columns, (p, q), NaN where undefined or, with a sketch, not needed; ``bar`` counts pairs.

    Columns that are missing in the same rows are multiplied on the card, if there is one; all else is done on the CPU.

    And the largest error of its arc cosines, and how many pairs near the threshold were decided with all ranks told
    apart.
    """
    settings: Pass2 = stage.settings
    if settings.missing != "pairwise":
        return on_all_rows(stage, ranked, bar)[np.ix_(left, right)], 0.0, 0
    budget, threshold = stage.runtime.budget, settings.spearman_threshold
    given = ranked.stats["n_valid"], ranked.stats["missing_pattern"], settings.min_effective_n, budget
    if sketched:
        within = partial(sketch.prescreened, settings=settings)
    else:
        gram = None if card is None else partial(spearman_on_card.centred_gram, card, budget=budget)
        within = partial(spearman.same_rows, gram=gram)
    tell = bar.share(len(left) * len(right))
    with stage.blas():
        found = spearman.pairwise(ranked.codes, *given, stage.threads, within, tell, left, right)
        with progress(stage.name, unit="pair", what="near the threshold") as near:
            exact = ranked.codes.told_apart()
            matrix, decided = spearman.settle(found, exact, *given, threshold, left, right, stage.threads, near.reach)
    return matrix, found.largest_angle, decided


def on_all_rows(stage: Stage, ranked: products.Ranked, bar: Bar) -> np.ndarray:
    """(P, P) correlation of all columns, none of them ranked again on the rows of a pair."""
    codes, stats, budget = ranked.codes.told_apart(), ranked.stats, stage.runtime.budget
    share = bar.share(len(ranked.names) ** 2)

    def tell(rows: int) -> None:
        share(rows, ranked.n_rows)

    with stage.blas():
        if stage.settings.missing == "global_ranks":
            return spearman.global_ranks(codes, stats["n_valid"], stage.settings.min_effective_n, budget, tell)
        return spearman.mean_filled(codes, stats["n_valid"], stats["n_below_mean"], stats["n_at_mean"], budget, tell)


def write(
    stage: Stage,
    ranked: products.Ranked,
    matrix: np.ndarray,
    kept: list[clusters.Cluster],
    stay: np.ndarray,
    angle: float,
    decided: int,
) -> None:
    settings: Pass2 = stage.settings
    usable = np.nan_to_num(matrix[np.ix_(stay, stay)])
    consistent = vif.is_positive_semidefinite(usable)
    if not consistent:
        with stage.blas(), progress(stage.name, ranked.n_rows, "row", "missing cells at the mean rank") as bar:
            usable = spearman.mean_ranks(
                ranked.codes.told_apart().subset(stay),
                ranked.stats["n_valid"][stay],
                stage.runtime.budget,
                stage.threads,
                bar.reach,
            )
    repaired, shrinkage = vif.repair(usable)
    removed = clusters.removals(kept, matrix, ranked.names, "Spearman")
    files.write_npy(stage.paths.out_matrix, matrix)
    files.write_npy(stage.paths.out_repaired, repaired)
    files.write_lines(stage.paths.out_columns, [ranked.names[place] for place in stay])
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            **products.origin(stage.paths.details),
            "n_rows": ranked.n_rows,
            "missing_patterns": len(np.unique(ranked.stats["missing_pattern"])),
            "approximate": settings.missing == "global_ranks" and bool(ranked.stats["n_missing"].any()),
            "largest_error": angle,
            "pairs_decided_on_all_ranks": decided,
            "edges": len(clusters.edges(matrix, settings.spearman_threshold)[0]),
            "undefined_pairs": int(np.isnan(matrix).sum()) // 2,
            "repaired_from": "these correlations" if consistent else "ranks with missing cells at the mean rank",
            "shrinkage": shrinkage,
            **products.outcome(removed, len(kept)),
        },
    )
    exactness = f"exact near the threshold, elsewhere to an angle of {angle:.0e}" if angle else "exact"
    stage.log(
        f"{ranked.n_rows:,} rows x {len(ranked.names)} columns",
        f"{'sketch, then ' if settings.prescreen != 'none' else ''}{exactness}, {settings.missing}",
        f"{len(removed)} joined {sum(1 for cluster in kept if cluster.members)} clusters, {len(kept)} stay",
    )


if __name__ == "__main__":
    main()
