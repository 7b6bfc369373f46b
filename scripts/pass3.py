"""Pass 3: drop columns that the others explain together (variance inflation factor)."""

from __future__ import annotations

import numpy as np

from common import files
from common.descriptors_settings import Pass3
from common.errors import UserError
from common.found import ROOT
from common.progress import progress
from common.stage import Stage, run_stage
from descriptors import ordering, pearson, products, vif


def main() -> None:
    run_stage(
        "pass3",
        Pass3,
        inputs={
            "details": "JSON of pass 2",
            "columns": "text: columns that passed pass 2",
            "matrix": "npy: Spearman correlation of pass 2, all columns that entered it",
            "repaired": "npy: the positive definite one of the columns that stayed",
            "entered": "text: columns that passed pass 1",
            "stats": "npz: their statistics",
            "manifest": "JSON of pass 0 (read for vif_on = pearson)",
        },
        outputs={
            "out-details": "JSON: why each column was removed, and the VIF of the others",
            "out-columns": "text: the columns that stay, one a line",
        },
        work=work,
        values=ROOT,
        optional=tuple(ROOT),
    )


def work(stage: Stage) -> None:
    settings: Pass3 = stage.settings
    names = files.read_lines(stage.paths.columns)
    entered = files.read_lines(stage.paths.entered)
    places = products.positions(entered, names, stage.paths.columns)
    stats = products.stats_of(files.read_npz(stage.paths.stats), places)
    pairwise, consistent = correlations(stage, names, places, stats)
    quality = ordering.quality_ranks(stats["missing_ratio"], stats["normalized_variance"])
    how = settings.vif_threshold, quality, settings.ties
    if consistent is not None:
        stage.warn("pairwise correlations contradict each other; first on missing cells at the mean, then pairwise")
    with progress(stage.name, unit="column", what="removed") as bar:  # how many go is not known before
        if consistent is None:
            stay, removals = vif.eliminate(pairwise, *how, bar.update)
        else:
            stay, removals = vif.eliminate_contradictory(pairwise, consistent, *how, bar.update)
    values = vif.vif_values(pairwise[np.ix_(stay, stay)])
    removed = [
        {
            "descriptor": names[removal.column],
            "vif_value": removal.vif,
            "removed_order": order,
            "parent": names[removal.parent],
            "similarity": float(pairwise[removal.column, removal.parent]),
            "measure": settings.vif_on.capitalize(),
            "reason": f"{removal.reason} (VIF {removal.vif:.4g})",
        }
        for order, removal in enumerate(removals, start=1)
    ]
    files.write_lines(stage.paths.out_columns, [names[place] for place in stay])
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            **products.origin(stage.paths.details),
            "matrix": settings.missing if consistent is None else f"missing cells at the mean, then {settings.missing}",
            **products.outcome(removed, len(stay)),
            "vif_values": {names[place]: float(value) for place, value in zip(stay, values, strict=True)},
        },
    )
    exact = sum(removal.reason == vif.EXACT for removal in removals)
    stage.log(
        f"{len(names)} columns",
        f"VIF on {settings.vif_on}, threshold {settings.vif_threshold:g}",
        f"{exact} exact dependences, {len(removed) - exact} inflated, {len(stay)} stay",
    )


def correlations(
    stage: Stage, names: list[str], places: np.ndarray, stats: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The matrix that the VIF is computed from, undefined pairs at 0; and, if it is indefinite, one that is not."""
    on_ranks = stage.settings.vif_on == "spearman"
    if on_ranks:
        pairwise = files.read_npy(stage.paths.matrix)
        if pairwise.shape != (len(files.read_lines(stage.paths.entered)),) * 2:
            raise UserError(f"{stage.paths.matrix}: does not belong to {stage.paths.entered}; run pass2 again")
        pairwise = pairwise[np.ix_(places, places)]
    else:
        pairwise = on_values(stage, names, stats, stage.settings.missing)
    pairwise = np.nan_to_num(pairwise)
    if vif.is_positive_semidefinite(pairwise):
        return pairwise, None
    if not on_ranks:
        return pairwise, on_values(stage, names, stats, "mean")
    consistent = files.read_npy(stage.paths.repaired)
    if consistent.shape != pairwise.shape:
        raise UserError(f"{stage.paths.repaired}: does not belong to {stage.paths.columns}; run pass2 again")
    return pairwise, consistent


def on_values(stage: Stage, names: list[str], stats: dict[str, np.ndarray], missing: str) -> np.ndarray:
    """(P, P) Pearson correlation, from the source files."""
    _, table = products.source(stage.paths.manifest, stage.paths.root)
    with stage.blas(), progress(stage.name, table.rows, "row", "correlation") as bar:
        return pearson.correlation(
            lambda: table.blocks(names, stage.runtime.batch_rows, stage.runtime.budget),
            table.rows,
            stats,
            missing,
            stage.settings.min_effective_n,
            bar.reach,
        )


if __name__ == "__main__":
    main()
