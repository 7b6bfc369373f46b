"""The whole selection on made-up and real tables: the same bytes whatever the machine does, and the promised sets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from conftest import ROOT, write_table
from passes import NAMES

DEMO = str(ROOT / "resources" / "esol" / "*.parquet")


def table(n_rows: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns with every kind of redundancy, missing cells, ties, and none."""
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, n_rows))
    columns = {
        "x": x,
        "x_copy": x.copy(),
        "x_cubed_negative": -(x**3),
        "y": y,
        "y_noisy": y + 0.05 * rng.normal(size=n_rows),
        "sum_of_x_y": x + y,
        "z": z,
        "z_squared": z**2,
        "counts": rng.poisson(2, n_rows).astype(float),
        "constant": np.full(n_rows, 3.0),
        "empty": np.full(n_rows, np.nan),
        "rare": (np.arange(n_rows) == 7).astype(float),
        "huge": np.exp(rng.normal(size=n_rows) * 40),
    }
    for k in range(6):
        columns[f"noise_{k}"] = rng.normal(size=n_rows)
    for name in ("y_noisy", "noise_1", "noise_2"):
        columns[name][rng.random(n_rows) < 0.1] = np.nan
    columns["noise_3"][::11] = np.inf
    return columns


def split(columns: dict[str, np.ndarray], pieces: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{name: values[rows] for name, values in columns.items()} for rows in pieces]


@pytest.fixture
def files(tmp_path):
    columns = table()
    write_table(tmp_path / "one" / "all.parquet", columns)
    for k, part in enumerate(split(columns, np.array_split(np.arange(500), 4))):
        write_table(tmp_path / "four" / f"part{k}.parquet", part)
        write_table(tmp_path / "reversed" / f"part{3 - k}.parquet", part)
    return tmp_path


@pytest.mark.parametrize("features", ["orthonormal", "random"])
def test_nothing_that_the_machine_does_changes_a_byte(files, select, features):
    reference = select(files / "one" / "*.parquet", features=features).bytes()
    for folder, options in {
        "one": {"batch_rows": 7},
        "four": {"threads": 3},
        "reversed": {"batch_rows": 33, "max_host_memory_gb": 0.4},
    }.items():
        again = select(files / folder / "*.parquet", features=features, **options).bytes()
        assert [name for name in reference if reference[name] != again[name]] == []


def test_a_row_cap_takes_the_same_rows_from_any_split_and_order(files, select):
    kwargs = {"pass4_rows": 300}
    one, other = (select(files / folder / "*.parquet", **kwargs).bytes() for folder in ("one", "reversed"))
    assert one == other


def test_shards_change_nothing_and_leave_no_state(files, select):
    reference, sharded = select(files / "one" / "*.parquet"), select(files / "one" / "*.parquet", shards=5)
    assert reference.bytes() == sharded.bytes()
    assert reference.npy("pass1_codes.npy").tolist() == sharded.npy("pass1_codes.npy").tolist()
    assert not (sharded.folder / ".state").exists()


def test_null_nan_and_infinity_are_the_same(tmp_path, select):
    columns = table()
    holes = np.random.default_rng(1).random(500) < 0.1
    results = []
    for value in (np.nan, np.inf, -np.inf, None):
        changed = columns | {
            "noise_0": [value if hole else v for v, hole in zip(columns["noise_0"], holes, strict=True)]
        }
        results.append(select(write_table(tmp_path / f"{value}" / "t.parquet", changed)).bytes())
    assert all(result == results[0] for result in results[1:])


def test_permuted_columns_give_the_same_names(tmp_path, select):
    columns = table()
    del columns["x_copy"]  # of two identical columns the first in the file stays
    names = list(columns)
    reference = select(write_table(tmp_path / "a" / "t.parquet", columns)).final
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(names)
        again = select(write_table(tmp_path / f"b{seed}" / "t.parquet", {name: columns[name] for name in order})).final
        assert sorted(again) == sorted(reference)


def test_monotone_transforms_leave_passes_two_to_four_unchanged(tmp_path, select):
    columns = {name: values for name, values in table().items() if name not in ("rare", "constant", "empty", "huge")}
    changed = columns | {"y": np.exp(columns["y"]), "noise_0": -(columns["noise_0"] ** 3)}
    keep_all = {"range_mode": "raw", "variance_threshold": 0.0}
    one, other = (
        select(write_table(tmp_path / name / "t.parquet", each), **keep_all)
        for name, each in (("a", columns), ("b", changed))
    )
    assert np.array_equal(np.abs(one.npy("pass2_spearman_matrix.npy")), np.abs(other.npy("pass2_spearman_matrix.npy")))
    assert one.lines("pass2_columns.txt") == other.lines("pass2_columns.txt")
    assert one.final == other.final


@pytest.mark.parametrize("seed", range(4))
def test_of_duplicates_in_other_units_the_first_in_the_file_stays(tmp_path, select, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=300)
    columns = {"first": x, "scaled": 0.3 * x + 7.1, "negative": -x, "other": rng.normal(size=300)}
    result = select(write_table(tmp_path / "t.parquet", columns), last="pass2")
    assert result.lines("pass2_columns.txt") == ["first", "other"]


def test_squares_and_waves_are_joined_by_pass_four_and_independent_columns_never(tmp_path, select):
    rng = np.random.default_rng(4)
    x, z = rng.normal(size=3000), rng.uniform(-1.5, 1.5, size=3000)
    columns = {"x": x, "x_squared": x**2, "z": z, "sin_3z": np.sin(3 * z)}
    columns |= {f"independent_{k}": rng.normal(size=3000) for k in range(5)}
    result = select(write_table(tmp_path / "t.parquet", columns))
    assert len(result.lines("pass3_columns.txt")) == 9
    parents = result.json("final_cluster_info.json")["parents"]
    joined = {frozenset((name, link["parent"])) for name, link in parents.items()}
    assert joined == {frozenset(("x", "x_squared")), frozenset(("z", "sin_3z"))}
    assert all(link["pass"] == 4 for link in parents.values())


def test_the_sketch_selects_what_the_exact_mode_selects(tmp_path, select):
    path = write_table(tmp_path / "t.parquet", table(3000, seed=3))
    exact, sketched = select(path), select(path, prescreen="countsketch", m=512)
    for name in ("pass2_columns.txt", "pass3_columns.txt", "final_descriptors.txt"):
        assert exact.lines(name) == sketched.lines(name)


def adjacency(matrix: np.ndarray, threshold: float) -> np.ndarray:
    joined = np.abs(matrix) >= threshold
    np.fill_diagonal(joined, False)
    return joined


def check_promises(result, t2: float = 0.95, vif: float = 10.0, t4: float = 0.7) -> None:
    """Independence, coverage, VIF and the forest, from the files alone."""
    entered, after2, after3 = (result.lines(f"pass{k}_columns.txt") for k in (1, 2, 3))
    matrix = result.npy("pass2_spearman_matrix.npy")
    joined = adjacency(matrix, t2)
    stay = np.isin(entered, after2)
    assert not joined[np.ix_(stay, stay)].any()
    assert joined[np.ix_(~stay, stay)].any(axis=1).all()
    assert np.linalg.eigvalsh(result.npy("pass2_spearman_repaired.npy")).min() >= 1e-8 * (1 - 1e-3)
    inner = np.isin(entered, after3)
    pairwise = np.nan_to_num(matrix[np.ix_(inner, inner)])
    assert np.linalg.eigvalsh(pairwise).min() > 0
    assert np.diag(np.linalg.inv(pairwise)).max() < vif
    with np.load(result.folder / "pass4_similarity.npz") as similarity:
        fused, common = similarity["fused"], similarity["common_rows"]
        assert (similarity["rdc"][~np.isnan(fused)] <= 1).all() and (similarity["hsic"][~np.isnan(fused)] >= 0).all()
    last = np.isin(after3, result.final)
    joined = adjacency(fused, t4)
    assert joined[np.ix_(~last, last)].any(axis=1).all()
    if common.min() >= 2000:  # below that an edge also has to beat chance
        assert not joined[np.ix_(last, last)].any()
    info = result.json("final_cluster_info.json")
    members = [name for root, each in info["descriptors"].items() for name in (root, *each["alternative_descriptors"])]
    assert sorted(members) == sorted(entered)
    assert list(info["descriptors"]) == result.final
    for name, link in info["parents"].items():
        steps, here = 0, name
        while here in info["parents"]:
            assert info["parents"][here]["pass"] >= (link["pass"] if steps == 0 else 0)
            here, steps = info["parents"][here]["parent"], steps + 1
            assert steps <= len(entered)
        assert here in result.final
    rows = [line.split("\t") for line in result.lines("removed_descriptors.tsv")]
    assert len(rows) - 1 == result.json("pass1_variance_filtering.json")["n_columns"] - len(result.final)
    assert all(row[2] for row in rows)


def test_the_readme_shows_what_the_demo_gives(select):
    result = select(DEMO, threads=2, n_metadata=6)
    readme = (ROOT / "README.md").read_text()
    left = [len(result.lines(f"pass{number}_columns.txt")) for number in (1, 2, 3)]
    n_columns = result.json("pass1_variance_filtering.json")["n_columns"]
    assert f"{' → '.join(map(str, [n_columns, *left]))} → **{len(result.final)}**" in readme
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.splitlines() if line.count("|") == 8]
    header, _, *shown = table
    rows = [line.split("\t") for line in result.lines("removed_descriptors.tsv")]
    assert header == rows[0] and len(shown) == 4
    assert [cells for cells in shown if cells not in rows] == []
    matrix = result.json("pass3_vif.json")["matrix"]
    assert ("a negative eigenvalue; so it is in the demo" in readme) == matrix.startswith("missing cells at the mean")
    drawn, shown = overview(result.folder), imread(ROOT / "docs" / "demo_overview.png")[..., :3]
    apart = np.abs(drawn - shown).max(axis=2) > 0.2
    assert apart.mean() < 0.001, "docs/demo_overview.png is not results/descriptors/overview.png of make demo"


def overview(folder: Path) -> np.ndarray:
    """The picture of a run, (height, width, 3) in [0, 1]."""
    given = {
        **{stage: NAMES[stage]["details"] for stage in ("pass1", "pass2", "pass3", "pass4")},
        "entered": NAMES["pass1"]["columns"],
        "matrix": NAMES["pass2"]["matrix"],
        "clusters": NAMES["pass4"]["clusters"],
        "out-picture": "overview.png",
    }
    flags = [word for flag, name in given.items() for word in (f"--{flag}", str(folder / name))]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "overview.py"), *flags], check=True)
    return imread(folder / "overview.png")[..., :3]


@pytest.mark.parametrize("clustering", ["leiden", "leader", "components"])
def test_the_promises_hold_on_the_demo(select, clustering):
    check_promises(select(DEMO, threads=2, n_metadata=6, clustering=clustering))


def test_the_promises_hold_on_41127_molecules(select, shared_data):
    folder = shared_data / "molecules" / "hiv_rdkit"
    check_promises(select(folder / "*.parquet", threads=2, n_metadata=6))
    largest = np.nanmax(pq.read_table([*folder.glob("*.parquet")], columns=["Ipc"])["Ipc"].to_numpy())
    assert f"Values as large as {largest:.0e} (RDKit's Ipc".replace("e+", "e") in (ROOT / "README.md").read_text()


def published_selection(frame: pd.DataFrame) -> list[list[str]]:
    """A common recipe, written down independently: names after the variance, correlation and VIF filters."""
    variance, missing = frame.var(ddof=0), frame.isna().mean()
    kept = [name for name in frame if missing[name] <= 0.3 and variance[name] >= 0.01]
    filled = frame[kept].fillna(frame[kept].mean())
    rho = filled.corr("spearman").abs()
    leaders: list[str] = []
    for name in kept:
        if not any(rho.loc[leader, name] >= 0.75 for leader in leaders):
            leaders.append(name)
    names = list(leaders)
    while True:
        correlation = np.corrcoef(filled[names].to_numpy(), rowvar=False)
        eigenvalues, vectors = np.linalg.eigh(correlation)
        leverage = np.square(vectors[:, eigenvalues <= 1e-10]).sum(axis=1)
        if (leverage > 1e-8).any():
            names.pop(int(np.argmax(leverage > 1e-8)))
            continue
        inflation = np.diag(np.linalg.inv(correlation))
        if inflation.max() < 10:
            return [kept, leaders, names]
        names.pop(int(inflation.argmax()))


@pytest.mark.parametrize("n_rows", [77, 1128])
def test_a_published_recipe_is_reproduced_by_the_config_alone(tmp_path, select, n_rows):
    frame = pd.concat([pd.read_parquet(path) for path in sorted((ROOT / "resources/esol").glob("*.parquet"))])
    frame.iloc[:n_rows].to_parquet(tmp_path / "t.parquet")
    expected = published_selection(frame.iloc[:n_rows, 6:].replace([np.inf, -np.inf], np.nan))
    result = select(
        tmp_path / "t.parquet",
        last="pass3",
        n_metadata=6,
        min_effective_n=20,
        range_mode="raw",
        variance_threshold=0.01,
        max_missing_ratio=0.3,
        missing="mean",
        spearman_threshold=0.75,
        clustering="leader",
        vif_on="pearson",
        ties="column_order",
    )
    assert [result.lines(f"pass{k}_columns.txt") for k in (1, 2, 3)] == expected


@pytest.mark.parametrize("setting", ["missing", "vif_on"])
@pytest.mark.parametrize("value", ["pairwise", "global_ranks", "mean", "spearman", "pearson"])
def test_every_treatment_of_missing_cells_runs(files, select, setting, value):
    if (setting == "vif_on") == (value in ("spearman", "pearson")):
        result = select(files / "one" / "*.parquet", **{setting: value})
        assert {"z", "noise_0"} <= set(result.lines("pass3_columns.txt"))


@pytest.mark.parametrize("names", [["x"], ["x", "x_copy"], ["x", "y"]])
def test_one_or_two_columns_are_enough(tmp_path, select, names):
    columns = {name: values for name, values in table().items() if name in names}
    result = select(write_table(tmp_path / "t.parquet", columns))
    assert result.final == (["x"] if "y" not in names else ["x", "y"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variance_threshold": 0.25}, "all 19 columns were removed"),
        ({"min_effective_n": 501}, "500 rows are fewer than descriptors.min_effective_n = 501"),
        ({"n_metadata": 20}, "no descriptor column is left"),
    ],
)
def test_what_the_user_can_mend_is_one_line(files, select, capsys, settings, message):
    with pytest.raises(SystemExit) as ended:
        select(files / "one" / "*.parquet", **settings)
    assert ended.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"\w+ *\| ", line)]  # no log lines
    assert len(told) == 1 and message in told[0]


def test_too_little_memory_for_one_column_says_how_much_is_needed(tmp_path, select, capsys):
    path = write_table(tmp_path / "t.parquet", {"x": np.arange(2_000_000.0), "y": np.arange(2_000_000.0) % 7})
    with pytest.raises(SystemExit):
        select(path, max_host_memory_gb=0.4, last="pass1")
    assert "2,000,000 rows need descriptors.max_host_memory_gb >= 0." in capsys.readouterr().err
