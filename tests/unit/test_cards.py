"""A card belongs to one job at a time, and to none that has ended, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from common import cards
from common.cards import Card, lease
from common.errors import UserError
from conftest import ROOT

CARDS = [Card(index, f"uuid-{index}", "NVIDIA H200", 10**11) for index in range(3)]
HOLD = """
import sys, time
from pathlib import Path
from common.cards import Card, lease
held = lease([Card(int(i), f"uuid-{i}", "", 1) for i in sys.argv[2].split(",")], lambda _: None, Path(sys.argv[1]))
print(held.card.index, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_assigned(monkeypatch):
    monkeypatch.delenv(cards.VISIBLE, raising=False)


@pytest.fixture
def holder(tmp_path):
    """holder("0,1"): another process that holds one of these cards; which, and the process."""
    processes = []

    def start(which: str) -> tuple[int, subprocess.Popen]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), which],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        )
        processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline()), process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def silent(_: str) -> None:
    pytest.fail("there is nothing to say")


def test_jobs_side_by_side_have_different_cards(tmp_path, holder):
    taken = {holder("0,1,2")[0], holder("0,1,2")[0]}
    mine = lease(CARDS, silent, tmp_path)
    assert taken | {mine.card.index} == {0, 1, 2}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_waits_for_a_card_says_so_once_and_takes_that_of_a_killed_one(tmp_path, holder, how):
    _, process = holder("0")
    said, waits = [], []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            process.send_signal(how)
            process.wait()

    held = lease(CARDS[:1], said.append, tmp_path, wait)
    assert held.card.index == 0 and len(waits) == 3
    assert said == ["waiting for a card: all 1 are in use by other jobs of winnow"]


@pytest.mark.parametrize(("chosen", "leased"), [("3", False), ("GPU-1a2b", False), ("0,1", True), ("", True)])
def test_a_card_that_was_chosen_for_the_job_is_not_waited_for(tmp_path, holder, monkeypatch, chosen, leased):
    holder("0")
    monkeypatch.setenv(cards.VISIBLE, chosen)
    held = lease(CARDS[:2], silent, tmp_path)
    assert (held.lock is not None, held.card.index) == (leased, int(leased))


def test_the_locks_are_for_all_users_of_the_machine(tmp_path):
    folder = tmp_path / "locks"
    before = os.umask(0o077)
    try:
        lease(CARDS[:1], silent, folder)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert (folder / "uuid-0.lock").stat().st_mode & 0o777 == 0o666


def test_a_folder_that_cannot_be_used_is_one_line_with_the_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"file: .+; remove it, or set CUDA_VISIBLE_DEVICES to one card"):
        lease(CARDS, silent, blocked)
