"""The rank codes that pass 1 leaves for the later passes, in files that are read by row blocks of columns.

Every column has a 16-bit cell number a row: that of its distinct value, or where there are too many, of a range of
ranks, with another 16 bits for the place in it. Passes that need not tell ranks in a cell apart read the first alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from common import files
from common.arrays import Unread
from common.errors import UserError
from descriptors import kernels
from descriptors.ranks import Coded, fine_bits

COPIED = 1 << 22  # numbers copied at once
HASHED = 1 << 17  # numbers compared with their checksum at once, while they are in the cache
DIGEST = ">u8"  # of a column in a checksum
EXACT_ROWS = 200_000  # up to here, sums of products of ranks are exact in one float64 matrix product


class Ranks(Protocol):
    """The rank codes of a table, however they are stored.

    shape : (P, N).
    """

    shape: tuple[int, int]

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(len(columns), stop - start) unsigned: doubled mid-ranks, 0 = missing."""
        ...


class Codes(Ranks, Protocol):
    """Rank codes that can be counted.

    sizes : (P,) int64; cells of a column are below it.
    shift : doubled ranks are told apart in steps of 2^shift; 0 = all of them.
    split : (P,) bool, whether values of one cell may differ.
    """

    sizes: np.ndarray
    shift: int
    split: np.ndarray

    def cells(self, column: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) unsigned: numbers that order the values, with gaps, 0 = missing."""
        ...


def row_blocks(codes: Ranks, columns: np.ndarray, size: int) -> Iterator[Unread]:
    """(len(columns), B) codes of all rows, ``size`` rows at a time."""
    bounds = ((start, min(start + size, codes.shape[1])) for start in range(0, codes.shape[1], size))
    return (unread(columns, stop - start, partial(codes.read, start=start, stop=stop)) for start, stop in bounds)


def unread(columns: np.ndarray, n_rows: int, read: Callable[[np.ndarray], np.ndarray]) -> Unread:
    """(len(columns), n_rows) codes, which ``read`` reads of any columns."""
    return Unread((len(columns), n_rows), np.uint32, lambda part: read(columns[part]))


class RankCodes:
    """The codes of pass 1: all ranks told apart in tables of up to ``EXACT_ROWS`` rows, else 16 bits of them.

    Parameters
    ----------
    cells : file of (P, N) cell numbers.
    fine : file of (W, N) places in the cells, of the columns that have them; None if none has.
    levels : (P,) int64, distinct values; 0 = the column has cells of ranks.
    ecdf : (L,) uint32, of all columns with levels one after another, 0 and the doubled mid-rank of each.
    whole : whether all ranks are told apart.
    columns : (Q,) positions in the files, all by default.
    n_valid : (P,) values of each column, none of whose codes is then above twice that.
    """

    def __init__(
        self,
        cells: CodeFile,
        fine: CodeFile | None,
        levels: np.ndarray,
        ecdf: np.ndarray,
        whole: bool | None = None,
        columns: np.ndarray | None = None,
        n_valid: np.ndarray | None = None,
    ) -> None:
        self._cells, self._fine, self._levels, self._ecdf = cells, fine, levels, ecdf
        self._n_valid = n_valid
        self._columns = np.arange(len(levels)) if columns is None else columns
        n_rows = cells.shape[1]
        self._fine_bits = fine_bits(max(n_rows, 1))
        self._whole = n_rows <= EXACT_ROWS if whole is None else whole
        self.shift = 0 if self._whole else self._fine_bits
        self._tables = np.cumsum(np.where(levels > 0, levels + 1, 0)) - np.where(levels > 0, levels + 1, 0)
        self._places = np.cumsum(levels == 0) - 1
        self.shape = (len(self._columns), n_rows)
        many = n_rows + 1 if self._whole else ((2 * n_rows - 1) >> self._fine_bits) + 2
        self.sizes = np.where(levels > 0, levels + 1, many)[self._columns]
        self.split = (levels == 0)[self._columns] & (self.shift > 0)

    def subset(self, columns: np.ndarray) -> RankCodes:
        """Some of the columns, numbered from 0."""
        return self._with(self._whole, self._columns[columns])

    def told_apart(self) -> RankCodes:
        """The same columns with all ranks told apart, however many rows there are."""
        return self._with(True, self._columns)

    def _with(self, whole: bool, columns: np.ndarray) -> RankCodes:
        return RankCodes(self._cells, self._fine, self._levels, self._ecdf, whole, columns, self._n_valid)

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        """(len(columns), stop - start) uint32: doubled mid-ranks or, with a shift, the middle of their cell."""
        codes = np.empty((len(columns), stop - start), np.uint32)
        for row, place in zip(codes, self._columns[columns], strict=True):
            self._decode(int(place), start, stop, row)
        return codes

    def _decode(self, place: int, start: int, stop: int, codes: np.ndarray) -> None:
        cells = self._cells.row(place, start, stop)
        if self._levels[place]:
            table = self._ecdf[self._tables[place] : self._tables[place] + self._levels[place] + 1]
            kernels.look_up(cells, np.ascontiguousarray(table), codes)
        elif self._whole:
            assert self._fine is not None
            kernels.join_planes(cells, self._fine.row(int(self._places[place]), start, stop), self._fine_bits, codes)
        else:
            kernels.middles(cells, self._fine_bits, codes)
            if self._n_valid is not None:  # the middle of the last cell may lie above the last rank
                np.minimum(codes, 2 * int(self._n_valid[place]), out=codes)

    def cells(self, column: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) uint16 or uint32: numbers that order the values, 0 = missing."""
        place = int(self._columns[column])
        if self._levels[place] or not self._whole:
            return self._cells.row(place, start, stop)
        codes = np.empty(stop - start, np.uint32)
        self._decode(place, start, stop, codes)
        codes >>= 1  # doubled mid-ranks of different values are two apart at least
        return codes


class CodesWriter:
    """Writes the columns that stay to the two files of codes, and keeps their tables."""

    def __init__(self, cells: Path, fine: Path, n_rows: int) -> None:
        self._cells, self._fine = CodeWriter(cells, n_rows), CodeWriter(fine, n_rows)
        self._levels: list[int] = []
        self._tables: list[np.ndarray] = []

    def write(self, coded: Coded) -> None:
        self._cells.write(coded.cells)
        self._levels.append(0 if coded.table is None else len(coded.table) - 1)
        if coded.table is not None:
            self._tables.append(coded.table)
        if coded.fine is not None:
            self._fine.write(coded.fine)

    def append(self, cells: CodeFile, fine: CodeFile) -> None:
        """The columns of another pair of files; their tables are not known here."""
        self._cells.append(cells)
        self._fine.append(fine)

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        """``levels`` and ``ecdf`` of :class:`RankCodes`."""
        self._cells.close()
        self._fine.close()
        return np.array(self._levels, np.int64), np.concatenate([np.empty(0, np.uint32), *self._tables])

    @property
    def checksums(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of both files, once closed, for ``CodeFile``."""
        return self._cells.checksum, self._fine.checksum


class CodeFile:
    """Rank codes on disk, a (P, N) .npy file read by row blocks of columns, so that memory stays what is asked for.

    ``checksum`` is what ``CodeWriter`` told of it; each column is compared with it once, before it is first read.
    """

    def __init__(self, path: str | Path, checksum: Mapping[str, Any] | None = None) -> None:
        self.path = path
        try:
            self._handle = open(path, "rb", buffering=0)  # noqa: SIM115 (lives as long as the object)
            np.lib.format.read_magic(self._handle)
            shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(self._handle)
            self._offset = self._handle.tell()
            header = os.pread(self._handle.fileno(), self._offset, 0)
            size = os.fstat(self._handle.fileno()).st_size
        except Exception as error:  # a damaged header may parse as anything
            raise UserError(f"{path}: cannot be read ({error}); {files.AGAIN}") from None
        whole = len(shape) == 2 and self.dtype.kind == "u" and not fortran
        if not whole or size != self._offset + shape[0] * shape[1] * self.dtype.itemsize:
            raise UserError(f"{path}: is damaged (its size does not fit its header); {files.AGAIN}")
        self.shape: tuple[int, int] = (int(shape[0]), int(shape[1]))
        self._checked = np.full(self.shape[0], checksum is None)
        if checksum is not None:
            known, *self._digests = _digests(checksum)
            if known != _of_bytes(header) or len(self._digests) != self.shape[0]:
                raise files.damaged(path)

    def row(self, column: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) numbers of one column."""
        if not self._checked[column]:
            self._check(column)
        return self._read(column, start, stop)

    def _check(self, column: int) -> None:
        """Compare a column with its checksum; two threads may do so at once."""
        content = xxhash.xxh3_64()
        for start in range(0, self.shape[1], HASHED):
            content.update(self._read(column, start, min(start + HASHED, self.shape[1])).data)
        if content.intdigest() != self._digests[column]:
            raise files.damaged(self.path)
        self._checked[column] = True

    def _read(self, column: int, start: int, stop: int) -> np.ndarray:
        block = np.empty(stop - start, self.dtype)
        at = self._offset + (column * self.shape[1] + start) * self.dtype.itemsize
        view = block.view(np.uint8).data
        # preadv has no file position, so threads can share the handle; it reads at most 2 GiB at once
        while view:
            count = os.preadv(self._handle.fileno(), [view], at)
            if count == 0:
                raise UserError(f"{self.path}: ended early; {files.AGAIN}")
            view, at = view[count:], at + count
        return block


class CodeWriter:
    """Writes 16-bit numbers column by column, when the number of columns is known only at the end."""

    def __init__(self, path: Path, n_rows: int) -> None:
        self._path, self._n_rows = path, n_rows
        self._digests: list[int] = []  # of the columns
        with files.writing(path):
            self._handle = open(path, "w+b")  # noqa: SIM115 (lives until close)
            self._offset = self._header()

    def _header(self) -> int:
        # NumPy pads the header so that the first axis may grow in place
        self._handle.seek(0)
        np.lib.format.write_array_header_1_0(
            self._handle, {"shape": (len(self._digests), self._n_rows), "fortran_order": False, "descr": "<u2"}
        )
        return self._handle.tell()

    def write(self, numbers: np.ndarray) -> None:
        self._append([np.ascontiguousarray(numbers, np.uint16)])

    def append(self, other: CodeFile) -> None:
        """All columns of another such file."""
        if other.shape[1] != self._n_rows or other.dtype != np.uint16:
            raise UserError(f"{other.path}: does not belong to a table of {self._n_rows} rows; {files.AGAIN}")
        for column in range(other.shape[0]):
            starts = range(0, self._n_rows, COPIED)
            self._append(other.row(column, start, min(start + COPIED, self._n_rows)) for start in starts)

    def _append(self, blocks: Iterable[np.ndarray]) -> None:
        """A column."""
        content = xxhash.xxh3_64()
        for block in blocks:
            content.update(block.data)
            with files.writing(self._path):
                self._handle.write(block.data)
        self._digests.append(content.intdigest())

    def close(self) -> None:
        with files.writing(self._path):
            if self._header() != self._offset:
                raise AssertionError("the header of the code file changed its length")
            self._handle.seek(0)
            header = self._handle.read(self._offset)
            size = self._handle.seek(0, os.SEEK_END)
            self._handle.close()
        digests = np.array([_of_bytes(header), *self._digests], DIGEST)
        self.checksum = {"bytes": size, "xxh3_by_column": digests.tobytes().hex()}


def _of_bytes(content: bytes) -> int:
    return xxhash.xxh3_64_intdigest(content)


def _digests(checksum: Mapping[str, Any]) -> list[int]:
    """Of the header, and of each column."""
    return np.frombuffer(bytes.fromhex(checksum["xxh3_by_column"]), DIGEST).tolist()
