"""Pass 0 and pass 1 as command lines: the numbers are right, and only the settings and the data decide them."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata

from common import files
from common.descriptors_settings import Runtime
from conftest import few_cells, write_table
from descriptors import products
from descriptors.sampling import keep_fraction, keep_smallest, row_hashes
from descriptors.table import Table
from passes import INPUTS as PASS_INPUTS
from passes import NAMES as PASS_FILES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
N_ROWS = 600
OUTPUTS = {
    "details": "pass1_variance_filtering.json",
    "columns": "pass1_columns.txt",
    "stats": "pass1_stats.npz",
    "codes": "pass1_codes.npy",
    "fine": "pass1_codes_fine.npy",
    "ecdf": "pass1_ecdf.npy",
    "rows": "pass1_rows.npy",
}
# what depends on the order of the rows only in the order of its rows
BY_ROW = {"codes", "rows"}  # and fine, which is empty in a table of so few rows


def descriptors() -> pd.DataFrame:
    """Descriptors that stay and that go for every reason; ties, missing values, both zeros, huge and tiny units."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=N_ROWS)
    absent = rng.random(N_ROWS) < 0.2
    frame = pd.DataFrame(
        {
            "normal": normal,
            "ties": np.round(normal),
            "signed_zeros": np.where(rng.random(N_ROWS) < 0.5, -0.0, np.where(normal > 0, 0.0, 1.0)),
            "constant": 7.0,
            "some_missing": np.where(absent, np.nan, normal**2),
            "same_missing": np.where(absent, np.inf, rng.integers(0, 5, N_ROWS)),
            "rare": (np.arange(N_ROWS) == 5).astype(float),
            "mostly_missing": np.where(rng.random(N_ROWS) < 0.6, np.nan, normal),
            "all_missing": np.nan,
            "huge": 1e84 * rng.lognormal(size=N_ROWS),
            "tiny": 1e-300 * rng.random(N_ROWS),
            "noise": 1e9 + rng.random(N_ROWS) * 1e-8,
            "few": np.where(np.arange(N_ROWS) % 8 == 0, normal, np.nan),
            "sorted": np.arange(N_ROWS, dtype=float),
        }
    )
    frame["flag"] = normal > 0
    frame["small"] = rng.integers(-3, 4, N_ROWS).astype(np.int8)
    return frame


STAY = ["normal", "ties", "signed_zeros", "some_missing", "same_missing", "huge", "tiny", "sorted", "flag", "small"]
# the arrays of pass1_stats.npz in the specification
PROMISED = set(
    "mean std variance min max range clip_lower clip_upper trimmed_range normalized_variance missing_ratio n_valid "  # noqa: SIM905
    "n_missing".split()
)


def write(folder: Path, frame: pd.DataFrame, *cuts: int) -> str:
    """The frame behind an id column, cut into files; returns their pattern."""
    folder.mkdir(parents=True)
    frame = pd.concat([pd.Series([f"m{row}" for row in frame.index], frame.index, name="id"), frame], axis=1)
    for number, (start, stop) in enumerate(zip((0, *cuts), (*cuts, len(frame)), strict=True)):
        frame.iloc[start:stop].to_parquet(folder / f"part-{number}.parquet", index=False)
    return f"{folder}/*.parquet"


def pass0_arguments(folder: Path, pattern: str) -> list[str]:
    return ["--parquet_glob", pattern, "--n_metadata", "1", "--out-manifest", f"{folder}/pass0_sampling.json"]


def pass1_arguments(folder: Path, manifest: Path | None = None) -> list[str]:
    outputs = [text for key, name in OUTPUTS.items() for text in (f"--out-{key}", f"{folder}/{name}")]
    return ["--manifest", f"{manifest or folder}/pass0_sampling.json", *outputs]


def door(stage: str, *arguments: object) -> subprocess.CompletedProcess:
    """A command line in a process of its own."""
    command = [sys.executable, SCRIPTS / f"{stage}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def succeed(stage: str, *arguments: object) -> str:
    run = door(stage, *arguments)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    return run.stderr


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same command line in this process, where no process is what is tested: log and exit code."""

    def inside(stage: str, *arguments: object) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [f"{stage}.py", *map(str, arguments)])
        code = 0
        try:
            importlib.import_module(stage).main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err, code

    return inside


def refused(run: tuple[str, int]) -> str:
    """The one line that ends a run, below its log."""
    log, code = run
    assert code == 2
    lines = log.splitlines(keepends=True)
    assert all(" | " in line for line in lines[:-1]) and "Traceback" not in log
    return lines[-1]


def results(folder: Path, *keys: str) -> dict[str, bytes]:
    return {key: (folder / OUTPUTS[key]).read_bytes() for key in keys or OUTPUTS}


def by_row(folder: Path) -> bytes:
    """Rows' content hashes and codes, the rows in an order of their own."""
    rows, codes = np.load(folder / OUTPUTS["rows"]), np.load(folder / OUTPUTS["codes"])
    order = np.lexsort((*codes, rows))
    return rows[order].tobytes() + codes[:, order].tobytes()


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return descriptors()


@pytest.fixture(scope="module")
def base(tmp_path_factory, frame) -> Path:
    """The plain run: three files, one thread, one shard."""
    folder = tmp_path_factory.mktemp("base")
    pattern = write(folder / "data", frame, 100, 350)
    assert "3 files | 600 rows, all kept | 16 descriptors, 1 metadata columns" in succeed(
        "pass0", *pass0_arguments(folder, pattern)
    )
    assert "600 rows x 16 columns | trimmed range | 6 removed, 10 stay" in succeed(
        "pass1", *pass1_arguments(folder), "--provenance", folder / "provenance" / "pass1.json", "--code", "c0de"
    )
    return folder


# ---- what pass 1 says


def test_pass_1_keeps_what_varies_and_gives_every_reason_for_the_rest(base, frame):
    details = json.loads((base / OUTPUTS["details"]).read_text())
    assert (base / OUTPUTS["columns"]).read_text() == "".join(f"{name}\n" for name in STAY)
    assert details["removed_count"] + details["remaining_count"] == details["n_columns"] == 16
    reasons = {entry["descriptor"]: entry["reasons"] for entry in details["removed_details"]}
    assert list(reasons) == details["removed"]
    ratio = frame["mostly_missing"].isna().mean()
    assert reasons == {
        "constant": ["constant", "normalised variance 0 below 0.002"],
        "rare": ["normalised variance 0.00166 below 0.002 (degenerate trimmed range)"],
        "mostly_missing": [f"missing ratio {ratio:.3g} above 0.5"],
        "all_missing": ["all values missing", "missing ratio 1 above 0.5", "0 valid values, fewer than 100"],
        "noise": ["constant", "normalised variance 0 below 0.002"],
        "few": ["missing ratio 0.875 above 0.5", "75 valid values, fewer than 100"],
    }


def test_the_statistics_are_those_of_the_table(base, frame):
    with np.load(base / OUTPUTS["stats"], allow_pickle=False) as stats:
        stats = dict(stats)
    kept = frame[STAY].astype(float).replace([np.inf, -np.inf], np.nan)
    assert (stats["n_total"], stats["count"]) == (N_ROWS, len(STAY))
    assert {key for key, values in stats.items() if values.shape == (len(STAY),)} >= PROMISED
    for key, expected in {
        "mean": kept.mean(),
        "std": (kept / kept.max()).std(ddof=0) * kept.max(),  # squares of 1e-300 are no doubles
        "min": kept.min(),
        "max": kept.max(),
        "clip_lower": kept.quantile(0.025),
        "clip_upper": kept.quantile(0.975),
        "n_distinct": kept.nunique(),
        "n_valid": kept.count(),
        "n_missing": kept.isna().sum(),
        "missing_ratio": kept.isna().mean(),
    }.items():
        assert np.allclose(stats[key], expected, rtol=1e-12, atol=0), key
    # columns with the same rows missing have the same label
    assert stats["missing_pattern"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


def test_the_codes_are_twice_the_midranks(base, frame):
    paths = [str(base / OUTPUTS[key]) for key in ("columns", "stats", "codes", "fine", "ecdf", "details")]
    codes = products.load(*paths).codes.read(np.arange(len(STAY)), 0, N_ROWS)
    for row, name in zip(codes, STAY, strict=True):
        values = frame[name].to_numpy(float)
        valid = np.isfinite(values)
        assert np.array_equal(row[valid], 2 * rankdata(values[valid])) and not row[~valid].any()


def test_the_manifest_says_what_was_read_and_what_was_skipped(base):
    manifest = json.loads((base / "pass0_sampling.json").read_text())
    assert [entry["key"] for entry in manifest["files"]] == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    assert [entry["rows"] for entry in manifest["files"]] == [100, 250, 250]
    assert manifest["metadata_columns"] == ["id"] and manifest["excluded_columns"] == []
    assert manifest["source"] == [entry["path"] for entry in manifest["files"]]  # nothing is copied
    assert manifest["sampled"] is False and manifest["fraction"] == 1


def test_a_finished_run_leaves_its_record_and_no_state(base):
    record = json.loads((base / "provenance" / "pass1.json").read_text())
    assert (record["stage"], record["code"]) == ("pass1", "c0de")
    assert sorted(path.name for path in base.iterdir()) == sorted(
        ["data", "pass0_sampling.json", "provenance", *OUTPUTS.values()]
    )


# ---- what changes no byte


@pytest.mark.parametrize(
    "flags",
    [
        "--batch_rows 7 --threads 4",
        "--shards 3 --threads 2 --max_host_memory_gb 0.4 --gpu 1 --max_gpu_memory_gb 1",
    ],
)
def test_how_the_machine_is_used_changes_no_byte(base, tmp_path, flags):
    # alone, pass 1 does not mind into how many shards other jobs are cut
    succeed("pass1", *pass1_arguments(tmp_path, base), *flags.split())
    assert results(tmp_path) == results(base)


@pytest.mark.parametrize(
    ("threads", "bytes_a_row", "expected"), [(3, 8 + 132, [3, 3, 3, 3, 3, 1]), (1, 8 + 34, [1] * 16)]
)
def test_reading_the_columns_in_many_groups_changes_no_byte(
    base, tmp_path, inside, monkeypatch, threads, bytes_a_row, expected
):
    groups = []
    read = Table.columns
    monkeypatch.setattr(Table, "columns", lambda *table: (groups.append(len(table[1])), read(*table))[1])
    monkeypatch.setattr(Runtime, "budget", N_ROWS * bytes_a_row)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert inside("pass1", *pass1_arguments(tmp_path, base), "--threads", threads)[1] == 0
    assert groups == expected
    assert results(tmp_path) == results(base)


def test_the_split_into_files_changes_no_byte(base, tmp_path, frame, inside):
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame, 1, 2, 599)))
    assert inside("pass1", *pass1_arguments(tmp_path))[1] == 0
    assert results(tmp_path) == results(base)


def test_the_order_of_files_and_rows_changes_no_byte_but_the_order_of_rows(base, tmp_path, frame, inside):
    shuffled = frame.sample(frac=1, random_state=1)
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", shuffled, 300)))
    assert inside("pass1", *pass1_arguments(tmp_path))[1] == 0
    exact = set(OUTPUTS) - BY_ROW - {"details"}
    assert results(tmp_path, *exact) == results(base, *exact)
    assert by_row(tmp_path) == by_row(base)
    assert files.digest(tmp_path / OUTPUTS["details"]) == files.digest(base / OUTPUTS["details"])
    assert results(tmp_path, "codes") != results(base, "codes")


def test_the_order_of_the_columns_changes_no_number(base, tmp_path, frame, inside):
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame[frame.columns[::-1]])))
    assert inside("pass1", *pass1_arguments(tmp_path))[1] == 0
    assert (tmp_path / OUTPUTS["columns"]).read_text().split() == STAY[::-1]
    assert np.array_equal(np.load(tmp_path / OUTPUTS["codes"])[::-1], np.load(base / OUTPUTS["codes"]))
    assert results(tmp_path, "rows") == results(base, "rows")
    fingerprints = [json.loads(results(folder)["details"])["input_fingerprint"] for folder in (tmp_path, base)]
    assert fingerprints[0] == fingerprints[1]


def test_null_nan_and_infinity_give_the_same_bytes(base, tmp_path, frame, inside):
    frame = frame.copy()
    frame["some_missing"] = frame["some_missing"].fillna(-np.inf)
    frame["same_missing"] = frame["same_missing"].replace(np.inf, np.nan)
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame)))
    assert inside("pass1", *pass1_arguments(tmp_path))[1] == 0
    assert results(tmp_path) == results(base)


def test_a_changed_value_changes_the_fingerprint(base, tmp_path, frame, inside):
    frame = frame.copy()
    frame.loc[17, "constant"] = 7.0000001
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame)))
    inside("pass1", *pass1_arguments(tmp_path))
    fingerprints = [json.loads(results(folder)["details"])["input_fingerprint"] for folder in (tmp_path, base)]
    assert fingerprints[0] != fingerprints[1]


# ---- shards


@pytest.fixture
def in_shards(base, inside):
    """in_shards(folder, number): the shards of pass 1 of the plain run, and the flags that merge them."""

    def in_shards(folder: Path, shards: int, *flags: object) -> list[str]:
        made: dict[str, list[str]] = {"pieces": [], "piece-codes": [], "piece-fine": []}
        for shard in range(1, shards + 1):
            outputs = [folder / f"{shard}.npz", folder / f"{shard}_codes.npy", folder / f"{shard}_fine.npy"]
            for paths, path in zip(made.values(), outputs, strict=True):
                paths.append(str(path))
            given = ["--manifest", base / "pass0_sampling.json", "--shards", shards, "--shard", shard, *flags]
            written = zip(("piece", "codes", "fine"), outputs, strict=True)
            log, code = inside(
                "pass1_shard", *given, *(text for key, path in written for text in (f"--out-{key}", path))
            )
            assert code == 0, log
        return [text for flag, paths in made.items() for text in (f"--{flag}", *paths)]

    return in_shards


@pytest.mark.parametrize("shards", [2, 3, 7, 16, 19])
def test_pass_1_put_together_from_shards_has_the_bytes_of_pass_1_alone(base, tmp_path, inside, in_shards, shards):
    # 16 columns: a shard each, and more shards than columns
    pieces = in_shards(tmp_path / "shards", shards, "--threads", 2)
    log, code = inside("pass1", *pass1_arguments(tmp_path, base), "--shards", shards, *pieces)
    assert code == 0 and "600 rows x 16 columns | trimmed range | 6 removed, 10 stay" in log
    assert results(tmp_path) == results(base)


def test_shards_that_do_not_make_up_the_table_are_refused(base, tmp_path, inside, in_shards):
    pieces = in_shards(tmp_path / "shards", 3)
    fewer = [text for text in pieces if not Path(text).name.startswith("3")]
    error = refused(inside("pass1", *pass1_arguments(tmp_path / "out", base), *fewer))
    assert "is not shard 1 of 2 of this run" in error and str(tmp_path / "shards" / "1.npz") in error
    assert not any((tmp_path / "out" / name).exists() for name in OUTPUTS.values())


@pytest.mark.parametrize("kind", ["exchanged", "other settings"])
def test_shards_of_another_place_or_of_other_settings_are_refused(base, tmp_path, inside, in_shards, kind):
    pieces = in_shards(tmp_path / "shards", 2)
    if kind == "exchanged":
        pieces = [pieces[place] for place in (0, 2, 1, 3, 5, 4, 6, 8, 7)]
    flags = ["--variance_threshold", "0.01"] if kind == "other settings" else []
    refused(inside("pass1", *pass1_arguments(tmp_path / "out", base), *pieces, *flags))
    assert not any((tmp_path / "out" / name).exists() for name in OUTPUTS.values())


def test_all_columns_removed_are_an_error_in_shards_too(base, tmp_path, inside, in_shards):
    flags = ["--variance_threshold", "0.25"]
    pieces = in_shards(tmp_path / "shards", 3, *flags)
    error = refused(inside("pass1", *pass1_arguments(tmp_path / "out", base), *pieces, *flags))
    assert error.startswith("pass1: all 16 columns were removed, most often like this: normalised variance 0.")
    assert not any((tmp_path / "out" / name).exists() for name in OUTPUTS.values())


def related(missing: bool) -> dict[str, np.ndarray]:
    """Columns that stay to the end, that are alike and that depend on others; with gaps of several patterns."""
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(400, 3))
    columns = {f"a{k}": hidden[:, k % 3] + 0.1 * k * rng.normal(size=400) for k in range(6)}
    columns |= {"square": hidden[:, 0] ** 2, "few": np.round(hidden[:, 1]), "alone": rng.normal(size=400)}
    columns["twin"] = columns["alone"] * 2 + 1
    if missing:
        for name, share in (("a1", 0.1), ("a4", 0.3), ("square", 0.2)):
            columns[name] = np.where(rng.random(400) < share, np.nan, columns[name])
        columns["twin"] = np.where(np.isnan(columns["a4"]), np.nan, columns["twin"])
        columns["few"] = np.where(hidden[:, 2] > 1, np.nan, columns["few"])
    return columns


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("related")
    return {missing: write_table(folder / f"{missing}.parquet", related(missing)) for missing in (False, True)}


@pytest.mark.parametrize("cells", [32, 1 << 16], ids=["cells of ranks", "all ranks"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "gaps"])
def test_all_passes_put_together_from_shards_have_the_bytes_of_the_passes_alone(tables, select, missing, cells):
    with few_cells(cells, exact_rows=10 if cells == 32 else 10_000):
        reference = select(tables[missing]).all_bytes()
        assert len(reference) == 18
        for shards in (2, 7) if cells == 32 else (3,):
            again = select(tables[missing], shards=shards, threads=2).all_bytes()
            assert [name for name in reference if again[name] != reference[name]] == []


def test_more_shards_than_columns_and_pairs_of_columns_change_no_byte(tables, select):
    # 10 columns, 7 of which reach pass 4: some of its shards have no pair at all
    reference = select(tables[False]).all_bytes()
    again = select(tables[False], shards=30).all_bytes()
    assert [name for name in reference if again[name] != reference[name]] == []


@pytest.mark.parametrize("setting", ["missing=mean", "missing=global_ranks", "w_rdc=0", "pass4_rows=300"])
def test_shards_change_no_byte_with_any_kind_of_similarity(tables, select, setting):
    key, value = setting.split("=")
    settings = {key: int(value) if value.isdecimal() else value}
    reference = select(tables[True], **settings).all_bytes()
    again = select(tables[True], shards=3, **settings).all_bytes()
    assert [name for name in reference if again[name] != reference[name]] == []


def test_a_shard_of_pass_2_with_other_settings_is_refused(tables, select, inside):
    folder = select(tables[True], shards=2, last="pass2").folder
    inputs = [
        text
        for flag, (maker, name) in PASS_INPUTS["pass2"].items()
        for text in (f"--{flag}", folder / PASS_FILES[maker][name])
    ]
    pieces = ["--pieces", *(folder / "shards" / f"pass2_{shard}_piece" for shard in (1, 2))]
    outputs = [text for name in PASS_FILES["pass2"] for text in (f"--out-{name}", folder / "again" / name)]
    error = refused(inside("pass2", *inputs, *pieces, *outputs, "--min_effective_n", "90"))
    assert "pass2_1_piece: is not shard 1 of 2 of this run; delete it" in error
    assert not (folder / "again").exists()


# ---- interruption


def test_a_damaged_page_ends_pass_1_in_one_line_that_names_the_file(base, tmp_path, frame, inside):
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame, 300)))
    bad = tmp_path / "data" / "part-1.parquet"
    content = bytearray(bad.read_bytes())
    place = pq.read_metadata(bad).row_group(0).column(14).dictionary_page_offset  # column "sorted"
    content[place : place + 400] = b"\xff" * 400
    bad.write_bytes(content)
    run = door("pass1", *pass1_arguments(tmp_path))
    error = refused((run.stderr, run.returncode))
    assert error.startswith(f"pass1: {bad}: not a readable Parquet file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "pass0_sampling.json"]


# ---- limits and modes of pass 1


def test_fewer_rows_than_needed_for_any_column_is_an_error(tmp_path, base, inside):
    error = refused(inside("pass1", *pass1_arguments(tmp_path, base), "--min_effective_n", "601"))
    assert error.startswith("pass1: 600 rows are fewer than descriptors.min_effective_n = 601")
    assert list(tmp_path.iterdir()) == []


def test_files_that_changed_after_pass_0_are_an_error(tmp_path, frame, inside):
    inside("pass0", *pass0_arguments(tmp_path, write(tmp_path / "data", frame)))
    frame.iloc[:300].assign(id="x").to_parquet(tmp_path / "data" / "part-0.parquet", index=False)
    error = refused(inside("pass1", *pass1_arguments(tmp_path)))
    assert all(part in error for part in ("pass0_sampling.json", "600", "300", "run pass0 again"))


def test_no_column_left_is_an_error_with_the_commonest_reason_and_no_empty_file(tmp_path, base, inside):
    error = refused(inside("pass1", *pass1_arguments(tmp_path, base), "--variance_threshold", "0.25"))
    assert error.startswith("pass1: all 16 columns were removed, most often like this: normalised variance 0.")
    assert "lower variance_threshold" in error
    assert not any((tmp_path / name).exists() for name in OUTPUTS.values())


@pytest.mark.parametrize(
    ("mode", "threshold", "expected"),
    [
        ("raw", 5, ["huge", "sorted"]),
        ("raw", 0.0, [*STAY[:5], "rare", *STAY[5:]]),
        ("minmax", 0.0, [*STAY[:5], "rare", *STAY[5:]]),
        ("iqr", 0.17, None),
    ],
)
def test_each_range_mode_keeps_what_its_definition_keeps(tmp_path, base, frame, inside, mode, threshold, expected):
    flags = ["--range_mode", mode, "--variance_threshold", threshold]
    inside("pass1", *pass1_arguments(tmp_path, base), *flags)
    kept = (tmp_path / OUTPUTS["columns"]).read_text().split()
    assert expected is None or kept == expected
    assert (set(kept) & set(STAY) and set(STAY) - set(kept)) or threshold == 0
    for name in STAY:
        values = frame[name].astype(float).replace([np.inf], np.nan).dropna().to_numpy()
        lower, upper = np.percentile(values, {"minmax": (0, 100), "iqr": (25, 75)}.get(mode, (2.5, 97.5)))
        if lower == upper:
            lower, upper = values.min(), values.max()
        scale = 1.0 if mode == "raw" else upper - lower
        score = (values if mode == "raw" else np.clip(values, lower, upper) / scale).var()
        assert (name in kept) == (score >= threshold), name


def test_too_little_memory_is_an_error_that_names_an_amount_that_is_enough(tmp_path, inside):
    path = write_table(tmp_path / "t.parquet", {"a": np.arange(1_300_000) % 2 == 0}, metadata=0)
    inside("pass0", "--parquet_glob", path, "--n_metadata", "0", "--out-manifest", tmp_path / "pass0_sampling.json")
    error = refused(inside("pass1", *pass1_arguments(tmp_path), "--max_host_memory_gb", "0.4"))
    assert "1,300,000 rows need descriptors.max_host_memory_gb >= 0.5 to sort one column; it is 0.4" in error
    assert inside("pass1", *pass1_arguments(tmp_path), "--max_host_memory_gb", "0.5")[1] == 0


# ---- pass 0


def sample_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "sampled_data.parquet")


@pytest.fixture
def sample(tmp_path, base, inside):
    """Pass 0 with a sample of the plain run's files: the manifest."""

    def sample(*flags: object, pattern: str = f"{base}/data/*.parquet") -> dict:
        given = [*pass0_arguments(tmp_path, pattern), "--out-sample", tmp_path / "sampled_data.parquet", *flags]
        error, code = inside("pass0", *given)
        assert code == 0, error
        return json.loads((tmp_path / "pass0_sampling.json").read_text())

    return sample


def keys_and_rows(base: Path) -> list[tuple[str, int]]:
    return [(path.name, pq.read_metadata(path).num_rows) for path in sorted((base / "data").iterdir())]


def test_a_share_of_each_file_is_sampled_by_the_place_of_its_rows(sample, tmp_path, base, frame):
    manifest = sample("--sample_per_file", "0.3", "--random_seed", "5")
    masks = [keep_fraction(row_hashes(5, key, rows), 0.3) for key, rows in keys_and_rows(base)]
    expected = frame[np.concatenate(masks)].reset_index(drop=True)
    read = sample_of(tmp_path)
    pd.testing.assert_frame_equal(read.drop(columns="id"), expected)
    assert read["id"].tolist() == [f"m{row}" for row in np.flatnonzero(np.concatenate(masks))]
    assert [entry["kept"] for entry in manifest["files"]] == [mask.sum() for mask in masks]
    assert manifest["n_rows_kept"] == len(read) and manifest["fraction"] == len(read) / N_ROWS
    assert manifest["sampled"] is True and manifest["source"] == [str(tmp_path / "sampled_data.parquet")]
    assert manifest["parameters"]["random_seed"] == 5


def test_a_count_of_each_file_is_exact(sample, tmp_path, base):
    manifest = sample("--sample_per_file", "120")
    assert [entry["kept"] for entry in manifest["files"]] == [100, 120, 120]
    kept = np.concatenate([keep_smallest(row_hashes(42, key, rows), 120) for key, rows in keys_and_rows(base)])
    assert sample_of(tmp_path)["id"].tolist() == [f"m{row}" for row in np.flatnonzero(kept)]


def test_a_count_of_all_files_is_exact_and_spread_over_them(sample, tmp_path):
    manifest = sample("--sample_rows", "200")
    assert len(sample_of(tmp_path)) == manifest["n_rows_kept"] == 200
    assert all(entry["kept"] > 0 for entry in manifest["files"])
    assert sum(entry["kept"] for entry in manifest["files"]) == 200


def test_a_count_above_all_rows_keeps_them_all(sample, tmp_path, frame):
    assert sample("--sample_rows", "100000")["n_rows_kept"] == N_ROWS
    pd.testing.assert_frame_equal(sample_of(tmp_path).drop(columns="id"), frame)


@pytest.mark.parametrize("flags", [["--sample_per_file", "0.5"], ["--sample_per_file", "40"]])
def test_a_file_that_is_added_changes_nothing_for_the_others(sample, tmp_path, base, frame, flags):
    sample(*flags)
    before = sample_of(tmp_path)
    shutil.copytree(base / "data", tmp_path / "more")
    frame.iloc[:50].assign(id="new").to_parquet(tmp_path / "more" / "part-00.parquet", index=False)
    sample(*flags, pattern=f"{tmp_path}/more/*.parquet")
    after = sample_of(tmp_path)
    pd.testing.assert_frame_equal(after[after["id"] != "new"].reset_index(drop=True), before)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(sample, tmp_path):
    chosen = []
    for seed in (1, 1, 2):
        sample("--sample_rows", "100", "--random_seed", seed)
        chosen.append((tmp_path / "sampled_data.parquet").read_bytes())
    assert chosen[0] == chosen[1] != chosen[2]


def test_batches_change_no_byte_of_the_sample(sample, tmp_path, monkeypatch):
    # one row group a batch: a run with other batches wrote another file, and small shares gave groups of a few rows
    monkeypatch.setattr("common.row_groups.GROUP_BYTES", 8 * 17 * 50)
    written = []
    for batch_rows in (3, 50, 64, 10_000):
        sample("--sample_per_file", "0.5", "--batch_rows", batch_rows)
        written.append((tmp_path / "sampled_data.parquet").read_bytes())
    assert written[1:] == written[:-1]
    footer = pq.read_metadata(io.BytesIO(written[0]))
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    assert set(sizes[:-1]) == {50} and 0 < sizes[-1] <= 50 and footer.num_rows > 200


def test_batches_change_no_byte_of_a_sample_of_many_pages(tmp_path, sample, monkeypatch):
    # a page of 1 MiB ends where a batch ended, unless the batches are joined
    monkeypatch.setattr("common.row_groups.GROUP_BYTES", 8 * 2 * 150_000)
    values = np.random.default_rng(0).random(300_000)
    write_table(tmp_path / "in" / "1.parquet", {"id": ["x"] * len(values), "a": values}, metadata=0)
    written = []
    for batch_rows in (1777, 300_000):
        sample("--sample_rows", "290000", "--batch_rows", batch_rows, pattern=f"{tmp_path}/in/*.parquet")
        written.append((tmp_path / "sampled_data.parquet").read_bytes())
    assert written[0] == written[1]


def test_pass_1_of_a_sample_is_pass_1_of_its_rows(tmp_path, base, frame, inside):
    sample = ["--sample_rows", "400", "--out-sample", tmp_path / "sampled_data.parquet"]
    log, _ = inside("pass0", *pass0_arguments(tmp_path, f"{base}/data/*.parquet"), *sample)
    assert "400 of 600 rows sampled" in log
    assert inside("pass1", *pass1_arguments(tmp_path))[1] == 0
    rows = sample_of(tmp_path)["id"].str.removeprefix("m").astype(int)
    assert rows.is_monotonic_increasing
    alone = tmp_path / "alone"
    inside("pass0", *pass0_arguments(alone, write(alone / "data", frame.iloc[rows])))
    assert inside("pass1", *pass1_arguments(alone))[1] == 0
    assert results(tmp_path) == results(alone)


def test_files_that_agree_but_for_order_nulls_text_and_excluded_columns_are_sampled_into_one(sample, tmp_path):
    one = {"id": ["a", "b"], "x": pa.nulls(2), "y": [1.0, 2.0], "target": [5, 6], "kind": pa.array(["u", "v"])}
    two = {
        "kind": pa.array(["w"], pa.large_string()),
        "target": ["active"],
        "y": [3.0],
        "x": [7],
        "id": pa.array(["c"], pa.large_string()),
    }
    write_table(tmp_path / "in" / "1.parquet", one, metadata=0)
    write_table(tmp_path / "in" / "2.parquet", two, metadata=0)
    flags = ["--metadata_columns", "id", "kind", "--exclude_columns", "target", "--sample_rows", "3"]
    manifest = sample(*flags, pattern=f"{tmp_path}/in/*.parquet")
    assert manifest["descriptors"] == ["x", "y"]
    read = pq.read_table(tmp_path / "sampled_data.parquet").to_pydict()
    assert read == {
        "id": ["a", "b", "c"],
        "x": [None, None, 7],
        "y": [1.0, 2.0, 3.0],
        "target": ["5", "6", "active"],
        "kind": ["u", "v", "w"],
    }


def test_excluded_columns_that_fit_no_common_type_cannot_be_sampled(tmp_path, inside):
    write_table(tmp_path / "in" / "1.parquet", {"y": [1.0], "odd": pa.array([[1.0]])})
    write_table(tmp_path / "in" / "2.parquet", {"y": [1.0], "odd": ["x"]})
    flags = ["--exclude_columns", "odd", "--sample_rows", "1", "--out-sample", tmp_path / "s.parquet"]
    error = refused(inside("pass0", *pass0_arguments(tmp_path, f"{tmp_path}/in/*.parquet"), *flags))
    assert "1.parquet" in error and not (tmp_path / "s.parquet").exists()


def test_a_sample_without_a_place_for_it_is_an_error(tmp_path, base, inside):
    error = refused(inside("pass0", *pass0_arguments(tmp_path, f"{base}/data/*.parquet"), "--sample_rows", "5"))
    assert "--out-sample" in error
    assert list(tmp_path.iterdir()) == []


def test_a_sample_of_no_row_is_an_error(tmp_path, base, inside):
    flags = ["--sample_per_file", "1e-12", "--out-sample", tmp_path / "s.parquet"]
    error = refused(inside("pass0", *pass0_arguments(tmp_path, f"{base}/data/*.parquet"), *flags))
    assert "descriptors.sample_per_file keeps no row" in error
    assert list(tmp_path.iterdir()) == []


def test_files_without_rows_are_an_error(tmp_path, inside):
    path = write_table(tmp_path / "t.parquet", {"a": np.empty(0)})
    error = refused(inside("pass0", *pass0_arguments(tmp_path, str(path))))
    assert error.startswith(f"pass0: {path}: no rows, nor in any other file")


def test_no_file_is_an_error_of_one_line(tmp_path, inside):
    error = refused(inside("pass0", *pass0_arguments(tmp_path, f"{tmp_path}/none-*.parquet")))
    assert error.startswith("pass0: config: descriptors.parquet_glob = ") and "matches no file" in error
