"""What a model says of documents: logits, the probabilities that a decoder takes, and label sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from common.progress import Progress, unseen
from common.taxoclass_settings import Method
from taxoclass.classifier import Classifier
from taxoclass.decoding import Rules, decode, level_weights
from taxoclass.expected_f1 import consistent_probabilities
from taxoclass.labels import Labels
from taxoclass.posterior import nearest, neighbour_weight, smoothed
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import BLOCK, CPU, Documents, Machine, Runner, blocks

COLUMNS = 64  # classes whose probabilities are in memory at once


def predict_into(
    out: np.ndarray,
    model: Classifier,
    documents: Documents,
    machine: Machine = CPU,
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
    more: csr_array | None = None,
) -> np.ndarray:
    """Fill (N, C) float32 ``out``, such as a memory map, with the logits of all documents, or ``scale`` of them.

    more : (N, C) float32, added to the logits.
    """

    def store(rows: np.ndarray, z: np.ndarray) -> None:
        out[rows] = scale(z if more is None else z + more[rows].toarray())

    Runner(model, documents, machine).predict(np.arange(len(documents)), store)
    return out


def average_into(out: np.ndarray, vectors: np.ndarray, taxonomy: Taxonomy, k: int, progress: Progress = unseen) -> None:
    """Mix (N, C) probabilities, such as a memory map, with those of each document's k nearest ones, in place.

    vectors : (N, d) float32 of the same documents, rows of length 1. A document by itself stays as it is.
    """
    neighbours = nearest(vectors, k, progress)
    if not neighbours.size:
        return
    weight = neighbour_weight(len(out), int(taxonomy.leaves.sum()), neighbours.shape[1])
    everyone = np.ones(len(out), dtype=bool)
    for start in range(0, out.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        out[:, part] = smoothed(np.array(out[:, part]), neighbours, weight, everyone)


def scale_of(method: Method, taxonomy: Taxonomy) -> Callable[[np.ndarray], np.ndarray]:
    """(b, C) logits to the probabilities that a decoder takes: on one scale for all levels, or each class by itself."""
    return partial(consistent_probabilities, taxonomy=taxonomy) if method == "expected_f1" else expit


class Opinion(NamedTuple):
    """labels : of N documents. weights : (n levels,) float64, for decoders that weigh levels."""

    labels: Labels
    weights: np.ndarray


def opinion(logits: np.ndarray, taxonomy: Taxonomy, progress: Progress = unseen) -> Opinion:
    """The label sets of the default decoder, and level weights, from the (N, C) float32 logits of the corpus.

    ``progress`` is told of each document.
    """
    rules = Rules(method="expected_f1")
    parts = [
        decode(consistent_probabilities(part, taxonomy), taxonomy, rules, progress=progress).labels
        for part in blocks(logits, BLOCK)
    ]
    return Opinion(Labels.joined(parts), level_weights(expit(logits), taxonomy))
