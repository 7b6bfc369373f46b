"""What the classifier is to learn: core classes in stage 3, its own sharpened predictions in stage 4, and the loss.

Everything is written in logits: no epsilon, no log(p + 1e-10), which underflows in half precision.

References
----------
Shen et al. (2021), TaxoClass, sections 3.3 (core classes) and 3.4 (self-training).
Xie, Girshick & Farhadi (2016), Unsupervised deep embedding for clustering analysis (the sharpened target).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, get_args

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from common.taxoclass_settings import Target
from taxoclass.taxonomy import Taxonomy


class Targets(Protocol):
    """Targets carried by document index, so that no shuffle can part them from their documents."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(b,) int64 document rows -> targets in [0, 1] and weights, both (b, C) float32."""
        ...

    def loss(self, z: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        """(b, C) each -> scalar: sum over classes and documents; the caller divides by the documents of a step."""
        ...


# ---- stage 3


@dataclass(frozen=True)
class CoreTargets:
    """positive: cores and their ancestors; ignored: descendants of cores; all others are negative; positive wins.

    positive, ignored : (N, C) bool, disjoint.
    """

    positive: csr_array
    ignored: csr_array

    @property
    def rows(self) -> np.ndarray:
        """(M,) int64, ascending: documents with a core class, the only ones that stage 3 learns from."""
        return np.flatnonzero(np.diff(self.positive.indptr))

    @property
    def digest(self) -> str:
        content = hashlib.sha256()
        for matrix in (self.positive, self.ignored):
            for part in (np.array(matrix.shape), matrix.indptr, matrix.indices):
                content.update(part.astype(np.int64).tobytes())
        return content.hexdigest()

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        targets = self.positive[rows].toarray().astype(np.float32)
        weights = 1 - self.ignored[rows].toarray().astype(np.float32)
        return torch.from_numpy(targets), torch.from_numpy(weights)

    def loss(self, z: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        return bernoulli_loss(z, q, weight)


def core_targets(taxonomy: Taxonomy, indptr: np.ndarray, indices: np.ndarray) -> CoreTargets:
    """Stage-3 targets of core classes.

    Parameters
    ----------
    indptr : (N + 1,) integer, indices : (nnz,) integer rows of the taxonomy: the core classes of each document (CSR).
    """
    n = len(taxonomy)
    cores = csr_array((np.ones(len(indices), dtype=np.int64), indices, indptr), shape=(len(indptr) - 1, n))
    positive = _pattern(cores @ taxonomy.closed_sets)
    below = _pattern(cores @ taxonomy.ancestors.astype(np.int64).T)
    ignored = _pattern(below - below.multiply(positive))
    return CoreTargets(positive.astype(bool), ignored.astype(bool))


def _pattern(matrix: csr_array) -> csr_array:
    """1 where ``matrix`` is not 0, canonical."""
    found = csr_array(matrix, copy=True)
    found.eliminate_zeros()
    found.data[:] = 1
    found.sort_indices()
    return found


# ---- stage 4


def log_masses(logits: Iterable[Tensor], n_classes: int) -> tuple[Tensor, Tensor]:
    """log f_j = logsumexp_i logsigmoid(z_ij) and log g_j = logsumexp_i logsigmoid(-z_ij), in one pass.

    Parameters
    ----------
    logits : blocks (b, C) of the corpus, any sizes.

    Returns
    -------
    log_f, log_g : (C,) float64, logarithms of the expected documents in and outside each class; -inf without documents.
    """
    masses = torch.full((2, n_classes), -torch.inf, dtype=torch.float64)
    for block in logits:
        z = block.to("cpu", torch.float64)
        both = torch.stack([functional.logsigmoid(z), functional.logsigmoid(-z)])
        masses = torch.logaddexp(masses, torch.logsumexp(both, dim=1))
    return masses[0], masses[1]


def sharpened(z: Tensor, log_f: Tensor, log_g: Tensor, temperature: float) -> Tensor:
    """q, with logit(q_ij) = tau z_ij + log g_j - log f_j.

    For tau = 2 this is the printed q = (p^2 / f) / (p^2 / f + (1 - p)^2 / g), without its quotients of small numbers.

    Parameters
    ----------
    z : (b, C) floating; log_f, log_g : (C,) float64.

    Returns
    -------
    (b, C) float64 in [0, 1].
    """
    return torch.sigmoid(temperature * z.double() + log_g - log_f)


def decided(q: Tensor, threshold: float) -> Tensor:
    """Weight 1 where q >= t or q <= 1 - t, else 0, in the type of q; it never touches the target. t = 0.5: all 1."""
    return ((q >= threshold) | (q <= 1 - threshold)).to(q.dtype)


@dataclass
class SelfTargets:
    """Targets of self-training from frozen logits of the whole corpus.

    target : ``soft``: q and the Bernoulli KL(Q||P);
        ``hard``: q rounded to 0 or 1, the same loss;
        ``paper``: q and the printed loss, sum of q log(q / p): its gradient q (p - 1) only pushes up.
        All three sharpen by ``temperature`` and weigh by ``threshold``; the method as printed is ``paper`` with
        temperature 2 and threshold 0.5.
    logits : (N, C) float32, indexed by document row; may be a memory map.
    """

    target: Target
    temperature: float
    threshold: float
    logits: np.ndarray
    log_f: Tensor
    log_g: Tensor

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"target = {self.target!r} is not one of {', '.join(get_args(Target))}")

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        q = sharpened(torch.from_numpy(self.logits[rows]), self.log_f, self.log_g, self.temperature)
        weight = decided(q, self.threshold)
        if self.target == "hard":
            q = (q >= 0.5).to(q.dtype)
        return q.float(), weight.float()

    def loss(self, z: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        return one_sided_loss(z, q, weight) if self.target == "paper" else bernoulli_loss(z, q, weight)


# ---- losses


def bernoulli_loss(z: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight (softplus(z) - q z): KL(Q||P) of Bernoullis up to a constant; gradient weight (sigmoid(z) - q).

    Binary cross-entropy with logits, in float32 at least: max(z, 0) - q z + log1p(exp(-|z|)) neither overflows nor
    cancels.
    """
    z = _at_least_float32(z)
    return functional.binary_cross_entropy_with_logits(z, q.to(z), weight.to(z), reduction="sum")


def one_sided_loss(z: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight q log(q / p) up to a constant, weight q softplus(-z); gradient weight q (sigmoid(z) - 1)."""
    z = _at_least_float32(z)
    return (weight.to(z) * q.to(z) * -functional.logsigmoid(z)).sum()


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
