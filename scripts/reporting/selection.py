"""What the passes did to the descriptors: pictures and tables of their products."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from common.descriptors_settings import Clustering, Pass4
from descriptors import chance, clusters, nonlinear, ordering, products, vif
from reporting import pictures
from reporting.page import Picture, Section, Table

LARGEST = 2500  # columns whose clusters are made again for other thresholds
SHOWN = 1200  # rows and columns of the matrix that are drawn
POINTS = 1500  # molecules of a scatter plot
PAIRS = 9  # scatter plots
VIFS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
NUMBER = re.compile(r"-?\d[\d.,]*(e[+-]?\d+)?")


@dataclass(frozen=True)
class Selection:
    """Products of the passes.

    details : JSON of passes 1 to 4. ranked : what passed pass 1. matrix : (P, P) its Spearman correlation.
    repaired : (R, R) a positive definite one of what passed pass 2.
    columns : names that left passes 1 to 4. clusters : JSON of final clusters. similarity : (Q, Q) of pass 4.
    utility : JSON of utility, if there is one.
    """

    details: Sequence[Mapping[str, Any]]
    ranked: products.Ranked
    matrix: np.ndarray
    repaired: np.ndarray
    columns: Sequence[Sequence[str]]
    clusters: Mapping[str, Any]
    similarity: nonlinear.Similarity
    utility: Mapping[str, Any] | None = None

    def settings(self, number: int) -> Mapping[str, Any]:
        return self.details[number - 1]["parameters"]

    def places(self, names: Sequence[str]) -> np.ndarray:
        return products.positions(self.ranked.names, names, "the report")


def sections(made: Selection) -> list[Section]:
    first = made.details[0]
    final = made.columns[-1]
    told = (
        f"{first['n_columns']:,} descriptors of {first['n_rows']:,} molecules came in, {len(final):,} stay. "
        "One that went has another that stands for it, or hardly varies, or is mostly missing."
    )
    parts = [
        Section("What went, and why", told, (funnel(made), reasons(made))),
        Section(
            "Where is my descriptor?",
            "Kept or dropped, by which pass, in favour of whom, and the chain of those that stand for it.",
            (explorer(made),),
        ),
        Section("Variance and missing values", "", (distributions(made),)),
        Section("What ranks alike", "", (matrix(made),)),
        Section("What others explain together", "", (elimination(made),)),
        Section("What depends on another one in any other way", "", nonlinear_pairs(made)),
        Section("Other thresholds", "", (other_thresholds(made),)),
    ]
    if made.utility is not None:
        parts.append(Section("What it still predicts", "", (prediction(made.utility),)))
    return parts


def funnel(made: Selection) -> Picture:
    counts = [made.details[0]["n_columns"], *(each["remaining_count"] for each in made.details)]
    names = ["input", "pass 1: variance", "pass 2: Spearman", "pass 3: VIF", "pass 4: HSIC + RDC"]
    with pictures.figure(7, 2.3) as drawn:
        axes = drawn.subplots()
        colours = [pictures.MUTED, *[pictures.FIRST] * 3, pictures.GOOD]
        axes.barh(names, counts, color=colours)
        axes.invert_yaxis()
        for row, count in enumerate(counts):
            gone = f", {counts[row - 1] - count:,} out" if row else ""
            axes.text(count, row, f" {count:,}{gone}", va="center", fontsize=8)
        axes.set_xlim(0, max(counts[0], 1) * 1.25)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    settings = made.settings
    return Picture(
        pictures.svg(drawn),
        "Descriptors left by each pass. Thresholds: normalised variance "
        f"{settings(1)['variance_threshold']:g}, missing share {settings(1)['max_missing_ratio']:g}, |Spearman| "
        f"{settings(2)['spearman_threshold']:g}, VIF {settings(3)['vif_threshold']:g}, HSIC + RDC "
        f"{settings(4)['nonlinear_threshold']:g}.",
    )


def reasons(made: Selection) -> Table:
    """Counts by pass and reason; numbers that differ between columns are left out of the reason."""
    found: Counter[tuple[int, str]] = Counter()
    for entry in made.details[0]["removed_details"]:
        found[1, " and ".join(NUMBER.sub("x", each, count=1) for each in entry["reasons"])] += 1
    for number, each in enumerate(made.details[1:], start=2):
        for entry in each["removed_details"]:
            found[number, re.sub(r" \(.*\)$", "", entry["reason"]) + f" ({entry['measure']})"] += 1
    rows = [(number, reason, count) for (number, reason), count in sorted(found.items())]
    return Table(("pass", "reason", "descriptors"), rows, "Why descriptors went; x is the descriptor's own value.")


def explorer(made: Selection) -> Table:
    """Every descriptor of the input with what became of it."""
    links = made.clusters["parents"]
    rows: list[tuple[object, ...]] = []
    for name in made.columns[-1]:
        others = made.clusters["descriptors"][name]["cluster_size"] - 1
        rows.append((name, "kept", f"stands for {others} others" if others else "stands for itself", "", "", name))
    for number, each in enumerate(made.details, start=1):
        for entry in each["removed_details"]:
            own = entry["descriptor"]
            if number == 1:
                rows.append((own, "pass 1", "; ".join(entry["reasons"]), "", "", ""))
                continue
            path = chain(own, links)
            rows.append((own, f"pass {number}", entry["reason"], entry["parent"], entry["similarity"], path))
    rows.sort(key=lambda row: str(row[0]).lower())
    header = ("descriptor", "what became of it", "reason", "in favour of", "similarity", "chain to the one that stays")
    return Table(header, rows, f"All {len(rows):,} descriptors.", search="a descriptor, a pass, a reason")


def chain(name: str, links: Mapping[str, Mapping[str, Any]]) -> str:
    """Who stands for a dropped descriptor, step by step."""
    steps = [name]
    while name in links:
        link = links[name]
        name = link["parent"]
        steps.append(f"{name} (pass {link['pass']}, {link['measure']} {link['similarity']:.2f})")
    return " → ".join(steps)


def distributions(made: Selection) -> Picture:
    settings, stats = made.settings(1), made.ranked.stats
    gone = made.details[0]["removed_details"]

    def values(key: str) -> np.ndarray:
        return np.array([*stats[key], *(entry[key] for entry in gone)], dtype=float)

    variance, missing = values("normalized_variance"), values("missing_ratio")
    with pictures.figure(7.5, 2.6) as drawn:
        left, right = drawn.subplots(1, 2)
        positive = variance[np.isfinite(variance) & (variance > 0)]
        lowest = min(positive.min(initial=1.0), settings["variance_threshold"] or 1.0) / 2
        edges = np.geomspace(max(lowest, 1e-12), max(positive.max(initial=1.0), 1e-11) * 1.1, 40)
        left.hist(positive, edges, color=pictures.FIRST)
        left.set_xscale("log")
        pictures.threshold(left, settings["variance_threshold"])
        left.set_xlabel("variance of values scaled by their range")
        left.set_ylabel("descriptors")
        left.set_title(f"{(variance == 0).sum():,} constant ones are not shown")
        right.hist(missing[np.isfinite(missing)], np.linspace(0, 1, 41), color=pictures.FIRST)
        right.set_yscale("symlog", linthresh=1)
        pictures.threshold(right, settings["max_missing_ratio"])
        right.set_xlabel("share of molecules without a value")
    return Picture(
        pictures.svg(drawn),
        f"Normalised variance (threshold {settings['variance_threshold']:g}) and share of missing values (threshold "
        f"{settings['max_missing_ratio']:g}) of all descriptors; dashed lines are the thresholds.",
    )


def matrix(made: Selection) -> Picture:
    info = made.clusters["descriptors"]
    order = sorted(info, key=lambda name: -info[name]["cluster_size"])
    names = [name for root in order for name in (root, *info[root]["alternative_descriptors"])]
    places = made.places(names)
    step = math.ceil(len(places) / SHOWN)
    strength = np.abs(made.matrix[np.ix_(places[::step], places[::step])])
    with pictures.figure(5, 4.3) as drawn:
        axes = drawn.subplots()
        image = axes.imshow(strength, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        drawn.colorbar(image, ax=axes, shrink=0.8, label="|Spearman|")
    every = "" if step == 1 else f" Every {step}th is drawn."
    return Picture(
        pictures.svg(drawn),
        f"Absolute Spearman correlation of the {len(places):,} descriptors that passed pass 1, by final cluster, the "
        f"largest first (threshold {made.settings(2)['spearman_threshold']:g}).{every} White: undefined.",
    )


def elimination(made: Selection) -> Picture:
    gone = sorted(made.details[2]["removed_details"], key=lambda entry: entry["removed_order"])
    limit = made.settings(3)["vif_threshold"]
    values = np.array([float(entry["vif_value"]) for entry in gone])
    stay = np.array([float(value) for value in made.details[2]["vif_values"].values()])
    with pictures.figure(7.5, 2.6) as drawn:
        left, right = drawn.subplots(1, 2)
        largest = values[np.isfinite(values)].max(initial=limit) * 10
        left.plot(
            1 + np.arange(len(values)), np.minimum(values, largest), color=pictures.FIRST, marker=".", markersize=3
        )
        left.set_yscale("log")
        pictures.threshold(left, limit, across=True)
        left.set_xlabel("descriptors gone")
        left.set_ylabel("VIF of the one that goes")
        stay = stay[np.isfinite(stay)]
        # edges of its own: the VIFs may be equal but for a rounding
        right.hist(
            stay, np.linspace(stay.min(initial=1.0), max(limit, stay.max(initial=limit)), 31), color=pictures.GOOD
        )
        pictures.threshold(right, limit)
        right.set_xlabel("VIF of those that stay")
        right.set_ylabel("descriptors")
    return Picture(
        pictures.svg(drawn),
        f"The descriptor with the largest variance inflation factor goes until all are below {limit:g}: "
        f"{len(values):,} went, {len(stay):,} stay. Correlations: {made.details[2]['matrix']}.",
    )


def nonlinear_pairs(made: Selection) -> list[Picture | Table]:
    """The pairs joined by pass 4 that rank correlation sees least of, as ranks against ranks."""
    names, limit = made.columns[2], made.settings(4)["nonlinear_threshold"]
    places = made.places(names)
    pairs, strength = clusters.edges(gated(made), limit)
    correlation = np.abs(made.matrix[places[pairs[:, 0]], places[pairs[:, 1]]])
    order = np.argsort(np.nan_to_num(correlation) - strength, kind="stable")
    rows = [
        (names[i], names[j], *(half(made, "hsic", i, j), half(made, "rdc", i, j)), float(s), float(c))
        for (i, j), s, c in zip(pairs[order].tolist(), strength[order], correlation[order], strict=True)
    ]
    header = ("one", "other", "HSIC", "RDC", "together", "|Spearman|")
    table = Table(
        header, rows, f"{len(rows):,} pairs at {limit:g} or more, those that Spearman sees least of first.",
        search="a descriptor" if len(rows) > PAIRS else "",
    )  # fmt: skip
    if not rows:
        return [table]
    shown = pairs[order][:PAIRS]
    with pictures.figure(8, 2.5 * math.ceil(len(shown) / 3)) as drawn:
        grid = drawn.subplots(math.ceil(len(shown) / 3), 3, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, (i, j), row in zip(grid.flat, shown.tolist(), rows, strict=False):
            x, y = ranks(made, places[[i, j]])
            axes.scatter(x, y, s=3, alpha=0.35, color=pictures.SECOND, linewidths=0, rasterized=True)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(shortened(names[i]))
            axes.set_ylabel(shortened(names[j]))
            axes.set_title(f"together {row[4]:.2f}, |Spearman| {row[5]:.2f}", fontsize=8)
    caption = (
        f"Rank against rank of up to {POINTS:,} molecules, of the first of these pairs: what HSIC and RDC look at."
    )
    return [Picture(pictures.svg(drawn), caption), table]


def half(made: Selection, name: str, i: int, j: int) -> float | None:
    found = getattr(made.similarity, name)
    return None if found is None else float(found[i, j])


def shortened(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:26]}…"


def ranks(made: Selection, pair: np.ndarray) -> np.ndarray:
    """(2, n) ranks in 0..1 of molecules at even distances that have both values."""
    rows, blocks = made.ranked.n_rows, 15
    width = math.ceil(min(POINTS, rows) / blocks)
    starts = np.unique(np.linspace(0, max(rows - width, 0), blocks).astype(int))
    read = [made.ranked.codes.read(pair, start, min(start + width, rows)) for start in starts.tolist()]
    found = np.concatenate(read, axis=1).astype(float)
    found = found[:, (found > 0).all(axis=0)]  # 0 is missing
    return found / found.max(axis=1, keepdims=True, initial=1.0)


def gated(made: Selection) -> np.ndarray:
    """What pass 4 clusters: its similarities without those of few common rows that chance explains."""
    return chance.gate(made.similarity, partial(chance.null_quantile, settings=Pass4(**made.settings(4))))[0]


def prediction(utility: Mapping[str, Any]) -> Table:
    """Scores of the models on all, the selected and random descriptors."""
    rows = [
        (model, name, utility["descriptors"].get(name), found["mean"], found["low"], found["high"])
        for model, sets in utility["models"].items()
        for name, found in sets.items()
    ]
    score, target = utility["score"], utility["parameters"]["utility_target"]
    return Table(
        ("model", "descriptors", "number", score, "from", "to"),
        rows,
        f"{target}, cross-validated on {utility['rows']:,} molecules with all descriptors, those left by passes, and "
        "as many random ones as were selected; 95 % intervals over the folds.",
    )


def other_thresholds(made: Selection) -> Picture:
    """How many descriptors each pass would leave of those that entered it."""
    second, third, fourth = (made.settings(number) for number in (2, 3, 4))
    panels = [
        ("pass 2: |Spearman|", second["spearman_threshold"], kept_by_clusters(made, 2, made.matrix, made.columns[0])),
        ("pass 3: VIF", third["vif_threshold"], kept_by_vif(made)),
        ("pass 4: HSIC + RDC", fourth["nonlinear_threshold"], kept_by_clusters(made, 4, gated(made), made.columns[2])),
    ]
    with pictures.figure(8.5, 2.7) as drawn:
        for axes, (title, own, kept) in zip(drawn.subplots(1, 3), panels, strict=True):
            if kept:
                axes.plot(*zip(*sorted(kept.items()), strict=True), color=pictures.FIRST, marker=".")
            else:
                axes.text(own, 0.5, "not made again", ha="center", fontsize=8)
            pictures.threshold(axes, own)
            axes.set_title(title)
            axes.set_xlabel("threshold")
        drawn.axes[0].set_ylabel("descriptors that stay")
        drawn.axes[1].set_xscale("log")
    return Picture(
        pictures.svg(drawn),
        "Descriptors that stay if a pass by itself is made again with another threshold, on what entered it in this "
        f"run; dashed: this run's. Not made again: more than {LARGEST:,} descriptors, and VIF on values.",
    )


def kept_by_clusters(made: Selection, number: int, similarity: np.ndarray, names: Sequence[str]) -> dict[float, int]:
    """Threshold -> columns that stay, as passes 2 and 4 choose them; empty where there are too many."""
    if len(names) > LARGEST:
        return {}
    settings = made.settings(number)
    own = settings["spearman_threshold" if number == 2 else "nonlinear_threshold"]
    how = Clustering(**{key: settings[key] for key in Clustering.model_fields if key in settings})
    stats = products.stats_of(made.ranked.stats, made.places(names))
    kept = {}
    for limit in sorted({*THRESHOLDS, own}):
        groups = clusters.cluster(similarity, limit, how, ordering.name_order(names))
        kept[limit] = len(clusters.represent(similarity, limit, how, groups, stats))
    return kept


def kept_by_vif(made: Selection) -> dict[float, int]:
    """Threshold -> columns that stay, as pass 3 chooses them; empty where there are too many, or it was on values."""
    settings, names = made.settings(3), made.columns[1]
    if settings["vif_on"] != "spearman" or len(names) > LARGEST:
        return {}
    places = made.places(names)
    pairwise = np.nan_to_num(made.matrix[np.ix_(places, places)])
    stats = made.ranked.stats
    quality = ordering.quality_ranks(stats["missing_ratio"][places], stats["normalized_variance"][places])
    kept = {}
    for limit in sorted({*VIFS, settings["vif_threshold"]}):
        if vif.is_positive_semidefinite(pairwise):
            stay, _ = vif.eliminate(pairwise, limit, quality, settings["ties"])
        else:
            stay, _ = vif.eliminate_contradictory(pairwise, made.repaired, limit, quality, settings["ties"])
        kept[limit] = len(stay)
    return kept
