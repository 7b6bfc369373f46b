"""Shared by all tests: the import root, the folders, and small tables to write."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from passes import select  # noqa: E402, F401 (a fixture for all)

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture
def shared_data() -> Path:
    """The folder of large real data; the test is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("the large real data are not beside this checkout")
    return SHARED


class ArrayCodes:
    """Rank codes in memory, read as from a file."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.shape = codes.shape

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.codes[columns, start:stop].copy()


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
