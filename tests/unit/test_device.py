"""The device is what was asked for and granted, said in one line; the threads are those of the rule."""

import argparse
import re

import pytest
import torch

from common.device import open_device
from common.errors import UserError
from common.stage import Stage
from common.taxoclass_settings import Similarity, TaxoclassRuntime

GPU = "NVIDIA H200"


@pytest.fixture(autouse=True)
def threads():
    """Given back after each test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened(monkeypatch, capsys):
    """opened(device, granted, present, threads): what was opened, the stage, and what was said."""

    def open_it(device: str, granted: int | None, present: bool, threads: int = 1) -> tuple[str, Stage, str]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: GPU)
        runtime = TaxoclassRuntime(device=device)
        stage = Stage("toy", Similarity(), runtime, argparse.Namespace(), threads, granted, started=0.0)
        found = open_device(stage)
        printed = capsys.readouterr()
        assert printed.out == ""
        return found, stage, printed.err

    return open_it


# what is set, GPUs granted (None: by hand), a GPU is there -> what is used and said
CASES = [
    ("auto", None, True, "cuda", GPU),
    ("auto", None, False, "cpu", "torch sees no GPU"),
    ("auto", 1, True, "cuda", GPU),
    ("auto", 4, True, "cuda", GPU),
    ("auto", 1, False, "cpu", "torch sees no GPU"),
    ("auto", 0, True, "cpu", "no GPU granted"),
    ("auto", 0, False, "cpu", "no GPU granted"),
    ("cpu", None, True, "cpu", "as set"),
    ("cpu", 1, True, "cpu", "as set"),
    ("cuda", None, True, "cuda", GPU),
    ("cuda", 1, True, "cuda", GPU),
]


@pytest.mark.parametrize(("device", "granted", "present", "used", "why"), CASES)
def test_the_device_is_the_one_set_and_granted_and_there(opened, device, granted, present, used, why):
    found, stage, said = opened(device, granted, present, threads=2)
    assert found == used
    [line] = said.splitlines()
    expected = f"toy    | device: cuda ({GPU})" if used == "cuda" else f"toy    | device: cpu x 2 ({why})"
    assert line == expected
    assert stage.device == (f"cuda ({GPU})" if used == "cuda" else "cpu")  # what provenance and the last line have


@pytest.mark.parametrize("granted", [None, 0, 1])
def test_a_cpu_that_was_asked_for_is_used_without_a_gpu_too(opened, granted):
    # the reason that is told beside is left open here
    found, stage, said = opened("cpu", granted, present=False)
    assert (found, stage.device) == ("cpu", "cpu")
    assert re.fullmatch(r"toy    \| device: cpu x 1 \(.+\)\n", said)


@pytest.mark.parametrize(
    ("granted", "present", "why"),
    [(0, True, "no GPU granted"), (0, False, "no GPU granted"), (1, False, "no GPU"), (None, False, "no GPU")],
)
def test_a_gpu_that_was_demanded_and_is_not_there_is_one_line_with_both_remedies(opened, granted, present, why):
    with pytest.raises(UserError) as caught:
        opened("cuda", granted, present)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in ("device = 'cuda'", why, "--resources gpu=1", "device: auto"):
        assert part in message


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("present", [False, True])
def test_torch_has_the_threads_of_the_rule(opened, count, present):
    torch.set_num_threads(4)
    opened("auto", None, present, threads=count)
    assert torch.get_num_threads() == count


def test_a_gpu_that_is_not_used_is_not_asked_for_its_name(monkeypatch):
    # asking would open it: memory on a GPU that belongs to another job
    def ask(*_):
        raise AssertionError("the GPU was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", ask)
    for device, granted in (("cpu", 1), ("auto", 0)):
        runtime = TaxoclassRuntime(device=device)
        assert open_device(Stage("toy", Similarity(), runtime, argparse.Namespace(), 1, granted, started=0.0)) == "cpu"
