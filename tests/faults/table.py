"""Writes the table of docs/reliability.md from a recorded run: ``python tests/faults/table.py``."""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
START, END = "<!-- from here on: tests/faults/table.py -->\n", "<!-- up to here -->\n"


def table(recorded: dict) -> str:
    lines = ["| what happens | | injections | what came of it | seconds, median (most) |", "|---|---|---|---|---|"]
    for case in recorded["cases"]:
        outcomes = "; ".join(f"{count} {outcome}" for outcome, count in sorted(case["outcomes"].items()))
        seconds = sorted(case["seconds"])
        took = f"{seconds[len(seconds) // 2]:.1f} ({seconds[-1]:.1f})" if seconds else ""
        total = sum(case["outcomes"].values())
        lines.append(f"| {case['family']} | {case['case']} | {total} | {outcomes} | {took} |")
    total = sum(sum(case["outcomes"].values()) for case in recorded["cases"])
    return "\n".join([f"{total:,} injections, seed {recorded['seed']}:", "", *lines, ""])


def main() -> None:
    page = DOCS / "reliability.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    recorded = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    page.write_text(f"{before}{START}\n{table(recorded)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
