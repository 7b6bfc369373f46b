"""The device is what was asked for and granted, said in one line; the threads are those of the rule."""

import argparse
import os
import sys
import types

import numpy as np
import pytest
import torch

import common.device
from common import cards
from common.arrays import Accelerator
from common.cards import Card
from common.descriptors_settings import Pass2, Runtime
from common.device import open_arrays, open_device
from common.errors import UserError
from common.stage import Stage
from common.taxoclass_settings import Similarity, TaxoclassRuntime

GPU = "NVIDIA H200"
EXACT = types.SimpleNamespace(allow_fp16_reduced_precision_reduction=False)


@pytest.fixture(autouse=True)
def threads():
    """Given back after each test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """No card, locks in a folder of the test's own; what torch was told is in the dictionary."""
    told = {}
    monkeypatch.delenv(cards.VISIBLE, raising=False)
    monkeypatch.setattr(cards.lease, "__defaults__", (tmp_path, *cards.lease.__defaults__[1:]))
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: told.update(index=index))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, index: told.update(share=share, of=index)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda index: 123 + index)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: told.update(cudnn_plans=on))
    told["products"] = types.SimpleNamespace(allow_fp16_reduced_precision_reduction=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", told["products"])
    return told


@pytest.fixture
def opened(monkeypatch, capsys):
    """opened(device, granted, present, threads, memory): what was opened, the stage, and what was said."""

    def open_it(
        device: str, granted: int | None, present: int, threads: int = 1, memory: int | None = None
    ) -> tuple[str, Stage, str]:
        there = [Card(index, f"uuid-{index}", GPU, 141 * 10**9) for index in range(present)]
        monkeypatch.setattr(common.device, "_torch_cards", lambda: there)
        runtime = TaxoclassRuntime(device=device)
        given = argparse.Namespace()
        stage = Stage("toy", Similarity(), runtime, given, threads, granted, started=0.0, gpu_memory=memory)
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
    ("cpu", None, False, "cpu", "as set"),
    ("cpu", 0, False, "cpu", "as set"),
    ("cpu", 1, False, "cpu", "as set"),
    ("cuda", None, True, "cuda", GPU),
    ("cuda", 1, True, "cuda", GPU),
]


@pytest.mark.parametrize(("device", "granted", "present", "used", "why"), CASES)
def test_the_device_is_the_one_set_and_granted_and_there(opened, device, granted, present, used, why):
    found, stage, said = opened(device, granted, present, threads=2)
    assert found == ("cuda:0" if used == "cuda" else "cpu")
    [line] = said.splitlines()
    on_card = f"toy    | device: cuda ({GPU}), card 0, 141 GB of it"
    assert line == (on_card if used == "cuda" else f"toy    | device: cpu x 2 ({why})")
    assert stage.device == (f"cuda ({GPU})" if used == "cuda" else "cpu")  # what provenance and the last line have


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


@pytest.mark.parametrize(("device", "granted"), [("cpu", 1), ("auto", 0)])
def test_a_gpu_that_is_not_used_is_not_looked_at(monkeypatch, device, granted):
    # a look would open it: memory on a GPU that belongs to another job
    monkeypatch.setattr(common.device, "_torch_cards", lambda: pytest.fail("the GPU was opened"))
    monkeypatch.setattr(common.device, "_cupy_cards", lambda: pytest.fail("the GPU was opened"))
    text = Stage("a", Similarity(), TaxoclassRuntime(device=device), argparse.Namespace(), 1, granted, started=0.0)
    table = Stage("b", Pass2(), Runtime(device=device), argparse.Namespace(), 1, granted, started=0.0)
    assert open_device(text) == "cpu" and open_arrays(table) is None


# ---- which card, and how much of it


def test_the_next_job_takes_the_next_card(opened, machine):
    stages = [opened("auto", 1, present=2)[:2] for _ in range(2)]  # the first one keeps its card
    assert [name for name, _ in stages] == ["cuda:0", "cuda:1"] and machine["index"] == 1


@pytest.mark.parametrize(
    ("memory", "share", "said"), [(40 * 10**9, 40 / 141, "40"), (None, 1.0, "141"), (200 * 10**9, 1.0, "141")]
)
def test_torch_takes_no_more_of_the_card_than_was_granted(opened, machine, memory, share, said):
    _, stage, line = opened("auto", 1, present=1, memory=memory)
    assert machine == {"index": 0, "share": pytest.approx(share), "of": 0, "cudnn_plans": False, "products": EXACT}
    assert f"{said} GB of it" in line
    assert stage.peak_device() == 123  # what provenance has


class Pool:
    """CuPy's memory pool."""

    limit = 0

    def set_limit(self, size: int) -> None:
        self.limit = size

    def total_bytes(self) -> int:
        return 77


@pytest.fixture
def cupy(monkeypatch):
    """CuPy as far as opening a card needs it, with one card of 141 GB."""
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    pool = Pool()
    properties = {"uuid": b"cut", "name": GPU.encode(), "totalGlobalMem": 141 * 10**9}
    used = []
    module = types.ModuleType("cupy")

    class Device:
        def __init__(self, index: int = 0) -> None: ...

        def use(self) -> None:
            used.append(True)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda index: properties,
        memGetInfo=lambda: (140 * 10**9, 141 * 10**9),
    )
    module.__version__, module.ones = "14.2.0", np.ones
    monkeypatch.setattr(common.device, "_uuid", lambda index: f"uuid-{index}")
    module.cuda = types.SimpleNamespace(runtime=runtime, Device=Device)
    module.get_default_memory_pool = lambda: pool
    module.used = used
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.parametrize(("granted", "planned", "limit"), [(40, 40.0, 40), (40, 8.5, 8.5), (10, 40.0, 10)])
def test_cupy_takes_the_less_of_what_was_granted_and_what_was_planned(cupy, granted, planned, limit):
    runtime = Runtime(max_gpu_memory_gb=planned)
    stage = Stage("b", Pass2(), runtime, argparse.Namespace(), 1, 1, started=0.0, gpu_memory=granted * 10**9)
    card = open_arrays(stage)
    assert isinstance(card, Accelerator) and card.xp is cupy and cupy.used == [True]
    assert card.memory == cupy.get_default_memory_pool().limit == limit * 10**9
    assert stage.peak_device() == 77 and stage.device == f"cuda ({GPU})"
    assert os.environ["CUBLAS_EMULATE_DOUBLE_PRECISION"] == "0"  # integers are added up in fp64


def test_what_is_taken_already_of_a_card_is_not_granted(cupy):
    cupy.cuda.runtime.memGetInfo = lambda: (5 * 10**9, 141 * 10**9)
    stage = Stage("b", Pass2(), Runtime(), argparse.Namespace(), 1, 1, started=0.0)
    assert open_arrays(stage).memory == 5 * 10**9 - common.device.OUTSIDE


def test_a_card_that_the_driver_has_no_name_for_can_be_assigned(monkeypatch, cupy):
    def unknown(_: int) -> str:
        raise UserError("the NVIDIA driver does not tell which card 0 is")

    monkeypatch.setattr(common.device, "_uuid", unknown)
    stage = Stage("b", Pass2(), Runtime(), argparse.Namespace(), 1, 1, started=0.0)
    with pytest.raises(UserError, match="does not tell"):
        open_arrays(stage)
    monkeypatch.setenv(cards.VISIBLE, "0")
    assert open_arrays(stage) is not None and stage.lease.lock is None


def test_without_a_driver_it_says_what_to_set(monkeypatch):
    def missing(library: str) -> None:
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(common.device.ctypes, "CDLL", missing)
    with pytest.raises(UserError, match="which card 3 is; set CUDA_VISIBLE_DEVICES to one card, or device: cpu"):
        common.device._uuid(3)


def broken(*_) -> None:
    raise ImportError("libcublas.so.12: cannot open shared object file")


@pytest.mark.parametrize(
    ("version", "ones", "words"),
    [
        ("14.2.0", broken, "cannot compute on it .libcublas.so.12: .+; install envs/gpu.txt, or set device: cpu"),
        ("14.1.1", np.ones, "CuPy 14.1.1 may sort wrongly when memory runs out; install 14.2 or later"),
        ("14.2.0", np.zeros, "computes wrongly on this card"),
    ],
)
def test_a_card_that_cupy_cannot_compute_on_is_refused_in_one_line(cupy, version, ones, words):
    cupy.__version__, cupy.ones = version, ones
    with pytest.raises(UserError, match=words):
        open_arrays(Stage("b", Pass2(), Runtime(), argparse.Namespace(), 1, 1, started=0.0))


@pytest.mark.parametrize("failing", [None, ImportError, RuntimeError])
def test_without_cupy_or_a_driver_the_cpu_computes_and_says_so(monkeypatch, capsys, cupy, failing):
    if failing is None:
        monkeypatch.setitem(sys.modules, "cupy", None)  # not installed
    else:

        def count() -> int:
            raise failing("no driver")

        cupy.cuda.runtime.getDeviceCount = count
    stage = Stage("b", Pass2(), Runtime(), argparse.Namespace(), 2, 1, started=0.0)
    assert open_arrays(stage) is None
    assert capsys.readouterr().err == "b      | device: cpu x 2 (CuPy sees no GPU)\n"
    demanded = Stage("b", Pass2(), Runtime(device="cuda"), argparse.Namespace(), 2, 1, started=0.0)
    with pytest.raises(UserError, match=r"device = 'cuda', but CuPy sees no GPU; .*--resources gpu=1.*device: auto"):
        open_arrays(demanded)
