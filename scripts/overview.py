"""A picture of the whole selection: how many columns each pass left, and what their correlations look like."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common import files
from common.settings import Settings
from common.stage import Stage, run_stage
from descriptors.products import positions

WORDS = {
    "pass 1": "constant, rarely varying\nor mostly missing",
    "pass 2": "ranks like another\n(Spearman)",
    "pass 3": "explained by others\n(VIF)",
    "pass 4": "depends on another\n(HSIC + RDC)",
}


def main() -> None:
    run_stage(
        "overview",
        Settings,
        inputs={
            "pass1": "JSON of pass 1",
            "pass2": "JSON of pass 2",
            "pass3": "JSON of pass 3",
            "pass4": "JSON of pass 4",
            "entered": "text: columns that passed pass 1",
            "matrix": "npy: Spearman correlation of pass 2",
            "clusters": "JSON: final clusters",
        },
        outputs={"out-picture": "PNG"},
        work=work,
    )


def work(stage: Stage) -> None:
    details = [files.read_json(getattr(stage.paths, f"pass{number}")) for number in (1, 2, 3, 4)]
    entered = files.read_lines(stage.paths.entered)
    info = files.read_json(stage.paths.clusters)["descriptors"]
    order = sorted(info, key=lambda name: -info[name]["cluster_size"])
    by_cluster = [name for root in order for name in (root, *info[root]["alternative_descriptors"])]
    places = positions(entered, by_cluster, stage.paths.clusters)
    similarity = np.abs(files.read_npy(stage.paths.matrix)[np.ix_(places, places)])
    figure = draw(details[0]["n_columns"], [each["remaining_count"] for each in details], similarity)
    with files.atomic(stage.paths.out_picture) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    stage.log(f"{details[0]['n_columns']} columns, {details[-1]['remaining_count']} final descriptors")


def draw(n_columns: int, left: list[int], similarity: np.ndarray) -> Figure:
    """Funnel beside the correlation matrix ordered by final cluster, largest cluster first.

    ``left``: columns after passes 1 to 4; ``similarity``: (P, P) absolute correlation, NaN = undefined.
    """
    figure, (funnel, matrix) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1.15, 1], layout="constrained")
    counts = [n_columns, *left]
    names = ["input", *WORDS]
    funnel.barh(names, counts, color=["#9aa5b1", "#4c78a8", "#4c78a8", "#4c78a8", "#1b6e53"])
    funnel.invert_yaxis()
    for row, (count, name) in enumerate(zip(counts, names, strict=True)):
        gone = f"  {counts[row - 1] - count} out: {WORDS[name]}" if row else "  columns"
        funnel.text(count, row, f" {count}{gone}", va="center", fontsize=8)
    funnel.set_xlim(0, n_columns * 1.75)
    funnel.set_xticks([])
    funnel.spines[:].set_visible(False)
    funnel.tick_params(length=0)
    funnel.set_title("columns left by each pass")
    image = matrix.imshow(similarity, vmin=0, vmax=1, cmap="magma", interpolation="nearest")
    matrix.set_xticks([])
    matrix.set_yticks([])
    matrix.set_title(f"|Spearman| of {len(similarity)} columns, by final cluster")
    figure.colorbar(image, ax=matrix, shrink=0.85)
    return figure


if __name__ == "__main__":
    main()
