"""Reads the molecules and deals them out to the shards, in order."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from common import files, pieces
from common.errors import UserError
from common.found import find_files
from common.molecules_settings import ReadMolecules
from common.progress import counted, progress
from common.stage import Stage, run_stage
from molecules import reading


def main() -> None:
    run_stage(
        "read_molecules",
        ReadMolecules,
        inputs={},
        outputs={"out-shards": "Parquet, one a shard: row number, id, SMILES"},
        work=work,
        several=("out-shards",),
    )


def work(stage: Stage) -> None:
    settings: ReadMolecules = stage.settings
    paths = find_files(settings.molecules_glob, key="molecules.molecules_glob")
    given = (paths, settings.smiles_column, settings.id_column, settings.column_names)
    total = reading.count(*given)
    if total == 0:
        raise UserError(f"{paths[0]}: no molecules, nor in any other file that molecules_glob matches; correct it")
    shards = len(stage.paths.out_shards)
    schema = reading.schema(settings.smiles_column, settings.id_column)
    with progress(stage.name, total, "molecule") as bar:
        rows = Rows(counted(reading.molecules(*given), bar.update), schema)
        for shard, path in enumerate(stage.paths.out_shards, start=1):
            mine = pieces.part(total, shard, shards)
            with files.atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                for table in rows.take(mine.stop - mine.start):
                    writer.write_table(table)
    stage.log(f"{len(paths)} files", f"{total:,} molecules", f"{shards} shards")


class Rows:
    """A stream of tables, of which so many rows at a time are taken."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
        self.tables = tables
        self.left = schema.empty_table()

    def take(self, count: int) -> Iterator[pa.Table]:
        while count:
            if not len(self.left):
                self.left = next(self.tables)
            yield self.left.slice(0, count)
            taken = min(count, len(self.left))
            self.left, count = self.left.slice(taken), count - taken


if __name__ == "__main__":
    main()
