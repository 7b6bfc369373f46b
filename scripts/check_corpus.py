"""Reads the taxonomy and the corpora once, refuses what later stages would stumble over, and writes both plainly."""

from __future__ import annotations

from collections import Counter

import numpy as np

from common.stage import Stage, run_stage
from common.taxoclass_settings import CheckCorpus
from taxoclass import products
from taxoclass.inputs import read_texts


def main() -> None:
    run_stage(
        "check_corpus",
        CheckCorpus,
        inputs={
            "classes": "id TAB name",
            "hierarchy": "parent id TAB child id, or nested YAML or JSON",
            "keywords": "id TAB keywords or description",
            "train": "documents",
            "test": "the documents to label",
        },
        outputs={
            "out-taxonomy": "JSON: ids, names, edges and descriptions of the classes",
            "out-corpus": "Parquet: doc_id, text, split (train, test) of all documents",
            "out-details": "JSON: what was found",
        },
        work=work,
        values={"source": "digest of the files, kept in out-details"},
        optional=("classes", "keywords", "test", "source"),
    )


def work(stage: Stage) -> None:
    paths = stage.paths
    files_given = (paths.classes, paths.hierarchy, paths.keywords, paths.train, paths.test)
    taxonomy, corpus = read_texts(*files_given, **stage.parameters)
    if corpus.n_empty:
        stage.warn(f"{corpus.n_empty:,} of {len(corpus):,} documents have no text; they are labelled all the same")
    alone = np.flatnonzero(taxonomy.leaves & (taxonomy.depth == 0))
    if len(alone) and len(taxonomy.edges):
        stage.warn(
            f"{len(alone):,} classes have neither parent nor child, such as {taxonomy.ids[alone[0]]!r}: a header?"
        )
    lengths = np.array([len(text) for text in corpus.texts])
    products.write_taxonomy(paths.out_taxonomy, taxonomy)
    products.write_corpus(paths.out_corpus, corpus)
    sizes = Counter(corpus.split)
    levels = np.bincount(taxonomy.level)
    stage.record(
        paths.out_details,
        {
            "parameters": stage.parameters,
            "source": paths.source,
            "documents": len(corpus),
            "train_size": sizes[products.TRAIN],
            "test_size": sizes[products.TEST],
            "empty_documents": corpus.n_empty,
            "repeated_texts": len(corpus) - len(set(corpus.texts)),
            "characters": {"median": np.median(lengths), "largest": lengths.max()},
            "classes": len(taxonomy),
            "edges": len(taxonomy.edges),
            "roots": len(taxonomy.roots),
            "leaves": int(taxonomy.leaves.sum()),
            "classes_by_level": levels,
            "classes_with_several_parents": sum(len(each) > 1 for each in taxonomy.parents),
            "paths": len(taxonomy.chains),
            "taxonomy_fingerprint": taxonomy.fingerprint,
            "corpus_fingerprint": corpus.fingerprint,
            "descriptions_fingerprint": taxonomy.descriptions_fingerprint,
        },
    )
    stage.log(
        " + ".join(f"{size:,} {name}" for name, size in sizes.items()) + " documents",
        f"{len(taxonomy):,} classes on {len(levels)} levels ({' + '.join(map(str, levels))})",
    )


if __name__ == "__main__":
    main()
