"""Arrays with NumPy in CuPy's place: blocks come in order, and a lack of memory halves what is done at once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from common.arrays import Accelerator
from common.errors import UserError
from common.memory import is_out_of_memory


class OutOfMemoryError(MemoryError):
    """CuPy's, by name."""


def accelerator(told: list[str] | None = None) -> Accelerator:
    return Accelerator(np, 10**9, (told if told is not None else []).append)


def test_blocks_come_in_order_and_the_next_one_is_read_meanwhile():
    read = []

    def blocks():
        for number in range(5):
            read.append(number)
            yield np.full(3, number)

    ahead = 0
    for number, block in enumerate(accelerator().upload(blocks())):
        assert (block == number).all()
        until = time.monotonic() + 10
        while len(read) < min(number + 2, 5) and time.monotonic() < until:
            time.sleep(0.001)
        ahead += len(read) > number + 1
    assert ahead == 4


def test_an_error_while_a_block_is_read_is_the_callers():
    def blocks():
        yield np.zeros(1)
        raise UserError("codes.npy: ended early")

    with pytest.raises(UserError, match="ended early"):
        list(accelerator().upload(blocks()))


@pytest.mark.parametrize("limit", range(1, 9))
def test_what_does_not_fit_is_done_again_by_halves(limit):
    tried, told = [], []

    def work(size: int) -> int:
        tried.append(size)
        if size > limit:
            raise OutOfMemoryError("out of memory allocating 1 bytes")
        return 10 * size

    card = accelerator(told)
    size = max(size for size in (8, 4, 2, 1) if size <= limit)
    assert card.fitting("rows", 8, work) == 10 * size
    assert tried == [each for each in (8, 4, 2, 1) if each >= size]
    assert card.halvings == len(told) == len(tried) - 1
    tried.clear()
    assert card.fitting("rows", 8, work) == 10 * size and tried == [size]  # what was too much is not tried again


def test_other_errors_are_not_tried_again():
    tried = []

    def work(size: int) -> None:
        tried.append(size)
        raise ValueError("out of range")

    with pytest.raises(ValueError, match="out of range"):
        accelerator().fitting("rows", 8, work)
    assert tried == [8]


def test_where_not_one_fits_it_says_what_to_do():
    def work(size: int) -> None:
        raise OutOfMemoryError

    with pytest.raises(
        UserError, match=r"one of rows at a time; give the rule more \(mem_gb, .+\), or set device: cpu"
    ):
        accelerator().fitting("rows", 4, work)


def test_one_thread_at_a_time_has_the_card():
    card, inside, most = accelerator(), [0], [0]

    def use() -> None:
        for _ in range(50):
            with card.alone():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (MemoryError(), False),
        (MemoryError("std::bad_alloc: cudaErrorMemoryAllocation"), True),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) == expected
