"""Stage 3: a classifier of document and taxonomy, learnt from the core classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from common import files
from common.device import open_device, settle
from common.progress import progress
from common.stage import Stage, run_stage
from common.taxoclass_settings import TrainClassifier
from taxoclass import bundle, documents, products
from taxoclass.classifier import Architecture, build
from taxoclass.encoders import Encoder
from taxoclass.metrics_log import MetricsLog
from taxoclass.prediction import Opinion, opinion, predict_into
from taxoclass.targets import core_targets
from taxoclass.training import STATE, CoreTraining, Machine, TrainReport, scratch_logits, train


def main() -> None:
    run_stage(
        "train_classifier",
        TrainClassifier,
        inputs={
            "taxonomy": "JSON of check_corpus",
            "corpus": "Parquet of check_corpus",
            "cores": "npz of core_classes",
            "details": "JSON of core_classes",
            "cache": "folder for vectors that outlive the run",
            "metrics": "JSON lines of every step and epoch, and the folder of other loggers",
        },
        outputs={
            "out-model": "the model bundle",
            "out-labels": "npz: the labels that it gives to all documents",
            "out-details": "JSON: loss and gradient norms by epoch",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    cores = products.read_cores(paths.cores, corpus.doc_ids, taxonomy)
    device = open_device(stage)
    encoder = Encoder.load(
        settings.doc_encoder_model,
        device,
        settings.doc_max_length,
        stage.runtime.local_files_only,
        pooling=settings.doc_pooling,
        chunks=settings.doc_chunks,
        mixed_precision=settings.mixed_precision,
        warn=stage.warn,
    )
    backbone = encoder.loaded.model
    architecture = Architecture.of(settings, backbone)
    names = documents.name_vectors(encoder, taxonomy, settings.class_template)
    with progress(stage.name, len(corpus), "text") as bar:
        texts = documents.prepared(encoder, settings.encoder_trainable, corpus.texts, paths.cache, progress=bar.update)
    settle(settings.encoder_trainable)
    backbone = backbone.requires_grad_(True).cpu() if settings.encoder_trainable else None
    model = build(taxonomy, names, architecture, settings.random_seed, backbone)
    machine = Machine.of(stage, device, settings.mixed_precision)
    scratch = stage.scratch(paths.out_model)
    log = MetricsLog.open(paths.metrics, stage.runtime.loggers, stage.warn, resumed=(scratch / STATE).exists())
    report = train(
        model,
        texts,
        core_targets(taxonomy, cores.indptr, cores.indices),
        corpus.texts,
        CoreTraining.of(settings),
        scratch,
        machine,
        log,
        paths.code,
    )
    log.close()
    logits = predict_into(scratch_logits(scratch, len(corpus), len(taxonomy)), model, texts, machine)
    with progress(stage.name, len(corpus), "text", "labels") as bar:
        said = opinion(logits, taxonomy, bar.update)
    made = bundle.Bundle(
        model,
        taxonomy,
        documents.origin(encoder, settings.encoder_trainable),
        settings=stage.parameters,
        labelling={"level_weights": said.weights.tolist()},
    )
    write(stage, made, said, corpus.doc_ids, report)


def write(stage: Stage, made: bundle.Bundle, said: Opinion, doc_ids: Sequence[str], report: TrainReport) -> None:
    """The model, what it says of all documents, and how it came to be."""
    paths = stage.paths
    bundle.save(paths.out_model, made)
    products.write_label_sets(paths.out_labels, said.labels, doc_ids, made.taxonomy)
    stage.record(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(paths.details),
            "weights_digest": bundle.weights_digest(made.model.state_dict()),
            "level_weights": said.weights,
            **asdict(report),
        },
    )
    stage.log(
        f"{report.documents:,} documents with core classes, {report.validation_documents:,} held out",
        f"best of {len(report.history)} epochs: {report.best_epoch}",
        f"validation loss {report.history[report.best_epoch - 1]['validation_loss']:.3f}",
    )


if __name__ == "__main__":
    main()
