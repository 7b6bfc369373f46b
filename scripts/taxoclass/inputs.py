"""What the user gives, read whole and checked: the taxonomy and the documents of all parts."""

from __future__ import annotations

from taxoclass.corpus import Corpus, joined, read_corpus
from taxoclass.products import TEST, TRAIN
from taxoclass.reading import read_taxonomy
from taxoclass.taxonomy import Taxonomy


def read_texts(
    classes: str | None,
    hierarchy: str,
    keywords: str | None,
    train: str,
    test: str | None,
    text_field: str,
    train_split: str | None,
    test_split: str | None,
) -> tuple[Taxonomy, Corpus]:
    """The classes, and the documents with ``split`` saying which part they are of.

    Files and the fields to read; see ``reading.read_taxonomy`` and ``corpus.documents``.

    Raises
    ------
    UserError : file, line and remedy of the first mistake.
    """
    taxonomy = read_taxonomy(classes, hierarchy, keywords)
    parts = {TRAIN: (train, read_corpus(train, text_field, train_split))}
    if test:
        parts[TEST] = (test, read_corpus(test, text_field, test_split))
    return taxonomy, joined(parts)
