"""What others do with text: called as their documentation says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def sentence_transformer(folder: Path, max_length: int) -> Any:
    from sentence_transformers import SentenceTransformer, models

    words = models.Transformer(str(folder), max_seq_length=max_length)
    pooling = models.Pooling(words.get_word_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[words, pooling, models.Normalize()], device="cpu")


def encode(model: Any, texts: Sequence[str]) -> np.ndarray:
    return np.asarray(model.encode(list(texts), show_progress_bar=False))


def zero_shot(folder: Path) -> Any:
    from transformers import pipeline

    return pipeline("zero-shot-classification", model=str(folder), device="cpu")


def zero_shot_logits(classify: Any, texts: Sequence[str], names: Sequence[str], template: str) -> np.ndarray:
    """(N, C) logit of entailment against contradiction, each class by itself."""
    template = template.replace("{class_name}", "{}")
    found = np.empty((len(texts), len(names)))
    for row, text in enumerate(texts):
        answer = classify(text, list(names), hypothesis_template=template, multi_label=True)
        score = dict(zip(answer["labels"], answer["scores"], strict=True))
        p = np.array([score[name] for name in names])
        found[row] = np.log(p) - np.log1p(-p)
    return found
