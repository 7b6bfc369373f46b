"""Words of class names in documents: counted by hand, whatever the language, the repeats or the number of names."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.taxoclass_settings import CoreClasses
from taxoclass.words import Stems, Words

NAMES = [["palladium"], ["crude oil", "petroleum"], ["interest rates"]]


def name_matches(documents: list[str], names: list[list[str]], language: str | None = "english") -> np.ndarray:
    return Words.fit(documents, names, language).matches(documents)


def brute(documents: list[list[str]], name: list[str]) -> list[float]:
    """BM25 of a name over its words' weights, of documents that are lists of stems."""
    mean = sum(map(len, documents)) / len(documents)
    weight = {}
    for word in dict.fromkeys(name):
        n = sum(word in document for document in documents)
        weight[word] = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
    return [
        sum(
            weight[word]
            * document.count(word)
            * 2.2
            / (document.count(word) + 1.2 * (0.25 + 0.75 * len(document) / mean))
            for word in weight
        )
        / sum(weight.values())
        for document in documents
    ]


words = st.lists(st.sampled_from(["oil", "rates", "gold", "bank", "the"]), min_size=1, max_size=12)


@given(st.lists(words, min_size=1, max_size=8), st.lists(words, min_size=1, max_size=4))
def test_the_score_is_bm25_over_the_weights_of_the_name(documents, names):
    found = name_matches([" ".join(each) for each in documents], [[" ".join(each)] for each in names], None).toarray()
    expected = np.array([brute(documents, each) for each in names]).T
    assert np.allclose(found, expected, rtol=1e-6)
    assert (found <= 2.2).all()


def test_the_best_of_several_names_counts():
    found = name_matches(["petroleum prices", "crude oil prices", "crude prices"], NAMES).toarray()
    alone = name_matches(["petroleum prices", "x y z", "w z x"], [["petroleum"]]).toarray()
    assert found[0, 1] > 0 and alone[0, 0] > 0
    assert found[1, 1] > found[2, 1] > 0
    assert (found[:, [0, 2]] == 0).all()


def test_inflected_and_capital_words_are_the_same_word_where_the_language_says_so():
    found = name_matches(["An INTEREST rate, rated"], NAMES)
    assert found.toarray()[0, 2] > 1
    assert name_matches(["interest_rate"], NAMES, None).toarray()[0, 2] < found.toarray()[0, 2]
    assert Stems("german").of("Häuser, Straße") == Stems("german").of("hauser STRASSE")


def test_a_rare_word_of_a_name_says_more_than_a_common_one():
    documents = ["strength", "materials", *["materials"] * 8]
    found = name_matches(documents, [["strength of materials"]]).toarray()[:, 0]
    assert found[0] > 2 * found[1] > 0


@pytest.mark.parametrize("documents", [[], [""], ["", "- _ !"]])
def test_documents_without_words_match_nothing(documents):
    found = name_matches(documents, NAMES)
    assert found.shape == (len(documents), 3) and found.nnz == 0 and found.dtype == np.float32


def test_names_without_words_match_nothing():
    assert name_matches(["a b"], [["?"], ["a"]]).toarray().tolist()[0][0] == 0


def test_an_unknown_language_is_named_with_those_there_are():
    # also where stage 2 does not read it: the run must not end in predict, when all else is done
    with pytest.raises(ValueError, match=r"'klingon' is none of arabic, .*english, .*; null = words"):
        CoreClasses(mining="taxoclass", word_language="klingon")


def test_words_of_one_corpus_are_looked_for_in_another_and_come_back_from_json():
    words = Words.fit(["gold rises", "the bank", "the oil"], NAMES)
    again = Words(**json.loads(json.dumps(asdict(words))))
    new = ["palladium and gold", "a crude joke about oil"]
    assert again == words
    assert np.array_equal(again.matches(new).toarray(), words.matches(new).toarray())
    assert words.matches(new).toarray()[0, 0] > 0
    # one document by itself is scored as among others
    assert np.array_equal(words.matches(new[:1]).toarray(), words.matches(new).toarray()[:1])
