"""Files that appear only complete: written beside their place, synced, then moved there.

The JSON that a stage writes last is the record of its other products: size and checksum of each, and a checksum of
itself. Whoever reads a product compares it with its record.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from common.errors import UserError, one_line
from common.memory import lacks_memory, out_of_memory

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEMA_VERSION = 2
CHECKSUM = ' "checksum": "'  # of the text before it, the last thing in a JSON product
RECORD = "written_with"
NAME = "written_as"
LARGE = 2**24
READ = 2**18  # bytes hashed at once, while they are in the cache
SPARE = 64 * 2**20  # bytes that a write leaves free beside its own
AGAIN = "delete it and run the same command again"


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the system's refusal to write into one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({one_line(error.strerror or error)}); free space or permissions?"
        ) from error


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into one line that names ``path``.

    A lack of memory is none of the file's fault, unless it asks for more than it has.
    """
    try:
        yield
    except Exception as error:  # zipfile, zlib, numpy and pyarrow each have their own
        asked = getattr(error, "_total_size", 0)  # of NumPy's own MemoryError
        if lacks_memory(error) and os.path.exists(path) and asked <= os.path.getsize(path):
            raise out_of_memory(path, error) from None
        raise UserError(f"{path}: cannot be read ({one_line(error)}); {AGAIN}") from None


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
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A power failure must not lose the new name; a file system that cannot sync folders does so by itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """JSON with a schema version and its own name first and a checksum last.

    Non-finite numbers become strings that float() reads.
    """
    head = {"schema_version": SCHEMA_VERSION, NAME: Path(path).name}
    text = json.dumps({**head, **plain(content), **head}, indent=1, allow_nan=False)
    write_text(path, _sealed(text.removesuffix("\n}") + ",\n"))


def _sealed(text: str) -> str:
    return f'{text}{CHECKSUM}{xxhash.xxh3_128_hexdigest(text.encode())}"\n}}\n'


def write_record(
    path: str | Path, content: Mapping[str, Any], made: Iterable[str], known: Mapping[str, Any] | None = None
) -> None:
    """``write_json`` with the checksums of the files ``made`` before it; those of some may be ``known``."""
    folder = os.path.dirname(path) or "."
    record = {os.path.relpath(each, folder): (known or {}).get(each) or checksum(each) for each in made}
    write_json(path, {**content, RECORD: record})


def checksum(path: str | Path) -> dict[str, Any]:
    """Size and digest of a file's bytes."""
    content, buffer = xxhash.xxh3_128(), memoryview(bytearray(READ))
    with open(path, "rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            content.update(buffer[:count])
        return {"bytes": handle.tell(), "xxh3": content.hexdigest()}


def recorded(path: str | Path) -> dict[str, dict[str, Any]]:
    """By absolute path, what a JSON product tells of those that were written with it."""
    folder, content = os.path.dirname(os.path.abspath(path)), read_json(path)
    if RECORD not in content:
        raise UserError(f"{path}: has no checksums of other files; give the JSON that was written with them")
    return {os.path.normpath(os.path.join(folder, name)): entry for name, entry in content[RECORD].items()}


def is_record(path: str | Path) -> bool:
    """Whether a file looks like a product of ``write_record``, whatever its checksum says."""
    try:
        return Path(path).suffix == ".json" and f'\n "{RECORD}": {{' in Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def check(path: str | Path, entry: Mapping[str, Any]) -> None:
    """UserError unless a file is the one that was recorded; of one recorded by column the size alone is compared."""
    try:
        found = checksum(path) if "xxh3" in entry else {"bytes": os.path.getsize(path)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None
    if any(entry[key] != value for key, value in found.items()):
        raise damaged(path)


def check_inputs(paths: Sequence[str], records: Sequence[str] = ()) -> None:
    """UserError where one of a stage's inputs is not what its record says; ``records``: where to look besides."""
    written: dict[str, dict[str, Any]] = {}
    for path in [*records, *filter(is_record, paths)]:
        written |= recorded(path)
    for path in paths:
        entry = written.get(os.path.abspath(path))
        if entry is not None:
            check(path, entry)


def check_product(path: str | Path) -> None:
    """UserError where a JSON product, or one recorded in it, is there and damaged: of large ones their size tells."""
    if not os.path.exists(path):
        return
    for each, entry in (recorded(path) if RECORD in read_json(path) else {}).items():
        if os.path.exists(each):
            check(os.path.relpath(each), entry if entry["bytes"] <= LARGE else {"bytes": entry["bytes"]})


def check_results(products: Iterable[str | Path], chain: Sequence[str | Path]) -> None:
    """Before a run: UserError where a product is damaged, or was not made from what stands before it in ``chain``."""
    for path in products:
        if str(path).endswith(".json"):
            check_product(path)
    check_chain(*chain, resumed=True)


def damaged(path: str | Path) -> UserError:
    return UserError(f"{path}: is damaged: its content is not what was written; {AGAIN}")


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


def map_npy(path: str | Path, shape: tuple[int, ...]) -> np.memmap:
    """A new float32 array in a file, to be written in place; its room on the disk is taken at once."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with open(path, "rb+") as handle:  # a hole in the file would end the program where the disk is full
        os.posix_fallocate(handle.fileno(), 0, os.path.getsize(path))
    return array


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
    """What ``write_json`` wrote.

    Raises
    ------
    UserError : unreadable, of another version, not what was written, or another file by its name.
    """
    with reading(path):
        text = Path(path).read_bytes().decode()
        content = json.loads(text)
    found = content.get("schema_version") if isinstance(content, dict) else None
    sealed = text == _sealed(text.rpartition(CHECKSUM)[0])
    if found != SCHEMA_VERSION and (sealed or CHECKSUM not in text):
        raise UserError(
            f"{path}: schema_version is {found}, not {SCHEMA_VERSION}: of another version of winnow; choose another "
            "results folder, or delete this one"
        )
    if not sealed:
        raise damaged(path)
    name = content.pop(NAME)
    if name != Path(path).name:
        raise UserError(f"{path}: was written as {name}; {AGAIN}")
    del content["checksum"]
    return content


def digest(path: str | Path) -> str:
    """Of what a JSON product says: what a later product records of it, to be known as made from it.

    The checksums of the files beside it are left out: some depend on the order of rows, which changes no result.
    """
    content = {key: value for key, value in read_json(path).items() if key != RECORD}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


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
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be read ({reason}); correct the path or its permissions") from None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def check_chain(*paths: str | Path, resumed: bool = False) -> None:
    """UserError unless each JSON product was made from the one before it.

    ``resumed``: before a run, where one may be missing, or older than what it will be made from again.
    """
    for earlier, later in itertools.pairwise(paths):
        if resumed and not (os.path.exists(earlier) and os.path.getmtime(earlier) <= _made_at(later)):
            continue
        if read_json(later).get("made_from") != digest(earlier):
            raise UserError(f"{later}: was not made from {earlier}; {AGAIN}")


def _made_at(path: str | Path) -> float:
    return os.path.getmtime(path) if os.path.exists(path) else -math.inf


def read_lines(path: str | Path) -> list[str]:
    with reading(path):
        text = Path(path).read_text(encoding="utf-8")
    # an editor may have left out the last line's end
    return text.removesuffix("\n").split("\n") if text else []


def read_npy(path: str | Path, mapped: bool = False) -> np.ndarray:
    """An array; ``mapped``: a large one is read from the file where it is looked at, and nowhere else."""
    with reading(path):  # a damaged header may ask for any size, and parse as anything
        large = mapped and os.path.getsize(path) > LARGE
        return np.load(path, mmap_mode="r" if large else None, allow_pickle=False)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    with reading(path), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def plain(value: Any) -> Any:
    """What JSON can hold: arrays are lists; NaN and infinity, which it has not, strings that float() reads."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
