"""Labels documents with a trained model: ``python scripts/predict.py --model model.pt --input new.jsonl``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import ValidationError

from common import files
from common.config import explain
from common.device import open_device, settle
from common.errors import UserError
from common.progress import progress
from common.stage import Stage, run_stage
from common.taxoclass_settings import Predict
from taxoclass import bundle, documents, products
from taxoclass.bundle import Bundle
from taxoclass.corpus import Corpus, read_corpus
from taxoclass.decoding import Rules, decode, full_weights
from taxoclass.prediction import average_into, predict_into, scale_of
from taxoclass.training import Machine, Vectors
from taxoclass.words import Words


def main() -> None:
    run_stage(
        "predict",
        Predict,
        inputs={
            "model": "the model bundle",
            "input": "documents: JSONL, TSV, CSV or Parquet, plain or gzip",
            "taxonomy": "JSON of check_corpus, to refuse a model of another taxonomy",
            "details": "JSON that was written with the model",
            "cache": "folder for vectors that outlive the run",
        },
        outputs={
            "out-labels": "JSON lines: labels, path and scores of each document; default: standard output",
            "out-predictions": "npy: probabilities, documents x classes, float32",
            "out-ids": "text: ids of these documents, one a line",
            "out-submission": "csv: id,labels",
            "out-model": "the model bundle with these settings as its own",
            "out-details": "JSON: what was predicted",
        },
        values={
            "split": "only documents with this value in their field split",
            "text-field": "name of the field or column that holds the text (default text)",
            "encoder": "where the document encoder is, if not where it was in training",
        },
        optional=(
            *("taxonomy", "details", "cache", "split", "text-field", "encoder"),
            *("out-labels", "out-predictions", "out-ids", "out-submission", "out-model", "out-details"),
        ),
        work=work,
    )


def work(stage: Stage) -> None:
    paths = stage.paths
    device = open_device(stage)
    model = bundle.load(paths.model, products.read_taxonomy(paths.taxonomy) if paths.taxonomy else None)
    settings = with_own(stage.settings, model)
    corpus = read_corpus(paths.input, paths.text_field or "text", paths.split)
    shape = len(corpus), len(model.taxonomy)
    if paths.out_predictions:
        files.check_space(paths.out_predictions, 4 * shape[0] * shape[1])
    encoder = documents.reopen(
        model.encoder,
        device,
        stage.runtime.local_files_only,
        name=paths.encoder,
        mixed_precision=model.mixed_precision,
        warn=stage.warn,
    )
    with progress(stage.name, len(corpus), "text") as bar:
        texts = documents.prepared(encoder, model.encoder["trainable"], corpus.texts, paths.cache, progress=bar.update)
    settle(model.encoder["trainable"])
    if encoder.tally.truncated:
        stage.warn(
            f"{encoder.tally.truncated:,} documents are longer than the {encoder.loaded.max_length * encoder.chunks} "
            "tokens that the model reads of each"
        )
    machine = Machine.of(stage, device, model.mixed_precision)
    scale = scale_of(settings.decode, model.taxonomy)
    k = settings.predict_neighbours if settings.decode == "expected_f1" else 0
    words = words_of(settings, model, corpus, paths)
    with progress(stage.name, len(corpus), "text", "words") as bar:
        matches = None if words is None else settings.word_weight * words.matches(corpus.texts, bar.update)

    def predict(out: np.ndarray) -> np.ndarray:
        predict_into(out, model.model, texts, machine, scale, matches)
        if k and isinstance(texts, Vectors):
            with stage.blas(), progress(stage.name, len(corpus), "text", "nearest ones") as bar:
                average_into(out, texts.values, model.taxonomy, k, bar.update)
        return out

    if not paths.out_predictions:
        report(stage, settings, model, words, corpus, predict(np.empty(shape, np.float32)))
        return
    with files.atomic(paths.out_predictions) as temporary:
        streamed = files.map_npy(temporary, shape)
        predict(streamed)
        streamed.flush()
    report(stage, settings, model, words, corpus, np.load(paths.out_predictions, mmap_mode="r"))


def with_own(given: Predict, model: Bundle) -> Predict:
    """The settings given, and for the others those that the bundle has as its own."""
    together = model.labelling.get("decoding", {}) | given.model_dump(exclude_unset=True)
    try:
        return Predict.model_validate(together)
    except ValidationError as error:
        raise UserError(explain(error, Predict, prefix="--")) from None


def words_of(settings: Predict, model: Bundle, corpus: Corpus, paths: Any) -> Words | None:
    """What is known of the words of class names: by the bundle, else from all documents of the input."""
    if settings.decode != "expected_f1" or not settings.word_weight:
        return None
    known = model.labelling.get("words")
    if known is not None and known["language"] == settings.word_language:
        return Words(**known)
    texts = corpus.texts if paths.split is None else read_corpus(paths.input, paths.text_field or "text").texts
    return Words.fit(texts, model.taxonomy.names, settings.word_language)


def report(
    stage: Stage, settings: Predict, model: Bundle, words: Words | None, corpus: Corpus, scores: np.ndarray
) -> None:
    """Label the documents and write what is asked for."""
    paths, taxonomy = stage.paths, model.taxonomy
    weights = weights_of(settings, model)
    with progress(stage.name, len(corpus), "text", "labels") as bar:
        decoded = decode(scores, taxonomy, Rules.of(settings), weights, bar.update)
    chains = [taxonomy.chains[each] if each >= 0 else () for each in decoded.chain.tolist()]
    records = products.label_records(corpus.doc_ids, taxonomy, decoded.labels, chains, decoded.score, scores)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    if paths.out_labels:
        files.write_lines(paths.out_labels, list(lines))
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)
    if paths.out_ids:
        files.write_lines(paths.out_ids, corpus.doc_ids)
    if paths.out_submission:
        files.write_lines(paths.out_submission, products.submission(corpus.doc_ids, taxonomy, decoded.labels))
    if paths.out_model:
        own = model.labelling | {
            "decoding": settings.model_dump(),
            "level_weights": weights.tolist(),
            **({} if words is None else {"words": asdict(words)}),
        }
        bundle.save(paths.out_model, Bundle(model.model, taxonomy, model.encoder, model.settings, own))
    sizes = decoded.labels.sizes
    if paths.out_details:
        stage.record(paths.out_details, details(stage, settings, weights, sizes, scores))
    stage.log(
        f"{len(corpus):,} documents",
        f"{sizes.mean():.2f} labels each, {settings.decode}",
        f"{len(np.unique(decoded.labels.indices))} of {len(taxonomy)} classes used",
    )


def weights_of(settings: Predict, model: Bundle) -> np.ndarray:
    """(n levels,): those of the settings, the last one for all levels below, else those estimated in training."""
    own = np.array(model.labelling["level_weights"])
    return own if settings.level_weights is None else full_weights(settings.level_weights, model.taxonomy)


def details(
    stage: Stage, settings: Predict, weights: np.ndarray, sizes: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    return {
        "parameters": settings.model_dump(),
        "made_from": files.digest(stage.paths.details) if stage.paths.details else None,
        "documents": len(sizes),
        "labels_a_document": float(sizes.mean()),
        "documents_without_labels": int((sizes == 0).sum()),
        "level_weights": weights,
        "predictions_digest": products.array_digest(scores),
    }


if __name__ == "__main__":
    main()
