"""The table, the JSON, the plot, and what a page shows of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = ("work", "size", "against", "winnow", "peer", "reached", "target", "verdict")
SIDES = {"winnow": "o-", "scipy": "s--", "pandas": "^--", "winnow, all passes": "D-"}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def aligned(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table in plain text; the head is underlined."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    shown = [head, tuple("-" * width for width in widths), *lines]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table of a page, line by line."""
    return [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (head, ["---"] * len(head), *lines)]


def renew(page: Path, blocks: Mapping[str, Iterable[str]]) -> None:
    """Put lines between the marks of a page, ``<!-- WHAT, by COMMAND -->`` and ``<!-- end -->``."""
    text = page.read_text()
    for mark, lines in blocks.items():
        before, begun, rest = text.partition(f"<!-- {mark} -->\n")
        _, ended, after = rest.partition("<!-- end -->\n")
        if not ended:
            raise SystemExit(f"{page}: has no marks for {mark}; take the page of the repository")
        text = "".join([before, begun, *(f"{line}\n" for line in lines), ended, after])
    page.write_text(text)


def table(found: dict[str, dict[str, Any]], settings: dict[str, Any]) -> str:
    """All rows, one line a comparison; below them how each was measured."""
    lines: list[tuple[str, ...]] = []
    remarks: list[tuple[str, list[str]]] = []
    for name, row in found.items():
        old = [key for key in ("scale", "threads", "molecules", "source") if row.get(key) != settings[key]]
        when = [f"{row['finished']}, {row['seconds']:.0f} s; others took {row['taken_by_others']:.0%} of the machine"]
        when += [f"measured with another {', '.join(old)}"] if old else []
        if "error" in row:
            lines.append((name, "", "", "", "", "", "", "failed"))
            remarks.append((name, [row["error"], *when]))
            continue
        broken = [check["statement"] for check in row["checks"] if not check["held"]]
        work, size = row["work"], row["size"]
        for each, verdict in zip(row["comparisons"], row["verdicts"], strict=True):
            lines.append(
                (
                    work,
                    size,
                    each["against"],
                    each["ours"],
                    each["theirs"],
                    quantity(each["reached"], each["unit"]),
                    "" if each["target"] is None else bound(each),
                    "differs" if broken else verdict,
                )
            )
            work = size = ""
        held = [f"{'holds' if check['held'] else 'DOES NOT HOLD'}: {check['statement']}" for check in row["checks"]]
        notes = [f"{each['against']}: {each['note']}" for each in row["comparisons"] if each["note"]]
        remarks.append((row["work"], [*when, *held, *row["notes"], *notes]))
    box = settings["machine"]
    head = (
        f"{box['cpu']}, {box['cores']} cores, {box['memory_gb']} GB; "
        f"{settings['threads']} threads a side, scale {settings['scale']:g}, source {settings['source']}"
    )
    below = [line for work, said in remarks for line in (work, *(f"  {part}" for part in said))]
    return "\n".join([head, "", aligned(HEAD, lines), "", *below])


def quantity(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{digits}{unit}" if unit in ("x", "%") else f"{digits} {unit}"


def bound(each: dict[str, Any]) -> str:
    return f"{'>=' if each['at_least'] else '<='} {quantity(each['target'], each['unit'])}"


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Time and peak memory, over rows and over columns."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points = [point for row in found.values() for point in row.get("points", [])]
    if not points:
        return
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained", sharex="col", sharey="row")
    for column, (by, held) in enumerate((("rows", "columns"), ("columns", "rows"))):
        titles: dict[str, int] = {}
        for side, mark in SIDES.items():
            own = sorted((p for p in points if p["side"] == side and p["series"] == by), key=lambda p: p[by])
            sizes = [point[by] for point in own]
            label = side if side.startswith("winnow,") else f"{side}, Spearman"
            axes[0, column].plot(sizes, [point["seconds"] for point in own], mark, label=label)
            axes[1, column].plot(sizes, [point["peak_bytes"] / 1e9 for point in own], mark)
            titles |= {label.partition(", ")[2]: own[0][held] for _ in own[:1]}
        named = ", ".join(f"{number:,} ({what})" for what, number in titles.items())
        axes[0, column].set_title(f"{held}: {named}", fontsize="medium")
        axes[1, column].set_xlabel(by)
        axes[1, column].set_xscale("log")
        sizes = sorted({point[by] for point in points if point["series"] == by})
        axes[1, column].set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, fontsize="small")
        axes[1, column].set_xticks([], minor=True)
    axes[0, 0].set_ylabel("seconds")
    axes[0, 0].set_yscale("log")
    axes[1, 0].set_ylabel("peak memory of a process, GB")
    axes[1, 0].set_ylim(bottom=0)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SIDES), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
