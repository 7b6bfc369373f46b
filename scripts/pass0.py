"""Pass 0: check the input files, and keep a sample of their rows if one is asked for."""

from __future__ import annotations

import numpy as np

from common import files, row_groups
from common.descriptors_settings import Pass0, is_sampled
from common.errors import UserError
from common.found import ROOT, SOURCE, find_files, named, placed
from common.progress import Bar, counted, progress
from common.stage import Stage, run_stage
from descriptors import rows
from descriptors.sampling import keep_fraction, keep_smallest, row_hashes
from descriptors.table import Table, file_key, files_digest, open_table


def main() -> None:
    run_stage(
        "pass0",
        Pass0,
        inputs={},
        outputs={
            "out-manifest": "JSON: files, rows, columns, what was skipped and sampled",
            "out-sample": "Parquet: the sampled rows, only with sample_per_file or sample_rows",
        },
        work=work,
        values=ROOT | SOURCE,
        optional=("out-sample", *ROOT, *SOURCE),
    )


def work(stage: Stage) -> None:
    settings: Pass0 = stage.settings
    root = stage.paths.root
    pattern = placed(settings.parquet_glob, root)
    paths = find_files(pattern)
    digest = files_digest(pattern)
    if stage.paths.source not in (None, digest):
        raise UserError(
            f"{pattern}: these are not the files that the run was planned for; if they are copies of a storage, delete "
            "them, and run the same command again"
        )
    table = open_table(paths, settings.n_metadata, settings.metadata_columns, settings.exclude_columns)
    if table.rows == 0:
        raise UserError(f"{paths[0]}: no rows, nor in any other file that parquet_glob matches; correct the pattern")
    sampled = is_sampled(stage.parameters)
    kept = [part.rows for part in table.parts]
    source = paths
    if sampled:
        if stage.paths.out_sample is None:
            raise UserError("--out-sample is required with sample_per_file and sample_rows; name a Parquet file")
        masks = choose(table, settings, pattern)
        kept = [int(mask.sum()) for mask in masks]
        if sum(kept) == 0:
            raise UserError("config: descriptors.sample_per_file keeps no row at all; raise it")
        with progress(stage.name, sum(kept)) as bar:
            write_sample(table, masks, stage.paths.out_sample, stage.runtime.batch_rows, bar)
        source = [stage.paths.out_sample]
    stage.record(
        stage.paths.out_manifest,
        {
            "parameters": stage.parameters,
            "files_digest": digest,
            "n_rows": table.rows,
            "n_rows_kept": sum(kept),
            "sampled": sampled,
            "fraction": sum(kept) / table.rows,
            "files": [
                {"path": named(part.path, root), "key": file_key(part.path, pattern), "rows": part.rows, "kept": count}
                for part, count in zip(table.parts, kept, strict=True)
            ],
            "source": [named(path, root) for path in source],
            "metadata_columns": table.metadata,
            "excluded_columns": table.excluded,
            "descriptors": table.descriptors,
        },
    )
    what = f"{sum(kept):,} of {table.rows:,} rows sampled" if sampled else f"{table.rows:,} rows, all kept"
    columns = f"{len(table.descriptors)} descriptors, {len(table.metadata)} metadata columns"
    stage.log(f"{len(paths)} files", what, columns)


def choose(table: Table, settings: Pass0, pattern: str) -> list[np.ndarray]:
    """Rows to keep of each file, (rows,) bool."""
    hashes = [row_hashes(settings.random_seed, file_key(part.path, pattern), part.rows) for part in table.parts]
    if settings.sample_rows is not None:
        together = keep_smallest(np.concatenate(hashes), settings.sample_rows)
        return np.split(together, np.cumsum([part.rows for part in table.parts])[:-1])
    wanted = settings.sample_per_file
    if isinstance(wanted, float):
        return [keep_fraction(each, wanted) for each in hashes]
    assert wanted is not None
    return [keep_smallest(each, wanted) for each in hashes]


def write_sample(table: Table, masks: list[np.ndarray], path: str, batch_rows: int, bar: Bar) -> None:
    """Stream the kept rows, all columns, into one Parquet file."""
    schema = table.schema
    kept = (
        rows.fitted(part.path, batch, schema)
        for part, mask in zip(table.parts, masks, strict=True)
        for batch in part.kept(mask, batch_rows)
    )
    with files.atomic(path) as temporary:
        row_groups.write(temporary, schema, counted(kept, bar.update))


if __name__ == "__main__":
    main()
