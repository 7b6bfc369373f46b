"""The classifier and its document encoder as one network from token ids to probabilities, for ONNX."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from taxoclass.classifier import Classifier, DocumentEncoder
from taxoclass.encoders import Encoder
from taxoclass.packing import padded


class Labeller(nn.Module):
    """(n, L) int64 token ids and their mask to (n, C) probabilities, each class by itself.

    The graph network does not depend on the document: what it gives, c' B of all classes, is a constant here.
    """

    directions: Tensor
    bias: Tensor

    def __init__(self, model: Classifier, encoder: Encoder) -> None:
        super().__init__()
        backbone = encoder.loaded.model if model.encoder is None else model.encoder.backbone
        pooling = encoder.pooling if model.encoder is None else model.encoder.pooling
        self.encoder = DocumentEncoder(padded(backbone), pooling)
        with torch.no_grad():
            self.register_buffer("directions", model.directions().clone())
            self.register_buffer("bias", model.bias.detach().clone())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        unit = functional.normalize(self.encoder(ids, mask), dim=1)
        return torch.sigmoid(unit @ self.directions.T + self.bias)


def write(path: str, labeller: Labeller, pad: int) -> None:
    """The network as an ONNX file; numbers of texts and tokens are free."""
    ids = torch.full((2, 7), pad, dtype=torch.int64)
    mask = torch.ones_like(ids)
    free = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own names of the free dimensions
        torch.onnx.export(
            labeller.eval(),
            (ids, mask),
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=["probabilities"],
            dynamo=True,
            dynamic_shapes=(free, free),
            external_data=False,
            verbose=False,
        )


def random_texts(vocabulary: list[str], number: int, seed: int) -> list[str]:
    """Texts of 1 to 400 words of a tokenizer."""
    rng = np.random.default_rng(seed)
    words = sorted(each for each in vocabulary if each.isalpha())
    return [" ".join(rng.choice(words, size)) for size in rng.integers(1, 401, number)]
