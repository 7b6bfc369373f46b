"""Stage 4: one iteration of self-training on the whole corpus, judged without labels; resumable as every training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from common.taxoclass_settings import SelfTrain, Target
from taxoclass.bundle import weights_digest
from taxoclass.classifier import Classifier
from taxoclass.decoding import Rules, decode
from taxoclass.labels import Labels
from taxoclass.metrics_log import MetricsLog
from taxoclass.targets import CoreTargets, SelfTargets, log_masses, sharpened
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import (
    BLOCK,
    CPU,
    Checkpoint,
    Documents,
    Loop,
    Machine,
    Optimisation,
    Runner,
    blocks,
    scratch_logits,
    split,
)

CONFIDENT = 0.8  # a document is confident if its largest p is above this ...
USUAL_CONFIDENCE = (0.1, 0.9)  # ... and the share of such documents outside this range is worth a warning


@dataclass(frozen=True, kw_only=True)
class SelfTraining(Optimisation):
    """How an iteration of self-training learns.

    temperature, threshold, target : of ``targets.SelfTargets``.
    refresh_every : steps after which Q is made anew from the present model, counted from the start of each epoch,
        which then makes it anew as well; 0: once an iteration.
    stop_share : the iteration has converged if it changes the top path of fewer documents than this share.
    """

    temperature: float
    threshold: float
    target: Target
    refresh_every: int
    stop_share: float

    rate_names: ClassVar[dict[str, str]] = {"encoder": "self_train_lr", "head": "self_train_head_lr"}

    @classmethod
    def of(cls, settings: SelfTrain, trainable: bool) -> SelfTraining:
        """``trainable``: whether the model's encoder is trained."""
        return cls(
            epochs=settings.self_train_epochs,
            encoder_lr=settings.self_train_lr,
            head_lr=settings.self_train_head_lr,
            temperature=settings.self_train_temperature,
            threshold=settings.self_train_threshold,
            target=settings.self_train_target,
            refresh_every=settings.self_train_refresh,
            stop_share=settings.self_train_stop,
            **settings.shared(settings.self_train_batch_size, trainable),
        )


@dataclass(frozen=True)
class Survey:
    """What a model says of the corpus.

    chain : (N,) int32, top path as an index into ``Taxonomy.chains``; labels : label sets.
    confident : share of documents whose largest p is above ``CONFIDENT``.
    log_f, log_g : of ``targets.log_masses``.
    """

    chain: np.ndarray
    labels: Labels
    confident: float
    log_f: Tensor
    log_g: Tensor

    @property
    def mass(self) -> list[float]:
        """Expected documents of each class."""
        return self.log_f.exp().tolist()


@dataclass(frozen=True)
class Silver:
    """Core classes of documents that stage 3 did not train on: what the guard compares with.

    rows : (M,) int64; positive : (M, C) float64, cores and their ancestors.
    """

    rows: np.ndarray
    positive: csr_array

    @classmethod
    def held_out(cls, targets: CoreTargets, keys: Sequence[str], share: float) -> Silver | None:
        """Of the same arguments as ``train``'s; None where no document has a core class."""
        if not len(targets.rows):
            return None
        rows = split(targets.rows, keys, share)[1]
        return cls(rows, csr_array(targets.positive[rows], dtype=np.float64))

    def agreement(self, labels: Labels) -> np.ndarray:
        """(M,) float64: Example-F1 of each document's labels against its cores and their ancestors."""
        found = labels.matrix(self.positive.shape[1])[self.rows]
        common = np.asarray(found.multiply(self.positive).sum(axis=1))
        return 2 * common / (np.asarray(found.sum(axis=1)) + np.asarray(self.positive.sum(axis=1)))


@dataclass(frozen=True)
class Verdict:
    """Which model an iteration results in, in plain numbers.

    kept : ``end`` or ``start``; why : in words, "" for a plain ``end``.
    passes_through : the iterations after this one would change nothing worth having and hand their model on.
    changed : share of documents whose top path is another one at the end of training.
    agreement_before, agreement_after : with the silver labels of held-out documents, None without any.
    agreement_floor : below it the start is kept; for the next iteration.
    """

    kept: str
    why: str
    passes_through: bool
    changed: float
    agreement_before: float | None
    agreement_after: float | None
    agreement_floor: float | None


@dataclass(frozen=True)
class SelfTrainReport(Verdict):
    """One iteration.

    confident_before, confident_after : share of documents with max p above ``CONFIDENT``.
    mass_p_before, mass_q, mass_p_after : (C,) expected documents of each class.
    """

    confident_before: float
    confident_after: float
    silver_documents: int
    micro_batch: int
    history: list[dict[str, Any]]
    mass_p_before: list[float]
    mass_q: list[float]
    mass_p_after: list[float]


# long: half of it says what it is given and why; the steps themselves are one way down
def self_train_iteration(
    model: Classifier,
    documents: Documents,
    taxonomy: Taxonomy,
    settings: SelfTraining,
    iteration: int,
    folder: Path,
    silver: Silver | None = None,
    floor: float | None = None,
    weights: np.ndarray | None = None,
    machine: Machine = CPU,
    log: MetricsLog | None = None,
    fingerprint: str = "",
) -> SelfTrainReport:
    """Teach the model its own sharpened predictions of the whole corpus; the model ends as the better of start and end.

    Better is judged without labels: by the Example-F1 between top paths and the silver labels of documents that stage 3
    held out. Silver labels are noisy, and correcting them is the purpose, so a loss within one standard error (of the
    paired differences) is no reason to go back; more is. The report says either. ``floor`` keeps several iterations
    together within one standard error of the best of them.

    Parameters
    ----------
    iteration : 1-based; part of the key of the generators.
    silver : None leaves the guard out; the report says so.
    floor : ``agreement_floor`` of the iteration before, None for the first.
    weights : (n levels,) weight of each level in the top path; default equal.
    folder, fingerprint : as for ``train``; ``folder / LOGITS`` holds the logits of the end, even if the start is kept.
    """
    log = log or MetricsLog()
    inputs = ["self_train", iteration, fingerprint, documents.digest, weights_digest(model.state_dict())]
    checkpoint = Checkpoint(folder, inputs, settings, machine.warn)
    runner = Runner(model, documents, machine, settings)
    start = {name: value.detach().clone() for name, value in runner.inner.state_dict().items()}
    logits = scratch_logits(folder, len(documents), runner.inner.n_classes)
    before = survey(runner, logits, taxonomy, weights)
    targets = SelfTargets(settings.target, settings.temperature, settings.threshold, logits, before.log_f, before.log_g)
    mass_q = _mass_of_targets(targets)

    def refresh(step: int) -> None:
        if settings.refresh_every and step % settings.refresh_every == 0:
            targets.log_f, targets.log_g = fill(runner, logits)

    rows = np.arange(len(documents))
    loop = Loop(runner, rows, targets, settings, iteration, checkpoint, log, before_step=refresh)
    loop.run()
    after = survey(runner, logits, taxonomy, weights)
    verdict = judge(before, after, silver, settings.stop_share, floor)
    if verdict.kept == "start":
        runner.inner.load_state_dict(start)
    for warning in filter(None, [verdict.why, _unusual(after.confident)]):
        machine.warn(warning)
    report = SelfTrainReport(
        **asdict(verdict),
        confident_before=before.confident,
        confident_after=after.confident,
        silver_documents=len(silver.rows) if silver else 0,
        micro_batch=runner.micro_batch,
        history=loop.history,
        mass_p_before=before.mass,
        mass_q=mass_q,
        mass_p_after=after.mass,
    )
    numbers = {name: value for name, value in asdict(report).items() if isinstance(value, float | int | str)}
    log("iteration", step=iteration, **numbers)
    return report


def judge(before: Survey, after: Survey, silver: Silver | None, stop_share: float, floor: float | None) -> Verdict:
    """Which model is the better one, and whether to go on; without labels, see ``self_train_iteration``."""
    changed = float((before.chain != after.chain).mean())
    converged = changed < stop_share
    if silver is None:
        why = "no held-out core classes, so start and end were not compared"
        return Verdict("end", why, converged, changed, None, None, None)
    old, new = silver.agreement(before.labels), silver.agreement(after.labels)
    was, now = float(old.mean()), float(new.mean())
    error = float((new - old).std(ddof=1) / np.sqrt(len(old))) if len(old) > 1 else 0.0
    floor = was - error if floor is None else max(floor, was - error)
    told = f"agreement with held-out core classes went from {was:.3f} to {now:.3f}"
    if now < floor:
        why = f"{told}, below {floor:.3f}: the model from before the iteration is kept"
        return Verdict("start", why, True, changed, was, now, floor)
    why = f"{told}, within one standard error: the trained model is kept" if now < was else ""
    return Verdict("end", why, converged, changed, was, now, floor)


def survey(runner: Runner, logits: np.ndarray, taxonomy: Taxonomy, weights: np.ndarray | None) -> Survey:
    """Predict the whole corpus into (N, C) ``logits`` and look at it, a block at a time."""
    log_f, log_g = fill(runner, logits)
    n_confident = 0
    decoded = []
    for block in blocks(logits, BLOCK):
        p = torch.from_numpy(block).double().sigmoid().numpy()
        n_confident += int((p.max(axis=1) > CONFIDENT).sum())
        decoded.append(decode(p, taxonomy, Rules(method="path"), weights))
    labels = Labels.joined([each.labels for each in decoded])
    chain = np.concatenate([each.chain for each in decoded])
    return Survey(chain, labels, n_confident / len(logits), log_f, log_g)


def _mass_of_targets(targets: SelfTargets) -> list[float]:
    """(C,) sum of q over the corpus."""
    mass = torch.zeros_like(targets.log_f)
    for block in blocks(targets.logits, BLOCK):
        mass += sharpened(torch.from_numpy(block), targets.log_f, targets.log_g, targets.temperature).sum(0)
    return mass.tolist()


def _unusual(confident: float) -> str:
    low, high = USUAL_CONFIDENCE
    if low <= confident <= high:
        return ""
    hint = "targets hardly move" if confident < low else "look for classes that took over (mass_p_after)"
    return (
        f"{confident:.0%} of the documents have a class with p > {CONFIDENT}, usual are {low:.0%} to {high:.0%}: {hint}"
    )


def fill(runner: Runner, logits: np.ndarray) -> tuple[Tensor, Tensor]:
    """Logits of the whole corpus into (N, C) ``logits``, and their log masses."""

    def store(rows: np.ndarray, z: np.ndarray) -> None:
        logits[rows] = z

    runner.predict(np.arange(len(logits)), store)
    return log_masses(map(torch.from_numpy, blocks(logits, BLOCK)), logits.shape[1])
