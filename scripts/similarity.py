"""Stage 1: how similar every document is to every class, from the names of the classes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from common import files, pieces
from common.device import open_device
from common.progress import Bar, progress
from common.stage import Stage, run_stage
from common.taxoclass_settings import Similarity
from taxoclass import products
from taxoclass.clustering import clusterings
from taxoclass.encoders import Encoder, encode_cached
from taxoclass.mining import Growth, expected_pairs, waves
from taxoclass.posterior import nearest
from taxoclass.products import Scored
from taxoclass.scoring import NliScorer, PairScorer, embedding_scores, ensembles, label_vectors, path_candidates
from taxoclass.taxonomy import Taxonomy

INPUTS = {
    "taxonomy": "JSON of check_corpus",
    "corpus": "Parquet of check_corpus",
    "details": "JSON of check_corpus, what it found",
    "cache": "folder for scores and vectors that outlive the run",
}


def main() -> None:
    run_stage(
        "similarity",
        Similarity,
        inputs=INPUTS | {"pieces": "npz of every shard, in order, where the stage is done in shards"},
        outputs={
            "out-similarity": "npz: similarity_matrix, doc_ids, class_ids, train_size, test_size, meta",
            "out-details": "JSON: model, scale and summary of the scores",
        },
        work=work,
        optional=("pieces",),
        several=("pieces",),
    )


def work(stage: Stage) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    files.check_space(paths.out_similarity, 4 * len(corpus) * len(taxonomy))
    if paths.pieces:
        similarity, vectors, model = products.read_pieces(paths.pieces, pieces.key(paths.details, stage.parameters))
    else:
        similarity, vectors, model = score(stage, taxonomy, corpus.texts)
    neighbours, clusters = of_the_whole(stage, vectors, taxonomy)
    meta = {
        "backend": settings.backend,
        "scale": "cosine" if settings.backend == "embedding" else "logit",
        "templates": settings.templates(any(taxonomy.descriptions)),
        "model": model,
    }
    products.write_similarity(paths.out_similarity, similarity, neighbours, clusters, corpus, taxonomy, meta)
    scored = ~np.isnan(similarity)
    stage.record(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(paths.details),
            "meta": meta,
            "scores_digest": products.array_digest(similarity),
            "neighbours_digest": products.array_digest(neighbours),
            "clusters_digest": products.array_digest(clusters),
            "pairs_scored": int(scored.sum()),
            "pairs_a_document": float(scored.sum() / len(corpus)),
            "mean_score": float(similarity[scored].mean(dtype=np.float64)),
        },
    )
    stage.log(f"{len(corpus):,} documents x {len(taxonomy):,} classes", f"{scored.mean():.0%} of the pairs scored")


def of_the_whole(stage: Stage, vectors: np.ndarray, taxonomy: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """Nearest documents (N, k) and clusters (N, R) of each document, int32; k = R = 0 without vectors."""
    settings: Similarity = stage.settings
    if not vectors.shape[1]:
        return np.empty((len(vectors), 0), np.int32), np.empty((len(vectors), 0), np.int32)
    with stage.blas():
        with progress(stage.name, settings.clusterings, "clustering") as bar:
            # by default 0, as before the setting had a say here: the measured figures stay what they are
            seed = settings.random_seed ^ Similarity.model_fields["random_seed"].default
            clusters = clusterings(vectors, int(taxonomy.leaves.sum()), settings.clusterings, seed, bar.update)
        with progress(stage.name, len(vectors), "text", "nearest ones") as bar:
            return nearest(vectors, settings.neighbours, bar.update), clusters


def score(stage: Stage, taxonomy: Taxonomy, texts: Sequence[str]) -> Scored:
    """Some documents against all classes; each document by itself."""
    if not len(texts):
        return Scored(np.empty((0, len(taxonomy)), np.float32), np.empty((0, 0), np.float32), None)
    by = by_embedding if stage.settings.backend == "embedding" else by_entailment
    return by(stage, open_device(stage), taxonomy, texts)


def by_embedding(stage: Stage, device: str, taxonomy: Taxonomy, texts: Sequence[str]) -> Scored:
    """Cosines of documents and classes."""
    settings: Similarity = stage.settings
    encoder = sentence_encoder(stage, device, settings.similarity_model, settings.similarity_chunks)
    return Scored(*cosines_of(stage, encoder, taxonomy, texts), encoder.fingerprint)


def by_entailment(stage: Stage, device: str, taxonomy: Taxonomy, texts: Sequence[str]) -> Scored:
    """Logits of entailment, NaN for pairs that no one asked for."""
    settings: Similarity = stage.settings
    scorer = NliScorer.load(
        settings.similarity_model,
        device,
        settings.similarity_max_length,
        stage.runtime.local_files_only,
        score=settings.nli_score,
        mixed_precision=settings.mixed_precision,
        warn=stage.warn,
    )
    named = ensembles(taxonomy, settings.templates(any(taxonomy.descriptions)))
    hypotheses = [[text for texts in names for text in texts] for names in named]
    vectors = np.empty((len(texts), 0), np.float32)
    with progress(stage.name, unit="pair") as bar:
        pairs = PairScorer(
            scorer,
            texts,
            hypotheses,
            settings.class_names,
            settings.batch_tokens,
            stage.paths.cache,
            bar.update,
        )
        if pairs.truncated:
            stage.warn(
                f"{pairs.truncated:,} documents are longer than what the class texts leave of "
                f"{settings.similarity_max_length} tokens; raise similarity_max_length"
            )
        if settings.candidates == "all":
            stage.log(str(pairs.cost()))
            bar.total = pairs.known.size
            logits = pairs.score_all()
        elif settings.candidates == "paths":
            encoder = sentence_encoder(stage, device, settings.prefilter_model, 1)
            cosines, vectors = cosines_of(stage, encoder, taxonomy, texts, ["{class_name}"])
            rows, classes = path_candidates(taxonomy, cosines, settings.candidate_paths)
            stage.log(str(pairs.cost(len(rows))))
            bar.total = pairs.count(rows, classes)
            logits = np.full(pairs.shape, np.nan, dtype=np.float32)
            logits[rows, classes] = pairs.score_pairs(rows, classes)
        else:
            logits = from_the_top(stage, taxonomy, pairs, bar)
    return Scored(logits, vectors, scorer.fingerprint)


def cosines_of(
    stage: Stage, encoder: Encoder, taxonomy: Taxonomy, texts: Sequence[str], templates: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (N, C), and the documents' vectors."""
    settings: Similarity = stage.settings
    named = ensembles(taxonomy, templates or settings.templates(any(taxonomy.descriptions)))
    vectors = encoded(stage, encoder, texts)
    labels = label_vectors(encoder, [each for names in named for each in names], settings.batch_tokens)
    first = np.cumsum([0, *map(len, named)])[:-1]
    return embedding_scores(vectors, labels, first, settings.class_names), vectors


def from_the_top(stage: Stage, taxonomy: Taxonomy, pairs: PairScorer, bar: Bar) -> np.ndarray:
    """Logits of the classes that candidate selection and confidence ask for, level by level."""
    growth = Growth.of(stage.settings)
    expected = expected_pairs(taxonomy, growth)
    bar.total = round(expected * pairs.shape[0])  # about
    stage.log(f"about {expected:.0f} of {len(taxonomy)} classes a document", str(pairs.cost(bar.total)))
    logits = np.full(pairs.shape, np.nan, dtype=np.float32)
    probability = logits.copy()
    for rows, classes in waves(probability, taxonomy, growth):
        logits[rows, classes] = pairs.score_pairs(rows, classes)
        probability[rows, classes] = expit(logits[rows, classes])
    return logits


def sentence_encoder(stage: Stage, device: str, name: str, chunks: int) -> Encoder:
    return Encoder.load(
        name,
        device,
        stage.settings.similarity_max_length,
        stage.runtime.local_files_only,
        chunks=chunks,
        mixed_precision=stage.settings.mixed_precision,
        warn=stage.warn,
    )


def encoded(stage: Stage, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    stage.log(str(encoder.cost(texts, stage.settings.batch_tokens)))
    with progress(stage.name, len(texts), "text") as bar:
        vectors = encode_cached(encoder, texts, stage.paths.cache, stage.settings.batch_tokens, bar.update)
    if encoder.tally.truncated:
        stage.warn(
            f"{encoder.tally.truncated:,} documents are longer than the {encoder.loaded.max_length * encoder.chunks} "
            "tokens that are read of each; raise similarity_max_length"
            + (" or similarity_chunks" if stage.settings.backend == "embedding" else "")
        )
    return vectors


if __name__ == "__main__":
    main()
