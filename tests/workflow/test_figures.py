"""The figures of README and docs: measured ones are those of the records, limits and sizes those of the code.

Those of the demo are compared in tests/e2e, those of a large run in test_scaling_command.py, the scores of
way_in_and_out.md in test_way_in_and_out.py.
"""

from __future__ import annotations

import gzip
import inspect
import json
import re
import shutil
import sys
import tomllib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq

import export_onnx
from common import files, progress, row_groups
from common.descriptors_settings import Descriptors
from common.taxoclass_settings import Taxoclass
from conftest import ROOT
from descriptors import chance, codes, ranks, scan, table, utility, vif

sys.path.append(str(ROOT / "benchmarks"))

import ours
import pages
import scaling
import written

FINE = f"more than {ranks.CELLS - 1:,} different"
BYTES_A_ROW = scan.needed(1, 1, 1, ahead=False)


def says(page: str, *words: str) -> None:
    """However its lines are broken."""
    text = " ".join((ROOT / page).read_text().split())
    assert [each for each in words if each not in text] == [], page


def short(value: float) -> str:
    """As 1e-5."""
    return f"{value:.0e}".replace("e-0", "e-")


def test_the_measured_tables_are_those_of_the_shipped_records(tmp_path):
    for page, blocks in pages.pages().items():
        copy = tmp_path / page.name
        shutil.copy(page, copy)
        written.renew(copy, blocks)
        assert copy.read_text() == page.read_text(), "run benchmarks/pages.py"


def test_text_sets_have_as_many_classes_as_the_table_says(shared_data):
    for name, shown in pages.CLASSES.items():
        header, *lines = (shared_data / "text" / name / "labels.tsv").read_text().splitlines()
        level = header.split("\t").index("level")
        levels = Counter(line.split("\t")[level] for line in lines)
        assert " + ".join(str(levels[each]) for each in sorted(levels)) == shown, name


def test_the_pythons_are_those_that_are_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    first = project["project"]["requires-python"].removeprefix(">=")
    above = re.search(r"python_version < '3\.(\d+)'", project["tool"]["uv"]["environments"][0])[1]
    says("README.md", f"Python {first} to 3.{int(above) - 1}, ")


def test_versions_of_others_are_the_pins():
    pins = "\n".join(path.read_text() for path in [*ROOT.glob("envs/*.txt"), ROOT / "benchmarks" / "requirements.txt"])
    version = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)$", pins, re.M))
    cuda = re.search(r"^cupy-cuda(\d+)x", pins, re.M)[1]
    says("README.md", f"CuPy for CUDA {cuda},")
    says("docs/cluster.md", f"the plugin ({version['snakemake-executor-plugin-slurm']}, by its source)")
    says("docs/peers.md", f"feature-engine {version['feature-engine']} | scikit-learn {version['scikit-learn']} |")
    says("docs/peers.md", f"transformers {version['transformers'].rpartition('.')[0]} zero-shot")


def test_the_demo_data_are_as_large_as_pages_say():
    paths = [*(ROOT / "resources" / "esol").glob("*.parquet")]
    molecules = sum(pq.read_metadata(path).num_rows for path in paths)
    texts = ROOT / "resources" / "wos1k"
    with gzip.open(texts / "corpus.jsonl.gz", "rt") as corpus:
        documents = sum(1 for _ in corpus)
    edges = [line.split("\t") for line in (texts / "hierarchy.tsv").read_text().splitlines()]
    domains, areas = ({*classes} for classes in zip(*edges, strict=True))
    says("README.md", f"of {molecules:,} molecules (ESOL", f"labels {documents:,} real abstracts")
    says("README.md", f"with {len(domains)} domains and {len(areas)} areas")
    says("docs/way_in_and_out.md", f"`utility.tsv` of the run above ({molecules:,} molecules")
    assert len(paths) == 2
    says("docs/tutorial.md", "`resources/esol` has two")


def test_limits_and_sizes_are_those_of_the_code():
    quantile = inspect.signature(chance.null_quantile).parameters["quantile"].default
    rows, _ = json.loads((pages.RECORDS / "bench.json").read_text())["rows"]["passes_large"]["size"].split(" x ")
    says(
        "README.md",
        f"above {codes.EXACT_ROWS:,} rows too",
        f"about {BYTES_A_ROW} bytes a row in pass 1 ({BYTES_A_ROW} MB for a million molecules)",
        f"Below {chance.FEW_ROWS:,} common rows",
        f"above the {100 * quantile:.0f} % quantile of independent columns",
        f"Measured up to {rows} rows",
        f"4 where a column has {FINE} ones",
        f"{Taxoclass.model_fields['similarity_max_length'].default} tokens of a document are read",
        f"up to {scaling.MINING_BYTES} bytes a cell",
        f"those above {files.LARGE >> 20} MB by the stage",
    )
    says("docs/faq.md", f"above {table.WHOLE_BYTES >> 20} MiB together")
    says("docs/files.md", f"of columns with {FINE} values")
    says("docs/architecture.md", f"{FINE} values", f"Above {codes.EXACT_ROWS:,} rows")
    says("docs/architecture.md", f"smallest eigenvalue at least {short(vif.SMALLEST_EIGENVALUE)}")
    says("docs/architecture.md", f"default {Descriptors.model_fields['spearman_threshold'].default}")
    says("docs/how_it_works.md", f"made afresh every {vif.REFRESH_EVERY}")
    says("docs/storage.md", f"all up to {table.WHOLE_BYTES >> 20} MiB")
    says("docs/way_in_and_out.md", f"row groups of {row_groups.GROUP_BYTES >> 20} MB")
    says("docs/way_in_and_out.md", f"at most {utility.FEW_CLASSES} different integers")
    says("docs/way_in_and_out.md", f"this workflow's ({short(export_onnx.TOLERANCE)})")


def test_logs_have_a_line_as_often_as_pages_say():
    assert progress.INTERVAL == 30
    for page in ("README.md", "docs/faq.md", "docs/tutorial.md"):
        says(page, "a line every half minute")
    says("README.ko.md", "30초마다")


def test_rules_ask_for_as_much_of_a_card_as_pages_say():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    [memory] = {*re.findall(r"\bmem_gb=(\w+),", rules)}
    for page in ("README.md", "README.ko.md", "docs/architecture.md"):
        says(page, f"`gpu=1, mem_gb={memory}`")


def test_what_a_large_run_assumes_is_what_make_scaling_does():
    node, network = scaling.Node(), scaling.NETWORK
    says(
        "docs/scaling.md",
        f"alone at up to {max(scaling.FULL['rankings']):,} rows",
        f"({', '.join(map(str, scaling.SHARDS[1:]))} shards are one pair each",
        f"{scaling.DRAWS} draws give",
        f"a node has {node.threads} threads that are each worth {100 * node.efficiency:.0f} % of one alone",
        f"a job waits {node.wait:.0f} s in the queue",
        f"{network['a_node'] / 1e9:g} GB/s a node and {network['shared'] / 1e9:g} GB/s of the shared file system",
        "{:.0f}, {:.0f} and {:.0f} % of the columns enter".format(*(100 * share for share in scaling.SHARES)),
        f"`pass4_rows: {scaling.PASS4_ROWS}`",
        f"{scaling.TOKENS:.0f} tokens and {scaling.TEXT_BYTES:,.0f} bytes a document",
        f"sorting one column takes {BYTES_A_ROW} bytes a row, {BYTES_A_ROW * scaling.MOLECULES / 1e9:.1f} GB",
        f"`train_corpus` of {scaling.SAMPLE:,} of the documents",
        f"split -n l/{scaling.PARTS} ",
        f"--array=0-{scaling.PARTS - 1} ",
    )


def test_memory_of_large_texts_is_that_of_make_scaling():
    held = {(each["rule"], re.split("[,:]", each["what"])[0]): each for each in scaling.memory()}
    texts, blocks = held["check_corpus", "all texts"], held["similarity", "neighbours"]
    similarity, mining = (scaling.granted(rule, "mem_mb") * 1e6 for rule in ("similarity", "core_classes"))
    matrix, classes = 4 * scaling.DOCUMENTS * scaling.CLASSES, f"documents x {scaling.CLASSES:,} classes)"
    mined = mining / scaling.MINING_BYTES / scaling.CLASSES
    says(
        "docs/scaling.md",
        f"float32 is {matrix / 1e9:.0f} GB",
        f"{texts['bytes'] / 1e9:.1f} GB, above its `mem_mb` of {texts['granted'] / 1e6:,.0f}",
        f"**held twice** (all pieces, then put together): {2 * matrix / 1e9:.0f} GB",
        f"cosines at once ({blocks['bytes'] / 1e9:.0f} GB)",
        f"**{scaling.MINING_BYTES} bytes a cell**",
        f"In the {similarity / 1e9:.0f} GB that the GPU rules ask for",
        f"({similarity / 8 / scaling.CLASSES:,.0f} {classes}",
        f"in its {mining / 1e9:.0f} GB `core_classes` holds",
        f"({mined // 1000 * 1000:,.0f} {classes}",
    )


def test_similarities_of_pass_4_are_those_that_the_page_names():
    x, noise = np.random.default_rng(0).normal(size=(2, 50_000))
    fused = ours.similarity(np.array([x, 0.8 * x + 0.6 * noise, x**2]), 1).fused
    linear, square = (f"{value:.2f}".removeprefix("0") for value in (fused[0, 1], fused[0, 2]))
    threshold = Descriptors.model_fields["nonlinear_threshold"].default
    says("docs/how_it_works.md", f"A correlation of .8 of normal values comes to {linear}, y = x² to {square}; ")
    says("docs/how_it_works.md", f"the default threshold is {threshold}")
