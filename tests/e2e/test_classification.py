"""The demo's texts with the real sentence encoder: better than the encoder alone, and the figures that README shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import ROOT
from random_taxonomies import closed
from taxoclass import metrics, products
from taxoclass.corpus import read_labels
from taxoclass.decoding import Labels
from taxoclass.encoders import Encoder, encode_cached
from taxoclass.models import MINILM_PACKAGE
from taxoclass.scoring import label_texts

DEMO = ROOT / "resources" / "wos1k"
README = (ROOT / "README.md").read_text()
ROUNDING = 0.006  # processors round sums of floats differently


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The folder of taxoclass after a run of the demo's texts."""
    pytest.importorskip(MINILM_PACKAGE, reason="the sentence encoder is not installed; make test does it")
    folder = tmp_path_factory.mktemp("demo")
    section = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["taxoclass"]
    paths = {key: str(ROOT / value) for key, value in section.items() if str(value).startswith("resources/")}
    (folder / "my.yaml").write_text(yaml.safe_dump({"taxoclass": section | paths}))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "my.yaml"]
    command += ["--cores", "1", "--resources", "gpu=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / "taxoclass"


def test_the_demo_beats_the_encoder_alone_by_more_than_chance(demo):
    taxonomy, corpus = products.read_taxonomy(demo / "taxonomy.json"), products.read_corpus(demo / "corpus.parquet")
    encoder = Encoder.load("all-MiniLM-L6-v2", max_length=256)
    documents = encode_cached(encoder, corpus.texts, demo / "cache")
    cosine = documents @ encoder.encode([texts[0] for texts in label_texts(taxonomy, "{path}")]).T
    leaves = np.flatnonzero(taxonomy.leaves)
    floor = Labels.of(closed(taxonomy, [leaf]) for leaf in leaves[cosine[:, leaves].argmax(axis=1)])
    gold = read_labels(str(DEMO / "gold.tsv"), taxonomy)
    truth = Labels.of(gold[doc_id] for doc_id in corpus.doc_ids).matrix(len(taxonomy))
    found = json.loads((demo / "metrics.json").read_text())
    low, _ = found["intervals"]["strict.example_f1"]
    assert metrics.example_f1(floor.matrix(len(taxonomy)), truth).value < low


def test_readme_shows_the_figures_of_the_demo(demo):
    found = json.loads((demo / "metrics.json").read_text())
    sentence = re.search(r"^Against their 1,000 gold labels.*?;", README, re.M | re.S)[0]
    shown = [float(text) for text in re.findall(r"\.\d{3}", sentence)]
    expected = [found["strict"]["example_f1"], *found["intervals"]["strict.example_f1"], found["strict"]["p_at_1"]]
    np.testing.assert_allclose(shown, expected, atol=ROUNDING)


def test_readme_shows_lines_of_the_demo(demo):
    shown = [json.loads(line) for line in re.findall(r"^\{.*\}$", README, re.M)]
    given = [json.loads(line) for line in (demo / "labels.jsonl").read_text().splitlines()[: len(shown)]]
    assert len(shown) == 2
    for one, other in zip(shown, given, strict=True):
        for values in (one, other):
            values["numbers"] = [*values.pop("scores"), values.pop("path_score")]
        np.testing.assert_allclose(one.pop("numbers"), other.pop("numbers"), atol=ROUNDING)
        assert one == other
