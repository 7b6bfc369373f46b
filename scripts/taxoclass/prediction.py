"""What a model says of documents: logits, the probabilities that a decoder takes, and label sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from taxoclass.classifier import Classifier
from taxoclass.decoding import Method, decode, level_weights
from taxoclass.expected_f1 import consistent_probabilities
from taxoclass.labels import Labels
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import BLOCK, CPU, Documents, Machine, Runner


def predict_into(
    out: np.ndarray,
    model: Classifier,
    documents: Documents,
    machine: Machine = CPU,
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """Fill (N, C) float32 ``out``, such as a memory map, with the logits of all documents, or ``scale`` of them."""

    def store(rows: np.ndarray, z: np.ndarray) -> None:
        out[rows] = scale(z)

    Runner(model, documents, machine, micro_batch=1).predict(np.arange(len(documents)), store)
    return out


def scale_of(method: Method, taxonomy: Taxonomy) -> Callable[[np.ndarray], np.ndarray]:
    """(b, C) logits to the probabilities that a decoder takes: on one scale for all levels, or each class by itself."""
    return partial(consistent_probabilities, taxonomy=taxonomy) if method == "expected_f1" else expit


class Opinion(NamedTuple):
    """labels : of N documents. weights : (n levels,) float64, for decoders that weigh levels."""

    labels: Labels
    weights: np.ndarray


def opinion(logits: np.ndarray, taxonomy: Taxonomy) -> Opinion:
    """The label sets of the default decoder, and level weights, from the (N, C) float32 logits of the corpus."""
    parts = [
        decode(consistent_probabilities(logits[start : start + BLOCK], taxonomy), taxonomy, "expected_f1").labels
        for start in range(0, len(logits), BLOCK)
    ]
    labels = Labels.pack(
        np.concatenate([part.sizes for part in parts]), np.concatenate([part.indices for part in parts])
    )
    return Opinion(labels, level_weights(expit(logits), taxonomy))
