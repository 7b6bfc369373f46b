"""Work on all pairs of columns cut into shards: rectangles of their matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common import pieces


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


def pairs_of(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """Pairs of columns in some rectangles."""
    return sum(len(left) * len(right) for left, right in parts)


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
    pieces.write(path, key, shard, shards, arrays, {"names": list(blocks), "told": told or {}})


def read_shards(paths: Sequence[str], key: str, n_columns: int) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """The matrices that all shards together make up, (P, P), symmetric; and what each told.

    Raises
    ------
    UserError : as :func:`common.pieces.read`.
    """
    whole: dict[str, np.ndarray] = {}
    told = []
    for shard, (arrays, about) in enumerate(pieces.read(paths, key), start=1):
        told.append(about["told"])
        for name in about["names"]:
            for number, (left, right) in enumerate(rectangles(n_columns, shard, len(paths))):
                block = arrays[f"{name} {number}"]
                matrix = whole.setdefault(name, np.empty((n_columns, n_columns), block.dtype))
                matrix[np.ix_(left, right)] = block
                matrix[np.ix_(right, left)] = block.T
    return whole, told
