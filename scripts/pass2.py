"""Pass 2: of columns that rank the molecules alike (Spearman), keep one representative a cluster."""

from __future__ import annotations

from functools import partial

import numpy as np
from tqdm import tqdm

from common import files
from common.descriptors_settings import Pass2
from common.stage import Stage, run_stage
from descriptors import clusters, products, sketch, spearman, vif


def main() -> None:
    run_stage(
        "pass2",
        Pass2,
        inputs={
            "details": "JSON of pass 1",
            "columns": "text: columns that passed pass 1",
            "stats": "npz: their statistics",
            "codes": "npy: their rank codes",
        },
        outputs={
            "out-details": "JSON: clusters, and why each column was removed",
            "out-columns": "text: the columns that stay, one a line",
            "out-matrix": "npy: Spearman correlation of the columns that entered, NaN = undefined",
            "out-repaired": "npy: a positive definite correlation of the columns that stay, for pass 3",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    settings: Pass2 = stage.settings
    ranked = products.load(stage.paths.columns, stage.paths.stats, stage.paths.codes)
    sketched = settings.prescreen == "countsketch"
    everything = np.arange(len(ranked.names))
    matrix = correlation(stage, ranked, sketched, everything)
    groups = clusters.cluster(
        matrix,
        settings.spearman_threshold,
        settings.clustering,
        products.name_order(ranked.names),
        resolution=settings.leiden_resolution,
        n_consensus=settings.n_consensus,
        topk=settings.topk,
        topk_above=settings.topk_above,
        seed=settings.random_seed,
    )
    exact = partial(correlation, stage, ranked, False)
    if sketched:
        matrix = sketch.complete(matrix, groups, exact)
    kept = clusters.represent(
        matrix,
        settings.spearman_threshold,
        groups,
        ranked.stats["missing_ratio"],
        ranked.stats["normalized_variance"],
        leader=settings.clustering == "leader",
    )
    stay = np.array([cluster.representative for cluster in kept])
    if sketched:
        matrix = sketch.complete(matrix, [stay], exact)
    write(stage, ranked, matrix, kept, stay)


def correlation(stage: Stage, ranked: products.Ranked, sketched: bool, columns: np.ndarray) -> np.ndarray:
    """(p, p) Spearman correlation of ``columns``; NaN where undefined or, with a sketch, not needed."""
    settings: Pass2 = stage.settings
    codes = ranked.subset(columns)
    stats = {name: values[columns] for name, values in ranked.stats.items() if values.ndim}
    with_missing = settings.missing
    screen = partial(
        sketch.prescreened,
        threshold=settings.spearman_threshold,
        width=settings.m,
        repeats=settings.r,
        seed=settings.random_seed,
    )
    with stage.blas(), tqdm(desc="pass2", unit="block", disable=None) as bar:
        if with_missing == "global_ranks":
            return spearman.global_ranks(codes, stats["n_valid"], settings.min_effective_n, stage.runtime.budget)
        if with_missing == "mean":
            return spearman.mean_filled(
                codes, stats["n_valid"], stats["n_below_mean"], stats["n_at_mean"], stage.runtime.budget
            )
        return spearman.pairwise(
            codes,
            stats["n_valid"],
            stats["missing_pattern"],
            settings.min_effective_n,
            stage.runtime.budget,
            threads=stage.threads,
            within=screen if sketched else None,
            progress=lambda done, total: _show(bar, done, total),
        )


def _show(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def write(
    stage: Stage, ranked: products.Ranked, matrix: np.ndarray, kept: list[clusters.Cluster], stay: np.ndarray
) -> None:
    settings: Pass2 = stage.settings
    usable = np.nan_to_num(matrix[np.ix_(stay, stay)])
    consistent = vif.is_positive_semidefinite(usable)
    if not consistent:
        with stage.blas():
            usable = spearman.mean_ranks(ranked.subset(stay), ranked.stats["n_valid"][stay], stage.runtime.budget)
    repaired, shrinkage = vif.repair(usable)
    removed = clusters.removals(kept, matrix, ranked.names, "Spearman")
    files.write_npy(stage.paths.out_matrix, matrix)
    files.write_npy(stage.paths.out_repaired, repaired)
    files.write_lines(stage.paths.out_columns, [ranked.names[place] for place in stay])
    files.write_json(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "input_fingerprint": files.read_json(stage.paths.details)["input_fingerprint"],
            "made_from": files.digest(stage.paths.details),
            "n_rows": ranked.n_rows,
            "missing_patterns": len(np.unique(ranked.stats["missing_pattern"])),
            "approximate": settings.missing == "global_ranks" and bool(ranked.stats["n_missing"].any()),
            "edges": len(clusters.edges(matrix, settings.spearman_threshold)[0]),
            "undefined_pairs": int(np.isnan(matrix).sum()) // 2,
            "repaired_from": "these correlations" if consistent else "ranks with missing cells at the mean rank",
            "shrinkage": shrinkage,
            "removed_count": len(removed),
            "remaining_count": len(kept),
            "removed": [entry["descriptor"] for entry in removed],
            "removed_details": removed,
        },
    )
    stage.log(
        f"{ranked.n_rows:,} rows x {len(ranked.names)} columns",
        f"{'exact' if settings.prescreen == 'none' else 'sketch, then exact'}, {settings.missing}",
        f"{len(removed)} joined {sum(1 for cluster in kept if cluster.members)} clusters, {len(kept)} stay",
    )


if __name__ == "__main__":
    main()
