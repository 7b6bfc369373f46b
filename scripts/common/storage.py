"""The inputs of the config where they lie before any job has fetched them: in Snakemake's default storage, or here."""

from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import UserError, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

READABLE = ("s3", "fs")


def open_storage(provider: str | None, prefix: str, settings: Any) -> AbstractFileSystem | None:
    """The folder of the default storage; None where there is no default storage.

    Relative paths are paths in it: below the bucket's prefix, or the folder ``prefix`` (this one, if it is empty).
    ``settings`` are those of the storage plugin.

    Raises
    ------
    UserError : a provider that is not in ``READABLE``, no prefix, or a place that cannot be looked at.
    """
    if provider is None:
        return None
    if provider not in READABLE:
        raise UserError(
            f"--default-storage-provider {provider} is not one of {', '.join(READABLE)}; choose one of them"
        )
    if provider == "s3" and not prefix:
        raise UserError(f"--default-storage-provider {provider} needs --default-storage-prefix; add it")

    from fsspec.implementations.arrow import ArrowFSWrapper
    from fsspec.implementations.dirfs import DirFileSystem
    from pyarrow.fs import LocalFileSystem, S3FileSystem

    root = posixpath.normpath(prefix.removeprefix("s3://"))
    try:
        if provider == "fs":
            filesystem = LocalFileSystem()
            root = os.path.abspath(root)
        else:
            filesystem = S3FileSystem(
                access_key=settings.access_key,
                secret_key=settings.secret_key,
                session_token=settings.token,
                region=settings.region,
                endpoint_override=settings.endpoint_url,
            )
        filesystem.get_file_info(root)  # fsspec takes what it cannot look at for empty
    except OSError as error:
        raise UserError(f"{prefix}: cannot be looked at ({one_line(error)}); address and keys?") from None
    return DirFileSystem(root, ArrowFSWrapper(filesystem))


@contextlib.contextmanager
def fetched(paths: Sequence[str], storage: AbstractFileSystem | None) -> Iterator[list[str]]:
    """Paths to read from: copies of those that are in ``storage``, for as long as the context lasts.

    Absolute paths and, without a storage, all stay as they are; what is not in the storage has a path without a file.
    What is said of a copy names the path that was given.
    """
    with tempfile.TemporaryDirectory() as top:
        # so deep that a path with .. does not leave it
        folder = os.path.join(top, *["below"] * max((path.count("..") for path in paths), default=0))
        os.makedirs(folder, exist_ok=True)
        try:
            yield [_copy(path, storage, folder) for path in paths]
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None


def _copy(path: str, storage: AbstractFileSystem | None, folder: str) -> str:
    if storage is None or os.path.isabs(path):
        return path
    copy = os.path.join(folder, path)
    if storage.isfile(path):
        storage.get(path, copy)
    return copy
