"""What half precision changes: similarities in fp16 and bf16 against those in fp32, computed by torch on the CPU.

python benchmarks/precision.py; cosines of all-MiniLM-L6-v2 on the abstracts of the demo, and entailment of a model made
of it, which first learns from true and false classes. Writes benchmarks/results/precision.txt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import our_text  # noqa: E402
import written  # noqa: E402
from measure import machine  # noqa: E402

PAIRED = 12  # abstracts that are paired with every class
LENGTH = 64
STEPS, BATCH = 150, 32
SEED = 0
HEAD = ("similarity", "precision", "largest difference", "mean", "above 1e-3", "other core classes (mining: taxoclass)")


def demo() -> tuple[list[str], Any, list[list[int]]]:
    """The bundled abstracts, their taxonomy, and of each abstract the rows of its classes."""
    from taxoclass.corpus import read_corpus, read_labels
    from taxoclass.reading import read_taxonomy

    corpus, classes, hierarchy, gold = (
        str(ROOT / "resources" / "wos1k" / name)
        for name in ("corpus.jsonl.gz", "classes.tsv", "hierarchy.tsv", "gold.tsv")
    )
    documents, taxonomy = read_corpus(corpus), read_taxonomy(classes, hierarchy)
    labels = read_labels(gold, taxonomy)
    return list(documents.texts), taxonomy, [sorted(labels[each]) for each in documents.doc_ids]


def learnt(folder: Path, texts: list[str], taxonomy: Any, gold: list[list[int]]) -> Path:
    """A model of entailment: the encoder's layers and a head that tells true classes of abstracts from others."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from taxoclass.models import locate

    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    labels = {0: "contradiction", 1: "entailment"}
    source = locate(our_text.MODEL, True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, id2label=labels, label2id={name: number for number, name in labels.items()}
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(STEPS):
        rows, truth = rng.integers(len(texts), size=BATCH), rng.integers(2, size=BATCH)
        pairs = list(zip(rows, truth, strict=True))
        classes = [rng.choice(gold[row]) if true else rng.integers(len(taxonomy)) for row, true in pairs]
        truth = np.array([each in gold[row] for row, each in zip(rows, classes, strict=True)], dtype=np.int64)
        inputs = tokenizer(
            [texts[row] for row in rows],
            [hypothesis(taxonomy, each) for each in classes],
            truncation="only_first",
            max_length=LENGTH,
            padding=True,
            return_tensors="pt",
        )
        cross_entropy(model(**inputs).logits, torch.from_numpy(truth)).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def hypothesis(taxonomy: Any, row: int) -> str:
    return our_text.TEMPLATE.format(class_name=taxonomy.names[row][0])


def core_classes(cosines: np.ndarray, taxonomy: Any) -> list[set[int]]:
    """Of each document, as mining: taxoclass finds them."""
    from common.taxoclass_settings import CoreClasses
    from core_classes import mine
    from taxoclass.products import SimilarityFile

    none = np.empty((len(cosines), 0), np.int32)
    stored = SimilarityFile(cosines, none, none, {"scale": "cosine"})
    _, found, _ = mine(CoreClasses(mining="taxoclass"), stored, [], taxonomy)
    return [set(part.tolist()) for part in np.split(found.indices, found.indptr[1:-1])]


def lines(
    what: str, loaded: Any, similarity: Callable[[], np.ndarray], others: Callable[[np.ndarray, np.ndarray], str]
) -> list[tuple[str, ...]]:
    """similarity() : (N, C); others(exact, found) : how many documents have other core classes."""
    exact, shown = similarity(), []
    for precision in ("fp16", "bf16"):
        loaded.precision = precision
        found = similarity()
        off = np.abs(found - exact)
        shown.append(
            (
                what,
                precision,
                f"{off.max():.1e}",
                f"{off.mean():.1e}",
                f"{(off > 1e-3).mean():.2%}",
                others(exact, found),
            )
        )
    return shown


def cosines(texts: list[str], taxonomy: Any) -> list[tuple[str, ...]]:
    from taxoclass.encoders import Encoder
    from taxoclass.scoring import embedding_scores

    encoder = Encoder.load(our_text.MODEL)
    names = [each[0] for each in taxonomy.names]

    def similarity() -> np.ndarray:
        return embedding_scores(encoder.encode(texts), encoder.encode(names), np.arange(len(names)))

    def others(*sides: np.ndarray) -> str:
        one, other = (core_classes(side, taxonomy) for side in sides)
        return f"{sum(a != b for a, b in zip(one, other, strict=True))} of {len(one)}"

    return lines(f"cosine, {len(texts)} abstracts", encoder.loaded, similarity, others)


def probabilities(folder: Path, texts: list[str], taxonomy: Any) -> list[tuple[str, ...]]:
    from taxoclass.scoring import NliScorer, PairScorer

    scorer = NliScorer.load(str(folder), "cpu", LENGTH)
    class_texts = [[hypothesis(taxonomy, row)] for row in range(len(taxonomy))]

    def similarity() -> np.ndarray:
        return expit(PairScorer(scorer, texts, class_texts).score_all())

    return lines(f"entailment, {len(texts)} abstracts", scorer.loaded, similarity, lambda *_: "")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    import torch

    torch.set_num_threads(2)
    texts, taxonomy, gold = demo()
    here = machine()
    rows = cosines(texts, taxonomy)
    with tempfile.TemporaryDirectory() as scratch:
        folder = learnt(Path(scratch), texts, taxonomy, gold)
        rows += probabilities(folder, texts[:PAIRED], taxonomy)
    head = f"{here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB; against fp32"
    text = f"{head}\n\n{written.aligned(HEAD, rows)}\n"
    print(text)
    (ROOT / "benchmarks" / "results" / "precision.txt").write_text(text)


if __name__ == "__main__":
    main()
