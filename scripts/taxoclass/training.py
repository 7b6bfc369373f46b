"""Stage 3: training from core classes; and what every training needs: documents, a model at work, a resumable loop.

On a CPU a run is a function of its inputs: shuffles and dropout are keyed by (seed, iteration, epoch), so a run that
was killed and started again ends with the bytes of one that was not. (Another thread count may round otherwise.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common import files
from common.errors import UserError
from common.memory import is_out_of_memory
from common.progress import progress, unseen
from common.stage import Stage
from common.taxoclass_settings import TrainClassifier
from taxoclass.bundle import content_digest, read_tensors, size_of, weights_digest, write_tensors
from taxoclass.classifier import Classifier, unwrap, wrap
from taxoclass.inference import send
from taxoclass.metrics_log import MetricsLog
from taxoclass.targets import CoreTargets, Targets

STATE, STOPPED, LOGITS = "state.pt", "stopped.json", "logits.npy"
BLOCK = 4096  # documents whose logits are looked at together

T = TypeVar("T")


# ---- settings


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a model learns, in either stage.

    encoder_lr, head_lr : peak rates of the trained transformer and of all other weights (class encoder, B, b).
    weight_decay : of matrices; biases and norms have none.
    warmup : share of the steps over which the rates rise from 0; afterwards they fall to 0, both linearly.
    batch_size : documents a step; micro_batch : documents on the device at once, an upper limit; None: see ``Machine``.
    validation_share : of documents, chosen by their hash.
    nonfinite_steps : so many in a row end the run.
    """

    epochs: int
    encoder_lr: float
    head_lr: float
    weight_decay: float
    warmup: float
    clip: float
    batch_size: int
    micro_batch: int | None
    validation_share: float
    nonfinite_steps: int
    seed: int

    rate_names: ClassVar[dict[str, str]]  # in the config

    @property
    def rates(self) -> dict[str, float]:
        return {"encoder": self.encoder_lr, "head": self.head_lr}


@dataclass(frozen=True, kw_only=True)
class CoreTraining(Optimisation):
    """How stage 3 learns. min_steps : epochs become more until the steps are at least as many."""

    min_steps: int

    rate_names: ClassVar[dict[str, str]] = {"encoder": "encoder_lr", "head": "head_lr"}

    @classmethod
    def of(cls, settings: TrainClassifier) -> CoreTraining:
        return cls(
            epochs=settings.epochs,
            min_steps=settings.min_steps,
            encoder_lr=settings.encoder_lr,
            head_lr=settings.head_lr,
            **settings.shared(settings.batch_size, settings.encoder_trainable),
        )


def no_bar(total: int, unit: str, what: str) -> contextlib.AbstractContextManager[Any]:
    """No progress bar; one is told how many of ``total`` are done (``update``), and were before (``skip``)."""
    return contextlib.nullcontext(SimpleNamespace(update=unseen, skip=unseen))


@dataclass(frozen=True)
class Machine:
    """Where a model works.

    devices : one, or several for a data-parallel wrapper.
    mixed_precision : bf16 where the device has it.
    progress : opens a bar, see ``no_bar``.
    micro_batch : documents trained on at once where none was set, an upper limit; None: all of a step.
    predict_batch : documents predicted at once, an upper limit; needs less memory than a micro-batch of as many.
    """

    devices: Sequence[torch.device] = (torch.device("cpu"),)
    micro_batch: int | None = 16
    predict_batch: int = 128
    mixed_precision: bool = True
    warn: Callable[[str], None] = print
    progress: Callable[[int, str, str], contextlib.AbstractContextManager[Any]] = no_bar

    @classmethod
    def of(cls, stage: Stage, device: str, mixed_precision: bool) -> Machine:
        """The device that was opened for a stage, with its bars and warnings."""
        bar = partial(progress, stage.name)
        return cls.on(device, mixed_precision=mixed_precision, warn=stage.warn, progress=bar)

    @classmethod
    def on(cls, device: str, **more: Any) -> Machine:
        """One device, with as many documents at once as suit it."""
        where = torch.device(device)
        return cls([where], **(ON_CARD if where.type == "cuda" else {}), **more)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 on a GPU that computes in it; float32 elsewhere. Never fp16, whose range needs a loss scale."""
        kind = self.devices[0].type
        able = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.mixed_precision and able)


CPU = Machine()
# which waits for every kernel to be started, however little it does
ON_CARD: dict[str, Any] = {"micro_batch": None, "predict_batch": 1024}


# ---- documents


class Documents(Protocol):
    """Documents as the model takes them, by row."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """(N,) integer; documents of like length go together where the order is free."""
        ...

    @property
    def digest(self) -> str: ...

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """The arguments of the model's ``forward``."""
        ...


@dataclass(frozen=True)
class Vectors:
    """values : (N, D) float32, from a frozen encoder; may be a memory map."""

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self), dtype=np.int64)

    @property
    def digest(self) -> str:
        return _digest(self.values)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        return (torch.from_numpy(np.asarray(self.values[rows], dtype=np.float32)),)


@dataclass(frozen=True)
class Tokens:
    """Token ids one after the other, special tokens included.

    ids : (T,) integer; starts : (N + 1,) integer; pad : the padding id.
    """

    ids: np.ndarray
    starts: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def digest(self) -> str:
        return _digest(self.ids, self.starts, np.array([self.pad]))

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """(b, L) int64 ids and mask, L the longest of these documents."""
        lengths = self.lengths[rows]
        inside = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(inside.shape, self.pad, dtype=np.int64)
        ids[inside] = np.concatenate([self.ids[self.starts[row] : self.starts[row + 1]] for row in rows])
        return torch.from_numpy(ids), torch.from_numpy(inside.astype(np.int64))


def split(rows: np.ndarray, keys: Sequence[str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows by the hash of each document's key, so that more documents do not move the others.

    Neither is empty: of two documents or more at least one is on each side, a single one is on both.

    Parameters
    ----------
    rows : (M,) int64, M > 0; keys : of all N documents something that stays with the text: its digest, or itself.
    """
    place = np.array([int(hashlib.sha256(keys[row].encode()).hexdigest()[:13], 16) / 16**13 for row in rows])
    held_out = place < share
    if held_out.all():
        held_out[place.argmax()] = False
    if not held_out.any():
        held_out[place.argmin()] = True
    return rows[~held_out] if len(rows) > 1 else rows, rows[held_out]


def _digest(*arrays: np.ndarray) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype} {array.shape}\n".encode())
        for start in range(0, len(array), BLOCK):
            content.update(np.ascontiguousarray(array[start : start + BLOCK]).data)
    return content.hexdigest()


# ---- a model at work


class Runner:
    """A model on its devices, and the numbers of documents that fit there at once, in training and in prediction."""

    def __init__(
        self, model: nn.Module, documents: Documents, machine: Machine, settings: Optimisation | None = None
    ) -> None:
        """``settings``: None where nothing is trained."""
        self.model = wrap(unwrap(model), machine.devices)
        self.inner: Classifier = unwrap(self.model)
        self.documents = documents
        self.machine = machine
        self.sizes = {"predict_batch": machine.predict_batch}
        if settings is not None:
            self.sizes["micro-batch"] = settings.micro_batch or machine.micro_batch or settings.batch_size

    @property
    def micro_batch(self) -> int:
        """Documents at once in training, as it is now."""
        return self.sizes["micro-batch"]

    def logits(self, rows: np.ndarray) -> Tensor:
        """(b, C) float32, on the device."""
        device = self.machine.devices[0]
        with self.machine.autocast():
            return self.model(*[send(part, device) for part in self.documents.batch(rows)])

    def gradients(self, rows: np.ndarray, targets: Targets) -> float:
        """Leave the gradient of the mean loss of ``rows`` in the parameters, however many micro-batches it takes.

        The class vectors are computed once, and their gradient is taken through the graph once.
        """

        def accumulate(size: int) -> float:
            self.model.zero_grad(set_to_none=True)
            total = torch.zeros((), dtype=torch.float64, device=self.machine.devices[0])  # not waited for each time
            with self.inner.class_vectors_once():
                for part in blocks(by_length, size):
                    wanted = [send(value, self.machine.devices[0]) for value in targets.batch(part)]
                    loss = targets.loss(self.logits(part), *wanted) / len(rows)
                    loss.backward()
                    total += loss.detach()
            return float(total)

        by_length = rows[np.argsort(self.documents.lengths[rows], kind="stable")]  # less padding, the same mean
        self.model.train()
        return self._fitting("micro-batch", accumulate)

    def predict(self, rows: np.ndarray, use: Callable[[np.ndarray, np.ndarray], None]) -> None:
        """``use(part of rows, its logits (b, C) float32)``, longest documents first: a lack of memory shows early."""
        self.model.eval()
        rows = rows[np.argsort(-self.documents.lengths[rows], kind="stable")]
        opened = self.machine.progress(len(rows), "text", "predicting")
        with torch.inference_mode(), self.inner.class_vectors_once(), opened as bar:
            while len(rows):
                z = self._fitting("predict_batch", partial(self._predicted, rows))
                use(rows[: len(z)], z)
                rows = rows[len(z) :]
                bar.update(len(z))

    def _predicted(self, rows: np.ndarray, size: int) -> np.ndarray:
        return self.logits(rows[:size]).float().cpu().numpy()

    def mean_loss(self, rows: np.ndarray, targets: Targets) -> float:
        """Mean over documents, in float64."""
        total = 0.0

        def add(part: np.ndarray, z: np.ndarray) -> None:
            nonlocal total
            total += float(targets.loss(torch.from_numpy(z).double(), *targets.batch(part)))

        self.predict(rows, add)
        return total / len(rows)

    def _fitting(self, what: str, work: Callable[[int], T]) -> T:
        """``work(size)``; on a lack of memory again with half the size, down to one document."""
        while True:
            try:
                return work(self.sizes[what])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # outside the except clause, where the traceback would keep the tensors alive
            self._halve(what)

    def _halve(self, what: str) -> None:
        self.model.zero_grad(set_to_none=True)
        if self.machine.devices[0].type == "cuda":
            torch.cuda.empty_cache()
        if self.sizes[what] == 1:
            raise UserError(
                "out of memory with one document at a time; turn gradient_checkpointing on, lower doc_max_length,"
                " or take a smaller encoder"
            )
        self.sizes[what] //= 2
        self.machine.warn(f"out of memory: {what} is {self.sizes[what]} from here on, the effective batch stays")


def blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of ``size``, and what is left over."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


# ---- what survives a kill


class Checkpoint:
    """The state after the last finished epoch, in a folder of its own; of another fingerprint it is wiped.

    It stays when training ends, so that a kill before the product is written costs nothing; ``Stage.forget``
    removes the folder after that.

    A state left by a run that ended with non-finite steps is also taken up with other rates: to lower them is the
    remedy. All else is part of the fingerprint.
    """

    def __init__(
        self, folder: Path, inputs: Sequence[Any], settings: Optimisation, warn: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.warn = warn
        same_but_rates = replace(settings, encoder_lr=0.0, head_lr=0.0)
        self.but_rates = _fingerprint(inputs, asdict(same_but_rates), torch.__version__)
        self.fingerprint = _fingerprint(self.but_rates, settings.rates)

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing, or nothing of this run."""
        if not (self.folder / STATE).exists():
            return None
        try:
            state = read_tensors(self.folder / STATE)
            if state.pop("sha256") != content_digest(state):
                raise UserError(f"{self.folder / STATE}: is damaged: its content is not what was written")
            known = {state["fingerprint"]: True, state["but_rates"]: self._stopped()}
        except (UserError, TypeError, KeyError, AttributeError) as error:
            self.warn(f"starting anew: {error}")
            known = {}
        if known.get(self.fingerprint):
            return state
        if known.get(self.but_rates):
            self.warn("going on, with other rates, from the last epoch before the non-finite steps")
            return state
        for name in (STATE, STOPPED):
            (self.folder / name).unlink(missing_ok=True)
        return None

    def _stopped(self) -> bool:
        return (self.folder / STOPPED).exists()

    def save(self, **state: Any) -> None:
        (self.folder / STOPPED).unlink(missing_ok=True)
        content = {"fingerprint": self.fingerprint, "but_rates": self.but_rates, **state}
        write_tensors(self.folder / STATE, content | {"sha256": content_digest(content)})

    def stop(self, step: int) -> None:
        """Note that the run ended because of non-finite steps."""
        files.write_json(self.folder / STOPPED, {"step": step})


def scratch_logits(folder: Path, n_documents: int, n_classes: int) -> np.ndarray:
    """(N, C) float32 memory map in the state folder."""
    path = folder / LOGITS
    files.check_space(path, 4 * n_documents * n_classes)
    with files.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        return files.map_npy(path, (n_documents, n_classes))


def _fingerprint(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


# ---- the loop


@dataclass
class Loop:
    """Epochs of AdamW over ``rows``.

    key : of the generators, beside the seed and the epoch.
    score : lower is better: the weights of the best epoch are kept; None: those of the last.
    before_step : called with the step's number in its epoch.
    """

    runner: Runner
    rows: np.ndarray
    targets: Targets
    settings: Optimisation
    key: int
    checkpoint: Checkpoint
    log: MetricsLog
    score: Callable[[], float] | None = None
    before_step: Callable[[int], None] = lambda step: None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    nonfinite_in_row: int = 0

    def run(self) -> None:
        """Leave the model with the weights of the best epoch, or of the last; ``history`` tells of each."""
        self.optimiser = adamw(self.runner.inner, self.settings)
        # model, best model, two moments
        files.check_space(self.checkpoint.folder / STATE, 4 * size_of(self.runner.inner.state_dict()))
        self._resume()
        with self.runner.machine.progress(self.settings.epochs * len(self.rows), "text", "training") as bar:
            bar.skip(len(self.history) * len(self.rows))
            for epoch in range(len(self.history), self.settings.epochs):
                report = self._epoch(epoch, bar.update)
                if self.score is not None:
                    report["validation_loss"] = self.score()
                self._keep(report)
                self.log("epoch", step=(epoch + 1) * self.steps_an_epoch, **report)
        if self.best is not None:
            self.runner.inner.load_state_dict(self.best)

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.rows) // self.settings.batch_size)

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is not None:
            self.runner.inner.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.best = state["best"]
            self.history = json.loads(state["history"])
            if state["fingerprint"] == self.checkpoint.fingerprint:  # other rates are another chance
                self.nonfinite_in_row = state["nonfinite_in_row"]
            self.runner.machine.warn(f"resumed after epoch {len(self.history)} of {self.settings.epochs}")

    def _keep(self, report: dict[str, Any]) -> None:
        earlier = [_comparable(each["validation_loss"]) for each in self.history if "validation_loss" in each]
        self.history.append(report)
        weights = self.runner.inner.state_dict()
        if self.score is not None and (not earlier or _comparable(report["validation_loss"]) < min(earlier)):
            self.best = {name: value.detach().clone() for name, value in weights.items()}
        self.checkpoint.save(
            model=weights,
            best=self.best,
            optimiser=self.optimiser.state_dict(),
            history=json.dumps(self.history),
            nonfinite_in_row=self.nonfinite_in_row,
        )

    def _epoch(self, epoch: int, done: Callable[[int], object]) -> dict[str, Any]:
        losses, norms, n_documents = [], [], []
        order = self.rows[generator(self.settings.seed, self.key, epoch).permutation(len(self.rows))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(self.settings.seed, self.key, epoch, 1).integers(2**63)))
            for number, rows in enumerate(blocks(order, self.settings.batch_size)):
                self.before_step(number)
                loss, norm = self._step(epoch * self.steps_an_epoch + number, rows)
                if np.isfinite(loss) and np.isfinite(norm):
                    losses.append(loss)
                    norms.append(norm)
                    n_documents.append(len(rows))
                done(len(rows))
        return {
            "epoch": epoch + 1,
            "loss": float(np.average(losses, weights=n_documents)) if losses else None,
            "gradient_norm_mean": float(np.mean(norms)) if norms else None,
            "gradient_norm_max": max(norms, default=None),
            "clipped_steps": sum(norm > self.settings.clip for norm in norms),
            "nonfinite_steps": self.steps_an_epoch - len(norms),
        }

    def _step(self, step: int, rows: np.ndarray) -> tuple[float, float]:
        """One update, left out where it is not finite; its loss and its gradient norm before clipping."""
        loss = self.runner.gradients(rows, self.targets)
        norm = float(nn.utils.clip_grad_norm_(self.runner.inner.parameters(), self.settings.clip))
        rates = self._set_rates(step)
        if np.isfinite(loss) and np.isfinite(norm):
            self.optimiser.step()
            self.nonfinite_in_row = 0
        else:
            self.nonfinite_in_row += 1
        micro = self.runner.micro_batch
        self.log("step", step=step, loss=loss, gradient_norm=norm, micro_batch=micro, **rates)
        if self.nonfinite_in_row >= self.settings.nonfinite_steps:
            self._stop(step, norm)
        return loss, norm

    def _set_rates(self, step: int) -> dict[str, float]:
        share = schedule(step, self.settings.epochs * self.steps_an_epoch, self.settings.warmup)
        rates = {part: rate * share for part, rate in self.settings.rates.items()}
        for group in self.optimiser.param_groups:
            group["lr"] = rates[group["part"]]
        return {f"{part}_lr": rate for part, rate in rates.items() if part in self._parts}

    @property
    def _parts(self) -> set[str]:
        """encoder and head, or head alone."""
        return {group["part"] for group in self.optimiser.param_groups}

    def _stop(self, step: int, norm: float) -> None:
        self.checkpoint.stop(step)
        rates = " or ".join(
            f"{self.settings.rate_names[part]} (now {rate:g})"
            for part, rate in self.settings.rates.items()
            if part in self._parts
        )
        raise UserError(
            f"{self.nonfinite_in_row} steps in a row had non-finite gradients (last norm {norm:g} at step {step});"
            f" state kept, lower {rates} and run the same command again"
        )


def _comparable(loss: float) -> float:
    """NaN is never the best."""
    return np.inf if np.isnan(loss) else loss


def adamw(model: Classifier, settings: Optimisation) -> torch.optim.AdamW:
    """Two rates, encoder and head; weight decay for matrices only, which neither biases nor norms are."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = "encoder" if name.startswith("encoder.") else "head"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    told = [
        {"params": parameters, "part": part, "weight_decay": settings.weight_decay if matrices else 0.0}
        for (part, matrices), parameters in groups.items()
    ]
    return torch.optim.AdamW(told, fused=True)


def schedule(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at a step: up from near 0 over the warm-up, then down to near 0, both linear."""
    rising = int(np.ceil(warmup * total))
    return (step + 1) / rising if step < rising else (total - step) / max(total - rising, 1)


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


# ---- stage 3


@dataclass(frozen=True)
class TrainReport:
    """history : of each epoch the losses and gradient norms; best_epoch : 1-based, the one whose weights were kept."""

    documents: int
    validation_documents: int
    best_epoch: int
    micro_batch: int
    history: list[dict[str, Any]]


def train(
    model: Classifier,
    documents: Documents,
    targets: CoreTargets,
    keys: Sequence[str],
    settings: CoreTraining,
    folder: Path,
    machine: Machine = CPU,
    log: MetricsLog | None = None,
    fingerprint: str = "",
) -> TrainReport:
    """Learn the core classes; the model ends with the weights of the epoch of least validation loss.

    Parameters
    ----------
    documents, targets, keys : of the same N documents; those without a core class are not used. ``split`` says what
        keys are.
    folder : for the resumable state, see ``Checkpoint``.
    fingerprint : of what else the result depends on, such as the code.

    Raises
    ------
    UserError : no document has a core class; too many non-finite steps in a row; out of memory; no space.
    """
    if not len(targets.rows):
        raise UserError(
            "no document has a core class, so there is nothing to learn from; lower confidence_threshold_percentile or"
            " min_conf, or choose another mining"
        )
    training, validation = split(targets.rows, keys, settings.validation_share)
    steps_an_epoch = -(-len(training) // settings.batch_size)
    settings = replace(settings, epochs=max(settings.epochs, -(-settings.min_steps // steps_an_epoch)))
    inputs = [
        "train",
        fingerprint,
        documents.digest,
        targets.digest,
        _digest(training),
        weights_digest(model.state_dict()),
    ]
    runner = Runner(model, documents, machine, settings)
    loop = Loop(
        runner,
        training,
        targets,
        settings,
        key=0,
        checkpoint=Checkpoint(folder, inputs, settings, machine.warn),
        log=log or MetricsLog(),
        score=lambda: runner.mean_loss(validation, targets),
    )
    loop.run()
    losses = [_comparable(each["validation_loss"]) for each in loop.history]
    return TrainReport(len(training), len(validation), 1 + int(np.argmin(losses)), runner.micro_batch, loop.history)
