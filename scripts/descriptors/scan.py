"""Pass 1's one read of columns: statistics, reasons and rank codes, a group of columns at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local
from typing import Any, NamedTuple

import numpy as np
import xxhash

from common import pieces
from common.descriptors_settings import Pass1, Runtime
from common.errors import UserError
from descriptors import kernels, ranks
from descriptors.codes import CodesWriter
from descriptors.sampling import key, mix
from descriptors.table import Table
from descriptors.variance import Column, describe, removal_reasons

BYTES_A_VALUE = 8
BYTES_A_VALUE_IN_WORK = 22  # of one column being sorted, described and coded
BYTES_A_CODE = 4
BYTES_A_ROW = 8  # of the rows' content hashes
GROUP = 8  # columns of a group, a thread
NAN = np.array(np.nan).view(np.uint64)[()]
FLAGS = ("constant", "degenerate")  # told by the reasons
ARRAYS = ("levels", "ecdf", "content")  # of what was found
STATISTICS = (*(each.name for each in dataclasses.fields(Column) if each.name not in FLAGS), "missing_ratio")


@dataclass(frozen=True)
class Scanned:
    """What was found in some columns, in their order.

    columns, reasons, patterns : of all of them; a column without reasons stays. Columns with missing values in the
        same rows have the same pattern.
    levels, ecdf : of those that stay, as in :class:`descriptors.codes.RankCodes`.
    content : (N,) uint64, these columns' summand of every row's content hash.
    checksums : of the two files of their codes.
    """

    columns: list[Column]
    reasons: list[list[str]]
    patterns: list[str]
    levels: np.ndarray
    ecdf: np.ndarray
    content: np.ndarray
    checksums: tuple[dict[str, Any], dict[str, Any]]

    @property
    def input_fingerprint(self) -> str:
        """Digest of all values, whatever the order of the rows and their split into files."""
        return f"{int(mix(self.content).sum(dtype=np.uint64)):016x}"

    def commonest_reason(self) -> str:
        first = [reasons[0].split(" ")[0] for reasons in self.reasons]
        return f"most often like this: {self.reasons[first.index(max(first, key=first.count))][0]}"

    def write(self, path: str, key: str, shard: int, shards: int) -> None:
        """As a piece, for :meth:`read`; ``key`` is what it was made from."""
        columns = [dataclasses.astuple(column) for column in self.columns]
        arrays = {name: getattr(self, name) for name in ARRAYS}
        pieces.write(path, key, shard, shards, arrays, [columns, self.reasons, self.patterns, self.checksums])

    @classmethod
    def read(cls, paths: Sequence[str], key: str) -> Iterator[Scanned]:
        """The pieces of all shards, in order; UserError as :func:`common.pieces.read`."""
        for arrays, (columns, reasons, patterns, checksums) in pieces.read(paths, key):
            found = [Column(*column) for column in columns]
            yield cls(found, reasons, patterns, **arrays, checksums=checksums)

    @classmethod
    def together(cls, pieces: Iterable[Scanned]) -> Scanned:
        """Of one piece after the other, so that hashes of all rows are not in memory once a piece.

        Where their codes are, together, is not known here: ``checksums`` are left empty.
        """
        columns: list[Column] = []
        reasons: list[list[str]] = []
        patterns: list[str] = []
        levels, ecdf, content = [], [], np.zeros((), np.uint64)
        for piece in pieces:
            columns += piece.columns
            reasons += piece.reasons
            patterns += piece.patterns
            levels.append(piece.levels)
            ecdf.append(piece.ecdf)
            content = content + piece.content
        return cls(columns, reasons, patterns, np.concatenate(levels), np.concatenate(ecdf), content, ({}, {}))


class Result(NamedTuple):
    """Of one column; ``coded`` is None if it goes."""

    column: Column
    reasons: list[str]
    pattern: str
    coded: ranks.Coded | None


def scan(
    table: Table,
    names: Sequence[str],
    settings: Pass1,
    runtime: Runtime,
    writer: CodesWriter,
    threads: int,
    progress: Callable[[], object],
    sort: Callable[[np.ndarray, ranks.Workspace], ranks.InOrder] = ranks.sort,
) -> Scanned:
    """Read columns in groups that fit the memory, the next one while this one is ranked, ``threads`` columns at a time.

    Raises
    ------
    UserError : the memory does not hold one column; an unreadable file.
    """
    rows = table.rows
    threads, width, ahead = plan(rows, runtime, threads)
    content, lock = np.zeros(rows, np.uint64), Lock()
    results: list[Result] = []
    own = local()  # of each thread

    def examine(values: np.ndarray, name: str) -> Result:
        with lock:
            kernels.add_content(values.view(np.uint64), key(name), NAN, content)
        if not hasattr(own, "work"):
            own.work = ranks.Workspace(rows)
        column = sort(values, own.work)
        ordered = column.ordered
        found = describe(ordered, rows, settings.range_mode, (settings.trim_lower, settings.trim_upper))
        reasons = removal_reasons(
            found,
            settings.range_mode,
            settings.variance_threshold,
            settings.max_missing_ratio,
            settings.min_effective_n,
        )
        pattern = xxhash.xxh3_128_hexdigest(np.packbits(np.isnan(values)).data)
        return Result(found, reasons, pattern, None if reasons else column.encode())

    with ThreadPoolExecutor(threads) as pool:
        for group, values in read_groups(table, names, width, runtime.batch_rows, ahead):
            for result in pool.map(examine, values, group):
                if result.coded is not None:
                    writer.write(result.coded)
                results.append(result._replace(coded=None))
                progress()
    levels, ecdf = writer.close()
    return Scanned(
        [result.column for result in results],
        [result.reasons for result in results],
        [result.pattern for result in results],
        levels,
        ecdf,
        content,
        writer.checksums,
    )


def plan(rows: int, runtime: Runtime, threads: int) -> tuple[int, int, bool]:
    """Threads, columns of a group, and whether the next group is read meanwhile, that fit the memory budget."""
    spare = runtime.budget - rows * BYTES_A_ROW
    least = rows * (BYTES_A_VALUE + BYTES_A_VALUE_IN_WORK + BYTES_A_CODE)
    if spare < least:
        enough = runtime.gigabytes_for(least + rows * BYTES_A_ROW)
        raise UserError(
            f"{rows:,} rows need descriptors.max_host_memory_gb >= {enough:g} to sort one column; "
            f"it is {runtime.max_host_memory_gb:g}"
        )
    threads = max(min(threads, (spare // 2) // max(rows * BYTES_A_VALUE_IN_WORK, 1)), 1)
    # all of a group start together: a finished column waits as codes until its turn to be written
    left = (spare - threads * rows * BYTES_A_VALUE_IN_WORK) // max(rows, 1)
    ahead = left >= 2 * threads * BYTES_A_VALUE + threads * BYTES_A_CODE
    width = left // ((2 if ahead else 1) * BYTES_A_VALUE + BYTES_A_CODE)
    # several small groups, so that reading and ranking overlap from early on
    return int(threads), int(max(min(width, GROUP * threads), 1)), bool(ahead)


def needed(rows: int, threads: int, width: int, ahead: bool) -> int:
    """Bytes that a scan by this plan takes at most."""
    held = width * ((2 if ahead else 1) * BYTES_A_VALUE + BYTES_A_CODE)
    return rows * (BYTES_A_ROW + threads * BYTES_A_VALUE_IN_WORK + held)


def read_groups(
    table: Table, names: Sequence[str], width: int, batch_rows: int, ahead: bool
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """Groups of columns with their values, (p, N) float64."""
    groups = [names[start : start + width] for start in range(0, len(names), width)]
    if not ahead or not groups:
        for group in groups:
            yield group, table.columns(list(group), batch_rows)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(table.columns, list(groups[0]), batch_rows)
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            values = coming.result()
            if following is not None:
                coming = reader.submit(table.columns, list(following), batch_rows)
            yield group, values
            del values
