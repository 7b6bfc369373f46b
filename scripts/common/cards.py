"""Which card a job works on: a free one of those that it sees, held by a lock until the job ends, however it ends.

Snakemake counts GPUs and does not number them: without a lock two jobs would both take the first one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDER = Path(tempfile.gettempdir()) / "winnow-gpu"  # the same for all users and runs of a machine
POLL = 1.0  # seconds between two looks at cards that are all in use


@dataclass(frozen=True)
class Card:
    """index : as the array library counts the visible ones; uuid : of the hardware; memory : bytes in all."""

    index: int
    uuid: str
    name: str
    memory: int


@dataclass(frozen=True)
class Lease:
    """A card that is this process's alone. The lock goes with the process, a killed one too; None = it was assigned."""

    card: Card
    lock: FileLock | None


def assigned() -> bool:
    """Whether a scheduler, or the user, chose one card for this job."""
    chosen = os.environ.get(VISIBLE, "")
    return len([each for each in chosen.split(",") if each.strip()]) == 1


def lease(
    cards: Sequence[Card],
    say: Callable[[str], None],
    folder: Path = FOLDER,
    wait: Callable[[float], None] = time.sleep,
) -> Lease:
    """The first free card; where none is, the first that becomes so. ``say`` is told once about the waiting.

    Raises
    ------
    UserError : the folder of the locks cannot be made or written.
    """
    if assigned():
        return Lease(cards[0], None)
    told = False
    while True:
        for card in cards:
            lock = _lock(card, folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            except OSError as error:
                raise _unusable(lock.lock_file, error) from None
            return Lease(card, lock)
        if not told:
            say(f"waiting for a card: all {len(cards)} are in use by other jobs of winnow")
            told = True
        wait(POLL)


def _lock(card: Card, folder: Path) -> FileLock:
    try:
        folder.mkdir()
        folder.chmod(0o1777)  # mkdir's own mode is cut by the umask
    except OSError as error:
        if not folder.is_dir():
            raise _unusable(folder, error) from None
    return FileLock(folder / f"{card.uuid}.lock", mode=0o666)


def _unusable(path: str | Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror}; remove it, or set {VISIBLE} to one card")
