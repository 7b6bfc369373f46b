"""A transformer on its device, offline by default: loaded, verified, and run on token ids in token-budget batches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as library_log

from common.errors import UserError, one_line
from common.memory import excuse, is_out_of_memory
from taxoclass.models import WEIGHTS, digest, locate, weight_files

PADDED = 20  # tokens of a batch, of which one at most is padding
BATCH_TOKENS = {"cpu": 8192, "cuda": 65_536}  # a CPU's cache is small, a card waits for every kernel to be started
TOKENISED = 1024  # texts that the tokenizer is given at once
CALIBRATION_SECONDS = 0.5
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
TENSOR_CORES = (7, 0)  # compute capability of the first cards that have them
PROBE = "The quick brown fox jumps over the lazy dog."

Warn = Callable[[str], None]
Begin = Callable[[np.ndarray], Callable[[], np.ndarray]]  # rows -> what waits for their results, a row each
Keep = Callable[[np.ndarray, np.ndarray], None]  # rows, results


# ---- sequences


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a text, or around and between two: BERT [CLS] A [SEP] B [SEP] and the like.

    before, between, after : int32 ids; ``types`` : token types of before, A, between, B, after;
    filler : the id of some ordinary token.
    """

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    types: tuple[int, int, int, int, int]
    filler: int

    @property
    def cost(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def join(
        self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Framed texts, or pairs of texts, one after the other: (T,) ids and token types, (n,) lengths, all int64."""
        nothing = np.zeros(0, dtype=np.int32)
        parts = [
            part
            for first, second in zip(firsts, seconds or [nothing] * len(firsts), strict=True)
            for part in (self.before, first, self.between, second, self.after)
        ]
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        types = np.repeat(np.tile(np.array(self.types, dtype=np.int64), len(firsts)), sizes)
        ids = np.concatenate([nothing, *parts]).astype(np.int64)
        return ids, types, sizes.reshape(-1, len(self.types)).sum(axis=1)


def learn_frame(tokenizer: Any, pair: bool) -> Frame:
    """Read the tokenizer's own format off a probe: the ids that belong to neither text are the frame.

    Raises
    ------
    UserError : the tokenizer does not tell which ids belong to which text.
    """
    probe = tokenizer("a", "a" if pair else None, return_token_type_ids=True)
    try:
        owner = np.array([-1 if each is None else each for each in probe.sequence_ids(0)])
    except ValueError:
        raise UserError(
            f"{tokenizer.name_or_path}: needs a fast tokenizer (tokenizer.json); convert it first"
        ) from None
    first, second = np.flatnonzero(owner == 0), np.flatnonzero(owner == 1)
    if not len(first) or len(second) != pair * len(first):
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer makes nothing of the letter a; is it the right one?")
    ids = np.array(probe["input_ids"], dtype=np.int32)
    types = probe["token_type_ids"]
    end = first[-1] + 1
    start_second, end_second = (second[0], second[-1] + 1) if pair else (end, end)
    before, between, after = ids[: first[0]], ids[end:start_second], ids[end_second:]
    return Frame(
        before=before,
        between=between,
        after=after,
        types=(
            types[0] if len(before) else 0,
            types[first[0]],
            types[end] if len(between) else 0,
            types[second[0]] if pair else 0,
            types[-1] if len(after) else 0,
        ),
        filler=int(ids[first[0]]),
    )


# ---- batches


@dataclass
class Tally:
    """What was run: sequences, their tokens, the tokens with padding, texts that were cut, halved budgets.

    beyond : sequences that half precision did not hold, and that were run again.
    """

    sequences: int = 0
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    halvings: int = 0
    beyond: int = 0

    @property
    def padding_share(self) -> float:
        return 1.0 - self.tokens / self.padded if self.padded else 0.0


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; a card would take what is not pinned only once it has nothing else to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fitting(lengths: np.ndarray, budget: int) -> int:
    """How many of the next sequences make a batch: within the token budget and with at most 5 % padding.

    The padding share of the n longest grows with n; of lengths 8 to 512 the rule costs some forty batches more than the
    budget alone.

    lengths : (n,) int64, descending. Returns at least 1.
    """
    longest = max(int(lengths[0]), 1)
    window = lengths[: max(budget // longest, 1)]
    padded = longest * np.arange(1, len(window) + 1)
    return max(int(np.count_nonzero(PADDED * (padded - np.cumsum(window)) <= padded)), 1)


@dataclass
class Cost:
    """What a run will take; ``seconds`` is NaN where the machine was not measured."""

    what: str
    count: int
    tokens: float
    flops: float
    seconds: float = float("nan")

    def __str__(self) -> str:
        each = f"{self.count:,} {self.what} x {self.tokens / max(self.count, 1):.0f} tokens | {self.flops:.2g} FLOP"
        return each if np.isnan(self.seconds) else f"{each} | about {_span(self.seconds)}"


def forward_flops(model: Any, lengths: np.ndarray) -> np.ndarray:
    """FLOPs of sequences: 2 for each weight and token outside the embeddings, and 4 L^2 d a layer for attention.

    lengths : (n,) int64. Returns (n,) float64.
    """
    tables = [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    weights = sum(each.numel() for each in model.parameters()) - sum(each.weight.numel() for each in tables)
    width = getattr(model.config, "hidden_size", 0) * getattr(model.config, "num_hidden_layers", 0)
    length = lengths.astype(np.float64)
    return 2.0 * weights * length + 4.0 * width * length**2


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


# ---- models


@dataclass
class Loaded:
    """A model on its device with its tokenizer, and how to run it on sequences of token ids."""

    name: str
    folder: Path
    weights_sha256: str
    tokenizer_sha256: str
    model: Any
    tokenizer: Any
    frame: Frame
    device: torch.device
    max_length: int
    warn: Warn = print
    precision: str = "fp32"  # of products: fp32, or one of HALF
    tally: Tally = field(default_factory=Tally)
    ceilings: dict[str, int] = field(default_factory=dict)  # token budgets that out-of-memory errors left, by precision

    @property
    def room(self) -> int:
        """Tokens left for the text, or for both texts of a pair."""
        return self.max_length - self.frame.cost

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def batch_tokens(self, given: int | None) -> int:
        """Tokens run at once, where none were ``given`` as many as suit the device."""
        return given or BATCH_TOKENS[self.device.type]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Provenance: everything that the numbers depend on, and where it came from."""
        snapshot = self.folder.name if self.folder.parent.name == "snapshots" else None
        return {
            "name": self.name,
            "revision": snapshot,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "max_length": self.max_length,
            "precision": self.precision,
        }

    def key(self, **more: Any) -> str:
        """Digest of what the numbers depend on; neither the name nor the place of the model is part of it."""
        content = {key: value for key, value in self.fingerprint.items() if key not in ("name", "revision")} | more
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def tokens(self, texts: Sequence[str], keep: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Of each text the first ``keep`` ids, int32, without the frame; and (n,) int64, how many there were."""
        ids: list[np.ndarray] = []
        full: list[int] = []
        for start in range(0, len(texts), TOKENISED):
            found = self.tokenizer(
                list(texts[start : start + TOKENISED]),
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            ids += [np.array(each[:keep], dtype=np.int32) for each in found]
            full += [len(each) for each in found]
        return ids, np.array(full, dtype=np.int64)

    def pack(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray] | None = None) -> dict[str, Any]:
        """Framed, right-padded model inputs, each (n, longest) int64 on the device; no mask if nothing is padding."""
        ids, types, lengths = self.frame.join(firsts, seconds)
        inside = np.arange(lengths.max()) < lengths[:, None]
        inputs = {"input_ids": np.full(inside.shape, self.tokenizer.pad_token_id, dtype=np.int64)}
        inputs["input_ids"][inside] = ids
        if not inside.all():
            inputs["attention_mask"] = inside.astype(np.int64)
        if "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = np.zeros(inside.shape, dtype=np.int64)
            inputs["token_type_ids"][inside] = types
        return {name: send(torch.from_numpy(array), self.device) for name, array in inputs.items()}

    def fetched(self, tensor: torch.Tensor) -> Callable[[], np.ndarray]:
        """What the device may still be computing: a function that waits for it."""
        if not self.on_card:
            return tensor.numpy
        copied, done = tensor.to("cpu", non_blocking=True), torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))

        def wait() -> np.ndarray:
            done.synchronize()
            return copied.numpy()

        return wait

    def forward(self, inputs: dict[str, Any]) -> Any:
        """The model's output, without gradients."""
        half = HALF.get(self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            return self.model(**inputs)

    def run(self, lengths: np.ndarray, batch_tokens: int | None, begin: Begin, keep: Keep) -> None:
        """Work through batches of sequences, the longest first, until the results of every row were kept.

        The next batch is begun before the results of one are waited for, so that a card is not left waiting. The first
        batch holds the longest sequence, so one that does not fit at all is known before the others are run.
        When memory runs out, the token budget is halved, for good, and the same rows are tried again.
        Rows whose results are not finite in half precision have their turn again in float32.

        lengths : (n,) int64, tokens of each sequence with its frame. batch_tokens : None = see ``BATCH_TOKENS``.

        Raises
        ------
        UserError : a single sequence does not fit.
        """
        order = np.argsort(-lengths, kind="stable")
        if self.precision in HALF:
            order = self._in_batches(order, lengths, batch_tokens, begin, keep)
            if len(order) and not self.tally.beyond:
                self.warn(f"some texts leave the range of {self.precision}; they are read again in fp32, slower")
            self.tally.beyond += len(order)
        with self.in_precision("fp32"):
            self._in_batches(order, lengths, batch_tokens, begin, keep)

    @contextlib.contextmanager
    def in_precision(self, precision: str) -> Iterator[None]:
        before, self.precision = self.precision, precision
        try:
            yield
        finally:
            self.precision = before

    def _in_batches(
        self, order: np.ndarray, lengths: np.ndarray, batch_tokens: int | None, begin: Begin, keep: Keep
    ) -> np.ndarray:
        """Run the rows in this order. Returns those not kept, whose results left the range of half precision."""
        beyond = [order[:0]]

        def take(rows: np.ndarray, wait: Callable[[], np.ndarray]) -> None:
            found = wait()
            held = np.isfinite(found.reshape(len(rows), -1)).all(axis=1) | (self.precision not in HALF)
            beyond.append(rows[~held])
            keep(rows[held], found[held])

        before: Callable[[], None] | None = None
        most = self.batch_tokens(batch_tokens)
        while len(order):
            budget = min(most, self.ceilings.get(self.precision, most))
            rows = order[: fitting(lengths[order[: max(budget, 1)]], budget)]
            wait = self._begin(begin, rows)
            if wait is None:
                self._halve(lengths[rows])
                continue
            order = order[len(rows) :]
            self._count(lengths[rows])
            if before is not None:
                before()
            before = partial(take, rows, wait)
        if before is not None:
            before()
        return np.concatenate(beyond)

    @staticmethod
    def _begin(begin: Begin, rows: np.ndarray) -> Callable[[], np.ndarray] | None:
        """What ``begin`` returns; None where memory ran out."""
        try:
            return begin(rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # out here the error, which holds the failed batch's tensors, is gone
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _count(self, lengths: np.ndarray) -> None:
        self.tally.sequences += len(lengths)
        self.tally.tokens += int(lengths.sum())
        self.tally.padded += int(lengths.max()) * len(lengths)

    def _halve(self, lengths: np.ndarray) -> None:
        longest = int(lengths.max())
        if len(lengths) == 1:
            raise UserError(
                f"{self.name}: out of memory with one text of {longest} tokens; lower max_length (now"
                f" {self.max_length}) or take a smaller model"
            )
        budget = self.ceilings[self.precision] = len(lengths) * longest // 2
        self.tally.halvings += 1
        self.warn(f"out of memory at {len(lengths)} x {longest} tokens; token budget halved to {budget:,}")

    def calibrate(self, length: int, batch_tokens: int | None = None) -> float:
        """Seconds per FLOP, the best of batches that double until they took half a second or one fills the budget.

        NaN where not one sequence fits in memory; the run will say so.
        """
        size = min(max(length, self.frame.cost + 1), self.max_length)
        text = np.full(size - self.frame.cost, self.frame.filler, dtype=np.int32)
        each = float(forward_flops(self.model, np.array([size]))[0])
        rows, total, best = 1, 0.0, np.nan
        try:
            self._timed(text, 1)  # warm
            while total < CALIBRATION_SECONDS and (rows == 1 or rows * size <= self.batch_tokens(batch_tokens)):
                spent = self._timed(text, rows)
                total, best = total + spent, np.fmin(best, spent / (rows * each))
                rows *= 2
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return float(best)

    def _timed(self, text: np.ndarray, rows: int) -> float:
        inputs = self.pack([text] * rows)
        started = time.perf_counter()
        self.forward(inputs)
        if self.on_card:
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def load(
    name: str,
    kind: Any,
    device: str,
    max_length: int,
    *,
    pair: bool,
    local_files_only: bool = True,
    mixed_precision: bool = True,
    warn: Warn = print,
) -> Loaded:
    """Find, verify and load a model of a transformers Auto class, float32, ready for inference.

    mixed_precision : products in half precision on a card that has it, see ``_half``.

    Raises
    ------
    UserError : see :func:`locate` and :func:`weight_files`; or the parts do not belong together, ``max_length`` is more
        than the model allows, there is no such device.
    """
    where = _device(device)
    folder = locate(name, local_files_only)
    weights = weight_files(folder)
    with _quietly():
        tokenizer = _tokenizer(folder)
        model = _model(folder, kind)
    loaded = Loaded(
        name=name,
        folder=folder,
        weights_sha256=digest(weights),
        tokenizer_sha256=hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        frame=learn_frame(tokenizer, pair),
        device=where,
        max_length=max_length,
        warn=warn,
    )
    _check(loaded)
    loaded.model.to(where)
    if mixed_precision:
        loaded.precision = _half(loaded, pair)
    return loaded


def _half(loaded: Loaded, pair: bool) -> str:
    """Precision of a card's products: fp16 has the rate of bf16 and three bits more, but ends at 65,504.

    Cosines of all-MiniLM-L6-v2 moved by up to 2.7e-3 in bf16 and by 3.1e-4 in fp16, probabilities of entailment of a
    model made of it by 8.7e-3 and 1.9e-3 (benchmarks/precision.py). A model that leaves the range with a plain text
    would do so with most.
    """
    if not loaded.on_card or torch.cuda.get_device_capability(loaded.device) < TENSOR_CORES:
        return "fp32"
    text = loaded.tokens([PROBE], loaded.room // 2)[0]
    inputs = loaded.pack(text, text if pair else None)
    with loaded.in_precision("fp16"):
        output = loaded.forward(inputs)[0]
    if torch.isfinite(output).all():
        return "fp16"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name}: is not one; use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name}: this machine or this torch has none; use cpu")
    return device


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's progress bars and load reports: what matters in them is checked."""
    level, bars = library_log.get_verbosity(), library_log.is_progress_bar_enabled()
    library_log.set_verbosity_error()
    library_log.disable_progress_bar()
    try:
        yield
    finally:
        library_log.set_verbosity(level)
        if bars:
            library_log.enable_progress_bar()


def _tokenizer(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each tokenizer has its own
        excuse(folder, error)
        raise UserError(f"{folder}: the tokenizer cannot be read ({one_line(error)}); copy its files again") from None
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: needs a fast tokenizer (tokenizer.json); convert it first")
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no padding token; take an encoder such as BERT or RoBERTa")
    return tokenizer


def _model(folder: Path, kind: Any) -> Any:
    try:
        # a checkpoint may hold half precision, which is slow and coarse on a CPU
        model, report = kind.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(folder, local_files_only=True),
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # each model has its own
        excuse(folder, error)
        raise UserError(f"{folder}: the model cannot be read ({one_line(error)}); fetch it again") from None
    lost = sorted(key for key in report["missing_keys"] if "pooler" not in key or kind is not AutoModel)
    if lost:
        raise UserError(
            f"{folder}: {WEIGHTS} lacks {len(lost)} weights that a {type(model).__name__} needs ({lost[0]});"
            " take a model that was trained for this use"
        )
    return model


def positions(model: Any, tokenizer: Any) -> int:
    """The longest sequence that a model takes; RoBERTa keeps the first places of its table for padding."""
    limits = [int(tokenizer.model_max_length)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    if len(limits) == 1:
        limits.append(int(getattr(model.config, "max_position_embeddings", None) or limits[0]))
    return min(limits)


def _check(loaded: Loaded) -> None:
    limit = positions(loaded.model, loaded.tokenizer)
    if loaded.max_length > limit:
        raise UserError(
            f"{loaded.name}: max_length {loaded.max_length} is more than the model's {limit} positions; lower it"
        )
    if loaded.room < 2:
        raise UserError(f"{loaded.name}: max_length {loaded.max_length} leaves no room for text; raise it")
    table = loaded.model.get_input_embeddings().num_embeddings
    if len(loaded.tokenizer) > table:
        raise UserError(
            f"{loaded.folder}: the tokenizer knows {len(loaded.tokenizer)} tokens and the model {table}; they do not"
            " belong together, copy the model's own tokenizer there"
        )
