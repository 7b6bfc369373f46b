"""What pass 1 leaves comes back as it was written: twice the mid-ranks, or the middles of cells of them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from common import files
from common.errors import UserError
from conftest import Stored, few_cells, store
from descriptors import codes as module
from descriptors import ordering, products, ranks
from descriptors.codes import CodeFile, CodesWriter, CodeWriter, RankCodes
from descriptors.ranks import fine_bits

# ---- the code file

CODES = np.random.default_rng(0).integers(0, 40_000, (7, 5000)).astype(np.uint16)


def written(path: Path, codes: np.ndarray = CODES) -> Path:
    writer = CodeWriter(path, codes.shape[1])
    for column in codes:
        writer.write(column)
    writer.close()
    return path


@pytest.mark.parametrize("n_columns", [0, 1, 7])
def test_the_code_file_is_the_npy_file_that_numpy_reads(tmp_path, n_columns):
    path = written(tmp_path / "codes.npy", CODES[:n_columns])
    read = np.load(path, allow_pickle=False)
    assert np.array_equal(read, CODES[:n_columns])
    assert read.dtype == np.uint16 and CodeFile(path).shape == (n_columns, CODES.shape[1])


@given(st.integers(0, len(CODES) - 1), st.integers(0, CODES.shape[1]), st.integers(0, CODES.shape[1]))
def test_any_rows_of_a_column_are_read(code_path, column, one, other):
    start, stop = sorted((one, other))
    assert np.array_equal(CodeFile(code_path).row(column, start, stop), CODES[column, start:stop])


@pytest.fixture(scope="module")
def code_path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("codes") / "codes.npy")


def test_many_threads_read_their_own_columns_at_once(code_path):
    # seek and read on one handle mixed up the columns of different threads
    shared = CodeFile(code_path)
    together = threading.Barrier(8)

    def read(column: int) -> bool:
        together.wait(timeout=30)
        rows = [slice(start, start + 700) for start in range(0, 4200, 50)] * 4
        wanted = column % len(CODES)
        return all(np.array_equal(shared.row(wanted, r.start, r.stop), CODES[wanted, r]) for r in rows)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@pytest.mark.parametrize("copied", [1, 1000, 5000, 1 << 22])
def test_a_file_put_together_from_parts_is_that_of_one_writer(tmp_path, monkeypatch, copied):
    monkeypatch.setattr(module, "COPIED", copied)
    small = CODES[:, :3000]
    whole = written(tmp_path / "whole.npy", small)
    parts = [small[:2], small[2:2], small[2:6], small[6:]]
    paths = [written(tmp_path / f"{number}.npy", part) for number, part in enumerate(parts)]
    writer = CodeWriter(tmp_path / "together.npy", small.shape[1])
    for path in paths:
        writer.append(CodeFile(path))
    writer.close()
    assert (tmp_path / "together.npy").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", ["rows", "type"])
def test_a_part_of_another_table_is_refused_by_its_name(tmp_path, kind):
    other = tmp_path / "other.npy"
    np.save(other, CODES[:, :-1] if kind == "rows" else CODES.astype(np.uint32))
    with pytest.raises(
        UserError, match=r"other\.npy: does not belong to a table of 5000 rows; delete it and run the same command"
    ):
        CodeWriter(tmp_path / "codes.npy", CODES.shape[1]).append(CodeFile(other))


def test_the_number_of_columns_may_have_any_number_of_digits(tmp_path):
    path = written(tmp_path / "codes.npy", np.arange(12_345, dtype=np.uint16)[:, None])
    assert CodeFile(path).row(12_344, 0, 1) == 12_344


@pytest.mark.parametrize("kind", ["absent", "empty", "header only", "truncated", "longer", "no npy", "floats", "flat"])
def test_a_damaged_code_file_is_named_and_so_is_the_remedy(tmp_path, kind):
    path = tmp_path / "codes.npy"
    content = written(path).read_bytes()
    if kind == "absent":
        path.unlink()
    elif kind == "floats":
        np.save(path, CODES.astype(np.float64))
    elif kind == "flat":
        np.save(path, CODES[0])
    else:
        path.write_bytes(
            {
                "empty": b"",
                "header only": content[:128],
                "truncated": content[:-1],
                "longer": content + b"\0",
                "no npy": b"PAR1" + content,
            }[kind]
        )
    with pytest.raises(UserError, match=r"codes\.npy: .*; delete it and run the same command again") as caught:
        CodeFile(path)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=50)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_changed_byte_is_noticed_before_its_column_is_used_and_costs_no_other_column(
    tmp_path_factory, place, flip, in_parts
):
    folder = tmp_path_factory.mktemp("x")
    writer = CodeWriter(folder / "codes.npy", CODES.shape[1])
    for column in CODES:
        if in_parts:
            written(folder / "part.npy", column[None])
            writer.append(CodeFile(folder / "part.npy"))
        else:
            writer.write(column)
    writer.close()
    content = bytearray((folder / "codes.npy").read_bytes())
    at = int(place * len(content))
    content[at] ^= flip
    (folder / "codes.npy").write_bytes(content)
    refused = pytest.raises(UserError, match=r"codes\.npy: .*; delete it and run the same command again")
    if at < 128:
        with refused:
            CodeFile(folder / "codes.npy", writer.checksum)
        return
    read = CodeFile(folder / "codes.npy", writer.checksum)
    for column, expected in enumerate(CODES):
        if column == (at - 128) // expected.nbytes:
            with refused:
                read.row(column, 0, 1)
        else:
            assert np.array_equal(read.row(column, 7, 99), expected[7:99])


@given(st.integers(0, 127), st.integers(0, 255))
def test_no_single_damaged_byte_of_the_header_ends_in_anything_but_a_named_file(code_path, place, byte):
    content = bytearray(code_path.read_bytes())
    content[place] = byte
    path = code_path.with_name("damaged.npy")
    path.write_bytes(content)
    try:
        read = CodeFile(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert read.shape[0] * read.shape[1] * read.dtype.itemsize == CODES.nbytes


def test_a_code_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = written(tmp_path / "codes.npy")
    codes = CodeFile(path)
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(UserError, match=r"codes\.npy: ended early"):
        codes.row(6, 0, CODES.shape[1])


def test_a_full_disk_is_one_line_that_names_the_code_file():
    with pytest.raises(UserError, match=r"^/dev/full: cannot be written \(No space left on device\)"):
        writer = CodeWriter(Path("/dev/full"), 10)
        writer.write(np.zeros(10, np.uint16))
        writer.close()


# ---- rank codes


def doubled(table: np.ndarray) -> np.ndarray:
    """Twice SciPy's mid-ranks of the columns of a (N, P) table, 0 = missing."""
    codes = np.zeros(table.shape, np.int64)
    for out, column in zip(codes.T, table.T, strict=True):
        valid = np.isfinite(column)
        out[valid] = 2 * rankdata(column[valid])
    return codes


def mixed(n_rows: int, seed: int) -> np.ndarray:
    """(N, 6): continuous, with gaps, few values, nearly all missing, ties of all sizes, whole numbers."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n_rows, 6))
    table[1:][rng.random(n_rows - 1) < 0.3, 1] = np.nan
    table[:, 2] = rng.integers(0, 5, n_rows)
    table[1:, 3] = np.nan
    table[:, 4] = np.round(rng.standard_cauchy(n_rows) * n_rows**0.5) / n_rows
    table[:, 5] = rng.integers(-(10**9), 10**9, n_rows)
    return table


def check(codes: RankCodes, expected: np.ndarray, start: int, stop: int) -> None:
    """Codes of rows start .. stop: within half a cell of twice the mid-ranks, missing where they are, ordered alike."""
    wanted = np.arange(codes.shape[0])
    read = codes.read(wanted, start, stop).astype(np.int64)
    off = np.abs(read - expected[start:stop].T)
    assert ((read == 0) == (expected[start:stop].T == 0)).all()
    # half a cell only where a cell holds several values
    assert (off.max(axis=1, initial=0) <= np.where(codes.split, (1 << codes.shift) >> 1, 0)).all()
    for column in wanted:
        cells, truth = codes.cells(int(column), start, stop).astype(np.int64), expected[start:stop, column]
        assert ((cells == 0) == (truth == 0)).all()
        assert cells.max(initial=0) < codes.sizes[column]
        order = np.argsort(truth, kind="stable")
        rises = np.diff(cells[order])
        assert (rises >= 0).all()
        if not codes.split[column]:
            assert ((rises > 0) == (np.diff(truth[order]) > 0)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 400), st.sampled_from([16, 32, 200]))
def test_ranks_or_the_middles_of_their_cells_come_back_in_tables_of_any_length(
    tmp_path_factory, seed, n_rows, start, cells
):
    table = mixed(n_rows, seed)
    expected, start = doubled(table), min(start, n_rows - 1)
    with few_cells(cells):
        stored = store(tmp_path_factory.getbasetemp(), table)
        codes = stored.open()
        assert codes.shift == (fine_bits(n_rows) if n_rows > 10 else 0)
        for each in (codes, codes.told_apart(), codes.subset(np.arange(6))):
            check(each, expected, start, n_rows)
        assert codes.told_apart().shift == 0 and not codes.told_apart().split.any()
        exact = codes.told_apart().read(np.arange(6), start, n_rows)
        assert np.array_equal(exact, expected[start:].T)  # exactly twice the mid-ranks


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[np.ndarray, Stored]:
    """70,000 rows: more different values than 16 bits number, so that there is a fine plane without any tricks."""
    table = mixed(70_000, 0)
    return table, store(tmp_path_factory.mktemp("large"), table)


def test_a_table_of_70_000_rows_has_a_fine_plane_for_what_16_bits_cannot_number(large):
    table, stored = large
    assert stored.levels.tolist() == [0, stored.n_valid[1], 5, 1, len(np.unique(table[:, 4])), 0]
    assert CodeFile(stored.fine).shape[0] == (stored.levels == 0).sum()


def test_up_to_200_000_rows_all_ranks_come_back_and_above_16_bits_of_them(large, monkeypatch):
    table, stored = large
    expected = doubled(table)
    codes = stored.open()
    assert (codes.shift, codes.split.any()) == (0, False)
    check(codes, expected, 0, 70_000)
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    cut = stored.open()
    assert cut.shift == 2
    check(cut, expected, 0, 70_000)
    check(cut.subset(np.array([5, 0, 2])), expected[:, [5, 0, 2]], 60_000, 70_000)
    check(cut.told_apart().subset(np.array([5, 0, 2])), expected[:, [5, 0, 2]], 0, 70_000)
    check(cut.subset(np.array([5, 0, 2])).subset(np.array([2, 0])), expected[:, [2, 5]], 0, 300)
    check(cut.subset(np.array([5, 0, 2])).told_apart(), expected[:, [5, 0, 2]], 3, 700)


@pytest.mark.parametrize(("n_rows", "whole"), [(200_000, True), (200_001, False)])
def test_all_ranks_are_told_apart_in_tables_of_up_to_200_000_rows(tmp_path, n_rows, whole):
    stored = store(tmp_path, np.arange(n_rows)[:, None] % 7.0)
    assert (stored.open().shift == 0) is whole
    # few values are told apart in any table
    assert not stored.open().split.any()


def test_columns_put_together_from_shards_are_those_of_one_writer(tmp_path):
    table = mixed(300, 1)
    with few_cells():
        whole = store(tmp_path, table)
        writer = CodesWriter(tmp_path / "codes2.npy", tmp_path / "fine2.npy", 300)
        for number, columns in enumerate((slice(0, 2), slice(2, 2), slice(2, 6))):
            folder = tmp_path / f"shard{number}"
            folder.mkdir()
            part = CodesWriter(folder / "codes.npy", folder / "fine.npy", 300)
            for column in table.T[columns]:
                part.write(ranks.sort(np.ascontiguousarray(column)).encode())
            part.close()
            writer.append(CodeFile(folder / "codes.npy"), CodeFile(folder / "fine.npy"))
        writer.close()
    assert (tmp_path / "codes2.npy").read_bytes() == whole.cells.read_bytes()
    assert (tmp_path / "fine2.npy").read_bytes() == whole.fine.read_bytes()


# ---- pass 1's products


NAMES = list("abcdefg")
TABLE = np.random.default_rng(0).integers(0, 60, (500, 7)).astype(float)
TABLE[:100, 2] = np.nan


def product_files(folder: Path, stored: Stored, names: list[str], **changed: object) -> tuple[str, ...]:
    """Pass 1's products, in the order of the arguments of ``products.load``."""
    files.write_lines(folder / "columns.txt", names)
    told = {"count": len(stored.levels), "n_total": 500, "n_levels": stored.levels, "n_valid": stored.n_valid}
    files.write_npz(folder / "stats.npz", **told | changed)
    files.write_npy(folder / "ecdf.npy", stored.ecdf)
    files.write_record(folder / "details.json", {}, [])
    paths = folder / "columns.txt", folder / "stats.npz", stored.cells, stored.fine, folder / "ecdf.npy"
    return (*map(str, paths), str(folder / "details.json"))


@pytest.mark.parametrize("cells", [32, 1 << 16])
def test_products_that_belong_together_are_loaded(tmp_path, cells):
    with few_cells(cells, exact_rows=10_000):
        ranked = products.load(*product_files(tmp_path, store(tmp_path, TABLE), NAMES))
        assert ranked.names == NAMES and ranked.n_rows == 500
        subset = ranked.codes.subset(np.array([5, 2]))
        assert subset.shape == (2, 500)
        assert np.array_equal(subset.read(np.array([1, 0]), 10, 300), doubled(TABLE).T[[2, 5], 10:300])


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        (NAMES[:-1], {}),
        (NAMES[:-1], {"count": 7}),
        (NAMES, {"count": 6}),
        (NAMES, {"n_total": 499}),
        ([*NAMES, "h"], {"count": 8}),
    ],
    ids=["a name fewer", "another list", "another count", "other rows", "a column more"],
)
def test_products_of_different_runs_are_refused_with_all_three_files(tmp_path, names, changed):
    paths = product_files(tmp_path, store(tmp_path, TABLE), names, **changed)
    with pytest.raises(UserError) as caught:
        products.load(*paths)
    assert all(path in str(caught.value) for path in paths[:3]) and "run pass1 again" in str(caught.value)


@pytest.mark.parametrize("kind", ["fewer places", "more levels", "fewer ranks"])
def test_places_and_ranks_of_another_run_are_refused_with_both_files(tmp_path, kind):
    with few_cells():
        stored = store(tmp_path, TABLE)
        other = TABLE[:, :6].copy() if kind == "fewer places" else TABLE
        paths = list(product_files(tmp_path, stored, NAMES))
        if kind == "fewer places":
            (tmp_path / "other").mkdir()
            paths[3] = str(store(tmp_path / "other", other).fine)
        elif kind == "more levels":
            paths = product_files(tmp_path, stored, NAMES, n_levels=np.full(7, 60))
        else:
            files.write_npy(paths[4], np.append(stored.ecdf, 1))
        with pytest.raises(UserError) as caught:
            products.load(*paths)
    assert all(path in str(caught.value) for path in paths[3:5]) and paths[1] in str(caught.value)


def test_positions_are_places_among_the_columns_that_entered():
    assert products.positions(NAMES, ["c", "a"], "x.txt").tolist() == [2, 0]
    assert products.positions(NAMES, [], "x.txt").shape == (0,)
    with pytest.raises(UserError, match=r"^x\.txt: column zz did not pass pass 1"):
        products.positions(NAMES, ["a", "zz"], "x.txt")


def test_quality_is_fewer_missing_then_more_variance_then_file_order():
    missing = np.array([0.5, 0.1, 0.1, 0.1, 0.1 + 1e-9])
    variance = np.array([0.25, 0.05, 0.2, 0.2, 0.1])
    # the last one's missing ratio is the same after rounding to 1e-6
    assert ordering.quality_ranks(missing, variance).tolist() == [4, 3, 0, 1, 2]


def test_of_equal_gaps_the_stronger_column_is_kept_then_the_one_that_varies_more():
    told = [  # missing ratio, strength, normalised variance; best first
        (4e-7, 3.0, 0.0),  # as good as none missing
        (0, 2.000000002, 0.0),
        (0, 2.0, 0.2),
        (0, 2.0, 0.1),
        (0, 2.0000000004, 0.1),  # the same strength; the file's order
        (0, 1.0, 0.2),
        (6e-6, 9.0, 0.2),
        (0.1, 9.0, 0.2),
    ]
    missing, strength, variance = np.array(told).T
    shuffled = np.array([7, 2, 3, 0, 6, 4, 5, 1])
    best = ordering.best_first(missing[shuffled], variance[shuffled], strength[shuffled])
    assert shuffled[best].tolist() == list(range(8))


@given(st.lists(st.text("aAbB_ 10é", max_size=3), unique=True))
def test_name_order_sorts_the_names(names):
    assert [names[place] for place in ordering.name_order(names)] == sorted(names)


@pytest.mark.parametrize("n_rows", [300, 317, 400, 511])
def test_no_code_in_the_middle_of_a_cell_is_above_twice_the_number_of_values(tmp_path, n_rows):
    # pass 4 refused tables of 2 million rows: the middle of the last cell was above the last rank
    table = np.random.default_rng(0).normal(size=(n_rows, 3))
    table[: n_rows // 7, 1] = np.nan
    with few_cells(16, 4):
        stored = store(tmp_path, table)
        codes = stored.open()
        assert codes.shift > 0
        assert (codes.read(np.arange(3), 0, n_rows).max(axis=1) <= 2 * stored.n_valid).all()
