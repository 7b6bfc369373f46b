"""Small faults put into the numeric modules one at a time, to see whether the module's own tests notice: make mutants.

cosmic-ray makes the faults, in a copy of the checkout. A module has hundreds, so a seeded sample is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    "descriptors/sampling", "descriptors/variance", "descriptors/ranks", "descriptors/gram", "descriptors/spearman",
    "descriptors/sketch", "descriptors/clusters", "descriptors/vif", "descriptors/covariance", "descriptors/dependence",
    "descriptors/chance", "descriptors/lineage", "descriptors/alternatives", "descriptors/utility", "common/pieces",
    "descriptors/features", "descriptors/codes", "descriptors/ordering", "descriptors/shards", "descriptors/pearson",
    "descriptors/common_rows", "descriptors/ranks_on_card", "descriptors/spearman_on_card",
    "descriptors/nonlinear_on_card", "common/arrays", "common/lanes", "common/files", "taxoclass/classifier",
    "taxoclass/inference", "taxoclass/packing",
    "taxoclass/taxonomy", "taxoclass/words", "taxoclass/scoring", "taxoclass/clustering", "taxoclass/posterior",
    "taxoclass/mining", "taxoclass/targets", "taxoclass/training", "taxoclass/self_training", "taxoclass/prediction",
    "taxoclass/labels", "taxoclass/decoding", "taxoclass/expected_f1", "taxoclass/metrics",
]  # fmt: skip
# what pytest is given below tests/unit/, where it is not test_<name>.py
TESTS = {
    "common/arrays": "test_arrays.py test_on_card.py",
    "common/lanes": "test_arrays.py test_on_card.py",
    "common/pieces": "test_shards.py",
    "descriptors/chance": "test_nonlinear.py -k 'null or gate or counts or standard'",
    "descriptors/common_rows": "test_spearman.py test_pair_kernels.py",
    "descriptors/covariance": "test_nonlinear.py test_on_card.py",
    "descriptors/dependence": "test_nonlinear.py",
    "descriptors/feature_kernels": "test_nonlinear.py",
    "descriptors/features": "test_nonlinear.py",
    "descriptors/ordering": "test_codes.py",
    "descriptors/nonlinear_on_card": "test_on_card.py",
    "descriptors/pearson": "test_spearman.py",
    "descriptors/ranks_on_card": "test_on_card.py",
    "descriptors/sketch": "test_spearman.py",
    "descriptors/spearman_on_card": "test_on_card.py",
    "taxoclass/decoding": "test_decoding.py test_mining.py",
    "taxoclass/inference": "test_encoders.py test_scoring.py",
    "taxoclass/labels": "test_decoding.py test_labels_parquet.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help="below scripts/")
    parser.add_argument("--sample", type=int, default=14, help="faults tried a module")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "winnow"
        subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, copy], check=True)
        for module in arguments.modules:
            try_faults(module, copy, Path(scratch) / "session.sqlite", arguments.sample, arguments.seed)


def try_faults(module: str, copy: Path, session: Path, sample: int, seed: int) -> None:
    """Print how many of a sample of faults in a module its tests noticed, and those that they did not."""
    session.unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    here = {"cwd": copy / "tests" / "unit", "env": environment, "check": True}
    tests = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {TESTS.get(module, f'test_{Path(module).name}.py')}"
    started = time.monotonic()
    subprocess.run(shlex.split(tests), stdout=subprocess.DEVNULL, **here)
    settings = {
        "module-path": str(copy / "scripts" / f"{module}.py"),
        "timeout": 30 + 3 * (time.monotonic() - started),
        "excluded-modules": [],
        "test-command": tests,
    }
    config = session.with_suffix(".toml")
    tables = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    config.write_text("\n".join(["[cosmic-ray]", *tables, "[cosmic-ray.distributor]", 'name = "local"', ""]))
    command = [sys.executable, "-m", "cosmic_ray.cli"]
    subprocess.run([*command, "init", config, session], **here)
    with use_db(session, WorkDB.Mode.open) as work:
        items = sorted(work.work_items, key=lambda item: place(item.mutations[0]))
        kept = random.Random(seed).sample(items, min(sample, len(items)))
        work.clear()
        work.add_work_items(kept)
    subprocess.run([*command, "exec", config, session], **here)
    with use_db(session, WorkDB.Mode.open) as work:
        results = [result for _, result in work.results]
    survivors = [result for result in results if result.test_outcome == TestOutcome.SURVIVED]
    endless = sum(result.output == "timeout" for result in results)
    print(f"{module}: {len(items)} faults, {len(kept)} tried, {len(survivors)} not noticed, {endless} without end")
    for result in survivors:
        changed = [line for line in result.diff.splitlines() if line[:1] in "@+-" and line[:3] not in ("---", "+++")]
        print("\n".join(f"    {line}" for line in changed), flush=True)


def place(fault: MutationSpec) -> tuple[Any, ...]:
    return *fault.start_pos, fault.operator_name, fault.occurrence


if __name__ == "__main__":
    main()
