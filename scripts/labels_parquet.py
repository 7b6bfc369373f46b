"""The way out: the labels of predict as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from common import files, row_groups
from common.errors import UserError, one_line
from common.progress import counted, progress
from common.settings import Settings
from common.stage import Stage, run_stage
from taxoclass import products

BATCH = 10_000  # documents


def main() -> None:
    run_stage(
        "labels_parquet",
        Settings,
        inputs={"labels": "JSON lines of predict"},
        outputs={"out-table": "Parquet: a row for each line, with a column for each of its keys"},
        work=work,
    )


def work(stage: Stage) -> None:
    with files.atomic(stage.paths.out_table) as temporary, progress(stage.name, unit="text") as bar:
        found = counted(tables(stage.paths.labels), bar.update)
        written = row_groups.write(temporary, products.LABELS, found)
    stage.log(f"{written:,} documents")


def tables(path: str) -> Iterator[pa.Table]:
    """The records, ``BATCH`` of them at a time."""
    records = products.iter_label_records(path)
    while batch := list(islice(records, BATCH)):
        try:
            yield pa.Table.from_pylist(batch, schema=products.LABELS)
        except pa.ArrowException as error:
            raise UserError(f"{path}: is not the labels of predict ({one_line(error)}); {products.AGAIN}") from None


if __name__ == "__main__":
    main()
