"""make bench-gpu: the work of every GPU rule at two sizes on one card, beside what the card can do; under ten minutes.

Needs this repository's files and the packages of envs/gpu.txt. Each part is checked against the CPU in a small size,
then timed, with all that goes to the card and comes back. A share is that of the card's own rate, measured here in the
same run: of its matrix product in the type that is used, or of its copies from pinned memory. Writes a table and JSON;
--tiny runs the same lines anywhere, on the CPU if need be.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import written

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from common import cards  # noqa: E402
from common.arrays import Accelerator  # noqa: E402
from common.device import exact_cupy, keep_to  # noqa: E402
from descriptors import features, nonlinear_on_card, ranks, ranks_on_card, spearman, spearman_on_card  # noqa: E402
from descriptors.covariance import ChosenRows, TilePair  # noqa: E402
from descriptors.tiles import Tile  # noqa: E402

ROUNDS = 3
THREADS = min(os.cpu_count() or 1, 16)  # of the host, that feed the card
HEAD = ("work", "size", "seconds", "rate", "TFLOP/s", "share", "of", "peak GB", "as on the CPU")


@dataclass
class Line:
    """One measurement. share : of the card's rate named by ``of``; same : None where it was not compared.

    peak : bytes of the card that were taken at most.
    """

    work: str
    size: str
    seconds: float
    rate: str
    tflops: float | None = None
    share: float | None = None
    of: str = ""
    same: bool | None = None
    peak: int = 0


@dataclass
class Card:
    """Where it runs. rates : measured, FLOP/s or bytes/s by name."""

    xp: Any
    torch_device: str
    name: str
    memory: int
    tiny: bool
    rates: dict[str, float] = field(default_factory=dict)

    def wait(self) -> None:
        import torch

        if self.xp is not np:
            self.xp.cuda.Stream.null.synchronize()
        if self.torch_device == "cuda":
            torch.cuda.synchronize()

    def clock(self, work: Callable[[], object], rounds: int = ROUNDS) -> float:
        """Median seconds, after one run that is not counted."""
        work()
        seconds = []
        for _ in range(rounds):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def accelerator(self) -> Accelerator:
        return Accelerator(self.xp, self.memory, THREADS)

    def peak(self) -> int:
        """Bytes taken at most since this was last asked; all that is free is given back."""
        import torch

        taken = 0
        if self.xp is not np:
            pool = self.xp.get_default_memory_pool()
            taken = int(pool.total_bytes())
            pool.free_all_blocks()
        if self.torch_device == "cuda":
            taken += torch.cuda.max_memory_reserved()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return taken


def find(tiny: bool, memory_gb: float) -> Card:
    import torch

    try:
        xp: Any = exact_cupy()
        xp.cuda.runtime.getDeviceCount()
    except Exception:  # not installed, no driver: each has errors of its own
        xp = np
    cuda = torch.cuda.is_available()
    if not tiny and (xp is np or not cuda):
        missing = "CuPy" if xp is np else "torch"
        raise SystemExit(f"gpu.py: {missing} sees no GPU; install envs/gpu.txt on a machine with one, or use --tiny")
    memory = int(memory_gb * 1e9)
    if xp is not np:
        xp.get_default_memory_pool().set_limit(size=memory)
    if cuda:
        keep_to(cards.Card(0, "", "", torch.cuda.get_device_properties(0).total_memory), memory)
    return Card(xp, "cuda" if cuda else "cpu", torch.cuda.get_device_name() if cuda else "CPU", memory, tiny)


# ---- what the card can do


def measure(card: Card) -> None:
    import torch

    from taxoclass.inference import HALF

    xp, size = card.xp, 256 if card.tiny else 8192
    a = xp.asarray(np.random.default_rng(0).normal(size=(size, size)))
    card.rates["fp64 product"] = 2 * size**3 / card.clock(lambda: a @ a)
    for name, dtype in (HALF | {"fp32": torch.float32}).items():
        b = torch.randn(size, size, device=card.torch_device, dtype=dtype)
        card.rates[f"{name} product"] = 2 * size**3 / card.clock(lambda b=b: b @ b)
    host = np.zeros(2**20 if card.tiny else 2**30, np.uint8)
    if card.xp is not np:
        import cupyx

        pinned = cupyx.empty_pinned(host.shape, np.uint8)
        pinned[:] = 0
        there = xp.empty(host.shape, np.uint8)
        card.rates["copy to the card"] = host.nbytes / card.clock(lambda: there.set(pinned))
    else:
        card.rates["copy to the card"] = host.nbytes / card.clock(host.copy)


# ---- descriptors


@dataclass
class InMemory:
    """Rank codes, (P, N) uint32: random permutations, as complete columns without ties have."""

    codes: np.ndarray
    shift: int = 0

    @classmethod
    def random(cls, n_columns: int, n_rows: int) -> InMemory:
        rng = np.random.default_rng(n_columns)
        base = 2 * (1 + rng.permutation(n_rows).astype(np.uint32))
        codes = np.empty((n_columns, n_rows), np.uint32)
        for row, begin in zip(codes, rng.integers(1, n_rows, n_columns), strict=True):  # faster than to permute each
            row[begin:], row[:begin] = base[: n_rows - begin], base[n_rows - begin :]
        return cls(codes, ranks.fine_bits(n_rows))

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def read(self, columns: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.codes[columns, start:stop]


def ranking(card: Card) -> list[Line]:
    """Several columns side by side, as pass 1 sorts them."""
    lines = []
    for n_rows in (2_000, 20_000) if card.tiny else (2_000_000, 20_000_000):
        column = np.random.default_rng(1).normal(size=n_rows)
        columns = [np.roll(column, k) for k in range(2 * THREADS)]
        device = card.accelerator()
        found = ranks_on_card.sort(device, column)
        expected = ranks.sort(column).encode()
        coded = found.encode()
        same = all(
            (one is None and other is None) or np.array_equal(one, other)
            for one, other in zip(coded, expected, strict=True)
        )

        def work(device=device, columns=columns) -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(partial(ranks_on_card.sort, device), columns):
                    pass

        seconds = card.clock(work) / len(columns)
        moved = 8 * n_rows + found.ordered.nbytes + sum(part.nbytes for part in coded if part is not None)
        share = moved / seconds / card.rates["copy to the card"]
        rate = f"{n_rows / seconds / 1e6:.1f} M rows/s"
        size = f"{n_rows:,} a column"
        lines.append(Line("pass 1, ranking", size, seconds, rate, None, share, "copy to the card", same, card.peak()))
    return lines


def gram(card: Card) -> list[Line]:
    lines = []
    for n_columns, n_rows in ((20, 2_000), (40, 4_000)) if card.tiny else ((2_000, 500_000), (4_000, 1_000_000)):
        codes, every = InMemory.random(n_columns, n_rows), np.arange(n_columns)
        device, n_valid = card.accelerator(), np.full(n_columns, n_rows)

        def on_card(codes=codes, every=every, device=device, n_valid=n_valid, n_rows=n_rows) -> np.ndarray:
            return spearman_on_card.centred_gram(device, codes, every, every, n_valid, n_rows, 4 * 10**9)[0]

        part = every[:8]
        expected, _ = spearman.centred_gram(codes, part, part, n_valid[part], n_rows, 10**9, 2)
        same = np.array_equal(on_card()[:8, :8], expected)
        seconds = card.clock(on_card)
        flops = 2 * n_rows * n_columns**2 / seconds
        share, rate = flops / card.rates["fp64 product"], f"{n_columns**2 / 2 / seconds / 1e3:,.0f} k pairs/s"
        size, of = f"{n_rows:,} x {n_columns:,}", "fp64 product"
        lines.append(Line("pass 2, Spearman", size, seconds, rate, flops / 1e12, share, of, same, card.peak()))
    return lines


def dependence(card: Card) -> list[Line]:
    lines, width = [], 12
    sizes = ((4, 2_000), (8, 4_000)) if card.tiny else ((100, 200_000), (500, 500_000))
    dictionary = features.rdc_dictionaries("orthonormal", width, 1, 0)[0]
    for n_columns, n_rows in sizes:
        codes, every = InMemory.random(n_columns, n_rows), np.arange(n_columns)
        patterns = np.zeros(n_columns, np.int64)
        chosen = ChosenRows(codes, np.full(n_columns, n_rows), patterns)
        device = card.accelerator()

        def sums(columns: np.ndarray, on_card: bool, chosen=chosen, patterns=patterns, device=device) -> np.ndarray:
            tile, tables = Tile.of(columns, patterns), features.FeatureTables(dictionary, 10**9)
            with ThreadPoolExecutor(2) as pool:
                pair = TilePair(tile, tile, tables, chosen, pool)
                if on_card:
                    nonlinear_on_card.accumulate(device, pair, 10**9, lambda _: None)
                else:
                    pair.accumulate(10**9, lambda _: None)
            return np.triu(pair.product.words)

        part = every[:4]
        same = np.array_equal(sums(part, True), sums(part, False))
        seconds = card.clock(lambda every=every, sums=sums: sums(every, True))
        flops = 2 * n_rows * (n_columns * width) ** 2 / seconds
        share, rate = flops / card.rates["fp64 product"], f"{n_columns**2 / 2 / seconds:,.0f} pairs/s"
        size, of = f"{n_rows:,} x {n_columns:,}", "fp64 product"
        lines.append(Line("pass 4, RDC sums", size, seconds, rate, flops / 1e12, share, of, same, card.peak()))
    return lines


# ---- texts


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SIMILAR = 1e-3  # cosines and probabilities of these models in half precision differ from those in fp32 by no more


def model_folder(folder: Path, shape: dict[str, int]) -> Path:
    """An entailment model with random weights, and a tokenizer of numbered words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {word: number for number, word in enumerate([*special, *(f"w{k}" for k in range(1000))])}
    raw = Tokenizer(models.WordLevel(words | {"a": len(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
    )
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokens.model_max_length = 512
    torch.manual_seed(0)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    own = BertConfig(
        vocab_size=1200, id2label=labels, label2id={label: number for number, label in labels.items()}, **shape
    )
    BertForSequenceClassification(own).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def documents(count: int, length: int) -> list[str]:
    rng = np.random.default_rng(count)
    sizes = rng.integers(length // 2, length, count)
    return [" ".join(f"w{word}" for word in rng.integers(0, 1000, size)) for size in sizes]


def entailment(card: Card) -> list[Line]:
    """Stage 1 with a large model, on tokens that are no padding."""
    from taxoclass.inference import Tally
    from taxoclass.scoring import NliScorer, PairScorer

    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch), TINY if card.tiny else LARGE)
        names = [[f"w{k}"] for k in range(8)]
        few = documents(4, 60)
        one, other = (
            PairScorer(NliScorer.load(str(folder), where, 512), few, names).score_all()
            for where in (card.torch_device, "cpu")
        )
        same = bool(np.abs(1 / (1 + np.exp(-one)) - 1 / (1 + np.exp(-other))).max() <= SIMILAR)
        scorer = NliScorer.load(str(folder), card.torch_device, 512)
        for length, count in ((20, 8), (40, 8)) if card.tiny else ((128, 2_000), (400, 800)):
            texts = documents(count, length)
            flops = PairScorer(scorer, texts, names).cost(measure=False).flops

            def run(texts=texts) -> None:
                PairScorer(scorer, texts, names).score_all()

            scorer.loaded.tally = tally = Tally()
            seconds = card.clock(run, 1)
            rate = f"{tally.tokens / 2 / seconds / 1e3:,.0f} k tokens/s, padding {tally.padding_share:.1%}"
            size = f"{count * len(names):,} pairs of up to {length} tokens"
            lines.append(
                text_line(card, "stage 1, entailment", size, seconds, rate, flops, scorer.loaded.precision, same)
            )
    return lines


def embedding(card: Card) -> list[Line]:
    """Stage 1 with vectors, of an encoder of BERT-base's shape."""
    from taxoclass.encoders import Encoder

    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch), TINY if card.tiny else BASE)
        few = documents(8, 60)
        one, other = (Encoder.load(str(folder), where, 512).encode(few) for where in (card.torch_device, "cpu"))
        same = bool(np.abs(one @ one.T - other @ other.T).max() <= SIMILAR)
        encoder = Encoder.load(str(folder), card.torch_device, 512)
        for length, count in ((20, 8), (40, 8)) if card.tiny else ((128, 20_000), (400, 8_000)):
            texts = documents(count, length)
            flops = encoder.cost(texts, measure=False).flops
            seconds = card.clock(partial(encoder.encode, texts), 1)
            size = f"{count:,} texts of up to {length} tokens"
            rate = f"{count / seconds:,.0f} texts/s"
            lines.append(
                text_line(card, "stage 1, vectors", size, seconds, rate, flops, encoder.loaded.precision, same)
            )
    return lines


def text_line(
    card: Card, work: str, size: str, seconds: float, rate: str, flops: float, precision: str, same: bool | None = None
) -> Line:
    of, reached = f"{precision} product", flops / seconds
    return Line(work, size, seconds, rate, reached / 1e12, reached / card.rates[of], of, same, card.peak())


def training(card: Card) -> list[Line]:
    """Self-training with a trained encoder of BERT-base's shape: forward, and twice as much backward."""
    from transformers import BertConfig, BertModel

    from common.taxoclass_settings import SelfTrain, TrainClassifier
    from taxoclass.classifier import Architecture, build
    from taxoclass.inference import forward_flops
    from taxoclass.self_training import SelfTraining, self_train_iteration
    from taxoclass.taxonomy import Taxonomy
    from taxoclass.training import Machine, Tokens

    lines = []
    n_classes = 12 if card.tiny else 531
    edges = np.array([(k % 6, k) for k in range(6, n_classes)], np.int64)
    taxonomy = Taxonomy(tuple(map(str, range(n_classes))), tuple((f"w{k}",) for k in range(n_classes)), edges)
    own = BertConfig(vocab_size=1200, **(TINY if card.tiny else BASE))
    for length, count in ((16, 32), (32, 32)) if card.tiny else ((128, 40_000), (256, 20_000)):
        rng = np.random.default_rng(length)
        sizes = rng.integers(length // 2, length, count)
        ids = rng.integers(4, 1200, int(sizes.sum()))
        texts = Tokens(ids, np.cumsum([0, *sizes]), pad=0)
        backbone = BertModel(own)
        settings = TrainClassifier(encoder_trainable=True, doc_pooling="cls")
        architecture = Architecture.of(settings, backbone)
        model = build(taxonomy, rng.normal(size=(n_classes, own.hidden_size)), architecture, 0, backbone)
        flops = 3 * float(forward_flops(backbone, sizes).sum())
        machine = Machine.on(card.torch_device, warn=lambda _: None)

        def run(model=model, texts=texts, machine=machine) -> None:
            settings = SelfTraining.of(SelfTrain(self_train_epochs=1), trainable=True)
            with tempfile.TemporaryDirectory() as scratch:
                self_train_iteration(model, texts, taxonomy, settings, 1, Path(scratch), machine=machine)

        seconds = card.clock(run, 1)
        # an epoch, and two looks at the whole corpus
        flops += 2 * flops / 3
        size = f"{count:,} texts of up to {length} tokens"
        rate = f"{count / seconds:,.0f} texts/s"
        lines.append(text_line(card, "stage 4, trained encoder", size, seconds, rate, flops, "bf16"))
    return lines


# ---- the table


def table(card: Card, lines: list[Line]) -> str:
    rows = [
        (
            line.work,
            line.size,
            f"{line.seconds:.3g}",
            line.rate,
            "" if line.tflops is None else f"{line.tflops:.3g}",
            "" if line.share is None else f"{line.share:.0%}",
            line.of,
            f"{line.peak / 1e9:.1f}" if line.peak else "",
            "" if line.same is None else "yes" if line.same else "NO",
        )
        for line in lines
    ]
    rates = ", ".join(
        f"{name} {rate / 1e12:.3g} TFLOP/s" if "product" in name else f"{name} {rate / 1e9:.3g} GB/s"
        for name, rate in card.rates.items()
    )
    return "\n".join([f"{card.name}, {card.memory / 1e9:.0f} GB granted; {rates}", "", written.aligned(HEAD, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu.py", description=__doc__.split("\n\n")[0])
    every = (ranking, gram, dependence, entailment, embedding, training)
    parts = {part.__name__: part for part in every}
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--tiny", action="store_true", help="small sizes, anywhere: shows that it runs, not how fast")
    parser.add_argument("--memory-gb", type=float, default=40.0, help="memory to take on the card (40, as the rules)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-gpu", help="default results/bench-gpu")
    arguments = parser.parse_args()
    card = find(arguments.tiny, arguments.memory_gb)
    measure(card)
    card.peak()
    lines: list[Line] = []
    for name in arguments.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        lines += parts[name](card)
    text = table(card, lines)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.txt").write_text(f"{text}\n")
    told = {"card": card.name, "rates": card.rates, "lines": [asdict(line) for line in lines]}
    (arguments.out / "gpu.json").write_text(json.dumps(told, indent=1) + "\n")
    wrong = [line for line in lines if line.same is False]
    if wrong:
        raise SystemExit(f"gpu.py: {wrong[0].work}, {wrong[0].size}: not what the CPU gives")


if __name__ == "__main__":
    main()
