"""The descriptor table: Parquet files in, columns out."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import UserError, one_line
from common.found import sizes
from common.memory import lacks_memory, out_of_memory
from descriptors import kernels

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

WHOLE_BYTES = 1 << 28
FOOTER_BYTES = 1 << 16
BATCH_CELLS = 1 << 20


def file_key(path: str, pattern: str) -> str:
    """The file's path relative to the fixed part of the pattern: the same on every machine."""
    fixed = []
    for part in PurePath(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return PurePath(os.path.relpath(path, PurePath(*fixed) if fixed else ".")).as_posix()


def files_digest(pattern: str, storage: AbstractFileSystem | None = None) -> str:
    """Digest of the files' keys and content: a touch does not change it.

    Of files with more than ``WHOLE_BYTES`` together, it reads only the sizes and the last bytes, the Parquet footers:
    there, an edit that leaves every size, minimum and maximum as it was goes unseen.
    """
    digest = hashlib.sha256()
    found = sizes(pattern, storage)
    whole = sum(found.values()) <= WHOLE_BYTES
    for path, size in found.items():
        digest.update(f"{file_key(path, pattern)}\0{size}\0".encode())
        try:
            with open(path, "rb") if storage is None else storage.open(path) as handle:
                handle.seek(0 if whole else max(size - FOOTER_BYTES, 0))
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be read ({reason}); correct its permissions, or parquet_glob") from None
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """One Parquet file with its footer, parsed once."""

    path: str
    footer: pq.FileMetaData

    @property
    def rows(self) -> int:
        return self.footer.num_rows

    def batches(
        self, batch_rows: int, columns: list[str] | None = None, page_bytes: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Record batches of ``columns`` (all by default); a damaged file is named.

        Of each column its share of a row group is read at once, or ``page_bytes`` of it, if not 0.
        """
        how = {"metadata": self.footer, "pre_buffer": page_bytes == 0, "buffer_size": page_bytes}
        try:
            with pq.ParquetFile(self.path, **how) as file:
                yield from file.iter_batches(batch_size=batch_rows, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from None

    def kept(self, mask: np.ndarray, batch_rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Of each of these batches the rows of ``mask``, (rows,) bool."""
        at = 0
        for batch in self.batches(batch_rows, columns):
            yield batch.filter(pa.array(mask[at : at + len(batch)]))
            at += len(batch)


def unreadable(path: str, error: Exception) -> Exception:
    if lacks_memory(error):
        return out_of_memory(path, error)
    return UserError(
        f"{path}: not a readable Parquet file ({one_line(error)}); replace it or take it out of parquet_glob"
    )


@dataclass(frozen=True)
class Table:
    """Descriptor columns over all files, as one table of float64 with NaN for every kind of missing."""

    parts: tuple[Part, ...]
    metadata: tuple[str, ...]
    excluded: tuple[str, ...]
    descriptors: tuple[str, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def schema(self) -> pa.Schema:
        """All columns in the order of the first file, each of a type that holds the values of every file."""
        schemas = [part.footer.schema.to_arrow_schema() for part in self.parts]
        fields = []
        for field in schemas[0]:
            kinds = {schema.field(field.name).type for schema in schemas} - {pa.null()}
            wide = pa.large_string() if pa.large_string() in kinds else pa.string()
            kind = kinds.pop() if len(kinds) == 1 else wide if kinds else pa.null()
            fields.append(pa.field(field.name, kind))
        return pa.schema(fields)

    def columns(self, names: list[str], batch_rows: int) -> np.ndarray:
        """(len(names), N) float64; null, NaN and infinities are NaN. Every column chunk is read once."""
        values = np.empty((len(names), self.rows))
        at = 0
        for part in self.parts:
            # all of them stay in memory anyway: large batches cost no more and are read faster
            for batch in part.batches(max(batch_rows, BATCH_CELLS // len(names)), names):
                for row, name in enumerate(names):
                    values[row, at : at + len(batch)] = as_float(batch.column(name))
                at += len(batch)
        for column in values:
            kernels.mark_missing(column)
        return values

    def blocks(self, names: list[str], batch_rows: int, budget: int) -> Iterator[np.ndarray]:
        """Row blocks, (len(names), B) float64, NaN = missing; at most ``batch_rows`` rows, 1/8 of ``budget``."""
        rows = max(min(batch_rows, budget // (64 * len(names))), 1)
        for part in self.parts:
            for batch in part.batches(rows, names):
                values = np.array([as_float(batch.column(name)) for name in names])
                values[~np.isfinite(values)] = np.nan
                yield values


def as_float(column: pa.Array) -> np.ndarray:
    """(n,) float of a numeric or boolean Arrow array, null as NaN."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not pa.types.is_floating(column.type):
        column = pc.cast(column, pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False)  # null becomes NaN


def is_descriptor_type(kind: pa.DataType) -> bool:
    """Numbers and booleans; a column of nulls only is an all-missing descriptor."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def open_table(
    paths: list[str],
    n_metadata: int,
    metadata_columns: list[str] | None,
    exclude_columns: list[str],
    storage: AbstractFileSystem | None = None,
) -> Table:
    """Parse every footer once and check that the files are parts of one table.

    Raises
    ------
    UserError : a file that is no Parquet, files with different columns or types (both are named), a duplicate column,
        a metadata or excluded column that does not exist, a descriptor that is not a number.
    """
    parts = []
    for path in paths:
        try:
            parts.append(Part(path, pq.read_metadata(path, filesystem=storage)))
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from None
    schemas = [part.footer.schema.to_arrow_schema() for part in parts]
    _check_names(paths[0], schemas[0])
    names = schemas[0].names
    types = {name: (kind, paths[0]) for name, kind in zip(names, schemas[0].types, strict=True)}
    for path, schema in zip(paths[1:], schemas[1:], strict=True):
        _check_same(paths[0], names, path, schema)
        _check_types(types, path, schema, exclude_columns)
    metadata = names[:n_metadata] if metadata_columns is None else metadata_columns
    for key, wanted in (("metadata_columns", metadata), ("exclude_columns", exclude_columns)):
        for name in wanted:
            if name not in names:
                raise UserError(f"config: descriptors.{key} names {name!r}, but no column of {paths[0]} is called so")
    # the row labels that pandas writes along are nobody's descriptor
    written = [name for schema in schemas for name in (schema.pandas_metadata or {}).get("index_columns", [])]
    labels = [name for name in names if name in written and name not in (*metadata, *exclude_columns)]
    exclude_columns = [*exclude_columns, *labels]
    skipped = {*metadata, *exclude_columns}
    descriptors = [name for name in names if name not in skipped]
    if not descriptors:
        raise UserError(
            f"{paths[0]}: no descriptor column is left of {len(names)} columns after {len(metadata)} metadata and "
            f"{len(exclude_columns)} excluded ones; lower n_metadata or name them in metadata_columns"
        )
    for name in descriptors:
        kind, path = types[name]
        if not is_descriptor_type(kind):
            raise UserError(
                f"{path}: column {name} is {kind}, not a number; convert it, or list it under exclude_columns or "
                "metadata_columns"
            )
    return Table(tuple(parts), tuple(metadata), tuple(exclude_columns), tuple(descriptors))


def _check_names(path: str, schema: pa.Schema) -> None:
    seen: set[str] = set()
    for name in schema.names:
        if name in seen:
            raise UserError(f"{path}: two columns are called {name!r}; rename one")
        if not name or any(ord(letter) < 32 for letter in name):
            raise UserError(f"{path}: column name {name!r} is empty or has a control character; rename it")
        seen.add(name)


def _check_same(first_path: str, first: list[str], path: str, schema: pa.Schema) -> None:
    _check_names(path, schema)
    for here, there, one, other in ((path, first_path, schema.names, first), (first_path, path, first, schema.names)):
        known = set(other)
        extra = [name for name in one if name not in known]
        if extra:
            more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
            raise UserError(f"{here}: column {extra[0]}{more} is missing in {there}; all files need the same columns")


def _check_types(types: dict[str, tuple[pa.DataType, str]], path: str, schema: pa.Schema, excluded: list[str]) -> None:
    """Compare with the ``types`` known so far and the files they come from; a column of nulls settles no type."""
    for name, kind in zip(schema.names, schema.types, strict=True):
        expected, where = types[name]
        if name not in excluded and expected != kind and not _compatible(expected, kind):
            raise UserError(
                f"{path}: column {name} is {kind}, but {expected} in {where}; convert it or list it under "
                "exclude_columns"
            )
        if pa.types.is_null(expected):
            types[name] = kind, path


def _compatible(*kinds: pa.DataType) -> bool:
    """Text in either width, or a column that is all null in one of the files."""
    text = all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds)
    return text or any(pa.types.is_null(kind) for kind in kinds)
