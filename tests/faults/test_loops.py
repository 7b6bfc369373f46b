"""Jobs that are ended at any call inside them: between two shards, epochs, steps or iterations.

The place is one of the functions that the job calls, and one of its calls, each drawn from the seed.
"""

from __future__ import annotations

import os
import signal

import pytest

from faults.conftest import WINGS
from faults.harness import Place, Struck, in_a_child, main_of, struck

EVERYWHERE = [pytest.param(wing, 60, marks=pytest.mark.faults) for wing in WINGS]
QUICK = [("descriptors, in shards", 4), ("taxoclass", 4)]


@pytest.mark.parametrize(("wing", "count"), [*QUICK, *EVERYWHERE])
def test_a_job_that_is_killed_at_any_call_goes_on_to_the_same_bytes(wing, count, finished, tmp_path, capfd, recorder):
    pipeline = finished(wing).copy(tmp_path / "run")

    def strike(job: str, place: Place, call: int) -> str | None:
        def kill() -> None:
            with struck(place, call, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                main_of(pipeline, job)

        code = in_a_child(kill)
        return None if code == -signal.SIGKILL else f"was not killed: {code}"

    Struck(pipeline, capfd, recorder, "kill -9").each(count, strike)


@pytest.mark.faults
@pytest.mark.parametrize("wing", WINGS)
def test_a_job_that_is_interrupted_at_any_call_goes_on_to_the_same_bytes(wing, finished, tmp_path, capfd, recorder):
    pipeline = finished(wing).copy(tmp_path / "run")

    def strike(job: str, place: Place, call: int) -> str | None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        try:
            with struck(place, call, interrupt):
                return f"was not interrupted: {pipeline.run(job, capfd)}"
        except KeyboardInterrupt:
            return None

    Struck(pipeline, capfd, recorder, "SIGINT").each(20, strike)
