"""What descriptor selection will cost on this table and machine, and beside it what finished passes did cost."""

from __future__ import annotations

from pathlib import Path

from common import files
from common.descriptors_settings import Descriptors
from common.found import ROOT, find_files, placed
from common.stage import Stage, run_stage
from descriptors import cost, nonlinear, rows
from descriptors.table import Table, open_table

PASSES = ("pass1", "pass2", "pass3", "pass4")


def main() -> None:
    run_stage(
        "cost",
        Descriptors,
        inputs={
            "columns": "text files of the columns that passed pass 1, 2, 3; those that are there",
            "provenance-of": "JSON records of pass 1 to 4; those that are there",
        },
        outputs={},
        work=work,
        values=ROOT,
        optional=tuple(ROOT),
        several=("columns", "provenance-of"),
    )


def work(stage: Stage) -> None:
    settings: Descriptors = stage.settings
    paths = find_files(placed(settings.parquet_glob, stage.paths.root))
    table = open_table(paths, settings.n_metadata, settings.metadata_columns, settings.exclude_columns)
    n_rows = rows_kept(table, settings)
    known = {
        name: len(files.read_lines(path))
        for name, path in zip(PASSES[1:], stage.paths.columns, strict=True)
        if Path(path).exists()
    }
    columns = cost.entering(len(table.descriptors), known)
    halves = nonlinear.halves(settings)
    width = {name: sum(each.width for each in half.dictionaries) for name, half in halves.items()}
    with stage.blas():
        rates = cost.measure(table, stage.runtime.batch_rows, stage.threads)
    costs = cost.estimate(
        n_rows,
        columns,
        bytes_in_files=rows.bytes_of(table, table.descriptors),
        patterns=cost.missing_patterns(table),
        hsic_features=width.get("hsic", 0),
        rdc_features=width.get("rdc", 0),
        pass4_rows=settings.pass4_rows,
        budget=stage.runtime.budget,
        threads=stage.threads,
        rates=rates,
    )
    print(report(costs, known, [Path(path) for path in stage.paths.provenance_of]))
    stage.log(
        f"{n_rows:,} rows x {len(table.descriptors)} columns",
        f"{1e9 * rates.decode:.1f} ns a value read, {1e9 * rates.rank:.1f} ranked, {rates.flops / 1e9:.0f} GFLOP/s",
        "columns with ~ are assumed, from the usual shares"
        if len(known) < len(PASSES) - 1
        else "all columns are known",
    )


def rows_kept(table: Table, settings: Descriptors) -> int:
    """Rows that pass 0 keeps."""
    if settings.sample_rows is not None:
        return min(settings.sample_rows, table.rows)
    wanted = settings.sample_per_file
    if wanted is None:
        return table.rows
    return sum(
        round(part.rows * wanted) if isinstance(wanted, float) else min(part.rows, wanted) for part in table.parts
    )


def report(costs: dict[str, cost.Cost], known: dict[str, int], records: list[Path]) -> str:
    """A line a pass: what is expected, and what the record of a finished one says."""
    lines = []
    for (name, each), record in zip(costs.items(), records, strict=True):
        assumed = "" if name == "pass1" or name in known else "~"
        line = {
            "pass": name,
            "columns": f"{assumed}{each.columns:,}",
            "GB read": f"{each.read / 1e9:.2f}",
            "GB written": f"{each.written / 1e9:.2f}",
            "TFLOP": f"{each.flops / 1e12:.2f}",
            "GB memory": f"{each.memory / 1e9:.2f}",
            "seconds": f"{each.seconds:,.1f}",
            "was: seconds": "",
            "was: GB memory": "",
        }
        if record.exists():
            then = files.read_json(record)
            line["was: seconds"] = f"{then['seconds']:,.1f}"
            line["was: GB memory"] = f"{then['peak_memory_bytes'] / 1e9:.2f}"
        lines.append(line)
    columns = [[title, *(line[title] for line in lines)] for title in lines[0]]
    aligned = [[cell.rjust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join(" ".join(cells) for cells in zip(*aligned, strict=True))


if __name__ == "__main__":
    main()
