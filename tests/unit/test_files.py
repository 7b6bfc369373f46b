"""A file is there completely or not at all, and a damaged one is named."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import files
from common.errors import UserError

READERS = {
    "json": files.read_json,
    "lines": files.read_lines,
    "npy": files.read_npy,
    "npz": files.read_npz,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- writing


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "er" / "x.txt"
    with files.atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that the move is atomic
    assert contents(path.parent) == {"x.txt": b"half"}


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises((failure, UserError)), files.atomic(path) as temporary:
        temporary.write_text("half of the new")
        raise failure
    assert contents(tmp_path) == {"x.txt": b"old"}


def test_a_failure_before_anything_is_written_is_the_one_that_is_reported(tmp_path):
    with pytest.raises(ZeroDivisionError), files.atomic(tmp_path / "x.txt"):
        raise ZeroDivisionError
    assert contents(tmp_path) == {}


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("move"), replace(*paths)))
    files.write_text(tmp_path / "x.txt", "content")
    assert events == ["sync", "move", "sync"]  # the file, its name, the folder with the name


WRITERS = {
    "json": lambda path: files.write_json(path, {"a": 1}),
    "lines": lambda path: files.write_lines(path, ["a"]),
    "npy": lambda path: files.write_npy(path, np.arange(3)),
    "npz": lambda path: files.write_npz(path, a=np.arange(3)),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("obstacle", ["a file as folder", "a folder as file", "/proc"])
def test_a_place_that_cannot_be_written_is_one_line_that_names_it(tmp_path, kind, obstacle):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = {
        "a file as folder": tmp_path / "file" / "x",
        "a folder as file": tmp_path / "folder",
        "/proc": Path("/proc/winnow/x"),
    }[obstacle]
    with pytest.raises(UserError) as caught:
        WRITERS[kind](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written (") and len(message.splitlines()) == 1
    assert sorted(contents_names(tmp_path)) == ["file", "folder"]


def contents_names(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*")]


@pytest.mark.parametrize("said", [(28, "No space left on device"), ("No space left\non device",)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, said):
    def full(*_):
        raise OSError(*said)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"x\.npy: cannot be written \(No space left on device\)"):
        files.write_npy(tmp_path / "x.npy", np.arange(10))
    assert contents(tmp_path) == {}


# ---- JSON


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
arrays = st.lists(st.floats(), max_size=3).map(np.array)
scalars = st.one_of(st.floats().map(np.float64), st.floats(width=32).map(np.float32), st.integers(0, 9).map(np.int8))
content = st.recursive(
    st.one_of(numbers, st.text('aé\n"\\', max_size=4), arrays, scalars),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from(["a", "b", "schéma"]), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]), content, max_size=3))
def test_any_content_becomes_json_that_other_languages_read(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.json"
    files.write_json(path, tree)
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert next(iter(read)) == "schema_version"
    assert read.pop("written_as") == "tree.json" and read.pop("checksum")
    assert files.read_json(path) == read


def test_numbers_that_are_not_finite_are_strings_that_float_reads(tmp_path):
    values = [np.nan, np.inf, -np.inf, np.float32(np.inf), 1.5, np.int64(3), np.True_]
    files.write_json(tmp_path / "x.json", {"values": values, "array": np.array([[1, np.nan]]), 5: (1, 2)})
    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read["values"] == ["nan", "inf", "-inf", "inf", 1.5, 3, True]
    assert np.array_equal(np.array(read["values"][:4], float), [np.nan, np.inf, -np.inf, np.inf], equal_nan=True)
    assert read["array"] == [[1.0, "nan"]] and read["5"] == [1, 2]


@settings(max_examples=50)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_survive_json_to_the_bit(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "number.json"
    files.write_json(path, {"value": value})
    assert np.float64(files.read_json(path)["value"]).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize(
    ("text", "found"),
    [('{"schema_version": 1}', "1"), ('{"schema_version": "2"}', "2"), ("{}", "None"), ("[1]", "None"), ("3", "None")],
)
def test_json_of_another_version_is_refused(tmp_path, text, found):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x\.json: schema_version is {found}, not 2: .*delete this one"):
        files.read_json(tmp_path / "x.json")


# ---- lists of names and arrays


@settings(max_examples=50)
@given(st.lists(st.text("aé \t'\"\u2028\x85", max_size=5)))
def test_names_come_back_as_they_were_written(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.txt"
    files.write_lines(path, names)
    assert files.read_lines(path) == names


@pytest.mark.parametrize("text", ["a\nb\n", "a\nb", "a\r\nb\r\n"])
def test_a_list_that_an_editor_saved_loses_no_name(tmp_path, text):
    # a last line without its end was dropped silently
    (tmp_path / "x.txt").write_bytes(text.encode())
    assert files.read_lines(tmp_path / "x.txt") == ["a", "b"]


def test_an_empty_list_is_an_empty_file(tmp_path):
    files.write_lines(tmp_path / "x.txt", [])
    assert (tmp_path / "x.txt").read_bytes() == b""
    assert files.read_lines(tmp_path / "x.txt") == []


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.array([], np.uint16), np.array(7), np.array(["a", "é"])]
)
def test_arrays_come_back_as_they_were_written(tmp_path, array):
    files.write_npy(tmp_path / "x.npy", array)
    files.write_npz(tmp_path / "x.npz", one=array, two=np.int64(3))
    for read in (files.read_npy(tmp_path / "x.npy"), files.read_npz(tmp_path / "x.npz")["one"]):
        assert np.array_equal(read, array) and read.dtype == array.dtype
    assert set(files.read_npz(tmp_path / "x.npz")) == {"one", "two"}


def test_the_same_arrays_are_the_same_bytes(tmp_path):
    for name in ("1.npz", "2.npz"):
        files.write_npz(tmp_path / name, a=np.arange(5), b=np.float64(2))
        os.utime(tmp_path / name, (1, 1))
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_an_array_of_objects_is_neither_written_nor_read(tmp_path):
    objects = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        files.write_npy(tmp_path / "x.npy", objects)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        files.write_npz(tmp_path / "x.npz", a=objects)
    assert contents(tmp_path) == {}


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_no_pickle_is_ever_loaded(tmp_path):
    trap = np.array([Trap(tmp_path / "mark")], dtype=object)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=trap)
    (tmp_path / "y.npy").write_bytes(trap.dumps())
    for reader, name in ((files.read_npy, "x.npy"), (files.read_npz, "x.npz"), (files.read_npy, "y.npy")):
        with pytest.raises(UserError, match=name):
            reader(tmp_path / name)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("damage", ["absent", "a folder", "empty", "truncated", "noise"])
def test_a_damaged_file_is_named_and_its_cure_too(tmp_path, kind, damage):
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path)
    whole = path.read_bytes()
    if damage in ("absent", "a folder"):
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("empty", "truncated", "noise"):
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\xff\xfe\x00" * 50}[damage])
    if kind == "lines" and damage in ("empty", "truncated"):
        assert len(READERS[kind](path)) <= 1  # still a list
        return
    with pytest.raises(UserError) as caught:
        READERS[kind](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read (") and len(message.splitlines()) == 1
    assert "delete it and run the same command again" in message


@given(st.sampled_from(["npy", "npz"]), st.integers(0, 400), st.integers(0, 255))
def test_no_single_damaged_byte_ends_in_anything_but_a_named_file(tmp_path_factory, kind, place, byte):
    path = tmp_path_factory.getbasetemp() / f"bytes.{kind}"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        WRITERS[kind](whole)
    damaged = bytearray(whole.read_bytes())
    damaged[place % len(damaged)] = byte
    path.write_bytes(damaged)
    try:
        READERS[kind](path)
    except UserError as error:
        assert str(path) in str(error)


# ---- one file under two names


def test_a_link_is_the_same_file(tmp_path):
    files.write_text(tmp_path / "model.pt", "weights")
    files.link(tmp_path / "model.pt", tmp_path / "deep" / "er" / "model.pt")
    made = tmp_path / "deep" / "er" / "model.pt"
    assert made.read_text() == "weights"
    assert made.samefile(tmp_path / "model.pt")  # a model of gigabytes takes its place once


@pytest.mark.parametrize(
    "error",
    [None, PermissionError(1, "not permitted"), OSError(18, "cross-device")],
    ids=["hard link", "forbidden", "across disks"],
)
def test_a_link_replaces_what_was_there_and_is_not_older_than_what_it_follows_from(tmp_path, monkeypatch, error):
    source, made = tmp_path / "source", tmp_path / "made"
    source.write_bytes(b"new \x00 bytes")
    made.write_text("old")
    os.utime(source, (1, 1))  # made long ago; by its age Snakemake would take what follows for outdated

    def refuse(*_, **__):
        raise error

    if error:
        monkeypatch.setattr(os, "link", refuse)
    before = tmp_path / "before"
    before.write_text("")
    files.link(source, made)
    assert made.read_bytes() == source.read_bytes() == b"new \x00 bytes"
    assert made.stat().st_mtime_ns >= before.stat().st_mtime_ns
    assert made.samefile(source) == (error is None)
    assert sorted(contents_names(tmp_path)) == ["before", "made", "source"]


def test_a_source_that_is_written_again_leaves_the_link_as_it_was(tmp_path):
    # writers move a new file into place; one that wrote into the old file would change both
    files.write_text(tmp_path / "source", "first")
    files.link(tmp_path / "source", tmp_path / "made")
    files.write_text(tmp_path / "source", "second")
    assert (tmp_path / "made").read_text() == "first"


def test_a_link_that_cannot_be_made_is_one_line_that_names_it(tmp_path, monkeypatch):
    files.write_text(tmp_path / "source", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        files.link(tmp_path / "source", tmp_path / "file" / "made")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file' / 'made'}: cannot be written (") and len(message.splitlines()) == 1


def test_a_link_to_a_file_that_is_gone_names_it_and_removes_nothing(tmp_path):
    (tmp_path / "made").write_text("old")
    with pytest.raises(UserError, match=f"{tmp_path / 'source'}: cannot be read"):
        files.link(tmp_path / "source", tmp_path / "made")
    assert (tmp_path / "made").read_text() == "old"


# ---- what the user gives, by its content


def test_the_digest_of_contents_knows_neither_names_nor_dates(tmp_path):
    for folder, names, date in (("one", "ab", 1), ("other", "xy", 10**9)):
        (tmp_path / folder).mkdir()
        for name, text in zip(names, ("first", "second"), strict=True):
            (tmp_path / folder / name).write_text(text)
            os.utime(tmp_path / folder / name, (date, date))
    one, other = ([str(path) for path in sorted((tmp_path / name).iterdir())] for name in ("one", "other"))
    assert files.contents_digest(one) == files.contents_digest(other)


def test_the_digest_of_contents_follows_order_and_every_byte_and_where_files_end(write):
    a, b, ab, nothing = write("a", "a"), write("b", "b"), write("ab", "ab"), write("nothing", "")
    lists = [[], [a], [a, b], [b, a], [a, a], [ab], [ab, nothing], [nothing, ab], [a, b, nothing]]
    assert len({files.contents_digest(each) for each in lists}) == len(lists)
    before = files.contents_digest([a, b])
    write("b", "c")
    assert files.contents_digest([a, b]) != before


@pytest.mark.parametrize("obstacle", ["absent", "a folder"])
def test_the_digest_of_what_cannot_be_read_names_it(tmp_path, write, obstacle):
    if obstacle == "a folder":
        (tmp_path / "x").mkdir()
    with pytest.raises(UserError) as caught:
        files.contents_digest([write("a", "a"), str(tmp_path / "x")])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'x'}: cannot be read (") and len(message.splitlines()) == 1
    assert message.endswith("; correct the path or its permissions")


# ---- records


def written(folder: Path) -> tuple[Path, Path]:
    """A product, and the record that was written after it."""
    made, record = folder / "made.npy", folder / "record.json"
    files.write_npy(made, np.arange(1000))
    files.write_record(record, {"x": [1, "2"]}, [str(made)])
    return made, record


def damage(path: Path, place: float, flip: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_product_with_a_changed_byte_is_refused_with_its_name_and_the_remedy(tmp_path_factory, place, flip):
    made, record = written(tmp_path_factory.mktemp("x"))
    files.check_inputs([str(made)], [str(record)])
    damage(made, place, flip)
    with pytest.raises(UserError, match=r"made\.npy: is damaged: .*; delete it and run the same command again"):
        files.check_inputs([str(made)], [str(record)])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_json_with_a_changed_byte_is_refused_with_its_name_and_the_remedy(tmp_path_factory, place, flip):
    _, record = written(tmp_path_factory.mktemp("x"))
    damage(record, place, flip)
    for reader in (files.read_json, files.check_product, lambda path: files.check_inputs([], [path])):
        with pytest.raises(UserError, match=r"record\.json: .*; delete it and run the same command again"):
            reader(record)


@pytest.mark.parametrize("other", ["absent", "a folder", "shorter", "of another run"])
def test_a_product_that_is_not_the_recorded_one_is_refused(tmp_path, other):
    made, record = written(tmp_path)
    whole = made.read_bytes()
    made.unlink()
    if other == "a folder":
        made.mkdir()
    elif other == "shorter":
        made.write_bytes(whole[:-1])
    elif other == "of another run":
        files.write_npy(made, np.arange(1, 1001))
    with pytest.raises(UserError, match=r"made\.npy: .*; delete it and run the same command again"):
        files.check_inputs([str(made), str(record)])


def test_a_record_and_its_products_may_be_moved_together_and_be_asked_for_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    written(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    damage(tmp_path / "b" / "made.npy", 0.5, 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="b/made"):
        files.check_inputs(["b/made.npy"], ["b/record.json"])


def test_before_a_run_large_products_are_compared_by_size_and_small_ones_by_content(tmp_path, monkeypatch):
    made, record = written(tmp_path)
    files.check_product(tmp_path / "absent.json")
    files.check_product(record)
    damage(made, 0.9, 1)
    with pytest.raises(UserError, match=r"made\.npy: is damaged"):
        files.check_product(record)
    monkeypatch.setattr(files, "LARGE", 100)
    files.check_product(record)
    made.write_bytes(made.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"made\.npy: is damaged"):
        files.check_product(record)
    made.unlink()
    files.check_product(record)  # one that is not there will be made


def test_a_json_under_the_name_of_another_is_refused_and_so_is_one_without_checksums_where_they_are_asked_for(tmp_path):
    _, record = written(tmp_path)
    record.rename(tmp_path / "metrics.json")
    with pytest.raises(UserError, match=r"metrics\.json: was written as record\.json; delete it"):
        files.read_json(tmp_path / "metrics.json")
    files.write_json(record, {"x": 1})
    with pytest.raises(UserError, match=r"record\.json: has no checksums of other files; give"):
        files.check_inputs([], [str(record)])


def test_before_a_run_a_product_of_another_run_is_refused_unless_it_will_be_made_again_anyway(tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    files.check_chain(first, second, resumed=True)
    files.write_json(first, {"x": 1})
    files.check_chain(first, second, resumed=True)
    files.write_json(second, {"made_from": files.digest(first)})
    files.check_chain(first, second)
    files.write_json(first, {"x": 2})
    for path, moment in ((first, 20), (second, 10)):
        os.utime(path, (moment, moment))
    files.check_chain(first, second, resumed=True)  # a run that was stopped between the two
    os.utime(second, (30, 30))
    with pytest.raises(UserError, match=r"second\.json: was not made from .*first\.json; delete it and run the same"):
        files.check_chain(first, second, resumed=True)


def test_what_a_product_is_known_by_is_what_it_says_and_not_which_files_were_written_with_it(tmp_path):
    written(tmp_path)
    files.write_json(tmp_path / "alone.json", {"x": [1, "2"]})
    files.write_json(tmp_path / "other.json", {"x": [1, "3"]})
    digests = [files.digest(tmp_path / name) for name in ("record.json", "alone.json", "other.json")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("free", "fits"), [(64 * 2**20 + 1000, True), (64 * 2**20 + 999, False), (500, False)])
def test_what_the_disk_has_no_room_for_is_refused_before_the_work(tmp_path, monkeypatch, free, fits):
    asked = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    path = tmp_path / "not" / "yet" / "state.pt"
    if fits:
        files.check_space(path, 1000)
    else:
        with pytest.raises(UserError, match=r"state\.pt: needs 0 MB and 67 MB to spare, .+ free some space"):
            files.check_space(path, 1000)
    assert asked == [tmp_path]  # the first folder that is there
