"""Telling a lack of memory from other errors."""

from __future__ import annotations

# a CPU's and cuBLAS's have no class of their own
MARKS = ("can't allocate memory", "out of memory", "alloc_failed", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or CuPy ran out of memory, on a GPU or on the CPU; by the class's name: neither is imported."""
    return any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__) or (
        isinstance(error, RuntimeError | MemoryError) and any(mark in str(error).lower() for mark in MARKS)
    )
