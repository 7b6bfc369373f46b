"""Shards make up the whole once, and only those of this run are put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import files, pieces
from common.errors import UserError
from descriptors.shards import pairs_of, read_shards, rectangles, write_shard


@given(st.integers(0, 60), st.integers(1, 80))
def test_parts_make_up_everything_in_order(count, shards):
    things = [f"c{number}" for number in range(count)]
    blocks = [things[pieces.part(count, shard, shards)] for shard in range(1, shards + 1)]
    assert [name for block in blocks for name in block] == things
    sizes = [len(block) for block in blocks]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("shards", "blocks"), [(1, 1), (2, 2), (3, 2), (4, 3), (6, 3), (7, 4), (10, 4), (64, 11)])
def test_columns_are_cut_into_the_fewest_blocks_that_give_each_shard_a_pair(shards, blocks):
    pairs = [part for shard in range(1, shards + 1) for part in rectangles(1000, shard, shards)]
    assert len({left.tobytes() for left, _ in pairs}) == blocks and len(pairs) == blocks * (blocks + 1) // 2
    assert all(rectangles(1000, shard, shards) for shard in range(1, shards + 1))
    assert pairs_of(pairs) == sum(1 for left, right in pairs for _ in left for _ in right)


@given(st.integers(0, 40), st.integers(1, 60))
def test_rectangles_hold_every_pair_of_columns_once(n_columns, shards):
    seen = np.zeros((n_columns, n_columns), int)
    for shard in range(1, shards + 1):
        mine = rectangles(n_columns, shard, shards)
        assert mine  # every shard has something to do, be it nothing
        for left, right in mine:
            # the same columns, or none in common
            assert np.array_equal(left, right) or not np.intersect1d(left, right).size
            block = np.zeros_like(seen)
            block[np.ix_(left, right)] = 1
            seen += block if np.array_equal(left, right) else block + block.T
    assert (seen == 1).all()


@given(st.integers(100, 3000), st.integers(1, 40))
def test_no_shard_has_much_more_to_do_than_another(n_columns, shards):
    work = [
        sum(
            len(left) * len(right) * (0.5 if left is right else 1)
            for left, right in rectangles(n_columns, shard, shards)
        )
        for shard in range(1, shards + 1)
    ]
    assert max(work) <= 3.5 * n_columns**2 / 2 / shards


def write(folder, n_columns: int, shards: int, key: str = "k", **matrices: np.ndarray) -> list[str]:
    """The shards of some symmetric matrices."""
    paths = []
    for shard in range(1, shards + 1):
        paths.append(str(folder / f"{key}_{shard}_of_{shards}.npz"))
        mine = rectangles(n_columns, shard, shards)
        blocks = {name: [matrix[np.ix_(*each)] for each in mine] for name, matrix in matrices.items()}
        write_shard(paths[-1], key, shard, shards, blocks, {"shard": shard})
    return paths


def symmetric(n_columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n_columns)
    rho, common = rng.normal(size=(n_columns, n_columns)), rng.integers(0, 10**9, (n_columns, n_columns))
    rho[rng.random(rho.shape) < 0.2] = np.nan
    return {"rho": rho + rho.T, "common": common + common.T}


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("n_columns", [1, 5, 23])
def test_the_matrices_come_back_to_the_byte(tmp_path, n_columns, shards):
    matrices = symmetric(n_columns)
    read, told = read_shards(write(tmp_path, n_columns, shards, **matrices), "k", n_columns)
    assert read.keys() == matrices.keys()
    for name, matrix in matrices.items():
        assert read[name].dtype == matrix.dtype and read[name].tobytes() == matrix.tobytes()
    assert told == [{"shard": shard} for shard in range(1, shards + 1)]


def exchanged(paths: list[str]) -> list[str]:
    return [paths[1], paths[0], *paths[2:]]


@pytest.mark.parametrize(
    "choose",
    [
        lambda mine, other, more: [mine[0], other[1], mine[2]],
        lambda mine, other, more: exchanged(mine),
        lambda mine, other, more: [mine[0], mine[0], mine[2]],
        lambda mine, other, more: mine[:2],
        lambda mine, other, more: [*mine[:2], more[2]],
        lambda mine, other, more: [*mine, more[3]],
        lambda mine, other, more: [mine[0], mine[1], "strange"],
    ],
    ids=["another key", "exchanged", "twice", "one fewer", "of another number", "one more", "no shard"],
)
def test_a_shard_that_is_another_is_refused_in_one_line_with_its_name(tmp_path, choose):
    mine, other, more = (
        write(tmp_path, 5, shards, key, **symmetric(5)) for shards, key in ((3, "k"), (3, "other"), (4, "k"))
    )
    files.write_npz(tmp_path / "strange", other=np.arange(3))
    paths = [str(tmp_path / path) for path in choose(mine, other, more)]
    with pytest.raises(UserError, match=r"; delete it and run the same command again$") as caught:
        read_shards(paths, "k", 5)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and any(message.startswith(f"{path}: is not shard ") for path in paths)


@pytest.mark.parametrize("damage", ["absent", "empty", "truncated"])
def test_a_damaged_shard_is_refused_in_one_line_with_its_name(tmp_path, damage):
    paths = write(tmp_path, 5, 2, **symmetric(5))
    whole = (tmp_path / "k_2_of_2.npz").read_bytes()
    (tmp_path / "k_2_of_2.npz").unlink()
    if damage != "absent":
        (tmp_path / "k_2_of_2.npz").write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    with pytest.raises(UserError) as caught:
        read_shards(paths, "k", 5)
    assert str(caught.value).startswith(f"{paths[1]}: cannot be read")
