"""Rows of the whole table, all their columns or some: a few at a time, whatever there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from common.errors import UserError, one_line
from common.row_groups import group_rows
from descriptors.table import Table

PAGE_BYTES = 1 << 16  # read ahead of each column: not its whole share of a row group, which may be the whole file


def read(table: Table, schema: pa.Schema, batch_rows: int) -> Iterator[pa.Table]:
    """The columns of ``schema`` of all files, in their order and the rows', cast to its types.

    Raises
    ------
    UserError : a file that is damaged, or whose values do not fit the types.
    """
    rows = max(min(batch_rows, group_rows(schema)), 1)
    for part in table.parts:
        for batch in part.batches(rows, schema.names, PAGE_BYTES):
            yield fitted(part.path, batch, schema)


def fitted(path: str, rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema``, of its types."""
    try:
        return pa.Table.from_batches([rows]).select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: its columns do not fit those of the other files ({one_line(error)}); convert them to one type"
        ) from None


def bytes_of(table: Table, names: Iterable[str]) -> int:
    """What some columns take in the files, compressed."""
    wanted = set(names)
    return sum(
        column.total_compressed_size
        for part in table.parts
        for group in map(part.footer.row_group, range(part.footer.num_row_groups))
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema.partition(".")[0] in wanted or column.path_in_schema in wanted
    )
