"""What a run tells while it learns: one JSON object a line, and TensorBoard or Weights & Biases if asked for."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from common.files import plain

WAITING = 100_000  # records
PATIENCE = 30.0  # seconds to begin, and to end


class Sink(Protocol):
    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line, flushed; a line that a kill cut off is ended first."""

    def __init__(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.handle = open(path, "a+b")  # noqa: SIM115 (closed by close)
        if self.handle.tell():
            self.handle.seek(-1, os.SEEK_END)
            if self.handle.read() != b"\n":
                self.handle.write(b"\n")

    def write(self, record: dict[str, Any]) -> None:
        self.handle.write(json.dumps(plain(record), allow_nan=False).encode() + b"\n")
        self.handle.flush()

    def close(self) -> None:
        self.handle.close()


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def write(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{record['event']}/{name}", value, record.get("step", 0))

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Offline unless the user's own WANDB_MODE says otherwise."""

    def __init__(self, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run: Any = wandb.init(project="winnow", dir=str(folder), mode=os.environ.get("WANDB_MODE", "offline"))

    def write(self, record: dict[str, Any]) -> None:
        self.run.log({f"{record['event']}/{name}": value for name, value in record.items() if name != "event"})

    def close(self) -> None:
        self.run.finish()


class Aside:
    """A logger in a thread of its own, since it may wait for a network: one that hangs holds up nothing."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self.name = name
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._work, args=(make,), daemon=True)
        self.thread.start()
        if not self.begun.wait(PATIENCE):
            raise TimeoutError(f"did not begin in {PATIENCE:g} s")
        self._raise()

    def _work(self, make: Callable[[], Sink]) -> None:
        try:
            sink = make()
            self.begun.set()
            while (record := self.records.get()) is not None:
                sink.write(record)
            sink.close()
        except BaseException as error:  # told by the next call
            self.error = error
        finally:
            self.begun.set()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, record: dict[str, Any]) -> None:
        self._raise()
        try:
            self.records.put_nowait(record)
        except queue.Full:
            raise TimeoutError(f"{WAITING:,} records wait for it") from None

    def close(self) -> None:
        self.write(None)  # type: ignore[arg-type]
        self.thread.join(PATIENCE)
        self._raise()
        if self.thread.is_alive():
            raise TimeoutError(f"did not end in {PATIENCE:g} s")


SINKS: dict[str, Callable[[Path], Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb}


class MetricsLog:
    """Hands records to sinks. One that fails or hangs is left out, with a warning; none can stop a run."""

    def __init__(self, sinks: Sequence[Sink] = (), warn: Callable[[str], None] = print) -> None:
        self.sinks = list(sinks)
        self.warn = warn

    @classmethod
    def open(
        cls,
        path: str | Path,
        others: Sequence[str] = (),
        warn: Callable[[str], None] = print,
        *,
        resumed: bool = True,
    ) -> MetricsLog:
        """JSON lines at ``path``, and beside it folders of the ``others``: tensorboard, wandb.

        resumed : go on with an earlier file; otherwise it is of another run and begun anew.
        """
        log = cls(warn=warn)
        folder = Path(path).parent
        if not resumed:
            with log._harmless("metrics file"):
                Path(path).unlink(missing_ok=True)
        log._open("metrics file", lambda: JsonLines(path))
        for name in others:
            make = partial(SINKS[name], folder / name)
            log._open(name, partial(Aside, name, make))
        return log

    def _open(self, name: str, make: Callable[[], Sink]) -> None:
        with self._harmless(name):
            self.sinks.append(make())

    def __call__(self, event: str, **values: Any) -> None:
        self._each(lambda sink: sink.write({"event": event, **values}))

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self.sinks):
            with self._harmless(getattr(sink, "name", type(sink).__name__), sink):
                act(sink)

    @contextlib.contextmanager
    def _harmless(self, name: str, sink: Sink | None = None) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # wandb leaves by SystemExit
            self.warn(f"{name} is left out: {type(error).__name__}: {' '.join(str(error).split())}")
            self.sinks = [other for other in self.sinks if other is not sink]
