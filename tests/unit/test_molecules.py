"""The way in: molecules are read in order, and one that hangs, dies or is none costs its own row and no other."""

import gzip
import importlib
import json
import os
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.config import load
from common.errors import UserError
from common.found import find_files
from conftest import ROOT
from descriptors import targets
from molecules import calculation, reading

INSTALL = "is not installed; pip install -r envs/molecules.txt"
SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "CCN", "C1CCCCC1", "OCC(O)CO", "CC(C)C"]


def read(paths: list[str], smiles: str = "smiles", name: str | None = "id") -> list[tuple]:
    return [tuple(row.values()) for table in reading.molecules(paths, smiles, name) for row in table.to_pylist()]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "CSV", "PARQUET"])
def test_ids_and_smiles_are_read_as_text_whatever_the_file(tmp_path, kind):
    path = str(tmp_path / f"m.{kind}")
    frame = pd.DataFrame({"other": [1, 2, 3], "id": ["007", "a, b", None], "smiles": ["CCO", None, "C"]})
    if kind.lower() == "parquet":
        frame.to_parquet(path)
    else:
        text = frame.to_csv(index=False, sep="\t" if kind == "tsv" else ",").encode()
        (tmp_path / f"m.{kind}").write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    assert read([path]) == [(0, "007", "CCO"), (1, "a, b", None), (2, None, "C")]
    assert read([path, path], name=None)[3:] == [(3, "3", "CCO"), (4, "4", None), (5, "5", "C")]
    assert reading.count([path, path], "smiles", None) == 6


def test_files_without_a_header_line_are_read_by_the_names_given(tmp_path):
    path = tmp_path / "CID-SMILES.gz"
    path.write_bytes(gzip.compress(b"1\tCC(=O)OC(CC(=O)[O-])C[N+](C)(C)C\n2\tCCO\n"))
    tables = list(reading.molecules([str(path)], "smiles", "cid", ["cid", "smiles"]))
    assert [tuple(row.values()) for row in tables[0].to_pylist()] == [
        (0, "1", "CC(=O)OC(CC(=O)[O-])C[N+](C)(C)C"),
        (1, "2", "CCO"),
    ]
    assert reading.count([str(path)], "smiles", None, ["cid", "smiles"]) == 2
    with pytest.raises(UserError, match=r"has no column 'smiles'; set smiles_column and id_column to some of a, b"):
        list(reading.batches(str(path), "smiles", None, ["a", "b"]))


def test_a_column_that_is_not_there_is_named_with_those_that_are(write, tmp_path):
    path = write("m.csv", "name,structure\na,CCO\n")
    with pytest.raises(
        UserError, match=r"m\.csv: has no column 'smiles'; set smiles_column and id_column to some of name"
    ):
        read([path], name=None)
    with pytest.raises(UserError, match=r"m\.csv: cannot be read .*; it should be CSV, TSV or Parquet$"):
        read([write("m.csv", "smiles,id\nCCO,1,2\n")])
    (tmp_path / "latin.csv").write_bytes("id,smiles,Stoff größe\n1,CCO,2\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: cannot be read \(.*utf-8.*\); it should be CSV"):
        read([str(tmp_path / "latin.csv")])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_two_columns_of_one_name_none_is_chosen(tmp_path, kind):
    path = tmp_path / f"m.{kind}"
    if kind == "csv":
        path.write_text("smiles,id,smiles\nCC,1,CO\n")
    else:
        pq.write_table(pa.table([["CC"], ["1"], ["CO"]], names=["smiles", "id", "smiles"]), path)
    with pytest.raises(UserError, match=rf"m\.{kind}: two columns are called 'smiles'; rename one"):
        read([str(path)])


def test_a_lack_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pa.csv, "open_csv", refused)
    monkeypatch.setattr(pa.csv, "read_csv", refused)
    path = tmp_path / "m.csv"
    path.write_text("smiles,y\nCC,1\n")
    for read in (
        lambda: reading.count([str(path)], "smiles", None),
        lambda: targets.read_file(str(path), "smiles", "y"),
    ):
        with pytest.raises(MemoryError, match=r"m\.csv: malloc of size 64 failed"):
            read()


def run(monkeypatch, door: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [door, *arguments])
    importlib.import_module(door).main()


@pytest.mark.parametrize("shards", [1, 3, 9])
def test_the_shards_together_are_the_molecules_in_order(monkeypatch, tmp_path, shards):
    for number in range(2):
        pq.write_table(pa.table({"smiles": SMILES[:4]}), tmp_path / f"{number}.parquet")
    monkeypatch.setattr(reading, "BATCH_ROWS", 3)
    out = [str(tmp_path / "out" / f"{number}.parquet") for number in range(shards)]
    run(monkeypatch, "read_molecules", "--molecules_glob", f"{tmp_path}/*.parquet", "--out-shards", *out)
    tables = [pq.read_table(path) for path in out]
    assert pa.concat_tables(tables).column("smiles").to_pylist() == 2 * SMILES[:4]
    assert pa.concat_tables(tables).column("row number").to_pylist() == list(range(8))
    assert max(map(len, tables)) - min(map(len, tables)) <= 1


# ---- what may go wrong in a worker; at the top of the module, where a worker finds it


def prepare(folder: str) -> None:
    os.environ["STARTS"] = folder
    with open(os.path.join(folder, str(os.getpid())), "w"):
        pass


def odd(item: str) -> list[str]:
    if item == "hang":
        time.sleep(600)
    if item == "die":
        os._exit(3)
    return [item, str(os.getpid())]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_or_dies_is_replaced_and_costs_one_item(tmp_path, workers):
    pytest.importorskip("pebble", reason=f"pebble {INSTALL}")
    from molecules import processes

    items = ["a", "hang", "b", "die", "c", "hang", "d"]
    found = list(processes.results(odd, items, 2.0, workers, prepare, str(tmp_path)))
    assert [each if isinstance(each, str) else each[0] for each in found] == [
        "a", "took more than 2 s", "b", "its process died (exit code 3)", "c", "took more than 2 s", "d",
    ]  # fmt: skip
    assert len(list(tmp_path.iterdir())) >= workers + 2
    # nobody is left behind
    for pid in map(int, (path.name for path in tmp_path.iterdir())):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_more_items_are_taken_than_can_wait(monkeypatch, tmp_path):
    pytest.importorskip("pebble", reason=f"pebble {INSTALL}")
    from molecules import processes

    monkeypatch.setattr(processes, "AHEAD", 3)
    taken = []
    found = processes.results(odd, (taken.append(k) or str(k) for k in range(50)), 60, 1, prepare, str(tmp_path))
    assert next(found)[0] == "0" and len(taken) == 3
    assert [each[0] for each in found] == [str(k) for k in range(1, 50)]


@pytest.fixture
def shard(monkeypatch, tmp_path):
    """shard(smiles, **settings): the table and the failures of one shard, by the command line."""
    pytest.importorskip("rdkit", reason=f"rdkit {INSTALL}")
    pytest.importorskip("pebble", reason=f"pebble {INSTALL}")

    def work(smiles: list[str | None], *flags: str, **settings) -> tuple[pa.Table, list[list[str]]]:
        table = pa.table(
            [range(10, 10 + len(smiles)), [f"m{k}" for k in range(len(smiles))], smiles], reading.schema("smiles", "id")
        )
        pq.write_table(table, tmp_path / "in.parquet")
        out = {name: str(tmp_path / f"out.{name}") for name in ("table", "failures")}
        given = ["--molecules", str(tmp_path / "in.parquet"), "--settings", json.dumps(settings), *flags]
        given += [text for name, path in out.items() for text in (f"--out-{name}", path)]
        run(monkeypatch, "molecules_shard", *given)
        lines = [line.split("\t") for line in (tmp_path / "out.failures").read_text().splitlines()]
        return pq.read_table(out["table"]), lines

    return work


def test_descriptors_are_those_of_rdkit_and_failures_are_null_rows_with_a_reason(shard):
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    bad = {"C1CC": "not a SMILES", "C(C)(C)(C)(C)C": "valence", "": "no SMILES", "c1cccc1": "kekulize"}
    bad["[#999]"] = "atomic number not found"  # an exception of RDKit
    given = [SMILES[0], *bad, None, *SMILES[1:]]
    table, failures = shard(given, "--threads", "2")
    assert table.column("smiles").to_pylist() == given
    frame = table.to_pandas().drop(columns=["id", "smiles"])
    for text, (_, row) in zip(given, frame.iterrows(), strict=True):
        if text in SMILES:
            expected = Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(text))
            assert list(expected) == list(frame.columns)
            np.testing.assert_array_equal(row.to_numpy(), np.array(list(expected.values()), float))
    assert frame.isna().all(axis=1).tolist() == [text not in SMILES for text in given]
    assert failures[0] == ["row", "id", "smiles", "reason"]
    assert [line[0] for line in failures[1:]] == ["11", "12", "13", "14", "15", "16"]
    assert [line[1:3] for line in failures[1:]] == [[f"m{k}", given[k] or ""] for k in range(1, 7)]
    assert all(word.lower() in line[3].lower() for word, line in zip(bad.values(), failures[1:6], strict=True))


def test_a_molecule_that_takes_too_long_has_no_descriptors_and_the_next_ones_have(shard):
    # a chain of 60,000 atoms takes minutes, a small molecule milliseconds
    table, failures = shard(["CCO", "C" * 60_000, "CCN"], timeout_seconds=3)
    assert [line[3] for line in failures[1:]] == ["took more than 3 s"]
    assert table.column("MolWt").is_null().to_pylist() == [False, True, False]


@pytest.mark.parametrize("damage", ["cut", "page"])
def test_a_damaged_shard_is_named_with_the_remedy(shard, monkeypatch, tmp_path, capsys, damage):
    shard(["C"])
    whole = (tmp_path / "in.parquet").read_bytes()
    broken = whole[:-20] if damage == "cut" else whole[:10] + b"\xff" * 30 + whole[40:]
    (tmp_path / "in.parquet").write_bytes(broken)
    given = ["--molecules", str(tmp_path / "in.parquet"), "--out-table", str(tmp_path / "x"), "--out-failures", "y"]
    with pytest.raises(SystemExit):
        run(monkeypatch, "molecules_shard", *given)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"molecules_shard: {tmp_path}/in.parquet: cannot be read (") and "delete it and run" in said


def test_two_sets_have_names_of_their_own(shard):
    pytest.importorskip("mordred", reason=f"mordredcommunity {INSTALL}")
    names = calculation.names_of(["rdkit", "mordred"])
    assert len(set(names)) == len(names) and {"BertzCT", "BertzCT_mordred"} <= set(names)
    table, failures = shard(["CC(=O)O", "C"], descriptor_sets=["rdkit", "mordred"])
    assert table.schema.names == ["id", "smiles", *names] and len(failures) == 1
    assert table.column("nAtom").to_pylist() == [8, 5]


@pytest.mark.parametrize("name", ["rdkit", "pebble", "mordred"])
def test_a_package_that_is_missing_is_one_line(monkeypatch, name):
    for other in {"rdkit", "pebble", "mordred"} - {name}:
        monkeypatch.setitem(sys.modules, other, type(sys)(other))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"^molecules: {name} is missing \(.*\); pip install -r envs/molecules.txt$"):
        calculation.check_installed(["rdkit", "mordred"])


# ---- the selection from what was made


def test_a_selection_without_files_takes_the_molecules():
    loaded = load({"results": "r", "molecules": {"molecules_glob": "m.csv", "molecule_shards": 4}, "descriptors": {}})
    assert loaded["descriptors"]["parquet_glob"] == "r/molecules/descriptors_*_of_4.parquet"
    assert loaded["descriptors"]["metadata_columns"] == ["id", "smiles"]
    assert load(loaded) == loaded


def test_a_results_folder_with_a_pattern_in_its_name_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "run [1]*" / "molecules" / "descriptors_1_of_1.parquet"
    made.parent.mkdir(parents=True)
    made.touch()
    loaded = load({"results": "run [1]*", "molecules": {"molecules_glob": "m.csv"}, "descriptors": {}})
    assert find_files(loaded["descriptors"]["parquet_glob"]) == [str(made.relative_to(tmp_path))]


@pytest.mark.parametrize("own", [{"parquet_glob": "x.parquet"}, {"parquet_glob": "x.parquet", "n_metadata": 3}])
def test_a_selection_of_other_files_stays_as_it_is(own):
    loaded = load({"molecules": {"molecules_glob": "m.csv"}, "descriptors": own})["descriptors"]
    assert (loaded["parquet_glob"], loaded["metadata_columns"]) == ("x.parquet", None)


def test_the_molecules_alone_are_something_to_do():
    assert load({"molecules": {"molecules_glob": "m.csv"}})["descriptors"] is None
    assert (ROOT / "envs" / "molecules.txt").exists()
