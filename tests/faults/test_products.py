"""Products that are damaged between the stages: whoever reads one says so and names it, or nothing changes."""

from __future__ import annotations

import pytest

from faults.conftest import WINGS
from faults.harness import inject

MANY = {"descriptors": 40, "taxoclass": 15}


@pytest.mark.parametrize("wing", ["descriptors", "taxoclass"])
def test_a_damaged_product_never_changes_a_result_unnoticed(wing, finished, tmp_path, capfd, recorder):
    wrong = list(inject(finished(wing), finished(wing, 1), tmp_path, 6, capfd, recorder))
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.parametrize("wing", WINGS)
def test_many_damaged_products_never_change_a_result_unnoticed(wing, finished, tmp_path, capfd, recorder):
    count = MANY[wing.split(",")[0]]
    wrong = list(inject(finished(wing), finished(wing, 1), tmp_path, count, capfd, recorder))
    assert not wrong, "\n".join(wrong)
