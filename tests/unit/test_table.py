"""Parquet files become one table of numbers, or one line that says which file and column is wrong."""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.found import find_files
from conftest import write_table
from descriptors import table
from descriptors.table import Table, file_key, files_digest, open_table

NAN, INF = np.nan, np.inf


def opened(
    *paths: Path, n_metadata: int = 1, metadata: list[str] | None = None, exclude: tuple[str, ...] = ()
) -> Table:
    return open_table([str(path) for path in paths], n_metadata, metadata, list(exclude))


def refusal(*paths: Path, **arguments) -> str:
    """The one line that refuses the files."""
    with pytest.raises(UserError) as caught:
        opened(*paths, **arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- values


def test_null_nan_and_both_infinities_are_the_same_missing(tmp_path):
    columns = {
        "null": pa.array([1.0, None, 3.0]),
        "nan": pa.array([1.0, NAN, 3.0]),
        "inf": pa.array([1.0, INF, 3.0]),
        "minus_inf": pa.array([1.0, -INF, 3.0]),
        "null32": pa.array([1.0, None, 3.0], pa.float32()),
        "inf32": pa.array([1.0, INF, 3.0], pa.float32()),
        "null_int": pa.array([1, None, 3], pa.int16()),
    }
    read = opened(write_table(tmp_path / "t.parquet", columns)).columns(list(columns), 10)
    for row in read:
        assert row.tobytes() == np.array([1.0, NAN, 3.0]).tobytes()


def test_every_kind_of_number_keeps_its_value(tmp_path):
    columns = {
        "int8": pa.array([-128, 127], pa.int8()),
        "uint64": pa.array([0, 2**64 - 1], pa.uint64()),
        "int64": pa.array([-(2**53), 2**53], pa.int64()),
        "bool": pa.array([True, False]),
        "float16": pa.array(np.array([0.5, 65504.0], np.float16)),
        "float32": pa.array(np.array([0.1, 3e38], np.float32)),
        "float64": pa.array([0.1, 1e308]),
        "decimal": pa.array([Decimal("1.25"), Decimal("-3.50")]),
        "decimal256": pa.array([Decimal("1.25"), Decimal("-3.50")], pa.decimal256(60, 2)),
        "nothing": pa.nulls(2),
    }
    opened_table = opened(write_table(tmp_path / "t.parquet", columns))
    assert opened_table.descriptors == tuple(columns)
    expected = [
        [-128, 127],
        [0, 2.0**64],
        [-(2.0**53), 2.0**53],
        [1, 0],
        [0.5, 65504],
        [float(np.float32(0.1)), float(np.float32(3e38))],
        [0.1, 1e308],
        [1.25, -3.5],
        [1.25, -3.5],
        [NAN, NAN],
    ]
    assert np.array_equal(opened_table.columns(list(columns), 10), expected, equal_nan=True)


@settings(max_examples=40)
@given(st.integers(1, 40), st.lists(st.integers(0, 15), min_size=1, max_size=4), st.integers(1, 50))
def test_neither_batches_nor_the_split_into_files_change_a_bit(tmp_path_factory, batch_rows, sizes, row_group):
    folder = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(sum(sizes))
    frame = pd.DataFrame({"m": "x", "a": rng.normal(size=sum(sizes)), "b": rng.integers(0, 3, sum(sizes))})
    frame["a"] = frame["a"].mask(rng.random(len(frame)) < 0.2)
    paths = []
    for number, stop in enumerate(np.cumsum(sizes)):
        paths.append(folder / f"{number}.parquet")
        frame.iloc[stop - sizes[number] : stop].to_parquet(paths[-1], row_group_size=row_group)
    parts = opened(*paths)
    assert parts.rows == len(frame)
    expected = frame[["b", "a"]].to_numpy(np.float64).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "BATCH_CELLS", 1)  # or a batch is the whole file
        assert np.array_equal(parts.columns(["b", "a"], batch_rows), expected, equal_nan=True)
    blocks = [block for block in parts.blocks(["b", "a"], batch_rows, 10**9) if block.size]
    assert all(block.shape[1] <= batch_rows for block in blocks)
    together = np.concatenate(blocks, axis=1) if blocks else np.empty((2, 0))
    assert np.array_equal(together, expected, equal_nan=True)


def test_blocks_are_an_eighth_of_the_memory_asked_for_and_miss_what_columns_miss(tmp_path):
    parts = opened(write_table(tmp_path / "t.parquet", {"a": [1.0, INF, None] * 100, "b": np.arange(300.0)}))
    blocks = list(parts.blocks(["a", "b"], 10_000, 8 * 8 * 2 * 50))
    assert max(block.nbytes for block in blocks) == 8 * 2 * 50
    assert np.array_equal(np.concatenate(blocks, axis=1), parts.columns(["a", "b"], 7), equal_nan=True)


@pytest.mark.parametrize("batch_rows", [1, 3, 64, 1000])
def test_every_kind_of_column_is_joined_from_batches_with_and_without_nulls(tmp_path, monkeypatch, batch_rows):
    # Arrow hands out a column of integers as integers or as floats, batch by batch, depending on its nulls
    monkeypatch.setattr(table, "BATCH_CELLS", 1)
    rows = np.arange(300)
    numbers = (rows * 37) % 101 - 50
    absent = (rows > 200) & (rows % 3 == 0)  # the first batches have none
    kinds = {
        "int8": pa.int8(),
        "int64": pa.int64(),
        "uint16": pa.uint16(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "decimal": pa.decimal128(12, 3),
        "null": pa.null(),
    }
    expected = {}
    for name in kinds:
        values = numbers % 2 if name == "bool" else np.abs(numbers) if name == "uint16" else numbers
        values = values / 4 if name.startswith("float") else values
        expected[name] = np.full(300, NAN) if name == "null" else np.where(absent, NAN, values)
    made = {
        name: pa.array(
            [None if np.isnan(value) else Decimal(int(value)) if name == "decimal" else value for value in column],
            kinds[name],
            from_pandas=True,
        )
        if name in ("decimal", "null", "float32", "float64")
        else pa.array([None if np.isnan(value) else int(value) for value in column]).cast(kinds[name])
        for name, column in expected.items()
    }
    for number, (start, stop) in enumerate([(0, 120), (120, 121), (121, 300)]):
        part = {name: column.slice(start, stop - start) for name, column in made.items()}
        write_table(tmp_path / f"{number}.parquet", part)
    read = opened(*sorted(tmp_path.iterdir())).columns(list(kinds), batch_rows)
    for name, row in zip(kinds, read, strict=True):
        assert np.array_equal(row, expected[name], equal_nan=True), name


def test_values_of_float32_are_widened_and_never_rounded(tmp_path):
    values = np.random.default_rng(0).lognormal(sigma=15, size=500).astype(np.float32)
    values[::7] = NAN
    read = opened(write_table(tmp_path / "t.parquet", {"a": values})).columns(["a"], 10)[0]
    finite = np.isfinite(values)
    assert np.array_equal(read[finite], values[finite].astype(np.float64)) and np.isnan(read[~finite]).all()


def test_columns_in_another_order_in_a_second_file_are_taken_by_name(tmp_path):
    one = write_table(tmp_path / "1.parquet", {"a": [1.0, 2.0], "b": [10.0, 20.0]})
    two = write_table(tmp_path / "2.parquet", {"b": [30.0], "a": [3.0]})
    parts = opened(one, two)
    assert parts.columns(["a", "b"], 100).tolist() == [[1, 2, 3], [10, 20, 30]]


def test_names_with_dots_and_other_marks_are_plain_names(tmp_path):
    columns = {"a": [1.0], "a.b": [2.0], "a.b.c": [3.0], "ü%s {x}": [4.0], " a": [5.0]}
    parts = opened(write_table(tmp_path / "t.parquet", columns))
    for name, values in columns.items():
        assert parts.columns([name], 10).tolist() == [values]
    # a name may be the beginning of a nested one, which is read along
    backwards = list(columns)[::-1]
    assert parts.columns(backwards, 10).tolist() == [columns[name] for name in backwards]


def test_a_column_that_is_all_null_in_one_file_takes_the_type_of_the_others(tmp_path):
    one = write_table(tmp_path / "1.parquet", {"a": pa.nulls(2)})
    two = write_table(tmp_path / "2.parquet", {"a": [3, 4]})
    for paths, expected in (((one, two), [NAN, NAN, 3, 4]), ((two, one), [3, 4, NAN, NAN])):
        parts = opened(*paths)
        assert np.array_equal(parts.columns(["a"], 10)[0], expected, equal_nan=True)
        assert parts.schema.field("a").type == pa.int64()


def test_text_of_either_width_is_the_same_metadata(tmp_path):
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.string())):
        pq.write_table(pa.table({"m": pa.array(["x"], kind), "a": [1.0]}), tmp_path / f"{number}.parquet")
    parts = opened(*sorted(tmp_path.iterdir()))
    assert parts.rows == 3
    assert parts.schema.field("m").type == pa.large_string()


# ---- which columns


def test_metadata_by_name_wins_over_their_number(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0], "b": [2.0], "c": [3.0]})
    assert opened(path, n_metadata=2).descriptors == ("b", "c")
    assert opened(path, n_metadata=2).metadata == ("m0", "a")
    assert opened(path, n_metadata=3, metadata=["m0", "c"]).descriptors == ("a", "b")
    assert opened(path, n_metadata=3, metadata=["m0", "c"], exclude=("a",)).descriptors == ("b",)


def test_row_labels_that_pandas_wrote_are_excluded(tmp_path):
    frame = pd.DataFrame({"m": ["x", "y"], "a": [1.0, 2.0]}, index=[5, 3])
    frame.to_parquet(tmp_path / "t.parquet", index=True)
    assert "__index_level_0__" in pq.read_schema(tmp_path / "t.parquet").names
    parts = opened(tmp_path / "t.parquet")
    assert parts.descriptors == ("a",) and parts.excluded == ("__index_level_0__",)


def test_metadata_and_excluded_columns_may_be_text_but_no_descriptor_may(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0], "name": ["x"]})
    assert "column name is string, not a number" in refusal(path)
    assert opened(path, metadata=["m0", "name"]).descriptors == ("a",)
    assert opened(path, exclude=("name",)).descriptors == ("a",)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"x"]),
        pa.array([[1.0]]),
        pa.array([{"x": 1.0}]),
        pa.array(["x"]).dictionary_encode(),
        pa.array([0], pa.timestamp("s")),
        pa.array([0], pa.date32()),
    ],
    ids=lambda values: str(values.type),
)
def test_a_descriptor_that_is_no_number_is_refused_by_name_and_type(tmp_path, values):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0], "odd": values})
    message = refusal(path)
    assert str(path) in message and "column odd is" in message and "exclude_columns" in message


# ---- refusals


def test_no_file_is_an_error_that_shows_the_pattern(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match=r"parquet_glob = .*\*\.parquet' matches no file"):
        find_files(f"{tmp_path}/*.parquet")


def test_files_are_found_in_sorted_order_below_folders_too(tmp_path):
    for name in ("b/2.parquet", "a/1.parquet", "a/10.parquet", "0.parquet"):
        write_table(tmp_path / name, {"x": [1.0]})
    found = [os.path.relpath(path, tmp_path) for path in find_files(f"{tmp_path}/**/*.parquet")]
    assert found == ["0.parquet", "a/1.parquet", "a/10.parquet", "b/2.parquet"]


def damaged(kind: str, path: Path) -> Path:
    content = write_table(path, {"a": np.arange(1000.0)}).read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"a,b\n1,2\n" * 100,
            "truncated": content[: len(content) // 2],
            "footer only": content[-100:],
            "damaged footer": content[:-60] + b"\xff" * 30 + content[-30:],
        }[kind]
    )
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "footer only", "damaged footer"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, kind):
    good = write_table(tmp_path / "1.parquet", {"a": [1.0]})
    bad = damaged(kind, tmp_path / "2.parquet")
    message = refusal(good, bad)
    assert message.startswith(f"{bad}: not a readable Parquet file (") and "parquet_glob" in message


def test_a_file_whose_pages_are_damaged_is_named_when_they_are_read(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"a": np.random.default_rng(0).random(5000)}, metadata=0)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 20_000 + content[20_004:])
    parts = opened(path, n_metadata=0)
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet file") as caught:
        parts.columns(["a"], 100)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_vanishes_before_it_is_read_is_named(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0]})
    parts = opened(path)
    path.unlink()
    with pytest.raises(UserError, match=r"t\.parquet"):
        parts.columns(["a"], 100)


@pytest.mark.parametrize("first_has_more", [True, False])
def test_differing_columns_are_refused_with_both_files(tmp_path, first_has_more):
    wide, narrow = {"a": [1.0], "b": [1.0], "c": [1.0]}, {"a": [1.0]}
    one = write_table(tmp_path / "1.parquet", wide if first_has_more else narrow)
    two = write_table(tmp_path / "2.parquet", narrow if first_has_more else wide)
    more, fewer = (one, two) if first_has_more else (two, one)
    assert refusal(one, two).startswith(f"{more}: column b (and 1 more) is missing in {fewer}")


def test_differing_types_are_refused_with_both_files_unless_the_column_is_excluded(tmp_path):
    one = write_table(tmp_path / "1.parquet", {"a": [1.0], "b": [1.0]})
    two = write_table(tmp_path / "2.parquet", {"a": [1.0], "b": ["x"]})
    assert refusal(one, two).startswith(f"{two}: column b is string, but double in {one}; convert it")
    assert opened(one, two, exclude=("b",)).descriptors == ("a",)


def test_types_of_files_behind_a_file_of_nulls_are_compared_too(tmp_path):
    # compared with the first file only, text behind nulls got through, and ended in a traceback
    nulls = write_table(tmp_path / "0.parquet", {"a": pa.nulls(1)})
    number = write_table(tmp_path / "1.parquet", {"a": [1.0]})
    text = write_table(tmp_path / "2.parquet", {"a": ["x"]})
    assert refusal(nulls, number, text).startswith(f"{text}: column a is string, but double in {number}")
    assert refusal(nulls, text).startswith(f"{text}: column a is string, not a number")


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 3, names=["m", "a", "a"]), path)
    assert refusal(path).startswith(f"{path}: two columns are called 'a'")
    other = write_table(tmp_path / "0.parquet", {"a": [1.0]})
    assert refusal(other, path).startswith(f"{path}: two columns are called 'a'")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\r", "\x00", ""])
def test_a_name_that_would_break_a_list_of_names_is_refused(tmp_path, name):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0], name: [1.0]})
    assert refusal(path).startswith(f"{path}: column name {name!r} is empty or has a control character")


@pytest.mark.parametrize("key", ["metadata_columns", "exclude_columns"])
def test_a_setting_that_names_no_column_is_refused_with_the_setting(tmp_path, key):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0]})
    message = refusal(path, **{"metadata": ["m0", "Target"]} if key == "metadata_columns" else {"exclude": ("Target",)})
    assert message.startswith(f"config: descriptors.{key} names 'Target'") and str(path) in message


@pytest.mark.parametrize("n_metadata", [2, 3, 100])
def test_a_table_of_nothing_but_metadata_is_refused(tmp_path, n_metadata):
    path = write_table(tmp_path / "t.parquet", {"a": [1.0]})
    message = refusal(path, n_metadata=n_metadata)
    assert "no descriptor column is left of 2 columns after 2 metadata" in message and "n_metadata" in message


# ---- identity of the files


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/data/x/*.parquet", "/data/x/p0.parquet", "p0.parquet"),
        ("/data/*/p*.parquet", "/data/x/p0.parquet", "x/p0.parquet"),
        ("/data/**/*.parquet", "/data/x/y/p0.parquet", "x/y/p0.parquet"),
        ("/data/x/p0.parquet", "/data/x/p0.parquet", "p0.parquet"),
        ("data/*.parquet", "data/p0.parquet", "p0.parquet"),
        ("*.parquet", "p0.parquet", "p0.parquet"),
        ("/data/[ab]/p.parquet", "/data/a/p.parquet", "a/p.parquet"),
    ],
)
def test_the_key_of_a_file_is_its_path_below_the_fixed_part_of_the_pattern(pattern, path, expected):
    assert file_key(path, pattern) == expected


def test_keys_and_digest_are_those_of_a_copy_elsewhere(tmp_path, monkeypatch):
    for folder in ("here", "else/where"):
        write_table(tmp_path / folder / "x" / "p.parquet", {"a": [1.0, 2.0]})
    absolute = files_digest(f"{tmp_path}/here/*/*.parquet")
    assert files_digest(f"{tmp_path}/else/where/*/*.parquet") == absolute
    monkeypatch.chdir(tmp_path / "here")
    assert files_digest("*/*.parquet") == absolute


def swap(path: Path, values: np.ndarray, i: int, j: int) -> None:
    values = values.copy()
    values[[i, j]] = values[[j, i]]
    write_table(path, {"a": values})


def test_the_digest_follows_content_and_names_and_no_touch(tmp_path):
    pattern = f"{tmp_path}/*.parquet"
    values = np.random.default_rng(0).random(40_000)
    path = write_table(tmp_path / "p.parquet", {"a": values})
    original, size = files_digest(pattern), path.stat().st_size
    os.utime(path, (1, 1))
    assert files_digest(pattern) == original
    # far from the footer, with the same size, minimum and maximum: a digest of the last 64 KiB did not see it
    swap(path, values, 10, 20)
    assert path.stat().st_size == size
    assert files_digest(pattern) != original
    write_table(path, {"a": values})
    assert files_digest(pattern) == original
    path.rename(tmp_path / "q.parquet")
    assert files_digest(pattern) != original
    (tmp_path / "q.parquet").rename(path)
    write_table(tmp_path / "r.parquet", {"a": values})
    assert files_digest(pattern) != original


def test_the_digest_of_large_files_reads_their_footers_only(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "WHOLE_BYTES", 1000)
    values = np.random.default_rng(0).random(40_000)
    path = write_table(tmp_path / "p.parquet", {"a": values})
    original = files_digest(str(path))
    swap(path, values, 10, 20)
    assert files_digest(str(path)) == original
    write_table(path, {"a": values + 1})  # other minimum and maximum
    assert files_digest(str(path)) != original
    write_table(path, {"a": values[:-1]})
    assert files_digest(str(path)) != original


def test_named_and_unnamed_row_labels_of_pandas_are_no_descriptors(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0]}, index=pd.Index([7, 8, 9], name="cid"))
    frame.to_parquet(tmp_path / "named.parquet")
    table = opened(tmp_path / "named.parquet", n_metadata=0)
    assert table.descriptors == ("a",) and table.excluded == ("cid",)
    frame.set_axis([7, 8, 9]).to_parquet(tmp_path / "unnamed.parquet")
    assert opened(tmp_path / "unnamed.parquet", n_metadata=0).descriptors == ("a",)
