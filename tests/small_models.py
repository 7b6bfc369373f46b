"""Small models, corpora and runs, for the tests of the classifier, of the bundle and of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.taxoclass_settings import SelfTrain, TrainClassifier
from taxoclass import bundle
from taxoclass.classifier import Architecture, Classifier, build
from taxoclass.metrics_log import MetricsLog
from taxoclass.self_training import SelfTraining, Silver, self_train_iteration
from taxoclass.targets import CoreTargets, core_targets
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import CoreTraining, Machine, Tokens, Vectors, train

SIZE = 12
N = 150
KEYS = [f"document {row}" for row in range(N)]
QUIET = Machine(warn=lambda text: None)


# ---- models


def toy() -> Taxonomy:
    """Two roots; a and b below r, c below both, x below s and below c."""
    edges = [(0, 2), (0, 3), (2, 4), (3, 4), (1, 5), (4, 5)]
    ids = ("r", "s", "a", "b", "c", "x")
    return Taxonomy(ids, tuple((f"name {each}",) for each in ids), np.array(edges))


def names(taxonomy: Taxonomy, seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(taxonomy), size)) + 3


def architecture(**changed) -> Architecture:
    made = {"document_size": SIZE, "gnn": "ego", "gnn_num_layers": 2, "encoder": None}
    return Architecture(**(made | {"pooling": "cls", "gradient_checkpointing": False} | changed))


def model_of(gnn: str = "ego", layers: int = 2, seed: int = 0, learnt: bool = True) -> Classifier:
    model = build(toy(), names(toy()), architecture(gnn=gnn, gnn_num_layers=layers), seed)
    if learnt and model.classes.readout is not None:
        nn.init.ones_(model.classes.readout.weight)  # as if trained: the graph counts
    return model.eval()


def vectors(n: int, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, size)).astype(np.float32))


def tiny_bert(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    from transformers import AutoModel, BertConfig

    config = BertConfig(
        vocab_size=40,
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModel.from_config(config)


def trained_encoder(pooling: str = "cls", checkpointing: bool = False, dropout: float = 0.0) -> Classifier:
    bert = tiny_bert(dropout=dropout)
    made = {"encoder": bert.config.to_dict(), "pooling": pooling, "gradient_checkpointing": checkpointing}
    return build(toy(), names(toy()), architecture(gnn_num_layers=1, **made), 0, bert)


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0], [2, 3, 0, 0]])
    return ids, (ids != 0).long()


class Scattering(nn.Module):
    """What nn.DataParallel does, on a CPU: inputs cut along dim 0, one replica each, attributes out of reach."""

    def __init__(self, module: nn.Module, n: int = 2) -> None:
        super().__init__()
        self.module = module
        self.n = n

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        parts = zip(*(each.chunk(self.n) for each in inputs), strict=True)
        return torch.cat([self.replica()(*part) for part in parts])

    def replica(self) -> nn.Module:
        """As torch.nn.parallel.replicate: copies of parameters and buffers with their gradient, all else as it is."""
        copies = {id(each): each._replicate_for_data_parallel() for each in self.module.modules()}
        for each in self.module.modules():
            made = copies[id(each)]
            if any(isinstance(value, torch.Tensor) for value in vars(made).values()):
                raise RuntimeError("Expected all tensors to be on the same device")  # not copied, as no buffer
            for name, child in each._modules.items():
                made._modules[name] = None if child is None else copies[id(child)]
            for name, parameter in each._parameters.items():
                setattr(made, name, None if parameter is None else parameter.clone())
            for name, buffer in each._buffers.items():
                made._buffers[name] = None if buffer is None else buffer.clone()
        return copies[id(self.module)]


class Faulty(Classifier):
    """Breaks where it is told: ``fault(n documents, n calls)`` may raise, or return a factor on the logits."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        factor = self.fault(len(inputs[0]), self.calls)
        return super().forward(*inputs) * (1 if factor is None else factor)


def faulty(fault) -> Faulty:
    model = model_of(learnt=False)
    model.__class__ = Faulty
    model.calls, model.fault = 0, fault
    return model


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 1e-4) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=atol, msg=name)


# ---- runs


def corpus(n: int = N, seed: int = 0) -> tuple[Vectors, CoreTargets]:
    """Documents near the name of one class each, most with it as their core; one in five without."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 6, n)
    centred = names(toy()) - names(toy()).mean(axis=0)
    values = centred[topic] / np.linalg.norm(centred[topic], axis=1, keepdims=True)
    values = (values + 0.2 * rng.standard_normal((n, SIZE))).astype(np.float32)
    cores = [[] if row % 5 == 4 else [each] for row, each in enumerate(topic)]
    indptr = np.cumsum([0, *map(len, cores)])
    return Vectors(values), core_targets(toy(), indptr, np.array([c for each in cores for c in each]))


def token_corpus(n: int = 40) -> tuple[Tokens, CoreTargets]:
    """Documents of 2 to 9 tokens, whose second one tells the class."""
    rng = np.random.default_rng(0)
    topic = np.arange(n) % 6
    texts = [np.r_[2, 10 + each, rng.integers(20, 40, rng.integers(0, 8))] for each in topic]
    starts = np.cumsum([0, *map(len, texts)])
    return Tokens(np.concatenate(texts), starts, pad=0), core_targets(toy(), np.arange(n + 1), topic)


def core_training(**changed) -> CoreTraining:
    """The defaults of the settings, but for a head that learns fast and as few steps as epochs have."""
    settings = TrainClassifier(encoder_trainable=True, head_lr=4e-3, min_steps=0)
    return replace(CoreTraining.of(settings), **changed)


def self_training(**changed) -> SelfTraining:
    """The defaults of the settings."""
    return replace(SelfTraining.of(SelfTrain(), trainable=True), **changed)


def learn(folder: Path, model: Classifier | None = None, machine: Machine = QUIET, log=None, **settings):
    """One small stage-3 run: its model and its report."""
    documents, targets = corpus()
    model = model or model_of(learnt=False)
    settings = {"epochs": 3, "batch_size": 32, "micro_batch": 8} | settings
    return model, train(model, documents, targets, KEYS, core_training(**settings), folder, machine, log)


def self_learn(
    folder: Path, model: Classifier, machine: Machine = QUIET, silver=True, floor=None, log=None, **settings
):
    documents, targets = corpus()
    settings = self_training(**({"epochs": 2, "batch_size": 32, "micro_batch": 8} | settings))
    held_out = Silver.held_out(targets, KEYS, settings.validation_share) if silver else None
    report = self_train_iteration(
        model, documents, toy(), settings, 1, folder, held_out, floor, machine=machine, log=log
    )
    return model, report


class Recorder:
    def __init__(self) -> None:
        self.records: list[dict] = []

    def write(self, record):
        self.records.append(record)

    def close(self):
        pass

    def of(self, event, name):
        return [record[name] for record in self.records if record["event"] == event]


@pytest.fixture(autouse=True)
def one_thread():
    """As the subprocesses have: the sums of more threads are rounded otherwise. And it is faster beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_to_bundle(kind: str, folder: Path) -> bytes:
    """Train, or self-train, and save: what a stage does. Model and settings are functions of ``kind`` alone."""
    torch.seed()  # another state of the global generator in every process
    gnn = "off" if kind.endswith("without graph") else "ego"  # which saves a subprocess an import of seconds
    if kind.startswith("train"):
        model, report = learn(folder / "state", model_of(gnn, learnt=False), epochs=4)
    elif kind == "dropout":
        documents, targets = token_corpus()
        keys = [str(row) for row in range(len(documents))]
        model = trained_encoder(dropout=0.2)
        report = train(model, documents, targets, keys, core_training(epochs=3, batch_size=16), folder / "state", QUIET)
    else:
        refresh = 2 if kind.startswith("refresh") else 0
        model, report = self_learn(folder / "state", model_of(gnn, learnt=False), epochs=3, refresh_every=refresh)
    bundle.save(folder / "model.pt", bundle.Bundle(model, toy(), {}, {"history": report.history}))
    return (folder / "model.pt").read_bytes()


def interrupted(kind: str, step: int, folder: Path, monkeypatch) -> bytes:
    """``run_to_bundle``, broken off at a step and started again."""
    log = MetricsLog.__call__

    def stopping(self, event, **values):
        if event == "step" and values["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_to_bundle(kind, folder)
    monkeypatch.setattr(MetricsLog, "__call__", log)
    return run_to_bundle(kind, folder)
