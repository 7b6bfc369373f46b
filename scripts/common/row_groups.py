"""A Parquet file from a stream of tables: row groups of a fixed size, however the rows come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_BYTES = 1 << 26  # of one row group, as numbers


def write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Stream tables into one Parquet file and count their rows; its row groups do not depend on how they come."""
    group, written = group_rows(schema), 0
    with pq.ParquetWriter(path, schema) as writer:
        waiting, n_waiting = [schema.empty_table()], 0
        for rows in tables:
            waiting.append(rows)
            n_waiting += len(rows)
            written += len(rows)
            while n_waiting >= group:
                together = pa.concat_tables(waiting)
                writer.write_table(together.slice(0, group).combine_chunks(), row_group_size=group)
                waiting, n_waiting = [together.slice(group)], n_waiting - group
        writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=group)
    return written


def group_rows(schema: pa.Schema) -> int:
    """Rows of a row group."""
    return max(GROUP_BYTES // (8 * len(schema)), 1)
