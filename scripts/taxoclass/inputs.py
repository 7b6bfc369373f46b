"""What the user gives, read whole and checked: the taxonomy and the documents of all parts."""

from __future__ import annotations

from typing import NamedTuple

from taxoclass.corpus import Corpus, joined, read_corpus
from taxoclass.products import TEST, TRAIN
from taxoclass.reading import read_taxonomy
from taxoclass.taxonomy import Taxonomy


class Texts(NamedTuple):
    """Files and the fields to read; see ``reading.read_taxonomy`` and ``corpus.documents``."""

    classes: str | None
    hierarchy: str
    keywords: str | None
    train: str
    test: str | None
    text_field: str = "text"
    train_split: str | None = None
    test_split: str | None = None


def read_texts(given: Texts) -> tuple[Taxonomy, Corpus]:
    """The classes, and the documents with ``split`` saying which part they are of.

    Raises
    ------
    UserError : file, line and remedy of the first mistake.
    """
    taxonomy = read_taxonomy(given.classes, given.hierarchy, given.keywords)
    parts = {TRAIN: (given.train, read_corpus(given.train, given.text_field, given.train_split))}
    if given.test:
        parts[TEST] = (given.test, read_corpus(given.test, given.text_field, given.test_split))
    return taxonomy, joined(parts)
