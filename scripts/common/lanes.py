"""Ways to a card and back: a stream and pinned memory, of one thread at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PIECE = 1 << 22  # bytes that are copied at once; a lane has pinned memory for two


class Lane:
    """A way to the device and back, of one thread at a time; in the host's memory there is none to go."""

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """What the thread gives the device meanwhile is done in the lane's order."""
        return contextlib.nullcontext()

    def put(self, array: np.ndarray) -> Any:
        """The array on the device."""
        return array

    def send(self, array: np.ndarray, there: Any, used: Any) -> Any:
        """The array into ``there``, of its shape, once that is ``used``. Returns when it has arrived."""
        there[...] = array

    def fetch(self, array: Any) -> np.ndarray:
        """The array in the host's memory."""
        return array


class CardLane(Lane):
    """A stream of a card, which reads and writes two halves of pinned memory by itself while the thread fills others.

    Several threads, each with its own, copy several times as fast as one: from memory that is not pinned a card reads
    no faster than one thread copies.
    """

    def __init__(self, cupy: Any, device: Any) -> None:
        self._cupy, self._device = cupy, device
        self._stream = cupy.cuda.Stream(non_blocking=True)
        pinned = (cupy.cuda.alloc_pinned_memory(PIECE) for _ in range(2))
        self._halves = [_Half(np.frombuffer(memory, np.uint8, PIECE)) for memory in pinned]

    def current(self) -> contextlib.AbstractContextManager[Any]:
        stack = contextlib.ExitStack()
        stack.enter_context(self._device)
        stack.enter_context(self._stream)
        return stack

    def put(self, array: np.ndarray) -> Any:
        there = self._cupy.empty(array.shape, array.dtype)
        self.send(array, there, None)
        return there

    def send(self, array: np.ndarray, there: Any, used: Any) -> Any:
        if used is not None:
            self._stream.wait_event(used)
        source, target = np.ascontiguousarray(array, there.dtype).reshape(-1), there.reshape(-1)
        for half, piece in self._pieces(target):
            half.wait()
            staged = half.of(source[piece])
            np.copyto(staged, source[piece])
            target[piece].set(staged, self._stream)
            half.done = self._stream.record()
        return self._stream.record()

    def fetch(self, array: Any) -> np.ndarray:
        source = self._cupy.ascontiguousarray(array).reshape(-1)
        fetched = np.empty(array.shape, array.dtype)
        target = fetched.reshape(-1)
        before: tuple[_Half, slice] | None = None
        for half, piece in self._pieces(source):
            half.wait()
            source[piece].get(self._stream, out=half.of(target[piece]), blocking=False)
            half.done = self._stream.record()
            self._take(before, target)
            before = half, piece
        self._take(before, target)
        return fetched

    def _pieces(self, array: Any) -> Iterator[tuple[_Half, slice]]:
        """One half after the other, and the part of ``array``, (n,), that is its turn."""
        step = PIECE // array.dtype.itemsize
        pieces = (slice(first, first + step) for first in range(0, array.size, step))
        return zip(itertools.cycle(self._halves), pieces, strict=False)

    @staticmethod
    def _take(arrived: tuple[_Half, slice] | None, target: np.ndarray) -> None:
        if arrived is not None:
            half, piece = arrived
            half.wait()
            np.copyto(target[piece], half.of(target[piece]))


@dataclass
class _Half:
    """Pinned memory, and when the last copy from or to it is done."""

    memory: np.ndarray
    done: Any = None

    def wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()

    def of(self, like: np.ndarray) -> np.ndarray:
        """As an array of this size and type."""
        return self.memory[: like.nbytes].view(like.dtype)
