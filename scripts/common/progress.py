"""How far a stage is: tqdm's bar on a terminal; in a log file a whole line now and then, in the style of the others."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

# a callback of numeric code: how much was done since it was called last
Progress = Callable[[int], object]

INTERVAL = 30.0  # seconds between two lines of a log


def unseen(number: int) -> None:
    """No progress bar."""


def say(name: str, *parts: str) -> None:
    """A log line of a stage, on standard error; a bar that is there goes on below it."""
    Bar.write(line(name, *parts), file=sys.stderr)


def line(name: str, *parts: str) -> str:
    """A log line of a stage.

    >>> line("pass2", "41,127 rows x 215 columns", "exact, pairwise")
    'pass2  | 41,127 rows x 215 columns | exact, pairwise'
    """
    return " | ".join([f"{name:<6}", *parts])


def progress(name: str, total: int | None = None, unit: str = "row", what: str = "") -> Bar:
    """A bar to be updated with the numbers of ``unit`` that are done, as a context.

    On a terminal it is tqdm's. Otherwise it prints lines, ``INTERVAL`` seconds apart, so that a stage that takes less
    prints none. ``what`` is part of the stage.
    """
    if sys.stderr.isatty():
        title = ", ".join(filter(None, [name, what]))
        return Bar(total=total, desc=title, unit=f" {unit}s", unit_scale=True, leave=False, file=sys.stderr)
    return Lines(
        total=total,
        desc=line(name, *filter(None, [what])),
        unit=f"{unit}s",
        leave=False,
        delay=INTERVAL,
        mininterval=INTERVAL,
        miniters=1,  # not adapted: the clock is looked at in each update
        file=io.StringIO(),  # for the carriage returns of tqdm
    )


def counted(parts: Iterable[Sized], update: Progress) -> Iterator[Any]:
    """The parts, such as tables; ``update`` is told the size of each when it is done with."""
    for part in parts:
        yield part
        update(len(part))


class Bar(tqdm):
    """tqdm's bar, for callbacks that tell what is done and how much there is."""

    def reach(self, done: float, total: float | None = None) -> None:
        """``done`` of ``total`` (None: as before)."""
        if total is not None:
            self.total = total
        self.update(done - self.n)

    def share(self, number: float) -> Callable[[float, float], None]:
        """A callback for the next ``number``: what is done of how much, in units of its own."""
        before = self.n
        return lambda done, total: self.reach(before + round(number * done / total))

    def skip(self, number: int) -> None:
        """So many were done before, and tell nothing of the speed."""
        self.n += number
        self.last_print_n += number
        self.initial += number


class Lines(Bar):
    """``pass1  | 120 of 448 columns, 26 % | 4.1 columns/s | 01:20 left``"""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print the line; ``msg`` is "" where tqdm would take the bar away."""
        del pos
        if msg is None:
            say(self.desc.removesuffix(": "), *_told(**self.format_dict))
        return msg is None


def _told(
    n: float, total: float | None, unit: str, initial: float, elapsed: float, rate: float | None, **_: Any
) -> list[str]:
    """What is done, how fast lately and, where the total is known, how long it takes at that rate."""
    rate = rate or ((n - initial) / elapsed if elapsed else 0.0)
    speed = f"{_number(rate)} {unit}/s"
    if not total or n > total:
        return [f"{n:,.0f} {unit}", speed]
    left = [f"{tqdm.format_interval((total - n) / rate)} left"] if rate else []
    return [f"{n:,.0f} of {total:,.0f} {unit}, {n / total:.0%}".replace("%", " %"), speed, *left]


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
