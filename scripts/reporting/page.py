"""A page of sections that stands for itself: pictures are inside it, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jinja2


@dataclass(frozen=True)
class Picture:
    """``svg``: as :func:`reporting.pictures.svg` makes it. ``caption``: plain text that states the thresholds."""

    svg: str
    caption: str
    kind: ClassVar = "picture"


@dataclass(frozen=True)
class Table:
    """``search``: what to type into the box above it; no box where there is none. Cells are text or numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str
    search: str = ""
    kind: ClassVar = "table"


@dataclass(frozen=True)
class Branch:
    """A line of a tree, with what is below it."""

    text: str
    note: str
    below: Sequence[Branch] = ()


@dataclass(frozen=True)
class Tree:
    branches: Sequence[Branch]
    caption: str
    kind: ClassVar = "tree"


Part = Picture | Table | Tree


@dataclass(frozen=True)
class Section:
    """``told``: a sentence or two in plain text, under the title."""

    title: str
    told: str
    parts: Sequence[Part] = ()


def cell(value: object) -> str:
    """A number with as many digits as say something; text as it is.

    >>> [cell(value) for value in (41127, 0.25, 1234.5, 0.00012, float("nan"), True)]
    ['41,127', '0.250', '1.23e+03', '0.00012', '', 'True']
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def render(template: str, title: str, chapters: Mapping[str, Sequence[Section]]) -> str:
    """HTML of the chapters; all text is escaped but the pictures'."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "cell": cell,
        "anchor": lambda text: "".join(c if c.isalnum() else "-" for c in text.lower()),
    }
    return environment.from_string(template).render(title=title, chapters=chapters)
