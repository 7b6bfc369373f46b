"""Arrays on a card, or in the host's memory where there is none: the same functions work on both.

A numeric function takes an :class:`Accelerator` and calls the functions of its module, ``xp``: CuPy's on a card; with
NumPy in its place every line but the copying runs anywhere, which is how the tests run them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Lock
from typing import Any, TypeVar

import numpy as np

from common.errors import UserError
from common.lanes import CardLane, Lane
from common.memory import is_out_of_memory

T = TypeVar("T")
PARTS = 4  # of a block, a thread
LONG = 1 << 22  # values of a row of a block, at most


@dataclass(frozen=True)
class Unread:
    """An array that is read when it is needed, in any parts of its first axis.

    shape, dtype : of the whole. read : of a slice of the first axis.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    read: Callable[[slice], np.ndarray]

    def whole(self) -> np.ndarray:
        return self.read(slice(None))


class Accelerator:
    """An array module with its memory.

    xp : NumPy, or CuPy with the card and the limit of its memory pool set.
    memory : bytes to plan with.
    threads : of the host, that read what goes to the card.
    """

    def __init__(self, xp: Any, memory: int, threads: int = 1, warn: Callable[[str], None] = print) -> None:
        self.xp = xp
        self.memory = memory
        self.threads = threads
        self.warn = warn
        self._lock, self._room = Lock(), Condition()
        self._taken = 0  # bytes, of those that work beside each other
        self._idle: list[Lane] = []
        self._device: Any = xp.cuda.Device() if self.on_card else contextlib.nullcontext()
        self.halvings = 0
        self._most: dict[str, int] = {}  # what fitted, where not all did
        self._peak = 0

    @property
    def peak(self) -> int:
        """The most bytes that were taken of the card so far; freed blocks stay in the pool until ``release``."""
        self._peak = max(self._peak, self._held())
        return self._peak

    def _held(self) -> int:
        """Bytes of the card that are in use or kept for later use."""
        if not self.on_card:
            return 0
        with self._device:
            return int(self.xp.get_default_memory_pool().total_bytes())

    def release(self) -> None:
        """Give memory that is not in use back to the card."""
        gc.collect()  # an error of a reading thread holds itself, and the arrays with it
        self._give_back()

    def _give_back(self) -> None:
        self._peak = self.peak
        if self.on_card:
            with self._device:
                self.xp.get_default_memory_pool().free_all_blocks()
                self.xp.get_default_pinned_memory_pool().free_all_blocks()

    @property
    def on_card(self) -> bool:
        return self.xp is not np

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One thread at a time, and the card is that thread's current one."""
        with self._lock, self._device:
            yield

    @contextlib.contextmanager
    def beside(self, size: int) -> Iterator[Lane]:
        """Beside other threads, on a stream of its own, as soon as ``size`` bytes of the card are left.

        Whoever asks for more than there are has the card alone.
        """
        with self._room:
            self._room.wait_for(lambda: not self._taken or self._taken + size <= self.memory)
            self._taken += size
        try:
            with self._lane() as lane, lane.current():
                yield lane
            if self._held() > self.memory // 2:  # each stream keeps its own, and more of it as sizes vary
                self._give_back()
        finally:
            with self._room:
                self._taken -= size
                self._room.notify_all()

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """One that no other thread uses."""
        try:
            lane = self._idle.pop()
        except IndexError:
            with self._device:  # or the stream would be of another card
                lane = CardLane(self.xp, self._device) if self.on_card else Lane()
        try:
            yield lane
        finally:
            self._idle.append(lane)

    def host(self, array: Any) -> np.ndarray:
        """A copy in the host's memory, or the array itself where it is there."""
        return np.asarray(self.xp.asnumpy(array) if self.on_card else array)

    def read_at_once(self, length: int) -> int:
        """Of an upload of blocks of so many rows, how many are in the host's memory at once."""
        return min(length, self.threads * self._part(length))

    def block_length(self, width: int, share: float, host: int) -> int:
        """Values of 4 bytes in each of ``width`` rows of a block, at least 1; it and the one before take ``share``.

        host : bytes that the host has for each row of what it reads at once.
        """
        of_card = int(self.memory * share) // (2 * 4 * width)
        return max(min(of_card, host // max(self.read_at_once(width), 1), LONG), 1)

    def _part(self, length: int) -> int:
        return max(-(-length // (PARTS * self.threads)), 1)

    def upload(self, blocks: Iterable[Unread]) -> Iterator[Any]:
        """The blocks on the device, none larger than the first, each read and copied while the one before is used.

        ``threads`` threads read their parts. A block may be written over once the next one is asked for.
        """
        buffers: list[Any] = [None, None]
        used: list[Any] = [None, None]  # when the buffers may be written
        with self._stilled(), ThreadPoolExecutor(self.threads) as pool:

            def begin(block: Unread, turn: int) -> tuple[Any, int, list[Any]]:
                size = math.prod(block.shape)
                if buffers[turn] is None:
                    buffers[turn] = self.xp.empty(size, block.dtype)
                    used[turn] = self._mark()  # by whoever had the memory before
                there = buffers[turn][:size].reshape(block.shape)
                width = self._part(len(there))
                parts = [slice(first, first + width) for first in range(0, len(there), width)]
                return there, turn, [pool.submit(self._send, block, part, there[part], used[turn]) for part in parts]

            coming = itertools.starmap(begin, zip(blocks, itertools.cycle((0, 1)), strict=False))
            begun = next(coming, None)
            while begun is not None:
                there, turn, parts = begun
                arrivals = [part.result() for part in parts]
                begun = next(coming, None)
                self._wait(arrivals)
                yield there
                used[turn] = self._mark()

    def _send(self, block: Unread, part: slice, there: Any, used: Any) -> Any:
        """Read a part and send it ``there``, where it may be written once ``used``; when it has arrived."""
        values = block.read(part)
        with self._lane() as lane, lane.current():
            return lane.send(values, there, used)

    def _mark(self) -> Any:
        """When all that this thread gave the card is done."""
        return self.xp.cuda.get_current_stream().record() if self.on_card else None

    def _wait(self, arrivals: list[Any]) -> None:
        """What this thread gives the card from here on is done after the ``arrivals``."""
        if self.on_card:
            for arrival in arrivals:
                self.xp.cuda.get_current_stream().wait_event(arrival)

    @contextlib.contextmanager
    def _stilled(self) -> Iterator[None]:
        """In the end, nothing is on its way into memory that is then free for others."""
        try:
            yield
        finally:
            if self.on_card:
                self._device.synchronize()

    def fitting(self, what: str, size: int, work: Callable[[int], T]) -> T:
        """``work(size)``; on a lack of memory again with half the size, from the beginning, down to 1.

        What was too much once is not tried again under the same ``what``. ``work`` must not leave anything behind when
        it fails; its result must not depend on the size.

        Raises
        ------
        UserError : not even 1 fits.
        """
        size = min(size, self._most.get(what, size))
        while True:
            try:
                return work(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # outside the except clause, where the traceback would keep the arrays alive
            self.release()
            if size <= 1:
                raise UserError(
                    f"out of memory on the card with one of {what} at a time; give the rule more (mem_gb,"
                    " descriptors.max_gpu_memory_gb), or set device: cpu"
                )
            size //= 2
            self._most[what] = size
            self.halvings += 1
            self.warn(f"out of memory on the card: {size:,} {what} at a time from here on; the result stays the same")
