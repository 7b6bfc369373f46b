"""Molecules of CSV and Parquet files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from common import files
from common.errors import UserError, one_line
from common.memory import excuse
from common.molecules_settings import ROW, metadata

BATCH_ROWS = 10_000


def batches(
    path: str, smiles: str, name: str | None, header: list[str] | None = None
) -> Iterator[tuple[pa.Array, pa.Array | None]]:
    """SMILES and names of the molecules as text, null = none.

    header : names of the columns of text files that have no header line.

    Raises
    ------
    UserError : an unreadable file, or a column that is not there, or twice.
    """
    wanted = [smiles] if name is None else list(dict.fromkeys([smiles, name]))
    try:
        parquet = Path(path.lower()).suffix == ".parquet"
        for batch in _parquet(path, wanted) if parquet else _csv(path, wanted, header):
            texts = {each: batch.column(each).cast(pa.string()) for each in wanted}
            yield texts[smiles], None if name is None else texts[name]
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        excuse(path, error)
        raise UserError(f"{path}: cannot be read ({one_line(error)}); it should be CSV, TSV or Parquet") from None


def schema(smiles: str, name: str | None) -> pa.Schema:
    """The number of the row over all files, the id and the SMILES."""
    return pa.schema([(ROW, pa.int64()), *((each, pa.string()) for each in metadata(smiles, name))])


def count(paths: list[str], smiles: str, name: str | None, header: list[str] | None = None) -> int:
    """Rows of all files."""
    return sum(len(texts) for path in paths for texts, _ in batches(path, smiles, name, header))


def molecules(paths: list[str], smiles: str, name: str | None, header: list[str] | None = None) -> Iterator[pa.Table]:
    """Rows of :func:`schema` in the order of the files; without ``name`` the number of the row is the id."""
    row, kind = 0, schema(smiles, name)
    for path in paths:
        for texts, names in batches(path, smiles, name, header):
            numbers = pa.array(range(row, row + len(texts)), pa.int64())
            ids = numbers.cast(pa.string()) if names is None else names
            yield pa.Table.from_arrays([numbers, ids, texts], schema=kind)
            row += len(texts)


def shard(path: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of :func:`schema` from a file that was made of them.

    Raises
    ------
    UserError : the file is damaged.
    """
    with files.reading(path), pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_rows)


def _parquet(path: str, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
        _check_there(path, wanted, file.schema_arrow.names)
        yield from file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False)


def _csv(path: str, wanted: list[str], header: list[str] | None) -> Iterator[pa.RecordBatch]:
    delimiter = "," if ".csv" in Path(path.lower()).suffixes else "\t"
    with pa.input_stream(path, compression="detect") as stream:
        # text stays text: the id 007 is not 7; an empty one is none
        convert = pa.csv.ConvertOptions(
            include_columns=wanted,
            include_missing_columns=True,
            column_types=dict.fromkeys(wanted, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        parse = pa.csv.ParseOptions(delimiter=delimiter)
        read = pa.csv.ReadOptions(column_names=header)
        with pa.input_stream(path, compression="detect") as start:
            names = pa.csv.open_csv(start, read_options=read, parse_options=parse).schema.names
        _check_there(path, wanted, names)
        yield from pa.csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)


def _check_there(path: str, wanted: list[str], names: list[str]) -> None:
    for each in wanted:
        if names.count(each) > 1:
            raise UserError(f"{path}: two columns are called {each!r}; rename one")
        if each not in names:
            known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise UserError(f"{path}: has no column {each!r}; set smiles_column and id_column to some of {known}")
