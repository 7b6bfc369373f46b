"""The one read of pass 1 finds the same whatever part of the machine it may use."""

from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import files
from common.descriptors_settings import Pass1, Runtime
from common.errors import UserError
from descriptors import scan as module
from descriptors.codes import CodesWriter
from descriptors.sampling import key, mix
from descriptors.scan import Scanned, plan, read_groups, scan

N_ROWS = 300
NAMES = [f"c{number}" for number in range(17)]


class Columns:
    """A table in memory that notes which columns were read together."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rows = N_ROWS
        self.groups: list[list[str]] = []
        self.values = {name: rng.normal(size=N_ROWS).round(number % 4) for number, name in enumerate(NAMES)}
        self.values["c3"][:] = 2.5
        self.values["c5"][::3] = np.nan
        self.values["c9"][::3] = np.nan
        self.values["c11"][10:] = np.nan

    def columns(self, names: list[str], batch_rows: int) -> np.ndarray:
        self.groups.append(names)
        return np.array([self.values[name] for name in names])


def scanned(folder: Path, names: list[str] = NAMES, threads: int = 1) -> tuple[Scanned, bytes, Columns]:
    table, steps = Columns(), []
    writer = CodesWriter(folder / "codes.npy", folder / "fine.npy", N_ROWS)
    found = scan(table, names, Pass1(), Runtime(), writer, threads, lambda: steps.append(1))
    assert len(steps) == len(found.columns) == len(names)
    return found, (folder / "codes.npy").read_bytes() + (folder / "fine.npy").read_bytes(), table


def content(found: Scanned) -> list:
    arrays = [array.tobytes() for array in (found.levels, found.ecdf, found.content)]
    described = np.array([dataclasses.astuple(column) for column in found.columns], np.float64)
    return [described.tobytes(), found.reasons, found.patterns, *arrays]


@pytest.mark.parametrize(("threads", "bytes_a_row"), [(1, 42), (1, 60), (3, 200), (8, 5000)])
def test_threads_and_memory_change_nothing_but_the_groups_that_are_read(tmp_path, monkeypatch, threads, bytes_a_row):
    reference, codes, whole = scanned(tmp_path)
    monkeypatch.setattr(Runtime, "budget", N_ROWS * bytes_a_row)
    found, again, table = scanned(tmp_path, threads=threads)
    assert content(found) == content(reference) and again == codes
    assert [name for group in table.groups for name in group] == NAMES
    assert [name for group in whole.groups for name in group] == NAMES


def test_columns_scanned_apart_are_together_what_they_are_scanned_at_once(tmp_path):
    whole, _, _ = scanned(tmp_path)
    parts = [scanned(tmp_path, NAMES[part])[0] for part in (slice(0, 1), slice(1, 9), slice(9, 17))]
    assert content(Scanned.together(parts)) == content(whole)
    assert Scanned.together(parts).input_fingerprint == whole.input_fingerprint


def test_no_column_is_as_well_a_shard(tmp_path):
    # where there are more shards than columns
    found, _, _ = scanned(tmp_path, [])
    assert found.columns == found.reasons == found.patterns == []
    assert (len(found.levels), len(found.ecdf), found.content.any()) == (0, 0, False)
    whole = scanned(tmp_path)[0]
    assert content(Scanned.together([found, whole, found])) == content(whole)


def test_what_was_found_comes_back_from_its_file(tmp_path):
    found, _, _ = scanned(tmp_path)
    path = str(tmp_path / "piece.npz")
    found.write(path, "key", 1, 1)
    [again] = Scanned.read([path], "key")
    assert content(again) == content(found) and again.checksums == list(found.checksums)
    assert all(type(column.constant) is bool for column in again.columns)


@pytest.mark.parametrize("damage", ["absent", "truncated", "another file", "an array fewer", "no JSON", "other fields"])
def test_a_damaged_piece_is_refused_in_one_line_with_its_name(tmp_path, damage):
    path = tmp_path / "piece.npz"
    scanned(tmp_path)[0].write(str(path), "key", 1, 1)
    whole, arrays = path.read_bytes(), files.read_npz(path)
    if damage == "absent":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[:1000])
    elif damage == "another file":
        files.write_npz(path, other=np.arange(3))
    elif damage == "an array fewer":
        files.write_npz(path, **{name: array for name, array in arrays.items() if name != "ecdf"})
    else:
        other = {"key": "key", "told": [[{"mean": 1}], [[]], ["x"], [{}, {}]]}
        about = "{" if damage == "no JSON" else json.dumps(other)
        files.write_npz(path, **arrays | {"about": np.array(about)})
    with pytest.raises(UserError, match=r"; delete it and run the same command again$") as caught:
        list(Scanned.read([str(path)], "key"))
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1


def test_columns_have_the_same_pattern_where_they_miss_the_same_rows(tmp_path):
    patterns = dict(zip(NAMES, scanned(tmp_path)[0].patterns, strict=True))
    assert patterns["c5"] == patterns["c9"] != patterns["c0"] == patterns["c1"] != patterns["c11"]


def test_the_content_of_a_row_is_the_sum_over_its_columns_in_any_order(tmp_path):
    found, _, table = scanned(tmp_path)
    expected = np.zeros(N_ROWS, np.uint64)
    for name, values in table.values.items():
        bits = (np.where(np.isnan(values), np.nan, values) + 0.0).view(np.uint64)
        expected += mix(bits ^ key(name))
    assert np.array_equal(found.content, expected)
    assert np.array_equal(scanned(tmp_path, NAMES[::-1])[0].content, expected)


def test_the_commonest_reason_is_told(tmp_path):
    assert scanned(tmp_path, ["c3", "c11"])[0].commonest_reason().startswith("most often like this: ")


# ---- memory


@given(st.integers(1, 10**9), st.integers(1, 64), st.floats(0.4, 2000))
def test_what_is_planned_fits_the_memory(rows, threads, gigabytes):
    runtime = Runtime(max_host_memory_gb=gigabytes)
    try:
        used, width, ahead = plan(rows, runtime, threads)
    except UserError:
        assert rows * 42 > runtime.budget
        return
    assert 1 <= used <= threads and 1 <= width <= module.GROUP * used
    # values of the group at work and of the next one, what threads need, codes that wait
    values = (2 if ahead else 1) * width * module.BYTES_A_VALUE
    each_row = values + used * module.BYTES_A_VALUE_IN_WORK + width * module.BYTES_A_CODE + module.BYTES_A_ROW
    assert rows * each_row <= runtime.budget


@given(st.integers(1, 10**10))
def test_the_memory_that_is_asked_for_is_enough(rows):
    try:
        plan(rows, Runtime(max_host_memory_gb=0.4), 4)
    except UserError as error:
        enough = float(str(error).split(">= ")[1].split(" ")[0])
        assert plan(rows, Runtime(max_host_memory_gb=enough), 4)[1] >= 1
        assert str(error).startswith(f"{rows:,} rows need descriptors.max_host_memory_gb >= ")


@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_that_cannot_be_read_ends_the_scan(ahead):
    class Broken(Columns):
        def columns(self, names: list[str], batch_rows: int) -> np.ndarray:
            if "c4" in names:
                raise UserError("x.parquet: damaged")
            return super().columns(names, batch_rows)

    read = []
    with pytest.raises(UserError, match="damaged"):
        for group, values in read_groups(Broken(), NAMES, 2, 10, ahead):
            assert values.shape == (len(group), N_ROWS)
            read += group
    assert read == NAMES[:4]


def test_pieces_are_put_together_one_at_a_time(tmp_path):
    whole = Scanned([], [], [], np.empty(0, np.int64), np.empty(0, np.uint32), np.arange(5, dtype=np.uint64), ({}, {}))
    alive: list[weakref.ref] = []

    def pieces():
        for _ in range(4):
            # only the piece before may still be there, in the loop that asks for this one
            assert sum(each() is not None for each in alive) <= 1
            piece = dataclasses.replace(whole, content=whole.content.copy())
            alive.append(weakref.ref(piece.content))
            yield piece
            del piece

    assert np.array_equal(Scanned.together(pieces()).content, 4 * whole.content)
