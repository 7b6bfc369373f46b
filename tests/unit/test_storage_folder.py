"""Inputs looked at in a storage read as those that lie here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.files import contents_digest
from common.found import find_files, named, placed
from common.storage import fetched, open_storage
from conftest import write_table
from descriptors.table import files_digest, open_table

pytest.importorskip("fsspec.implementations.arrow", reason="fsspec of envs/cluster.txt is not installed")


@pytest.fixture
def tables(tmp_path):
    """A folder with two tables below data/ and one below data/more/."""
    for name in ("a.parquet", "b.parquet", "more/c.parquet"):
        write_table(tmp_path / "data" / name, {"x": np.arange(5.0)})
    return tmp_path


@pytest.mark.parametrize("pattern", ["data/*.parquet", "data/**/*.parquet", "./data/[ab].parquet"])
def test_the_same_files_are_found_with_the_same_digest(tables, pattern, monkeypatch):
    storage = open_storage("fs", str(tables), None)
    found, digest = find_files(pattern, storage), files_digest(pattern, storage)
    rows = open_table(found, 1, None, [], storage).rows
    monkeypatch.chdir(tables)
    assert [os.path.normpath(path) for path in find_files(pattern)] == found
    assert digest == files_digest(pattern) and rows == 5 * len(found)


def test_relative_texts_are_read_in_the_storage_and_absolute_ones_here(tmp_path, write):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "text").write_text("same")
    here = write("other name", "same")
    storage = open_storage("fs", str(tmp_path / "there"), None)
    assert contents_digest(["text"], storage) == contents_digest([here], storage) == contents_digest([here])
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        contents_digest(["nowhere"], storage)


def test_copies_are_gone_afterwards_and_errors_name_what_was_given(tables):
    storage = open_storage("fs", str(tables), None)
    here = str(tables / "data" / "a.parquet")
    with fetched(["data/b.parquet", "nowhere", here], storage) as (copy, missing, same):
        assert Path(copy).read_bytes() == (tables / "data" / "b.parquet").read_bytes()
        assert not os.path.exists(missing) and same == here
    assert not os.path.exists(copy)
    with pytest.raises(UserError, match=r"^data/b\.parquet: odd$"), fetched(["data/b.parquet"], storage) as [copy]:
        raise UserError(f"{copy}: odd")


def test_a_copy_of_what_lies_above_the_storage_is_gone_afterwards_too(tables, monkeypatch):
    (tables / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tables / "tmp"))
    storage = open_storage("fs", str(tables / "data" / "more"), None)
    with fetched(["../a.parquet", "../../data/b.parquet", "c.parquet"], storage) as copies:
        assert all(Path(copy).is_file() for copy in copies)
    assert list((tables / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("provider", "prefix", "said"), [("gcs", "gcs://bucket", "s3, fs"), ("s3", "", "--default-storage-prefix")]
)
def test_a_storage_that_inputs_cannot_be_looked_at_in_is_refused(provider, prefix, said):
    with pytest.raises(UserError, match=said):
        open_storage(provider, prefix, None)


def test_what_is_placed_below_a_root_has_its_name_back():
    assert placed("data/a", None) == "data/a" and placed("data/a", "copies/of") == "copies/of/data/a"
    assert named("copies/of/data/a", "copies/of") == "data/a" and named("/data/a", "copies/of") == "/data/a"
    assert placed("/data/a", "copies/of") == "/data/a"
