"""Documents and gold labels from the user's files: TSV, CSV, JSONL or Parquet, plain or gzip, read as a stream."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError, shown
from common.memory import excuse
from taxoclass.reading import cleaned, json_fault, lines, open_bytes, rows, suffix, unreadable, word
from taxoclass.taxonomy import Taxonomy

BATCH_ROWS = 256
IDS_SHOWN = 3
FIELDS_SHOWN = 8
HEADER_WORDS = 3
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

# words of header lines, the preferred ones first, in the form that word() gives them
DOC_ID = ("docid", "id", "documentid", "textid", "doc", "docno")
TEXT = ("text", "document", "body", "content", "abstract", "sentence", "description")
LABELS = {"label", "labels", "class", "classes", "classid", "classids", "labelid", "labelids", "gold", "category"}
LABELS |= {"categories", "topic", "topics"}


class Document(NamedTuple):
    """One document as it stands in its file."""

    doc_id: str
    text: str
    split: str | None


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their file.

    doc_ids : N distinct ids.
    texts : N texts; a document may be empty.
    split : of each document the part of the data set that it belongs to, "" where it has none; None if no one has.
    """

    doc_ids: tuple[str, ...]
    texts: tuple[str, ...]
    split: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.doc_ids)

    @cached_property
    def n_empty(self) -> int:
        """Documents without a visible character."""
        return sum(not text.strip() for text in self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ids, texts and splits, in their order."""
        digest = hashlib.sha256()
        for parts in zip(self.doc_ids, self.texts, self.split or repeat(""), strict=False):
            digest.update(json.dumps(parts).encode())
        return digest.hexdigest()[:16]


def read_corpus(path: str, text_field: str = "text", split: str | None = None) -> Corpus:
    """All documents of a file, or those of one ``split``; the rules are those of :func:`documents`.

    Raises
    ------
    UserError : what :func:`documents` refuses; a file without documents, or without any of that split.
    """
    kept: list[Document] = []
    splits: dict[str, None] = {}
    for document in documents(path, text_field):
        splits.setdefault(document.split or "")
        if split is None or document.split == split:
            kept.append(document)
    if not splits:
        raise UserError(f"{path}: no document in it; write at least one")
    if not kept:
        names = ", ".join(name for name in splits if name) or "none, no document has the field split"
        raise UserError(f"{path}: no document of split {shown(split)}; splits there: {names}")
    return Corpus(
        tuple(document.doc_id for document in kept),
        tuple(document.text for document in kept),
        tuple(document.split or "" for document in kept) if any(splits) else None,
    )


def joined(parts: Mapping[str, tuple[str, Corpus]]) -> Corpus:
    """One corpus of several: split name -> (path, for messages; documents).

    Raises
    ------
    UserError : a document id is in two of them; no document has any text.
    """
    owner: dict[str, str] = {}
    for path, corpus in parts.values():
        for doc_id in corpus.doc_ids:
            if doc_id in owner:
                raise UserError(
                    f"{path}: document id {shown(doc_id)} is in {owner[doc_id]} already; give each its own, or "
                    "name disjoint splits of one file as train_split and test_split"
                )
        owner |= dict.fromkeys(corpus.doc_ids, path)
    together = Corpus(
        tuple(doc_id for _, corpus in parts.values() for doc_id in corpus.doc_ids),
        tuple(text for _, corpus in parts.values() for text in corpus.texts),
        tuple(name for name, (_, corpus) in parts.items() for _ in corpus.doc_ids),
    )
    if together.n_empty == len(together):
        path = next(path for path, _ in parts.values())
        raise UserError(f"{path}: no document has any text; is text_field the right one?")
    return together


def documents(path: str, text_field: str = "text") -> Iterator[Document]:
    """The documents of a file one by one, checked, with only their ids kept in memory.

    The name says the format: .jsonl (.ndjson, .json: one object a line), .csv, .parquet (.pq), or columns between tabs
    in .tsv and .txt; each may be gzip.

    JSONL has doc_id or id, ``text_field``, and split if one likes. Parquet and files with a header line have these as
    columns. A TSV or CSV file without a header has the id first and the text second; further columns are ignored.
    Its first line is a header if it cannot be a document: a column is called doc_id, id, document_id or text_id, and
    it is the first and all the others are short, or another one is ``text_field`` or text, document, body, content, ...

    Ids lose the spaces around them; whole numbers become text. A missing value (null) is an empty text, and an empty
    text is a document; half a surrogate pair, which nobody can write as UTF-8, becomes U+FFFD.

    Raises
    ------
    UserError : an empty or duplicate id or one with a control character, a missing field or column, a line without a
        tab, invalid JSON or CSV, a value that is no text, damaged files, not UTF-8. File and line are named.
    """
    kind = suffix(path)
    if kind not in READERS:
        raise UserError(
            f"{path}: the name says no known format; let it end in {', '.join(READERS)}, with .gz behind if packed"
        )
    unit = "row" if kind in (".parquet", ".pq") else "line"
    seen: dict[str, int] = {}
    for number, raw_id, text, split in READERS[kind](path, text_field):
        place = f"{path}: {unit} {number}"
        doc_id = cleaned(_as_text(raw_id, place, "document id", numbers=True), place, "document id")
        if doc_id in seen:
            raise UserError(
                f"{place}: document id {shown(doc_id)} is on {unit} {seen[doc_id]} already; give each document its own"
            )
        seen[doc_id] = number
        part = _as_text(split, place, "split", numbers=True).strip()
        yield Document(doc_id, LONE_SURROGATE.sub("\ufffd", _as_text(text, place, text_field)), part or None)


def _as_text(value: Any, place: str, what: str, numbers: bool = False) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{place}: the {what} is {shown(value)}, not text; put it in quotes or convert the column")


# ---- formats: each yields line or row number, id, text and split as they stand there

Record = tuple[int, Any, Any, Any]


def _jsonl(path: str, text_field: str) -> Iterator[Record]:
    for number, line in lines(path):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except RecursionError:
            raise UserError(f"{place}: nested too deeply; write one flat object a line") from None
        except ValueError as error:
            raise UserError(f"{path}: {json_fault(error, number)}; write one whole object a line") from None
        if not isinstance(record, dict):
            raise UserError(f"{place}: {shown(record)} is no object; write one object a line")
        if "doc_id" not in record and "id" not in record:
            raise _missing(place, "doc_id or id", record)
        if text_field not in record:
            raise _missing(place, text_field, record)
        yield number, record.get("doc_id", record.get("id")), record[text_field], record.get("split")


def _missing(place: str, what: str, there: Iterable[str]) -> UserError:
    names = [shown(name) for name in there]
    listed = ", ".join(names[:FIELDS_SHOWN]) + (", ..." if len(names) > FIELDS_SHOWN else "")
    remedy = "add it" if what == "doc_id or id" else "add it, or name another one as text_field"
    return UserError(f"{place}: no field {what} among {listed or 'none'}; {remedy}")


class Columns(NamedTuple):
    """Positions of the columns; -1 for what is not there."""

    doc_id: int
    text: int
    split: int

    @classmethod
    def of(cls, names: Sequence[str], texts: Sequence[str]) -> Columns:
        words = [word(name) for name in names]
        wanted = (DOC_ID, [word(name) for name in texts], ["split"])
        return cls(*(next((words.index(name) for name in group if name in words), -1) for group in wanted))


def _delimited(path: str, text_field: str) -> Iterator[Record]:
    texts = TEXT if text_field == TEXT[0] else (text_field,)
    at: Columns | None = None
    for number, fields in rows(path, "document id and text"):
        place = f"{path}: line {number}"
        if at is None:
            at = Columns.of(fields, texts)
            if _is_header(fields, at):
                if at.text < 0 and text_field == TEXT[0]:
                    at = at._replace(text=next((each for each in range(len(fields)) if each not in at), -1))
                if at.text < 0:
                    raise _missing(place, text_field, fields)
                continue
            if text_field != TEXT[0]:
                raise UserError(f"{place}: no header line that names a column {text_field}; add one: id, {text_field}")
            at = Columns(0, 1, -1)
        if len(fields) <= max(at):
            raise UserError(f"{place}: {len(fields)} columns, and the header needs {max(at) + 1}; complete the line")
        yield number, fields[at.doc_id], fields[at.text], fields[at.split] if at.split >= 0 else None


def _is_header(fields: list[str], named: Columns) -> bool:
    short = all(len(field.split()) <= HEADER_WORDS for field in fields)
    return (named.doc_id == 0 and short) or (named.doc_id >= 0 and named.text >= 0)


def _parquet(path: str, text_field: str) -> Iterator[Record]:
    try:
        with _seekable(path) as handle, pq.ParquetFile(handle) as file:
            names = file.schema_arrow.names
            at = Columns.of(names, (text_field,))
            for position, what in ((at.doc_id, "doc_id or id"), (at.text, text_field)):
                if position < 0:
                    raise _missing(path, what, names)
                if names.count(names[position]) > 1:
                    raise UserError(f"{path}: two columns are called {names[position]!r}; rename one")
            number = 0
            columns = [names[position] for position in at if position >= 0]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
                values = [
                    batch.column(names[position]).to_pylist() if position >= 0 else [None] * len(batch)
                    for position in at
                ]
                for record in zip(*values, strict=True):
                    number += 1
                    yield (number, *record)
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        excuse(path, error)
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)) or getattr(error, "errno", None):
            raise unreadable(path, error) from None
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable Parquet file ({reason}); write it again") from None


def _seekable(path: str) -> IO[bytes]:
    """The file itself, or what it unpacks to in a temporary one: Parquet is read from its end."""
    handle = open_bytes(path)
    if not isinstance(handle, gzip.GzipFile):
        return handle
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    with handle:
        shutil.copyfileobj(handle, unpacked)
    unpacked.seek(0)
    return unpacked


READERS: dict[str, Callable[[str, str], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".parquet": _parquet,
    ".pq": _parquet,
}


# ---- gold labels, for evaluation only


def read_labels(path: str, taxonomy: Taxonomy) -> dict[str, frozenset[int]]:
    """Of each document its rows in the taxonomy, as they stand there: doc id TAB class ids with commas between them.

    Further columns are ignored, CSV and gzip are read too. A document with an empty list has no gold and is left out.
    The first line is a header if its words are known ones (doc_id, id, ...; labels, classes, ...) and no class is
    called so.

    Raises
    ------
    UserError : no document, an empty or duplicate document id, an empty id in a list, ids that the taxonomy does not
        have (the first one is named, all are counted).
    """
    found: dict[str, frozenset[int]] = {}
    first_line: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for at, (number, fields) in enumerate(rows(path, "document id and class ids")):
        place = f"{path}: line {number}"
        header = at == 0 and word(fields[0]) in DOC_ID and word(fields[1]) in LABELS
        if header and fields[1].strip() not in taxonomy.row:
            continue
        doc_id = cleaned(fields[0], place, "document id")
        if doc_id in first_line:
            raise UserError(
                f"{place}: document id {shown(doc_id)} is on line {first_line[doc_id]} already; write its classes in "
                "one line"
            )
        first_line[doc_id] = number
        if not fields[1].strip():
            continue
        ids = [cleaned(each, place, "class id") for each in fields[1].split(",")]
        for each in ids:
            if each not in taxonomy.row:
                unknown.setdefault(each, number)
        found[doc_id] = frozenset(taxonomy.row[each] for each in ids if each in taxonomy.row)
    if unknown:
        name, number = next(iter(unknown.items()))
        more = f" (and {len(unknown) - 1} more ids)" if len(unknown) > 1 else ""
        raise UserError(
            f"{path}: line {number}: class id {shown(name)}{more} is not in the taxonomy; correct it or add the class"
        )
    if not found:
        raise UserError(f"{path}: no document with a class in it; write one document a line")
    return found


def gold_warnings(path: str, labels: Mapping[str, frozenset[int]], doc_ids: Collection[str]) -> list[str]:
    """One line for gold documents that the corpus does not have, and one for documents without gold, if there are."""
    known = set(doc_ids)
    strangers = [name for name in labels if name not in known]
    bare = [name for name in doc_ids if name not in labels]
    return [
        f"{path}: {len(names):,} of {total:,} documents {what} ({', '.join(map(shown, names[:IDS_SHOWN]))}"
        + (", ...)" if len(names) > IDS_SHOWN else ")")
        for names, total, what in (
            (strangers, len(labels), "with gold labels are not in the corpus"),
            (bare, len(known), "of the corpus have no gold labels and are not evaluated"),
        )
        if names
    ]
