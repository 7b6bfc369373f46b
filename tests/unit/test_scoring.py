"""Entailment and cosine scores: those of the library, however they are asked for, cut, kept and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_encoders import ARCHITECTURES, Crowded, bert_tokenizer, reaches, roberta_tokenizer, save_model, sentences

from common.errors import UserError
from common.taxoclass_settings import Similarity
from random_taxonomies import dags, taxonomy
from taxoclass import scoring
from taxoclass.encoders import Encoder
from taxoclass.inference import Tally, learn_frame
from taxoclass.scoring import (
    NliScorer,
    PairScorer,
    combine,
    contradiction_index,
    embedding_scores,
    ensembles,
    entailment_index,
    label_texts,
    label_vectors,
    path_candidates,
)

ORDERS = (
    ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"),  # roberta-large-mnli
    ("entailment", "neutral", "contradiction"),  # most of the sentence-transformers'
    ("Neutral", "Entailment", "Contradiction"),
)
CLASSES = (("this text is about a cat",), ("this text is about law", "tax court"), ("dog",), ("old stone river",))


@pytest.fixture(scope="module", params=[(each, order) for each in ARCHITECTURES for order in ORDERS], ids=str)
def folder(request, tmp_path_factory) -> Path:
    architecture, order = request.param
    return save_model(tmp_path_factory.mktemp(architecture), architecture, order)


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("nli"), "roberta", ORDERS[0])


@pytest.fixture
def scorer(one_folder) -> NliScorer:
    return NliScorer.load(str(one_folder), max_length=40)


def refusal(name: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        NliScorer.load(str(name), max_length=40, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- labels of the model


@pytest.mark.parametrize("order", ORDERS)
def test_the_labels_are_found_in_any_order_and_case(order):
    labels = dict(enumerate(order))
    entailment = entailment_index(labels)
    assert order[entailment].lower() == "entailment"
    assert order[contradiction_index(labels, entailment)].lower() == "contradiction"


def test_two_labels_are_each_others_contradiction():
    labels = {0: "not_entailment", 1: "entailment"}
    assert (entailment_index(labels), contradiction_index(labels, 1)) == (1, 0)


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1", "LABEL_2"), ("negative", "not_entailment"), ORDERS[0] * 2])
def test_a_model_without_one_entailment_label_is_refused(one_folder, tmp_path, labels):
    named = {at: label for at, label in enumerate(labels)}
    with pytest.raises(UserError, match="starts with entail"):
        entailment_index(named)
    config = json.loads((one_folder / "config.json").read_text())
    for path in one_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    unnamed = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": unnamed}))
    assert "none of the model's labels (LABEL_0, LABEL_1, LABEL_2) starts with entail" in refusal(tmp_path)


def test_a_score_against_contradiction_needs_one():
    with pytest.raises(UserError, match="; use nli_score: three_way"):
        contradiction_index({0: "entailment", 1: "neutral", 2: "other"}, 0)


def test_a_sentence_encoder_is_no_nli_model(tmp_path):
    assert "lacks" in refusal(save_model(tmp_path, "bert"))


# ---- the spliced ids


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["the cat sings", " leading", "two  spaces ", "[SEP] </s> <s>", "naïve 雪 🙂", "the the the the", "x" * 50, ""]
)


@pytest.mark.parametrize("tokenizer", [bert_tokenizer(), roberta_tokenizer()], ids=ARCHITECTURES)
@given(premise=TEXTS, hypothesis=TEXTS.filter(bool), spare=st.integers(1, 40))
def test_spliced_ids_are_those_of_the_library(tokenizer, premise, hypothesis, spare):
    frame = learn_frame(tokenizer, pair=True)
    first, second = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (premise, hypothesis))
    max_length = frame.cost + len(second) + spare
    expected = tokenizer(
        premise, hypothesis, truncation="only_first", max_length=max_length, return_token_type_ids=True
    )
    ids, types, lengths = frame.join([first[:spare]], [second])
    assert ids.tolist() == expected["input_ids"]
    assert types.tolist() == expected["token_type_ids"]
    assert lengths.tolist() == [len(ids)]


@pytest.mark.parametrize("score", ["three_way", "entail_vs_contra"])
def test_pairs_that_leave_the_range_of_fp16_are_scored_again_in_fp32(one_folder, score):
    scorer = NliScorer.load(str(one_folder), max_length=40, score=score, warn=lambda _: None)
    reaches(scorer.loaded, 8e4, "stone")
    documents = ["stone", *sentences(10)]
    exact = PairScorer(scorer, documents, CLASSES).score_all()
    scorer.loaded.precision = "fp16"
    found = PairScorer(scorer, documents, CLASSES).score_all()
    assert 5 <= scorer.loaded.tally.beyond < 55
    assert np.abs(found[0] - exact[0]).max() < 1e-5
    assert np.abs(found - exact).max() < 0.05


def test_the_models_inputs_are_those_of_the_library(folder):
    scorer = NliScorer.load(str(folder), max_length=36)
    pairs = PairScorer(scorer, ["the cat " * 20, "a dog", ""], CLASSES)
    seen: list[dict[str, torch.Tensor]] = []
    forward = scorer.loaded.forward
    scorer.loaded.forward = lambda inputs: seen.append(inputs) or forward(inputs)
    pairs.score_all()
    rows = {tuple(ids[mask == 1].tolist()) for each in seen for ids, mask in zip(*_two(each), strict=True)}
    expected = scorer.loaded.tokenizer(
        [document for document in pairs.documents for _ in range(5)],
        [text for texts in CLASSES for text in texts] * 3,
        truncation="only_first",
        max_length=36,
    )
    assert rows == {tuple(ids) for ids in expected["input_ids"]}
    assert all(("token_type_ids" in each) == ("token_type_ids" in expected) for each in seen)


def _two(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = inputs["input_ids"]
    return ids, inputs.get("attention_mask", torch.ones_like(ids))  # none where nothing is padding


# ---- the scores


def directly(scorer: NliScorer, documents: list[str], texts: list[str]) -> np.ndarray:
    """(N, T) probabilities, each pair alone, as zero-shot classification with the library does it."""
    found = np.empty((len(documents), len(texts)))
    labels = [label.lower() for label in scorer.loaded.model.config.id2label.values()]
    kept = [labels.index("entailment"), labels.index("contradiction")]
    for row, document in enumerate(documents):
        for column, text in enumerate(texts):
            inputs = scorer.loaded.tokenizer(
                document,
                text,
                truncation="only_first",
                max_length=scorer.loaded.max_length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = scorer.loaded.model(**inputs).logits[0]
            if scorer.score == "entail_vs_contra":
                found[row, column] = logits[kept].softmax(dim=0)[0]
            else:
                found[row, column] = logits.softmax(dim=0)[kept[0]]
    return found


@pytest.mark.parametrize("score", ["three_way", "entail_vs_contra"])
def test_scores_are_the_logits_of_the_librarys_probabilities(folder, score):
    scorer = NliScorer.load(str(folder), max_length=32, score=score)
    documents = [*sentences(10), ""]
    texts = [texts[0] for texts in CLASSES]
    expected = directly(scorer, documents, texts)
    found = PairScorer(scorer, documents, [(text,) for text in texts], batch_tokens=200).score_all()
    assert found.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(1 / (1 + np.exp(-found.astype(np.float64))), expected, atol=1e-5)
    np.testing.assert_allclose(found, np.log(expected / (1 - expected)), atol=1e-4)


def test_a_certain_logit_is_finite(scorer):
    raw = torch.tensor([[0.0, 0.0, 500.0], [500.0, 0.0, -500.0]])
    found = scorer._logit(raw).numpy()  # softmax would be 1 and 0 in float32
    np.testing.assert_allclose(found, [500 - np.log(2), -1000])


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_neither_batches_nor_neighbours_nor_order_change_a_score(scorer, batch_tokens):
    documents = sentences(20)
    expected = PairScorer(scorer, documents, CLASSES).score_all()
    order = np.random.default_rng(1).permutation(20)
    shuffled = PairScorer(scorer, [documents[row] for row in order], CLASSES[::-1], batch_tokens=batch_tokens)
    np.testing.assert_allclose(shuffled.score_all()[:, ::-1], expected[order], atol=1e-5)


def test_pairs_are_answered_in_the_order_of_the_question(scorer):
    documents = sentences(12)
    expected = PairScorer(scorer, documents, CLASSES).score_all()
    pairs = PairScorer(scorer, documents, CLASSES)
    generator = np.random.default_rng(0)
    for _ in range(3):  # waves, that overlap
        doc_rows, class_rows = generator.integers(0, 12, size=15), generator.integers(0, 4, size=15)
        found = pairs.score_pairs(doc_rows, class_rows)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[doc_rows, class_rows], atol=1e-5)
    nothing = np.zeros(0, dtype=np.int64)
    assert pairs.score_pairs(nothing, nothing).shape == (0,)


def test_all_pairs_are_scored_block_by_block(scorer, monkeypatch):
    documents = [*sentences(7), "a cat", "a cat", *sentences(3)]
    whole = PairScorer(scorer, documents, CLASSES).score_all()
    monkeypatch.setattr(scoring, "BLOCK", 4)
    pairs = PairScorer(scorer, documents, CLASSES)
    runs, run = [], pairs._run
    pairs._run = lambda rows, texts: runs.append(len(rows)) or run(rows, texts)
    np.testing.assert_allclose(pairs.score_all(), whole, atol=1e-5)
    assert runs == [4 * 5, 4 * 5]  # of eight different documents, with five texts each


def test_no_pair_of_texts_is_run_twice(scorer):
    documents = ["a cat", "the law", "a cat"]
    pairs = PairScorer(scorer, documents, [("about a cat",), ("about law",), ("about a cat", "dog")])
    pairs.score_pairs(np.array([0, 0, 2]), np.array([0, 0, 0]))
    assert pairs.tally.sequences == 1
    scores = pairs.score_all()
    assert pairs.tally.sequences == 2 * 3
    assert np.array_equal(scores[0], scores[2])
    pairs.score_all()
    assert pairs.tally.sequences == 2 * 3


def test_progress_adds_up_to_the_pairs_of_distinct_texts(scorer, tmp_path):
    for _ in range(2):  # the second from the cache
        done: list[int] = []
        pairs = PairScorer(scorer, [*sentences(9), "a cat", "a cat"], CLASSES, 100, progress=done.append)
        pairs.cache_folder = tmp_path
        pairs.score_all()
        assert sum(done) == 10 * 5


def test_every_class_needs_a_text(scorer):
    for empty in ((), ("",)):
        with pytest.raises(UserError, match="class in row 1"):
            PairScorer(scorer, ["a cat"], [("a cat",), empty])


def test_only_the_document_is_cut_and_that_is_counted(scorer):
    room = scorer.loaded.room
    long = "x" * (room - 5)  # a token a letter
    documents = ["z" * 5, "z" * 6, "z" * 100, "z" * 6]
    pairs = PairScorer(scorer, documents, [(long,), ("x",)])
    seen: list[int] = []
    logits = scorer.logits
    scorer.logits = lambda first, second: (
        seen.extend(len(a) + len(b) for a, b in zip(first, second, strict=True)) or logits(first, second)
    )
    pairs.score_all()
    assert max(seen) == room
    assert pairs.truncated == 3
    with pytest.raises(UserError, match="leave no room for a document"):
        PairScorer(scorer, documents, [("x" * room,)]).score_all()


def test_scores_that_are_not_numbers_are_refused(scorer):
    next(scorer.loaded.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        PairScorer(scorer, ["a cat"], CLASSES).score_all()


def test_out_of_memory_halves_the_budget_and_changes_no_score(scorer):
    documents = sentences(20)
    expected = PairScorer(scorer, documents, CLASSES).score_all()
    scorer.loaded.warn = lambda _: None
    scorer.loaded.model = Crowded(scorer.loaded.model, limit=4)
    pairs = PairScorer(scorer, documents, CLASSES)
    np.testing.assert_allclose(pairs.score_all(), expected, atol=1e-5)
    assert pairs.tally.halvings > 0
    assert pairs.tally.padding_share <= 0.05


# ---- several names


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from(["best", "mean"]))
def test_a_class_has_the_best_or_the_mean_score_of_its_names(counts, names):
    scores = np.random.default_rng(sum(counts)).normal(size=(3, sum(counts))).astype(np.float32)
    starts = np.cumsum([0, *counts])
    found = combine(scores, starts[:-1], names)
    assert found.dtype == np.float32
    for column, (start, stop) in enumerate(pairwise(starts)):
        part = scores[:, start:stop]
        np.testing.assert_allclose(found[:, column], part.max(1) if names == "best" else part.mean(1), atol=1e-6)


@pytest.mark.parametrize("names", ["best", "mean"])
def test_pairs_and_the_whole_matrix_agree_on_several_names(scorer, names):
    documents = sentences(6)
    pairs = PairScorer(scorer, documents, CLASSES, names)
    alone = PairScorer(scorer, documents, [(text,) for texts in CLASSES for text in texts]).score_all()
    expected = alone[:, [0, 1, 3, 4]]
    expected[:, 1] = alone[:, 1:3].max(1) if names == "best" else alone[:, 1:3].mean(1)
    rows, columns = (each.ravel() for each in np.indices(pairs.shape))
    np.testing.assert_allclose(pairs.score_pairs(rows, columns).reshape(pairs.shape), expected, atol=1e-5)
    np.testing.assert_allclose(pairs.score_all(), expected, atol=1e-5)


def test_label_texts_fill_in_every_name_below_the_main_names_of_its_ancestors():
    names = (("animals", "fauna"), ("dogs",), ("puppies", "whelps {x}", "puppies"))
    tree = replace(taxonomy(3, [(0, 1), (1, 2)]), names=names)
    assert label_texts(tree, "{class_name}") == (("animals", "fauna"), ("dogs",), ("puppies", "whelps {x}"))
    assert label_texts(tree, "about {path}.")[2] == (
        "about animals > dogs > puppies.",
        "about animals > dogs > whelps {x}.",
    )


def test_label_texts_have_the_description_and_of_several_parents_the_first():
    tree = replace(taxonomy(4, [(2, 1), (1, 0), (3, 0)]), descriptions=("deep", "", "", ""))
    name = [each[0] for each in tree.names]
    assert label_texts(tree, "{path}")[0] == (f"{name[2]} > {name[1]} > {name[0]}",)
    assert label_texts(tree, "{class_name}: {description}")[0] == (f"{name[0]}: deep",)
    assert label_texts(tree, "{class_name} {description}")[1] == (name[1],)


@pytest.mark.parametrize("descriptions", [(), ("", "they bark", "they meow"), ("alive", "they bark", "")])
def test_a_class_of_which_a_template_says_nothing_is_named_in_one_line(descriptions):
    tree = described(NAMED, *descriptions)
    assert label_texts(tree, "{description}.")  # little, but a text
    lacking = descriptions.index("") if descriptions else 0
    with pytest.raises(UserError, match=f"^class id-{lacking}: has no description, and nothing else is in '{{descr"):
        label_texts(tree, "{description}")


def test_label_texts_take_no_brace_from_a_name():
    tree = replace(taxonomy(1, []), names=(("{path} %s {",),))
    assert label_texts(tree, "<{class_name}>") == (("<{path} %s {>",),)


# ---- the cache


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "PART", {"cpu": 20})


def scored(scorer: NliScorer, documents: list[str], classes: Any, folder: Path, **options: Any) -> tuple[Any, int]:
    """Scores of all pairs, and how many pairs of texts were run for them."""
    scorer.loaded.tally = Tally()
    pairs = PairScorer(scorer, documents, classes, cache_folder=folder, **options)
    return pairs.score_all(), pairs.tally.sequences


@pytest.mark.usefixtures("small_parts")
def test_a_new_class_or_document_costs_only_its_own_pairs(scorer, tmp_path):
    documents = sentences(15)
    plain = PairScorer(scorer, documents, CLASSES).score_all()
    first, ran = scored(scorer, documents, CLASSES, tmp_path)
    assert ran == 15 * 5
    assert np.array_equal(first, plain)
    again, ran = scored(scorer, documents[::-1], CLASSES[::-1], tmp_path)
    assert ran == 0
    assert np.array_equal(again[::-1, ::-1], first)
    wider, ran = scored(scorer, documents, [("a new one",), *CLASSES], tmp_path)
    assert ran == 15
    assert np.array_equal(wider[:, 1:], first)
    longer, ran = scored(scorer, ["a new document", *documents], CLASSES, tmp_path)
    assert ran == 5
    assert np.array_equal(longer[1:], first)


def test_another_score_or_length_does_not_read_the_cache(one_folder, scorer, tmp_path):
    documents = sentences(5)
    scored(scorer, documents, CLASSES, tmp_path)
    for options in ({"max_length": 39}, {"max_length": 40, "score": "entail_vs_contra"}):
        other = NliScorer.load(str(one_folder), **options)
        assert scored(other, documents, CLASSES, tmp_path)[1] == 5 * 5


@pytest.mark.usefixtures("small_parts")
def test_a_killed_run_goes_on_where_it_was_with_the_same_bytes(scorer, tmp_path):
    documents = sentences(30)
    left = [70]

    def kill(done: int) -> None:
        left[0] -= done
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(scorer, documents, CLASSES, tmp_path / "killed", batch_tokens=100, progress=kill)
    kept = len(list((tmp_path / "killed").rglob("*.npz")))
    assert kept == 3
    found, ran = scored(scorer, documents, CLASSES, tmp_path / "killed", batch_tokens=100)
    assert ran == 30 * 5 - kept * 20
    whole, _ = scored(scorer, documents, CLASSES, tmp_path / "whole", batch_tokens=100)
    assert found.tobytes() == whole.tobytes()


@pytest.mark.usefixtures("small_parts")
def test_waves_are_kept_too(scorer, tmp_path):
    documents = sentences(20)
    rows, columns = (each.ravel() for each in np.indices((20, 4)))
    chosen = np.random.default_rng(0).random(80) < 0.4
    pairs = PairScorer(scorer, documents, CLASSES, cache_folder=tmp_path)
    first = pairs.score_pairs(rows[chosen], columns[chosen])
    again = PairScorer(scorer, documents, CLASSES, cache_folder=tmp_path)
    before = again.tally.sequences
    assert np.array_equal(again.score_pairs(rows[chosen], columns[chosen]), first)
    assert again.tally.sequences == before
    assert np.isnan(again.known).any()


# ---- candidates


@given(dags(), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_path_candidates_are_the_classes_of_the_k_best_chains(tree, k, seed, ties):
    similarity = np.random.default_rng(seed).random((5, len(tree)), dtype=np.float32)
    if ties:
        similarity = np.round(similarity * 2) / 2
    expected = []
    for row in range(5):
        means = {chain: sum(map(float, similarity[row, list(chain)])) / len(chain) for chain in tree.chains}
        best = sorted(means.values(), reverse=True)[:k][-1]
        classes = {each for chain, mean in means.items() if mean >= best - 1e-12 for each in chain}
        expected += [(row, each) for each in sorted(classes)]
    found = path_candidates(tree, similarity, k)
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected
    assert {each.dtype for each in found} == {np.dtype(np.int64)}


def test_the_prefilter_works_block_by_block(monkeypatch):
    tree = taxonomy(6, [(0, 1), (0, 2), (3, 4), (1, 5), (4, 5)])
    similarity = np.random.default_rng(0).random((10, 6), dtype=np.float32)
    whole = path_candidates(tree, similarity, 2)
    monkeypatch.setattr(scoring, "BLOCK", 3)
    for found, expected in zip(path_candidates(tree, similarity, 2), whole, strict=True):
        assert np.array_equal(found, expected)
    similarity[4, 2] = np.nan
    with pytest.raises(ValueError, match="every pair"):
        path_candidates(tree, similarity, 2)


def test_paths_score_the_prefiltered_classes_and_leave_the_rest_nan(scorer):
    tree = taxonomy(4, [(0, 1), (2, 3)])
    documents = sentences(8)
    similarity = np.random.default_rng(0).random((8, 4), dtype=np.float32)
    pairs = PairScorer(scorer, documents, CLASSES)
    rows, columns = path_candidates(tree, similarity, 1)
    found = np.full(pairs.shape, np.nan, dtype=np.float32)
    found[rows, columns] = pairs.score_pairs(rows, columns)
    scored_pairs = np.zeros((8, 4), dtype=bool)
    scored_pairs[rows, columns] = True
    assert np.array_equal(np.isnan(found), ~scored_pairs)
    assert not scored_pairs.all()
    assert np.array_equal(found[rows, columns], pairs.score_all()[rows, columns])


# ---- the cost


def test_the_cost_of_all_pairs_is_what_is_run(scorer):
    pairs = PairScorer(scorer, [*sentences(10, longest=60), "a cat", "a cat"], CLASSES, batch_tokens=128)
    cost = pairs.cost()
    scorer.loaded.tally = Tally()
    pairs.score_all()
    assert cost.count == pairs.tally.sequences == 11 * 5
    assert cost.tokens == pytest.approx(pairs.tally.tokens)
    assert cost.flops > 0
    assert cost.seconds > 0
    assert "55 pairs x" in str(cost)
    assert pairs.cost(measure=False).count == 0  # nothing is left


def test_the_cost_of_some_pairs_is_their_share(scorer):
    pairs = PairScorer(scorer, sentences(10), CLASSES)
    some, every = pairs.cost(5, measure=False), pairs.cost(measure=False)
    assert some.flops == pytest.approx(every.flops / 10)
    assert np.isnan(some.seconds)


# ---- backend: embedding


def described(tree, *descriptions):
    return replace(tree, descriptions=descriptions)


NAMED = replace(taxonomy(3, [(0, 1), (0, 2)]), names=(("animals", "fauna"), ("dogs",), ("cats", "felines", "kitties")))


def test_each_name_has_the_texts_of_all_templates_as_one_group():
    assert ensembles(NAMED, ["{class_name}", "about {path}."]) == [
        [["animals", "about animals."], ["fauna", "about fauna."]],
        [["dogs", "about animals > dogs."]],
        [
            ["cats", "about animals > cats."],
            ["felines", "about animals > felines."],
            ["kitties", "about animals > kitties."],
        ],
    ]


@given(dags(), st.data())
def test_the_groups_of_a_class_are_its_names_in_their_order(tree, data):
    counts = data.draw(st.lists(st.integers(1, 3), min_size=len(tree), max_size=len(tree)))
    named = replace(tree, names=tuple(tuple(f"n{row}.{at}" for at in range(n)) for row, n in enumerate(counts)))
    groups = ensembles(named, ["{class_name}", "the {class_name}"])
    assert groups == [[[name, f"the {name}"] for name in names] for names in named.names]


def test_a_template_with_a_description_is_left_out_for_a_class_that_has_none():
    tree = described(NAMED, "", "they bark", "")
    groups = ensembles(tree, ["{class_name}: {description}", "{class_name}"])
    assert groups[:2] == [[["animals"], ["fauna"]], [["dogs: they bark", "dogs"]]]
    for without in (NAMED, described(NAMED, "", "", "")):  # no file of descriptions, and an empty one
        assert ensembles(without, ["{class_name}", "{description}"]) == ensembles(NAMED, ["{class_name}"])


@pytest.mark.parametrize("templates", [["{class_name}: {description}"], ["{description}", "{path}, {description}"]])
def test_a_class_that_is_left_without_a_text_is_named_in_one_line(templates):
    with pytest.raises(UserError) as caught:
        ensembles(described(NAMED, "alive", "", "purr"), templates)
    assert str(caught.value) == (
        f"class id-1: has no description, and {templates[0]!r} needs one; write one in keywords_file, or add a template"
        " with {class_name}"
    )


@pytest.mark.parametrize("backend", ["embedding", "nli"])
def test_the_default_templates_can_all_be_filled_in_with_descriptions_for_some(backend):
    tree = described(NAMED, "alive", "", "purr")
    templates = Similarity(backend=backend).templates(described=True)
    groups = [texts for names in ensembles(tree, templates) for texts in names]
    assert "animals: alive" in groups[0] if backend == "embedding" else len(templates) == 1
    assert [len(group) - len(groups[2]) for group in groups] == [int(backend == "embedding")] * 2 + [0] + [
        int(backend == "embedding")
    ] * 3
    assert all(all(group) for group in groups)


class Known:
    """An encoder of given vectors, that notes what it is asked."""

    def __init__(self, **vectors: list[float]) -> None:
        self.vectors = vectors
        self.asked: list[tuple[list[str], int]] = []

    def encode(self, texts, batch_tokens):
        self.asked.append((list(texts), batch_tokens))
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


def test_the_vector_of_a_name_is_the_mean_over_its_texts_at_length_one():
    encoder = Known(a=[1, 0, 0], b=[0, 1, 0], c=[0, 0, 1], d=[0.6, 0.8, 0])
    found = label_vectors(encoder, [["a"], ["a", "b"], ["b", "c", "a"], ["d"], ["a", "a", "b"]], 77)
    expected = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0.6, 0.8, 0], [2, 1, 0]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert encoder.asked == [(list("aabbcadaab"), 77)]  # all at once


def test_texts_that_cancel_out_have_no_direction_and_no_cosine():
    labels = label_vectors(Known(a=[1, 0], b=[-1, 0]), [["a", "b"], ["a"]])
    assert labels.tolist() == [[0, 0], [1, 0]]
    assert embedding_scores(np.eye(2, dtype=np.float32), labels, np.array([0, 1])).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("names", ["best", "mean"])
@pytest.mark.parametrize("block", [1, 4, 4096])
def test_embedding_scores_are_cosines_with_the_names_of_each_class(tmp_path, names, block, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", block)
    encoder = Encoder.load(str(save_model(tmp_path, "bert")), max_length=32)
    documents = encoder.encode(sentences(9))
    tree = described(NAMED, "", "the law", "")
    templates = ["{class_name}", "this text is about {class_name}", "{class_name}: {description}"]
    groups = [texts for each in ensembles(tree, templates) for texts in each]
    found = embedding_scores(documents, label_vectors(encoder, groups), np.array([0, 2, 3]), names)
    assert found.shape == (9, 3)
    assert found.dtype == np.float32
    for column, each in enumerate(tree.names):
        vectors = []
        for name in each:
            texts = [template.format(class_name=name, description="the law") for template in templates]
            mean = encoder.encode(texts[: 3 if column == 1 else 2]).astype(np.float64).mean(axis=0)
            vectors.append(mean / np.linalg.norm(mean))
        cosines = documents.astype(np.float64) @ np.array(vectors).T
        np.testing.assert_allclose(found[:, column], cosines.max(1) if names == "best" else cosines.mean(1), atol=1e-6)


def test_a_class_that_goes_by_one_name_is_scored_by_it_alone():
    documents = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    labels = np.array([[1, 0], [0, 1], [0.8, 0.6]], dtype=np.float32)
    for names, second in (("best", [0.8, 0.96]), ("mean", [0.4, 0.88])):
        found = embedding_scores(documents, labels, np.array([0, 1]), names)
        np.testing.assert_allclose(found, np.column_stack([[1, 0.6], second]), atol=1e-6)
