"""Corpora and gold labels of every format become the same documents, or one line that says what is wrong where."""

import csv
import gzip
import io
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from random_taxonomies import closed
from taxoclass.corpus import Corpus, Document, documents, gold_warnings, joined, read_corpus, read_labels
from taxoclass.reading import read_taxonomy
from taxoclass.taxonomy import Taxonomy

FOLDERS = ["wos1k", "20news", "reuters21578", "debtags"]
FORMATS = ["x.tsv", "x.txt", "x.csv", "x.jsonl", "x.ndjson", "x.parquet", "x.pq"]

TAXONOMY = Taxonomy(("7", "x", "up"), (("seven",), ("ex",), ("up",)), np.array([[2, 0]]))


def packed(name: str, records: list[dict], header: bool = True) -> bytes:
    """The records as a file of the format that the name says."""
    columns = list(records[0])
    if name.endswith((".parquet", ".pq")):
        sink = io.BytesIO()
        pq.write_table(pa.table({key: [record[key] for record in records] for key in columns}), sink)
        return sink.getvalue()
    if name.endswith((".jsonl", ".ndjson")):
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    rows = [columns] * header + [[str(value) for value in record.values()] for record in records]
    if name.endswith(".csv"):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        return text.getvalue().encode()
    return "".join("\t".join(row) + "\n" for row in rows).encode()


@pytest.fixture
def refusal(write, tmp_path):
    def refuse(name: str, content: str | bytes, read=read_corpus, **arguments) -> str:
        """The one line that refuses the file, without the folder."""
        path = write(name, content)
        with pytest.raises(UserError) as caught:
            read(path, **arguments)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert message.startswith(path)
        assert "; " in message  # the fix
        return message.replace(f"{tmp_path}/", "")

    return refuse


# ---- documents of every format


@pytest.mark.parametrize("name", FOLDERS)
def test_the_shared_corpora_have_their_documented_counts(shared_data, name):
    folder = shared_data / "text" / name
    stats = json.loads((folder / "stats.json").read_text())
    [path] = folder.glob("corpus.jsonl*")
    corpus = read_corpus(str(path))
    assert len(corpus) == len(corpus.texts) == stats["docs"]
    assert {part: corpus.split.count(part) for part in set(corpus.split)} == stats["splits"]
    assert corpus.n_empty == 0
    found = read_taxonomy(str(folder / "labels.tsv"), str(folder / "taxonomy.tsv"))
    labels = read_labels(str(folder / "gold.tsv"), found)
    assert len(labels) == stats["docs"] - stats["unlabelled"]
    assert round(sum(map(len, labels.values())) / len(labels), 3) == stats["labels_per_doc"]
    assert all(closed(found, rows) == rows for rows in labels.values())  # "closed upwards"
    assert gold_warnings("gold.tsv", labels, corpus.doc_ids) == []


def test_the_body_of_20_newsgroups_is_another_text_and_sometimes_empty(shared_data):
    path = str(shared_data / "text" / "20news" / "corpus.jsonl.gz")
    test = read_corpus(path, "body", split="test")
    assert (len(test), test.n_empty, set(test.split)) == (7532, 16, {"test"})


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_corpus(write, name, gz):
    records = [
        {"doc_id": "b/1", "split": "train", "text": "first, with a comma"},
        {"doc_id": "ä 2", "split": "test", "text": 'second "quoted"'},
    ]
    content = packed(name, records)
    corpus = read_corpus(write(name + gz, gzip.compress(content) if gz else content))
    expected = Corpus(("b/1", "ä 2"), ("first, with a comma", 'second "quoted"'), ("train", "test"))
    assert corpus == expected


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)
IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)


@given(st.dictionaries(IDS, TEXTS, min_size=1, max_size=5), st.sampled_from(FORMATS), st.booleans(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_document_comes_back_from_every_format(write, texts, name, header, gz):
    if name in ("x.tsv", "x.txt"):
        texts = {key: text.replace("\n", " ").replace("\t", " ") for key, text in texts.items()}
    if not header:
        texts = {f"d{key}": text for key, text in texts.items()}
    content = packed(name, [{"id": key, "text": text} for key, text in texts.items()], header)
    corpus = read_corpus(write(name, gzip.compress(content) if gz else content))
    assert dict(zip(corpus.doc_ids, corpus.texts, strict=True)) == texts
    assert corpus.doc_ids == tuple(texts)
    assert corpus.split is None


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), str.strip])
def test_byte_order_mark_line_ends_and_a_missing_last_one_do_not_matter(write, name, change):
    text = "a,one\nb,two\n".replace(",", "," if name == "x.csv" else "\t")
    assert read_corpus(write(name, change(text))) == Corpus(("a", "b"), ("one", "two"))


def test_a_byte_order_mark_before_json_does_not_matter(write):
    assert read_corpus(write("x.jsonl", '\ufeff{"id": "a", "text": "one"}\r\n\r\n')) == Corpus(("a",), ("one",))


def test_text_keeps_its_unusual_line_ends_and_spaces(write):
    text = " one\u2028two\x85three\rfour\x0b "
    assert read_corpus(write("x.tsv", f"a\t{text}\r\nb\t\n")).texts == (text, "")
    assert read_corpus(write("x.csv", f'a,"{text}\nmore"\n')).texts == (f"{text}\nmore",)


def test_the_end_of_the_name_says_the_format_in_any_case(write):
    assert read_corpus(write("X.TSV.GZ", gzip.compress(b"a\tone\n"))).texts == ("one",)


def test_packed_data_are_recognised_without_the_name(write):
    assert read_corpus(write("x.tsv", gzip.compress(b"a\tone\n"))).texts == ("one",)


def test_one_document_is_a_corpus(write):
    assert len(read_corpus(write("x.tsv", "a\tone"))) == 1


def test_a_document_longer_than_the_csv_default_is_read(write):
    text = "long " * 100_000
    assert read_corpus(write("x.csv", f'id,text\na,"{text}"\n')).texts == (text,)


def test_empty_texts_are_documents_and_are_counted(write):
    expected = Corpus(("a", "b", "c"), ("", " \u00a0", "x"))
    assert read_corpus(write("x.tsv", "a\t\nb\t \u00a0\nc\tx\n")) == expected
    records = [{"id": key, "text": text} for key, text in (("a", None), ("b", " \u00a0"), ("c", "x"))]
    for name in ("x.jsonl", "x.parquet"):
        assert read_corpus(write(name, packed(name, records))) == expected
    assert expected.n_empty == 2


def test_a_column_of_nothing_but_nulls_is_empty_text(write):
    assert read_corpus(write("x.parquet", packed("x.parquet", [{"id": "a", "text": None}]))).texts == ("",)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_numbers_are_ids(write, name):
    records = [{"id": number, "text": "x"} for number in (10, 9)]
    assert read_corpus(write(name, packed(name, records))).doc_ids == ("10", "9")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_every_kind_of_arrow_text_is_text(tmp_path, kind):
    table = pa.table({"text": pa.array(["one", None], kind), "id": pa.array(["a", "b"], kind)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read_corpus(str(tmp_path / "x.parquet")) == Corpus(("a", "b"), ("one", ""))


def test_many_row_groups_keep_their_order(tmp_path):
    ids = [f"d{row}" for row in range(2_500)]
    pq.write_table(pa.table({"id": ids, "text": ids}), tmp_path / "x.parquet", row_group_size=700)
    assert read_corpus(str(tmp_path / "x.parquet")) == Corpus(tuple(ids), tuple(ids))


def test_doc_id_wins_over_id(write):
    for name in FORMATS:
        path = write(name, packed(name, [{"id": "no", "text": "x", "doc_id": "yes"}]))
        assert read_corpus(path).doc_ids == ("yes",)


def test_spaces_around_ids_and_splits_are_dropped(write):
    for name in FORMATS:
        corpus = read_corpus(write(name, packed(name, [{"id": " a b ", "text": " x ", "split": " test "}])))
        assert corpus == Corpus(("a b",), (" x ",), ("test",))


def test_half_a_surrogate_pair_becomes_a_replacement_character(write):
    [text] = read_corpus(write("x.jsonl", '{"id": "a", "text": "x\\ud83d y \\ud83d\\ude00"}\n')).texts
    assert text == "x\ufffd y \U0001f600"
    assert text.encode()


# ---- columns and headers


@pytest.mark.parametrize("sep", ["\t", ","])
@pytest.mark.parametrize(
    ("header", "line"),
    [
        (["id", "text"], ["a", "one"]),
        (["#Doc ID", "Text"], ["a", "one"]),
        (["text", "id"], ["one", "a"]),
        (["label", "Document_ID", "text", "more"], ["7", "a", "one", "x"]),
        (["id", "body"], ["a", "one"]),
        (["id", "review"], ["a", "one"]),
        (["id", "split", "review text"], ["a", "", "one"]),
        (["id", "title", "text"], ["a", "no", "one"]),
    ],
)
def test_a_header_line_says_where_the_columns_are(write, sep, header, line):
    path = write("x.csv" if sep == "," else "x.tsv", f"{sep.join(header)}\n{sep.join(line)}\n")
    assert read_corpus(path) == Corpus(("a",), ("one",))


@pytest.mark.parametrize(
    "first", ["7\tid", "id\tthis one is called id", "7\ttext", "text\tone", "doc\tid is what this is about", "7\tx\tid"]
)
def test_a_first_document_is_not_taken_for_a_header(write, first):
    corpus = read_corpus(write("x.tsv", f"{first}\n8\tx\n"))
    assert corpus == Corpus((first.split("\t")[0], "8"), (first.split("\t")[1], "x"))


def test_columns_after_the_text_are_ignored_and_may_be_missing(write):
    assert read_corpus(write("x.tsv", "a\tone\tx\ty\nb\ttwo\n")).texts == ("one", "two")


@pytest.mark.parametrize("name", FORMATS)
def test_the_text_field_is_a_choice(write, name):
    path = write(name, packed(name, [{"doc_id": "a", "text": "long", "body": "short"}]))
    assert read_corpus(path).texts == ("long",)
    assert read_corpus(path, "body").texts == ("short",)


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_field_that_is_not_there_is_refused_with_what_is(refusal, name):
    content = packed(name, [{"doc_id": "a", "text": "x", "level": "1"}])
    message = refusal(name, content, text_field="body")
    assert message.endswith("no field body among 'doc_id', 'text', 'level'; add it, or name another one as text_field")


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_missing_id_field_is_refused_with_what_is_there(refusal, name):
    assert "no field doc_id or id among 'text'; " in refusal(name, packed(name, [{"text": "x"}]))


# ---- splits


def test_one_split_is_kept_and_documents_without_one_belong_to_none(write):
    lines = ['{"id": "a", "text": "x", "split": "train"}', '{"id": "b", "text": "y"}', '{"id": 3, "text": "z"}']
    path = write("x.jsonl", "\n".join(lines))
    assert read_corpus(path).split == ("train", "", "")
    assert read_corpus(path, split="train") == Corpus(("a",), ("x",), ("train",))


def test_a_split_that_no_document_has_is_refused_with_those_there_are(refusal):
    content = '{"id": "a", "text": "x", "split": "train"}\n{"id": "b", "text": "x", "split": "test"}\n'
    assert refusal("x.jsonl", content, split="dev").endswith("no document of split 'dev'; splits there: train, test")
    assert "no document has the field split" in refusal("x.tsv", "a\tx\n", split="dev")


# ---- a stream


def test_documents_come_before_the_rest_of_the_file_is_read(write):
    stream = documents(write("x.tsv", b"a\tone\nb\ttwo\nc\t\xff\n"))
    assert next(stream) == Document("a", "one", None)
    assert next(stream).doc_id == "b"
    with pytest.raises(UserError, match="line 3: byte 3"):
        next(stream)


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.jsonl", "x.parquet"])
def test_reading_keeps_no_text_that_the_caller_drops(write, name):
    if name == "x.parquet":
        content = packed(name, [{"id": f"d{row}", "text": f"{row} text " * 500} for row in range(4_000)])
    else:
        content = packed(name, [{"id": f"d{row}", "text": "text " * 10_000} for row in range(400)])
    path = write(f"{name}.gz", gzip.compress(content, 1))
    next(documents(path))  # what is imported and compiled at the first call stays
    tracemalloc.start()
    total = sum(len(document.text) for document in documents(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 19_000_000
    assert peak < total / 4


# ---- what is refused


@pytest.mark.parametrize("name", FORMATS)
def test_a_corpus_without_documents_is_refused(refusal, name):
    empty = packed(name, [{"id": "a", "text": "x"}])
    if name.endswith((".parquet", ".pq")):
        sink = io.BytesIO()
        pq.write_table(pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), sink)
        empty = sink.getvalue()
    elif name.endswith((".tsv", ".txt", ".csv")):
        empty = empty.splitlines(keepends=True)[0]
    else:
        empty = b"\n\n"
    assert refusal(name, empty) == f"{name}: no document in it; write at least one"
    if not name.endswith((".parquet", ".pq")):
        assert refusal(name, "") == f"{name}: no document in it; write at least one"
        assert refusal(f"{name}.gz", b"") == f"{name}.gz: no document in it; write at least one"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("doc_id", "what"),
    [
        ("a", "document id 'a' is on {} 1 already; "),
        (" a ", "document id 'a' is on {} 1 already; "),
        ("", "the document id is empty; "),
        ("  ", "the document id is empty; "),
        ("b\x07", "the document id 'b\\x07' has a control character; "),
        ("b\x00", "the document id 'b\\x00' has a control character; "),
        ("b\x85", "the document id 'b\\x85' has a control character; "),
        ("b\u2028c", "the document id 'b\\u2028c' has a control character; "),
        ("\ufeffb", "the document id '\\ufeffb' has a control character; "),
    ],
)
def test_a_bad_document_id_is_refused_with_its_line(refusal, name, doc_id, what):
    content = packed(name, [{"id": "a", "text": "x"}, {"id": doc_id, "text": "y"}], header=False)
    unit = "row" if name.endswith((".parquet", ".pq")) else "line"
    assert refusal(name, content).startswith(f"{name}: {unit} 2: " + what.format(unit))


@pytest.mark.parametrize("doc_id", ["b\tc", "b\nc", "b\r"])
def test_line_ends_and_tabs_in_ids_are_refused(refusal, doc_id):
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        assert "has a control character" in refusal(name, packed(name, [{"id": doc_id, "text": "y"}]))


@pytest.mark.parametrize("value", ["1.5", "true", "[1]", '{"a": 1}'])
def test_an_id_that_is_neither_text_nor_a_whole_number_is_refused(refusal, value):
    message = refusal("x.jsonl", f'{{"id": {value}, "text": "x"}}')
    assert message.startswith("x.jsonl: line 1: the document id is ")
    assert message.endswith("not text; put it in quotes or convert the column")


def test_a_null_id_is_an_empty_one(refusal):
    assert "line 1: the document id is empty" in refusal("x.jsonl", '{"doc_id": null, "text": "x"}')
    content = packed("x.parquet", [{"id": "a", "text": "x"}, {"id": None, "text": "x"}])
    assert "row 2: the document id is empty" in refusal("x.parquet", content)


def test_half_a_surrogate_pair_in_an_id_is_refused(refusal):
    assert "'a\\ud83d' has a control character" in refusal("x.jsonl", '{"id": "a\\ud83d", "text": "x"}')


@pytest.mark.parametrize("value", ["5", "false", "[]", "NaN"])
def test_a_text_that_is_no_text_is_refused(refusal, value):
    assert refusal("x.jsonl", f'{{"id": 1, "text": {value}}}').startswith("x.jsonl: line 1: the text is ")


def test_a_column_that_is_no_text_is_refused(refusal):
    for values in ([1.5], [b"x"], [["x"]]):
        content = packed("x.parquet", [{"id": "a", "text": value} for value in values])
        assert refusal("x.parquet", content).startswith("x.parquet: row 1: the text is ")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.tsv", "a\tx\nb y\n", "x.tsv: line 2: no tab in 'b y'; write document id and text, with a tab between them"),
        ("x.csv", "a,x\nb y\n", "x.csv: line 2: no comma in 'b y'; "),
        ("x.tsv", "text\tid\nx\n", "x.tsv: line 2: no tab in 'x'; "),
        ("x.tsv", "id\ttitle\ttext\na\tx\n", "x.tsv: line 2: 2 columns, and the header needs 3; "),
        ("x.csv", 'a,x\nb,"two\nlines"\nc,"open\nd,x\n', "x.csv: line 4: not valid CSV (unexpected end of data); "),
        ("x.csv", 'a,x\nb,"x"y\n', "x.csv: line 2: not valid CSV ("),
        ("x.csv", 'a,"x\ny"\na,z\n', "x.csv: line 3: document id 'a' is on line 1 already; "),
        ("x.tsv", "\n\na\tx\n\na\tz\n", "x.tsv: line 5: document id 'a' is on line 3 already; "),
        ("x.tsv", b"a\tx\n\nb\tM\xfcller\n", "x.tsv: line 3: byte 4 (0xfc) is not UTF-8; "),
        ("x.jsonl", b'{"id": 1, "text": "\xed\xa0\x80"}', "x.jsonl: line 1: byte 20 (0xed) is not UTF-8; "),
        ("x.tsv", "a\tx\n".encode("utf-16"), "x.tsv: line 1: byte 1 (0xff) is not UTF-8; convert the file, "),
        ("x.jsonl", '{"id": 1, "text": "x"}\n{"id": 2 "text"}\n', "x.jsonl: line 2: not valid JSON (Expecting ','"),
        ("x.jsonl", '{\n"id": 1}', "x.jsonl: line 1: not valid JSON ("),
        ("x.json", '[{"id": 1, "text": "x"}]', "x.json: line 1: [{'id': 1, 'text': 'x'}] is no object; write one obj"),
        ("x.jsonl", "[" * 50_000, "x.jsonl: line 1: nested too deeply; "),
        ("x.jsonl", f'{{"id": {"9" * 5_000}, "text": "x"}}', "x.jsonl: line 1: not valid JSON ("),
        ("x.jsonl", '{"id": 1, "text": ""}\n{"id": 2}\n', "x.jsonl: line 2: no field text among 'id'; "),
        ("x.jsonl", "{}\n", "x.jsonl: line 1: no field doc_id or id among none; "),
        ("x.xlsx", "a\tx\n", "x.xlsx: the name says no known format; let it end in .jsonl, "),
        ("corpus", "a\tx\n", "corpus: the name says no known format; "),
        ("x.parquet", "a\tx\n", "x.parquet: not a readable Parquet file ("),
        ("x.parquet", b"", "x.parquet: not a readable Parquet file ("),
        ("x.parquet.gz", gzip.compress(b"a\tx\n", mtime=0), "x.parquet.gz: not a readable Parquet file ("),
        ("x.parquet.gz", gzip.compress(b"a\tx\n" * 9, mtime=0)[:-9], "x.parquet.gz: the gzip data end or break ("),
    ],
)
def test_a_bad_file_is_refused_with_its_line(refusal, name, content, line):
    assert refusal(name, content).startswith(line)


def test_a_column_that_is_there_twice_is_refused(refusal):
    sink = io.BytesIO()
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column] * 3, names=["id", "text", "text"]), sink)
    assert refusal("x.parquet", sink.getvalue()) == "x.parquet: two columns are called 'text'; rename one"


def test_a_damaged_parquet_file_is_refused(refusal):
    content = bytearray(packed("x.parquet", [{"id": f"d{row}", "text": "text " * row} for row in range(100)]))
    content[4:60] = b"\xff" * 56
    assert refusal("x.parquet", bytes(content)).startswith("x.parquet: not a readable Parquet file (")


def test_a_truncated_gzip_file_is_refused_with_the_last_line_that_was_whole(refusal):
    content = gzip.compress("".join(f"d{row}\ttext {row * row}\n" for row in range(50_000)).encode())
    message = refusal("x.tsv.gz", content[: len(content) // 2])
    assert message.startswith("x.tsv.gz: the gzip data end or break after line ")
    assert 1_000 < int(message.split("after line ")[1].split()[0]) < 49_000
    assert "gzip data end or break after line " in refusal("x.tsv.gz", content[:-8])  # only the checksum is cut


@pytest.mark.parametrize("name", ["no.tsv", "no.jsonl", "no.csv.gz", "no.parquet"])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"no\..* cannot be read \(No such file or directory\); correct the path"):
        read_corpus(str(tmp_path / name))


# ---- gold labels


def gold(path: str) -> dict[str, frozenset[int]]:
    return read_labels(path, TAXONOMY)


def test_labels_are_rows_of_the_taxonomy(write):
    labels = gold(write("gold.tsv", "a\tup, 7\tfurther\nb\tx,x\nc/9\t7\n"))
    assert labels == {"a": frozenset({0, 2}), "b": frozenset({1}), "c/9": frozenset({0})}


def test_a_submission_is_read_as_gold(write):
    assert gold(write("submission.csv", 'id,labels\na,"7,up"\n')) == {"a": frozenset({0, 2})}


@pytest.mark.parametrize("header", ["id\tlabels", "doc_id\tclass_ids", "Document ID\tGold"])
def test_a_header_of_labels_is_left_out(write, header):
    assert gold(write("gold.tsv", f"\ufeff{header}\r\na\t7\r\n")) == {"a": frozenset({0})}


def test_a_first_line_that_names_a_class_is_data(write):
    found = Taxonomy(("label",), (("x",),), np.empty((0, 2), np.int64))
    assert read_labels(write("gold.tsv", "id\tlabel\n"), found) == {"id": frozenset({0})}


def test_a_document_with_no_labels_has_no_gold(write):
    assert gold(write("gold.tsv", "a\t\nb\t7\nc\t \n")) == {"b": frozenset({0})}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a\t7\nb\tx,9\nc\t9,8\n", "gold.tsv: line 2: class id '9' (and 1 more ids) is not in the taxonomy; "),
        ("a\t7\nb\t9\nc\t9\n", "gold.tsv: line 2: class id '9' is not in the taxonomy; "),
        ("id\tlabels\nid\tlabels\n", "gold.tsv: line 2: class id 'labels' is not in the taxonomy; "),
        ("a\t7\n\na \tx\n", "gold.tsv: line 3: document id 'a' is on line 1 already; "),
        ("a\t\na\tx\n", "gold.tsv: line 2: document id 'a' is on line 1 already; "),
        ("a\t7,,x\n", "gold.tsv: line 1: the class id is empty; "),
        ("\t7\n", "gold.tsv: line 1: the document id is empty; "),
        ("a 7\n", "gold.tsv: line 1: no tab in 'a 7'; write document id and class ids, "),
        ("", "gold.tsv: no document with a class in it; "),
        ("id\tlabels\n", "gold.tsv: no document with a class in it; "),
        (b"a\t7\nb\xff\t7\n", "gold.tsv: line 2: byte 2 (0xff) is not UTF-8; "),
    ],
)
def test_bad_gold_is_refused_with_its_line(refusal, content, line):
    assert refusal("gold.tsv", content, read=gold).startswith(line)


def test_gold_that_fits_the_corpus_gives_no_warning():
    assert gold_warnings("gold.tsv", {"a": frozenset({0}), "b": frozenset({1})}, ("b", "a")) == []


def test_gold_documents_and_corpus_documents_without_each_other_are_counted():
    labels = {name: frozenset({0}) for name in "abcdef"}
    assert gold_warnings("gold.tsv", labels, ("a", "x\x07", "f")) == [
        "gold.tsv: 4 of 6 documents with gold labels are not in the corpus ('b', 'c', 'd', ...)",
        "gold.tsv: 1 of 3 documents of the corpus have no gold labels and are not evaluated ('x\\x07')",
    ]


# ---- several corpora as one, and their fingerprint


def parts(**texts: dict[str, str]) -> dict[str, tuple[str, Corpus]]:
    """parts(train={id: text}, test={...}), each from a file called as the split."""
    return {name: (f"{name}.tsv", Corpus(tuple(each), tuple(each.values()))) for name, each in texts.items()}


def refused_together(given: dict[str, tuple[str, Corpus]]) -> str:
    with pytest.raises(UserError) as caught:
        joined(given)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_joined_corpora_are_one_after_the_other_and_say_which_is_which():
    together = joined(parts(train={"b": "one", "a": ""}, test={"c": "one"}))
    assert together == Corpus(("b", "a", "c"), ("one", "", "one"), ("train", "train", "test"))
    assert together.n_empty == 1


def test_the_splits_that_a_file_had_give_way_to_the_roles_of_the_run():
    # predict asks for the split of the role, whatever the user's file calls it
    given = {"train": ("x.jsonl", Corpus(("a", "b"), ("one", "two"), ("dev", "unlabelled")))}
    assert joined(given).split == ("train", "train")


def test_one_corpus_alone_is_joined_too():
    assert joined(parts(train={"a": "x"})) == Corpus(("a",), ("x",), ("train",))


def test_an_id_in_two_corpora_is_refused_with_the_id_and_both_files():
    message = refused_together(parts(train={"a": "x", "b": "y"}, test={"c": "x", "b": "z", "a": ""}))
    assert message.startswith("test.tsv: document id 'b' is in train.tsv already; ")
    assert "train_split and test_split" in message


def test_the_same_file_for_both_is_refused_with_the_remedy(write):
    path = write("all.tsv", "a\tx\nb\ty\n")
    corpus = read_corpus(path)
    message = refused_together({"train": (path, corpus), "test": (path, corpus)})
    assert message.startswith(f"{path}: document id 'a' is in {path} already; ")


def test_two_splits_of_one_file_are_joined(write):
    path = write("all.csv", "id,text,split\na,x,one\nb,y,two\nc,z,one\n")
    together = joined(
        {name: (path, read_corpus(path, split=split)) for name, split in (("train", "one"), ("test", "two"))}
    )
    assert together == Corpus(("a", "c", "b"), ("x", "z", "y"), ("train", "train", "test"))


@pytest.mark.parametrize("blank", ["", " \t\n", "\u2003"], ids=["nothing", "spaces", "wide space"])
def test_corpora_without_any_text_are_refused_and_with_a_single_one_not(blank):
    message = refused_together(parts(train={"a": blank}, test={"b": "", "c": blank}))
    assert message == "train.tsv: no document has any text; is text_field the right one?"
    assert joined(parts(train={"a": blank}, test={"b": "", "c": "."})).n_empty == 2


def test_the_fingerprint_follows_ids_texts_splits_and_their_order():
    variants = [
        Corpus(("a", "b"), ("x", "y"), ("train", "test")),
        Corpus(("a", "b"), ("x", "y"), ("train", "train")),
        Corpus(("a", "b"), ("x", "y")),
        Corpus(("b", "a"), ("y", "x"), ("test", "train")),
        Corpus(("a", "b"), ("x", "y "), ("train", "test")),
        Corpus(("a", "b"), ("xy", ""), ("train", "test")),
        Corpus(("a", "bx"), ("", "y"), ("train", "test")),
        Corpus(("a",), ("x",), ("train",)),
        Corpus(('a", "x', "b"), ("", "y"), ("train", "test")),
        Corpus((), ()),
    ]
    assert len({corpus.fingerprint for corpus in variants}) == len(variants)
    again = Corpus(tuple("ab"), tuple("xy"), ("train", "test"))
    assert again.fingerprint == variants[0].fingerprint


@pytest.mark.parametrize("name", FORMATS)
def test_the_fingerprint_does_not_depend_on_the_format(write, name):
    records = [{"doc_id": "b/1", "text": "first, with a comma"}, {"doc_id": "ä 2", "text": 'second "quoted"'}]
    expected = Corpus(("b/1", "ä 2"), ("first, with a comma", 'second "quoted"'))
    assert read_corpus(write(name, packed(name, records))).fingerprint == expected.fingerprint


def test_a_file_with_bare_carriage_returns_is_refused_and_not_read_as_one_document(write):
    path = write("old.tsv", "1\tfirst text\r2\tsecond text\r")
    with pytest.raises(UserError, match=r"old\.tsv: line 1: lines end in a bare carriage return"):
        read_corpus(path)
    assert read_corpus(write("new.tsv", "1\ta text\rwith a break\n")).texts == ("a text\rwith a break",)
