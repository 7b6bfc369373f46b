"""Every bad setting is answered in one line that says which, what it is, what is allowed and what was meant."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config import (
    STAGES,
    Config,
    Descriptors,
    Pass0,
    Pass1,
    Pass2,
    Pass3,
    Pass4,
    Runtime,
    explain,
    load,
    stage_settings,
    with_runtime,
)
from common.errors import UserError

GIVEN = {"parquet_glob": "data/*.parquet"}
# name, default in the specification, passes that use it
TABLE = {
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
    "random_seed": (42, "024"),
    "batch_rows": (10_000, ""),
    "shards": (1, ""),
    "max_host_memory_gb": (4.0, ""),
    "max_gpu_memory_gb": (40.0, ""),
}
KEYS = sorted(Descriptors.model_fields)


def complaint(descriptors: dict) -> str:
    """What is said of the settings, a single line."""
    with pytest.raises(UserError) as caught:
        load({"descriptors": descriptors})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("config: ")
    return message.removeprefix("config: ")


def test_an_empty_section_but_for_the_files_gets_the_defaults_of_the_specification():
    loaded = load({"descriptors": GIVEN})
    assert loaded["results"] == "results"
    assert loaded["descriptors"] == {key: default for key, (default, _) in TABLE.items()} | GIVEN


@pytest.mark.parametrize("raw", [{}, {"descriptors": None}, {"results": "elsewhere"}])
def test_a_config_that_asks_for_nothing_is_refused(raw):
    with pytest.raises(UserError, match=r"^config: descriptors (is required; add it|= None is not allowed: .*section)"):
        load(raw)


def test_every_default_passes_when_it_is_written_out():
    loaded = load({"descriptors": GIVEN})
    assert load(json.loads(json.dumps(loaded))) == loaded


def test_loading_is_idempotent_and_keeps_what_was_set():
    mine = GIVEN | {"sample_per_file": 0.25, "metadata_columns": ["a"], "pass4_rows": 500, "vif_threshold": 5}
    loaded = load({"descriptors": mine})
    assert load(loaded) == loaded
    assert mine.items() <= loaded["descriptors"].items()


@pytest.mark.parametrize("key", KEYS)
def test_a_setting_belongs_to_exactly_the_passes_that_use_it(key):
    models = {"0": Pass0, "1": Pass1, "2": Pass2, "3": Pass3, "4": Pass4}
    assert "".join(number for number, model in models.items() if key in model.model_fields) == TABLE[key][1]
    assert (key in Runtime.model_fields) == (TABLE[key][1] == "")


@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_of_a_stage_are_its_own_and_none_of_the_machines(stage):
    section, model = STAGES[stage]
    mine = stage_settings(load({"descriptors": GIVEN | {"sample_rows": 9}}), stage)
    assert mine.keys() == model.model_fields.keys()
    assert not mine.keys() & Runtime.model_fields.keys()
    assert model.model_validate(mine).model_dump() == mine
    assert section == "descriptors"


def test_a_change_of_a_setting_changes_exactly_the_stages_that_use_it():
    changed = {
        "spearman_threshold": 0.9,
        "min_effective_n": 50,
        "random_seed": 1,
        "batch_rows": 7,
        "shards": 3,
        "missing": "mean",
    }
    sampled = GIVEN | {"sample_rows": 9}
    before = load({"descriptors": sampled})
    for key, value in changed.items():
        after = load({"descriptors": sampled | {key: value}})
        differing = [stage for stage in STAGES if stage_settings(before, stage) != stage_settings(after, stage)]
        assert differing == [f"pass{number}" for number in TABLE[key][1]]


def test_without_a_sample_pass_0_does_not_depend_on_the_seed():
    one, other = (load({"descriptors": GIVEN | {"random_seed": seed}}) for seed in (1, 2))
    assert stage_settings(one, "pass0") == stage_settings(other, "pass0")


def test_what_a_command_line_accepts_is_the_stage_and_the_machine():
    for _, model in STAGES.values():
        assert with_runtime(model).model_fields.keys() == model.model_fields.keys() | Runtime.model_fields.keys()


def test_every_setting_says_what_it_is_in_one_line():
    for key, info in Descriptors.model_fields.items():
        assert info.description and "\n" not in info.description, key


# ---- messages


@pytest.mark.parametrize("key", KEYS)
def test_a_slip_of_the_finger_is_answered_with_the_setting_that_was_meant(key):
    if len(key) < 3:
        return  # nothing is left of m or r
    slip = key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key + "x"
    assert complaint(GIVEN | {slip: 1}) == f"descriptors.{slip} is not a setting (value 1); did you mean {key}?"


def test_a_key_that_resembles_nothing_is_answered_with_all_that_are_known():
    message = complaint(GIVEN | {"zzqqzz": [1, 2]})
    assert message.startswith("descriptors.zzqqzz is not a setting (value [1, 2]); known: ")
    assert sorted(message.partition("known: ")[2].split(", ")) == KEYS


def test_a_misspelt_section_is_answered_with_its_name():
    with pytest.raises(UserError, match=r"^config: descriptor is not a setting .*; did you mean descriptors\?"):
        load({"descriptor": GIVEN})


def test_a_misspelt_key_is_told_before_the_key_that_it_leaves_missing():
    message = complaint({"parquet_glop": "x"})
    assert message == "descriptors.parquet_glop is not a setting (value 'x'); did you mean parquet_glob? (and 1 more)"


def test_missing_files_are_asked_for():
    assert complaint({}) == "descriptors.parquet_glob is required; add it"


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
    ],
)
def test_a_value_that_cannot_be_is_shown_with_its_key_and_what_is_allowed(key, value, allowed):
    message = complaint(GIVEN | {key: value})
    assert message.startswith(f"descriptors.{key} = {value!r} is not allowed: ")
    assert message.endswith(allowed)


def test_an_element_of_a_list_is_named_by_its_place():
    message = complaint(GIVEN | {"exclude_columns": ["a", 3, "b"]})
    assert message == "descriptors.exclude_columns[1] = 3 is not allowed: input should be a valid string"
    message = complaint(GIVEN | {"metadata_columns": [None]})
    assert message == "descriptors.metadata_columns[0] = None is not allowed: input should be a valid string"


def test_a_section_that_is_no_section_is_said_to_be_one():
    for value in (3, "x", [GIVEN]):
        with pytest.raises(UserError, match=r"^config: descriptors = .* is not allowed: it should be a section"):
            load({"descriptors": value})


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
    ],
)
def test_settings_that_contradict_each_other_are_both_named(settings, parts):
    message = complaint(GIVEN | settings)
    assert message.startswith("descriptors: ")
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
    ],
)
def test_values_at_the_limits_are_allowed(settings):
    assert settings.items() <= load({"descriptors": GIVEN | settings})["descriptors"].items()


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


names = st.one_of(st.sampled_from([*KEYS, "descriptors", "results"]), st.text("a\n\r\t\x1b\u2028.é1_", max_size=6))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text("a\n\r\x00\u2028é", max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(names, anything, max_size=4), st.booleans())
def test_any_content_is_loaded_or_refused_in_one_line(content, inside):
    raw = {"descriptors": GIVEN | content} if inside else content
    try:
        loaded = load(raw)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert Config.model_validate(loaded).model_dump() == loaded
