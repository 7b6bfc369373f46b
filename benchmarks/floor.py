"""The floor of a corpus: the leaf whose path has the highest cosine, with its ancestors, and nothing else.

python floor.py RESULTS/taxoclass GOLD ANSWER; RESULTS have the similarities of the template {path}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from taxoclass import metrics, products
from taxoclass.corpus import read_labels
from taxoclass.labels import Labels


def main() -> None:
    folder, gold_path, answer = sys.argv[1:]
    taxonomy = products.read_taxonomy(f"{folder}/taxonomy.json")
    corpus = products.read_corpus(f"{folder}/corpus.parquet")
    stored = products.read_similarity(f"{folder}/similarity_matrix_all.npz", corpus.doc_ids, taxonomy)
    split = np.array(corpus.split)
    rows = np.flatnonzero(split == (products.TEST if (split == products.TEST).any() else products.TRAIN))
    leaves = np.flatnonzero(taxonomy.leaves)
    best = leaves[stored.similarity[rows][:, leaves].argmax(axis=1)]
    labels = Labels.where(taxonomy.closed_sets[best].toarray() > 0)
    gold = read_labels(gold_path, taxonomy)
    truth = Labels.of([gold.get(corpus.doc_ids[row], ()) for row in rows])
    found = metrics.evaluate(stored.similarity[rows], labels, truth, taxonomy, seed=0, ks=(1, 3, 5), resamples=1000)
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
