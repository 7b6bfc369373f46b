"""Stage 2: core classes, the few classes that a document is most surely about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from common import files
from common.progress import Progress, progress, unseen
from common.stage import Stage, run_stage
from common.taxoclass_settings import CoreClasses
from taxoclass import mining, products
from taxoclass.decoding import full_weights, level_weights
from taxoclass.expected_f1 import upward
from taxoclass.labels import Cores, Sparse
from taxoclass.posterior import SURE, core_share, leaf_posterior
from taxoclass.taxonomy import Taxonomy
from taxoclass.words import Words


def main() -> None:
    run_stage(
        "core_classes",
        CoreClasses,
        inputs={
            "taxonomy": "JSON of check_corpus",
            "corpus": "Parquet of check_corpus",
            "similarity": "npz of similarity",
            "details": "JSON of similarity",
        },
        outputs={
            "out-cores": "npz: candidates (mining: taxoclass) and core classes in CSR layout, thresholds",
            "out-details": "JSON: coverage, cores a document, share by level, classes never chosen",
        },
        work=work,
    )


def work(stage: Stage) -> None:
    paths, settings = stage.paths, stage.settings
    taxonomy, corpus = products.read_taxonomy(paths.taxonomy), products.read_corpus(paths.corpus)
    doc_ids = corpus.doc_ids
    stored = products.read_similarity(paths.similarity, doc_ids, taxonomy)
    with progress(stage.name, 2 * len(corpus), "text", "words") as bar:
        candidates, cores, weights = mine(settings, stored, corpus.texts, taxonomy, bar.update)
    products.write_cores(paths.out_cores, candidates, cores, doc_ids, taxonomy, stage.parameters)
    found = mining.report(cores, taxonomy)
    stage.record(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "made_from": files.digest(paths.details),
            "cores_digest": products.array_digest(np.concatenate([cores.indptr, cores.indices])),
            **(
                {"candidates_a_document": float(candidates.labels.sizes.mean())}
                if settings.mining == "taxoclass"
                else {}
            ),
            **({"level_weights": weights} if weights is not None else {}),
            **found,
        },
    )
    if not found["documents_with_cores"]:
        stage.warn("no document has a core class")
    stage.log(
        f"{len(doc_ids):,} documents, {found['coverage']:.0%} with core classes",
        f"{found['cores_per_document'] or 0:.2f} of them each",
        f"{len(found['classes_never_chosen'])} of {len(taxonomy)} classes never chosen",
    )


def mine(
    settings: CoreClasses,
    stored: products.SimilarityFile,
    texts: Sequence[str],
    taxonomy: Taxonomy,
    read: Progress = unseen,
) -> tuple[Sparse, Cores, np.ndarray | None]:
    """Candidates (none, if nobody asks for them), core classes, and the level weights that these were chosen by.

    read : is told of texts whose words are looked at, twice each.
    """
    none = Sparse.empty(len(texts))
    share = settings.core_share
    if settings.mining == "posterior":
        words = None
        if settings.word_weight:
            known = Words.fit(texts, taxonomy.names, settings.word_language, read)
            words = settings.word_weight * known.matches(texts, read)
        leaves = leaf_posterior(stored.similarity, taxonomy, stored.neighbours, stored.clusters, words)
        if share is None:
            share = core_share(len(leaves), leaves.shape[1], stored.clusters)
        return none, mining.surest(upward(leaves, taxonomy), taxonomy, share=share), None
    # path scores multiply, so candidate selection wants [0, 1]
    unit = expit if stored.meta["scale"] == "logit" else mining.unit_similarity
    similarity = unit(stored.similarity)
    share = SURE if share is None else share
    if settings.mining == "path_margin":
        given = settings.level_weights
        weights = level_weights(similarity, taxonomy) if given is None else full_weights(given, taxonomy)
        return none, mining.path_margin(similarity, taxonomy, share=share, weights=weights), weights
    candidates = mining.candidates(similarity, taxonomy, mining.Growth.of(settings))
    cores = mining.cores(
        similarity,
        taxonomy,
        candidates,
        percentile=settings.confidence_threshold_percentile,
        require_positive=settings.require_positive,
        min_conf=settings.min_conf,
    )
    return candidates, cores, None


if __name__ == "__main__":
    main()
