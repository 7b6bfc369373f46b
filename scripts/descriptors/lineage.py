"""Who stands for whom: every descriptor that went is traced to the one that stayed.

The links of all passes are a forest: a descriptor that pass 2, 3 or 4 removed points to the one in whose favour it
went, which may itself go later. Its root is the final descriptor that stands for it in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PASSES = (2, 3, 4)
LARGEST = 10
HEADER = ("descriptor", "pass", "reason", "in_favour_of", "similarity", "measure", "root")

Row = tuple[str, int, str, str, float | str, str, str]


@dataclass(frozen=True)
class Parent:
    """Why a descriptor went: in favour of which other one, in which pass, how alike they were by which measure."""

    parent: str
    in_pass: int
    similarity: float
    measure: str


def roots(names: Collection[str], parents: Mapping[str, Parent]) -> dict[str, str]:
    """The descriptor that stands for each name in the end; a name without a parent stands for itself.

    Parameters
    ----------
    names : survivors of pass 1.
    parents : by the name of the descriptor that went.

    Raises
    ------
    ValueError : a cycle, a link from or to something that is not in ``names``, or a pass that has no parents.
    """
    known = set(names)
    for child, link in parents.items():
        if link.in_pass not in PASSES:
            raise ValueError(f"lineage: {child} was removed by pass {link.in_pass}; passes 2, 3 and 4 have parents")
        for name in (child, link.parent):
            if name not in known:
                raise ValueError(f"lineage: {child} -> {link.parent}, but {name} is not a survivor of pass 1")
    found: dict[str, str] = {}
    for name in names:
        path, top = [], name
        while top in parents and top not in found:
            path.append(top)
            top = parents[top].parent
            if len(path) > len(parents):
                raise ValueError(f"lineage: {top} stands for itself in a cycle of parents")
        found |= dict.fromkeys([*path, top], found.get(top, top))
    return {name: found[name] for name in names}


def cluster_info(
    pass1_columns: Sequence[str], final: Sequence[str], parents: Mapping[str, Parent]
) -> dict[str, dict[str, Any]]:
    """Content of final_cluster_info.json: how many descriptors each final one stands for, which, and since when.

    Parameters
    ----------
    pass1_columns : survivors of pass 1, in file order; lists below are in this order.
    final : survivors of the last pass.
    parents : by the name of the descriptor that went, of all passes from 2 on.

    Returns
    -------
    metadata : n_pass1, n_final.
    statistics : cluster_size_distribution {size: count}, removal_distribution {pass2, pass3, pass4: count},
        largest_clusters [{descriptor, cluster_size}].
    descriptors : {name: {cluster_size, alternative_descriptors, removal_history {pass2, pass3, pass4: [{descriptor,
        parent, similarity, measure}]}}}; a cluster is a final descriptor and all that went for it, however indirectly.
    parents : {name: {parent, pass, similarity, measure}}.

    Raises
    ------
    ValueError : links and survivors contradict each other; the message names the descriptor.
    """
    root = _checked_roots(pass1_columns, final, parents)
    gone = [name for name in pass1_columns if name in parents]
    alternatives: dict[str, list[str]] = {name: [] for name in final}
    for name in gone:
        alternatives[root[name]].append(name)
    size = {name: 1 + len(others) for name, others in alternatives.items()}
    removed = Counter(parents[name].in_pass for name in gone)
    largest = sorted(final, key=lambda name: -size[name])[:LARGEST]
    return {
        "metadata": {"n_pass1": len(pass1_columns), "n_final": len(final)},
        "statistics": {
            "cluster_size_distribution": dict(sorted(Counter(size.values()).items())),
            "removal_distribution": {f"pass{number}": removed[number] for number in PASSES},
            "largest_clusters": [{"descriptor": name, "cluster_size": size[name]} for name in largest],
        },
        "descriptors": {
            name: {
                "cluster_size": size[name],
                "alternative_descriptors": alternatives[name],
                "removal_history": {
                    f"pass{number}": [
                        {"descriptor": other, **_likeness(parents[other])}
                        for other in alternatives[name]
                        if parents[other].in_pass == number
                    ]
                    for number in PASSES
                },
            }
            for name in final
        },
        "parents": {name: _link(parents[name]) for name in gone},
    }


def removal_table(
    pass1_columns: Sequence[str],
    parents: Mapping[str, Parent],
    pass1_removed: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
) -> list[Row]:
    """One row for every descriptor that any pass removed; HEADER names the columns.

    Rows are in the order of the passes, within a pass in file order. What pass 1 removed has no parent, similarity,
    measure and root: they are empty.

    Parameters
    ----------
    pass1_columns : survivors of pass 1, in file order.
    parents : by the name of the descriptor that went, of all passes from 2 on.
    pass1_removed : by name, every reason that applied; in file order.
    reasons : by name, for all in ``parents``.

    Raises
    ------
    ValueError : as in ``roots``; or a descriptor both went in pass 1 and survived it, or went without a reason.
    """
    root = roots(pass1_columns, parents)
    for name in pass1_removed:
        if name in root:
            raise ValueError(f"lineage: {name} was removed by pass 1 and survived it")
    for name in parents:
        if name not in reasons:
            raise ValueError(f"lineage: {name} was removed by pass {parents[name].in_pass} without a reason")
    gone = sorted((name for name in pass1_columns if name in parents), key=lambda name: parents[name].in_pass)
    rows: list[Row] = [(name, 1, "; ".join(why), "", "", "", "") for name, why in pass1_removed.items()]
    for name in gone:
        link = parents[name]
        rows.append((name, link.in_pass, reasons[name], link.parent, link.similarity, link.measure, root[name]))
    return rows


def _checked_roots(pass1_columns: Sequence[str], final: Sequence[str], parents: Mapping[str, Parent]) -> dict[str, str]:
    """``roots``, after making sure that they are the final descriptors and that no name counts twice."""
    for what, names in (("survivors of pass 1", pass1_columns), ("final descriptors", final)):
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(f"lineage: {name} is {count} times among the {what}")
    root = roots(pass1_columns, parents)
    for name in final:
        if name in parents:
            raise ValueError(f"lineage: {name} is final and yet an alternative of {parents[name].parent}")
        if name not in root:
            raise ValueError(f"lineage: {name} is final, but not a survivor of pass 1")
    kept = set(final)
    for name in root.values():
        if name not in kept:
            raise ValueError(f"lineage: {name} is neither final nor removed in favour of another descriptor")
    return root


def _likeness(link: Parent) -> dict[str, Any]:
    return {"parent": link.parent, "similarity": link.similarity, "measure": link.measure}


def _link(link: Parent) -> dict[str, Any]:
    return {"parent": link.parent, "pass": link.in_pass, "similarity": link.similarity, "measure": link.measure}
