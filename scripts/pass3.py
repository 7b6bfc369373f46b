"""Pass 3: drop columns that the others explain together (variance inflation factor)."""

from __future__ import annotations

import numpy as np

from common import files
from common.config import Pass3
from common.stage import Stage, run_stage
from descriptors import pearson, products, vif
from descriptors.table import open_table


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
    )


def work(stage: Stage) -> None:
    settings: Pass3 = stage.settings
    names = files.read_lines(stage.paths.columns)
    entered = files.read_lines(stage.paths.entered)
    places = products.positions(entered, names, stage.paths.columns)
    stats = {key: values[places] for key, values in files.read_npz(stage.paths.stats).items() if values.ndim}
    matrix, shrinkage = correlation(stage, names, places, stats)
    quality = products.quality_ranks(stats["missing_ratio"], stats["normalized_variance"])
    stay, removals = vif.eliminate(matrix, settings.vif_threshold, quality, settings.ties)
    values = vif.vif_values(matrix[np.ix_(stay, stay)])
    removed = [
        {
            "descriptor": names[removal.column],
            "vif_value": removal.vif,
            "removed_order": order,
            "parent": names[removal.parent],
            "similarity": float(matrix[removal.column, removal.parent]),
            "measure": settings.vif_on.capitalize(),
            "reason": f"{removal.reason} (VIF {removal.vif:.4g})",
        }
        for order, removal in enumerate(removals, start=1)
    ]
    files.write_lines(stage.paths.out_columns, [names[place] for place in stay])
    files.write_json(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "input_fingerprint": files.read_json(stage.paths.details)["input_fingerprint"],
            "shrinkage": shrinkage,
            "removed_count": len(removed),
            "remaining_count": len(stay),
            "removed": [entry["descriptor"] for entry in removed],
            "removed_details": removed,
            "vif_values": {names[place]: float(value) for place, value in zip(stay, values, strict=True)},
        },
    )
    exact = sum(removal.reason == vif.EXACT for removal in removals)
    stage.log(
        f"{len(names)} columns",
        f"VIF on {settings.vif_on}, threshold {settings.vif_threshold:g}",
        f"{exact} exact dependences, {len(removed) - exact} inflated, {len(stay)} stay",
    )


def correlation(
    stage: Stage, names: list[str], places: np.ndarray, stats: dict[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    """The matrix that the VIF is computed from, and by how much it had to be shrunk to the identity.

    Pairwise-complete correlations are not those of one sample. Where they contradict each other (a negative eigenvalue)
    they cannot be inverted in earnest; then missing cells take the mean (of the ranks, or of the values) instead.
    A singular matrix is fine: it is what the rank screen looks for.
    """
    settings: Pass3 = stage.settings
    if settings.vif_on == "spearman":
        matrix = files.read_npy(stage.paths.matrix)[np.ix_(places, places)]
        if vif.is_positive_semidefinite(matrix):
            return matrix, 0.0
        return files.read_npy(stage.paths.repaired), files.read_json(stage.paths.details)["shrinkage"]
    matrix = on_values(stage, names, stats, settings.missing)
    if vif.is_positive_semidefinite(matrix):
        return matrix, 0.0
    return vif.repair(on_values(stage, names, stats, "mean"))


def on_values(stage: Stage, names: list[str], stats: dict[str, np.ndarray], missing: str) -> np.ndarray:
    """(P, P) Pearson correlation, from the source files."""
    manifest = files.read_json(stage.paths.manifest)
    table = open_table(manifest["source"], 0, manifest["metadata_columns"], manifest["excluded_columns"])
    with stage.blas():
        return pearson.correlation(
            lambda: table.blocks(names, stage.runtime.batch_rows, stage.runtime.budget),
            table.rows,
            stats,
            missing,
            stage.settings.min_effective_n,
        )


if __name__ == "__main__":
    main()
