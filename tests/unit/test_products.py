"""Each file between the stages comes back as it was written, or is refused with its name."""

import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import files
from common.errors import UserError
from random_taxonomies import dags
from taxoclass import products
from taxoclass.corpus import Corpus, read_corpus
from taxoclass.decoding import Labels
from taxoclass.mining import Cores, Sparse
from taxoclass.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    ("10", "9", "ü b"), (("top",), ("one", "first"), ('"two" | 2',)), np.array([[0, 1], [0, 2]]), ("", "é", "-")
)
CORPUS = Corpus(("d1", "ä, 2", "03"), ("text\nof two lines", "", "three " * 40), ("train", "train", "test"))
SIMILARITY = np.array([[0.5, -0.25, math.nan], [0, 1, -1], [math.nan, math.nan, 3e-8]], dtype=np.float32)
LABELS = Labels.of([[0, 2], [], [1]])
CANDIDATES = Sparse(*Labels.of([[0], [0, 1], []]), np.array([1, 0.5, 0.25], dtype=np.float32))
CORES = Cores(
    np.array([0, 1, 1, 2]), np.array([2, 0], dtype=np.int32), np.array([0.5, 0.1], dtype=np.float32), np.full(3, 0.25)
)
NEIGHBOURS = np.array([[1, 2], [0, 2], [1, 0]], dtype=np.int32)
CLUSTERS = np.array([[1], [0], [1]], dtype=np.int32)
META = {"scale": "logit", "model": {"name": "x", "revision": None}}


def records(path: str) -> None:
    found = products.label_records(
        CORPUS.doc_ids, TAXONOMY, LABELS, [(0, 2), (), (1,)], np.array([0.5, math.nan, 1.0]), np.full((3, 3), 0.5)
    )
    files.write_lines(path, [json.dumps(each, ensure_ascii=False) for each in found])


WRITERS = {
    "taxonomy": lambda path: products.write_taxonomy(path, TAXONOMY),
    "corpus": lambda path: products.write_corpus(path, CORPUS),
    "similarity": lambda path: products.write_similarity(
        path, SIMILARITY, NEIGHBOURS, CLUSTERS, CORPUS, TAXONOMY, META
    ),
    "cores": lambda path: products.write_cores(path, CANDIDATES, CORES, CORPUS.doc_ids, TAXONOMY, META),
    "labels": lambda path: products.write_label_sets(path, LABELS, CORPUS.doc_ids, TAXONOMY),
    "records": records,
}
# of a path, the ids of the documents and a taxonomy; the first two are what says what these are
READERS = {
    "taxonomy": lambda path, *_: products.read_taxonomy(path),
    "corpus": lambda path, *_: products.read_corpus(path),
    "similarity": products.read_similarity,
    "cores": products.read_cores,
    "labels": products.read_label_sets,
    "records": products.read_label_records,
}
CHECKED = ["similarity", "cores", "labels", "records"]


@pytest.fixture
def made(tmp_path):
    """made(kind): a sound file of that kind."""

    def make(kind: str) -> str:
        path = str(tmp_path / f"x.{kind}")
        WRITERS[kind](path)
        return path

    return make


def same(one: object, other: object) -> bool:
    if isinstance(one, Taxonomy):
        return content(one) == content(other)
    if isinstance(one, Corpus):
        return one == other
    return all(
        np.array_equal(a, b, equal_nan=True) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


def content(taxonomy: Taxonomy) -> tuple:
    return taxonomy.ids, taxonomy.names, taxonomy.edges.tolist(), taxonomy.descriptions


def refusal(read, *arguments) -> str:
    """The one line that refuses the file of the first argument, without its name."""
    with pytest.raises(UserError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{arguments[0]}: ")
    return message.removeprefix(f"{arguments[0]}: ")


# ---- round trips


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("taxonomy", TAXONOMY),
        ("corpus", CORPUS),
        ("similarity", (SIMILARITY, NEIGHBOURS, CLUSTERS, META)),
        ("cores", CORES),
        ("labels", LABELS),
        ("records", LABELS),
    ],
    ids=WRITERS,
)
def test_a_product_comes_back_as_it_was_written(made, kind, written):
    assert same(READERS[kind](made(kind), CORPUS.doc_ids, TAXONOMY), written)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_product_is_the_same_bytes(made, kind):
    whole = Path(made(kind)).read_bytes()
    assert Path(made(kind)).read_bytes() == whole


# what the reader of corpora lets through
IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@st.composite
def corpora(draw) -> Corpus:
    ids = draw(st.lists(IDS, unique=True, min_size=1, max_size=5))
    texts = [draw(TEXTS) for _ in ids]
    return Corpus(tuple(ids), tuple(texts), tuple(draw(st.sampled_from(["train", "test"])) for _ in ids))


@settings(max_examples=25)
@given(corpora(), dags(), st.data())
def test_any_corpus_taxonomy_and_matrix_come_back(tmp_path_factory, corpus, taxonomy, data):
    folder = tmp_path_factory.getbasetemp()
    paths = [str(folder / f"any.{kind}") for kind in ("corpus", "taxonomy", "similarity", "labels")]
    products.write_corpus(paths[0], corpus)
    products.write_taxonomy(paths[1], taxonomy)
    back = products.read_taxonomy(paths[1])
    assert products.read_corpus(paths[0]) == corpus
    assert content(back) == content(taxonomy)
    assert back.fingerprint == taxonomy.fingerprint
    scores = data.draw(hnp.arrays(np.float32, (len(corpus), len(taxonomy)), elements=st.floats(width=32)))
    nearest = np.empty((len(corpus), 0), dtype=np.int32)
    products.write_similarity(paths[2], scores, nearest, nearest, corpus, taxonomy, META)
    assert same(products.read_similarity(paths[2], corpus.doc_ids, back), (scores, nearest, nearest, META))
    rows = st.sets(st.integers(0, len(taxonomy) - 1))
    labels = Labels.of(data.draw(st.lists(rows, min_size=len(corpus), max_size=len(corpus))))
    products.write_label_sets(paths[3], labels, corpus.doc_ids, taxonomy)
    assert same(products.read_label_sets(paths[3], corpus.doc_ids, back), labels)


def test_the_corpus_is_a_file_that_predict_reads_by_split(tmp_path):
    # the rule gives predict the corpus of check_corpus, through the reader of the user's own files
    path = str(tmp_path / "corpus.parquet")
    products.write_corpus(path, CORPUS)
    for split in ("train", "test"):
        rows = [row for row, part in enumerate(CORPUS.split) if part == split]
        expected = Corpus(*(tuple(each[row] for row in rows) for each in (CORPUS.doc_ids, CORPUS.texts, CORPUS.split)))
        assert read_corpus(path, split=split) == expected


def test_the_similarity_file_has_the_arrays_of_the_specification(made):
    with np.load(made("similarity"), allow_pickle=False) as stored:
        arrays = dict(stored)
    assert arrays.keys() == {
        "similarity_matrix",
        "doc_ids",
        "class_ids",
        "train_size",
        "test_size",
        "meta",
        "neighbours",
        "clusters",
    }
    assert arrays["similarity_matrix"].dtype == np.float32
    assert arrays["doc_ids"].tolist() == list(CORPUS.doc_ids) and arrays["class_ids"].tolist() == list(TAXONOMY.ids)
    assert (arrays["train_size"], arrays["test_size"]) == (2, 1)
    assert json.loads(str(arrays["meta"])) == META


def test_the_core_class_file_has_candidates_and_cores_in_csr_layout(made):
    with np.load(made("cores"), allow_pickle=False) as stored:
        arrays = dict(stored)
    for name, expected in {
        "candidate_indptr": CANDIDATES.indptr,
        "candidate_indices": CANDIDATES.indices,
        "candidate_path_score": CANDIDATES.values,
        "core_indptr": CORES.indptr,
        "core_indices": CORES.indices,
        "core_confidence": CORES.confidence,
        "thresholds": CORES.thresholds,
    }.items():
        assert np.array_equal(arrays[name], expected), name


def test_the_digest_of_an_array_follows_its_values_whatever_its_layout():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    digest = products.array_digest(array)
    assert products.array_digest(np.asfortranarray(array)) == products.array_digest(array.copy()) == digest
    other = array.copy()
    other[2, 3] = np.nextafter(other[2, 3], 0)
    assert products.array_digest(other) != digest
    assert products.array_digest(np.where(array == 0, np.float32(-0.0), array)) != digest


def test_the_digest_of_a_memory_map_is_that_of_its_array(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", array)
    assert products.array_digest(np.load(tmp_path / "x.npy", mmap_mode="r")) == products.array_digest(array)


# ---- what is refused

OTHER_DOCUMENTS = {
    "one fewer": CORPUS.doc_ids[:-1],
    "one more": (*CORPUS.doc_ids, "d4"),
    "another order": CORPUS.doc_ids[::-1],
    "another id": ("d1", "ä, 2", "3"),
    "none": (),
}
OTHER_CLASSES = {
    "one fewer": (TAXONOMY.ids[:2], TAXONOMY.names[:2]),
    "another order": (("9", "10", "ü b"), TAXONOMY.names),
    "another id": (("10", "9", "ü"), TAXONOMY.names),
}


@pytest.mark.parametrize("which", OTHER_DOCUMENTS)
@pytest.mark.parametrize("kind", CHECKED)
def test_a_product_of_other_documents_is_refused(made, kind, which):
    message = refusal(READERS[kind], made(kind), OTHER_DOCUMENTS[which], TAXONOMY)
    assert "documents" in message and message.endswith("; run the stage that makes it again")


@pytest.mark.parametrize("which", OTHER_CLASSES)
@pytest.mark.parametrize("kind", ["similarity", "cores", "labels"])
def test_a_product_of_other_classes_is_refused(made, kind, which):
    other = Taxonomy(*OTHER_CLASSES[which], np.empty((0, 2), dtype=np.int64))
    message = refusal(READERS[kind], made(kind), CORPUS.doc_ids, other)
    assert message == "was made from other classes than those of this run; run the stage that makes it again"


def test_records_with_a_class_that_is_not_there_are_refused(made):
    other = Taxonomy(("10", "9", "ü"), TAXONOMY.names, TAXONOMY.edges)
    message = refusal(products.read_label_records, made("records"), CORPUS.doc_ids, other)
    assert message == "has not the labels of these documents and classes; run the stage that makes it again"


@pytest.mark.parametrize(
    "text",
    ["3", "null", "[1]", "{", '{"doc_id": "d"}', '{"doc_id": "d", "labels": 3}', '{"doc_id": "d", "labels": [["9"]]}'],
)
def test_records_that_are_none_are_refused(write, text):
    assert "labels" in refusal(products.read_label_records, write("labels.jsonl", text + "\n"), ["d"], TAXONOMY)


@pytest.mark.parametrize("damage", ["absent", "a folder", "empty", "truncated", "noise", "another product"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_product_is_refused_in_one_line_with_its_name(made, kind, damage):
    path = made(kind)
    whole = Path(path).read_bytes()
    os.unlink(path)
    if damage == "a folder":
        os.mkdir(path)
    elif damage == "another product":
        WRITERS["cores" if kind == "labels" else "labels"](path)
    elif damage != "absent":
        spoilt = {"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\xff\xfe\x00" * 50}[damage]
        Path(path).write_bytes(spoilt)
    assert "; " in refusal(READERS[kind], path, CORPUS.doc_ids, TAXONOMY)  # the cure


@pytest.mark.parametrize("kind", ["similarity", "cores", "labels"])
def test_an_array_that_is_missing_is_named(made, kind):
    path = made(kind)
    with np.load(path) as stored:
        arrays = dict(stored)
    needed = {
        "similarity": ["similarity_matrix", "neighbours", "meta"],
        "cores": ["core_indptr", "core_indices", "core_confidence", "thresholds"],
        "labels": ["indptr", "indices"],
    }
    for name in ["doc_ids", "class_ids", *needed[kind]]:
        np.savez(path, **{key: value for key, value in arrays.items() if key != name})
        os.replace(f"{path}.npz", path)
        message = refusal(READERS[kind], path, CORPUS.doc_ids, TAXONOMY)
        assert message == f"has no array {name}; run the stage that makes it again"


@pytest.mark.parametrize("missing", ["doc_id", "text", "split"])
def test_a_corpus_without_one_of_its_columns_is_refused(tmp_path, missing):
    columns = {name: ["x"] for name in ("doc_id", "text", "split") if name != missing}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert missing in refusal(products.read_corpus, str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("missing", ["ids", "names", "edges", "descriptions"])
def test_a_taxonomy_without_one_of_its_parts_is_refused(made, missing):
    path = made("taxonomy")
    whole = files.read_json(path)
    del whole[missing]
    files.write_json(path, whole)
    message = refusal(products.read_taxonomy, path)
    assert message == "is not a taxonomy of check_corpus; run the stage that makes it again"


@settings(max_examples=60)
@given(st.sampled_from(["similarity", "cores", "labels"]), st.integers(0, 10_000), st.integers(1, 255))
def test_no_damaged_byte_of_an_array_product_is_read_as_other_content(tmp_path_factory, kind, place, flip):
    path = tmp_path_factory.getbasetemp() / f"bytes.{kind}"
    WRITERS[kind](str(path))
    damaged = bytearray(path.read_bytes())
    sound = READERS[kind](str(path), CORPUS.doc_ids, TAXONOMY)
    damaged[place % len(damaged)] ^= flip
    path.write_bytes(damaged)
    try:
        found = READERS[kind](str(path), CORPUS.doc_ids, TAXONOMY)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert same(found, sound)  # a byte that says nothing, such as a date of the zip


def test_a_damaged_text_of_the_corpus_is_refused_in_one_line(tmp_path):
    path = tmp_path / "corpus.parquet"
    products.write_corpus(str(path), Corpus(("a",), ("zzz-marker-zzz",), ("train",)))
    whole = path.read_bytes()
    assert b"zzz-marker-zzz" in whole
    path.write_bytes(whole.replace(b"-marker-", b"\xff\xfemarker"))
    refusal(products.read_corpus, str(path))


def test_no_damaged_text_of_the_corpus_is_read_as_another_text(tmp_path):
    path = tmp_path / "corpus.parquet"
    products.write_corpus(str(path), Corpus(("a",), ("zzz-marker-zzz",), ("train",)))
    path.write_bytes(path.read_bytes().replace(b"-marker-", b"-Marker-"))
    refusal(products.read_corpus, str(path))


def test_a_taxonomy_whose_content_is_not_what_was_written_is_refused(made):
    path = Path(made("taxonomy"))
    path.write_text(path.read_text().replace('"first"', '"fjrst"'))
    refusal(products.read_taxonomy, str(path))


# ---- records and submission


def test_a_record_has_the_best_label_first_with_names_probabilities_and_the_path():
    scores = np.array([[0.25, 0.1, 0.75], [0.5, 0.5, 0.5]], dtype=np.float32)
    found = list(
        products.label_records(
            ["a", "b"], TAXONOMY, Labels.of([[0, 2], [0, 1, 2]]), [(0, 2), (0,)], np.array([1 / 3, 0.5]), scores
        )
    )
    assert found[0] == {
        "doc_id": "a",
        "labels": ["ü b", "10"],
        "names": ['"two" | 2', "top"],
        "scores": [0.75, 0.25],
        "path": ["10", "ü b"],
        "path_score": 0.333333,
    }
    assert found[1]["labels"] == ["10", "9", "ü b"]  # of equals the first class
    assert found[1]["names"][1] == "one"  # the main name


def test_a_record_without_labels_has_no_path_and_is_valid_json():
    [found] = products.label_records(
        ["a"], TAXONOMY, Labels.of([[]]), [()], np.array([math.nan], dtype=np.float32), np.ones((1, 3), np.float32)
    )
    assert found == {"doc_id": "a", "labels": [], "names": [], "scores": [], "path": [], "path_score": None}
    json.dumps(found, allow_nan=False)


def test_records_of_a_memory_map_are_those_of_its_array(tmp_path):
    scores = np.random.default_rng(0).random((3, 3), dtype=np.float32)
    np.save(tmp_path / "p.npy", scores)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    one, other = (
        list(products.label_records(CORPUS.doc_ids, TAXONOMY, LABELS, [(), (), ()], np.zeros(3), each))
        for each in (scores, mapped)
    )
    assert one == other


def test_records_of_too_few_paths_are_a_fault_of_the_program():
    with pytest.raises(ValueError, match="shorter"):
        list(products.label_records(["a", "b"], TAXONOMY, Labels.of([[], []]), [()], np.zeros(2), np.zeros((2, 3))))


def flat(ids: list[str]) -> Taxonomy:
    return Taxonomy(tuple(ids), tuple((each,) for each in ids), np.empty((0, 2), dtype=np.int64))


def test_the_submission_reads_as_the_competition_wants_it():
    taxonomy = flat(["10", "9", "100", "0"])
    lines = products.submission(["7", "8", "9"], taxonomy, Labels.of([[0, 1, 2, 3], [2], []]))
    assert lines == ["id,labels", '7,"0,9,10,100"', '8,"100"', '9,""']


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["10", "9", "2"], "2,9,10"),  # numbers by value
        (["10", "9", "x"], "10,9,x"),  # one that is none: text
        (["2", "02", "1"], "1,02,2"),  # equal numbers by text
        (["b", "B", "a"], "B,a,b"),
        (["-1", "2", "10"], "-1,10,2"),
        (["²", "10", "9"], "10,9,²"),  # a digit that int() does not read
        (["٣", "10", "9"], "10,9,٣"),
    ],
)
def test_ids_are_in_the_order_of_numbers_where_all_are_numbers_and_of_text_elsewhere(ids, expected):
    [_, line] = products.submission(["d"], flat(ids), Labels.of([range(len(ids))]))
    assert line == f'd,"{expected}"'


CLASS_IDS = st.one_of(
    st.lists(st.integers(0, 2000).map(str), unique=True, min_size=1, max_size=6),
    st.lists(
        st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=","), min_size=1, max_size=4),
        unique=True,
        min_size=1,
        max_size=6,
    ),
)
DOC_IDS = st.lists(
    st.text(st.sampled_from("a1,\"; 'é#\\|"), min_size=1, max_size=6).filter(lambda each: each == each.strip()),
    unique=True,
    min_size=1,
    max_size=5,
)


@settings(max_examples=60)
@given(CLASS_IDS, DOC_IDS, st.data())
def test_the_submission_comes_back_from_csv_and_pandas_whatever_is_in_the_ids(class_ids, doc_ids, data):
    rows = st.sets(st.integers(0, len(class_ids) - 1))
    sets = data.draw(st.lists(rows, min_size=len(doc_ids), max_size=len(doc_ids)))
    text = "".join(f"{line}\n" for line in products.submission(doc_ids, flat(class_ids), Labels.of(sets)))
    order = int if all(each.isascii() and each.isdecimal() for each in class_ids) else str
    expected = [
        [doc_id, ",".join(sorted((class_ids[row] for row in each), key=order))]
        for doc_id, each in zip(doc_ids, sets, strict=True)
    ]
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [["id", "labels"], *expected]
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    assert frame.to_numpy().tolist() == expected and frame.columns.tolist() == ["id", "labels"]
    assert len(text.splitlines()) == len(doc_ids) + 1  # a record a line, for those who read it with other tools
