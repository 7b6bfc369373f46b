"""The reduced table is the input with fewer columns: same rows, same order, same types, little memory."""

import datetime
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import selected
from conftest import ROOT, write_table
from descriptors import rows
from descriptors.table import open_table
from passes import table


@pytest.fixture
def reduce(monkeypatch, tmp_path):
    """reduce(selection, *flags): the reduced table of a finished selection."""

    def run(selection, *flags: str) -> pa.Table:
        out = tmp_path / "selected.parquet"
        given = ["--manifest", str(selection.folder / "pass0_sampling.json")]
        given += ["--columns", str(selection.folder / "final_descriptors.txt"), "--out-table", str(out), *flags]
        monkeypatch.setattr(sys, "argv", ["selected", *given])
        selected.main()
        return pq.read_table(out)

    return run


def odd_types(n_rows: int, start: int) -> dict[str, pa.Array]:
    """Columns of every type that a descriptor or metadata may have."""
    numbers = range(start, start + n_rows)
    return {
        "when": pa.array([datetime.date(2020, 1, 1)] * n_rows),
        "kind": pa.array(["a", "b"] * (n_rows // 2)).dictionary_encode(),
        "small": pa.array([number % 7 if number % 5 else None for number in numbers], pa.int8()),
        "half": pa.array(np.random.default_rng(start).normal(size=n_rows), pa.float32()),
        "money": pa.array([Decimal(number * 37 % 101) for number in numbers], pa.decimal128(9, 2)),
        "flag": pa.array([number % 3 == 0 for number in numbers]),
    }


def test_rows_order_and_types_are_those_of_the_input(select, reduce, tmp_path):
    parts = []
    for k in range(2):
        columns = {"id": [f"{k}-{row}" for row in range(300)]} | odd_types(300, 300 * k)
        parts.append(pa.table(columns))
        pq.write_table(parts[-1], tmp_path / f"part{k}.parquet", row_group_size=70)
    selection = select(tmp_path / "part*.parquet", metadata_columns=["id", "when", "kind"])
    whole = pa.concat_tables(parts)
    names = [name for name in whole.schema.names if name in {"id", "when", "kind", *selection.final}]
    assert set(selection.final) >= {"half"} and len(names) > 4
    reduced = reduce(selection)
    assert reduced.schema.equals(whole.select(names).schema)
    assert reduced.to_pylist() == whole.select(names).to_pylist()


def test_all_rows_of_the_input_come_out_of_a_selection_by_a_sample(select, reduce, tmp_path):
    path = write_table(tmp_path / "in" / "t.parquet", table())
    selection = select(path, sample_rows=200)
    assert selection.json("pass0_sampling.json")["n_rows_kept"] == 200
    assert reduce(selection).equals(pq.read_table(path).select(["m0", *in_file_order(path, selection.final)]))


def in_file_order(path, names: list[str]) -> list[str]:
    return [name for name in pq.read_schema(path).names if name in names]


def test_the_bytes_do_not_depend_on_the_batches(select, reduce, tmp_path):
    selection = select(write_table(tmp_path / "in" / "t.parquet", table()), last="pass4")
    written = []
    for batch_rows in ("7", "10000"):
        reduce(selection, "--batch_rows", batch_rows)
        written.append((tmp_path / "selected.parquet").read_bytes())
    assert written[0] == written[1]


def test_other_files_than_those_of_pass_0_are_refused(select, reduce, tmp_path, capsys):
    path = write_table(tmp_path / "in" / "t.parquet", table())
    selection = select(path)
    write_table(path, table(n_rows=399))
    with pytest.raises(SystemExit):
        reduce(selection)
    assert "says 400 rows, but the files have 399 now" in capsys.readouterr().err
    assert not (tmp_path / "selected.parquet").exists()


def test_a_column_of_another_table_is_named(select, reduce, tmp_path, capsys):
    selection = select(write_table(tmp_path / "in" / "t.parquet", table()))
    (selection.folder / "final_descriptors.txt").write_text("c0\nnobody\n")
    with pytest.raises(SystemExit):
        reduce(selection)
    assert "nobody is no descriptor of" in capsys.readouterr().err


def test_a_table_of_one_large_row_group_is_never_in_memory_as_a_whole(tmp_path):
    # 96 MB of numbers in a single row group, half of them wanted; Arrow's own count, which nothing else disturbs
    rng = np.random.default_rng(0)
    columns = {f"c{k}": rng.normal(size=400_000) for k in range(30)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=400_000, use_dictionary=False)
    code = f"""
import pyarrow as pa
from pathlib import Path
from common import row_groups
from descriptors import rows
from descriptors.table import open_table
row_groups.GROUP_BYTES = 1 << 20
table = open_table([{str(tmp_path / "t.parquet")!r}], 0, None, [])
schema = pa.schema([table.schema.field(k) for k in range(0, 30, 2)])
assert row_groups.write(Path({str(tmp_path / "out.parquet")!r}), schema, rows.read(table, schema, 10_000)) == 400_000
print(pa.default_memory_pool().max_memory())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 24e6


def test_the_space_it_needs_is_that_of_the_columns_in_the_files(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"a": np.arange(9.0), "b": np.arange(9.0)}, metadata=0)
    opened = open_table([str(path)], 0, None, [])
    footer = pq.read_metadata(path).row_group(0)
    assert rows.bytes_of(opened, ["b"]) == footer.column(1).total_compressed_size
    assert rows.bytes_of(opened, ["a", "b"]) == sum(footer.column(k).total_compressed_size for k in (0, 1))
