"""Inputs that are not what they should be: taken with what they say, or refused in one line; never a traceback."""

from __future__ import annotations

import copy
import glob
import json
import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import load
from common.errors import UserError
from conftest import ROOT
from faults.harness import SEED, remove, without
from tiny_taxoclass import call, inside

# what other programs stumbled over: placed into text anywhere
POISON = [
    b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\r\n", b"\t\t", b'"', b"\\", b"{", b"]", b"null", b"1e84", b"NaN", b"-0",
    b"../../../etc/passwd", b"$(touch pwned)", b"`touch pwned`", b"; touch pwned #", b"{wildcard}", b"%s%n", b"\x1b[2J",
    b"\xed\xa0\x80", "\u2028".encode(), "\u202e".encode(), "\U0001f600".encode(), b"9" * 5000, b"[" * 3000,
    b"x" * 2**20,
]  # fmt: skip


def spoil(content: bytes, rng: random.Random, poison: bool) -> bytes:
    """One to three changes at random places."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.choice(["flip", "cut", "repeat", "noise", *(["poison"] * 6 if poison else [])])
        if kind == "flip" and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del changed[at : at + rng.choice([1, 10, len(changed)])]
        elif kind == "repeat":
            changed[at:at] = changed[max(at - 200, 0) : at]
        elif kind == "noise":
            changed[at : at + 8] = rng.randbytes(8)
        else:
            changed[at:at] = rng.choice(POISON)
    return bytes(changed)


@pytest.mark.parametrize("count", [15, pytest.param(100, marks=pytest.mark.faults)])
@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_spoilt_inputs_are_read_or_refused_in_one_line(wing, count, finished, tmp_path, capfd, recorder):
    whole = finished(wing)
    pipeline, wrong = whole.copy(tmp_path / "run"), []
    # the rules would compute the digest of the inputs again
    pipeline.commands = {job: without("--source", command) for job, command in pipeline.commands.items()}
    jobs = pipeline.jobs[: 2 if wing == "descriptors" else 1]
    inputs = sorted(path for path in (pipeline.folder / "data").iterdir() if path.name != "gold.tsv")
    contents = {path: path.read_bytes() for path in inputs}
    for number in range(count):
        rng = random.Random(f"{SEED} input {number}")
        path = rng.choice(inputs)
        path.write_bytes(spoil(contents[path], rng, poison=wing == "taxoclass"))
        started, outcome = time.perf_counter(), "read"
        try:
            for job in jobs:
                complaint = pipeline.run(job, capfd)
                if complaint is not None:
                    outcome = "refused in one line"
                    if "data/" not in complaint and "documents" not in complaint and "class" not in complaint:
                        wrong.append(f"seed {SEED} input {number}: {path.name}: {complaint}")
                    break
        except Exception as error:
            wrong.append(f"seed {SEED} input {number}: {path.name}: {type(error).__name__}: {str(error)[-600:]}")
            outcome = "FAILED"
        recorder.add("inputs", f"{path.suffix} with random damage", outcome, time.perf_counter() - started)
        path.write_bytes(contents[path])
    assert not wrong, "\n".join(wrong)
    assert not list(pipeline.folder.rglob("pwned"))


NAMES = [
    "; touch pwned #", "$(touch pwned)", "`touch pwned`", "' && touch pwned && '", '" || touch pwned || "', "a*[b]?c",
    "-rf", "~", "%s%n", "back\\slash", "two  spaces ", "ä 中文 \U0001f600", "line\nbreak", "\x1b[2J", "{wildcard}",
    "{}", "a|b", "x" * 200, "#", "!", "\u202e", "..", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("count", [2, pytest.param(len(NAMES), marks=pytest.mark.faults)])
@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_names_of_files_are_names_and_nothing_else(wing, count, prepare, dry_runs, tmp_path, capfd, recorder):
    folder, wrong = prepare(wing), []
    config = folder / "config" / "config.yaml"
    plain, section = yaml.safe_load(config.read_text()), wing
    before = folder / "data" / ("part0.parquet" if wing == "descriptors" else "train.tsv")
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$ARGUMENTS"\n')
    fake.chmod(0o755)
    told = tmp_path / "arguments"
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "ARGUMENTS": str(told)}
    for name in NAMES[:count]:
        here = before.rename(before.with_name(name + before.suffix))
        path = f"data/{here.name}"
        key, value = ("parquet_glob", glob.escape(path)) if wing == "descriptors" else ("train_corpus", path)
        config.write_text(yaml.safe_dump({section: plain[section] | {key: value}}))
        started, outcome = time.perf_counter(), "read"
        try:
            said = dry_runs(folder, "--cores", "1", "--printshellcmds")
            shell = re.search(r"^Shell command: (python .*?) > logs/\S+ 2>&1$", said.stdout, re.M | re.S)
            if said.returncode:
                outcome = "refused in one line"
                lines = [line for line in said.stderr.splitlines() if line.startswith("Error: ")]
                if "Traceback" in said.stderr or len(lines) != 1:
                    wrong.append(f"{name!r}: {said.stderr[-600:]}")
            elif shell is None:
                wrong.append(f"{name!r}: no command in {said.stdout[-600:]}")
            else:
                subprocess.run(["bash", "-c", shell[1]], cwd=folder, env=environment, check=True)
                script, *arguments = told.read_text().split("\0")[:-1]
                with inside(folder):
                    ended = call(Path(script).stem, without("--source", arguments), capfd)
                if ended.code:
                    wrong.append(f"{name!r}: {ended.said[-600:]}")
        except Exception as error:
            wrong.append(f"{name!r}: {type(error).__name__}: {str(error)[-600:]}")
            outcome = "FAILED"
        recorder.add("inputs", "names of files", outcome, time.perf_counter() - started)
        here.rename(before)
        remove(folder / "results")
    assert not wrong, "\n".join(wrong)
    assert not list(folder.rglob("pwned"))


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.faults)])
def test_names_of_columns_are_read_or_refused_in_one_line(count, finished, tmp_path, capfd, recorder):
    pipeline, wrong = finished("descriptors").copy(tmp_path / "run"), []
    pipeline.commands = {job: without("--source", command) for job, command in pipeline.commands.items()}
    parts = sorted((pipeline.folder / "data").iterdir())
    tables = [pq.read_table(path) for path in parts]
    odd = [*NAMES, "", " ", "c1", "C1", "nan", "m0", "a" * 10**6, "\x00", "\ufeffc", "../../x", "c1\r", "\u2028"]
    for number in range(count):
        rng = random.Random(f"{SEED} columns {number}")
        names = list(tables[0].column_names)
        for place in rng.sample(range(1, len(names)), 3):
            names[place] = rng.choice(odd)
        for path, table in zip(parts, tables, strict=True):
            pq.write_table(table.rename_columns(names), path)
        started, outcome = time.perf_counter(), "read"
        tale = f"seed {SEED} columns {number}: {[name[:30] for name in names]}"
        try:
            complaint = pipeline.run_from(0, capfd)
            if complaint is not None:
                outcome = "refused in one line"
                if "data/" not in complaint:
                    wrong.append(f"{tale}: {complaint[:300]}")
            else:
                chosen = pipeline.folder / "results" / "descriptors" / "final_descriptors.txt"
                if not set(chosen.read_text().removesuffix("\n").split("\n")) <= set(names):
                    wrong.append(f"{tale}: selected what is no column")
        except Exception as error:
            wrong.append(f"{tale}: {type(error).__name__}: {str(error)[-600:]}")
            outcome = "FAILED"
        recorder.add("inputs", "names of columns", outcome, time.perf_counter() - started)
    assert not wrong, "\n".join(wrong)


CONFIG = {
    name: yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()) for name in ("config", "pubchem", "amazon531")
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    below = tree.items() if isinstance(tree, dict) else ()
    return [path, *(place for key, value in below for place in places(value, (*path, key)))]


@settings(max_examples=100)
@given(st.sampled_from(sorted(CONFIG)), st.data())
def test_a_config_with_anything_in_any_place_is_read_or_refused_in_one_line(recorder, name, data):
    config = copy.deepcopy(CONFIG[name])
    place = data.draw(st.sampled_from(places(config)[1:]))
    holder = config
    for key in place[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[place[-1]] = data.draw(ANYTHING)
    else:
        holder[data.draw(st.text(max_size=5) | st.integers())] = holder.pop(place[-1])
    outcome = "read"
    try:
        json.dumps(load(config))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        outcome = "refused in one line"
    recorder.add("inputs", "a config with anything in any place", outcome)


@pytest.mark.parametrize("count", [3, pytest.param(40, marks=pytest.mark.faults)])
def test_a_damaged_encoder_is_refused_in_one_line_and_never_run(
    count, finished, tmp_path, capfd, recorder, monkeypatch
):
    whole = finished("taxoclass")
    pipeline, wrong = whole.copy(tmp_path / "run"), []
    folder = pipeline.folder / "models" / "encoder"
    kept = tmp_path / "encoder"
    shutil.copytree(folder, kept)
    # what similarity reads and what it kept of it
    remove(pipeline.folder / "results" / "taxoclass" / "cache")
    for number in range(count):
        rng = random.Random(f"{SEED} model {number}")
        if folder.is_symlink():
            folder.unlink()
        remove(folder)
        shutil.copytree(kept, folder)
        path: Path = rng.choice(sorted(folder.iterdir()))
        content = path.read_bytes()
        kind = rng.choice(["header", "cut", "removed", "emptied", "a pickle", "foreign"])
        if kind == "header":  # whatever is in the weights is the model
            head = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else len(content)
            changed = bytearray(content)
            changed[rng.randrange(head)] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
        elif kind == "removed":
            path.unlink()
        else:
            foreign = rng.choice([each for each in kept.iterdir() if each.suffix != path.suffix]).read_bytes()
            trap = b"cbuiltins\nopen\n(Vpwned\nVw\ntR."
            spoils = {
                "cut": content[: rng.randrange(len(content))],
                "emptied": b"",
                "a pickle": trap,
                "foreign": foreign,
            }
            path.write_bytes(spoils[kind])
        started, outcome = time.perf_counter(), "read"
        try:
            complaint = pipeline.run("similarity", capfd)
            outcome = "read" if complaint is None else "refused in one line"
            if complaint is not None and "models/encoder" not in complaint:
                wrong.append(f"seed {SEED} model {number}: {path.name} {kind}: {complaint}")
        except Exception as error:
            wrong.append(f"seed {SEED} model {number}: {path.name} {kind}: {type(error).__name__}: {str(error)[-600:]}")
            outcome = "FAILED"
        recorder.add("models", f"{kind}", outcome, time.perf_counter() - started)
    assert not wrong, "\n".join(wrong)
    assert not (pipeline.folder / "pwned").exists() and not Path("pwned").exists()
