"""Work cut into shards: blocks of columns, and rectangles of the matrix of all pairs of columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from common import files
from common.errors import UserError

Item = TypeVar("Item")


def column_block(columns: Sequence[Item], shard: int, shards: int) -> Sequence[Item]:
    """The columns of one of ``shards`` shards, numbered from 1; nearly equal numbers of them, in order."""
    bounds = np.linspace(0, len(columns), shards + 1).astype(int)
    return columns[bounds[shard - 1] : bounds[shard]]


def rectangles(n_columns: int, shard: int, shards: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of column blocks, (left, right), of one of ``shards`` shards; all shards' make up every pair once.

    The blocks are the fewest that give every shard a pair of blocks; pairs are dealt in turn.
    """
    n_blocks = 1
    while n_blocks * (n_blocks + 1) // 2 < shards:
        n_blocks += 1
    blocks = np.array_split(np.arange(n_columns), n_blocks)
    pairs = [(i, j) for i in range(n_blocks) for j in range(i, n_blocks)]
    return [(blocks[i], blocks[j]) for i, j in pairs[shard - 1 :: shards]]


def write_shard(
    path: str,
    key: str,
    shard: int,
    shards: int,
    blocks: Mapping[str, Sequence[np.ndarray]],
    told: Mapping[str, float] | None = None,
) -> None:
    """One shard's blocks, by name of the matrix that they are part of, in the order of :func:`rectangles`.

    ``key`` is what it was made from, ``told`` anything else that the merge wants to know.
    """
    arrays = {f"{name} {number}": block for name, each in blocks.items() for number, block in enumerate(each)}
    about = json.dumps({"key": key, "shard": shard, "shards": shards, "names": list(blocks), "told": told or {}})
    files.write_npz(path, about=np.array(about), **arrays)


def read_shards(paths: Sequence[str], key: str, n_columns: int) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """The matrices that all shards together make up, (P, P), symmetric; and what each told.

    Raises
    ------
    UserError : a file that is another shard, or was made from something else.
    """
    whole: dict[str, np.ndarray] = {}
    told = []
    for shard, path in enumerate(paths, start=1):
        saved = files.read_npz(path)
        about = json.loads(str(saved["about"])) if "about" in saved else {}
        if [about.get(name) for name in ("key", "shard", "shards")] != [key, shard, len(paths)]:
            raise UserError(
                f"{path}: is not shard {shard} of {len(paths)} of this run; delete it and run the same command again"
            )
        told.append(about["told"])
        for name in about["names"]:
            for number, (left, right) in enumerate(rectangles(n_columns, shard, len(paths))):
                block = saved[f"{name} {number}"]
                matrix = whole.setdefault(name, np.empty((n_columns, n_columns), block.dtype))
                matrix[np.ix_(left, right)] = block
                matrix[np.ix_(right, left)] = block.T
    return whole, told
