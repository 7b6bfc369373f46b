"""Matplotlib pictures as SVG that takes the colour of the text around it, on light ground, dark ground and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK = "#010203"  # no other colour has these bytes; it becomes the colour of the text
FIRST, SECOND, GOOD, MUTED, MARK = "#4c78a8", "#b279a2", "#2a9d78", "#8a94a0", "#e4572e"
STYLE: Any = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "svg.fonttype": "none",  # text stays text: it is found, copied and read aloud
    "svg.hashsalt": "winnow",
    "savefig.dpi": 150,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of the page's style, in inches; to be drawn inside."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure) -> str:
    """The figure as an element of a page, as wide as there is room."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawn.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    width = float(drawn.get_figwidth()) * 72
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', rf'<svg\1 style="max-width:{width * 1.35:.0f}px"', text, count=1)
    return text.replace(INK, "currentColor")


def threshold(axes: Any, value: float, across: bool = False) -> None:
    """A line where a threshold is."""
    (axes.axhline if across else axes.axvline)(value, color=MARK, linewidth=1, linestyle="--")
