"""Where torch works: the GPU that the rule was granted, or the CPU with the rule's threads."""

from __future__ import annotations

import torch

from common.errors import UserError
from common.stage import Stage


def settle(trainable: bool) -> None:
    """After the texts were read: for fixed vectors, whose matrices are small, several threads cost more than they save.

    (Eight times as much on a busy machine, measured; and on one thread the result is the same on any number of cores.)
    """
    if not trainable:
        torch.set_num_threads(1)


def open_device(stage: Stage) -> str:
    """``cuda`` or ``cpu``, in one line of the log; torch gets the stage's threads.

    A stage run by hand, without ``--gpu``, takes the GPU that it finds.

    Raises
    ------
    UserError : ``device: cuda`` is asked for and there is none, or none was granted.
    """
    torch.set_num_threads(stage.threads)
    wanted, present = stage.runtime.device, torch.cuda.is_available()
    why_not = "no GPU granted" if stage.gpu == 0 else "" if present else "torch sees no GPU"
    if wanted == "cuda" and why_not:
        raise UserError(f"device = 'cuda', but {why_not}; give the run one (--resources gpu=1), or set device: auto")
    if wanted == "cpu" or why_not:
        stage.log(f"device: cpu x {stage.threads} ({'as set' if wanted == 'cpu' else why_not})")
        return "cpu"
    stage.device = f"cuda ({torch.cuda.get_device_name()})"
    stage.log(f"device: {stage.device}")
    return "cuda"
