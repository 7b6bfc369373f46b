"""Sets of classes of documents, alone and with a value each, in CSR layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from taxoclass.taxonomy import Taxonomy


class Labels(NamedTuple):
    """Of each document a set of classes, in CSR layout.

    indptr : (N + 1,) int64; document i has ``indices[indptr[i] : indptr[i + 1]]``.
    indices : (L,) int32, class rows, ascending in each document.
    """

    indptr: np.ndarray
    indices: np.ndarray

    @classmethod
    def of(cls, sets: Iterable[Iterable[int]]) -> Labels:
        """Labels of one set of class rows a document; repeats count once."""
        rows = [sorted(set(each)) for each in sets]
        return cls.pack([len(each) for each in rows], [row for each in rows for row in each])

    @classmethod
    def where(cls, mask: np.ndarray) -> Labels:
        """Labels of a (N, C) bool mask."""
        return cls.pack(mask.sum(axis=1), np.nonzero(mask)[1])

    @classmethod
    def pack(cls, counts: Iterable[int] | np.ndarray, indices: Iterable[int] | np.ndarray) -> Labels:
        """Labels of the number of classes of each document and all classes one after the other."""
        lengths = np.asarray(counts, dtype=np.int64)
        return cls(np.concatenate(([0], np.cumsum(lengths))), np.asarray(indices, dtype=np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Labels]) -> Labels:
        """Labels of the documents of all parts, one part after the other."""
        sizes, indices = ([getattr(each, name) for each in parts] for name in ("sizes", "indices"))
        return cls.pack(np.concatenate(sizes), np.concatenate(indices))

    @property
    def sizes(self) -> np.ndarray:
        """(N,) int64: labels of each document."""
        return np.diff(self.indptr)

    @property
    def rows(self) -> np.ndarray:
        """(L,) int64: the document of each entry of ``indices``."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def matrix(self, n_classes: int) -> csr_array:
        """(N, C) float64, 1 where a document has a class."""
        content = np.ones(len(self.indices)), self.indices, self.indptr
        return csr_array(content, shape=(len(self.sizes), n_classes))

    def closed(self, taxonomy: Taxonomy) -> csr_array:
        """(N, C) float64, 1 where a document has a class or one below it."""
        closed = self.matrix(len(taxonomy)) @ taxonomy.closed_sets
        closed.data[:] = 1
        return closed


class Sparse(NamedTuple):
    """Some (document, class) pairs with a value each, in CSR layout.

    indptr : (N + 1,) int64.
    indices : (L,) int32, class rows, ascending in each document.
    values : (L,) float32.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, n_documents: int) -> Sparse:
        return cls(np.zeros(n_documents + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    @property
    def labels(self) -> Labels:
        """The pairs without their values."""
        return Labels(self.indptr, self.indices)


class Cores(NamedTuple):
    """Core classes of N documents, in CSR layout.

    indptr : (N + 1,) int64.
    indices : (L,) int32, class rows, ascending in each document.
    confidence : (L,) float32, in units of similarity.
    thresholds : (C,) float64, the percentile that a class's confidence had to exceed, NaN for a class that was never a
        candidate; of ``path_margin``, the smallest gap that was kept, for all classes; of ``surest``, of each class.
    """

    indptr: np.ndarray
    indices: np.ndarray
    confidence: np.ndarray
    thresholds: np.ndarray

    @property
    def labels(self) -> Labels:
        """The core classes without their confidences."""
        return Labels(self.indptr, self.indices)
