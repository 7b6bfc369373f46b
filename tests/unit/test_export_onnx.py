"""The exported network gives the workflow's probabilities, whatever the encoder, the graph and the number of texts."""

import importlib
import json
import sys

import numpy as np
import pytest
from transformers import AutoModel

from small_models import architecture, names, toy
from taxoclass import bundle, documents
from taxoclass.bundle import Bundle
from taxoclass.classifier import build
from taxoclass.encoders import Encoder
from tiny_taxoclass import save_model

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed; pip install -r envs/export.txt")


def made(folder, trainable: bool, pooling: str, chunks: int = 1, gnn: str = "ego") -> str:
    """A bundle of random weights with its encoder beside it."""
    at = str(save_model(folder / "encoder"))
    encoder = Encoder.load(at, max_length=24, pooling=pooling, chunks=chunks)
    backbone = AutoModel.from_pretrained(at) if trainable else None
    inside = backbone.config.to_dict() if trainable else None
    shape = architecture(document_size=16, gnn=gnn, encoder=inside, pooling=pooling)
    model = build(toy(), names(toy(), size=16), shape, 0, backbone).eval()
    if model.classes.readout is not None:
        model.classes.readout.weight.data.fill_(1)  # as if trained: the graph counts
    path = folder / "model.pt"
    bundle.save(path, Bundle(model, toy(), documents.origin(encoder, trainable)))
    return str(path)


def run(monkeypatch, path: str, out) -> None:
    monkeypatch.setattr(sys, "argv", ["export_onnx", "--model", path, "--out", str(out), "--texts", "9"])
    importlib.import_module("export_onnx").main()


@pytest.mark.parametrize(
    ("trainable", "pooling", "gnn"), [(False, "mean", "ego"), (True, "cls", "full"), (True, "mean", "off")]
)
def test_the_network_gives_the_workflows_probabilities(monkeypatch, tmp_path, trainable, pooling, gnn):
    run(monkeypatch, made(tmp_path, trainable, pooling, gnn=gnn), tmp_path / "out")  # fails where they differ
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "tokenizer.json", "classes.json"}
    assert [each["id"] for each in json.loads((tmp_path / "out" / "classes.json").read_text())] == list(toy().ids)


def test_a_network_that_differs_is_not_written(monkeypatch, tmp_path, capsys):
    path = made(tmp_path, False, "mean")
    door = importlib.import_module("export_onnx")
    wrong = lambda *given, own=door.probabilities: own(*given) + np.float32(2e-5)  # noqa: E731
    monkeypatch.setattr(door, "probabilities", wrong)
    with pytest.raises(SystemExit):
        run(monkeypatch, path, tmp_path / "out")
    assert "ONNX gives other probabilities" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_models_of_several_pieces_are_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, made(tmp_path, False, "mean", chunks=2), tmp_path / "out")
    assert "reads 2 pieces of a document" in capsys.readouterr().err
