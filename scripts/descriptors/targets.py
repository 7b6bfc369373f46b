"""A measured property beside the descriptors: of the input itself, or of a file that has a column in common with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from common.errors import UserError, one_line
from common.memory import excuse
from descriptors.sampling import keep_smallest, row_hashes
from descriptors.table import Table, as_float


def check(table: Table, target: str, key: str | None) -> None:
    """UserError where the table lacks the column, or where the property would be predicted by itself.

    ``key``: the column that the table has in common with the file of the property; None = the property is in the table.
    """
    column = target if key is None else key
    if column not in table.schema.names:
        setting = "utility_target" if key is None else "utility_key"
        raise UserError(
            f"config: descriptors.{setting} names {column!r}, but no column of {table.parts[0].path} is called so"
        )
    if target in table.descriptors:
        raise UserError(
            f"config: descriptors.utility_target = {target!r} is one of the descriptors and would predict itself; list "
            "it under exclude_columns"
        )


def read_file(path: str, key: str, target: str) -> tuple[dict[str, int], pa.Array]:
    """Of a CSV or Parquet file the places of the keys, as text, and the property; rows without either are left out.

    Raises
    ------
    UserError : an unreadable file, a column that is not there, a key that is there twice.
    """
    try:
        parquet = Path(path).suffix == ".parquet"
        names = pq.read_schema(path).names if parquet else pa.csv.open_csv(path).schema.names
        for name in (key, target):
            if name not in names:
                raise UserError(f"{path}: has no column {name!r}; set utility_key and utility_target to columns of it")
        columns = [key, target]
        only = pa.csv.ConvertOptions(include_columns=columns)
        found = pq.read_table(path, columns=columns) if parquet else pa.csv.read_csv(path, convert_options=only)
    except (OSError, pa.ArrowException) as error:
        excuse(path, error)
        raise UserError(f"{path}: cannot be read ({one_line(error)}); it should be CSV or Parquet") from None
    found = found.drop_null()
    places: dict[str, int] = {}
    for place, text in enumerate(_texts(found.column(key))):
        assert text is not None
        if places.setdefault(text, place) != place:
            raise UserError(f"{path}: {key} {text!r} is there twice; leave one line of it")
    return places, found.column(target).combine_chunks()


def look_up(places: dict[str, int], values: pa.Array) -> Callable[[pa.Array], pa.Array]:
    """From keys to the values that :func:`read_file` found; null where it found none."""

    def values_of(keys: pa.Array) -> pa.Array:
        return values.take(pa.array([None if text is None else places.get(text) for text in _texts(keys)], pa.int64()))

    return values_of


def choose(
    table: Table,
    keys: list[str],
    column: str,
    values_of: Callable[[pa.Array], pa.Array],
    limit: int,
    seed: int,
    batch_rows: int,
) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Rows that have the property, at most ``limit`` of them by the hash of file and row, and its values there.

    Parameters
    ----------
    keys : of the files, as :func:`descriptors.table.file_key` gives them.
    column : of the table, that the values follow from.

    Returns
    -------
    masks : (rows,) bool of each file.
    values : (n,) float64, int64, bool or text, of the rows chosen, in order.
    n_there : how many rows have it.
    """
    hashes, places, taken = np.empty(0, np.uint64), np.empty((0, 2), np.int64), None
    n_there = 0
    for number, (part, key) in enumerate(zip(table.parts, keys, strict=True)):
        every, at = row_hashes(seed, key, part.rows), 0
        for batch in part.batches(batch_rows, [column]):
            values = values_of(batch.column(0))
            there = np.flatnonzero(_present(values))
            n_there += len(there)
            hashes = np.concatenate([hashes, every[at + there]])
            places = np.concatenate([places, np.column_stack([np.full(len(there), number), at + there])])
            found = values.take(pa.array(there))
            taken = found if taken is None else pa.concat_arrays([taken, found])
            keep = keep_smallest(hashes, limit)
            hashes, places, taken = hashes[keep], places[keep], taken.filter(pa.array(keep))
            at += len(batch)
    masks = [np.zeros(part.rows, bool) for part in table.parts]
    for number, mask in enumerate(masks):
        mask[places[places[:, 0] == number, 1]] = True
    return masks, _numpy(taken), n_there


def descriptors_of(table: Table, masks: list[np.ndarray], batch_rows: int) -> np.ndarray:
    """(rows of the masks, P) float64 of all descriptors, NaN = missing or infinite."""
    names = list(table.descriptors)
    out, filled = np.empty((sum(int(mask.sum()) for mask in masks), len(names))), 0
    for part, mask in zip(table.parts, masks, strict=True):
        for kept in part.kept(mask, batch_rows, names):
            for place, name in enumerate(names):
                out[filled : filled + len(kept), place] = as_float(kept.column(name))
            filled += len(kept)
    out[~np.isfinite(out)] = np.nan
    return out


def _texts(keys: pa.Array) -> list[str | None]:
    """Keys as text, so that 7 in a CSV file is "7" in a Parquet file."""
    return [None if key is None else str(key) for key in keys.to_pylist()]


def _present(values: pa.Array) -> np.ndarray:
    """(n,) bool: neither null, NaN, infinite nor an empty text."""
    if pa.types.is_floating(values.type):
        return np.isfinite(as_float(values))
    there = values.is_valid()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        there = pc.and_(there, pc.not_equal(values, "").fill_null(False))
    return there.to_numpy(zero_copy_only=False)


def _numpy(values: pa.Array | None) -> np.ndarray:
    if values is None:
        return np.empty(0)
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return as_float(values).astype(float)
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return values.to_numpy(zero_copy_only=False)
    return np.array([str(value) for value in values.to_pylist()])
