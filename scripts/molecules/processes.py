"""Work that may hang or die, in processes of its own."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, TimeoutError
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

AHEAD = 32  # items that wait for each worker

Item = TypeVar("Item")
Result = TypeVar("Result")


def results(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    timeout: float,
    workers: int,
    prepare: Callable[..., None],
    *arguments: Any,
) -> Generator[Result | str, None, None]:
    """``task`` of each item, in order; a text that says why there is none.

    A worker that takes more than ``timeout`` seconds for an item is killed and replaced, as is one that dies. At most
    ``AHEAD`` items a worker are taken from ``items`` before their results are asked for. ``prepare`` makes a worker
    ready, with ``arguments``.
    """
    waiting: deque[Future[Result]] = deque()
    # a fork of a process with threads may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=workers, context=context, initializer=prepare, initargs=arguments)

    def finished(future: Future[Result]) -> Result | str:
        try:
            return future.result()
        except TimeoutError:
            return f"took more than {timeout:g} s"
        except ProcessExpired as error:
            return f"its process died (exit code {error.exitcode})"

    try:
        for item in items:
            waiting.append(pool.schedule(task, args=(item,), timeout=timeout))
            if len(waiting) >= AHEAD * workers:
                yield finished(waiting.popleft())
        while waiting:
            yield finished(waiting.popleft())
    finally:
        pool.stop()
        pool.join()
