"""Stage 1: how similar every document is to every class, from the names of the classes alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from common import files
from common.device import open_device
from common.stage import Stage, run_stage
from common.taxoclass_settings import CandidateSelection, Similarity
from taxoclass import products
from taxoclass.clustering import clusterings
from taxoclass.corpus import Corpus
from taxoclass.encoders import Encoder, encode_cached
from taxoclass.mining import expected_pairs, waves
from taxoclass.posterior import nearest
from taxoclass.scoring import (
    NliScorer,
    PairScorer,
    dense,
    embedding_scores,
    ensembles,
    label_vectors,
    path_candidates,
)
from taxoclass.taxonomy import Taxonomy


def main() -> None:
    run_stage(
        "similarity",
        Similarity,
        inputs={
            "taxonomy": "JSON of check_corpus",
            "corpus": "Parquet of check_corpus",
            "details": "JSON of check_corpus, what it found",
            "cache": "folder for scores and vectors that outlive the run",
        },
        outputs={
            "out-similarity": "npz: similarity_matrix, doc_ids, class_ids, train_size, test_size, meta",
            "out-details": "JSON: model, scale and summary of the scores",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    files.check_space(paths.out_similarity, 4 * len(corpus) * len(taxonomy))
    device = open_device(stage)
    score = by_embedding if settings.backend == "embedding" else by_entailment
    similarity, corpus_wide, model = score(stage, device, taxonomy, corpus)
    meta = {
        "backend": settings.backend,
        "scale": "cosine" if settings.backend == "embedding" else "logit",
        "templates": settings.templates(any(taxonomy.descriptions)),
        "model": model,
    }
    products.write_similarity(paths.out_similarity, similarity, *corpus_wide, corpus, taxonomy, meta)
    scored = ~np.isnan(similarity)
    files.write_json(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(paths.details),
            "meta": meta,
            "scores_digest": products.array_digest(similarity),
            "neighbours_digest": products.array_digest(corpus_wide.neighbours),
            "clusters_digest": products.array_digest(corpus_wide.clusters),
            "pairs_scored": int(scored.sum()),
            "pairs_a_document": float(scored.sum() / len(corpus)),
            "mean_score": float(similarity[scored].mean(dtype=np.float64)),
        },
    )
    stage.log(f"{len(corpus):,} documents x {len(taxonomy):,} classes", f"{scored.mean():.0%} of the pairs scored")


class CorpusWide(NamedTuple):
    """What the vectors of all documents say. neighbours : (N, k) int32. clusters : (N, R) int32."""

    neighbours: np.ndarray
    clusters: np.ndarray


Scored = tuple[np.ndarray, CorpusWide, dict[str, Any]]
"""Scores (N, C) float32, what vectors say beside them, and what made the scores."""


def by_embedding(stage: Stage, device: str, taxonomy: Taxonomy, corpus: Corpus) -> Scored:
    """Cosines of documents and classes."""
    settings: Similarity = stage.settings
    encoder = sentence_encoder(stage, device, settings.similarity_model, settings.similarity_chunks)
    cosines, corpus_wide = cosines_of(stage, encoder, taxonomy, corpus)
    return cosines, corpus_wide, encoder.fingerprint


def by_entailment(stage: Stage, device: str, taxonomy: Taxonomy, corpus: Corpus) -> Scored:
    """Logits of entailment, NaN for pairs that no one asked for."""
    settings: Similarity = stage.settings
    scorer = NliScorer.load(
        settings.similarity_model,
        device,
        settings.similarity_max_length,
        stage.runtime.local_files_only,
        score=settings.nli_score,
        warn=stage.warn,
    )
    groups, first = ensembles(taxonomy, settings.templates(any(taxonomy.descriptions)))
    hypotheses = [[text for group in each for text in group] for each in by_class(groups, first)]
    corpus_wide = CorpusWide(*np.empty((2, len(corpus), 0), np.int32))
    with tqdm(desc="similarity", unit="pair", disable=None) as bar:
        pairs = PairScorer(
            scorer,
            corpus.texts,
            hypotheses,
            settings.class_names,
            settings.batch_tokens,
            stage.paths.cache,
            bar.update,
        )
        if pairs.truncated:
            stage.warn(cut(pairs.truncated, settings.similarity_max_length))
        if settings.candidates == "all":
            stage.log(str(pairs.cost()))
            logits = pairs.score_all()
        elif settings.candidates == "paths":
            encoder = sentence_encoder(stage, device, settings.prefilter_model, 1)
            cosines, corpus_wide = cosines_of(stage, encoder, taxonomy, corpus, ["{class_name}"])
            rows, classes = path_candidates(taxonomy, cosines, settings.candidate_paths)
            stage.log(str(pairs.cost(len(rows))))
            logits = dense(pairs.shape, rows, classes, pairs.score_pairs(rows, classes))
        else:
            logits = from_the_top(stage, taxonomy, pairs)
    return logits, corpus_wide, scorer.fingerprint


def cosines_of(
    stage: Stage, encoder: Encoder, taxonomy: Taxonomy, corpus: Corpus, templates: list[str] | None = None
) -> tuple[np.ndarray, CorpusWide]:
    """Cosines (N, C), nearest documents and clusters."""
    settings: Similarity = stage.settings
    groups, first = ensembles(taxonomy, templates or settings.templates(any(taxonomy.descriptions)))
    vectors = encoded(stage, encoder, corpus)
    labels = label_vectors(encoder, groups, settings.batch_tokens)
    cosines = embedding_scores(vectors, labels, first, settings.class_names)
    with stage.blas():
        clusters = clusterings(vectors, int(taxonomy.leaves.sum()), settings.clusterings)
        return cosines, CorpusWide(nearest(vectors, settings.neighbours), clusters)


def by_class(groups: list[list[str]], first: np.ndarray) -> list[list[list[str]]]:
    """The groups of texts of each class."""
    ends = [*first[1:].tolist(), len(groups)]
    return [groups[start:end] for start, end in zip(first.tolist(), ends, strict=True)]


def from_the_top(stage: Stage, taxonomy: Taxonomy, pairs: PairScorer) -> np.ndarray:
    """Logits of the classes that candidate selection and confidence ask for, level by level."""
    growth = selection(stage.settings)
    expected = expected_pairs(taxonomy, **growth)
    stage.log(
        f"about {expected:.0f} of {len(taxonomy)} classes a document", str(pairs.cost(round(expected * pairs.shape[0])))
    )
    logits = np.full(pairs.shape, np.nan, dtype=np.float32)
    probability = logits.copy()
    for rows, classes in waves(probability, taxonomy, **growth):
        logits[rows, classes] = pairs.score_pairs(rows, classes)
        probability[rows, classes] = expit(logits[rows, classes])
    return logits


def selection(settings: CandidateSelection) -> dict[str, Any]:
    """The arguments of ``mining.candidates`` and ``waves``."""
    return {
        "quota_offset": settings.candidate_selection_quota,
        "cap_offset": settings.candidate_selection_cap,
        "power": settings.candidate_selection_power,
    }


def sentence_encoder(stage: Stage, device: str, name: str, chunks: int) -> Encoder:
    return Encoder.load(
        name,
        device,
        stage.settings.similarity_max_length,
        stage.runtime.local_files_only,
        chunks=chunks,
        warn=stage.warn,
    )


def encoded(stage: Stage, encoder: Encoder, corpus: Corpus) -> np.ndarray:
    stage.log(str(encoder.cost(corpus.texts, stage.settings.batch_tokens)))
    with tqdm(total=len(corpus), desc=stage.name, unit="text", disable=None) as bar:
        vectors = encode_cached(encoder, corpus.texts, stage.paths.cache, stage.settings.batch_tokens, bar.update)
    if encoder.tally.truncated:
        stage.warn(cut(encoder.tally.truncated, encoder.loaded.max_length * encoder.chunks))
    return vectors


def cut(count: int, tokens: int) -> str:
    return (
        f"{count:,} documents are longer than the {tokens} tokens that are read of each; raise the length or the chunks"
    )


if __name__ == "__main__":
    main()
