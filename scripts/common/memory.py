"""Telling a lack of memory from other errors."""

from __future__ import annotations

import errno
from pathlib import Path

from common.errors import one_line

# a CPU's and cuBLAS's have no class of their own
MARKS = ("can't allocate memory", "out of memory", "alloc_failed", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or CuPy ran out of memory, on a GPU or on the CPU; by the class's name: neither is imported."""
    return any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__) or (
        isinstance(error, RuntimeError | MemoryError) and any(mark in str(error).lower() for mark in MARKS)
    )


def lacks_memory(error: BaseException) -> bool:
    """Whether there was too little memory, the host's or a card's: no fault of the file that was being read."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or is_out_of_memory(error)


def out_of_memory(path: str | Path, error: BaseException) -> MemoryError:
    """A lack of memory while a file was read, with its name: to be told from damage, whose remedy is to delete it."""
    return MemoryError(f"{path}: {one_line(error)}")


def excuse(path: str | Path, error: BaseException) -> None:
    """Raise ``out_of_memory`` if that is why a file could not be read: it is then not damaged."""
    if lacks_memory(error):
        raise out_of_memory(path, error) from None
