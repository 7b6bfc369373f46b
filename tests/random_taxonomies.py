"""Taxonomies made up by hypothesis, for every test that needs one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from taxoclass.taxonomy import Taxonomy


def taxonomy(n, edges=()):
    ids = tuple(f"id-{row}" for row in range(n))
    return Taxonomy(ids, tuple((f"class {row}",) for row in range(n)), np.array(edges, dtype=np.int64).reshape(-1, 2))


def leaves_of(graph):
    return [row for row in range(len(graph)) if row not in set(graph.edges[:, 0].tolist())]


@st.composite
def dags(draw, max_classes=9):
    """Classes with any number of parents among the earlier ones, several roots, rows in any order."""
    n = draw(st.integers(1, max_classes))
    row = draw(st.permutations(range(n)))
    parents = [draw(st.sets(st.integers(0, child - 1), max_size=3)) if child else set() for child in range(n)]
    return taxonomy(n, [(row[parent], row[child]) for child, above in enumerate(parents) for parent in sorted(above)])


def closed(graph: Taxonomy, rows: Iterable[int]) -> set[int]:
    """``rows`` and all their ancestors."""
    return set(graph.closed_sets[np.array(list(rows), dtype=np.int64)].indices.tolist())
