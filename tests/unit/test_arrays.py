"""Arrays with NumPy in CuPy's place, or on a simulated card: blocks come in order; a lack of memory halves them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import simulated_card
from common.arrays import Accelerator, Unread
from common.errors import UserError
from common.memory import is_out_of_memory


class OutOfMemoryError(MemoryError):
    """CuPy's, by name."""


def accelerator(told: list[str] | None = None) -> Accelerator:
    return Accelerator(np, 10**9, 2, (told if told is not None else []).append)


def unread(values: np.ndarray, read: list[int] | None = None) -> Unread:
    def part(rows: slice) -> np.ndarray:
        if read is not None:
            read.append(int(values[0, 0]))
        return values[rows]

    return Unread(values.shape, np.uint32, part)


def test_blocks_come_in_order_and_the_next_one_is_read_meanwhile():
    read = []
    blocks = [unread(np.full((2, 3), number, np.uint32), read) for number in range(5)]
    ahead = 0
    for number, block in enumerate(accelerator().upload(blocks)):
        assert (block == number).all()
        until = time.monotonic() + 10
        while max(read) < min(number + 1, 4) and time.monotonic() < until:
            time.sleep(0.001)
        ahead += max(read) > number
    assert ahead == 4 and sorted(read) == sorted([*range(5)] * 2)  # each by two threads


@given(
    st.integers(1, 9), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 4), st.sampled_from([8, 64])
)
@pytest.mark.parametrize("xp", [np, simulated_card.cupy], ids=["numpy", "simulated"])
def test_blocks_arrive_whole_however_they_are_read_and_cut(xp, rows, sizes, threads, piece):
    sizes.sort(reverse=True)  # the first is the largest
    rng = np.random.default_rng(rows)
    blocks = [rng.integers(0, 2**32, (rows, size), np.uint32) for size in sizes]
    card = Accelerator(xp, 10**9, threads)
    with mock.patch("common.lanes.PIECE", piece), card.alone():
        arrived = [card.host(block).copy() for block in card.upload(map(unread, blocks))]
    assert all(map(np.array_equal, arrived, blocks)) and len(arrived) == len(blocks)


@given(hnp.arrays(st.sampled_from([np.float64, np.uint16]), st.integers(0, 50)))
def test_arrays_go_to_the_card_and_back_in_pieces(array):
    card = Accelerator(simulated_card.cupy, 10**9)
    with mock.patch("common.lanes.PIECE", 64), card.beside(0) as lane:
        back = lane.fetch(lane.put(array))
    assert back.tobytes() == array.tobytes() and back.dtype == array.dtype


def test_a_buffer_is_not_written_before_those_who_had_its_memory_are_done(monkeypatch):
    cupy = simulated_card.cupy

    def used_before(size: int, dtype: type) -> simulated_card.Array:
        memory = np.empty(size, dtype)
        simulated_card.Stream.null.reads(memory)
        return simulated_card.Array(memory)

    monkeypatch.setattr(cupy, "empty", used_before, raising=False)
    card = Accelerator(cupy, 10**9, 2)
    with card.alone():
        assert [card.host(block)[0, 0] for block in card.upload([unread(np.full((1, 3), 7, np.uint32))])] == [7]


def test_nothing_is_on_its_way_once_an_upload_was_left(monkeypatch):
    monkeypatch.setattr(simulated_card, "LATE", 0.05)
    card = Accelerator(simulated_card.cupy, 10**9, 2)
    with card.alone():
        coming = card.upload([unread(np.ones((4, 3), np.uint32))] * 3)
        next(coming)
        coming.close()
        assert not any(stream.busy for stream in simulated_card.streams)


def test_an_error_while_a_block_is_read_is_the_callers():
    def damaged(_: slice) -> np.ndarray:
        raise UserError("codes.npy: ended early")

    with pytest.raises(UserError, match="ended early"):
        list(accelerator().upload([Unread((1, 1), np.uint32, damaged)]))


@pytest.mark.parametrize(
    ("threads", "length", "rows"), [(1, 100, 25), (2, 16, 4), (2, 100, 26), (2, 3, 2), (4, 3, 3), (3, 0, 0)]
)
def test_it_is_known_how_many_rows_of_a_block_are_in_memory_at_once(threads, length, rows):
    assert Accelerator(np, 1, threads).read_at_once(length) == rows


@pytest.mark.parametrize(
    ("memory", "width", "share", "host", "rows"),
    [
        (6400, 10, 1 / 8, 10**9, 10),  # 800 bytes of the card: two blocks of 10 rows of 4 bytes
        (10**15, 10, 1 / 8, 300, 100),  # of the host: three rows of a block at once
        (10**15, 10, 1 / 8, 10**12, 1 << 22),
        (10, 10, 1 / 8, 0, 1),
    ],
)
def test_a_block_is_as_long_as_the_memory_of_the_card_and_of_the_host_allow(memory, width, share, host, rows):
    assert Accelerator(np, memory, 1).block_length(width, share, host) == rows


@pytest.mark.parametrize(("size", "most"), [(10, 3), (16, 2), (30, 1), (99, 1)])
def test_as_many_work_beside_each_other_as_the_memory_holds(size, most):
    card, inside, seen, lanes = Accelerator(np, 32), [], [], set()

    def use(number: int) -> None:
        with card.beside(size) as lane:
            inside.append(number)
            lanes.add(lane)
            time.sleep(0.01)
            seen.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(12)))
    assert max(seen) == len(lanes) == most


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
