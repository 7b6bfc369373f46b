"""The user's text files as numbered lines and columns, plain or gzip; and the taxonomy files as a Taxonomy."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import yaml  # type: ignore[import-untyped]

from common.errors import UserError, shown
from taxoclass.taxonomy import Taxonomy

NESTED = (".yaml", ".yml", ".json")
CLASSES_SHOWN = 12

# a byte-order mark inside a file joins two of them; a lone surrogate cannot be written again
UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")

# a carriage return with a whole line behind it
OLD_LINE_END = re.compile(r"\r[^\r\t]*\t")

# words of header lines, in the form that word() gives them
CLASS_ID = {"id", "classid", "labelid", "categoryid", "nodeid", "topicid"}
CLASS = CLASS_ID | {"class", "label", "category", "node", "topic", "code", "key"}
NAME = {"name", "names", "title", *(f"{kind}name" for kind in ("class", "label", "category", "node", "topic"))} | CLASS
PARENT = {f"parent{kind}" for kind in ("", "id", "class", "label", "name", "node", "category", "topic")} | {
    *("source", "src", "from", "super", "superclass", "broader", "hypernym", "ancestor")
}
CHILD = {f"child{kind}" for kind in ("", "id", "class", "label", "name", "node", "category", "topic")} | {
    *("target", "dst", "to", "sub", "subclass", "narrower", "hyponym", "descendant"),
    *CLASS,
}


# ---- lines and columns


def suffix(path: str) -> str:
    """The file name's ending in small letters, without .gz; "" where there is none.

    >>> suffix("classes.TSV.gz"), suffix("classes")
    ('.tsv', '')
    """
    found = re.search(r"\.\w+$", str(path).casefold().removesuffix(".gz"))
    return found[0] if found else ""


def open_bytes(path: str) -> IO[bytes] | gzip.GzipFile:
    """A file, unpacked if its name or its first bytes say gzip."""
    handle = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    if str(path).casefold().endswith(".gz") or handle.peek(2)[:2] == b"\x1f\x8b":
        handle.close()
        return gzip.open(path, "rb")
    return handle


def unreadable(path: str, error: Exception, line: int | None = None) -> UserError:
    """The line for what goes wrong below the text: the file system or the gzip layer."""
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        after = "" if line is None else f" after line {line}"
        return UserError(f"{path}: the gzip data end or break{after} ({error}); the file is damaged, copy it again")
    reason = getattr(error, "strerror", None)
    return UserError(f"{path}: cannot be read ({reason or error}); correct the path or its permissions")


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines of a UTF-8 file, without the byte-order mark and the line ends (LF or CRLF).

    Raises
    ------
    UserError : no such file, damaged gzip data, a byte that is not UTF-8.
    """
    number = 0
    try:
        with open_bytes(path) as handle:
            for raw in handle:
                text = _decoded(path, number + 1, raw)
                number += 1
                yield number, (text.removeprefix("\ufeff") if number == 1 else text)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error, number) from None


def _decoded(path: str, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        wide = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise UserError(
            f"{path}: line {number}: byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8; convert the file, "
            f"for example with iconv -f {'UTF-16' if wide else 'WINDOWS-1252'} -t UTF-8"
        ) from None


def rows(path: str, columns: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and at least two columns a line: CSV if the name says so, else columns between tabs.

    Tabs have no quotes and no escapes. A CSV record may span lines; its number is that of the first. Empty lines are
    left out. ``columns`` says in the refusal of a line with one column what was expected.
    """
    read, mark = (_csv_records, "comma") if suffix(path) == ".csv" else (_tabbed, "tab")
    for number, fields in read(path):
        if len(fields) > 1:
            yield number, fields
        elif fields and fields[0].strip(" "):
            raise UserError(
                f"{path}: line {number}: no {mark} in {shown(fields[0])}; write {columns}, with a {mark} between them"
            )


def _tabbed(path: str) -> Iterator[tuple[int, list[str]]]:
    for number, text in lines(path):
        if OLD_LINE_END.search(text):
            raise UserError(
                f"{path}: line {number}: lines end in a bare carriage return; convert the file, for example with "
                "tr '\\r' '\\n'"
            )
        yield number, text.split("\t")


def _csv_records(path: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long document
    reader = csv.reader((f"{text}\n" for _, text in lines(path)), strict=True)
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}: line {start}: not valid CSV ({error}); put fields with commas, quotes or line ends in double "
            "quotes, and double the quotes in them"
        ) from None


def cleaned(text: str, place: str, what: str) -> str:
    """Text of an id or a name without the spaces around it; refused if it is empty or has a control character."""
    if UNWANTED.search(text):
        raise UserError(f"{place}: the {what} {shown(text)} has a control character; remove it")
    if not text.strip():
        raise UserError(f"{place}: the {what} is empty; fill it in or remove the entry")
    return text.strip()


def json_fault(error: ValueError, line: int | None = None) -> str:
    """Where JSON is broken and how; ``line`` is the line of the file if the text was only that one."""
    if not isinstance(error, json.JSONDecodeError):
        return f"line {line or 1}: not valid JSON ({error})"
    return f"line {line or error.lineno}: not valid JSON ({error.msg}, column {error.colno})"


def word(text: str) -> str:
    """What a column name is compared by.

    >>> word("#Class_ID "), word("class id")
    ('classid', 'classid')
    """
    return re.sub(r"[\s_#.-]", "", text.casefold())


# ---- taxonomy


class Link(NamedTuple):
    """One line of a hierarchy; without a parent it only mentions the child, as the top of a nested one does."""

    line: int
    parent: str | None
    child: str


def read_taxonomy(classes_file: str | None, hierarchy_file: str, keywords_file: str | None = None) -> Taxonomy:
    """Classes, edges and descriptions from the user's files; rows follow the classes file.

    classes_file : id TAB name, further columns ignored; names of one class are separated by ``|``, the first is the
        main one. Ids are any text without commas, which join them in the gold labels and in submission.csv.
    hierarchy_file : parent id TAB child id, further columns ignored. An edge that is there twice says nothing new and
        counts once. An empty file makes a flat taxonomy. A .yaml, .yml or .json file is a nested hierarchy,
        ``{name: {child: {}}}`` with lists of names for the lowest levels if one likes. Its keys are ids of
        classes_file; without one they are names, and the id is the path, ``top/below`` (of main names; commas are
        left out), so that a name may repeat under different parents.
    keywords_file : id TAB keywords or a description, further columns ignored; classes may be missing.

    Each may be gzip, or CSV with the same columns. A first line of known words (id, or class, label, ... and name,
    title, ...; parent, source, ... and child, target, ...) is a header if it cannot be data: in the classes file no
    edge uses that id, or another line has it; in the hierarchy the words are not both ids of classes. A header
    ``child TAB parent`` turns the columns round.

    Raises
    ------
    UserError : a line without a tab, an empty or duplicate id, an empty name, an id that classes_file does not have,
        a self loop, a cycle, bad YAML or JSON, no class at all. File and line are named.
    """
    nested = suffix(hierarchy_file) in NESTED
    if classes_file is None:
        if not nested:
            raise UserError(
                f"{hierarchy_file}: a list of edges needs the names of its classes; set classes_file, or write the "
                "hierarchy as nested YAML or JSON"
            )
        ids, names, links = _classes_by_path(hierarchy_file)
    else:
        table = list(rows(classes_file, "class id and name"))
        first = table[0][1] if table else ["", ""]
        others = {fields[0].strip() for _, fields in table[1:]}
        known = others if _has_header_words(first) else others | {first[0].strip()}
        links = _nested_links(hierarchy_file) if nested else _edge_list(hierarchy_file, known)
        if _is_class_header(first, others, {end for link in links for end in link[1:]}):
            table = table[1:]
        ids, names = _classes(classes_file, table)
    if not ids:
        raise UserError(f"{classes_file or hierarchy_file}: no class in it; write one class a line")
    row = {name: number for number, name in enumerate(ids)}
    lines_of = _edges(hierarchy_file, links, row, classes_file)
    edges = np.array(sorted(lines_of), dtype=np.int64).reshape(-1, 2)
    taxonomy = Taxonomy(ids, names, edges, _descriptions(keywords_file, row, classes_file or hierarchy_file))
    if taxonomy.cycle:
        raise _cycle_refusal(hierarchy_file, taxonomy, lines_of)
    return taxonomy


def _has_header_words(fields: list[str]) -> bool:
    return word(fields[0]) in CLASS and word(fields[1]) in NAME


def _is_class_header(fields: list[str], others: set[str], used: set[str | None]) -> bool:
    """Whether a first line is no class: ``others`` are the ids of the other lines, ``used`` those of the hierarchy."""
    first = fields[0].strip()
    if first not in used:
        return _has_header_words(fields) or word(first) in CLASS_ID
    return _has_header_words(fields) and first in others


def _classes(path: str, table: list[tuple[int, list[str]]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    first_line: dict[str, int] = {}
    names = []
    for number, fields in table:
        place = f"{path}: line {number}"
        name = cleaned(fields[0], place, "class id")
        if "," in name:
            raise UserError(f"{place}: class id {shown(name)} has a comma, which separates ids in labels; replace it")
        if name in first_line:
            raise UserError(
                f"{place}: class id {shown(name)} is on line {first_line[name]} already; give each class its own id, "
                "and several names of one class in one line with | between them"
            )
        first_line[name] = number
        names.append(_names(fields[1], f"{place}: class {shown(name)}"))
    return tuple(first_line), tuple(names)


def _names(field: str, place: str) -> tuple[str, ...]:
    if not field.strip():
        raise UserError(f"{place}: the class has no name; write one after its id")
    return tuple(dict.fromkeys(cleaned(name, place, "class name") for name in field.split("|")))


def _edge_list(path: str, known: set[str]) -> list[Link]:
    table = list(rows(path, "parent id and child id"))
    turned = False
    if table and not known.issuperset(field.strip() for field in table[0][1][:2]):
        parent, child = map(word, table[0][1][:2])
        turned = parent in CHILD and child in PARENT
        if turned or (parent in PARENT and child in CHILD):
            table = table[1:]
    links = []
    for number, fields in table:
        ends = [cleaned(field, f"{path}: line {number}", "class id") for field in fields[:2]]
        links.append(Link(number, *(ends[::-1] if turned else ends)))
    return links


def _edges(path: str, links: list[Link], row: dict[str, int], classes_file: str | None) -> dict[tuple[int, int], int]:
    """The distinct edges as (parent row, child row), each with the line where it is first."""
    found: dict[tuple[int, int], int] = {}
    for line, parent, child in links:
        for end in (parent, child):
            if end is not None and end not in row:
                header = " (a header line would have words such as parent and child)" if line == 1 else ""
                raise UserError(
                    f"{path}: line {line}: class id {shown(end)} is not in {classes_file}; add it there or correct it"
                    + header
                )
        if parent == child:
            raise UserError(f"{path}: line {line}: class {shown(child)} is its own parent; remove the line")
        if parent is not None:
            found.setdefault((row[parent], row[child]), line)
    return found


def _cycle_refusal(path: str, taxonomy: Taxonomy, lines_of: dict[tuple[int, int], int]) -> UserError:
    cycle = taxonomy.cycle
    line = max(lines_of[edge] for edge in zip(cycle, cycle[1:] + cycle[:1], strict=True))
    ids = [taxonomy.ids[row] for row in cycle]
    if len(ids) > CLASSES_SHOWN:
        ids[CLASSES_SHOWN - 1 : -1] = [f"({len(ids) - CLASSES_SHOWN} more)"]
    return UserError(
        f"{path}: line {line}: the edge closes a cycle, {' -> '.join([*ids, ids[0]])}; remove one of these edges"
    )


def _descriptions(path: str | None, row: dict[str, int], classes_file: str) -> tuple[str, ...]:
    if path is None:
        return ()
    found: dict[str, tuple[int, str]] = {}
    for at, (number, fields) in enumerate(rows(path, "class id and keywords")):
        place = f"{path}: line {number}"
        name = cleaned(fields[0], place, "class id")
        if at == 0 and name not in row and word(name) in CLASS:
            continue
        if name not in row:
            raise UserError(f"{place}: class id {shown(name)} is not in {classes_file}; add it there or correct it")
        if name in found:
            raise UserError(
                f"{place}: class id {shown(name)} is on line {found[name][0]} already; write one line a class"
            )
        found[name] = number, fields[1].strip()
    return tuple(found[name][1] if name in found else "" for name in row)


# ---- nested hierarchies


class Branch(NamedTuple):
    """A class of a nested hierarchy: where it is, what it is called there, and its parent's place in the list."""

    line: int
    key: str
    above: int | None


def _classes_by_path(path: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], list[Link]]:
    ids: dict[str, int] = {}
    order: list[str] = []
    names: list[tuple[str, ...]] = []
    links = []
    for line, key, above in _branches(path):
        called = _names(key, f"{path}: line {line}")
        parent = None if above is None else order[above]
        own = cleaned(re.sub(r"\s*,\s*", " ", called[0]), f"{path}: line {line}", "class name, but for commas,")
        name = own if parent is None else f"{parent}/{own}"
        if name in ids:
            raise UserError(
                f"{path}: line {line}: class {shown(name)} is on line {ids[name]} already; merge the two or rename one"
            )
        ids[name] = line
        order.append(name)
        names.append(called)
        links.append(Link(line, parent, name))
    return tuple(order), tuple(names), links


def _nested_links(path: str) -> list[Link]:
    branches = _branches(path)
    keys = [cleaned(key, f"{path}: line {line}", "class id") for line, key, _ in branches]
    return [
        Link(line, None if above is None else keys[above], key)
        for key, (line, _, above) in zip(keys, branches, strict=True)
    ]


def _branches(path: str) -> list[Branch]:
    """All classes of a nested hierarchy, each after its parent.

    The nodes of the YAML composer, not its values: they know their lines, keep repeated keys, and leave a class called
    ``no`` or ``1.10`` its name.
    """
    found: list[Branch] = []

    def walk(node: Any, above: int | None, trail: tuple[Any, ...]) -> None:
        for line, key, below in _entries(path, node):
            if any(below is outer for outer in trail):
                raise UserError(
                    f"{path}: line {line}: a cycle, {shown(key)} leads back to its own part; write the classes out"
                )
            found.append(Branch(line, key, above))
            if below is not None:
                walk(below, len(found) - 1, (*trail, below))

    try:
        root = _composed(path, "\n".join(text for _, text in lines(path)))
        if root is not None:
            walk(root, None, (root,))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; write the hierarchy as a list of edges") from None
    return found


def _composed(path: str, text: str) -> Any:
    if suffix(path) == ".json":
        try:
            json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: {json_fault(error)}; correct it") from None
        text = text.replace("\t", " ")  # JSON has tabs only between tokens, YAML none there
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f"line {mark.line + 1}: "
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise UserError(f"{path}: {line}not valid YAML ({problem}); correct it") from None


def _entries(path: str, node: Any) -> Iterator[tuple[int, str, Any]]:
    """Line, name and what is below (None for nothing) of each class that stands directly in a mapping or a list."""
    if isinstance(node, yaml.MappingNode):
        for key, below in node.value:
            name = _name_of(path, key)
            empty = isinstance(below, yaml.ScalarNode) and (below.tag.endswith(":null") or not below.value)
            if isinstance(below, yaml.ScalarNode) and not empty:
                raise UserError(
                    f"{path}: line {below.start_mark.line + 1}: {shown(below.value)} stands where the children of "
                    f"{shown(name)} belong; write them as keys or as a list"
                )
            yield key.start_mark.line + 1, name, None if empty else below
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.MappingNode):
                yield from _entries(path, item)
            else:
                yield item.start_mark.line + 1, _name_of(path, item), None
    elif not node.tag.endswith(":null"):
        raise UserError(
            f"{path}: line {node.start_mark.line + 1}: {shown(node.value)} is no hierarchy; write {{name: {{child: "
            "{}}}"
        )


def _name_of(path: str, node: Any) -> str:
    place = f"{path}: line {node.start_mark.line + 1}"
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{place}: a list where the name of a class belongs; write one name")
    if node.tag.endswith(":merge"):
        raise UserError(f"{place}: the merge key << is not supported; write the classes out")
    # JSON spells a letter beyond 16 bits as two halves, which YAML leaves apart
    return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
