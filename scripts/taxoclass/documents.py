"""Documents as the classifier takes them: fixed vectors of an encoder, or token ids for one that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.progress import Progress, unseen
from taxoclass.encoders import Encoder, encode_cached
from taxoclass.inference import Warn
from taxoclass.models import locate
from taxoclass.scoring import label_texts
from taxoclass.taxonomy import Taxonomy
from taxoclass.training import Documents, Tokens, Vectors


def origin(encoder: Encoder, trainable: bool) -> dict[str, Any]:
    """What a bundle keeps of the encoder, to open the same one later."""
    loaded = encoder.loaded
    return {
        "id": loaded.name,
        "sha256": loaded.weights_sha256,
        "tokenizer_sha256": loaded.tokenizer_sha256,
        "max_length": loaded.max_length,
        "pooling": encoder.pooling,
        "chunks": encoder.chunks,
        "trainable": trainable,
    }


def reopen(
    made: dict[str, Any],
    device: str = "cpu",
    local_files_only: bool = True,
    *,
    name: str | None = None,
    mixed_precision: bool = True,
    warn: Warn = print,
) -> Encoder:
    """The encoder that ``origin`` tells of.

    name : where it is now, if it was moved.

    Raises
    ------
    UserError : it is not there, or it is another one.
    """
    try:
        locate(name or made["id"], local_files_only)
    except UserError as error:
        raise UserError(f"{error} (the encoder of the training; predict.py --encoder says where it is now)") from None
    encoder = Encoder.load(
        name or made["id"],
        device,
        made["max_length"],
        local_files_only,
        pooling=made["pooling"],
        chunks=made["chunks"],
        mixed_precision=mixed_precision,
        warn=warn,
    )
    found = origin(encoder, made["trainable"])
    for key, what in (("sha256", "weights differ"), ("tokenizer_sha256", "tokenizer differs")):
        if found[key] != made[key]:
            raise UserError(
                f"{encoder.loaded.folder}: its {what} from the training ({found[key][:12]}, "
                f"not {made[key][:12]}); give that encoder's folder, or train again"
            )
    return encoder


def prepared(
    encoder: Encoder,
    trainable: bool,
    texts: Sequence[str],
    cache_folder: str | Path | None = None,
    progress: Progress = unseen,
) -> Documents:
    """The texts as input of the classifier, in their order; vectors are kept in ``cache_folder``."""
    if trainable:
        ids, starts = encoder.framed(texts)
        return Tokens(ids, starts, int(encoder.loaded.tokenizer.pad_token_id))
    if cache_folder is None:
        return Vectors(encoder.encode(texts, progress=progress))
    return Vectors(encode_cached(encoder, texts, cache_folder, progress=progress))


def name_vectors(encoder: Encoder, taxonomy: Taxonomy, template: str) -> np.ndarray:
    """(C, d) float32: mean-pooled vectors of the class texts, the mean over a class's names."""
    texts = label_texts(taxonomy, template)
    vectors = Encoder(encoder.loaded, "mean").encode([text for each in texts for text in each])
    counts = np.array([len(each) for each in texts])
    return np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0) / counts[:, None].astype(np.float32)
