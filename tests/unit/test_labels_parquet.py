"""labels.parquet says what labels.jsonl says: same documents, same order, nothing left out."""

from __future__ import annotations

import json
import re
import sys

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labels_parquet
from common import row_groups
from common.errors import UserError
from taxoclass import products

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
score = st.floats(0, 1).map(lambda value: round(value, 6))


@st.composite
def records(draw) -> list[dict]:
    """What predict may write; a document without labels has no path."""
    found = []
    for doc_id in draw(st.lists(text, min_size=1, max_size=30)):
        number = draw(st.integers(0, 3))
        few = {name: [draw(text) for _ in range(number)] for name in ("labels", "names")}
        path = [draw(text) for _ in range(draw(st.integers(1, 3)))] if number else []
        scores = [draw(score) for _ in range(number)]
        ends = {"path": path, "path_score": draw(score) if path else None}
        found.append({"doc_id": doc_id} | few | {"scores": scores} | ends)
    return found


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    """convert(lines): the bytes of the file that they become, and where it is."""
    folder = tmp_path_factory.mktemp("labels")
    made = folder / "labels.parquet"

    def run(lines: list[str]):
        (folder / "labels.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys, "argv", ["labels_parquet", "--labels", str(folder / "labels.jsonl"), "--out-table", str(made)]
            )
            labels_parquet.main()
        return made

    return run


def as_written(found: list[dict]) -> list[str]:
    return [json.dumps(record, ensure_ascii=False) for record in found]


@given(records())
def test_every_record_comes_back(convert, found):
    table = pq.read_table(convert(as_written(found)))
    assert table.schema.equals(products.LABELS)
    assert table.to_pylist() == found
    assert all(list(record) == products.LABELS.names for record in found)


def test_it_is_read_and_written_in_parts_that_do_not_show(convert, monkeypatch):
    found = [
        {"doc_id": f"d{k}", "labels": ["a"], "names": ["b"], "scores": [0.5], "path": ["a"], "path_score": 0.5}
        for k in range(1000)
    ]
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 48 * 300)
    made = convert(as_written(found))
    whole = made.read_bytes()
    assert [pq.ParquetFile(made).metadata.row_group(k).num_rows for k in range(4)] == [300, 300, 300, 100]
    monkeypatch.setattr(labels_parquet, "BATCH", 7)
    assert convert(as_written(found)).read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no record of predict"),
        ("[]", "line 2 is no record of predict"),
        ('{"doc_id": "b", "labels": 3}', "is not the labels of predict"),
    ],
)
def test_what_are_no_labels_is_one_line(convert, capsys, line, words):
    first = {"doc_id": "a", "labels": [], "names": [], "scores": [], "path": [], "path_score": None}
    with pytest.raises(SystemExit) as stopped:
        convert([json.dumps(first), line])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\xff\n", "line 1: byte 1 (0xff) is not UTF-8")]
)
def test_labels_that_cannot_be_read_are_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "labels.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)):
        list(products.iter_label_records(str(path)))
