"""Every bad setting is answered in one line that says which, what it is, what is allowed and what was meant."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config import RUNTIMES, STAGES, Config, explain, load, runtime_of, stage_settings, with_runtime
from common.descriptors_settings import Descriptors, Pass1, Runtime
from common.errors import UserError
from common.molecules_settings import Molecules
from common.taxoclass_settings import CoreClasses, Taxoclass, TaxoclassRuntime, TrainClassifier

GIVEN = {"parquet_glob": "data/*.parquet"}
MOLECULE_FILES = {"molecules_glob": "data/*.csv"}
FILES = {"hierarchy_file": "edges.tsv", "train_corpus": "corpus.jsonl"}
# name, default in the specification, passes that use it; s = selected, u = utility
PASSES = {
    "parquet_glob": (None, "0"),
    "n_metadata": (6, "0"),
    "metadata_columns": (None, "0"),
    "exclude_columns": ([], "0"),
    "sample_per_file": (None, "0"),
    "sample_rows": (None, "0"),
    "variance_threshold": (0.002, "1"),
    "range_mode": ("trimmed", "1"),
    "trim_lower": (2.5, "1"),
    "trim_upper": (97.5, "1"),
    "max_missing_ratio": (0.5, "1"),
    "min_effective_n": (100, "1234"),
    "spearman_threshold": (0.95, "2"),
    "prescreen": ("none", "2"),
    "m": (8192, "2"),
    "r": (5, "2"),
    "vif_threshold": (10.0, "3"),
    "vif_on": ("spearman", "3"),
    "ties": ("quality", "3"),
    "nonlinear_threshold": (0.7, "4"),
    "w_hsic": (0.3, "4"),
    "w_rdc": (0.7, "4"),
    "hsic_D": (16, "4"),
    "rdc_d": (12, "4"),
    "rdc_seeds": (2, "4"),
    "features": ("orthonormal", "4"),
    "pass4_rows": (None, "4"),
    "topk": (40, "24"),
    "topk_above": (32_768, "24"),
    "leiden_resolution": (1.0, "24"),
    "n_consensus": (10, "24"),
    "clustering": ("leiden", "24"),
    "missing": ("pairwise", "23"),
    "random_seed": (42, "024u"),
    "selected_table": (False, "s"),
    "utility_target": (None, "u"),
    "utility_file": (None, "u"),
    "utility_key": (None, "u"),
    "utility_task": ("auto", "u"),
    "utility_folds": (5, "u"),
    "utility_repeats": (2, "u"),
    "utility_random_sets": (3, "u"),
    "utility_rows": (20_000, "u"),
    "batch_rows": (10_000, ""),
    "shards": (1, ""),
    "max_host_memory_gb": (4.0, ""),
    "max_gpu_memory_gb": (40.0, ""),
    "device": ("auto", ""),
}
# the same of the other section, with the names of the stages
TAXOCLASS = {
    "classes_file": (None, ""),
    "hierarchy_file": (None, ""),
    "keywords_file": (None, ""),
    "train_corpus": (None, ""),
    "test_corpus": (None, ""),
    "gold_labels": (None, ""),
    "self_train_iterations": (3, ""),
    "text_field": ("text", "check_corpus"),
    "train_split": (None, "check_corpus"),
    "test_split": (None, "check_corpus"),
    "candidate_selection_quota": (2, "similarity core_classes"),
    "candidate_selection_cap": (1, "similarity core_classes"),
    "candidate_selection_power": (2.0, "similarity core_classes"),
    "backend": ("embedding", "similarity"),
    "similarity_model": ("all-MiniLM-L6-v2", "similarity"),
    "hypothesis_template": (None, "similarity"),
    "class_names": ("best", "similarity"),
    "nli_score": ("three_way", "similarity"),
    "candidates": ("all", "similarity"),
    "candidate_paths": (20, "similarity"),
    "prefilter_model": ("all-MiniLM-L6-v2", "similarity"),
    "similarity_max_length": (256, "similarity"),
    "similarity_chunks": (1, "similarity"),
    "neighbours": (10, "similarity"),
    "clusterings": (10, "similarity"),
    "batch_tokens": (None, "similarity"),
    "level_weights": (None, "core_classes predict"),
    "mining": ("posterior", "core_classes"),
    "core_share": (None, "core_classes"),
    "word_weight": (2.0, "core_classes predict"),
    "word_language": ("english", "core_classes predict"),
    "confidence_threshold_percentile": (50.0, "core_classes"),
    "require_positive": (True, "core_classes"),
    "min_conf": (None, "core_classes"),
    "random_seed": (42, "similarity train_classifier self_train evaluate"),
    "batch_size": (64, "train_classifier"),
    "self_train_batch_size": (256, "self_train"),
    "micro_batch": (None, "train_classifier self_train"),
    "weight_decay": (0.01, "train_classifier self_train"),
    "warmup": (0.06, "train_classifier self_train"),
    "clip": (1.0, "train_classifier self_train"),
    "validation_share": (0.1, "train_classifier self_train"),
    "nonfinite_steps": (5, "train_classifier self_train"),
    "mixed_precision": (True, "similarity train_classifier self_train"),
    "doc_encoder_model": ("all-MiniLM-L6-v2", "train_classifier"),
    "encoder_trainable": (False, "train_classifier"),
    "doc_max_length": (256, "train_classifier"),
    "doc_chunks": (1, "train_classifier"),
    "doc_pooling": ("mean", "train_classifier"),
    "class_template": ("{class_name}", "train_classifier"),
    "gnn": ("ego", "train_classifier"),
    "gnn_num_layers": (2, "train_classifier"),
    "epochs": (5, "train_classifier"),
    "min_steps": (200, "train_classifier"),
    "encoder_lr": (5e-5, "train_classifier"),
    "head_lr": (1e-3, "train_classifier"),
    "gradient_checkpointing": (False, "train_classifier"),
    "self_train_epochs": (3, "self_train"),
    "self_train_lr": (1e-6, "self_train"),
    "self_train_head_lr": (5e-4, "self_train"),
    "self_train_temperature": (2.0, "self_train"),
    "self_train_threshold": (0.8, "self_train"),
    "self_train_target": ("soft", "self_train"),
    "self_train_refresh": (0, "self_train"),
    "self_train_stop": (0.005, "self_train"),
    "decode": ("expected_f1", "predict"),
    "decode_k": (3, "predict"),
    "decode_threshold": (0.5, "predict"),
    "decode_stop": (0.0, "predict"),
    "predict_neighbours": (10, "predict"),
    "beam_width": (4, "predict"),
    "marginal": (None, "predict"),
    "min_labels": (1, "predict"),
    "max_labels": (None, "predict"),
    "consistent": (True, "predict"),
    "metric_ks": ([1, 3, 5], "evaluate"),
    "bootstrap_resamples": (1000, "evaluate"),
    "device": ("auto", ""),
    "similarity_shards": (1, ""),
    "local_files_only": (True, ""),
    "loggers": ([], ""),
}
MOLECULES = {
    "molecules_glob": (None, "read_molecules"),
    "smiles_column": ("smiles", "read_molecules"),
    "id_column": (None, "read_molecules"),
    "column_names": (None, "read_molecules"),
    "descriptor_sets": (["rdkit"], "molecules_shard"),
    "timeout_seconds": (60.0, "molecules_shard"),
    "molecule_shards": (1, ""),
}
STAGE_OF = {"s": "selected", "u": "utility"}
TABLES = {
    "molecules": {key: (default, users.split()) for key, (default, users) in MOLECULES.items()},
    "descriptors": {
        key: (default, [STAGE_OF.get(each, f"pass{each}") for each in users])
        for key, (default, users) in PASSES.items()
    },
    "taxoclass": {key: (default, users.split()) for key, (default, users) in TAXOCLASS.items()},
}
MODELS = {"molecules": Molecules, "descriptors": Descriptors, "taxoclass": Taxoclass}
REQUIRED = {"molecules": MOLECULE_FILES, "descriptors": GIVEN, "taxoclass": FILES}
BOTH = {"molecules": MOLECULE_FILES, "descriptors": GIVEN | {"sample_rows": 9}, "taxoclass": FILES}
EVERY = [(section, key) for section, model in MODELS.items() for key in sorted(model.model_fields)]
KEYS = sorted(Descriptors.model_fields)


def with_both(section: str, **changed) -> dict:
    """A loaded configuration of both sections, with other values in one of them."""
    return load(BOTH | {section: BOTH[section] | changed})


def settings_of_all_stages(config: dict) -> dict[str, str]:
    """What each rule has as its parameter."""
    return {stage: json.dumps(stage_settings(config, stage), sort_keys=True) for stage in STAGES}


def rerun(before: dict, after: dict) -> list[str]:
    one, other = settings_of_all_stages(before), settings_of_all_stages(after)
    return [stage for stage in STAGES if one[stage] != other[stage]]


def complaint(settings: dict, section: str = "descriptors") -> str:
    """What is said of the settings, a single line."""
    with pytest.raises(UserError) as caught:
        load({section: settings})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("config: ")
    return message.removeprefix("config: ")


@pytest.mark.parametrize("section", MODELS)
def test_an_empty_section_but_for_the_files_gets_the_defaults_of_the_specification(section):
    loaded = load({section: REQUIRED[section]})
    assert loaded["results"] == "results"
    defaults = {key: default for key, (default, _) in TABLES[section].items()}
    assert loaded[section] == defaults | REQUIRED[section]
    assert {loaded[other] for other in MODELS if other != section} == {None}


@pytest.mark.parametrize(
    "raw", [{}, {"descriptors": None}, {"results": "elsewhere"}, {"descriptors": None, "taxoclass": None}]
)
def test_a_config_that_asks_for_nothing_is_refused(raw):
    with pytest.raises(UserError) as caught:
        load(raw)
    assert str(caught.value) == "config: there is nothing to do; add a section molecules, descriptors or taxoclass"


@pytest.mark.parametrize("written", ["r/mine/", "./r/mine", "r//mine", "r/mine"])
def test_the_results_folder_is_spelt_as_snakemake_spells_it(written):
    # it warned of every path of the run
    loaded = load({"results": written, "molecules": MOLECULE_FILES, "descriptors": {}})
    assert loaded["results"] == "r/mine"
    assert loaded["descriptors"]["parquet_glob"] == "r/mine/molecules/descriptors_*_of_1.parquet"


def test_every_default_passes_when_it_is_written_out():
    loaded = load(BOTH)
    assert load(json.loads(json.dumps(loaded))) == loaded


def test_a_default_that_is_written_out_reruns_nothing():
    loaded = load(BOTH)
    assert rerun(loaded, load(json.loads(json.dumps(loaded)))) == []


def test_loading_is_idempotent_and_keeps_what_was_set():
    mine = GIVEN | {"sample_per_file": 0.25, "metadata_columns": ["a"], "pass4_rows": 500, "vif_threshold": 5}
    texts = FILES | {"level_weights": [1, 2.5], "metric_ks": [2], "loggers": ["wandb"], "max_labels": 3}
    loaded = load({"descriptors": mine, "taxoclass": texts})
    assert load(loaded) == loaded
    assert mine.items() <= loaded["descriptors"].items()
    assert texts.items() <= loaded["taxoclass"].items()


@pytest.mark.parametrize("section", MODELS)
def test_the_tables_here_have_every_setting(section):
    assert TABLES[section].keys() == MODELS[section].model_fields.keys()


@pytest.mark.parametrize(("section", "key"), EVERY)
def test_a_setting_belongs_to_exactly_the_stages_that_use_it(section, key):
    _, users = TABLES[section][key]
    own = {stage: model for stage, (owner, model) in STAGES.items() if owner == section}
    assert [stage for stage, model in own.items() if key in model.model_fields] == users
    given = {*FILES, "classes_file", "keywords_file", "test_corpus", "gold_labels", "self_train_iterations"}
    of_workflow = section == "taxoclass" and key in given
    assert (key in RUNTIMES[section].model_fields) == (not users and not of_workflow)


def test_only_the_seed_and_the_device_are_settings_of_both_wings():
    # a flag or a key that means two things would be set in the wrong section
    assert Descriptors.model_fields.keys() & Taxoclass.model_fields.keys() == {"random_seed", "device"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_of_a_stage_are_its_own_and_none_of_the_machines(stage):
    section, model = STAGES[stage]
    mine = stage_settings(load(BOTH), stage)
    assert mine.keys() <= model.model_fields.keys()
    if stage not in (
        "pass2",
        "pass4",
        "selected",
        "similarity",
        "core_classes",
        "train_classifier",
        "self_train",
    ):  # which leave out what they do not read
        assert mine.keys() == model.model_fields.keys()
    assert not mine.keys() & RUNTIMES[section].model_fields.keys()
    assert runtime_of(model) is RUNTIMES[section]
    assert mine.items() <= model.model_validate(mine).model_dump().items()


@pytest.mark.parametrize("seed", [1, 2**63 - 1])
def test_a_seed_belongs_to_its_own_wing(seed):
    assert rerun(load(BOTH), with_both("descriptors", random_seed=seed)) == TABLES["descriptors"]["random_seed"][1]
    assert rerun(load(BOTH), with_both("taxoclass", random_seed=seed)) == TABLES["taxoclass"]["random_seed"][1]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("descriptors", "spearman_threshold", 0.9),
        ("descriptors", "min_effective_n", 50),
        ("descriptors", "missing", "mean"),
        ("taxoclass", "text_field", "body"),
        ("taxoclass", "backend", "nli"),
        ("taxoclass", "similarity_model", "elsewhere"),
        ("taxoclass", "similarity_chunks", 2),
        ("taxoclass", "core_share", 0.1),
        ("taxoclass", "batch_size", 8),
        ("taxoclass", "gnn", "full"),
        ("taxoclass", "self_train_epochs", 2),
        ("taxoclass", "decode", "topk"),
        ("taxoclass", "metric_ks", [1]),
    ],
)
def test_a_change_of_a_setting_reruns_exactly_the_stages_that_use_it(section, key, value):
    assert rerun(load(BOTH), with_both(section, **{key: value})) == TABLES[section][key][1]


@pytest.mark.parametrize(
    ("section", "changed"),
    [
        ("descriptors", {"batch_rows": 7, "shards": 3, "max_host_memory_gb": 1, "max_gpu_memory_gb": 1}),
        ("descriptors", {"selected_table": True}),
        ("taxoclass", {"self_train_iterations": 5}),
        ("taxoclass", {"gold_labels": "gold.tsv"}),
        ("taxoclass", {"classes_file": "c", "hierarchy_file": "h", "keywords_file": "k"}),
        ("taxoclass", {"train_corpus": "a.jsonl", "test_corpus": "b.jsonl"}),
        ("taxoclass", {"device": "cpu"}),
        ("taxoclass", {"local_files_only": False}),
        ("taxoclass", {"loggers": ["tensorboard", "wandb"]}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_where_files_lie_how_many_iterations_and_what_machine_reruns_no_stage(section, changed):
    assert rerun(load(BOTH), with_both(section, **changed)) == []


LEIDEN = {"leiden_resolution": 2.0, "n_consensus": 3, "topk": 7, "topk_above": 9}


@pytest.mark.parametrize(
    ("stage", "chosen", "unread"),
    [
        ("pass2", {}, {"m", "r"}),
        ("pass2", {"clustering": "leader"}, {"m", "r", "random_seed", *LEIDEN}),
        ("pass2", {"prescreen": "countsketch"}, set()),
        ("pass2", {"prescreen": "countsketch", "clustering": "components"}, {*LEIDEN}),
        ("pass4", {}, {"rdc_seeds"}),
        ("pass4", {"features": "random"}, set()),
        ("pass4", {"clustering": "leader"}, {"rdc_seeds", *LEIDEN}),
        ("pass4", {"features": "random", "w_hsic": 0.0}, {"hsic_D"}),
        ("pass4", {"features": "random", "w_rdc": 0.0}, {"rdc_d", "rdc_seeds"}),
        ("pass1", {}, set()),
        ("pass1", {"range_mode": "raw"}, set()),
        ("pass1", {"range_mode": "minmax"}, {"trim_lower", "trim_upper"}),
        ("pass1", {"range_mode": "iqr"}, {"trim_lower", "trim_upper"}),
        ("pass0", {"sample_rows": None}, {"random_seed"}),
        ("pass0", {"sample_rows": None, "metadata_columns": ["id"]}, {"random_seed", "n_metadata"}),
        ("pass0", {"metadata_columns": ["id"]}, {"n_metadata"}),
    ],
    ids=lambda value: "unread" if isinstance(value, set) else None,
)
def test_what_the_other_settings_leave_unread_reruns_no_pass(stage, chosen, unread):
    other = {"m": 64, "r": 3, "random_seed": 7, "rdc_seeds": 5, "min_effective_n": 50, **LEIDEN}
    other |= {"n_metadata": 2, "trim_lower": 1.0, "trim_upper": 99.0, "hsic_D": 8, "rdc_d": 6}
    before = with_both("descriptors", **chosen)
    for key in other.keys() & STAGES[stage][1].model_fields.keys():
        again = stage in rerun(before, with_both("descriptors", **chosen, **{key: other[key]}))
        assert again == (key not in unread), key
    assert stage_settings(before, stage).keys() == STAGES[stage][1].model_fields.keys() - unread


SELECTION = {"candidate_selection_quota", "candidate_selection_cap", "candidate_selection_power"}
PATHS = {"candidate_paths", "prefilter_model"}
CORPUS_WIDE = {"neighbours", "clusterings", "random_seed"}
WORDS = {"word_weight", "word_language"}


@pytest.mark.parametrize(
    ("chosen", "unread"),
    [
        ({"backend": "embedding"}, SELECTION | PATHS | {"nli_score"}),
        ({"backend": "nli"}, SELECTION | PATHS | CORPUS_WIDE | {"similarity_chunks"}),
        ({"backend": "nli", "candidates": "topdown"}, PATHS | CORPUS_WIDE | {"similarity_chunks"}),
        ({"backend": "nli", "candidates": "paths"}, SELECTION | {"similarity_chunks"}),
    ],
    ids=lambda value: "+".join(value.values()) if isinstance(value, dict) else "unread",
)
def test_what_the_chosen_similarity_does_not_read_scores_nothing_again(chosen, unread):
    other = {
        "candidate_selection_quota": 3,
        "candidate_selection_cap": 2,
        "candidate_selection_power": 1.5,
        "candidate_paths": 3,
        "prefilter_model": "elsewhere",
        "nli_score": "entail_vs_contra",
        "similarity_chunks": 2,
        "similarity_model": "elsewhere",
        "hypothesis_template": "About {path}.",
        "neighbours": 0,
        "class_names": "mean",
        "clusterings": 3,
        "random_seed": 7,
        "similarity_max_length": 64,
        "batch_tokens": 1024,
        "mixed_precision": False,
    }
    before = with_both("taxoclass", **chosen)
    for key, value in other.items():
        again = "similarity" in rerun(before, with_both("taxoclass", **chosen, **{key: value}))
        assert again == (key not in unread), key
    assert stage_settings(before, "similarity").keys() == {*other, "backend", "candidates"} - unread


MINING = {
    "core_share": 0.25,
    "word_weight": 1.0,
    "word_language": "german",
    "level_weights": [1, 2],
    "confidence_threshold_percentile": 20,
    "require_positive": False,
    "min_conf": 0.1,
    "candidate_selection_quota": 3,
    "candidate_selection_cap": 2,
    "candidate_selection_power": 1.5,
}


@pytest.mark.parametrize(
    ("mining", "unread"),
    [
        ("posterior", SELECTION | {"level_weights", "confidence_threshold_percentile", "require_positive", "min_conf"}),
        ("path_margin", SELECTION | WORDS | {"confidence_threshold_percentile", "require_positive", "min_conf"}),
        ("taxoclass", {"core_share", "level_weights"} | WORDS),
    ],
    ids=lambda value: value if isinstance(value, str) else "unread",
)
def test_what_the_chosen_mining_does_not_read_mines_nothing_again(mining, unread):
    before = with_both("taxoclass", mining=mining)
    for key, value in MINING.items():
        again = "core_classes" in rerun(before, with_both("taxoclass", mining=mining, **{key: value}))
        assert again == (key not in unread), key
    read = stage_settings(before, "core_classes")
    assert read.keys() == {"mining", *MINING} - unread
    assert CoreClasses.model_validate(read).model_dump().items() >= read.items()


OF_A_TRAINED_ENCODER = {"encoder_lr", "gradient_checkpointing", "micro_batch"}


@pytest.mark.parametrize(
    ("chosen", "unread"),
    [
        ({}, OF_A_TRAINED_ENCODER),
        ({"gnn": "off"}, {"gnn_num_layers", *OF_A_TRAINED_ENCODER}),
        ({"gnn": False}, {"gnn_num_layers", *OF_A_TRAINED_ENCODER}),
        ({"encoder_trainable": True}, {"doc_chunks"}),
        ({"encoder_trainable": True, "gnn": "off"}, {"gnn_num_layers", "doc_chunks"}),
    ],
    ids=lambda value: "+".join(value) or "defaults" if isinstance(value, dict) else "unread",
)
def test_what_the_chosen_model_does_not_read_trains_nothing_again(chosen, unread):
    other = {"gnn_num_layers": 3, "encoder_lr": 1e-4, "gradient_checkpointing": True, "doc_chunks": 2, "micro_batch": 4}
    other["mixed_precision"] = False
    before = with_both("taxoclass", **chosen)
    for key in other.keys() - ({"doc_chunks"} if "encoder_trainable" in chosen else set()):  # which must be 1 then
        again = "train_classifier" in rerun(before, with_both("taxoclass", **chosen, **{key: other[key]}))
        assert again == (key not in unread), key
    read = stage_settings(before, "train_classifier")
    assert read.keys() == TrainClassifier.model_fields.keys() - unread
    assert TrainClassifier.model_validate(read).model_dump().items() >= read.items()


@pytest.mark.parametrize(
    ("stage", "chosen", "key", "value"),
    [
        ("similarity", {"clusterings": 0}, "random_seed", 7),
        ("similarity", {"backend": "nli"}, "random_seed", 7),
        ("core_classes", {"word_weight": 0}, "word_language", "german"),
        ("self_train", {"encoder_trainable": False}, "self_train_lr", 1e-5),
        ("self_train", {"encoder_trainable": False}, "micro_batch", 4),
        ("evaluate", {"bootstrap_resamples": 0}, "random_seed", 7),
    ],
)
def test_what_another_setting_leaves_unread_runs_nothing_again(stage, chosen, key, value):
    assert stage not in rerun(with_both("taxoclass", **chosen), with_both("taxoclass", **chosen, **{key: value}))
    read = {"encoder_trainable": True}
    assert stage in rerun(with_both("taxoclass", **read), with_both("taxoclass", **read, **{key: value}))


@pytest.mark.parametrize("trainable", [False, True])
def test_every_stage_that_runs_a_model_is_told_the_precision(trainable):
    loaded = with_both("taxoclass", encoder_trainable=trainable, mixed_precision=False)
    stages = ("similarity", "train_classifier", "self_train")
    assert [stage_settings(loaded, stage)["mixed_precision"] for stage in stages] == [False] * 3


def test_another_way_of_mining_mines_again():
    ways = [with_both("taxoclass", mining=mining) for mining in ("posterior", "path_margin", "taxoclass")]
    assert all(rerun(ways[i - 1], ways[i]) == ["core_classes"] for i in range(3))


def test_level_weights_that_mining_does_not_read_are_those_of_prediction_alone():
    assert rerun(load(BOTH), with_both("taxoclass", level_weights=[1])) == ["predict"]
    before, after = (with_both("taxoclass", mining="path_margin", **each) for each in ({}, {"level_weights": [1]}))
    assert rerun(before, after) == ["core_classes", "predict"]


def test_what_a_command_line_accepts_is_the_stage_and_the_machine():
    for section, model in STAGES.values():
        accepted = with_runtime(model).model_fields.keys()
        assert accepted == model.model_fields.keys() | RUNTIMES[section].model_fields.keys()
    assert (RUNTIMES["descriptors"], RUNTIMES["taxoclass"]) == (Runtime, TaxoclassRuntime)


@pytest.mark.parametrize("section", MODELS)
def test_every_setting_says_what_it_is_in_one_line(section):
    for key, info in MODELS[section].model_fields.items():
        assert info.description and "\n" not in info.description, key


# ---- messages


@pytest.mark.parametrize(("section", "key"), EVERY)
def test_a_slip_of_the_finger_is_answered_with_the_setting_that_was_meant(section, key):
    if len(key) < 3:
        return  # nothing is left of m or r
    slip = key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key + "x"
    said = complaint(REQUIRED[section] | {slip: 1}, section)
    assert said == f"{section}.{slip} is not a setting (value 1); did you mean {key}?"


@pytest.mark.parametrize("section", MODELS)
def test_a_key_that_resembles_nothing_is_answered_with_all_that_are_known(section):
    message = complaint(REQUIRED[section] | {"zzqqzz": [1, 2]}, section)
    assert message.startswith(f"{section}.zzqqzz is not a setting (value [1, 2]); known: ")
    assert sorted(message.partition("known: ")[2].split(", ")) == sorted(MODELS[section].model_fields)


@pytest.mark.parametrize(("slip", "meant"), [("descriptor", "descriptors"), ("taxoclas", "taxoclass")])
def test_a_misspelt_section_is_answered_with_its_name(slip, meant):
    with pytest.raises(UserError, match=rf"^config: {slip} is not a setting .*; did you mean {meant}\?"):
        load({slip: REQUIRED[meant]})


def test_a_misspelt_key_is_told_before_the_key_that_it_leaves_missing():
    message = complaint({"parquet_glop": "x"})
    assert message == "descriptors.parquet_glop is not a setting (value 'x'); did you mean parquet_glob? (and 1 more)"


def test_missing_files_are_asked_for():
    assert complaint({}) == "descriptors.parquet_glob is required; add it"
    assert complaint({}, "taxoclass") == "taxoclass.hierarchy_file is required; add it (and 1 more)"
    assert complaint({"hierarchy_file": "x"}, "taxoclass") == "taxoclass.train_corpus is required; add it"


def test_a_mistake_in_one_section_is_told_beside_a_sound_other_one():
    with pytest.raises(UserError, match=r"^config: taxoclass\.train_corpus is required; add it$"):
        load({"descriptors": GIVEN, "taxoclass": {"hierarchy_file": "x"}})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("n_metadata", -1, "greater than or equal to 0"),
        ("n_metadata", 1.5, "a valid integer"),
        ("n_metadata", "6", "a valid integer"),
        ("n_metadata", True, "a valid integer"),
        ("batch_rows", 0, "greater than or equal to 1"),
        ("shards", None, "a valid integer"),
        ("random_seed", 2**63, f"less than {2**63}"),
        ("variance_threshold", "0.002", "a valid number"),
        ("variance_threshold", float("nan"), "a finite number"),
        ("vif_threshold", float("inf"), "a finite number"),
        ("vif_threshold", 1, "greater than 1"),
        ("spearman_threshold", 1.01, "less than or equal to 1"),
        ("spearman_threshold", 0, "greater than 0"),
        ("max_missing_ratio", 1.5, "less than or equal to 1"),
        ("trim_upper", 101, "less than or equal to 100"),
        ("range_mode", "clip", "'minmax', 'trimmed', 'iqr' or 'raw'"),
        ("missing", "drop", "'pairwise', 'global_ranks' or 'mean'"),
        ("hsic_D", 7, "a multiple of 2"),
        ("hsic_D", 130, "less than or equal to 128"),
        ("sample_per_file", "half", "a valid integer or a valid number"),
        ("sample_per_file", 0, "greater than 0"),
        ("sample_per_file", -0.5, "greater than 0"),
        ("sample_rows", 0.5, "a valid integer"),
        ("exclude_columns", "Target", "a valid list"),
        ("exclude_columns", None, "a valid list"),
        ("parquet_glob", 3, "a valid string"),
        ("parquet_glob", "", "at least 1 character"),
        ("max_host_memory_gb", 0.01, "greater than or equal to 0.4"),
        ("text_field", "", "at least 1 character"),
        ("train_corpus", 3, "a valid string"),
        ("gold_labels", "", "at least 1 character"),
        ("hypothesis_template", 3, "a valid string or a valid list"),
        ("hypothesis_template", [], "at least 1 item after validation, not 0"),
        ("neighbours", -1, "greater than or equal to 0"),
        ("backend", "bm25", "'embedding' or 'nli'"),
        ("candidates", "some", "'all', 'topdown' or 'paths'"),
        ("candidate_selection_quota", 0, "greater than or equal to 1"),
        ("candidate_selection_cap", -1, "greater than or equal to 0"),
        ("similarity_max_length", 7, "greater than or equal to 8"),
        ("core_share", 0, "greater than 0"),
        ("core_share", 1.5, "less than or equal to 1"),
        ("confidence_threshold_percentile", 101, "less than or equal to 100"),
        ("require_positive", "yes", "a valid boolean"),
        ("require_positive", 1, "a valid boolean"),
        ("validation_share", 0, "greater than 0"),
        ("validation_share", 1, "less than 1"),
        ("self_train_threshold", 0.4, "greater than or equal to 0.5"),
        ("self_train_iterations", -1, "greater than or equal to 0"),
        ("self_train_target", "kl", "'soft', 'hard' or 'paper'"),
        ("gnn_num_layers", 17, "less than or equal to 16"),
        ("encoder_lr", 0, "greater than 0"),
        ("decode", "best", "'expected_f1', 'path', 'topk', 'threshold', 'topdown', 'beam' or 'prune'"),
        ("max_labels", 0, "greater than or equal to 1"),
        ("level_weights", [], "at least 1 item after validation, not 0"),
        ("metric_ks", [], "at least 1 item after validation, not 0"),
        ("metric_ks", 3, "a valid list"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("loggers", "wandb", "a valid list"),
    ],
)
def test_a_value_that_cannot_be_is_shown_with_its_key_and_what_is_allowed(key, value, allowed):
    section = "descriptors" if key in Descriptors.model_fields else "taxoclass"
    message = complaint(REQUIRED[section] | {key: value}, section)
    assert message.startswith(f"{section}.{key} = {value!r} is not allowed: ")
    assert message.endswith(allowed)


def test_an_element_of_a_list_is_named_by_its_place():
    message = complaint(GIVEN | {"exclude_columns": ["a", 3, "b"]})
    assert message == "descriptors.exclude_columns[1] = 3 is not allowed: input should be a valid string"
    message = complaint(GIVEN | {"metadata_columns": [None]})
    assert message == "descriptors.metadata_columns[0] = None is not allowed: input should be a valid string"
    for key, value, start in (
        ("metric_ks", [1, 0], "metric_ks[1] = 0 is not allowed: input should be greater than or equal to 1"),
        ("level_weights", [1, 0], "level_weights[1] = 0 is not allowed: input should be greater than 0"),
        ("loggers", ["mlflow"], "loggers[0] = 'mlflow' is not allowed: input should be 'tensorboard' or 'wandb'"),
    ):
        assert complaint(FILES | {key: value}, "taxoclass") == f"taxoclass.{start}"


def test_a_section_that_is_no_section_is_said_to_be_one():
    for value in (3, "x", [GIVEN]):
        for section in MODELS:
            with pytest.raises(UserError, match=rf"^config: {section} = .* is not allowed: it should be a section"):
                load({section: value})


def test_a_long_value_is_cut_short():
    message = complaint(GIVEN | {"range_mode": "x" * 10_000})
    assert len(message) < 200 and "'xxx" in message and "..." in message


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"sample_per_file": 5, "sample_rows": 5}, ["sample_per_file and sample_rows exclude each other", "null"]),
        ({"sample_per_file": 1.5}, ["sample_per_file = 1.5", "whole number of rows or a share below 1"]),
        ({"sample_per_file": 1.0}, ["sample_per_file = 1.0", "whole number of rows or a share below 1"]),
        ({"trim_lower": 97.5}, ["trim_lower = 97.5 must be below trim_upper = 97.5"]),
        ({"trim_lower": 60, "trim_upper": 40}, ["trim_lower = 60.0 must be below trim_upper = 40.0"]),
        ({"w_hsic": 0, "w_rdc": 0}, ["w_hsic and w_rdc are both 0"]),
        ({"prescreen": "countsketch", "missing": "mean"}, ["prescreen", "missing = 'pairwise' only, not 'mean'"]),
        ({"candidates": "topdown"}, ["candidates = 'topdown' needs backend = 'nli'"]),
        ({"candidates": "paths"}, ["candidates = 'paths' needs backend = 'nli'"]),
        ({"doc_chunks": 2, "encoder_trainable": True}, ["doc_chunks = 2 needs encoder_trainable = false"]),
        ({"min_labels": 3, "max_labels": 2}, ["min_labels = 3 must be at most max_labels = 2"]),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(settings, parts):
    section = "descriptors" if settings.keys() <= Descriptors.model_fields.keys() else "taxoclass"
    message = complaint(REQUIRED[section] | settings, section)
    assert message.startswith(f"{section}: ")
    assert all(part in message for part in parts)


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_per_file": 1},
        {"sample_per_file": 0.999},
        {"trim_lower": 0, "trim_upper": 100},
        {"w_hsic": 0, "w_rdc": 1e-9},
        {"spearman_threshold": 1},
        {"hsic_D": 128},
        {"metadata_columns": []},
        {"variance_threshold": 0},
        {"self_train_iterations": 0},
        {"min_labels": 0},
        {"min_labels": 2, "max_labels": 2},
        {"doc_chunks": 2},
        {"candidates": "topdown", "backend": "nli"},
        {"self_train_threshold": 0.5},
        {"core_share": 1},
        {"min_conf": -1.5},
        {"bootstrap_resamples": 0},
    ],
)
def test_values_at_the_limits_are_allowed(settings):
    section = "descriptors" if settings.keys() <= Descriptors.model_fields.keys() else "taxoclass"
    assert settings.items() <= load({section: REQUIRED[section] | settings})[section].items()


@pytest.mark.parametrize("text", ["off", "no", "false", "'off'"])
def test_no_graph_network_in_yaml_is_off_however_it_is_spelt(text):
    content = yaml.safe_load(f"gnn: {text}\n")
    loaded = load({"taxoclass": FILES | content})
    assert loaded["taxoclass"]["gnn"] == "off"
    assert load(loaded) == loaded


@pytest.mark.parametrize("value", [True, 0, None, "Off", ""])
def test_nothing_else_is_taken_for_no_graph_network(value):
    message = complaint(FILES | {"gnn": value}, "taxoclass")
    assert message == f"taxoclass.gnn = {value!r} is not allowed: input should be 'ego', 'full' or 'off'"


def test_several_mistakes_are_counted():
    message = complaint(GIVEN | {"spearman_threshold": 2, "vif_threshold": 0, "m": 1, "sample_per_file": "x"})
    assert message.endswith(" (and 3 more)")


def test_on_a_command_line_a_key_is_a_flag_and_a_contradiction_has_no_stray_dashes():
    accepted = with_runtime(Pass1)
    for settings, start in (
        ({"trim_lower": 101}, "--trim_lower = 101"),
        ({"trim_lower": 99}, "trim_lower = 99.0 must"),
    ):
        with pytest.raises(ValidationError) as caught:
            accepted.model_validate(settings)
        assert explain(caught.value, accepted, prefix="--").startswith(start)


names = st.one_of(
    st.sampled_from([*KEYS, *sorted(Taxoclass.model_fields), *MODELS, "results"]),
    st.text("a\n\r\t\x1b\u2028.é1_", max_size=6),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text("a\n\r\x00\u2028é", max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(names, anything, max_size=4), st.sampled_from([*MODELS, None]))
def test_any_content_is_loaded_or_refused_in_one_line(content, section):
    raw = {section: REQUIRED[section] | content} if section else content
    try:
        loaded = load(raw)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert Config.model_validate(loaded).model_dump() == loaded


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("about {name}", "has a field {name}; its fields are {class_name}, {path}, {description}"),
        ("about it", "reads alike for all classes; use {class_name}, {path}, {description}"),
        ("{class_name", "has a brace that names no field"),
        ("}", "has a brace that names no field"),
        ("{path:9z}", "has a brace that names no field"),
        ("{class_name} {}", "has a field {}; its"),
        ("{0}", "has a field {0}; its"),
        ("{path.nothing}", "has a field {path.nothing}; its"),
        (["{path}", "about {name}"], "has a field {name}"),
        (["about it", "{path}"], "reads alike"),
    ],
    ids=["foreign", "none", "brace", "other brace", "format", "unnamed", "number", "attribute", "listed", "first"],
)
def test_a_template_that_cannot_be_filled_in_is_refused_before_anything_runs(template, told):
    given = {"hierarchy_file": "h.tsv", "train_corpus": "d.tsv", "hypothesis_template": template}
    with pytest.raises(UserError) as refused:
        load({"taxoclass": given})
    message = str(refused.value)
    assert message.startswith("config: taxoclass.hypothesis_template") and told in message and "\n" not in message


def test_a_number_that_yaml_takes_for_text_is_told_as_such():
    given = {"hierarchy_file": "h.tsv", "train_corpus": "d.tsv", "head_lr": "1e-3"}
    with pytest.raises(UserError, match=r"head_lr = '1e-3' .* write 1\.0e-3"):
        load({"taxoclass": given})
