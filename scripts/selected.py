"""The way out: the input again, all rows, with its metadata columns and the selected descriptors only."""

from __future__ import annotations

import pyarrow as pa

from common import files, row_groups
from common.descriptors_settings import Selected
from common.errors import UserError
from common.found import ROOT
from common.progress import counted, progress
from common.stage import Stage, run_stage
from descriptors import products, rows


def main() -> None:
    run_stage(
        "selected",
        Selected,
        inputs={"manifest": "JSON of pass 0", "columns": "text: the final descriptors, one a line"},
        outputs={"out-table": "Parquet: metadata and these columns of all rows, as in the input"},
        values=ROOT,
        optional=tuple(ROOT),
        work=work,
    )


def work(stage: Stage) -> None:
    _, table = products.whole(stage.paths.manifest, stage.paths.root)
    chosen = files.read_lines(stage.paths.columns)
    unknown = sorted(set(chosen) - set(table.descriptors))
    if unknown:
        raise UserError(f"{stage.paths.columns}: {unknown[0]} is no descriptor of the input; run the passes again")
    wanted = {*table.metadata, *chosen}
    schema = pa.schema([field for field in table.schema if field.name in wanted])
    files.check_space(stage.paths.out_table, rows.bytes_of(table, schema.names))
    with files.atomic(stage.paths.out_table) as temporary, progress(stage.name, table.rows) as bar:
        found = rows.read(table, schema, stage.runtime.batch_rows)
        written = row_groups.write(temporary, schema, counted(found, bar.update))
    stage.log(
        f"{written:,} rows",
        f"{len(chosen)} of {len(table.descriptors)} descriptors, {len(table.metadata)} metadata columns",
    )


if __name__ == "__main__":
    main()
