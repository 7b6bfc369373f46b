"""Where a stage works: on the card that the rule was granted, within the memory that it was granted, or on the CPU."""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Callable
from typing import Any

from common import cards
from common.arrays import Accelerator
from common.cards import Card
from common.errors import UserError, one_line
from common.stage import Stage

EMULATED = "CUBLAS_EMULATE_DOUBLE_PRECISION"
OUTSIDE = 2**28  # bytes of the card that are left to what else runs on it
LEAST_CUPY = (14, 2)


def settle(trainable: bool) -> None:
    """After the texts were read: for fixed vectors, whose matrices are small, several threads cost more than they save.

    (Eight times as much on a busy machine, measured; and on one thread the result is the same on any number of cores.)
    """
    import torch

    if not trainable:
        torch.set_num_threads(1)


def open_device(stage: Stage) -> str:
    """torch's name of the device, in one line of the log; torch gets the stage's threads and share of the card.

    A stage run by hand, without ``--gpu``, takes the GPU that it finds.

    Raises
    ------
    UserError : ``device: cuda`` is asked for and there is none, or none was granted.
    """
    import torch

    torch.set_num_threads(stage.threads)
    card = _chosen(stage, "torch", _torch_cards)
    if card is None:
        return "cpu"
    granted = _granted(stage, card)
    keep_to(card, granted)
    stage.peak_device = lambda: int(torch.cuda.max_memory_reserved(card.index))
    return f"cuda:{card.index}"


def open_arrays(stage: Stage) -> Accelerator | None:
    """CuPy on the stage's card, within its share of the memory; None: NumPy and compiled loops on the CPU.

    Raises
    ------
    UserError : as :func:`open_device`.
    """
    card = _chosen(stage, "CuPy", _cupy_cards)
    if card is None:
        return None
    cupy = exact_cupy()
    cupy.cuda.Device(card.index).use()
    _check_works(cupy)
    # the libraries' own memory, taken by now, lies outside the pool
    free = int(cupy.cuda.runtime.memGetInfo()[0]) - OUTSIDE
    granted = min(_granted(stage, card), int(stage.runtime.max_gpu_memory_gb * 1e9), free)
    cupy.get_default_memory_pool().set_limit(size=granted)
    accelerator = Accelerator(cupy, granted, stage.threads, stage.warn)
    stage.peak_device = lambda: accelerator.peak
    return accelerator


def keep_to(card: Card, granted: int) -> None:
    """torch works on this card, within so many bytes of it."""
    import torch

    # cuDNN plans attention anew for each number and length of texts, which takes longer than most batches
    torch.backends.cuda.enable_cudnn_sdp(False)
    # sums of parts of a product, rounded to fp16, are coarser, and may leave its range where the product does not
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.cuda.set_device(card.index)
    torch.cuda.set_per_process_memory_fraction(min(granted / card.memory, 1.0), card.index)


def exact_cupy() -> Any:
    """CuPy, whose products are those of fp64: emulated, cuBLAS might round what the passes take for exact integers."""
    os.environ[EMULATED] = "0"
    import cupy

    return cupy


def _check_works(cupy: Any) -> None:
    """A kernel and a matrix product: CuPy sees a card also where its CUDA libraries are missing."""
    if tuple(int(part) for part in cupy.__version__.split(".")[:2]) < LEAST_CUPY:
        least = ".".join(map(str, LEAST_CUPY))
        raise UserError(
            f"CuPy {cupy.__version__} may sort wrongly when memory runs out; install {least} or later (envs/gpu.txt),"
            " or set device: cpu"
        )
    try:
        ones = cupy.ones((2, 2))
        works = float((ones @ ones + ones).sum()) == 12
    except Exception as error:  # ImportError, nvrtc's, cuBLAS's
        raise UserError(
            f"CuPy sees a card but cannot compute on it ({one_line(error)}); install envs/gpu.txt, or set device: cpu"
        ) from None
    if not works:
        raise UserError("CuPy computes wrongly on this card; set device: cpu")


def _chosen(stage: Stage, library: str, see: Callable[[], list[Card]]) -> Card | None:
    """The leased card, or None for the CPU; either in one line of the log."""
    wanted = stage.runtime.device
    seen = [] if wanted == "cpu" or stage.gpu == 0 else see()
    if not seen:
        why = "as set" if wanted == "cpu" else "no GPU granted" if stage.gpu == 0 else f"{library} sees no GPU"
        if wanted == "cuda":
            raise UserError(f"device = 'cuda', but {why}; give the run one (--resources gpu=1), or set device: auto")
        stage.log(f"device: cpu x {stage.threads} ({why})")
        return None
    stage.lease = cards.lease(seen, stage.log)
    card = stage.lease.card
    stage.device = f"cuda ({card.name})"
    stage.log(f"device: {stage.device}, card {card.index}, {_granted(stage, card) / 1e9:.0f} GB of it")
    return card


def _granted(stage: Stage, card: Card) -> int:
    """Bytes of the card's memory that the stage may take."""
    return card.memory if stage.gpu_memory is None else min(stage.gpu_memory, card.memory)


def _torch_cards() -> list[Card]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = [(index, torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]
    return [Card(index, str(each.uuid), each.name, each.total_memory) for index, each in found]


def _cupy_cards() -> list[Card]:
    try:
        import cupy

        runtime = cupy.cuda.runtime
        found = [(index, runtime.getDeviceProperties(index)) for index in range(runtime.getDeviceCount())]
    except Exception:  # not installed, no driver, a driver too old: each has errors of its own
        return []
    # one that was assigned needs no lock, and so no name for it
    name = (lambda index: "") if cards.assigned() else _uuid
    return [Card(index, name(index), each["name"].decode(), each["totalGlobalMem"]) for index, each in found]


def _uuid(index: int) -> str:
    """As torch writes it; of the driver, since CuPy cuts it at its first zero byte."""
    raw, handle = (ctypes.c_ubyte * 16)(), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), index)
        failed = failed or driver.cuDeviceGetUuid_v2(raw, handle)
    except (OSError, AttributeError):  # no such library, a driver without that function
        failed = True
    if failed:
        raise UserError(
            f"the NVIDIA driver does not tell which card {index} is; set {cards.VISIBLE} to one card, or device: cpu"
        )
    return str(uuid.UUID(bytes=bytes(raw)))
