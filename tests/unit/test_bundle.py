"""The bundle: one file that restores everything, runs nothing, and is refused in words where it does not fit."""

import dataclasses
import json
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from random_taxonomies import taxonomy
from small_models import model_of, tokens, toy, trained_encoder, vectors
from taxoclass import bundle
from taxoclass.bundle import Bundle

ENCODER = {"id": "all-MiniLM-L6-v2", "sha256": "53aa", "max_length": 256}


def example(**changes) -> Bundle:
    whole = Bundle(model_of(), toy(), ENCODER, settings={"epochs": 5}, labelling={"decode": "path", "stop": 0.25})
    return dataclasses.replace(whole, **changes)


def saved(folder: Path, **changes) -> Path:
    bundle.save(folder / "best_model.pt", example(**changes))
    return folder / "best_model.pt"


def rewritten(path: Path, **header) -> Path:
    """The file with some of its header changed, as another program might have written it."""
    content = torch.load(path, weights_only=True)
    changed = json.dumps(json.loads(content["header"]) | header)
    torch.save(bundle._sealed(changed, content["weights"]), path)
    return path


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# ---- what it holds


def test_a_bundle_comes_back_whole(tmp_path):
    whole, found = example(), bundle.load(saved(tmp_path))
    assert torch.equal(found.model(vectors(5)), whole.model(vectors(5)))
    assert found.taxonomy.fingerprint == whole.taxonomy.fingerprint
    assert found.taxonomy.ids == whole.taxonomy.ids and found.taxonomy.names == whole.taxonomy.names
    assert found.taxonomy.edges.tolist() == whole.taxonomy.edges.tolist()
    assert (found.encoder, found.settings, found.labelling) == (whole.encoder, whole.settings, whole.labelling)
    assert not found.model.training


def test_a_trained_encoder_travels_inside(tmp_path):
    model = trained_encoder().eval()
    assert torch.equal(bundle.load(saved(tmp_path, model=model)).model(*tokens()), model(*tokens()))


def test_neither_optimiser_nor_gradients_are_inside(tmp_path):
    model = model_of()
    size = saved(tmp_path, model=model).stat().st_size
    model(vectors(3)).sum().backward()
    assert saved(tmp_path, model=model).stat().st_size == size
    assert size < 1.5 * bundle.size_of(model.state_dict()) + 20_000


def test_the_same_bundle_is_the_same_bytes_under_any_name(tmp_path):
    first = saved(tmp_path).read_bytes()
    bundle.save(tmp_path / "model.pt", example())
    assert (tmp_path / "model.pt").read_bytes() == first


def test_what_is_wrapped_is_saved_unwrapped(tmp_path):
    path = saved(tmp_path, model=torch.nn.DataParallel(model_of()))
    assert torch.equal(bundle.load(path).model(vectors(2)), model_of()(vectors(2)))


def test_a_model_of_other_size_than_the_taxonomy_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="6 classes with a taxonomy of 1"):
        saved(tmp_path, taxonomy=taxonomy(1, []))


# ---- another taxonomy, another encoder


def test_the_taxonomy_it_was_trained_for_is_accepted(tmp_path):
    assert len(bundle.load(saved(tmp_path), toy()).taxonomy) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": ("r", "s", "a", "b", "c", "y")}, "1 of its classes unknown to the other, such as x; 1 of your .* y"),
        ({"ids": ("s", "r", "a", "b", "c", "x")}, "the same ids in another order"),
        ({"names": (("other",),) * 6}, "6 classes have other names, such as r, s, a"),
        ({"edges": toy().edges[:-1]}, "the same classes with other parents"),
    ],
)
def test_another_taxonomy_is_refused_in_words(tmp_path, changes, words):
    other = dataclasses.replace(toy(), **changes)
    with pytest.raises(
        UserError, match=rf"best_model.pt: was trained for another taxonomy \({words}.*; use the classes"
    ):
        bundle.load(saved(tmp_path), other)


# ---- bad files


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "best_model.pt", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(UserError, match="is not a file of this workflow"):
        bundle.load(path)
    torch.save({"header": "{}", "weights": Code(trace)}, path)
    with pytest.raises(UserError, match="holds more than tensors and text, and was not run"):
        bundle.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the trap is live: a plain load runs it
    assert trace.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1, -100])
def test_a_file_cut_off_anywhere_is_a_users_error(tmp_path, kept):
    path = saved(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"best_model\.pt: "):
        bundle.load(path)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    path = saved(tmp_path)
    raw, needle = bytearray(path.read_bytes()), example().model.bilinear.detach().numpy().tobytes()
    raw[raw.index(needle) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="damaged, make it again"):
        bundle.load(path)


def test_a_missing_file_and_a_text_file_are_users_errors(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        bundle.load(tmp_path / "no.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="is not a file of this workflow"):
        bundle.load(tmp_path / "text.pt")


def test_tensors_of_another_program_are_refused(tmp_path):
    torch.save({"state_dict": model_of().state_dict()}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not a file of this workflow"):
        bundle.load(tmp_path / "other.pt")


def test_another_format_version_is_refused(tmp_path):
    with pytest.raises(UserError, match="format version 99, this program reads 1"):
        bundle.load(rewritten(saved(tmp_path), format_version=99))


def test_weights_that_do_not_fit_the_architecture_are_refused(tmp_path):
    architecture = dataclasses.asdict(example().model.architecture) | {"gnn_num_layers": 1}
    with pytest.raises(UserError, match="do not fit the architecture"):
        bundle.load(rewritten(saved(tmp_path), architecture=architecture))


def test_a_changed_header_is_found(tmp_path):
    path = saved(tmp_path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"header": content["header"].replace("0.25", "0.35")}, path)
    with pytest.raises(UserError, match="is not what was written"):
        bundle.load(path)


# ---- writing


def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(tmp_path, monkeypatch):
    path = saved(tmp_path)
    old = path.read_bytes()

    def full(content, handle):
        handle.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"best_model\.pt: cannot be written \(No space left on device\)"):
        saved(tmp_path, model=model_of(seed=3))
    assert [each.name for each in tmp_path.iterdir()] == ["best_model.pt"] and path.read_bytes() == old


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"best_model\.pt: needs .* MB are free in .*; free some space"):
        saved(tmp_path / "deep" / "er")
    assert list(tmp_path.iterdir()) == []
