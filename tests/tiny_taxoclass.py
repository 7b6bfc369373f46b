"""A project small enough to run in seconds: models of random weights, a taxonomy, documents, and ways to drive it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from conftest import copy_workflow
from snakemake_runs import ENVIRONMENT, MACHINE, SNAKEMAKE, DryRuns, commands, jobs, succeeded

STAGES = ["check_corpus", "similarity", "core_classes", "train_classifier", "self_train", "predict", "evaluate"]

# two roots, ragged, one class with two parents, one name twice; ids neither 0..C-1 nor in order
CLASSES = {
    "901": "animals", "30": "music", "17": "cats|kittens", "5": "dogs", "88": "care", "12": "care",
    "44": "jazz", "3": "opera", "60": "records", "71": "voice", "8": "sopranos",
}  # fmt: skip
EDGES = [
    ("901", "17"), ("901", "5"), ("17", "88"), ("5", "12"), ("30", "44"), ("30", "3"), ("44", "60"), ("3", "60"),
    ("3", "71"), ("71", "8"),
]  # fmt: skip
WORDS = {
    "901": "zoo wild", "30": "sound concert", "17": "whiskers purring", "5": "barking leash", "88": "litter brushing",
    "12": "walking kennel", "44": "swing trumpet", "3": "stage aria", "60": "vinyl label", "71": "singing breath",
    "8": "high diva",
}  # fmt: skip
FILLERS = ["the", "a", "of", "and", "was", "this", "very", "not", "under", "old", "green", "one"]
SETTINGS: dict[str, Any] = {
    "classes_file": "data/classes.tsv",
    "hierarchy_file": "data/hierarchy.tsv",
    "train_corpus": "data/train.tsv",
    "test_corpus": "data/test.jsonl",
    "gold_labels": "data/gold.tsv",
    "similarity_model": "models/encoder",
    "doc_encoder_model": "models/encoder",
    "hypothesis_template": "{path}",
    "similarity_max_length": 48,
    "doc_max_length": 48,
    "batch_size": 16,
    "epochs": 4,
    "min_steps": 0,
    "self_train_epochs": 4,
    "self_train_stop": 1.0,  # the first iteration is the last to train
    "bootstrap_resamples": 50,
}


# ---- models


def tokenizer(kind: str) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import BertTokenizer, RobertaTokenizer

    if kind == "roberta":
        entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa"]
        return RobertaTokenizer(vocab={entry: at for at, entry in enumerate(entries)}, merges=[("Ġ", "a")])
    known = " ".join([*WORDS.values(), *CLASSES.values()]).replace("|", " ").split() + FILLERS
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known, *letters, *(f"##{each}" for each in letters)]
    return BertTokenizer(vocab={entry: at for at, entry in enumerate(dict.fromkeys(entries))})


def save_model(folder: Path, labels: tuple[str, ...] = (), seed: int = 0) -> Path:
    """A BERT encoder, or with ``labels`` a RoBERTa classifier, of random weights."""
    import torch
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaForSequenceClassification

    made = tokenizer("roberta" if labels else "bert")
    shape = {
        "vocab_size": len(made), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "initializer_range": 0.3,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if labels:
            tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
            said = {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
            config = RobertaConfig(**shape, **tokens, **said, max_position_embeddings=258)
            RobertaForSequenceClassification(config).save_pretrained(folder)
        else:
            config = BertConfig(**shape, max_position_embeddings=256, pad_token_id=0)
            BertModel(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


# ---- data


def chain_of(class_id: str) -> list[str]:
    """From a root to the class, by first parents."""
    above = next((parent for parent, child in EDGES if child == class_id), None)
    return [*(chain_of(above) if above else []), class_id]


class Text(NamedTuple):
    doc_id: str
    text: str
    labels: list[str]


def texts(n_each: int, prefix: str, seed: int) -> list[Text]:
    """Documents of each class in turn: words of its chain among others; ids are words and numbers."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n_each * len(CLASSES)):
        chain = chain_of(list(CLASSES)[number % len(CLASSES)])
        own = " ".join(f"{WORDS[each]} {CLASSES[each].split('|')[0]}" for each in chain).split()
        words = [*rng.choice(own, 8), *rng.choice(FILLERS, 6)]
        found.append(Text(f"{prefix}{1000 - 7 * number:04d}", " ".join(rng.permutation(words)), chain))
    return found


TRAIN, TEST = texts(6, "", 0), texts(2, "new ", 1)
TEST[3] = TEST[3]._replace(text="")  # a document without text is labelled all the same
IDS = [each.doc_id for each in TRAIN + TEST]


def lines(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{first}\t{second}\n" for first, second in rows)


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "classes.tsv": lines(list(CLASSES.items())),
        "hierarchy.tsv": lines(EDGES),
        "train.tsv": lines([(each.doc_id, each.text) for each in TRAIN]),
        "test.jsonl": "".join(json.dumps({"id": each.doc_id, "text": each.text}) + "\n" for each in TEST),
        "gold.tsv": lines([(each.doc_id, ",".join(each.labels)) for each in TRAIN + TEST]),
    }
    for name, text in content.items():
        (folder / name).write_text(text)


# ---- a project


class Outcome(NamedTuple):
    """What a script run in this process said on standard error, and how it ended."""

    code: int
    said: str

    @property
    def complaint(self) -> str:
        """The one line of a refusal."""
        told = [line for line in self.said.splitlines() if not re.match(r"\w+ *\| ", line)]
        assert self.code == 2 and len(told) == 1, self.said
        return told[0]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def call(script: str, arguments: list[str], capture: pytest.CaptureFixture[str]) -> Outcome:
    """A script in this process, which has torch and transformers imported already."""
    capture.readouterr()
    before, code = sys.argv, 0
    sys.argv = [f"{script}.py", *arguments]
    try:
        importlib.import_module(script).main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Outcome(code, capture.readouterr().err)


class Project:
    """A copy of the workflow with data, models and a config of its own, as a user has it."""

    def __init__(self, folder: Path, dry_runs: DryRuns) -> None:
        self.folder = folder
        self.results = folder / "results" / "taxoclass"
        self.dry_runs = dry_runs

    @classmethod
    def create(cls, folder: Path, models: Path, dry_runs: DryRuns, **settings: Any) -> Project:
        copy_workflow(folder)
        shutil.copytree(models, folder / "models")
        write_data(folder / "data")
        project = cls(folder, dry_runs)
        project.configure(**settings)
        return project

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, self.dry_runs)

    def configure(self, **settings: Any) -> None:
        """The config file, with these settings; one that is None is left out."""
        section = {key: value for key, value in (SETTINGS | settings).items() if value is not None}
        path = self.folder / "config" / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"taxoclass": section}))

    def snakemake(self, *arguments: str, target: str = "taxoclass") -> subprocess.CompletedProcess[str]:
        command = [*SNAKEMAKE, target, *MACHINE, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )

    def run(self, *arguments: str, target: str = "taxoclass") -> list[str]:
        """Jobs that ran, in order."""
        return list(jobs(succeeded(self.snakemake(*arguments, target=target))))

    def dry_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.dry_runs(self.folder, "taxoclass", *MACHINE, *arguments)

    def planned(self, *arguments: str) -> list[str]:
        """Jobs that a dry run would run, in order, without the targets."""
        return list(jobs(succeeded(self.dry_run(*arguments))))

    def commands(self, *arguments: str) -> dict[str, list[str]]:
        """The command line of each planned job."""
        return commands(succeeded(self.dry_run("--printshellcmds", *arguments)))

    def replay(self, capture: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Outcome]:
        """Do here what Snakemake would do, with its command lines; the first job that fails is the last one."""
        outcomes = {}
        with inside(self.folder):
            for job, command in self.commands(*arguments).items():
                outcomes[job] = call(Path(command[1]).stem, command[2:], capture)
                if outcomes[job].code:
                    break
        return outcomes

    def replayed(self, capture: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Outcome]:
        """As ``replay``, with no job failing."""
        outcomes = self.replay(capture, *arguments)
        assert not any(each.code for each in outcomes.values()), outcomes
        return outcomes

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.results / name).read_text())

    def bytes(self, *without: str) -> dict[str, bytes]:
        """All products, by name, but those that tell of the run and not of the data."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results).as_posix()
            if path.is_file() and not name.startswith(("cache/", "provenance/", "metrics/")) and name not in without:
                found[name] = path.read_bytes()
        return found


def from_stage(first: str, iterations: int = 3) -> list[str]:
    """The jobs of a stage and all later ones, in order."""
    names = [f"self_train {i}" for i in range(1, iterations + 1)]
    everything = [*STAGES[:4], *names, *STAGES[5:]]
    return everything[everything.index(first) :]
