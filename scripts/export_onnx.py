"""A model for ONNX: ``python scripts/export_onnx.py --model model.pt --out folder``.

The folder gets ``model.onnx`` (token ids and mask to the probability of each class by itself), ``tokenizer.json``
(which cuts and frames texts) and ``classes.json``. They are written only if ONNX Runtime gives this workflow's
probabilities. Not in them: words of class names, neighbours and decoding, by which predict.py makes label sets.
"""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy.special import expit
from tokenizers import Tokenizer

from common import files
from common.errors import UserError
from common.settings import Settings
from common.stage import Stage, run_stage
from taxoclass import bundle, documents, export
from taxoclass.prediction import predict_into

TOLERANCE = 1e-5


class Export(Settings):
    """Export to ONNX."""

    texts: int = Field(32, ge=1, description="random texts whose probabilities have to agree")
    seed: int = Field(1, ge=0, description="of the random texts")


def main() -> None:
    run_stage(
        "export_onnx",
        Export,
        inputs={"model": "the model bundle"},
        outputs={"out": "folder for model.onnx, tokenizer.json and classes.json"},
        values={"encoder": "where the document encoder is, if not where it was in training"},
        work=work,
        optional=("encoder",),
    )


def work(stage: Stage) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} is missing ({error}); pip install -r envs/export.txt") from None
    model = bundle.load(stage.paths.model)
    if model.encoder["chunks"] != 1:
        raise UserError(
            f"{stage.paths.model}: reads {model.encoder['chunks']} pieces of a document (doc_chunks); only models "
            "that read one can be exported"
        )
    encoder = documents.reopen(model.encoder, name=stage.paths.encoder, warn=stage.warn)
    loaded = encoder.loaded
    folder, pad = Path(stage.paths.out), int(loaded.tokenizer.pad_token_id)
    tokenizer = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(loaded.max_length)
    tokenizer.enable_padding(pad_id=pad, pad_token=loaded.tokenizer.pad_token)
    texts = export.random_texts(list(loaded.tokenizer.get_vocab()), stage.settings.texts, stage.settings.seed)
    ours = np.empty((len(texts), len(model.taxonomy)), np.float32)
    predict_into(ours, model.model, documents.prepared(encoder, model.encoder["trainable"], texts), scale=expit)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        made = str(Path(scratch) / "model.onnx")
        export.write(made, export.Labeller(model.model, encoder), pad)
        difference = float(np.abs(probabilities(made, tokenizer, texts) - ours).max())
        if difference > TOLERANCE:
            raise UserError(
                f"{stage.paths.model}: ONNX gives other probabilities (by {difference:.1e}); nothing written"
            )
        with files.atomic(folder / "model.onnx") as temporary:
            temporary.write_bytes(Path(made).read_bytes())
    files.write_text(folder / "tokenizer.json", tokenizer.to_str())
    classes = [{"id": each, "name": name} for each, name in zip(model.taxonomy.ids, model.taxonomy.names, strict=True)]
    files.write_text(folder / "classes.json", json.dumps(classes, ensure_ascii=False, indent=1) + "\n")
    stage.log(f"{len(classes)} classes", f"{len(texts)} random texts agree within {difference:.1e}")


def probabilities(path: str, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """(n, C) float32 of ONNX Runtime on a CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    encoded = tokenizer.encode_batch(texts)
    given = {
        "input_ids": np.array([each.ids for each in encoded], np.int64),
        "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
    }
    return session.run(None, given)[0]


if __name__ == "__main__":
    main()
