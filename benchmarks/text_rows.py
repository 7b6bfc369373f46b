"""The rows on text: stage 1 against its peers, and the later stages at the size of Amazon-531."""

from __future__ import annotations

import gzip
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

import our_text
import text_peers
from measure import ROOT, Check, Comparison, Context, Row, against, alternate, duration, run
from rows import row

DOCUMENTS, CLASSES, TEST = 49_145, 531, 19_658  # of Amazon-531
CANDIDATE_PATHS = 20
ENCODED = 200  # documents that both encoders run
PAIRED = 2  # documents, times ...
HYPOTHESES = 24  # ... class texts that the zero-shot pipeline runs
END_TO_END = 16  # documents of our side


def abstracts(count: int) -> list[str]:
    """Real abstracts of the demo, repeated where more are asked for."""
    with gzip.open(ROOT / "resources" / "wos1k" / "corpus.jsonl.gz", "rt") as handle:
        texts = [json.loads(line)["text"] for line in handle]
    return [texts[row % len(texts)] for row in range(count)]


@row
def embedding(context: Context) -> Row:
    """Documents to vectors, against sentence-transformers with the same weights."""
    texts = abstracts(ENCODED)
    ours = our_text.SentenceEncoder()
    theirs = text_peers.sentence_transformer(ours.folder, ours.max_length)
    timings, results = alternate(
        {"winnow": partial(ours.encode, texts), "peer": partial(text_peers.encode, theirs, texts)}, context.patience
    )
    largest = float(np.abs(results["winnow"] - results["peer"]).max())
    return Row(
        "documents to vectors",
        f"{ENCODED} abstracts, {ours.max_length} tokens",
        [against("sentence-transformers encode", timings["winnow"], timings["peer"])],
        [Check(f"largest difference of a coordinate {largest:.1e}, at most 1e-4", largest <= 1e-4)],
        [f"padding {ours.padding:.1%} of our tokens"],
    )


@row
def zero_shot(context: Context) -> Row:
    """Entailment of documents and class names, against the zero-shot pipeline of transformers with the same model."""
    folder = our_text.nli_model(context.scratch / "model")
    names = our_text.class_names(CLASSES)
    taxonomy = our_text.tree(names)
    texts = abstracts(END_TO_END)
    peer = text_peers.zero_shot(folder)
    few = [names[row] for row in np.linspace(0, CLASSES - 1, HYPOTHESES).astype(int)]
    timings, results = alternate(
        {
            "winnow": partial(our_text.entailment, folder, texts[:PAIRED], few),
            "peer": partial(text_peers.zero_shot_logits, peer, texts[:PAIRED], few, our_text.TEMPLATE),
        },
        context.patience,
    )
    scores, logits = (1 / (1 + np.exp(-results[side])) for side in ("winnow", "peer"))
    largest = float(np.abs(scores - logits).max())
    equal = against("zero-shot pipeline, the same pairs", timings["winnow"], timings["peer"], 2.0)
    rate = our_text.flops(folder, texts[:PAIRED], few) / timings["winnow"].seconds
    share = rate / our_text.product_rate()
    whole = our_text.timed(partial(our_text.by_paths, folder, texts, taxonomy, CANDIDATE_PATHS))
    each = timings["peer"].seconds / (PAIRED * HYPOTHESES) * CLASSES
    mine = whole.seconds / END_TO_END
    return Row(
        "stage 1 by entailment",
        f"{CLASSES} classes, RoBERTa-base size",
        [
            equal,
            Comparison(
                "zero-shot pipeline, all classes",
                f"{duration(mine)} a document",
                f"{duration(each)} a document",
                each / mine,
                target=15.0,
                note=f"ours: {whole.pairs / END_TO_END:.0f} pairs a document, end to end, {END_TO_END} documents; "
                f"theirs extrapolated from {PAIRED} documents x {HYPOTHESES} classes",
            ),
            Comparison("5 % padding", f"{whole.padding:.1%}", "5 %", 100 * whole.padding, "%", 5.0, at_least=False),
        ],
        [Check(f"largest difference of a probability {largest:.1e}, at most 1e-4", largest <= 1e-4)],
        [
            "random weights: only what it costs is measured",
            f"the same pairs are computed at {share:.0%} of the rate of torch's matrix products, loading and tokenising"
            " included: with the same model and precision nothing can be much faster than either",
        ],
    )


@row
def text_scale(context: Context) -> Row:
    """The stages after the first at 49,145 documents x 531 classes, each against the clock and its memory."""
    found = {}
    for name in ("mining", "decoding", "self_training"):
        answer = context.scratch / f"{name}.json"
        command = [
            *(sys.executable, str(Path(__file__).with_name("our_text.py")), name),
            *(str(context.rows(DOCUMENTS)), str(CLASSES), str(context.threads), str(answer)),
        ]
        told = run(command, ROOT, context.scratch / f"{name}.log")
        found[name] = json.loads(answer.read_text()) | {"peak": told.peak_by_kernel / 1e9}
    limits = [
        ("mining", "posterior", "5 s (mining: posterior)", 5.0),
        ("mining", "taxoclass", "5 s (mining: taxoclass)", 5.0),
        ("mining", "path_margin", "5 s (mining: path_margin)", 5.0),
        ("decoding", "path", f"2 s, {TEST:,} documents, path decoding", 2.0),
        ("decoding", "expected_f1", f"2 s, {TEST:,} documents, expected F1", 2.0),
        ("self_training", "iteration", "60 s, one iteration of self-training", 60.0),
    ]
    comparisons = [
        Comparison(title, duration(found[stage][what]), duration(limit), found[stage][what], "s", limit, at_least=False)
        for stage, what, title, limit in limits
    ]
    for stage, limit, input_gb, of_what in (
        ("mining", 1.0, found["mining"]["before"], "above its input"),
        ("self_training", 3.0, 0.0, "the whole process"),
    ):
        peak = found[stage]["peak"] - input_gb
        comparisons.append(
            Comparison(
                f"{limit:g} GB, {stage}, {of_what}",
                f"{peak:.2f} GB",
                f"{limit:g} GB",
                peak,
                "GB",
                limit,
                at_least=False,
                note=f"the process: {found[stage]['peak']:.2f} GB",
            )
        )
    return Row("stages after the first", f"{context.rows(DOCUMENTS):,} x {CLASSES}", comparisons, details=found)
