"""TaxoClass as its users drive it: what runs, what runs again, what an interruption or a mistake costs."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from common import files
from conftest import ROOT
from snakemake_runs import ENVIRONMENT, MACHINE, SNAKEMAKE
from taxoclass import bundle, products
from taxoclass.metrics_log import MetricsLog
from tiny_taxoclass import (
    CLASSES,
    EDGES,
    IDS,
    STAGES,
    TEST,
    TRAIN,
    Outcome,
    Project,
    call,
    from_stage,
    inside,
    lines,
    save_model,
)

ENTAILMENT = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
SECOND = "results/taxoclass/self_train/iteration_2/model.pt"
GPU_STAGES = ["similarity", "train_classifier", "self_train_1", "predict"]


@pytest.fixture(autouse=True)
def one_thread():
    """As the jobs have: the sums of more threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models, dry_runs) -> Project:
    """A project that ran through once; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished") / "a folder with spaces"
    project = Project.create(folder, models, dry_runs)
    assert project.run() == from_stage("check_corpus")
    return project


@pytest.fixture(scope="module")
def commands(finished) -> dict[str, list[str]]:
    """The command line of every job of that project."""
    return finished.commands("--forceall")


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    return finished.copy(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path, models, dry_runs):
    """fresh(**settings): a project that has not run."""
    return lambda **settings: Project.create(tmp_path / "fresh", models, dry_runs, **settings)


# ---- the whole run


def test_the_whole_run_makes_every_declared_file(finished):
    declared = {
        "taxonomy.json", "corpus.parquet", "check_corpus.json", "similarity_matrix_all.npz", "similarity.json",
        "core_classes.npz", "core_classes.json", "best_model.pt", "best_model_labels.npz", "train_classifier.json",
        *(f"self_train/iteration_{i}/{name}" for i in (1, 2, 3) for name in ("model.pt", "labels.npz", "metrics.json")),
        "predictions.npy", "prediction_ids.txt", "labels.jsonl", "submission.csv", "model.pt", "predict.json",
        "metrics.json",
    }  # fmt: skip
    assert set(finished.bytes()) == declared
    assert not list(finished.results.rglob(".*"))
    for name in [*STAGES[:4], "self_train_1", "self_train_2", "self_train_3", *STAGES[5:]]:
        provenance = finished.json(f"provenance/{name}.json")
        assert provenance["seconds"] > 0 and provenance["code"]
        assert re.search(
            rf"(?m)^{name.rstrip('_123')} *\| .* MB", (finished.folder / "logs" / f"{name}.log").read_text()
        )
        assert (finished.folder / "benchmarks" / f"{name}.tsv").exists()


def test_stage_1_in_shards_is_jobs_of_their_own_and_says_the_same(finished, tmp_path):
    project = finished.copy(tmp_path / "shards")
    shutil.rmtree(project.results / "cache")
    project.configure(similarity_shards=3)
    *shards, merge = project.run("--until", "similarity")
    assert sorted(shards) == [f"similarity_shard {shard}" for shard in (1, 2, 3)] and merge == "similarity"
    assert not (project.results / "shards").exists() or not any((project.results / "shards").iterdir())
    taxonomy = products.read_taxonomy(str(finished.results / "taxonomy.json"))
    found, expected = (
        products.read_similarity(str(each.results / "similarity_matrix_all.npz"), IDS, taxonomy)
        for each in (project, finished)
    )
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
    assert project.planned("--until", "similarity") == []


def test_the_similarity_file_has_the_agreed_arrays_and_the_users_ids(finished):
    with np.load(finished.results / "similarity_matrix_all.npz", allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    assert set(found) >= {"similarity_matrix", "doc_ids", "class_ids", "train_size", "test_size", "meta"}
    assert found["similarity_matrix"].dtype == np.float32
    assert found["similarity_matrix"].shape == (len(IDS), len(CLASSES))
    assert np.isfinite(found["similarity_matrix"]).all()
    assert found["doc_ids"].tolist() == IDS and found["class_ids"].tolist() == list(CLASSES)
    assert (int(found["train_size"]), int(found["test_size"])) == (len(TRAIN), len(TEST))
    assert json.loads(str(found["meta"]))["scale"] == "cosine"


def test_core_classes_need_no_pickle_and_have_the_users_ids(finished):
    with np.load(finished.results / "core_classes.npz", allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    assert found["doc_ids"].tolist() == IDS and found["class_ids"].tolist() == list(CLASSES)
    assert len(found["core_indptr"]) == len(IDS) + 1 and found["core_indptr"][-1] == len(found["core_indices"])


def test_labels_predictions_and_submission_say_the_same_with_the_users_ids(finished):
    doc_ids = [each.doc_id for each in TEST]
    predictions = np.load(finished.results / "predictions.npy", allow_pickle=False)
    assert predictions.dtype == np.float32 and predictions.shape == (len(TEST), len(CLASSES))
    assert ((predictions >= 0) & (predictions <= 1)).all()
    assert (finished.results / "prediction_ids.txt").read_text().splitlines() == doc_ids
    records = [json.loads(line) for line in (finished.results / "labels.jsonl").read_text().splitlines()]
    assert [record["doc_id"] for record in records] == doc_ids
    for record, row in zip(records, predictions, strict=True):
        assert record["names"] == [CLASSES[each].split("|")[0] for each in record["labels"]]
        expected = [row[list(CLASSES).index(each)] for each in record["labels"]]
        np.testing.assert_allclose(record["scores"], expected, atol=1e-6)
        assert set(zip(record["path"], record["path"][1:], strict=False)) <= set(EDGES)
    with open(finished.results / "submission.csv", newline="") as handle:
        header, *submitted = csv.reader(handle)
    assert header == ["id", "labels"]
    assert submitted == [[each["doc_id"], ",".join(sorted(each["labels"], key=int))] for each in records]


def test_labels_as_parquet_are_made_when_asked_for_and_say_what_the_lines_say(copied):
    assert not (copied.results / "labels.parquet").exists()
    assert copied.run(target="labels_parquet") == ["labels_parquet"]
    records = [json.loads(line) for line in (copied.results / "labels.jsonl").read_text().splitlines()]
    assert pq.read_table(copied.results / "labels.parquet").to_pylist() == records


def test_the_models_speak_of_the_users_classes_and_the_metrics_of_each_model(finished):
    for name in ("best_model.pt", "self_train/iteration_3/model.pt", "model.pt"):
        assert bundle.load(finished.results / name).taxonomy.ids == tuple(CLASSES)
    found = finished.json("metrics.json")
    assert list(found["example_f1_by_model"]) == ["best_model", "iteration_1", "iteration_2", "iteration_3"]
    assert found["documents"] == len(TEST)


def test_the_curve_and_the_evaluation_are_of_the_same_documents_and_labels(fresh, capfd):
    # of the last model by itself: neither words nor neighbours
    project = fresh(word_weight=0, predict_neighbours=0)
    project.replay(capfd)
    found = project.json("metrics.json")
    assert found["example_f1_by_model"]["iteration_3"] == pytest.approx(found["strict"]["example_f1"])


def test_a_finished_run_has_nothing_to_do(finished):
    assert finished.planned() == []


def test_without_a_granted_gpu_one_line_says_that_the_cpu_is_used(finished):
    for name in GPU_STAGES:
        told = [
            line for line in (finished.folder / "logs" / f"{name}.log").read_text().splitlines() if "device" in line
        ]
        assert len(told) == 1 and told[0].endswith("| device: cpu x 1 (no GPU granted)")


# ---- what stops where


def test_until_core_classes_stops_there(fresh):
    assert fresh().planned("--until", "core_classes") == STAGES[:3]


def test_until_a_file_of_an_iteration_stops_there(fresh):
    assert fresh().planned("--until", SECOND) == [*STAGES[:4], "self_train 1", "self_train 2"]


# ---- what runs again


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_touching_files_reruns_nothing(copied, backwards):
    moment = time.time()
    for folder in ("data", "models", "scripts", "workflow", "results"):
        for path in sorted((copied.folder / folder).rglob("*"), reverse=backwards):
            moment += 0.01
            os.utime(path, (moment, moment))
    assert copied.planned() == []


def test_settings_of_the_machine_rerun_nothing(copied):
    copied.configure(device="cpu", local_files_only=False, loggers=["tensorboard"])
    assert copied.planned("--cores", "2") == []


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ({"hypothesis_template": "{class_name}"}, "similarity"),
        ({"similarity_max_length": 32}, "similarity"),
        ({"class_names": "mean"}, "similarity"),
        ({"neighbours": 5}, "similarity"),
        ({"core_share": 0.4}, "core_classes"),
        ({"mining": "taxoclass"}, "core_classes"),
        ({"gnn": "off"}, "train_classifier"),
        ({"encoder_trainable": True}, "train_classifier"),
        ({"batch_size": 8}, "train_classifier"),
        ({"random_seed": 7}, "similarity"),
        ({"self_train_threshold": 0.9}, "self_train 1"),
        ({"self_train_stop": 0.0}, "self_train 1"),
        ({"decode": "topk"}, "predict"),
        ({"max_labels": 2}, "predict"),
        ({"metric_ks": [1, 2]}, "evaluate"),
    ],
    ids=str,  # the same in every process
)
def test_a_changed_setting_reruns_exactly_its_stage_and_later_ones(copied, setting, first):
    copied.configure(**setting)
    assert copied.planned() == from_stage(first)


def test_settings_that_the_chosen_method_does_not_read_rerun_no_similarity(copied):
    copied.configure(nli_score="entail_vs_contra", candidate_paths=5, prefilter_model="models/other")
    assert copied.planned() == []


def test_further_iterations_run_alone(copied):
    copied.configure(self_train_iterations=5)
    assert copied.planned() == ["self_train 4", "self_train 5", "predict", "evaluate"]


@pytest.mark.parametrize("iterations", [1, 0])
def test_fewer_iterations_label_with_the_earlier_model(copied, capfd, iterations):
    copied.configure(self_train_iterations=iterations)
    assert list(copied.replayed(capfd)) == ["predict", "evaluate"]
    name = f"self_train/iteration_{iterations}/model.pt" if iterations else "best_model.pt"
    used, labelling = (bundle.load(copied.results / each).model.state_dict() for each in (name, "model.pt"))
    assert bundle.weights_digest(used) == bundle.weights_digest(labelling)
    assert len(copied.json("metrics.json")["example_f1_by_model"]) == 1 + iterations


@pytest.mark.parametrize("flag", ["--forcerun", "-R"])
def test_an_iteration_that_is_forced_takes_the_later_ones_with_it(finished, flag):
    assert finished.planned(flag, SECOND) == ["self_train 2", "self_train 3", "predict", "evaluate"]


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("mining", "similarity"),  # waves
        ("targets", "train_classifier"),
        ("self_training", "self_train 1"),
        ("metrics", "evaluate"),
    ],
)
def test_an_edit_of_the_numerics_reruns_the_stages_that_use_them(copied, module, first):
    path = copied.folder / "scripts" / "taxoclass" / f"{module}.py"
    path.write_text(path.read_text() + "\n# an edit\n")
    assert copied.planned() == from_stage(first)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("train.tsv", "check_corpus"),
        ("test.jsonl", "check_corpus"),
        ("classes.tsv", "check_corpus"),
        ("gold.tsv", "evaluate"),
    ],
)
def test_edited_data_rerun_what_reads_them(copied, name, first):
    path = copied.folder / "data" / name
    old = {"classes.tsv": "jazz", "gold.tsv": "901"}.get(name, "the")
    path.write_text(path.read_text().replace(old, "5" if name == "gold.tsv" else "swing", 1))
    assert copied.planned() == from_stage(first)


def test_results_of_other_settings_without_a_record_are_not_taken_for_these(copied):
    shutil.rmtree(copied.folder / ".snakemake")
    assert copied.planned() == []
    copied.configure(core_share=0.4)
    done = copied.dry_run()
    assert done.returncode != 0
    assert "core_classes.json: was made with core_share = None, not 0.4" in done.stderr


# ---- gold labels


@pytest.mark.parametrize("gold", ["none", "garbage"])
def test_gold_labels_change_nothing_but_the_metrics(fresh, finished, capfd, gold):
    project = fresh(gold_labels=None if gold == "none" else "data/gold.tsv")
    (project.folder / "data" / "gold.tsv").unlink()
    if gold == "garbage":
        (project.folder / "data" / "gold.tsv").write_bytes(b"\x00\xff no tab\n\n\x80")
    outcomes = project.replay(capfd)
    assert list(outcomes) == [each for each in from_stage("check_corpus") if gold == "garbage" or each != "evaluate"]
    assert project.bytes() == finished.bytes("metrics.json")
    if gold == "garbage":
        assert "data/gold.tsv: line 1: byte 2 (0xff) is not UTF-8" in outcomes["evaluate"].complaint


def test_training_documents_with_gold_labels_are_not_called_strangers(finished):
    assert "not in the corpus" not in (finished.folder / "logs" / "evaluate.log").read_text()


def test_no_command_but_that_of_evaluate_names_the_gold_labels(commands):
    assert list(commands) == from_stage("check_corpus")
    assert [job for job, command in commands.items() if "gold" in " ".join(command)] == ["evaluate"]


# ---- interruptions


def process_of(script: str, folder: Path) -> int:
    """The process of a script that works in a folder."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == folder.resolve():
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if len(command) > 1 and command[1].endswith(script.encode()):
                    return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process of {script} in {folder}")


def kill_while_it_trains(process: subprocess.Popen, script: str, project: Project, state: Path) -> None:
    """kill -9 the job, and nothing but it, once its state folder holds a finished epoch."""
    deadline = time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process_of(script, project.folder), signal.SIGKILL)
    process.wait()


def resumed_after(said: str) -> int:
    """The epoch after which a run went on."""
    return int(re.search(r"warning: resumed after epoch (\d+) of 60", said)[1])


def test_train_classifier_killed_with_9_and_run_again_gives_the_same_bytes(copied, tmp_path, capfd):
    copied.configure(epochs=60, self_train_iterations=1)
    killed = copied.copy(tmp_path / "killed")
    command = killed.commands("--until", "train_classifier")["train_classifier"]
    process = subprocess.Popen(
        [sys.executable, *command[1:]], cwd=killed.folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    kill_while_it_trains(process, "train_classifier.py", killed, killed.results / ".state/train_classifier/state.pt")
    assert process.returncode == -signal.SIGKILL
    again = killed.replayed(capfd)
    assert list(again) == from_stage("train_classifier", iterations=1)
    assert 1 <= resumed_after(again["train_classifier"].said) < 60
    copied.replayed(capfd)
    assert killed.bytes() == copied.bytes()
    assert not list(killed.results.rglob(".*"))


def test_a_killed_iteration_is_taken_up_by_the_same_command_with_the_same_bytes(finished, copied, tmp_path, capfd):
    copied.configure(self_train_epochs=60)
    killed = copied.copy(tmp_path / "killed")
    command = [*SNAKEMAKE, *MACHINE, "--until", "results/taxoclass/self_train/iteration_1/model.pt"]
    process = subprocess.Popen(
        command, cwd=killed.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder = killed.results / "self_train" / "iteration_1"
    kill_while_it_trains(process, "self_train.py", killed, folder / ".state" / "self_train" / "state.pt")
    assert process.returncode == 1
    assert not (folder / "model.pt").exists()
    assert killed.run(*command[len(SNAKEMAKE + MACHINE) :]) == ["self_train 1"]
    assert 1 <= resumed_after((killed.folder / "logs" / "self_train_1.log").read_text()) < 60
    assert not list(killed.results.rglob(".*"))
    assert killed.planned() == from_stage("self_train 2")
    killed.replayed(capfd)
    copied.replayed(capfd)
    assert killed.bytes() == copied.bytes()
    assert killed.bytes()["predictions.npy"] != finished.bytes()["predictions.npy"]


def test_a_state_of_other_settings_is_not_taken(copied, finished, capfd, monkeypatch):
    copied.configure(random_seed=7)
    command = copied.commands("--until", "train_classifier")["train_classifier"]
    log = MetricsLog.__call__

    def stopping(self, event, **values):
        if event == "epoch" and values["epoch"] == 2:
            raise KeyboardInterrupt
        log(self, event, **values)

    monkeypatch.setattr(MetricsLog, "__call__", stopping)
    with inside(copied.folder), pytest.raises(KeyboardInterrupt):
        call("train_classifier", command[2:], capfd)
    monkeypatch.setattr(MetricsLog, "__call__", log)
    assert (copied.results / ".state" / "train_classifier" / "state.pt").exists()
    copied.configure()
    outcomes = copied.replayed(capfd, "--forcerun", "train_classifier")
    assert list(outcomes) == from_stage("train_classifier")
    assert "resumed" not in outcomes["train_classifier"].said
    assert copied.bytes() == finished.bytes()


def test_a_mistake_in_the_corpus_costs_no_earlier_result(copied):
    before = copied.bytes()
    path = copied.folder / "data" / "train.tsv"
    good = path.read_bytes()
    path.write_bytes(good + b"\xff\n")
    done = copied.snakemake()
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "Error: data/train.tsv: line 67: byte 1 (0xff) is not UTF-8; convert the file" in done.stderr
    assert copied.bytes() == before
    path.write_bytes(good)
    assert copied.planned() == []


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("corpus.parquet", "check_corpus"),
        ("similarity_matrix_all.npz", "similarity"),
        ("core_classes.npz", "core_classes"),
        ("best_model.pt", "train_classifier"),
        ("train_classifier.json", "train_classifier"),
        ("self_train/iteration_1/model.pt", "self_train 1"),
        ("predictions.npy", "predict"),
    ],
)
def test_a_missing_product_is_made_again_with_what_follows(copied, name, first):
    # a job that failed or was killed loses its outputs, and Snakemake takes its new settings for those of the old ones
    (copied.results / name).unlink()
    assert copied.planned()[:1] == from_stage(first)[:1]


@pytest.mark.parametrize(
    "name", ["corpus.parquet", "core_classes.npz", "best_model.pt", "train_classifier.json", "predictions.npy"]
)
def test_a_product_that_was_cut_short_is_told_before_anything_runs(copied, name):
    path = copied.results / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = copied.bytes()
    done = copied.snakemake()
    assert done.returncode == 1 and f"{name}: " in done.stderr and "delete it" in done.stderr
    assert copied.bytes() == before


def test_a_model_and_the_record_of_another_are_not_taken_together(copied):
    path = copied.results / "train_classifier.json"
    files.write_json(path, files.read_json(path) | {"weights_digest": "0" * 64})
    done = copied.snakemake()
    assert done.returncode == 1
    assert "train_classifier.json: was not written with " in (copied.folder / "logs" / "self_train_1.log").read_text()


@pytest.mark.parametrize("key", ["doc_encoder_model", "similarity_model"])
def test_a_model_that_is_not_there_costs_no_earlier_result(copied, key):
    before = copied.bytes()
    copied.configure(**{key: "models/nowhere/at/all"})
    done = copied.snakemake()
    assert done.returncode == 1 and f"config: taxoclass.{key}: models/nowhere/at/all: there is no such" in done.stderr
    assert copied.bytes() == before


def test_a_text_field_that_is_not_there_costs_no_earlier_result(copied):
    before = copied.bytes()
    copied.configure(text_field="body")
    done = copied.snakemake()
    assert done.returncode == 1 and "no header line that names a column body" in done.stderr
    assert copied.bytes() == before


# ---- iterations


def test_after_a_converged_iteration_the_others_hand_its_model_on(finished):
    folders = [finished.results / "self_train" / f"iteration_{i}" for i in (1, 2, 3)]
    for name in ("model.pt", "labels.npz"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
        assert len({(folder / name).stat().st_ino for folder in folders}) == 1, "three copies of one model"
    first, *others = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert first["passes_through"] and len(first["history"]) == 4
    for number, each in zip((2, 3), others, strict=True):
        assert (each["iteration"], each["passed_from"], each["kept"]) == (number, 1, "start")
        assert each["why"] == "iteration 1 was the last to train"
        assert each["weights_digest"] == first["weights_digest"]
        log = (finished.folder / "logs" / f"self_train_{number}.log").read_text()
        assert f"iteration {number} | the model of iteration 1 is passed on" in log


def test_iterations_that_do_not_converge_all_train(copied, capfd):
    copied.configure(self_train_stop=0.0, self_train_head_lr=1e-5)
    assert list(copied.replayed(capfd)) == from_stage("self_train 1")
    found = [copied.json(f"self_train/iteration_{i}/metrics.json") for i in (1, 2, 3)]
    assert [each["iteration"] for each in found] == [1, 2, 3]
    assert not any(each["passes_through"] or "passed_from" in each for each in found)
    assert len({each["weights_digest"] for each in found}) == 3
    models = [copied.results / "self_train" / f"iteration_{i}" / "model.pt" for i in (1, 2, 3)]
    assert len({path.stat().st_ino for path in models}) == 3


# ---- new text


@pytest.fixture
def new_texts(tmp_path) -> Path:
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps({"id": each.doc_id, "text": each.text}) + "\n" for each in TEST))
    return path


def predict(project: Project, capture, *arguments: object) -> Outcome:
    with inside(project.folder):
        return call("predict", ["--model", "results/taxoclass/model.pt", *map(str, arguments)], capture)


def test_new_text_is_labelled_on_standard_output_from_any_folder(finished, tmp_path, new_texts):
    moved = shutil.copytree(finished.folder / "models" / "encoder", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    command = [
        sys.executable, ROOT / "scripts" / "predict.py", "--model", finished.results / "model.pt", "--input", new_texts,
        "--encoder", moved,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (finished.results / "labels.jsonl").read_text()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_new_text_gets_the_same_labels_one_document_at_a_time(finished, tmp_path, capfd, new_texts):
    together = tmp_path / "together.jsonl"
    outcome = predict(finished, capfd, "--input", new_texts, "--out-labels", together, "--predict_neighbours", 0)
    assert outcome.code == 0, outcome.said
    expected = together.read_text().splitlines()[:2]
    for each, line in zip(TEST, expected, strict=False):
        path = tmp_path / "one.jsonl"
        path.write_text(json.dumps({"id": each.doc_id, "text": each.text}) + "\n")
        outcome = predict(finished, capfd, "--input", path, "--out-labels", tmp_path / "labels.jsonl")
        assert outcome.code == 0, outcome.said
        found, wanted = json.loads((tmp_path / "labels.jsonl").read_text()), json.loads(line)
        assert found["labels"] == wanted["labels"] and found["path"] == wanted["path"]
        np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-4)


def test_an_encoder_that_is_not_where_it_was_is_asked_for(finished, tmp_path, capfd, new_texts):
    with inside(tmp_path):
        outcome = call("predict", ["--model", str(finished.results / "model.pt"), "--input", str(new_texts)], capfd)
    assert "models/encoder" in outcome.complaint and "--encoder" in outcome.complaint


def test_another_encoder_is_refused_in_words(finished, tmp_path, capfd, new_texts):
    save_model(tmp_path / "other", seed=1)
    outcome = predict(finished, capfd, "--input", new_texts, "--encoder", tmp_path / "other")
    assert "its weights" in outcome.complaint and "the training" in outcome.complaint


def test_another_tokenizer_is_refused_in_words(finished, tmp_path, capfd, new_texts):
    other = shutil.copytree(finished.folder / "models" / "encoder", tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(
        text.replace('"whiskers"', '"whisker"').replace('"lowercase": true', '"lowercase": false')
    )
    assert (other / "tokenizer.json").read_text() != text
    outcome = predict(finished, capfd, "--input", new_texts, "--encoder", other)
    assert "its tokenizer" in outcome.complaint and "the training" in outcome.complaint


def test_a_model_of_another_taxonomy_is_refused_in_words(copied, capfd, new_texts):
    for path in ((copied.folder / "data" / name) for name in ("classes.tsv", "hierarchy.tsv")):
        path.write_text(path.read_text().replace("44", "45"))
    copied.replayed(capfd, "--until", "check_corpus")
    outcome = predict(copied, capfd, "--input", new_texts, "--taxonomy", copied.results / "taxonomy.json")
    assert "was trained for another taxonomy" in outcome.complaint
    assert "44" in outcome.complaint and "45" in outcome.complaint


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("run by a pickle",)


@pytest.mark.parametrize("content", ["pickle", "torch pickle", "cut", "flipped", "text", "absent"])
def test_what_is_no_sound_model_is_refused_and_not_run(copied, capfd, new_texts, content):
    path = copied.results / "model.pt"
    good = path.read_bytes()
    if content == "torch pickle":
        torch.save({"header": Harmful()}, path)
    elif content == "absent":
        path.unlink()
    else:
        middle = len(good) // 2
        bad = {
            "pickle": pickle.dumps(Harmful()),
            "cut": good[: len(good) // 2],
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "text": b"no model\n",
        }
        path.write_bytes(bad[content])
    outcome = predict(copied, capfd, "--input", new_texts)
    assert "model.pt: " in outcome.complaint and outcome.complaint.startswith("predict: ")
    assert not (copied.folder / "run by a pickle").exists()


# ---- mistakes of the user


CLASSES_TEXT, EDGES_TEXT = lines(list(CLASSES.items())), lines(EDGES)
TRAIN_TEXT = lines([(each.doc_id, each.text) for each in TRAIN])
TWICE = TRAIN[0].doc_id

MISTAKES = {
    "cycle": ("hierarchy.tsv", EDGES_TEXT + "8\t3\n", ["line 11", "cycle", "71 -> 8 -> 3 -> 71", "remove one"]),
    "unknown id in the hierarchy": ("hierarchy.tsv", EDGES_TEXT + "8\t7\n", ["line 11", "'7'", "data/classes.tsv"]),
    "self loop": ("hierarchy.tsv", EDGES_TEXT + "8\t8\n", ["line 11", "'8'", "its own parent", "remove"]),
    "edge without a tab": ("hierarchy.tsv", EDGES_TEXT + "8 71\n", ["line 11", "no tab", "'8 71'"]),
    "duplicate class id": ("classes.tsv", CLASSES_TEXT + "17\tlions\n", ["line 12", "'17'", "line 3"]),
    "class without a name": ("classes.tsv", CLASSES_TEXT + "99\t\n", ["line 12", "'99'", "no name", "write one"]),
    "class without a tab": ("classes.tsv", CLASSES_TEXT + "99 lions\n", ["line 12", "no tab", "'99 lions'"]),
    "classes not in UTF-8": ("classes.tsv", CLASSES_TEXT.encode() + b"99\tl\xf6wen\n", ["line 12", "0xf6", "iconv"]),
    "no class": ("classes.tsv", "", ["no class in it"]),
    "no document": ("train.tsv", "", ["no document in it"]),
    "document without a tab": ("train.tsv", TRAIN_TEXT + "x text\n", ["line 67", "no tab", "'x text'"]),
    "document without an id": ("train.tsv", TRAIN_TEXT + "\ttext\n", ["line 67", "document id is empty"]),
    "duplicate document": ("train.tsv", TRAIN_TEXT + f"{TWICE}\ttext\n", ["line 67", f"'{TWICE}'", "line 1 already"]),
    "document of both corpora": (
        "test.jsonl", f'{{"id": "{TWICE}", "text": "x"}}\n', [f"'{TWICE}'", "is in data/train.tsv already", "split"]
    ),
    "documents not in UTF-8": ("train.tsv", TRAIN_TEXT.encode() + b"x\t\xe9\n", ["line 67", "0xe9", "iconv"]),
    "broken JSON": ("test.jsonl", '{"id": 1, "text": "x"}\n{"id": 2,\n', ["line 2", "not valid JSON", "one whole"]),
    "no such field": ("test.jsonl", '{"id": 1, "body": "x"}\n', ["line 1", "no field text", "'body'", "text_field"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_data_is_one_line_with_its_place_and_the_remedy(copied, commands, capfd, mistake):
    name, content, words = MISTAKES[mistake]
    path = copied.folder / "data" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = copied.bytes()
    with inside(copied.folder):
        outcome = call("check_corpus", commands["check_corpus"][2:], capfd)
    assert outcome.complaint.startswith(f"check_corpus: data/{name}: ")
    assert all(word in outcome.complaint for word in words), outcome.complaint
    assert copied.bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{TEST[0].doc_id}\t901,77\n", ["line 1", "'77'", "not in the taxonomy", "correct it or add the class"]),
        (f"{TEST[0].doc_id} 901\n", ["line 1", "no tab"]),
        ("nobody\t901\n", ["none of its documents"]),
        ("", ["no document with a class"]),
    ],
    ids=["unknown class", "no tab", "other documents", "empty"],
)
def test_a_mistake_in_the_gold_labels_is_one_line_and_costs_nothing(copied, capfd, content, words):
    (copied.folder / "data" / "gold.tsv").write_text(content)
    before = copied.bytes()
    outcomes = copied.replay(capfd)
    assert list(outcomes) == ["evaluate"]
    assert outcomes["evaluate"].complaint.startswith("evaluate: data/gold.tsv: ")
    assert all(word in outcomes["evaluate"].complaint for word in words), outcomes["evaluate"].complaint
    assert copied.bytes() == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_corpus": "data/nobody.tsv"}, ["taxoclass.train_corpus", "data/nobody.tsv", "no readable file"]),
        ({"gold_labels": "data"}, ["taxoclass.gold_labels", "folder"]),
        ({"hierarchy_file": None}, ["taxoclass.hierarchy_file is required"]),
        ({"self_train_iteratons": 3}, ["self_train_iteratons", "did you mean self_train_iterations?"]),
        ({"self_train_iterations": "three"}, ["taxoclass.self_train_iterations", "'three'"]),
        ({"mining": "path"}, ["taxoclass.mining", "'path'", "'path_margin' or 'taxoclass'"]),
        ({"candidates": "topdown"}, ["candidates = 'topdown'", "backend = 'nli'"]),
        ({"min_labels": 3, "max_labels": 2}, ["min_labels = 3", "max_labels = 2"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_config_ends_in_one_line(copied, settings, words):
    copied.configure(**settings)
    done = copied.dry_run()
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    complaint = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(complaint) == 1
    assert all(word in complaint[0] for word in words), complaint


def test_without_any_core_class_training_is_refused_with_the_remedy(copied, capfd):
    copied.configure(mining="taxoclass", min_conf=5.0)
    outcomes = copied.replay(capfd)
    assert list(outcomes) == ["core_classes", "train_classifier"]
    assert "warning: no document has a core class" in outcomes["core_classes"].said
    assert "no document has a core class" in outcomes["train_classifier"].complaint
    assert "min_conf" in outcomes["train_classifier"].complaint


def test_a_model_without_an_entailment_label_is_refused_in_words(copied, capfd):
    save_model(copied.folder / "models" / "unnamed", ("LABEL_0", "LABEL_1", "LABEL_2"))
    copied.configure(backend="nli", similarity_model="models/unnamed", hypothesis_template=None)
    outcomes = copied.replay(capfd)
    assert list(outcomes) == ["similarity"]
    assert "none of the model's labels (LABEL_0, LABEL_1, LABEL_2)" in outcomes["similarity"].complaint


def test_a_sentence_encoder_as_an_entailment_model_is_refused_in_words(copied, capfd):
    copied.configure(backend="nli")
    assert "model.safetensors lacks" in copied.replay(capfd)["similarity"].complaint


# ---- the smallest inputs


def test_a_taxonomy_of_one_class_runs_through(fresh, capfd):
    project = fresh(gold_labels=None)
    (project.folder / "data" / "classes.tsv").write_text("901\tanimals\n")
    (project.folder / "data" / "hierarchy.tsv").write_text("")
    project.replayed(capfd)
    records = [json.loads(line) for line in (project.results / "labels.jsonl").read_text().splitlines()]
    assert len(records) == len(TEST) and all(record["labels"] == ["901"] for record in records)


def test_one_document_runs_through(fresh, capfd):
    project = fresh(gold_labels=None, test_corpus=None)
    (project.folder / "data" / "train.tsv").write_text("only\tthe cats purring of litter\n")
    project.replayed(capfd)
    records = [json.loads(line) for line in (project.results / "labels.jsonl").read_text().splitlines()]
    assert [record["doc_id"] for record in records] == ["only"] and records[0]["labels"]


# ---- other ways to score and to train


def similarity_of(project: Project) -> np.ndarray:
    with np.load(project.results / "similarity_matrix_all.npz", allow_pickle=False) as stored:
        return stored["similarity_matrix"]


def test_entailment_scored_from_the_top_gives_the_core_classes_of_all_pairs(copied, capfd):
    save_model(copied.folder / "models" / "nli", ENTAILMENT)
    shared = {
        "backend": "nli", "similarity_model": "models/nli", "hypothesis_template": None, "similarity_max_length": 128,
        "mining": "taxoclass", "candidate_selection_quota": 1, "candidate_selection_cap": 0,
        "prefilter_model": "models/encoder", "candidate_paths": 2,
    }  # fmt: skip
    found, cores = {}, {}
    for candidates in ("all", "topdown", "paths"):
        copied.configure(**shared, candidates=candidates)
        copied.replayed(capfd, "--until", "core_classes")
        found[candidates] = similarity_of(copied)
        with np.load(copied.results / "core_classes.npz", allow_pickle=False) as stored:
            cores[candidates] = {name: stored[name] for name in ("core_indptr", "core_indices", "core_confidence")}
        shutil.rmtree(copied.results / "cache")  # each scores for itself
    assert np.isfinite(found["all"]).all()
    for candidates in ("topdown", "paths"):
        scored = ~np.isnan(found[candidates])
        assert 0 < scored.mean() < 1, candidates
        np.testing.assert_allclose(found[candidates][scored], found["all"][scored], rtol=1e-4, atol=1e-4)
    assert len(cores["all"]["core_indices"])
    np.testing.assert_array_equal(cores["topdown"]["core_indptr"], cores["all"]["core_indptr"])
    np.testing.assert_array_equal(cores["topdown"]["core_indices"], cores["all"]["core_indices"])
    np.testing.assert_allclose(
        cores["topdown"]["core_confidence"], cores["all"]["core_confidence"], rtol=1e-3, atol=1e-5
    )


def test_a_trained_encoder_runs_through_and_labels_new_text_alike(copied, capfd, new_texts):
    copied.configure(encoder_trainable=True, epochs=1, self_train_epochs=1, self_train_iterations=1)
    assert list(copied.replayed(capfd)) == from_stage("train_classifier", iterations=1)
    made = bundle.load(copied.results / "model.pt")
    assert made.model.encoder is not None and made.encoder["trainable"]
    before = bundle.load(copied.results / "best_model.pt").model.state_dict()
    name = next(name for name in before if name.startswith("encoder.") and name.endswith("query.weight"))
    assert not torch.equal(before[name], made.model.state_dict()[name]), "the encoder was not trained on"
    outcome = predict(copied, capfd, "--input", new_texts, "--out-labels", copied.folder / "again.jsonl")
    assert outcome.code == 0, outcome.said
    assert (copied.folder / "again.jsonl").read_text() == (copied.results / "labels.jsonl").read_text()
