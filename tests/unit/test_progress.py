"""How far a stage is: lines now and then in a log, tqdm's bar on a terminal, callbacks for numeric code."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common import progress as told
from common.progress import counted, progress, say
from conftest import ROOT

LINE = re.compile(r"^(.{6,}?) \| ([\d,]+) of ([\d,]+) (\w+), +(\d+) % \| ([\d,.e+-]+) \4/s \| (\d+:)?\d\d:\d\d left$")


class Clock:
    """Stands in for the clock of tqdm."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def work(clock: Clock, bar, numbers: list[int], seconds: float) -> None:
    for number in numbers:
        clock.now += seconds
        bar.update(number)


def test_a_log_has_a_line_every_half_minute_with_rate_and_time_left(clock, capsys):
    with progress("pass1", 448, "column") as bar:
        work(clock, bar, [1] * 400, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 400 // told.INTERVAL
    assert lines[0] == "pass1  | 30 of 448 columns, 7 % | 1 columns/s | 06:58 left"
    assert all(LINE.match(line) for line in lines)
    assert [int(LINE.match(line)[2]) for line in lines] == [30 * (turn + 1) for turn in range(len(lines))]


def test_a_job_that_is_shorter_has_no_line(clock, capsys):
    with progress("pass1", 448, "column") as bar:
        work(clock, bar, [1] * 448, 0.05)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_the_rate_is_that_of_late_and_large_numbers_are_readable(clock, capsys):
    with progress("similarity", 2_000_000, "pair", "what") as bar:
        work(clock, bar, [100_000] * 4, 30.0)
        work(clock, bar, [30] * 12, 30.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "similarity | what | 100,000 of 2,000,000 pairs, 5 % | 3,333 pairs/s | 09:30 left"
    first, last = (float(LINE.match(line)[6].replace(",", "")) for line in (lines[0], lines[-1]))
    assert last < first / 20


def test_what_was_done_before_tells_nothing_of_the_speed(clock, capsys):
    with progress("train_classifier", 1000, "text") as bar:
        bar.skip(900)
        work(clock, bar, [30], 30.0)
    assert capsys.readouterr().err == "train_classifier | 930 of 1,000 texts, 93 % | 1 texts/s | 01:10 left\n"


def test_a_total_may_come_later_or_never(clock, capsys):
    with progress("pass3", unit="column", what="removed") as bar:
        work(clock, bar, [64], 32.0)
    with progress("pass2", unit="pair") as bar:
        clock.now += 40.0
        bar.reach(10, 100)
        clock.now += 40.0
        bar.reach(30)
        bar.reach(120)  # of an estimate
        clock.now += 40.0
        bar.reach(130)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pass3  | removed | 64 columns | 2 columns/s"
    assert lines[1].startswith("pass2  | 10 of 100 pairs, 10 % | 0.25 pairs/s | 06:00 left")
    assert lines[2].startswith("pass2  | 30 of 100 pairs") and lines[3].startswith("pass2  | 130 pairs | ")


def test_an_error_inside_leaves_no_half_line(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress("pass1", 100, "column") as bar:
        work(clock, bar, [1] * 40, 1.0)
        raise ZeroDivisionError
    assert capsys.readouterr().err.count("\n") == 1


def test_parts_are_counted_when_they_are_done_with():
    seen: list[int] = []
    for part in counted(["ab", "c"], seen.append):
        assert sum(seen) == {"ab": 0, "c": 2}[part]
    assert seen == [2, 1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(written: str) -> list[str]:
    """Lines that a terminal shows: a carriage return goes back to the beginning, and what follows covers."""
    lines = []
    for line in written.split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


def test_on_a_terminal_a_bar_moves_and_lines_are_whole_above_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("pass1", 4, "column") as bar:
        bar.mininterval = 0
        bar.update(1)
        assert "pass1:  25%" in shown(terminal.getvalue())[-1]
        say("pass1", "warning: something")
        bar.update(1)
        assert shown(terminal.getvalue())[0] == "pass1  | warning: something"
        assert "pass1:  50%" in shown(terminal.getvalue())[-1] and "column" in terminal.getvalue()
    say("pass1", "3.1 s")
    assert shown(terminal.getvalue()) == ["pass1  | warning: something", "pass1  | 3.1 s", ""]


def test_lines_come_from_a_process_whose_output_is_a_file(tmp_path):
    program = (
        "from common import progress\n"
        "progress.INTERVAL = 0\n"
        "with progress.progress('pass2', 3, 'pair') as bar:\n"
        "    for _ in range(3):\n"
        "        bar.update()\n"
        "progress.say('pass2', 'done')\n"
    )
    log = tmp_path / "log"
    with open(log, "w") as file:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT / "scripts", stdout=file, stderr=file, check=True)
    assert [line.split(" | ")[1].split(",")[0] for line in log.read_text().splitlines()] == [
        "0 of 3 pairs",
        "1 of 3 pairs",
        "2 of 3 pairs",
        "3 of 3 pairs",
        "done",
    ]


def test_no_other_module_has_a_bar_of_its_own():
    users = [path for path in sorted((ROOT / "scripts").rglob("*.py")) if "tqdm" in Path(path).read_text()]
    assert users == [ROOT / "scripts" / "common" / "progress.py"]
