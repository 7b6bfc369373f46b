"""The taxonomy: a directed acyclic graph of classes, and the one owner of the map between class ids and rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array, eye_array

from common.errors import UserError

MAX_CHAINS = 1_000_000


# identity, not equality: arrays do not compare as one value; ``fingerprint`` says whether two mean the same
@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Classes are rows 0..C-1 in the order of ``ids``; ids are arbitrary text.

    ids : C distinct class ids.
    names : of each class one or more names; the first is the main one.
    edges : (E, 2) int64, parent row and child row, acyclic, without repeats.
    descriptions : of each class a sentence or keywords, "" where there is none.
    """

    ids: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    edges: np.ndarray
    descriptions: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row(self) -> dict[str, int]:
        """Class id -> row."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def children(self) -> tuple[np.ndarray, ...]:
        """Of each class the rows of its children, ascending."""
        return self._grouped(0, 1)

    @cached_property
    def parents(self) -> tuple[np.ndarray, ...]:
        """Of each class the rows of its parents, ascending."""
        return self._grouped(1, 0)

    def _grouped(self, by: int, what: int) -> tuple[np.ndarray, ...]:
        groups: list[list[int]] = [[] for _ in self.ids]
        for edge in self.edges.tolist():
            groups[edge[by]].append(edge[what])
        return tuple(np.array(sorted(group), dtype=np.int64) for group in groups)

    @cached_property
    def roots(self) -> np.ndarray:
        """Rows without parents, ascending: the children of the virtual root."""
        return np.array([row for row, above in enumerate(self.parents) if not len(above)], dtype=np.int64)

    @cached_property
    def leaves(self) -> np.ndarray:
        """(C,) bool: classes without children."""
        return np.array([not len(below) for below in self.children], dtype=bool)

    @cached_property
    def _sorted(self) -> list[int]:
        """Rows with every parent before its children (Kahn 1962), without those on a cycle and below one."""
        waiting = [len(above) for above in self.parents]
        ready = self.roots.tolist()
        done: list[int] = []
        while ready:
            row = ready.pop()
            done.append(row)
            for child in self.children[row].tolist():
                waiting[child] -= 1
                if waiting[child] == 0:
                    ready.append(child)
        return done

    @cached_property
    def cycle(self) -> tuple[int, ...]:
        """Rows along one cycle, each a parent of the next and the last of the first; () where there is none."""
        left = set(range(len(self))) - set(self._sorted)
        if not left:
            return ()
        # every class that is left has a parent that is left: upwards, one comes by some class twice
        row, steps = min(left), dict[int, int]()
        while row not in steps:
            steps[row] = len(steps)
            row = next(above for above in self.parents[row].tolist() if above in left)
        return tuple(steps)[steps[row] :][::-1]

    @cached_property
    def order(self) -> np.ndarray:
        """(C,) int64, the rows with every parent before its children.

        Raises
        ------
        ValueError : there is a cycle; the message names the classes on it.
        """
        if self.cycle:
            around = " -> ".join(self.ids[row] for row in (*self.cycle, self.cycle[0]))
            raise ValueError(f"the hierarchy has a cycle: {around}")
        return np.array(self._sorted, dtype=np.int64)

    @cached_property
    def level(self) -> np.ndarray:
        """(C,) int64, edges on the shortest way from a root; roots are 0."""
        return self._edges_from_a_root(np.min)

    @cached_property
    def depth(self) -> np.ndarray:
        """(C,) int64, edges on the longest way from a root: every class is deeper than its parents."""
        return self._edges_from_a_root(np.max)

    def _edges_from_a_root(self, which: Callable[[np.ndarray], int]) -> np.ndarray:
        edges = np.zeros(len(self), dtype=np.int64)
        for row in self.order.tolist():
            if len(self.parents[row]):
                edges[row] = 1 + which(edges[self.parents[row]])
        return edges

    @cached_property
    def ancestors(self) -> csr_array:
        """(C, C) bool, [i, j] true if j is a proper ancestor of i."""
        above: list[set[int]] = [set() for _ in self.ids]
        for row in self.order.tolist():
            for parent in self.parents[row].tolist():
                above[row] |= above[parent] | {parent}
        pairs = [(row, other) for row, found in enumerate(above) for other in sorted(found)]
        rows, columns = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True)) if pairs else ([], [])
        return csr_array((np.ones(len(pairs), dtype=bool), (rows, columns)), shape=(len(self), len(self)))

    @cached_property
    def closed_sets(self) -> csr_array:
        """(C, C) float64: row c is 1 at c and at all its ancestors."""
        return csr_array(self.ancestors.astype(np.float64) + eye_array(len(self), format="csr"))

    @cached_property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """Every way from a root to a class, inner classes included, as rows from the root down.

        Raises
        ------
        UserError : they are more than ``MAX_CHAINS``; classes with several parents multiply them level by level.
        """
        count = self._chain_count()
        if count > MAX_CHAINS:
            raise UserError(
                f"the hierarchy has {count:,} ways from a root to a class, and {MAX_CHAINS:,} are the limit; "
                "leave out edges to second parents"
            )
        return tuple(self._walk())

    def _chain_count(self) -> int:
        ways = [1] * len(self)
        for row in self.order.tolist():
            if len(self.parents[row]):
                ways[row] = sum(ways[parent] for parent in self.parents[row].tolist())
        return sum(ways)

    def _walk(self) -> Iterator[tuple[int, ...]]:
        stack: list[tuple[int, ...]] = [(int(root),) for root in self.roots[::-1]]
        while stack:
            chain = stack.pop()
            yield chain
            stack += [(*chain, int(child)) for child in self.children[chain[-1]][::-1]]

    def siblings(self, row: int) -> np.ndarray:
        """Other children of all parents of a class (other roots, for a root), ascending."""
        groups = [self.children[parent] for parent in self.parents[row]] or [self.roots]
        together = np.unique(np.concatenate(groups))
        return together[together != row]

    def description(self, row: int) -> str:
        return self.descriptions[row] if self.descriptions else ""

    def first_chain(self, row: int) -> list[int]:
        """Rows from a root down to a class, by first parents."""
        chain = [row]
        while len(self.parents[chain[0]]):
            chain.insert(0, int(self.parents[chain[0]][0]))
        return chain

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ids, names and edges: two models with the same one speak of the same classes."""
        content = [self.ids, self.names, sorted(self.edges.tolist())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def descriptions_fingerprint(self) -> str:
        """Digest of the descriptions, which change scores but not what the classes are."""
        return hashlib.sha256(json.dumps(self.descriptions).encode()).hexdigest()[:16]

    def asdict(self) -> dict[str, Any]:
        """Plain enough for JSON."""
        return {
            "ids": self.ids,
            "names": self.names,
            "edges": self.edges.tolist(),
            "descriptions": self.descriptions,
        }

    @classmethod
    def fromdict(cls, content: dict[str, Any]) -> Taxonomy:
        """The taxonomy that ``asdict`` told of; lists may stand for tuples."""
        return cls(
            ids=tuple(content["ids"]),
            names=tuple(tuple(names) for names in content["names"]),
            edges=np.array(content["edges"], dtype=np.int64).reshape(-1, 2),
            descriptions=tuple(content["descriptions"]),
        )
