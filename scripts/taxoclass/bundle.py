"""The product of stages 3 and 4: one file with all that labels new text, save the text encoder. It runs no code.

Inside: weights (the graph and the class features are among them) and one JSON text. It is read with
torch.load(weights_only=True), which builds tensors, numbers and text and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import files
from common.errors import UserError, one_line
from common.memory import excuse
from taxoclass import classifier
from taxoclass.classifier import Architecture, Classifier
from taxoclass.taxonomy import Taxonomy

FORMAT = "winnow-taxoclass"
FORMAT_VERSION = 1
NAMED = 3  # classes that a message names at most


@dataclass(frozen=True)
class Bundle:
    """A model with what its numbers mean.

    taxonomy : classes in the order of the model's columns.
    encoder : what turns text into the model's input: at least ``id`` and ``sha256``; the caller's to fill and to heed.
    settings : of the run that made it, for the record.
    labelling : what label sets are made by: level_weights; in the last model also decoding, the settings, and words.
    """

    model: Classifier
    taxonomy: Taxonomy
    encoder: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    labelling: dict[str, Any] = field(default_factory=dict)

    @property
    def mixed_precision(self) -> bool:
        """Whether it was made in half precision where a card has it; what goes on with it does as much."""
        return bool(self.settings.get("mixed_precision", True))


def save(path: str | Path, bundle: Bundle) -> None:
    """Write the bundle at once or not at all; the same bundle is the same bytes."""
    model = classifier.unwrap(bundle.model)
    if model.n_classes != len(bundle.taxonomy):
        raise ValueError(f"a model of {model.n_classes} classes with a taxonomy of {len(bundle.taxonomy)}")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": asdict(model.architecture),
        "taxonomy": bundle.taxonomy.asdict(),
        "taxonomy_fingerprint": bundle.taxonomy.fingerprint,
        "encoder": bundle.encoder,
        "settings": bundle.settings,
        "thresholds": bundle.labelling,  # its name in this version of the format
    }
    write_tensors(path, _sealed(json.dumps(header, sort_keys=True), weights))


def _sealed(header: str, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The content of the file, with a digest of it all: the zip inside notices a missing end, not a flipped bit."""
    digest = hashlib.sha256(header.encode() + weights_digest(weights).encode()).hexdigest()
    return {"header": header, "weights": weights, "sha256": digest}


def load(path: str | Path, taxonomy: Taxonomy | None = None) -> Bundle:
    """Read a bundle; strict. Its encoder is opened, and compared, by ``documents.reopen``.

    Parameters
    ----------
    taxonomy : the classes of the caller's files, which must be those of the bundle; None: the bundle's own will do.

    Raises
    ------
    UserError : not a bundle, damaged, of another version, of another taxonomy.
    """
    header, weights = _parts(path, read_tensors(path))
    own = Taxonomy.fromdict(header["taxonomy"])
    if taxonomy is not None and taxonomy.fingerprint != own.fingerprint:
        raise UserError(f"{path}: was trained for another taxonomy ({_difference(own, taxonomy)}); {_REMEDY}")
    try:
        model = classifier.restore(Architecture(**header["architecture"]), weights)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}; it is damaged or from another version, make it again") from None
    if model.n_classes != len(own):
        raise UserError(f"{path}: has weights for {model.n_classes} classes and names for {len(own)}; make it again")
    return Bundle(model.eval(), own, header["encoder"], header["settings"], header["thresholds"])


_FOREIGN = "is not a file of this workflow; give a model.pt that it made"
_REMEDY = "use the classes and the hierarchy it was trained for, or train again"


def _parts(path: str | Path, content: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not isinstance(content, dict) or set(content) != {"header", "weights", "sha256"}:
        raise UserError(f"{path}: {_FOREIGN}")
    try:
        header = json.loads(content["header"])
        version = header["format_version"] if header["format"] == FORMAT else None
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{path}: {_FOREIGN}") from None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: has format version {version}, this program reads {FORMAT_VERSION}; make it again")
    if _sealed(content["header"], content["weights"])["sha256"] != content["sha256"]:
        raise UserError(f"{path}: its content is not what was written; it is damaged, make it again")
    return header, content["weights"]


def _difference(trained: Taxonomy, given: Taxonomy) -> str:
    """In what two taxonomies differ, in words."""
    missing = [name for name in trained.ids if name not in given.row]
    unknown = [name for name in given.ids if name not in trained.row]
    if missing or unknown:
        return "; ".join(
            f"{len(ids)} of {owner} classes unknown to the other, such as {', '.join(ids[:NAMED])}"
            for owner, ids in (("its", missing), ("your", unknown))
            if ids
        )
    if trained.ids != given.ids:
        return "the same ids in another order"
    renamed = [name for name, old, new in zip(trained.ids, trained.names, given.names, strict=True) if old != new]
    if renamed:
        return f"{len(renamed)} classes have other names, such as {', '.join(renamed[:NAMED])}"
    return "the same classes with other parents"


# ---- tensors in files


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Digest of names, types, shapes and values."""
    content = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        content.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def content_digest(content: dict[str, Any]) -> str:
    """Digest of tensors, numbers and text in nested dicts and lists."""
    text = json.dumps(content, default=lambda value: weights_digest({"": value}))
    return hashlib.sha256(text.encode()).hexdigest()


def size_of(content: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    items = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(size_of, items))


def write_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Tensors, numbers and text in nested dicts and lists, atomically; the bytes do not depend on the file's name."""
    files.check_space(path, size_of(content))
    with files.atomic(path) as temporary, open(temporary, "wb") as handle:
        torch.save(content, handle)


def read_tensors(path: str | Path) -> Any:
    """What ``write_tensors`` wrote; a file that asks to run code is refused, not run."""
    try:
        with open(path, "rb") as handle:
            if handle.read(2) != b"PK":
                raise UserError(f"{path}: {_FOREIGN}")
            handle.seek(0)
            return torch.load(handle, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); correct the path") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors and text, and was not run; use a file made here") from None
    except Exception as error:  # the zip reader has its own, and a damaged list of contents may ask for anything
        excuse(path, error)
        raise UserError(f"{path}: cannot be read ({one_line(error)}); it is damaged, make it again") from None
