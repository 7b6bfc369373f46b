"""Texts to vectors, identical ones once, and what is kept of them between runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from transformers import AutoModel

from common import files
from common.errors import UserError
from common.progress import Progress, unseen
from common.taxoclass_settings import Pooling
from taxoclass.inference import Cost, Loaded, Tally, Warn, forward_flops, load

SHARD = 1024  # texts of a file of the cache


def distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Distinct texts in order of first appearance, and (n,) int64, where each text is among them."""
    row: dict[str, int] = {}
    inverse = np.array([row.setdefault(text, len(row)) for text in texts], dtype=np.int64)
    return list(row), inverse


@dataclass
class Encoder:
    """Texts to vectors: the mean of the last hidden states, or the first one (``cls``).

    ``chunks`` windows of ``max_length`` are read of a long document; their mean is weighted by tokens.
    """

    loaded: Loaded
    pooling: Pooling = "mean"
    chunks: int = 1

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "cpu",
        max_length: int = 256,
        local_files_only: bool = True,
        *,
        pooling: Pooling = "mean",
        chunks: int = 1,
        mixed_precision: bool = True,
        warn: Warn = print,
    ) -> Encoder:
        """As :func:`load`."""
        loaded = load(
            name,
            AutoModel,
            device,
            max_length,
            pair=False,
            local_files_only=local_files_only,
            mixed_precision=mixed_precision,
            warn=warn,
        )
        return cls(loaded, pooling, chunks)

    @property
    def dimension(self) -> int:
        return int(self.loaded.model.config.hidden_size)

    @property
    def tally(self) -> Tally:
        return self.loaded.tally

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self.loaded.fingerprint | {"pooling": self.pooling, "chunks": self.chunks}

    @property
    def key(self) -> str:
        return self.loaded.key(pooling=self.pooling, chunks=self.chunks)

    def encode(
        self,
        texts: Sequence[str],
        batch_tokens: int | None = None,
        progress: Progress = unseen,
    ) -> np.ndarray:
        """(n, d) float32, a vector of length 1 a text, in the order of ``texts``.

        Identical texts are run once. ``progress`` is called with the number of texts done since its last call.
        """
        unique, inverse = distinct(texts)
        progress(len(texts) - len(unique))
        vectors, tokens = self.raw(unique, batch_tokens, progress)
        return self.finished(vectors, tokens, inverse)

    def finished(self, vectors: np.ndarray, tokens: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The vectors of ``encode`` from those of ``raw`` of its distinct texts; texts that were cut are counted."""
        self.tally.truncated += int((tokens > self.loaded.room * self.chunks)[inverse].sum())
        return unit(vectors)[inverse]

    def raw(
        self, texts: Sequence[str], batch_tokens: int | None = None, progress: Progress = unseen
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors as the model gives them, (n, d) float32, and (n,) int64, the tokens of the whole texts."""
        ids, tokens = self.loaded.tokens(texts, self.loaded.room * self.chunks)
        windows, owner = _windows(ids, self.loaded.room)
        lengths = np.array([len(window) for window in windows], dtype=np.int64) + self.loaded.frame.cost
        total = np.bincount(owner, weights=lengths, minlength=len(texts))
        share = (lengths / total[owner]).astype(np.float32)
        first = np.diff(owner, prepend=-1) > 0
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)

        def begin(rows: np.ndarray) -> Callable[[], np.ndarray]:
            return self._pooled(self.loaded.pack([windows[row] for row in rows]))

        def keep(rows: np.ndarray, found: np.ndarray) -> None:
            np.add.at(vectors, owner[rows], found * share[rows, None])
            progress(int(first[rows].sum()))

        self.loaded.run(lengths, batch_tokens, begin, keep)
        if not np.isfinite(vectors).all():
            raise UserError(f"{self.loaded.name}: a vector is not finite; the weights are damaged, fetch them again")
        return vectors, tokens

    def _pooled(self, inputs: dict[str, Any]) -> Callable[[], np.ndarray]:
        hidden = self.loaded.forward(inputs).last_hidden_state.float()
        if self.pooling == "cls":
            return self.loaded.fetched(hidden[:, 0].clone())
        if "attention_mask" not in inputs:
            return self.loaded.fetched(hidden.sum(dim=1) / hidden.shape[1])
        mask = inputs["attention_mask"].unsqueeze(-1)
        return self.loaded.fetched((hidden * mask).sum(dim=1) / mask.sum(dim=1))

    def framed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """What the model reads of each text, one after the other: (T,) ids and (n + 1,) starts, int64."""
        ids, tokens = self.loaded.tokens(texts, self.loaded.room)
        self.tally.truncated += int((tokens > self.loaded.room).sum())
        framed, _, lengths = self.loaded.frame.join(ids)
        return framed, np.cumsum([0, *lengths])

    def cost(self, texts: Sequence[str], batch_tokens: int | None = None, *, measure: bool = True) -> Cost:
        """What :meth:`encode` will take, from a short run on this machine."""
        unique, _ = distinct(texts)
        ids, _ = self.loaded.tokens(unique, self.loaded.room * self.chunks)
        lengths = np.array([len(window) for window in _windows(ids, self.loaded.room)[0]]) + self.loaded.frame.cost
        flops = float(forward_flops(self.loaded.model, lengths).sum())
        rate = self.loaded.calibrate(int(np.median(lengths)), batch_tokens) if measure and len(lengths) else np.nan
        return Cost("texts", len(unique), float(lengths.sum()), flops, flops * rate)


def _windows(ids: Sequence[np.ndarray], room: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Texts cut into windows of ``room`` ids, and (w,) int64, the text of each; an empty text has an empty window."""
    windows, owner = [], []
    for row, each in enumerate(ids):
        for start in range(0, max(len(each), 1), room):
            windows.append(each[start : start + room])
            owner.append(row)
    return windows, np.array(owner, dtype=np.int64)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


# ---- vectors that outlive a run


def content_keys(texts: Sequence[str]) -> np.ndarray:
    """(n,) S32, the xxh3 digest of each text in hexadecimal digits."""
    return np.array([xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass")) for text in texts], dtype="S32")


def piece(path: Path, warn: Warn) -> dict[str, np.ndarray] | None:
    """A part of a cache; one that is damaged is dropped, and its content made again."""
    try:
        return files.read_npz(path)
    except UserError:
        warn(f"{path}: is damaged; dropped and made again")
        path.unlink(missing_ok=True)
        return None


def encode_cached(
    encoder: Encoder,
    texts: Sequence[str],
    cache_folder: str | Path,
    batch_tokens: int | None = None,
    progress: Progress = unseen,
) -> np.ndarray:
    """As :meth:`Encoder.encode`, but what is in the cache is not run, and what is run is kept, shard by shard.

    Shards are files of vectors by model and content of the text. A killed run goes on at its first unfinished shard,
    with the batches, hence the bytes, of an uninterrupted one.
    """
    folder = Path(cache_folder) / encoder.key[:16]
    unique, inverse = distinct(texts)
    keys = content_keys(unique)
    vectors = np.zeros((len(unique), encoder.dimension), dtype=np.float32)
    tokens = np.full(len(unique), -1, dtype=np.int64)
    row = {key: at for at, key in enumerate(keys.tolist())}
    for path in sorted(folder.glob("*.npz")):
        stored = piece(path, encoder.loaded.warn)
        if stored is None:
            continue
        found = [(row[key], at) for at, key in enumerate(stored["keys"].tolist()) if key in row]
        for here, there in found:
            vectors[here], tokens[here] = stored["vectors"][there], stored["tokens"][there]
    missing = np.flatnonzero(tokens < 0)
    progress(len(texts) - len(missing))
    for start in range(0, len(missing), SHARD):
        rows = missing[start : start + SHARD]
        vectors[rows], tokens[rows] = encoder.raw([unique[at] for at in rows], batch_tokens, progress)
        name = f"{xxhash.xxh3_64_hexdigest(keys[rows].tobytes())}.npz"
        files.write_npz(folder / name, keys=keys[rows], vectors=vectors[rows], tokens=tokens[rows])
    return encoder.finished(vectors, tokens, inverse)
