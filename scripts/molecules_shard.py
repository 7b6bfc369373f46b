"""Descriptors of one shard of the molecules: a row for each, without values where it failed, and why."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from common import files, row_groups
from common.errors import UserError, one_line
from common.molecules_settings import CalculateMolecules
from common.progress import counted, progress
from common.stage import Stage, run_stage
from molecules import calculation, reading

BATCH_ROWS = 256
HEADER = ("row", "id", "smiles", "reason")


def main() -> None:
    run_stage(
        "molecules_shard",
        CalculateMolecules,
        inputs={"molecules": "Parquet: row number, id, SMILES"},
        outputs={
            "out-table": "Parquet: id, SMILES and the descriptors",
            "out-failures": "tsv: row, id, smiles and reason of the molecules that have none",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    settings: CalculateMolecules = stage.settings
    calculation.check_installed(settings.descriptor_sets)
    names = calculation.names_of(settings.descriptor_sets)
    with files.reading(stage.paths.molecules):
        footer = pq.read_metadata(stage.paths.molecules)
    metadata = footer.schema.names[1:]
    for name in metadata:
        if name in names:
            raise UserError(f"molecules: column {name!r} has the name of a descriptor; rename it in the input")
    schema = pa.schema([*((name, pa.string()) for name in metadata), *((name, pa.float64()) for name in names)])
    failures: list[str] = ["\t".join(HEADER)]
    with files.atomic(stage.paths.out_table) as temporary, progress(stage.name, footer.num_rows, "molecule") as bar:
        count = row_groups.write(temporary, schema, counted(described(stage, schema, failures), bar.update))
    files.write_lines(stage.paths.out_failures, failures)
    stage.log(f"{count:,} molecules", f"{len(names)} descriptors", f"{len(failures) - 1} failed")


def described(stage: Stage, schema: pa.Schema, failures: list[str]) -> Iterator[pa.Table]:
    """The rows of the table; what failed is added to ``failures``."""
    from molecules import processes  # pebble may not be installed

    settings: CalculateMolecules = stage.settings
    # read again beside the results, which come a little later
    again = (text for batch in reading.shard(stage.paths.molecules, BATCH_ROWS) for text in batch.column(2).to_pylist())
    results = processes.results(
        calculation.describe,
        again,
        settings.timeout_seconds,
        stage.threads,
        calculation.prepare,
        settings.descriptor_sets,
    )
    for batch in reading.shard(stage.paths.molecules, BATCH_ROWS):
        found = []
        for row, name, smiles in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            values = next(results)
            if isinstance(values, str):
                cells = (str(row), name or "", smiles or "", values)
                failures.append("\t".join(map(one_line, cells)))
                values = [None] * (len(schema) - len(batch.columns) + 1)
            found.append(values)
        columns = [pa.array(column, pa.float64()) for column in zip(*found, strict=True)]
        yield pa.Table.from_arrays([*batch.columns[1:], *columns], schema=schema)
    results.close()


if __name__ == "__main__":
    main()
