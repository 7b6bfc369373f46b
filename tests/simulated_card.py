"""A card that is simulated: CuPy's functions, done by NumPy, with streams, events and pinned memory.

As on a card, NumPy's arrays and the card's do not mix, and copies are done late, in the order of streams and events
alone: a copy from pinned memory that was written again too early takes the wrong values, and one into memory that
another stream may still read is an error. What is computed is computed at once.
"""

from __future__ import annotations

import random
import threading
import time
import types
import weakref
from typing import Any

import numpy as np

LATE = 2e-5  # seconds, at most, that a copy waits
own = threading.local()
reading: list[tuple[np.ndarray, Event]] = []  # memory, and what has to be over before it is written
streams: weakref.WeakSet[Stream] = weakref.WeakSet()


class Event:
    def __init__(self) -> None:
        self._over = threading.Event()

    @property
    def done(self) -> bool:
        return self._over.is_set()

    def finish(self) -> None:
        self._over.set()

    def synchronize(self) -> None:
        assert self._over.wait(20), "an event that never comes"


class Stream:
    """Its tasks are done one after the other by a thread that ends when there are none."""

    null: Stream

    def __init__(self, non_blocking: bool = False) -> None:
        assert not non_blocking or getattr(own, "entered", 0), "a stream of whichever card"
        self._tasks: list[Any] = []
        self._lock, self.busy = threading.Lock(), False
        self._read: dict[int, np.ndarray] = {}  # since an event was last recorded
        self._error: BaseException | None = None
        streams.add(self)

    def __enter__(self) -> Stream:
        own.streams = [*getattr(own, "streams", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        own.streams = own.streams[:-1]

    def give(self, task: Any) -> None:
        with self._lock:
            self._tasks.append(task)
            if not self.busy:
                self.busy = True
                threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self.busy = False
                    return
                task = self._tasks.pop(0)
            time.sleep(random.random() * LATE)
            try:
                task()
            except BaseException as error:
                self._error = error

    def record(self) -> Event:
        event = Event()
        reading[:] = [each for each in reading if not each[1].done]
        reading.extend((memory, event) for memory in self._read.values())
        self._read = {}
        self.give(event.finish)
        return event

    def wait_event(self, event: Event) -> None:
        self.give(event.synchronize)

    def synchronize(self) -> None:
        with self._lock:
            idle = not self.busy
        if not idle:
            self.record().synchronize()
        if self._error is not None:
            raise self._error

    def reads(self, array: np.ndarray) -> None:
        memory = root(array)
        self._read[id(memory)] = memory

    def may_write(self, array: np.ndarray) -> None:
        memory = root(array)
        assert all(event.done for each, event in reading if each is memory), "written while another stream reads it"
        others = [stream for stream in [*streams] if stream is not self]
        assert not any(id(memory) in stream._read for stream in others), "written before another stream has read it"


Stream.null = Stream()


def current() -> Stream:
    return (getattr(own, "streams", None) or [Stream.null])[-1]


def root(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def plain(given: Any, mixing: bool = False) -> Any:
    """NumPy's arrays in the place of the card's, which the current stream reads."""
    if isinstance(given, Array):
        current().reads(given.values)
        return given.values
    if isinstance(given, np.ndarray) and not mixing:
        raise TypeError(f"Unsupported type {type(given)}")
    if isinstance(given, list | tuple):
        return type(given)(plain(each, mixing) for each in given)
    return given


def wrapped(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(map(wrapped, result))
    return Array(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in the card's memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)
    size = property(lambda self: self.values.size)
    nbytes = property(lambda self: self.values.nbytes)
    T = property(lambda self: Array(self.values.T))

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **more: Any) -> Any:
        current().synchronize()
        into = {} if out is None else {"out": tuple(map(plain, out))}
        result = getattr(ufunc, method)(*map(plain, inputs), **into, **more)
        return wrapped(result) if out is None else out[0]

    def __getitem__(self, index: Any) -> Any:
        return self._read(lambda values: values[plain(index, mixing=True)])

    def __setitem__(self, index: Any, value: Any) -> None:
        current().synchronize()
        current().reads(self.values)
        self.values[plain(index, mixing=True)] = plain(value)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Any:
        return (self[place] for place in range(len(self)))

    def __int__(self) -> int:
        return int(plain(self))

    def __bool__(self) -> bool:
        return bool(plain(self))

    def _method(name: str) -> Any:  # noqa: N805 (makes methods)
        def call(self: Array, *given: Any, **more: Any) -> Any:
            return self._read(lambda values: getattr(values, name)(*plain(given), **more))

        return call

    astype, reshape, sum = map(_method, ("astype", "reshape", "sum"))

    def _read(self, take: Any) -> Any:
        """What is taken of it; a view of it reads nothing, and waits for nothing."""
        taken = take(self.values)
        if isinstance(taken, np.ndarray) and root(taken) is root(self.values):
            return Array(taken)
        current().synchronize()
        current().reads(self.values)
        return wrapped(take(self.values))

    def set(self, values: np.ndarray, stream: Stream) -> None:
        assert self.values.flags.c_contiguous and values.shape == self.shape and values.dtype == self.dtype

        def copy() -> None:
            stream.may_write(self.values)
            self.values[...] = values

        stream.give(copy)

    def get(self, stream: Stream, *, out: np.ndarray, blocking: bool) -> np.ndarray:
        assert self.values.flags.c_contiguous and out.shape == self.shape and out.dtype == self.dtype and not blocking
        stream.give(lambda: np.copyto(out, self.values))
        return out


class Device:
    def __enter__(self) -> Device:
        own.entered = getattr(own, "entered", 0) + 1
        return self

    def __exit__(self, *_: object) -> None:
        own.entered -= 1

    def synchronize(self) -> None:
        for stream in [*streams]:
            stream.synchronize()


class Pool:
    def total_bytes(self) -> int:
        return 77

    def free_all_blocks(self) -> None: ...


class Cupy(types.ModuleType):
    """The module."""

    cuda = types.SimpleNamespace(
        Device=Device, Stream=Stream, get_current_stream=current, alloc_pinned_memory=lambda size: bytearray(size)
    )

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)

        def call(*given: Any, **more: Any) -> Any:
            assert getattr(own, "entered", 0), "no card is this thread's current one"
            current().synchronize()
            return wrapped(function(*plain(given, mixing=name == "asarray"), **more))

        return call

    @staticmethod
    def asnumpy(array: Array) -> np.ndarray:
        current().synchronize()
        return plain(array).copy()

    get_default_memory_pool = get_default_pinned_memory_pool = staticmethod(Pool)


cupy = Cupy("simulated CuPy")
