"""When the stages ran, how long, and with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from reporting import pictures
from reporting.page import Picture, Section, Table


def sections(provenance: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Of the provenance of each stage, in any order."""
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
        Section(
            "Stages",
            f"Python {python} on {machine}.",
            (
                timeline(stages),
                Table(header, rows, "Each stage as it last ran; what was up to date did not run again."),
                Table(("library", "version"), libraries, "Versions."),
            ),
        )
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
        picture = pictures.svg(drawn)
    return Picture(picture, "Stages, from start to end.")
