"""The input files that a pattern of the config means, and where they are for a job."""

from __future__ import annotations

import glob
import os
from pathlib import PurePath
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# flags of the scripts that read tables
SOURCE = {"source": "digest of the input files when the run was planned"}
ROOT = {"root": "folder that relative paths of tables start at, if not this one"}


def find_files(
    pattern: str, storage: AbstractFileSystem | None = None, key: str = "descriptors.parquet_glob"
) -> list[str]:
    """Files that match, sorted, in ``storage`` or here; raises as :func:`sizes`."""
    return list(sizes(pattern, storage, key))


def sizes(
    pattern: str, storage: AbstractFileSystem | None = None, key: str = "descriptors.parquet_glob"
) -> dict[str, int]:
    """Bytes of the files that match, in their order.

    Raises
    ------
    UserError : there is none; names the setting ``key``.
    """
    if storage is None:
        found = {path: os.path.getsize(path) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
    else:
        matches = storage.glob(os.path.normpath(pattern), detail=True)
        found = {path: each["size"] for path, each in matches.items() if each["type"] == "file"}
    if not found:
        where = " in the default storage" if storage is not None else ""
        raise UserError(f"config: {key} = {pattern!r} matches no file{where}; correct the pattern")
    return dict(sorted(found.items()))


def placed(path: str, root: str | None) -> str:
    """Where a path of the config or the manifest is for this job: relative ones start at ``root``, if it is given."""
    return os.path.join(root, path) if root else path


def named(path: str, root: str | None) -> str:
    """The reverse of ``placed``: the same on every machine."""
    return os.path.relpath(path, root) if root and PurePath(path).is_relative_to(root) else path
