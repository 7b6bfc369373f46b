"""A table as descriptor programs write it, from a seed: any number of rows, any part of it again, bit for bit.

Latent normal scores stand behind all columns. A column shows one of them (base), shows one again in other units (copy:
pass 2 finds it), adds several up (sum: pass 3), folds one at 0 (fold: pass 4), or hardly varies or is mostly missing
(thin, sparse: pass 1). Units are those of descriptors: heavy tails, counts with few values, plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 20_000  # rows made at once; part of the definition of the table
ROWS_A_GROUP = 60_000
PATTERNS, MISSING = 5, 0.03  # of the table on disk
RELATED = 0.5  # correlation of neighbouring latent scores
NOISE = 0.04

UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda z: 10 * z + 300,
    "bounded": np.tanh,
    "heavy": lambda z: np.exp(2 * z),
    "heavier": lambda z: np.exp(8 * np.clip(z, -6, 6)),
    "negated": lambda z: -np.exp(z),
    "count": lambda z: np.floor(np.exp(0.6 * np.clip(z, -6, 6) + 2)),
    "levels": lambda z: np.clip(np.floor(1.5 * z + 2.5), 0, 5),
}
SMOOTH = ("plain", "bounded", "heavy", "negated")


@dataclass(frozen=True)
class Column:
    """sources: latent scores behind it; noise: standard deviation added to their sum; pattern: None = complete."""

    name: str
    kind: str
    sources: tuple[int, ...]
    unit: str
    noise: float
    pattern: int | None = None


def plan(n_columns: int, seed: int, blemished: bool) -> list[Column]:
    """The columns, shuffled; of 400: 120 bases, 20 folds, 80 sums, 30 for pass 1 (if ``blemished``), else copies."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, n_columns)))
    n_poor = round(0.075 * n_columns) if blemished else 0
    n_base = max(round(0.3 * n_columns), min(5, n_columns))
    n_fold, n_sum = round(0.05 * n_columns), round(0.2 * n_columns)
    n_copy = max(n_columns - n_poor - n_base - n_fold - n_sum, 0)
    units = list(UNITS)
    columns = [Column(f"base{k}", "base", (k,), units[k % len(units)], 0.0) for k in range(n_base)]
    for k in range(n_copy):
        columns.append(Column(f"copy{k}", "copy", (k % n_base,), SMOOTH[k % len(SMOOTH)], NOISE))
    for k in range(n_fold):
        columns.append(Column(f"fold{k}", "fold", (k * n_base // n_fold,), "plain", NOISE))
    for k in range(n_sum):
        sources = tuple(rng.choice(n_base, size=int(rng.integers(2, 5)), replace=False).tolist())
        columns.append(Column(f"sum{k}", "sum", sources, SMOOTH[k % len(SMOOTH)], NOISE))
    for k in range(n_poor):
        kind = ("thin", "thin", "sparse")[k % 3]
        columns.append(Column(f"{kind}{k}", kind, (k % n_base,), "plain", 1.0))
    if blemished:
        for k in range(0, n_base + n_copy, 5):
            columns[k] = Column(**{**vars(columns[k]), "pattern": k // 5 % PATTERNS})
    return [columns[k] for k in rng.permutation(len(columns))[:n_columns]]


def block(columns: list[Column], seed: int, number: int) -> np.ndarray:
    """(P, BLOCK) float64, NaN = missing: the rows from ``number * BLOCK`` on."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, number, 1)))
    n_latent = 1 + max(source for column in columns for source in column.sources)
    latent = rng.standard_normal((n_latent, BLOCK))
    # neighbours in groups of five share a part, as descriptors of one family do
    for start in range(0, n_latent, 5):
        shared = rng.standard_normal(BLOCK)
        latent[start : start + 5] *= np.sqrt(1 - RELATED)
        latent[start : start + 5] += np.sqrt(RELATED) * shared
    masks = rng.random((PATTERNS, BLOCK)) < MISSING
    values = np.empty((len(columns), BLOCK))
    for place, column in enumerate(columns):
        score = latent[list(column.sources)].sum(axis=0)
        if column.noise:
            score += column.noise * len(column.sources) ** 0.5 * rng.standard_normal(BLOCK)
        score /= len(column.sources) ** 0.5
        if column.kind == "fold":
            score = np.abs(score)
        if column.kind == "thin":
            values[place] = (rng.random(BLOCK) < 0.0005).astype(np.float64)
            continue
        values[place] = UNITS[column.unit](score)
        if column.kind == "sparse":
            values[place, rng.random(BLOCK) < 0.7] = np.nan
        elif column.pattern is not None:
            values[place, masks[column.pattern]] = np.nan
    return values


def _blocks(columns: list[Column], n_rows: int, seed: int, first: int = 0) -> Iterator[np.ndarray]:
    for number in range(-(-n_rows // BLOCK)):
        yield block(columns, seed, first + number)[:, : n_rows - number * BLOCK]


def table(n_rows: int, n_columns: int, seed: int) -> tuple[np.ndarray, list[Column]]:
    """(P, N) float64 without missing values, and what its columns are."""
    columns = plan(n_columns, seed, blemished=False)
    values = np.empty((n_columns, n_rows))
    at = 0
    for part in _blocks(columns, n_rows, seed):
        values[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return values, columns


def take_out(values: np.ndarray, share: float, patterns: int | None, seed: int) -> None:
    """Make ``share`` of every column missing, in place: in one of ``patterns`` ways, or each column in its own."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 2)))
    n_columns, n_rows = values.shape
    masks = [rng.random(n_rows) < share for _ in range(patterns or 0)]
    for place in range(n_columns):
        values[place, masks[place % patterns] if patterns else rng.random(n_rows) < share] = np.nan


def write(folder: Path, n_rows: int, n_columns: int, seed: int, n_files: int) -> list[Path]:
    """The blemished table as ``n_files`` Parquet files with an id in front; a row group in memory, never more."""
    columns = plan(n_columns, seed, blemished=True)
    schema = pa.schema([("mol_id", pa.int64()), *((column.name, pa.float64()) for column in columns)])
    few = [column.name for column in columns if column.unit in ("count", "levels") or column.kind == "thin"]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = np.diff(np.linspace(0, n_rows, n_files + 1).astype(int))
    paths, first = [], 0
    for number, size in enumerate(sizes.tolist()):
        paths.append(folder / f"part-{number:04d}.parquet")
        with pq.ParquetWriter(paths[-1], schema, use_dictionary=few) as writer:
            waiting: list[np.ndarray] = []
            at = 0
            for part in _blocks(columns, size, seed, first):
                waiting.append(part)
                held = sum(each.shape[1] for each in waiting)
                if held >= ROWS_A_GROUP or at + held == size:
                    ids = np.arange(held) + at + first * BLOCK
                    arrays = [pa.array(np.concatenate(lines), from_pandas=True) for lines in zip(*waiting, strict=True)]
                    writer.write_table(pa.table([pa.array(ids), *arrays], schema=schema), row_group_size=held)
                    at, waiting = at + held, []
        first += -(-size // BLOCK)
    return paths
