"""What packing is worth: steps of training all-MiniLM-L6-v2 with and without padding, in turn, on the CPU.

python benchmarks/packing.py; the abstracts of the demo, whole and cut to random lengths, as those of reviews are.
Writes benchmarks/results/packing.txt.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import our_text  # noqa: E402
import written  # noqa: E402
from measure import alternate, machine  # noqa: E402
from text_rows import abstracts  # noqa: E402

STEP, STEPS = 64, 2  # documents of a step, and how many steps are timed
CLASSES = 150
PATIENCE = 60.0  # seconds a line
HEAD = ("texts", "micro-batch", "padding", "with padding", "without", "times as fast", "largest difference")


def cut(texts: list[str]) -> list[str]:
    sizes = np.random.default_rng(0).integers(8, 200, len(texts))
    return [" ".join(text.split()[:size]) for text, size in zip(texts, sizes, strict=True)]


def steps(runner, rows: np.ndarray, targets) -> list[float]:
    """Losses; dropout is off, so that both sides have the same."""
    return [runner.gradients(part, targets) for part in rows.reshape(STEPS, STEP)]


def line(what: str, texts: list[str], micro: int) -> tuple[str, ...]:
    from common.taxoclass_settings import TrainClassifier
    from taxoclass.classifier import Architecture, build
    from taxoclass.encoders import Encoder
    from taxoclass.labels import Labels
    from taxoclass.packing import padded
    from taxoclass.targets import core_targets
    from taxoclass.training import CoreTraining, Machine, Runner, Tokens, blocks

    taxonomy = our_text.tree(our_text.class_names(CLASSES))
    runners = {}
    for side in ("with", "without"):
        encoder = Encoder.load(our_text.MODEL, max_length=256)
        backbone = encoder.loaded.model.requires_grad_(True)
        given = TrainClassifier(encoder_trainable=True, micro_batch=micro)
        names = np.random.default_rng(0).normal(size=(len(taxonomy), our_text.DIMENSION))
        model = build(taxonomy, names, Architecture.of(given, backbone), 0, backbone)
        tokens = Tokens(*encoder.framed(texts), pad=encoder.loaded.tokenizer.pad_token_id)
        runners[side] = runner = Runner(model, tokens, Machine.on("cpu"), CoreTraining.of(given))
        if side == "with":
            runner.inner.encoder.backbone = padded(runner.inner.encoder.backbone)
        for each in runner.inner.modules():
            if hasattr(each, "p"):
                each.p = 0.0
    rows = np.arange(STEP * STEPS)
    classes = Labels.of([[int(row) % len(taxonomy)] for row in range(len(texts))])
    targets = core_targets(taxonomy, classes.indptr, classes.indices)
    sides = {side: partial(steps, runner, rows, targets) for side, runner in runners.items()}
    sides["without"]()  # warm
    timings, losses = alternate(sides, PATIENCE)
    by_step = [np.sort(tokens.lengths[part]) for part in rows.reshape(STEPS, STEP)]
    held = sum(part.max() * len(part) for step in by_step for part in blocks(step, micro))
    seconds = {side: timings[side].seconds for side in sides}
    return (
        what,
        str(micro),
        f"{1 - sum(step.sum() for step in by_step) / held:.0%}",
        f"{seconds['with']:.3g} s",
        f"{seconds['without']:.3g} s",
        f"{seconds['with'] / seconds['without']:.2f}",
        f"{np.abs(np.subtract(losses['with'], losses['without'])).max():.0e}",
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    import torch

    torch.set_num_threads(2)
    texts = abstracts(STEP * STEPS)
    here = machine()
    head = f"{here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB; {STEPS} steps of {STEP} texts"
    rows = [line("whole", texts, 16), line("cut", cut(texts), 16), line("cut", cut(texts), STEP)]
    text = f"{head}\n\n{written.aligned(HEAD, rows)}\n"
    print(text)
    (ROOT / "benchmarks" / "results" / "packing.txt").write_text(text)


if __name__ == "__main__":
    main()
