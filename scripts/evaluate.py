"""Compares labels and probabilities with gold labels, which no other stage reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import files
from common.errors import UserError
from common.stage import Stage, run_stage
from common.taxoclass_settings import Evaluate
from taxoclass import metrics, mining, products
from taxoclass.corpus import gold_warnings, read_labels
from taxoclass.labels import Labels


def main() -> None:
    run_stage(
        "evaluate",
        Evaluate,
        inputs={
            "gold": "document id TAB class ids with commas between them",
            "taxonomy": "JSON of check_corpus",
            "corpus": "Parquet of check_corpus",
            "cores": "npz of core_classes",
            "models": "npz of the labels that each model gives to all documents, in the order of training",
            "predictions": "npy of predict",
            "ids": "text of predict: the documents of these rows",
            "labels": "JSON lines of predict",
        },
        outputs={"out-metrics": "JSON: all metrics, strict and compat, with intervals"},
        several=("models",),
        work=work,
    )


def work(stage: Stage) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    row = {doc_id: number for number, doc_id in enumerate(corpus.doc_ids)}
    doc_ids = files.read_lines(paths.ids)
    strangers = set(doc_ids) - row.keys()
    if strangers:
        raise UserError(f"{paths.ids}: {min(strangers)!r} is not in {paths.corpus}; run predict again")
    scores, labels = files.read_npy(paths.predictions), products.read_label_records(paths.labels, doc_ids, taxonomy)
    if scores.shape != (len(doc_ids), len(taxonomy)):
        raise UserError(
            f"{paths.predictions}: is {scores.shape}, not {(len(doc_ids), len(taxonomy))}; run predict again"
        )
    gold = read_labels(paths.gold, taxonomy)
    not_labelled = row.keys() - set(doc_ids)
    expected = {doc_id: classes for doc_id, classes in gold.items() if doc_id not in not_labelled}
    for warning in gold_warnings(paths.gold, expected, doc_ids):
        stage.warn(warning)
    truth = Labels.of([gold.get(each, ()) for each in doc_ids])
    if not truth.sizes.any():
        raise UserError(f"{paths.gold}: none of its documents is among those that were labelled; are the ids the same?")
    found = metrics.evaluate(
        scores,
        labels,
        truth,
        taxonomy,
        seed=settings.random_seed,
        ks=settings.metric_ks,
        resamples=settings.bootstrap_resamples,
    )
    evaluated = np.array([row[each] for each in doc_ids])
    curve = [
        example_f1(products.read_label_sets(path, corpus.doc_ids, taxonomy), evaluated, truth, len(taxonomy))
        for path in paths.models
    ]
    cores = products.read_cores(paths.cores, corpus.doc_ids, taxonomy)
    everything = Labels.of([gold.get(each, ()) for each in corpus.doc_ids])
    silver = mining.report(cores, taxonomy, everything)
    result: dict[str, Any] = {
        "parameters": stage.parameters,
        **found,
        "example_f1_by_model": dict(
            zip(["best_model", *(f"iteration_{i}" for i in range(1, len(curve)))], curve, strict=True)
        ),
        "core_class_precision": silver["precision"],
        "core_class_precision_with_ancestors": silver["precision_with_ancestors"],
    }
    files.write_json(paths.out_metrics, result)
    low, high = found["intervals"]["strict.example_f1"] if settings.bootstrap_resamples else (np.nan, np.nan)
    stage.log(
        f"{found['documents']:,} documents",
        f"Example-F1 {found['strict']['example_f1']:.3f} (95 % {low:.3f} to {high:.3f})",
        f"P@1 {found['strict']['p_at_1']:.3f}" if 1 in settings.metric_ks else f"MRR {found['strict']['mrr']:.3f}",
    )


def example_f1(labels: Labels, rows: np.ndarray, truth: Labels, n_classes: int) -> float:
    """Strict Example-F1 of some rows of label sets, of those with gold labels."""
    known = truth.sizes > 0
    return metrics.example_f1(labels.matrix(n_classes)[rows[known]], truth.matrix(n_classes)[known]).value


if __name__ == "__main__":
    main()
