"""Our side of the rows on text; as a script, one stage at full size in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = "This document is about {class_name}."
MODEL = "all-MiniLM-L6-v2"
MAX_LENGTH = 512
DIMENSION = 384
ROOTS, MIDDLE = 6, 113  # classes of the first two levels
SEED = 7


class SentenceEncoder:
    """The encoder of stage 1, without its cache."""

    def __init__(self) -> None:
        from taxoclass.encoders import Encoder

        self._encoder = Encoder.load(MODEL)
        self.folder, self.max_length = self._encoder.loaded.folder, self._encoder.loaded.max_length

    @property
    def padding(self) -> float:
        return self._encoder.tally.padding_share

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._encoder.encode(list(texts))


# ---- entailment


def nli_model(folder: Path) -> Path:
    """A model of RoBERTa-base size with random weights, and a real tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from taxoclass.models import locate

    tokenizer = AutoTokenizer.from_pretrained(locate(MODEL, True))
    torch.manual_seed(SEED)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer), id2label=labels, label2id={name: number for number, name in labels.items()}
        )
    )
    tokenizer.model_max_length = MAX_LENGTH
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def class_names(count: int) -> list[str]:
    """Different names of one to three words."""
    first = ("baby", "garden", "kitchen", "office", "pet", "sports", "toy", "beauty", "health", "grocery", "car", "art")
    second = ("care", "food", "tools", "games", "books", "storage", "lighting", "clothing", "furniture")
    third = ("", "sets", "parts", "gifts", "for children")
    names = [f"{a} {b} {c}".strip() for c in third for b in second for a in first]
    return names[:count]


def tree(names: Sequence[str]) -> Any:
    """A taxonomy like Amazon's 531: roots, classes below, the rest below these, 25 of them with two parents."""
    from taxoclass.taxonomy import Taxonomy

    inner = ROOTS + MIDDLE
    edges = {(i % ROOTS, ROOTS + i) for i in range(MIDDLE)}
    edges |= {(ROOTS + i % MIDDLE, inner + i) for i in range(len(names) - inner)}
    edges |= {(ROOTS + (7 * i + 3) % MIDDLE, inner + i) for i in range(25)}
    ids = tuple(map(str, range(len(names))))
    return Taxonomy(ids, tuple((name,) for name in names), np.array(sorted(edges), dtype=np.int64))


@dataclass(frozen=True)
class Timed:
    """One run. pairs : of texts that were run. padding : share of the tokens."""

    seconds: float
    pairs: int
    padding: float


def scorer(folder: Path) -> Any:
    from taxoclass.scoring import NliScorer

    return NliScorer.load(str(folder), "cpu", MAX_LENGTH, score="entail_vs_contra")


def entailment(folder: Path, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(N, C) logits, the model loaded anew: nothing is known from before."""
    from taxoclass.scoring import PairScorer

    return PairScorer(scorer(folder), texts, [[TEMPLATE.format(class_name=name)] for name in names]).score_all()


def flops(folder: Path, texts: Sequence[str], names: Sequence[str]) -> float:
    """Of all pairs."""
    from taxoclass.scoring import PairScorer

    class_texts = [[TEMPLATE.format(class_name=name)] for name in names]
    return PairScorer(scorer(folder), texts, class_texts).cost(measure=False).flops


def product_rate(seconds: float = 2.0) -> float:
    """FLOP/s of torch's float32 matrix product, 2,048 tokens by the weights of a layer of this size."""
    import torch

    x, w = torch.randn(2048, 768), torch.randn(768, 3072)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        x @ w
        best = min(best, time.perf_counter() - started)
    return 2 * 2048 * 768 * 3072 / best


def by_paths(folder: Path, texts: Sequence[str], taxonomy: Any, k: int) -> tuple[int, float]:
    """Pairs and padding of the candidates on the k best paths of the sentence encoder, from texts to scores."""
    from taxoclass.encoders import Encoder
    from taxoclass.scoring import PairScorer, embedding_scores, label_vectors, path_candidates

    encoder = Encoder.load(MODEL)
    labels = label_vectors(encoder, [[names[0]] for names in taxonomy.names])
    cosines = embedding_scores(encoder.encode(list(texts)), labels, np.arange(len(taxonomy)))
    rows, classes = path_candidates(taxonomy, cosines, k)
    pairs = PairScorer(scorer(folder), texts, [[TEMPLATE.format(class_name=names[0])] for names in taxonomy.names])
    pairs.score_pairs(rows, classes)
    return len(rows), pairs.tally.padding_share


def timed(work: Callable[[], tuple[int, float]]) -> Timed:
    started = time.perf_counter()
    pairs, padding = work()
    return Timed(time.perf_counter() - started, pairs, padding)


# ---- later stages, at full size


def documents(count: int, taxonomy: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, d) and (C, d) unit vectors; every document near one leaf."""
    rng = np.random.default_rng(SEED)
    classes = rng.standard_normal((len(taxonomy), DIMENSION)).astype(np.float32)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    leaf = rng.choice(np.flatnonzero(taxonomy.leaves), count)
    values = classes[leaf] + 0.12 * rng.standard_normal((count, DIMENSION), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True), classes


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def mining(n_documents: int, taxonomy: Any) -> dict[str, float]:
    """Core classes from similarities, nearest documents and words of names that are there."""
    from scipy.sparse import random_array

    from common.taxoclass_settings import CoreClasses
    from taxoclass import mining as mine
    from taxoclass.decoding import level_weights
    from taxoclass.expected_f1 import upward
    from taxoclass.posterior import leaf_posterior

    values, classes = documents(n_documents, taxonomy)
    similarity = values @ classes.T
    unit = mine.unit_similarity(similarity)
    rng = np.random.default_rng(SEED)
    neighbours = rng.integers(0, n_documents, (n_documents, 10), dtype=np.int32)
    words = random_array((n_documents, len(taxonomy)), density=0.01, format="csr", dtype=np.float32, rng=rng)
    mine.surest(upward(leaf_posterior(similarity[:500], taxonomy), taxonomy), taxonomy, share=0.5)
    before = peak()

    def posterior() -> None:
        mine.surest(
            upward(leaf_posterior(similarity, taxonomy, neighbours, words=words), taxonomy), taxonomy, share=0.5
        )

    def paper() -> None:
        chosen = mine.candidates(unit, taxonomy, mine.Growth.of(CoreClasses()))
        mine.cores(unit, taxonomy, chosen, percentile=50, require_positive=True, min_conf=None)

    return {
        "before": before,
        "posterior": clock(posterior)[0],
        "taxoclass": clock(paper)[0],
        "path_margin": clock(
            lambda: mine.path_margin(unit, taxonomy, share=0.5, weights=level_weights(unit, taxonomy))
        )[0],
    }


def decoding(n_documents: int, taxonomy: Any) -> dict[str, float]:
    """Label sets of the share of the documents that are Amazon's test split."""
    from taxoclass.decoding import Rules, decode, level_weights
    from taxoclass.expected_f1 import consistent_probabilities

    values, classes = documents(round(n_documents * 0.4), taxonomy)
    probability = consistent_probabilities(20 * (values @ classes.T), taxonomy)
    weights = level_weights(probability, taxonomy)
    path, likeliest = Rules(method="path"), Rules(method="expected_f1")
    decode(probability[:500], taxonomy, path, weights)
    return {
        "path": clock(lambda: decode(probability, taxonomy, path, weights))[0],
        "expected_f1": clock(lambda: decode(probability, taxonomy, likeliest))[0],
    }


def self_training(n_documents: int, taxonomy: Any) -> dict[str, float]:
    """One iteration on fixed vectors, of a model that has learnt a little; with the threads that the stage takes."""
    from common.device import settle
    from common.taxoclass_settings import SelfTrain, TrainClassifier
    from taxoclass.classifier import Architecture, build
    from taxoclass.expected_f1 import upward
    from taxoclass.labels import Cores
    from taxoclass.mining import surest
    from taxoclass.posterior import leaf_posterior
    from taxoclass.self_training import SelfTraining, Silver, self_train_iteration
    from taxoclass.targets import core_targets
    from taxoclass.training import CoreTraining, Vectors, train

    values, classes = documents(n_documents, taxonomy)
    cores: Cores = surest(upward(leaf_posterior(values @ classes.T, taxonomy), taxonomy), taxonomy, share=0.5)
    targets = core_targets(taxonomy, cores.indptr, cores.indices)
    keys = [str(row) for row in range(n_documents)]
    architecture = Architecture(
        document_size=DIMENSION, gnn="ego", gnn_num_layers=2, encoder=None, pooling="mean", gradient_checkpointing=False
    )
    model = build(taxonomy, classes, architecture, SEED)
    learns = CoreTraining.of(TrainClassifier(epochs=1, min_steps=0))
    with tempfile.TemporaryDirectory() as folder:
        train(model, Vectors(values), targets, keys, learns, Path(folder))
        silver = Silver.held_out(targets, keys, 0.1)
        with tempfile.TemporaryDirectory() as other:
            settle(trainable=False)
            settings = SelfTraining.of(SelfTrain(), trainable=False)
            seconds, _ = clock(
                lambda: self_train_iteration(model, Vectors(values), taxonomy, settings, 1, Path(other), silver)
            )
    return {"iteration": seconds}


def main() -> None:
    name, n_documents, n_classes, threads, answer = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(int(threads))
    stages = {"mining": mining, "decoding": decoding, "self_training": self_training}
    with threadpool_limits(int(threads)):
        found = stages[name](int(n_documents), tree(class_names(int(n_classes))))
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
