"""Shared by all tests: the import root, the folders, and small tables to write."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from descriptors import ranks  # noqa: E402
from descriptors.codes import CodeFile, CodesWriter, RankCodes  # noqa: E402
from passes import select  # noqa: E402, F401 (a fixture for all)

SHUFFLE = os.environ.get("SHUFFLE")  # a seed, see make shuffle

hypothesis.settings.register_profile("default", deadline=None, derandomize=not SHUFFLE, print_blob=True)
hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In another order, if asked for: modules among each other, and the tests of each."""
    if SHUFFLE:
        rng = random.Random(SHUFFLE)
        place: dict[Path, float] = defaultdict(rng.random)
        items.sort(key=lambda item: (place[item.path], rng.random()))


def pytest_collection_finish() -> None:
    """What was imported is not looked through again by each collection; a lack of memory calls for hundreds of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared_data() -> Path:
    """The folder of large real data; the test is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("the large real data are not beside this checkout")
    return SHARED


def copy_workflow(folder: Path) -> None:
    """The workflow's files in a folder of their own, as a user has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "workflow", "scripts", "profiles", "envs"):
        # with what is compiled, which would take longer than the run
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)


def doubled_midranks(column: np.ndarray) -> np.ndarray:
    """(N,) uint32: twice SciPy's mid-ranks of the finite values, 0 = missing."""
    valid = np.isfinite(column)
    codes = np.zeros(len(column), np.uint32)
    codes[valid] = 2 * rankdata(column[valid])
    return codes


class ArrayCodes:
    """Rank codes in memory, read as from a file."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.shape = codes.shape
        self.sizes = np.full(len(codes), codes.shape[1] + 1)
        self.shift = 0
        self.split = np.zeros(len(codes), bool)

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.codes[columns, start:stop].copy()

    def cells(self, column: int, start: int, stop: int) -> np.ndarray:
        return self.codes[column, start:stop] >> 1


@dataclass(frozen=True)
class Stored:
    """The columns of a table as pass 1 leaves them on disk."""

    cells: Path
    fine: Path
    levels: np.ndarray
    ecdf: np.ndarray
    n_valid: np.ndarray
    patterns: np.ndarray

    def open(self) -> RankCodes:
        return RankCodes(CodeFile(self.cells), CodeFile(self.fine), self.levels, self.ecdf, n_valid=self.n_valid)


def store(folder: Path, table: np.ndarray) -> Stored:
    """Rank the columns of a (N, P) table and write their codes."""
    cells, fine = folder / "codes.npy", folder / "fine.npy"
    writer = CodesWriter(cells, fine, len(table))
    for column in table.T:
        writer.write(ranks.sort(np.ascontiguousarray(column)).encode())
    levels, ecdf = writer.close()
    valid = np.isfinite(table)
    masks = [column.tobytes() for column in valid.T]
    labels = {mask: label for label, mask in enumerate(dict.fromkeys(masks))}
    return Stored(cells, fine, levels, ecdf, valid.sum(axis=0), np.array([labels[mask] for mask in masks]))


@pytest.fixture(scope="session")
def dry_runs(tmp_path_factory):
    """dry_runs(folder, *arguments): what Snakemake plans."""
    from snakemake_runs import DryRuns

    server = DryRuns(tmp_path_factory.mktemp("dry_runs"))
    yield server
    server.close()


@contextmanager
def few_cells(cells: int = 32, few: int = 8, exact_rows: int = 10) -> Iterator[None]:
    """The steps of large tables in small ones: cells of several ranks from ``cells`` / 2 rows on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("descriptors.ranks.CELLS", cells)
        patch.setattr("descriptors.ranks.FEW", few)
        patch.setattr("descriptors.codes.EXACT_ROWS", exact_rows)
        patch.setattr("descriptors.pair_kernels.WIDE", cells // 2)
        yield


def write_table(path: Path, columns: dict[str, np.ndarray | list], metadata: int = 1) -> Path:
    """A Parquet file with ``metadata`` leading text columns m0, m1, ... and then ``columns``."""
    n_rows = len(next(iter(columns.values())))
    table = {f"m{k}": [f"r{row}" for row in range(n_rows)] for k in range(metadata)} | columns
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture
def write(tmp_path):
    """write(name, content): a file in the test's folder; gives its path."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file
