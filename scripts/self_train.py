"""Stage 4, one iteration: the model learns its own sharpened predictions of all documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from common import files
from common.device import open_device, settle
from common.errors import UserError
from common.progress import progress
from common.stage import Stage, run_stage
from common.taxoclass_settings import SelfTrain
from taxoclass import bundle, documents, products
from taxoclass.labels import Labels
from taxoclass.metrics_log import MetricsLog
from taxoclass.prediction import opinion
from taxoclass.self_training import SelfTraining, SelfTrainReport, Silver, self_train_iteration
from taxoclass.targets import core_targets
from taxoclass.training import LOGITS, STATE, Machine


def main() -> None:
    run_stage(
        "self_train",
        SelfTrain,
        inputs={
            "taxonomy": "JSON of check_corpus",
            "corpus": "Parquet of check_corpus",
            "cores": "npz of core_classes",
            "model": "the model bundle to start from",
            "details": "JSON that was written with it",
            "labels": "npz that was written with it",
            "cache": "folder for vectors that outlive the run",
            "metrics": "JSON lines of every step and epoch, and the folder of other loggers",
        },
        outputs={
            "out-model": "the model bundle",
            "out-labels": "npz: the labels that it gives to all documents",
            "out-details": "JSON: loss, confidence, changed predictions, agreement with held-out core classes",
        },
        values={"iteration": "number of the iteration, from 1"},
        work=work,
    )


def work(stage: Stage) -> None:
    if not stage.paths.iteration.isdecimal() or int(stage.paths.iteration) < 1:
        raise UserError(f"--iteration {stage.paths.iteration!r} is not a whole number from 1")
    before = files.read_json(stage.paths.details)
    if not {"weights_digest", "level_weights"} <= set(before):
        raise UserError(
            f"{stage.paths.details}: was not written with a model; give train_classifier.json or metrics.json"
        )
    if before.get("passes_through"):
        pass_through(stage, before)
    else:
        iterate(stage, before)


def pass_through(stage: Stage, before: dict[str, Any]) -> None:
    """Hand the model on: an earlier iteration found that going on is of no use."""
    files.link(stage.paths.model, stage.paths.out_model)
    files.link(stage.paths.labels, stage.paths.out_labels)
    last = before.get("passed_from", before["iteration"])
    stage.record(
        stage.paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(stage.paths.details),
            "weights_digest": before["weights_digest"],
            "iteration": int(stage.paths.iteration),
            "kept": "start",
            "why": f"iteration {last} was the last to train",
            "passes_through": True,
            "passed_from": last,
            "level_weights": before["level_weights"],
        },
    )
    stage.log(f"iteration {stage.paths.iteration}", f"the model of iteration {last} is passed on")


def iterate(stage: Stage, before: dict[str, Any]) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    cores = products.read_cores(paths.cores, corpus.doc_ids, taxonomy)
    device = open_device(stage)
    start = bundle.load(paths.model, taxonomy)
    if bundle.weights_digest(start.model.state_dict()) != before["weights_digest"]:
        raise UserError(f"{paths.details}: was not written with {paths.model}; {products.AGAIN}")
    encoder = documents.reopen(
        start.encoder,
        device,
        stage.runtime.local_files_only,
        mixed_precision=settings.mixed_precision,
        warn=stage.warn,
    )
    with progress(stage.name, len(corpus), "text") as bar:
        texts = documents.prepared(encoder, start.encoder["trainable"], corpus.texts, paths.cache, progress=bar.update)
    settle(start.encoder["trainable"])
    scratch = stage.scratch(paths.out_model)
    log = MetricsLog.open(paths.metrics, stage.runtime.loggers, stage.warn, resumed=(scratch / STATE).exists())
    report = self_train_iteration(
        start.model,
        texts,
        taxonomy,
        SelfTraining.of(settings, start.encoder["trainable"]),
        int(paths.iteration),
        scratch,
        Silver.held_out(core_targets(taxonomy, cores.indptr, cores.indices), corpus.texts, settings.validation_share),
        before.get("agreement_floor"),
        np.array(before["level_weights"]),
        Machine.of(stage, device, settings.mixed_precision),
        log,
        paths.code,
    )
    log.close()
    weights, labels = before["level_weights"], products.read_label_sets(paths.labels, corpus.doc_ids, taxonomy)
    if report.kept == "end":
        with progress(stage.name, len(corpus), "text", "labels") as bar:
            labels, found = opinion(np.load(scratch / LOGITS, mmap_mode="r"), taxonomy, bar.update)
        weights = found.tolist()
    made = bundle.Bundle(
        start.model,
        taxonomy,
        start.encoder,
        settings=start.settings | stage.parameters,
        labelling={"level_weights": weights},
    )
    write(stage, made, labels, corpus.doc_ids, report)


def write(stage: Stage, made: bundle.Bundle, labels: Labels, doc_ids: Sequence[str], report: SelfTrainReport) -> None:
    """The model, the labels that it gives to all documents, and what came of the iteration."""
    paths, number = stage.paths, int(stage.paths.iteration)
    bundle.save(paths.out_model, made)
    products.write_label_sets(paths.out_labels, labels, doc_ids, made.taxonomy)
    stage.record(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(paths.details),
            "weights_digest": bundle.weights_digest(made.model.state_dict()),
            "iteration": number,
            "level_weights": made.labelling["level_weights"],
            **asdict(report),
        },
    )
    loss = report.history[-1]["loss"]
    stage.log(
        f"iteration {number}",
        f"loss {'not finite' if loss is None else f'{loss:.3f}'}",
        f"{report.changed:.1%} of the best paths changed",
        f"{report.confident_after:.0%} confident",
        f"the {report.kept} is kept" + (f" ({report.why})" if report.why else ""),
    )


if __name__ == "__main__":
    main()
