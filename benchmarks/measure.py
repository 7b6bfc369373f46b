"""Stop-watch, memory meter, and the shape of what is measured."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from threadpoolctl import threadpool_info

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SAMPLING = 0.02  # seconds between two looks at the memory of a process tree


@dataclass(frozen=True)
class Context:
    """What a row is told.

    scale : factor of the number of table rows.
    threads : of every side.
    molecules : folder with hiv_rdkit/; None = the demo's molecules.
    scratch : folder for temporary files, removed afterwards.
    patience : seconds after which a comparison takes no further round.
    """

    scale: float
    threads: int
    molecules: Path | None
    scratch: Path
    patience: float

    def rows(self, full: int) -> int:
        """``full`` rows at scale 1; never so few that nothing is left to measure."""
        return max(round(full * self.scale), 2_000)


@dataclass(frozen=True)
class Timing:
    """Median of the rounds that were run."""

    seconds: float
    rounds: int


@dataclass(frozen=True)
class Comparison:
    """One line of the table: what was reached against one peer, limit or ceiling.

    reached, target : in ``unit``; target None = only reported.
    at_least : whether the target is a lower bound (a ratio) or an upper one (a limit).
    """

    against: str
    ours: str
    theirs: str
    reached: float
    unit: str = "x"
    target: float | None = None
    at_least: bool = True
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "reported"
        return "pass" if (self.reached >= self.target) is self.at_least or self.reached == self.target else "below"


@dataclass(frozen=True)
class Check:
    """Whether both sides computed the same."""

    statement: str
    held: bool


@dataclass(frozen=True)
class Point:
    """One measurement of the plot."""

    side: str
    rows: int
    columns: int
    seconds: float
    peak_bytes: int
    series: str  # "rows" or "columns": which of them is varied


@dataclass(frozen=True)
class Row:
    """The result of one benchmark."""

    work: str
    size: str
    comparisons: Sequence[Comparison]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    points: Sequence[Point] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def alternate(
    sides: Mapping[str, Callable[[], Any]], patience: float, rounds: int = ROUNDS
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Run all sides in turn, in reversed order every second round, so that a slow minute meets every side.

    Returns
    -------
    timings : medians. Rounds end after ``rounds``, or where the next one would end after ``patience`` seconds.
    results : of the first round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    begun = time.perf_counter()
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            result = sides[name]()
            seconds[name].append(time.perf_counter() - started)
            results.setdefault(name, result)
            del result
        spent = time.perf_counter() - begun
        if spent * (number + 2) / (number + 1) > patience:
            break
    return {name: Timing(statistics.median(each), len(each)) for name, each in seconds.items()}, results


def against(
    name: str, ours: Timing, theirs: Timing, target: float | None = None, times: float = 1.0, note: str = ""
) -> Comparison:
    """Ratio of two times; ``times`` extrapolates the peer's from the sample that was run, which ``note`` explains."""
    seconds = theirs.seconds * times
    rounds = f"median of {ours.rounds}" + (f" / {theirs.rounds}" if theirs.rounds != ours.rounds else "")
    about = "~" if times != 1 else ""
    return Comparison(
        name,
        duration(ours.seconds),
        about + duration(seconds),
        seconds / ours.seconds,
        target=target,
        note="; ".join(part for part in (rounds, note) if part),
    )


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


@dataclass(frozen=True)
class Run:
    """A finished command: its wall clock, and the largest resident memory of any process that it started."""

    seconds: float
    peak_of_a_child: int
    peak_by_kernel: int


def run(command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command and watch the memory of its processes; RuntimeError with the end of its log if it fails."""
    peak = 0
    done = threading.Event()

    def watch(root: psutil.Process) -> None:
        nonlocal peak
        while not done.wait(SAMPLING):
            # a process may end between being listed and being looked at
            with contextlib.suppress(psutil.Error):
                for child in root.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        peak = max(peak, child.memory_info().rss)

    started = time.perf_counter()
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid),))
        watcher.start()
        # the kernel's own record: the largest of the process and of those that it waited for
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}: {log.read_text()[-600:]}")
    return Run(seconds, peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def machine() -> dict[str, Any]:
    """Size of the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as handle:
        model = next((line.partition(":")[2].strip() for line in handle if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def busy() -> tuple[float, float]:
    """Processor seconds since the start: of the whole machine, and of this process and those that it waited for."""
    times, own = psutil.cpu_times(), os.times()
    all_of_them = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
    return all_of_them, sum(own[:4])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas() -> list[str]:
    """Thread pools loaded in this process, for example ``openblas 0.3.31 x 2``."""
    return [f"{pool['internal_api']} {pool['version']} x {pool['num_threads']}" for pool in threadpool_info()]


def source() -> str:
    """Digest of all that is measured or measures; the report may change without a new measurement."""
    digest = hashlib.sha256()
    apart = ("bench.py", "written.py", "study.py", "gpu.py", "pages.py")
    apart += ("scaling.py", "scaling_measure.py", "scaling_model.py", "scaling_simulation.py")
    here = [path for path in Path(__file__).parent.glob("*.py") if path.name not in apart]
    for path in sorted([*here, *(ROOT / "scripts").rglob("*.py"), ROOT / "Snakefile", *ROOT.glob("workflow/rules/*")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
