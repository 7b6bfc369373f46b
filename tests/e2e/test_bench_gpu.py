"""benchmarks/gpu.py runs anywhere in small sizes, compares with the CPU and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from conftest import ROOT


def bench(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_every_part_is_measured_at_two_sizes_and_gives_what_the_cpu_gives(tmp_path):
    done = bench(tmp_path, "--tiny", "--memory-gb", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "gpu.json").read_text())["lines"]
    works = [line["work"] for line in lines]
    assert len(set(works)) == 6 and all(works.count(work) == 2 for work in works)
    assert all(line["same"] for line in lines if line["work"] != "stage 4, trained encoder")
    assert (tmp_path / "gpu.txt").read_text() == done.stdout


def test_without_a_card_it_says_what_to_do(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    done = bench(tmp_path)
    assert done.returncode == 1
    assert "sees no GPU; install envs/gpu.txt on a machine with one, or use --tiny" in done.stderr
