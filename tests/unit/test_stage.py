"""Every script is the same kind of command line: config keys as flags, one line a mistake, a record of the run."""

import importlib
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from threadpoolctl import threadpool_info

from common.config import STAGES, runtime_of, with_runtime
from common.descriptors_settings import Descriptors, Pass0, Pass1, Pass2, Runtime
from common.errors import UserError
from common.files import read_json
from common.molecules_settings import Molecules
from common.stage import Stage, run_stage
from common.taxoclass_settings import CheckCorpus, CoreClasses, Given, Similarity, Taxoclass, TaxoclassRuntime

MACHINERY = {"settings", "threads", "gpu", "provenance", "code"}
# a value other than the default for every setting, as YAML has it
OTHER = {
    "parquet_glob": "data/*.parquet",
    "n_metadata": 3,
    "selected_table": True,
    "utility_target": "activity",
    "utility_file": "other.csv",
    "utility_key": "name",
    "utility_task": "regression",
    "utility_folds": 4,
    "utility_repeats": 3,
    "utility_random_sets": 2,
    "utility_rows": 500,
    "molecules_glob": "data/*.csv",
    "smiles_column": "structure",
    "id_column": "name",
    "column_names": ["cid", "smiles"],
    "descriptor_sets": ["rdkit", "mordred"],
    "timeout_seconds": 5.5,
    "molecule_shards": 4,
    "metadata_columns": ["a b", "7"],
    "exclude_columns": ["Target", "null"],
    "sample_per_file": 0.25,
    "sample_rows": 1000,
    "variance_threshold": 0.01,
    "range_mode": "raw",
    "trim_lower": 5,
    "trim_upper": 90.5,
    "max_missing_ratio": 1,
    "min_effective_n": 7,
    "spearman_threshold": 0.9,
    "prescreen": "countsketch",
    "m": 64,
    "r": 3,
    "vif_threshold": 5,
    "vif_on": "pearson",
    "ties": "column_order",
    "nonlinear_threshold": 1,
    "w_hsic": 0,
    "w_rdc": 1e-3,
    "hsic_D": 8,
    "rdc_d": 6,
    "rdc_seeds": 1,
    "features": "random",
    "pass4_rows": 500,
    "topk": 3,
    "topk_above": 10,
    "leiden_resolution": 0.5,
    "n_consensus": 1,
    "clustering": "leader",
    "missing": "mean",
    "random_seed": 1557,
    "batch_rows": 50_000,
    "shards": 5,
    "max_host_memory_gb": 0.5,
    "max_gpu_memory_gb": 8,
    "text_field": "2024",
    "train_split": "train",
    "test_split": "1",
    "candidate_selection_quota": 3,
    "candidate_selection_cap": 0,
    "candidate_selection_power": 1.5,
    "backend": "nli",
    "similarity_model": "models/my NLI model",
    "hypothesis_template": ["It's about {path}, or $HOME.", "{class_name}"],
    "class_names": "mean",
    "nli_score": "entail_vs_contra",
    "candidates": "paths",
    "candidate_paths": 5,
    "prefilter_model": "1e5",
    "similarity_max_length": 64,
    "similarity_chunks": 3,
    "neighbours": 0,
    "clusterings": 3,
    "word_weight": 0.5,
    "word_language": "german",
    "predict_neighbours": 0,
    "batch_tokens": 1024,
    "level_weights": [1, 2.5],
    "mining": "taxoclass",
    "core_share": 1,
    "confidence_threshold_percentile": 0,
    "require_positive": False,
    "min_conf": -0.25,
    "batch_size": 32,
    "self_train_batch_size": 16,
    "micro_batch": 4,
    "weight_decay": 0,
    "warmup": 0.5,
    "clip": 1e-3,
    "validation_share": 0.2,
    "nonfinite_steps": 1,
    "mixed_precision": False,
    "doc_encoder_model": "bert-base-uncased",
    "encoder_trainable": True,
    "doc_max_length": 128,
    "doc_chunks": 2,
    "doc_pooling": "cls",
    "class_template": "{path}",
    "gnn": "off",
    "gnn_num_layers": 1,
    "epochs": 1,
    "min_steps": 0,
    "encoder_lr": 1e-6,
    "head_lr": 4e-3,
    "gradient_checkpointing": True,
    "self_train_epochs": 1,
    "self_train_lr": 1e-5,
    "self_train_head_lr": 1e-4,
    "self_train_temperature": 1,
    "self_train_threshold": 0.5,
    "self_train_target": "hard",
    "self_train_refresh": 100,
    "self_train_stop": 0,
    "decode": "beam",
    "decode_k": 1,
    "decode_threshold": 0,
    "decode_stop": 1,
    "beam_width": 1,
    "marginal": 0.5,
    "min_labels": 0,
    "max_labels": 3,
    "consistent": False,
    "metric_ks": [10],
    "bootstrap_resamples": 0,
    "device": "cpu",
    "similarity_shards": 4,
    "local_files_only": False,
    "loggers": ["wandb", "tensorboard"],
}
# what a stage has to be given beside
BESIDE = {"pass0": {"parquet_glob": "x"}, "read_molecules": {"molecules_glob": "x"}}
# what a value is allowed with
TABLE = {"utility_target": "y", "utility_file": "f", "utility_key": "k"}
TOGETHER = {"candidates": {"backend": "nli"}, "utility_file": TABLE, "utility_key": TABLE}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a stage as its command line would; what it was given is returned."""

    def run(*arguments: object, model=Pass1, work=lambda stage: None) -> Stage:
        given: list[Stage] = []
        monkeypatch.setattr(sys, "argv", ["/somewhere/toy.py", *map(str, arguments)])
        run_stage("toy", model, {}, {}, lambda stage: (given.append(stage), work(stage)))
        return given[0]

    return run


def as_flags(settings: dict) -> list[str]:
    flags: list[str] = []
    for key, value in settings.items():
        flags += [f"--{key}", *(value if isinstance(value, list) else [str(value)])]
    return flags


# ---- settings


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_every_setting_with_its_default_and_nothing_else(stage, monkeypatch, capsys):
    door = importlib.import_module(stage)
    monkeypatch.setattr(sys, "argv", [f"{stage}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        door.main()
    assert caught.value.code == 0
    text = capsys.readouterr().out
    fields = with_runtime(STAGES[stage][1]).model_fields
    listed = dict(re.findall(r"^  --(\w\S*)(.*(?:\n {6,}.*)*)", text, re.MULTILINE))
    settings = {flag: help for flag, help in listed.items() if "_" in flag or flag in fields}
    assert settings.keys() == fields.keys()
    for key, help in settings.items():
        words = " ".join(help.split())
        assert fields[key].description in words
        assert fields[key].is_required() or words.endswith(f"(default {json.dumps(fields[key].default)})")
    files = {flag for flag in listed if flag not in settings} - MACHINERY
    assert files and all("-" in flag or flag.isalnum() for flag in files)


def test_help_may_speak_of_percent(run, capsys):
    class Half(Pass1):
        half: int = Field(50, description="as in 50 % of %s")

    with pytest.raises(SystemExit):
        run("--help", model=Half)
    assert "as in 50 % of %s (default 50)" in " ".join(capsys.readouterr().out.split())


def test_there_is_an_example_of_every_setting():
    settings = Descriptors.model_fields | Taxoclass.model_fields | Molecules.model_fields
    assert OTHER.keys() == settings.keys() - Given.model_fields.keys()  # which only the workflow has
    for key in OTHER:
        assert OTHER[key] != settings[key].default, key


@pytest.mark.parametrize("stage", STAGES)
def test_a_flag_means_what_the_config_key_means(stage, run):
    model = STAGES[stage][1]
    machine = runtime_of(model).model_fields
    for key in with_runtime(model).model_fields:
        wanted = BESIDE.get(stage, {}) | TOGETHER.get(key, {}) | {key: OTHER[key]}
        by_flag, by_json = run(*as_flags(wanted), model=model), run("--settings", json.dumps(wanted), model=model)
        assert by_flag.settings == by_json.settings
        assert by_flag.runtime == by_json.runtime
        assert getattr(by_flag.runtime if key in machine else by_flag.settings, key) == OTHER[key]


@pytest.mark.parametrize("text", ["true", "True", "1", "yes"])
def test_true_and_false_are_said_in_words_on_a_command_line(run, text):
    no = {"true": "false", "True": "False", "1": "0", "yes": "no"}[text]
    assert run("--require_positive", text, model=CoreClasses).settings.require_positive is True
    assert run("--require_positive", no, model=CoreClasses).settings.require_positive is False
    assert run("--local_files_only", no, model=CoreClasses).runtime == TaxoclassRuntime(local_files_only=False)


def test_one_template_by_flag_is_the_one_template_of_the_config(run):
    by_flag = run("--hypothesis_template", "about {path}", model=Similarity)
    by_json = run("--settings", '{"hypothesis_template": "about {path}"}', model=Similarity)
    for described in (False, True):
        assert by_flag.settings.templates(described) == by_json.settings.templates(described) == ["about {path}"]


def test_a_list_may_be_empty_on_a_command_line(run):
    given = run("--settings", '{"loggers": ["wandb"]}', "--loggers", model=CheckCorpus)
    assert given.runtime.loggers == []


def test_no_flag_leaves_the_defaults(run):
    given = run()
    assert given.settings == Pass1() and given.runtime == Runtime()
    assert (given.threads, given.gpu) == (1, None)


def test_a_flag_wins_over_the_settings_beside_it(run):
    given = run("--settings", '{"trim_lower": 1, "trim_upper": 99}', "--trim_lower", "3")
    assert (given.settings.trim_lower, given.settings.trim_upper) == (3.0, 99.0)


@pytest.mark.parametrize("nothing", ["null", "none", ""])
def test_nothing_can_be_said_on_a_command_line(run, nothing):
    given = run("--parquet_glob", "x", "--settings", '{"sample_rows": 5}', "--sample_rows", nothing, model=Pass0)
    assert given.settings.sample_rows is None
    assert run("--parquet_glob", "x", "--metadata_columns", nothing, model=Pass0).settings.metadata_columns is None


def test_counts_and_shares_stay_apart_on_a_command_line(run):
    for text, value in (("1", 1), ("0.5", 0.5), ("1e-3", 0.001)):
        given = run("--parquet_glob", "x", "--sample_per_file", text, model=Pass0).settings.sample_per_file
        assert given == value and type(given) is type(value)


@pytest.mark.parametrize("text", ["2024", "1e5", "nan", "null"])
def test_text_that_looks_like_a_number_stays_text(run, text):
    assert run("--parquet_glob", text, model=Pass0).settings.parquet_glob == text


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--variance_threshold", "abc"], ["--variance_threshold = 'abc' is not allowed", "valid number"]),
        (["--variance_threshold", "-1"], ["--variance_threshold = -1", "greater than or equal to 0"]),
        (["--variance_threshold", "nan"], ["--variance_threshold = nan", "finite"]),
        (["--range_mode", "clip"], ["--range_mode = 'clip'", "'minmax', 'trimmed', 'iqr' or 'raw'"]),
        (["--min_effective_n", "1.5"], ["--min_effective_n = 1.5", "integer"]),
        (["--shards", "0"], ["--shards = 0", "greater than or equal to 1"]),
        (["--trim_lower", "99"], ["trim_lower = 99.0 must be below trim_upper = 97.5"]),
        (["--settings", '{"trim_lovver": 1}'], ["--trim_lovver is not a setting", "did you mean trim_lower?"]),
        (["--settings", '{"vif_threshold": 5}'], ["--vif_threshold is not a setting"]),
        (["--settings", "{trim_lower: 1}"], ["--settings", "not JSON"]),
        (["--settings", "[1]"], ["--settings", "JSON object", "[1]"]),
        (["--settings", '"x"'], ["--settings", "JSON object"]),
        (["--trim_low", "1"], ["unrecognized arguments", "--trim_low"]),
        (["--vif_threshold", "5"], ["unrecognized arguments"]),
        (["--variance_threshold"], ["--variance_threshold", "expected one argument"]),
        (["--threads", "two"], ["--threads", "'two'", "at least 1"]),
        (["--threads", "0"], ["--threads", "'0'", "at least 1"]),
        (["--gpu", "-1"], ["--gpu", "'-1'", "at least 0"]),
        (["--loggers", "wandb"], ["unrecognized arguments", "--loggers"]),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(run, capsys, arguments, parts):
    with pytest.raises(SystemExit) as caught:
        run(*arguments, work=lambda stage: pytest.fail("the work began"))
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("toy: ") and len(printed.err.splitlines()) == 1
    assert all(part in printed.err for part in parts)


def test_a_mistake_found_at_work_is_one_line_and_exit_code_2_and_leaves_no_record(run, capsys, tmp_path):
    def work(stage):
        raise UserError("x.parquet: column a is text")

    with pytest.raises(SystemExit) as caught:
        run("--provenance", tmp_path / "p.json", work=work)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "toy: x.parquet: column a is text\n"
    assert not (tmp_path / "p.json").exists()


def test_a_fault_of_the_program_is_not_hidden(run):
    with pytest.raises(ZeroDivisionError):
        run(work=lambda stage: 1 / 0)


# ---- record, scratch folder, machine


def test_the_record_says_what_ran_with_what_on_what(run, tmp_path, capsys):
    path = tmp_path / "provenance" / "toy.json"
    run("--provenance", path, "--code", "abc123", "--threads", "2", "--shards", "3", "--trim_lower", "1.5")
    record = read_json(path)
    assert record["stage"] == "toy"
    assert record["code"] == "abc123"
    assert record["command"][0] == "toy.py" and "--trim_lower" in record["command"]
    assert record["parameters"] == Pass1(trim_lower=1.5).model_dump()
    assert record["runtime"] == Runtime(shards=3).model_dump()
    assert record["threads"] == 2 and record["device"] == "cpu"
    assert record["seconds"] >= 0 and record["peak_memory_bytes"] > 1e6
    assert record["versions"]["numpy"] == sys.modules["numpy"].__version__
    assert all(version for library, version in record["versions"].items() if not library.startswith("cupy-"))
    assert record["peak_device_bytes"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["finished"])
    printed = capsys.readouterr()
    assert re.fullmatch(r"toy    \| [\d.]+ s \| [\d,]+ MB \| cpu x 2\n", printed.err)
    assert printed.out == ""


def test_the_record_has_the_device_that_the_work_opened_and_only_the_settings_that_were_used(run, tmp_path, capsys):
    path = tmp_path / "toy.json"

    def work(stage):
        stage.device, stage.peak_device = "cuda (H200)", lambda: 30 * 10**9

    run("--provenance", path, "--device", "cuda", "--text_field", "body", model=CheckCorpus, work=work)
    record = read_json(path)
    assert (record["device"], record["peak_device_bytes"]) == ("cuda (H200)", 30 * 10**9)
    assert record["parameters"] == CheckCorpus(text_field="body").model_dump()
    assert record["runtime"] == TaxoclassRuntime(device="cuda").model_dump()
    assert record["versions"].keys() >= {"torch", "transformers"}
    assert capsys.readouterr().err.endswith("| cuda (H200) x 1\n")


def test_the_record_has_no_settings_that_the_result_does_not_depend_on(run, tmp_path):
    path = tmp_path / "toy.json"
    run("--provenance", path, "--m", "16", "--clustering", "leader", model=Pass2)
    assert read_json(path)["parameters"] == Pass2.relevant(Pass2(m=16, clustering="leader").model_dump())
    assert not {"m", "r", "n_consensus"} & read_json(path)["parameters"].keys()


def test_the_scratch_folder_is_removed_after_success(run, tmp_path):
    def work(stage):
        folder = stage.scratch(tmp_path / "codes.npy")
        assert folder == tmp_path / ".state" / "toy"
        (folder / "progress").write_text("x")

    run(work=work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [UserError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_the_scratch_folder_is_kept_after_a_failure_and_found_again(run, tmp_path, failure):
    def fail(stage):
        (stage.scratch(tmp_path / "codes.npy") / "progress").write_text("half")
        raise failure

    with pytest.raises((SystemExit, RuntimeError, KeyboardInterrupt)):
        run(work=fail)
    found = []
    run(work=lambda stage: found.append((stage.scratch(tmp_path / "codes.npy") / "progress").read_text()))
    assert found == ["half"]
    assert not (tmp_path / ".state").exists()


def test_the_scratch_folder_of_another_stage_is_left_alone(run, tmp_path):
    (tmp_path / ".state" / "other").mkdir(parents=True)
    run(work=lambda stage: stage.scratch(tmp_path / "codes.npy"))
    assert [path.name for path in (tmp_path / ".state").iterdir()] == ["other"]


def test_a_scratch_folder_that_cannot_be_made_is_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        run(work=lambda stage: stage.scratch(tmp_path / "file" / "codes.npy"))
    assert caught.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_blas_has_one_thread_but_where_the_sums_are_exact(run):
    seen = []

    def work(stage):
        seen.append(blas_threads())
        with stage.blas():
            seen.append(blas_threads())
        seen.append(blas_threads())

    run("--threads", "2", work=work)
    assert seen == [{1}, {2}, {1}]


@pytest.mark.parametrize("model", [Pass1, CheckCorpus])
def test_what_was_granted_is_handed_on_and_nothing_is_said_of_it_before_the_work_opens_it(run, capsys, model):
    stage = run("--gpu", "1", "--gpu-memory", "40", model=model)
    assert (stage.gpu, stage.gpu_memory) == (1, 40 * 10**9)
    assert run(model=model).gpu_memory is None
    assert "device" not in capsys.readouterr().err


def test_what_the_work_prints_is_alone_on_the_standard_output(run, capsys):
    # predict's records are: a log line among them would be taken for one
    def work(stage):
        stage.log("one", "two")
        stage.warn("three")
        print('{"doc_id": "a"}')

    run("--gpu", "0", work=work)
    printed = capsys.readouterr()
    assert printed.out == '{"doc_id": "a"}\n'
    lines = printed.err.splitlines()
    assert lines[:-1] == ["toy    | one | two", "toy    | warning: three"]
    assert all(line.startswith("toy    | ") for line in lines)


# ---- flags that are no settings


@pytest.fixture
def door(monkeypatch):
    """A stage with files, a value and several files; what its flags came to is returned."""

    def door(*arguments: str):
        given = []
        monkeypatch.setattr(sys, "argv", ["/somewhere/door.py", *arguments])
        run_stage(
            "door",
            CheckCorpus,
            inputs={"one": "a file", "models": "some files"},
            outputs={"out-x": "a file"},
            work=lambda stage: given.append(stage.paths),
            optional=("one", "text-kind", "out-x"),
            values={"iteration": "a number", "text-kind": "a word"},
            several=("models",),
        )
        return given[0]

    return door


def test_values_are_text_and_several_files_are_a_list(door):
    paths = door("--iteration", "3", "--models", "a b", "c")
    assert (paths.iteration, paths.models, paths.text_kind, paths.one, paths.out_x) == ("3", ["a b", "c"], *[None] * 3)
    assert door("--iteration", "", "--models", "a").models == ["a"]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(["--iteration", "3"], "--models"), (["--models", "a"], "--iteration"), (["--iteration", "3", "--models"], "")],
)
def test_values_and_several_files_are_asked_for_unless_they_are_optional(door, capsys, arguments, missing):
    with pytest.raises(SystemExit) as caught:
        door(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("door: ") and missing in error and len(error.splitlines()) == 1


def test_help_tells_values_from_files(door, capsys):
    with pytest.raises(SystemExit):
        door("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in ("--one PATH", "--models PATH [PATH ...]", "--out-x PATH", "--iteration VALUE a number"):
        assert part in text


@given(st.integers(0, 10**13))
def test_the_memory_that_a_message_asks_for_is_enough_and_no_tenth_too_much(n_bytes):
    def budget(gigabytes: float) -> int:
        runtime = Runtime(max_host_memory_gb=gigabytes)
        return runtime.budget

    enough = Runtime.gigabytes_for(n_bytes)
    assert budget(enough) >= n_bytes - 1  # a byte for the rounding of tenths
    assert n_bytes <= 50e6 or budget(round(enough - 0.1, 1)) < n_bytes


def test_the_budget_leaves_room_for_the_interpreter_and_is_never_nothing(run):
    assert run("--max_host_memory_gb", "2").runtime.budget == 1_650_000_000
    assert run("--max_host_memory_gb", "0.4").runtime.budget == 50_000_000
