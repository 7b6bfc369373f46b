"""Too little memory, the host's or the card's: one line that says so, and what was kept stays good."""

from __future__ import annotations

import re

import pytest

from faults.conftest import WINGS
from faults.harness import Place, Struck, struck

pytestmark = pytest.mark.xdist_group("faults")
EVERYWHERE = [pytest.param(wing, 40, marks=pytest.mark.faults) for wing in WINGS]
TOLD = r"out of memory( \(.*\))?; state kept, give .* and run the same command again$"


@pytest.mark.parametrize(("wing", "count"), [("descriptors", 4), ("taxoclass", 4), *EVERYWHERE])
def test_a_lack_of_memory_at_any_call_is_one_line(wing, count, finished, tmp_path, capfd, recorder):
    pipeline = finished(wing).copy(tmp_path / "run")

    def strike(job: str, place: Place, call: int) -> str | None:
        def refuse() -> None:
            raise MemoryError("Unable to allocate 7.00 GiB")

        with struck(place, call, refuse):
            complaint = pipeline.run(job, capfd)
        if complaint is None and place.file == "taxoclass/metrics_log.py":
            return None  # a logger is left out
        told = re.match(
            r"out of memory \(.*7.00 GiB\); state kept, give .* and run the same command again$", complaint or ""
        )
        return None if told else f"says {complaint}"

    Struck(pipeline, capfd, recorder, "no memory").each(count, strike)
