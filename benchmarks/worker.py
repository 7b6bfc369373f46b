"""Runs one row, or one side of it, in a process of its own: what it takes in memory or breaks stays here."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path

from threadpoolctl import threadpool_limits

import rows
import text_rows  # noqa: F401 (its rows join the others)
from measure import Context, blas


def main() -> None:
    warnings.filterwarnings("ignore")
    kind, *arguments = sys.argv[1:]
    if kind == "probe":
        side, n_rows, n_columns, threads, out = arguments
        with threadpool_limits(limits=int(threads)):
            seconds = rows.probe(side, int(n_rows), int(n_columns), int(threads))
        Path(out).write_text(json.dumps({"seconds": seconds}))
        return
    name, given, out = arguments
    told = json.loads(given)
    folder = told.pop("molecules")
    context = Context(
        **{**told, "scratch": Path(told["scratch"]), "molecules": None if folder is None else Path(folder)}
    )
    with threadpool_limits(limits=context.threads):
        found = rows.ROWS[name](context)
        pools = blas()
    verdicts = [comparison.verdict for comparison in found.comparisons]
    Path(out).write_text(json.dumps({**dataclasses.asdict(found), "verdicts": verdicts, "threads_of": pools}))


if __name__ == "__main__":
    main()
