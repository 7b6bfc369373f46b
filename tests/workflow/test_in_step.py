"""Facts that stand in two places say the same."""

from __future__ import annotations

import re

import pytest
import yaml

import config_reference
from common.config import Config, Descriptors, load
from conftest import ROOT


def test_schema_and_table_of_settings_are_those_of_the_models():
    assert config_reference.SCHEMA.read_text() == config_reference.schema(), "run make generate"
    assert config_reference.TABLES.read_text() == config_reference.tables(), "run make generate"


def test_every_setting_is_in_the_table_with_its_default():
    text = config_reference.TABLES.read_text()
    for name in Descriptors.model_fields:
        assert len(re.findall(rf"^\| `{name}` \|", text, re.M)) == 1, name


@pytest.mark.parametrize("name", ["config.yaml", "pubchem.yaml"])
def test_shipped_configs_are_valid(name):
    loaded = load(yaml.safe_load((ROOT / "config" / name).read_text()))
    assert set(loaded) == set(Config.model_fields)


def test_the_demo_sets_nothing_but_its_data():
    # Snakemake lays a user's --configfile over the demo's: any other key would be a hidden default
    demo = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["descriptors"]
    defaults = {name: field.default for name, field in Descriptors.model_fields.items()}
    assert {key: value for key, value in demo.items() if value != defaults[key]} == {
        "parquet_glob": "resources/esol/*.parquet"
    }


def test_the_production_run_has_the_users_values():
    settings = load(yaml.safe_load((ROOT / "config" / "pubchem.yaml").read_text()))["descriptors"]
    users = {
        "n_metadata": 6, "batch_rows": 50_000, "variance_threshold": 0.002, "range_mode": "trimmed", "trim_lower": 2.5,
        "trim_upper": 97.5, "max_missing_ratio": 0.9, "spearman_threshold": 0.9, "m": 8192, "r": 5, "vif_threshold": 10,
        "nonlinear_threshold": 0.7, "w_hsic": 0.3, "w_rdc": 0.7, "hsic_D": 8, "rdc_d": 12, "rdc_seeds": 2, "topk": 40,
        "leiden_resolution": 1.0, "n_consensus": 10, "random_seed": 1557, "max_gpu_memory_gb": 40,
    }  # fmt: skip
    assert {key: settings[key] for key in users} == users


def test_conda_and_pip_have_the_same_pins():
    conda = yaml.safe_load((ROOT / "envs" / "cpu.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip == (ROOT / "envs" / "cpu.txt").read_text().split()
    for name in ("cpu.txt", "dev.txt"):
        lines = (ROOT / "envs" / name).read_text().splitlines()
        assert all("==" in line for line in lines if line != "-r cpu.txt"), name


def test_the_demo_data_are_small_and_carry_their_licence():
    folder = ROOT / "resources" / "esol"
    assert sum(path.stat().st_size for path in folder.glob("*.parquet")) <= 2_000_000
    assert (folder / "LICENSE").exists() and (folder / "SOURCE.md").exists()
