"""Files that appear only complete: written beside their place, synced, then moved there."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEMA_VERSION = 1
LARGE = 2**24
SPARE = 64 * 2**20  # bytes that a write leaves free beside its own


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the system's refusal to write into one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free space or permissions?") from error


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on success it is synced and moved there, on failure it is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        abandoned.unlink(missing_ok=True)  # a killed writer could not
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """JSON with a schema version first; non-finite numbers become the strings that float() reads."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **_plain(content)}, indent=1, allow_nan=False)
    write_text(path, text + "\n")


def write_lines(path: str | Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_npy(path: str | Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def write_npz(path: str | Path, **arrays: Any) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def check_space(path: str | Path, n_bytes: int) -> None:
    """Refuse before the work, not after it, what the disk below ``path`` has no room for."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE:
        raise UserError(
            f"{path}: needs {n_bytes / 1e6:,.0f} MB and {SPARE / 1e6:,.0f} MB to spare, {free / 1e6:,.0f} MB are free"
            f" in {folder}; free some space"
        )


def link(source: str | Path, path: str | Path) -> None:
    """``path`` becomes the same file as ``source``, or where the file system cannot do that, a copy of it."""
    if not Path(source).is_file():
        raise UserError(f"{source}: cannot be read (no such file); run the same command again")
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        try:
            os.link(source, path)
            os.utime(path)  # made now: not older than what it follows from
        except OSError:
            with atomic(path) as temporary:
                shutil.copyfile(source, temporary)


def read_json(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {found}, not {SCHEMA_VERSION}; delete it and run the same command again"
        )
    return content


def digest(path: str | Path) -> str:
    """Of a file's bytes: what a later product records of an earlier one, to be known as made from it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def check_whole(path: str | Path) -> None:
    """UserError where a product is there but cut short or unreadable, as far as its ends show it."""
    path = Path(path)
    if not path.exists():
        return
    if path.suffix == ".json":
        read_json(path)
        return
    with open(path, "rb") as handle:
        start = handle.read(4)
        handle.seek(max(path.stat().st_size - 4, 0))
        end = handle.read()
    whole = {
        ".npz": lambda: zipfile.is_zipfile(path),
        ".pt": lambda: zipfile.is_zipfile(path),
        ".parquet": lambda: start == end == b"PAR1",
        ".npy": lambda: _is_whole_npy(path),
    }.get(path.suffix, lambda: end.endswith(b"\n"))
    if not whole():
        raise UserError(f"{path}: is damaged; delete it and run the same command again")


def _is_whole_npy(path: Path) -> bool:
    """Whether a .npy file is as long as its header says."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False) is not None
    except (ValueError, OSError, EOFError):
        return False


def contents_digest(paths: Sequence[str], storage: AbstractFileSystem | None = None) -> str:
    """Of the content of several files, in their order: neither their names nor a touch changes it.

    Relative paths are those of files in ``storage``, where there is one.
    """
    digests = []
    for path in paths:
        try:
            with open(path, "rb") if storage is None or os.path.isabs(path) else storage.open(path) as handle:
                digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path or its permissions") from None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def check_chain(*paths: str | Path) -> None:
    """UserError unless each JSON product was made from the one before it."""
    for earlier, later in itertools.pairwise(paths):
        if read_json(later).get("made_from") != digest(earlier):
            raise UserError(f"{later}: was not made from {earlier}; run the passes again, from the earlier one on")


def read_lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None
    # an editor may have left out the last line's end
    return text.removesuffix("\n").split("\n") if text else []


def read_npy(path: str | Path, mapped: bool = False) -> np.ndarray:
    """An array; ``mapped``: a large one is read from the file where it is looked at, and nowhere else."""
    try:
        large = mapped and os.path.getsize(path) > LARGE
        return np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except Exception as error:  # a damaged header may ask for any size, and parse as anything
        raise UserError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise UserError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
