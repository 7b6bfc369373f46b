"""What a card computes, NumPy or a simulated card in its place: the bytes of the CPU, also when memory runs out."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_nonlinear import coded, same_bytes, similarity
from test_ranks import doubles
from test_spearman import encode

import simulated_card
from common.arrays import Accelerator
from common.errors import UserError
from conftest import ArrayCodes, few_cells, store, write_table
from descriptors import covariance, features, nonlinear_on_card, ranks_on_card, spearman, spearman_on_card
from descriptors.ranks import sort

MEMORY = 10**9
# the same tests on a card: pytest -m gpu
LIBRARIES = ["numpy", "simulated", pytest.param("cupy", marks=pytest.mark.gpu)]
on_both = pytest.mark.parametrize("library", LIBRARIES)


class OutOfMemoryError(MemoryError):
    """CuPy's, by name."""


class Small(Accelerator):
    """A card that cannot hold blocks of more than ``rows`` rows; ``tried`` are those that came."""

    def __init__(self, library: str, rows: int, memory: int = MEMORY) -> None:
        self.told: list[str] = []
        super().__init__(module(library), memory, 2, self.told.append)
        self.rows, self.tried = rows, []

    def upload(self, blocks):
        for number, block in enumerate(super().upload(blocks)):
            self.tried.append(block.shape[1])
            # not the first block, so that what was added before has to be forgotten
            if block.shape[1] > self.rows and (number > 0 or block.shape[1] > 2 * self.rows):
                raise OutOfMemoryError
            yield block


def module(library: str) -> Any:
    if library == "numpy":
        return np
    if library == "simulated":
        return simulated_card.cupy
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed; pip install -r envs/gpu.txt")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"there is no NVIDIA card ({error})")
    return cupy


def card_of(library: str, memory: int = MEMORY) -> Accelerator:
    return Accelerator(module(library), memory, 3)


# ---- pass 1


@given(hnp.arrays(np.float64, st.integers(1, 150), elements=doubles), st.sampled_from([16, 1 << 16]), st.integers(1, 5))
@on_both
def test_columns_are_sorted_and_coded_as_on_the_cpu(library, column, cells, few):
    given_ = column.copy()
    with few_cells(cells, few):
        ours, theirs = ranks_on_card.sort(card_of(library), column), sort(column)
        assert ours.ordered.tobytes() == theirs.ordered.tobytes()
        for one, other in zip(ours.encode(), theirs.encode(), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype and np.array_equal(one, other)
    assert np.array_equal(column, given_, equal_nan=True)


@on_both
def test_a_long_column_is_cut_into_cells_as_on_the_cpu(library):
    rng = np.random.default_rng(3)
    column = np.round(rng.normal(size=200_000), 5)
    column[rng.random(len(column)) < 0.1] = np.nan
    ours, theirs = ranks_on_card.sort(card_of(library), column).encode(), sort(column).encode()
    assert ours.fine is not None and ours.table is None
    assert np.array_equal(ours.cells, theirs.cells) and np.array_equal(ours.fine, theirs.fine)


# ---- pass 2


@pytest.fixture(scope="module", params=["told apart", "cells of ranks"])
def codes(request, tmp_path_factory):
    """Complete columns with ties; as they are stored, or with all ranks told apart."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(700, 9)) + rng.normal(size=(700, 1))
    table[:, ::3] = np.round(table[:, ::3], 1)
    with few_cells(64, 8):
        stored = store(tmp_path_factory.mktemp("codes"), table).open()
        assert stored.shift > 0
        yield stored if request.param == "cells of ranks" else stored.told_apart()


def on_the_cpu(codes, left, right, n):
    columns = left if np.array_equal(left, right) else np.concatenate([left, right])
    return spearman.centred_gram(codes, left, right, np.full(len(columns), n), n, MEMORY, 1)


SIDES = [
    (np.arange(9), np.arange(9)),
    (np.arange(4), np.arange(4, 9)),
    (np.array([7, 2]), np.array([0, 1, 3, 4, 5, 6, 8])),
    (np.array([3]), np.array([3])),
]


@pytest.mark.parametrize(("left", "right"), SIDES)
@pytest.mark.parametrize("memory", [MEMORY, 30_000, 700])
@on_both
def test_sums_of_products_are_those_of_the_cpu_however_they_are_cut(library, codes, left, right, memory):
    n = codes.shape[1]
    columns = left if np.array_equal(left, right) else np.concatenate([left, right])
    sums, told = spearman_on_card.centred_gram(
        card_of(library, memory), codes, left, right, np.full(len(columns), n), n, MEMORY
    )
    expected, expected_told = on_the_cpu(codes, left, right, n)
    assert np.array_equal(sums, expected)
    assert np.array_equal(told[:, 0], expected_told[:, 0])
    # high and low words may be split otherwise
    assert np.array_equal((told[:, 1] << 32) + told[:, 2], (expected_told[:, 1] << 32) + expected_told[:, 2])


@pytest.mark.parametrize("rows", [1, 7, 350])
def test_no_more_rows_are_taken_at_once_than_one_word_holds_the_squares_of(codes, rows, monkeypatch):
    everything, n, heights = np.arange(9), codes.shape[1], []
    tell = spearman_on_card._tell

    def watched(ranks: np.ndarray, told: np.ndarray) -> None:
        heights.append(ranks.shape[1])
        tell(ranks, told)

    monkeypatch.setattr(spearman_on_card, "WORD", rows * ((n >> codes.shift) + 1) ** 2)
    monkeypatch.setattr(spearman_on_card, "_tell", watched)
    sums, _ = spearman_on_card.centred_gram(card_of("numpy"), codes, everything, everything, np.full(9, n), n, MEMORY)
    assert max(heights) == rows and sum(heights) == n
    assert np.array_equal(sums, on_the_cpu(codes, everything, everything, n)[0])


@on_both
def test_columns_are_split_where_the_sums_of_all_pairs_do_not_fit(library, codes, monkeypatch):
    sizes = []

    class Watched(spearman_on_card.ExactGram):
        def __init__(self, shape, *more):
            sizes.append(shape)
            super().__init__(shape, *more)

    monkeypatch.setattr(spearman_on_card, "ExactGram", Watched)
    everything, n = np.arange(9), codes.shape[1]
    spearman_on_card.centred_gram(card_of(library, 1000), codes, everything, everything, np.full(9, n), n, MEMORY)
    assert len(sizes) > 4 and all(40 * p * q <= 500 for p, q in sizes)
    assert sum(p * q for p, q in sizes) == 81


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@on_both
def test_on_a_lack_of_memory_blocks_halve_and_the_sums_stay(library, codes, rows):
    everything, n = np.arange(9), codes.shape[1]
    card = Small(library, rows)
    sums, told = spearman_on_card.centred_gram(card, codes, everything, everything, np.full(9, n), n, MEMORY)
    expected, _ = on_the_cpu(codes, everything, everything, n)
    assert np.array_equal(sums, expected) and told[0, 0] == on_the_cpu(codes, everything, everything, n)[1][0, 0]
    assert card.halvings == len(card.told) > 0 and card.tried[-1] <= rows
    assert all("rows at a time from here on; the result stays the same" in line for line in card.told)


@pytest.mark.gpu
def test_what_was_granted_is_kept_to_where_more_was_planned():
    pool = module("cupy").get_default_memory_pool()
    pool.free_all_blocks()
    granted, n, every = pool.total_bytes() + 2**27, 2_000_000, np.arange(6)
    rng = np.random.default_rng(0)
    stored = ArrayCodes(np.stack([2 * (rng.permutation(n) + 1).astype(np.uint32) for _ in every]))
    card = card_of("cupy", 10**12)
    pool.set_limit(size=granted)
    try:
        sums, _ = spearman_on_card.centred_gram(card, stored, every, every, np.full(6, n), n, 10**12)
        assert card.halvings > 0 and card.peak <= granted
        assert np.array_equal(sums, on_the_cpu(stored, every, every, n)[0])
    finally:
        pool.set_limit(size=0)


@on_both
def test_a_card_that_holds_not_one_row_is_told_of_in_one_line(library, codes):
    everything, n = np.arange(9), codes.shape[1]
    with pytest.raises(UserError, match=r"out of memory on the card with one of rows at a time; give .*mem_gb"):
        spearman_on_card.centred_gram(Small(library, 0), codes, everything, everything, np.full(9, n), n, MEMORY)


@on_both
def test_columns_that_are_wide_are_summed_without_a_rounding(library):
    """1e6 rows told apart need two words a sum."""
    n = 1_000_000
    rng = np.random.default_rng(0)
    stored = ArrayCodes(np.stack([2 * (rng.permutation(n) + 1).astype(np.uint32) for _ in range(2)]))
    both = np.arange(2)
    sums, told = spearman_on_card.centred_gram(card_of(library), stored, both, both, np.full(2, n), n, MEMORY)
    expected, _ = on_the_cpu(stored, both, both, n)
    assert np.array_equal(sums, expected)
    exact = sum(int(d) ** 2 for d in 2 * np.arange(1, n + 1) - (n + 1))
    assert int(told[0, 1]) * 2**32 + int(told[0, 2]) == exact


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
@on_both
def test_correlations_with_missing_values_are_those_without_a_card(library, seed):
    rng = np.random.default_rng(seed)
    table = np.round(rng.normal(size=(60, 7)) + rng.normal(size=(60, 1)), 1)
    table[:20, 2:4], table[10:15, 6] = np.nan, np.nan
    made = encode(table)
    given_ = made["codes"], made["n_valid"], made["patterns"], 2, MEMORY
    within = partial(spearman.same_rows, gram=partial(spearman_on_card.centred_gram, card_of(library), budget=MEMORY))
    assert spearman.pairwise(*given_, within=within).rho.tobytes() == spearman.pairwise(*given_).rho.tobytes()


# ---- pass 4


@st.composite
def columns(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, count = draw(st.integers(8, 150)), draw(st.integers(2, 5))
    values = rng.standard_normal((count, n)) + rng.standard_normal(n)
    values[::2] = np.round(values[::2], 1)
    for column in range(draw(st.integers(0, count))):
        values[column, rng.random(n) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    return values


def compared(values, card=None, **chosen):
    on_card = {} if card is None else {"accumulate": partial(nonlinear_on_card.accumulate, card)}
    return similarity(*coded(values), **chosen, **on_card)


@given(columns(), st.sampled_from(["orthonormal", "random"]), st.sampled_from([MEMORY, 400_000]))
@settings(max_examples=40)
@on_both
def test_dependence_is_that_of_the_cpu_to_the_byte(library, values, features, memory):
    assert same_bytes(
        compared(values, card_of(library, memory), features=features), compared(values, features=features)
    )


@given(columns(), st.integers(1, 4))
@settings(max_examples=25)
@on_both
def test_dependence_of_a_rectangle_of_pairs_is_that_of_the_cpu(library, values, cut):
    sides = {"left": np.arange(len(values))[:cut], "right": np.arange(len(values))[::-1]}
    assert same_bytes(compared(values, card_of(library), **sides), compared(values, **sides))


@on_both
def test_long_columns_are_looked_up_by_cell_as_on_the_cpu(library, monkeypatch):
    monkeypatch.setattr(features, "CODE_TABLE", 200)
    values = np.random.default_rng(1).standard_normal((3, 500))
    values[1] = np.round(values[0] ** 2, 1)
    values[2, :450] = np.nan  # a short one, with a table of its own
    assert same_bytes(compared(values, card_of(library)), compared(values))


@on_both
def test_where_tables_do_not_fit_the_cpu_adds_up(library, monkeypatch):
    values = np.random.default_rng(2).standard_normal((3, 80))
    monkeypatch.setattr(features.FeatureTables, "of", lambda *_: None)
    monkeypatch.setattr(nonlinear_on_card, "_sums", lambda *_: pytest.fail("the card has no tables"))
    assert same_bytes(compared(values, card_of(library)), compared(values))


@pytest.mark.parametrize("rows", [1, 9, 40])
@on_both
def test_on_a_lack_of_memory_the_dependence_stays(library, rows):
    values = np.random.default_rng(4).standard_normal((4, 130))
    values[0, :30] = np.nan
    card = Small(library, rows)
    assert same_bytes(compared(values, card), compared(values)) and card.halvings > 0


@on_both
def test_sums_that_one_word_would_not_hold_are_carried(library, monkeypatch):
    values = np.random.default_rng(6).standard_normal((3, 300))
    expected = compared(values)
    monkeypatch.setattr(covariance, "WORD", 2**45)
    assert same_bytes(compared(values, card_of(library)), expected)


@pytest.mark.parametrize("memory", [400, 100_000, MEMORY])
@on_both
def test_moments_are_summed_in_parts_of_any_size(library, memory):
    values = np.random.default_rng(7).standard_normal((4, 90))
    assert same_bytes(compared(values, card_of(library, memory)), compared(values))


@on_both
def test_a_column_that_the_card_does_not_hold_is_sorted_by_the_cpu(library, monkeypatch):
    def full(*_) -> None:
        raise MemoryError("std::bad_alloc: cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(ranks_on_card, "_sort", full)
    column, card = np.random.default_rng(1).normal(size=5000), Small(library, 1)
    for one, other in zip(ranks_on_card.sort(card, column).encode(), sort(column).encode(), strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)
    assert card.told == ["out of memory on the card: it does not hold a column of 5,000 rows, so the CPU sorts it"]


@on_both
def test_blocks_are_bounded_by_the_hosts_memory_too(library):
    codes = ArrayCodes(
        np.stack([2 * (np.random.default_rng(k).permutation(6000) + 1).astype(np.uint32) for k in range(3)])
    )
    card, every = Small(library, 10**6), np.arange(3)
    sums, _ = spearman_on_card.centred_gram(card, codes, every, every, np.full(3, 6000), 6000, 4 * 12 * 2 * 500)
    assert max(card.tried) == 500 and np.array_equal(sums, on_the_cpu(codes, every, every, 6000)[0])


@on_both
def test_blocks_leave_room_for_what_becomes_of_them(library, codes):
    columns, n, rows = np.arange(9), codes.shape[1], 40
    card = Small(library, 10**6, memory=8 * 8 * len(columns) * rows)  # an eighth, for two blocks of 4 bytes a code
    spearman_on_card.centred_gram(card, codes, columns, columns, np.full(9, n), n, MEMORY)
    assert max(card.tried) == rows
    values = np.random.default_rng(5).standard_normal((4, 130))
    card = Small(library, 10**6, memory=16 * 8 * len(values) * rows)  # a sixteenth
    assert same_bytes(compared(values, card), compared(values)) and max(card.tried) == rows


@on_both
def test_the_rows_are_told_once_even_if_they_were_read_twice(library):
    values = np.random.default_rng(8).standard_normal((4, 130))
    seen = []
    compared(values, Small(library, 20), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


# ---- all passes


@pytest.mark.parametrize("chosen", [{}, {"shards": 2}, {"prescreen": "countsketch", "m": 64}])
@on_both
def test_the_whole_selection_has_the_bytes_of_the_cpu(library, tmp_path, select, monkeypatch, chosen):
    rng = np.random.default_rng(9)
    base = rng.normal(size=400)
    columns = {f"c{k}": base * rng.random() + rng.normal(size=400) for k in range(6)}
    columns |= {"copy": -(columns["c0"] ** 3), "square": columns["c1"] ** 2, "steps": np.round(base)}
    columns["c2"][rng.random(400) < 0.2] = np.nan
    table = write_table(tmp_path / "table.parquet", columns)
    expected = select(table, **chosen, device="cpu").all_bytes()
    opened = []

    def card(stage):
        opened.append(stage.name)
        return card_of(library, 10**8)

    for stage in ("pass1", "pass1_shard", "pass2", "pass2_shard", "pass4", "pass4_shard"):
        module = importlib.import_module(stage)
        if hasattr(module, "open_arrays"):
            monkeypatch.setattr(module, "open_arrays", card)
    assert select(table, **chosen).all_bytes() == expected
    shards = {"pass1_shard", "pass2_shard", "pass4_shard"}
    assert set(opened) == (shards if "shards" in chosen else {"pass1", "pass2", "pass4"})
