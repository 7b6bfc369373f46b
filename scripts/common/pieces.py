"""Stages in shards: which part a shard does, and the file of what it made, which only the same run takes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common import files
from common.errors import UserError


def key(made_from: str, parameters: Mapping[str, Any]) -> str:
    """What a shard has to have been made from: a file, by its content, with these settings."""
    return f"{files.digest(made_from)} {json.dumps(parameters, sort_keys=True)}"


def part(count: int, shard: int, shards: int) -> slice:
    """Of ``count`` things those of one of ``shards`` shards, numbered from 1: nearly equal numbers, in order."""
    return slice(count * (shard - 1) // shards, count * shard // shards)


def write(path: str, key: str, shard: int, shards: int, arrays: Mapping[str, np.ndarray], told: Any = None) -> None:
    """One shard's arrays, and what else the merge wants to know, plain enough for JSON."""
    about = json.dumps(_about(key, shard, shards, arrays) | {"told": told})
    files.write_npz(path, about=np.array(about), **arrays)


def read(paths: Sequence[str], key: str) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """The arrays of all shards, in order, and what each told.

    Raises
    ------
    UserError : a file that is damaged, another shard, or was made from something else.
    """
    for shard, path in enumerate(paths, start=1):
        arrays = files.read_npz(path)
        try:
            about = json.loads(str(arrays.pop("about", "{}")))
        except ValueError:
            about = {}
        told = about.pop("told", None)
        if about != _about(key, shard, len(paths), arrays):
            raise UserError(
                f"{path}: is not shard {shard} of {len(paths)} of this run; delete it and run the same command again"
            )
        yield arrays, told


def _about(key: str, shard: int, shards: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {"key": key, "shard": shard, "shards": shards, "arrays": sorted(arrays)}
