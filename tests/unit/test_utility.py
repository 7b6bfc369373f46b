"""The check of usefulness: nothing of the rows to predict is learnt from, and the sets differ only in their columns."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import Ridge

import utility as door
from conftest import write_table
from descriptors import targets, utility
from descriptors.table import open_table
from passes import table


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.arange(30.0), "regression"),
        (np.arange(30), "regression"),
        (np.arange(30) % 10, "classification"),
        (np.arange(33) % 11, "regression"),
        (np.arange(30) % 2 == 0, "classification"),
        (np.array(["CI", "CA"] * 15), "classification"),
    ],
)
def test_the_task_follows_from_the_type(values, task):
    assert utility.task_of(values) == task


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_what_can_be_predicted_is_and_noise_is_not(task):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 6))
    values[::7, 1] = np.nan
    signal = values[:, 0] + (0.5 * values[:, 2]) ** 2
    target = signal if task == "regression" else (signal > 0).astype(int)
    folds = utility.splits(target, task, 5, 1, 0)
    for make in utility.models(task, 0).values():
        scores = {
            name: np.mean([utility.score(values[:, columns], target, task, make(), *fold) for fold in folds])
            for name, columns in {"signal": [0, 1, 2], "noise": [3, 4, 5]}.items()
        }
        chance = 0.0 if task == "regression" else 0.5
        assert scores["signal"] > 0.75 and scores["noise"] < chance + 0.15


def test_ridge_meets_noise_with_its_heaviest_penalty():
    values, target = np.split(np.random.default_rng(0).normal(size=(200, 4)), [3], axis=1)
    model = utility.models("regression", 0)["ridge"]()
    utility.score(values, target[:, 0], "regression", model, np.arange(150), np.arange(150, 200))
    assert model[-1].alpha_ == pytest.approx(10_000)


def test_several_classes_are_scored_each_against_the_rest():
    rng = np.random.default_rng(1)
    target = np.repeat(np.arange(3), 40)
    values = np.column_stack([target + 0.1 * rng.normal(size=120), rng.normal(size=120)])
    [fold, *_] = utility.splits(target, "classification", 4, 1, 0)
    for make in utility.models("classification", 0).values():
        assert utility.score(values, target, "classification", make(), *fold) > 0.95


def test_the_rows_to_predict_are_not_learnt_from():
    # a value of a row to predict may change its own prediction, and nothing else: neither medians, scores nor models
    rng = np.random.default_rng(2)
    values, target = rng.normal(size=(120, 4)), rng.normal(size=120)
    values[::5, 0] = np.nan
    fit, test = utility.splits(target, "regression", 4, 1, 0)[0]
    for make in utility.models("regression", 0).values():
        before, after = make(), make()
        utility.score(values, target, "regression", before, fit, test)
        other = values.copy()
        other[test] = 1e9
        changed = target.copy()
        changed[test] = -5
        utility.score(other, changed, "regression", after, fit, test)
        assert np.array_equal(before.predict(values), after.predict(values))


@pytest.mark.parametrize("gap", ["column", "fold", "all"])
def test_columns_without_a_value_where_it_is_learnt_are_left_out(gap):
    rng = np.random.default_rng(3)
    values, target = rng.normal(size=(60, 3)), rng.normal(size=60)
    fit, test = utility.splits(target, "regression", 3, 1, 0)[0]
    rows, columns = {"column": (slice(None), 1), "fold": (fit, 1), "all": (slice(None), slice(None))}[gap]
    values[rows, columns] = np.nan
    for make in utility.models("regression", 0).values():
        assert np.isfinite(utility.score(values, target, "regression", make(), fit, test))


def test_random_sets_are_seeded_and_of_the_size():
    one, other = (utility.random_sets(50, 7, 4, seed) for seed in (1, 2))
    assert [each.tolist() for each in one] == [each.tolist() for each in utility.random_sets(50, 7, 4, 1)]
    assert [each.tolist() for each in one] != [each.tolist() for each in other]
    assert all(len(set(each.tolist())) == 7 and each.max() < 50 for each in one)
    assert len({tuple(each) for each in one}) == 4
    # more of them leave the first as they are
    assert one[0].tolist() == utility.random_sets(50, 7, 9, 1)[0].tolist()


def test_the_interval_holds_the_true_score_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    weights = rng.normal(size=5)
    large = rng.normal(size=(20_000, 5))
    truth = large @ weights + 2 * rng.normal(size=len(large))
    inside, naive = 0, 0
    for seed in range(60):
        rng = np.random.default_rng((5, seed))
        values = rng.normal(size=(80, 5))
        target = values @ weights + 2 * rng.normal(size=80)
        folds = utility.splits(target, "regression", 5, 4, seed)
        found = np.array(
            [Ridge().fit(values[fit], target[fit]).score(values[test], target[test]) for fit, test in folds]
        )
        about = utility.summary(found, 1 / 5)
        right = Ridge().fit(values, target).score(large, truth)
        inside += about["low"] <= right <= about["high"]
        naive += abs(found.mean() - right) <= 1.96 * found.std(ddof=1) / len(found) ** 0.5
    assert inside >= 42 and inside > naive  # of 60; the plain interval of the mean is far too narrow


def test_the_interval_is_students_with_the_variance_enlarged_by_the_rows_that_folds_share():
    found = utility.summary(np.array([0.5, 0.6, 0.8, 0.7]), 1 / 4)
    half = 3.182446 * (0.05 / 3 * (1 / 4 + 1 / 3)) ** 0.5
    assert found == pytest.approx({"mean": 0.65, "low": 0.65 - half, "high": 0.65 + half}, abs=1e-6)


@pytest.fixture
def measured(tmp_path):
    """A table with a property that follows from two of its columns, written in two files."""
    columns = table(n_rows=200)
    truth = columns["c0"] + columns["c1"]
    ids = [f"m{k}" for k in range(200)]
    for number, part in enumerate((slice(0, 130), slice(130, 200))):
        content = {"id": ids[part], "measured": truth[part]} | {name: each[part] for name, each in columns.items()}
        write_table(tmp_path / "in" / f"t{number}.parquet", content, metadata=0)
    return tmp_path / "in" / "t*.parquet", dict(zip(ids, truth, strict=True))


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """judge(selection, **settings): the JSON of the check of a finished selection."""

    def run(selection, *flags: str, **settings) -> dict:
        given = ["--manifest", str(selection.folder / "pass0_sampling.json")]
        given += ["--columns", str(selection.folder / "final_descriptors.txt")]
        given += [text for k in "23" for text in (f"--pass{k}", str(selection.folder / f"pass{k}_columns.txt"))]
        given += ["--out-details", str(tmp_path / "u.json"), "--out-table", str(tmp_path / "u.tsv"), *flags]
        small = {"utility_folds": 3, "utility_repeats": 1, "utility_random_sets": 2} | settings
        monkeypatch.setattr(sys, "argv", ["utility", *given, "--settings", json.dumps(small)])
        door.main()
        return json.loads((tmp_path / "u.json").read_text())

    return run


def test_the_number_of_threads_changes_nothing_and_the_table_is_that_of_the_json(measured, select, judge, tmp_path):
    pattern, _ = measured
    selection = select(pattern, metadata_columns=["id", "measured"])
    one = judge(selection, utility_target="measured")
    two = judge(selection, "--threads", "2", "--batch_rows", "17", utility_target="measured")
    assert one == two
    assert one["task"] == "regression" and one["rows"] == one["rows_with_target"] == 200
    ridge = one["models"]["ridge"]
    assert ridge["all"]["mean"] > 0.9 > ridge["random"]["low"]
    assert ridge["selected minus all"]["mean"] == pytest.approx(ridge["selected"]["mean"] - ridge["all"]["mean"])
    assert [len(ridge[name]["scores"]) for name in ("all", "random")] == [3, 2]
    lines = [line.split("\t") for line in (tmp_path / "u.tsv").read_text().splitlines()]
    assert lines[0] == list(door.HEADER) and len(lines) == 1 + 2 * 9
    assert [lines[10][4], lines[10][2]] == [f"{ridge['all']['mean']:.4f}", str(one["descriptors"]["all"])]


def test_a_property_in_a_file_of_its_own_is_found_by_the_key(measured, select, judge, tmp_path):
    pattern, truth = measured
    selection = select(pattern, metadata_columns=["id", "measured"])
    inside = judge(selection, utility_target="measured")
    shuffled = sorted(truth)  # not the order of the table
    lines = ["name,other,measured,id", *(f'"x, y",1,{float(truth[name])!r},{name}' for name in shuffled), "z,1,,nobody"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    given = {"utility_target": "measured", "utility_key": "id"}
    outside = judge(selection, **given, utility_file=str(tmp_path / "t.csv"))
    assert outside["models"] == inside["models"]
    pq.write_table(pa.table({"id": list(truth), "measured": list(truth.values())}), tmp_path / "t.parquet")
    assert judge(selection, **given, utility_file=str(tmp_path / "t.parquet"))["models"] == inside["models"]


def test_rows_are_taken_by_hash_and_are_those_that_have_a_value(tmp_path):
    values = np.arange(1000.0)
    values[::3] = np.nan
    for number in range(2):
        part = slice(500 * number, 500 * number + 500)
        write_table(tmp_path / f"{number}.parquet", {"y": values[part], "x": np.arange(1000.0)[part]}, metadata=0)
    opened = open_table([str(tmp_path / f"{number}.parquet") for number in range(2)], 0, ["y"], [])
    found = [
        targets.choose(opened, ["0", "1"], "y", lambda column: column, limit, 5, batch_rows)
        for limit, batch_rows in ((100, 7), (100, 10_000), (10_000, 33))
    ]
    assert all(there == 666 for _, _, there in found)
    for masks, chosen, _ in found:
        kept = values[np.concatenate(masks)]
        assert np.array_equal(kept, chosen)
        assert np.array_equal(targets.descriptors_of(opened, masks, 9)[:, 0], kept)
    assert np.array_equal(found[0][1], found[1][1]) and [len(each[1]) for each in found] == [100, 100, 666]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"utility_target": "nobody"}, "descriptors.utility_target names 'nobody', but no column of"),
        ({"utility_target": "c0"}, "is one of the descriptors and would predict itself; list it under exclude_columns"),
        ({"utility_target": "id"}, "'id': its class 'm0' has 1 rows, fewer than utility_folds = 3"),
        ({"utility_target": "id", "utility_task": "regression"}, "'id' is text; utility_task cannot be regression"),
        ({"utility_target": "z", "utility_key": "id", "utility_file": "t.csv"}, "t.csv: has no column 'z'"),
        ({"utility_target": "y", "utility_key": "k", "utility_file": "t.csv"}, "utility_key names 'k', but no column"),
        ({"utility_target": "y", "utility_key": "id", "utility_file": "t.csv"}, "t.csv: id 'm1' is there twice"),
        ({"utility_target": "y", "utility_key": "id", "utility_file": "no.csv"}, "no.csv: cannot be read"),
        ({"utility_target": "y", "utility_key": "id", "utility_file": "few.csv"}, "has a value in 1 rows, too few"),
    ],
)
def test_what_the_user_can_mend_is_one_line(measured, select, judge, capsys, tmp_path, monkeypatch, settings, message):
    selection = select(measured[0], metadata_columns=["id", "measured"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("id,k,y\nm1,1,2\nm1,3,4\n")
    (tmp_path / "few.csv").write_text("id,y\nm1,1\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        judge(selection, **settings)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and message in told
