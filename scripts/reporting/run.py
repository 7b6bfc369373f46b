"""When the stages ran, how long, and with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import igraph
import numpy as np

from reporting import pictures
from reporting.page import Picture, Section, Table

HALF_A_BOX = 0.21  # its height, where rules are 1 apart
ARROW = {"arrowstyle": "-|>", "color": pictures.MUTED, "shrinkA": 0, "shrinkB": 0}


def sections(provenance: Sequence[Mapping[str, Any]], graph: Mapping[str, Any] | None = None) -> list[Section]:
    """Of the provenance of each stage, in any order, and of the rules' graph, see ``rules``."""
    stages = sorted(provenance, key=lambda each: (ended(each) - each["seconds"], each["stage"]))
    libraries = sorted({(name, found) for each in stages for name, found in each["versions"].items() if found})
    rows = [
        (
            each["stage"],
            each["finished"].replace("T", " ").removesuffix("Z"),
            each["seconds"],
            each["peak_memory_bytes"] / 1e6,
            each["device"],
            each["threads"],
            each["peak_device_bytes"] / 1e6 if each["peak_device_bytes"] else None,
            each["code"],
        )
        for each in stages
    ]
    header = ("stage", "ended (UTC)", "seconds", "MB at most", "device", "threads", "MB of the card", "source")
    python, machine = stages[-1]["python"], stages[-1]["machine"]
    return [
        *([Section("Rules", "", (rules(graph),))] if graph and graph["jobs"] else []),
        Section(
            "Stages",
            f"Python {python} on {machine}.",
            (
                timeline(stages),
                Table(header, rows, "Each stage as it last ran; what was up to date did not run again."),
                Table(("library", "version"), libraries, "Versions."),
            ),
        ),
    ]


def rules(graph: Mapping[str, Any]) -> Picture:
    """Rules from top to bottom.

    graph : ``jobs`` of each rule that makes files, and ``edges``, pairs of a rule and one that reads its files.
    """
    names = list(graph["jobs"])
    edges = [(names.index(one), names.index(other)) for one, other in graph["edges"] if one != other]
    shown = igraph.Graph(len(names), without_shortcuts(len(names), edges), directed=True)
    layout = shown.layout_sugiyama()
    place = np.array(layout.coords) * (1, -1)
    width, height = np.ptp(place, axis=0) + 1
    with pictures.figure(1.35 * width, 0.55 * height) as drawn:
        axes = drawn.subplots()
        axes.axis("off")
        for (start, end), around in zip(shown.get_edgelist(), layout.edge_routing or [], strict=True):
            # from below a box to the top of another one; a long arrow goes around the rules between its ends
            bends = np.array(around).reshape(-1, 2) * (1, -1)
            way = np.array([place[start] - (0, HALF_A_BOX), *bends, place[end] + (0, HALF_A_BOX)])
            axes.plot(*way[:-1].T, color=pictures.MUTED, linewidth=1)
            axes.annotate("", way[-1], way[-2], arrowprops=ARROW)
        box = {"boxstyle": "round", "facecolor": "none", "edgecolor": pictures.FIRST}
        for name, (x, y) in zip(names, place, strict=True):
            number = graph["jobs"][name]
            told = f"{name} ({number} jobs)" if number > 1 else name
            axes.text(x, y, told, ha="center", va="center", fontsize=8, bbox=box)
        axes.set_xlim(place[:, 0].min() - 0.5, place[:, 0].max() + 0.5)
        axes.set_ylim(place[:, 1].min() - 0.5, place[:, 1].max() + 0.5)
    caption = (
        "The rules of the run. An arrow leads to a rule that reads files of the one before; it is left out where a "
        "longer way of arrows leads there, too."
    )
    return Picture(pictures.svg(drawn), caption)


def without_shortcuts(size: int, edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The edges of an acyclic graph of ``size`` vertices but those whose ends a longer way joins, too."""
    graph = igraph.Graph(size, edges, directed=True)
    below = [set(graph.subcomponent(vertex, mode="out")) - {vertex} for vertex in range(size)]
    return [
        (start, end)
        for start, end in edges
        if not any(end in below[other] for other in graph.successors(start) if other != end)
    ]


def ended(each: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(each["finished"]).timestamp()


def timeline(stages: Sequence[Mapping[str, Any]]) -> Picture:
    """Bars from the start to the end of each stage, in minutes since the first one began."""
    zero = min(ended(each) - each["seconds"] for each in stages)
    with pictures.figure(7.5, 0.6 + 0.22 * len(stages)) as drawn:
        axes = drawn.subplots()
        starts = [(ended(each) - each["seconds"] - zero) / 60 for each in stages]
        axes.barh(
            range(len(stages)), [each["seconds"] / 60 for each in stages], left=starts, color=pictures.FIRST, height=0.6
        )
        for row, (each, start) in enumerate(zip(stages, starts, strict=True)):
            axes.text(start + each["seconds"] / 60, row, f" {each['seconds']:.1f} s", va="center", fontsize=7)
        axes.set_yticks(range(len(stages)), [each["stage"] for each in stages])
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel("minutes since the first stage began")
    return Picture(pictures.svg(drawn), "Stages, from start to end.")
