"""Arrays on a card, or in the host's memory where there is none: the same functions work on both.

A numeric function takes an :class:`Accelerator` and calls the functions of its module, ``xp``: CuPy's on a card; with
NumPy in its place every line but the copying runs anywhere, which is how the tests run them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from common.errors import UserError
from common.memory import is_out_of_memory

T = TypeVar("T")


class Accelerator:
    """An array module with its memory.

    xp : NumPy, or CuPy with the card and the limit of its memory pool set.
    memory : bytes to plan with.
    """

    def __init__(self, xp: Any, memory: int, warn: Callable[[str], None] = print) -> None:
        self.xp = xp
        self.memory = memory
        self.warn = warn
        self._lock = Lock()
        self._device = xp.cuda.Device() if self.on_card else contextlib.nullcontext()
        self.halvings = 0
        self._most: dict[str, int] = {}  # what fitted, where not all did
        self._peak = 0

    @property
    def peak(self) -> int:
        """The most bytes that were taken of the card so far; freed blocks stay in the pool until ``release``."""
        if self.on_card:
            self._peak = max(self._peak, int(self.xp.get_default_memory_pool().total_bytes()))
        return self._peak

    def release(self) -> None:
        """Give memory that is not in use back to the card."""
        gc.collect()  # an error of the reading thread holds itself, and the arrays with it
        if self.on_card:
            self._peak = self.peak
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

    def host(self, array: Any) -> np.ndarray:
        """A copy in the host's memory, or the array itself where it is there."""
        return np.asarray(self.xp.asnumpy(array) if self.on_card else array)

    def upload(self, blocks: Iterable[np.ndarray]) -> Iterator[Any]:
        """The blocks on the device, each read and copied there, through pinned memory, while the one before is used."""
        staging = _Staging(self.xp) if self.on_card else None
        source = iter(blocks)

        def following() -> Any:
            block = next(source, None)
            return block if staging is None or block is None else staging.copy(block)

        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(following)
            while (block := coming.result()) is not None:
                coming = reader.submit(following)
                yield block
                if staging is not None:
                    staging.used()

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


class _Staging:
    """Copies to the card on a stream of its own, from pinned memory, which the card reads by itself."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._device = cupy.cuda.Device()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned: np.ndarray | None = None
        self._work = cupy.cuda.Stream.null.record()

    def used(self) -> None:
        """All work on the last block is on its way: once that is done, its memory may be written again."""
        self._work = self._cupy.cuda.Stream.null.record()

    def copy(self, block: np.ndarray) -> Any:
        import cupyx

        with self._device, self._stream:
            if self._pinned is None or self._pinned.nbytes < block.nbytes:
                self._pinned = cupyx.empty_pinned(block.nbytes, np.uint8)
            staged = self._pinned[: block.nbytes].view(block.dtype).reshape(block.shape)
            np.copyto(staged, block)
            there = self._cupy.empty(block.shape, block.dtype)
            self._stream.wait_event(self._work)
            there.set(staged, self._stream)
            self._stream.synchronize()
        return there
