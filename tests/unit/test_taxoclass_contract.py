"""What must not happen again, where no other test would see it: each of these fails with the fault put back."""

import shutil
import types
from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

import predict
import self_train
import similarity
import train_classifier
from common.errors import UserError
from common.taxoclass_settings import SelfTrain, Similarity, TrainClassifier
from small_models import (
    QUIET,
    N,
    core_training,
    corpus,
    learn,
    model_of,
    one_thread,  # noqa: F401 (a fixture)
    same,
    self_learn,
    token_corpus,
    toy,
    trained_encoder,
    weights,
)
from taxoclass import bundle, training
from taxoclass.inference import Tally
from taxoclass.prediction import predict_into
from taxoclass.training import Runner, train

# ---- two rates


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_a_part_moves_by_its_own_rate_and_stays_where_that_is_0(tmp_path, part):
    """One rate for all would train BERT eighty times too fast, or the head not at all."""
    documents, targets = token_corpus()
    model, keys = trained_encoder(), [str(row) for row in range(len(documents))]
    before = weights(model)
    rates = {"encoder_lr": 0.0, "head_lr": 0.0} | {f"{part}_lr": 1e-3}
    train(model, documents, targets, keys, core_training(epochs=1, batch_size=8, **rates), tmp_path, QUIET)
    moved = {
        "encoder" if name.startswith("encoder.") else "head"
        for name, value in model.state_dict().items()
        if not value.equal(before[name])
    }
    assert moved == {part}


# ---- checkpoints


def test_the_product_of_a_training_holds_the_models_own_tensors_and_none_of_the_resumable_state(tmp_path):
    model, report = learn(tmp_path / "state")
    path = tmp_path / "best_model.pt"
    bundle.save(path, bundle.Bundle(model, toy(), {}, {"history": report.history}))
    state = torch.load(tmp_path / "state" / training.STATE, weights_only=True)
    assert state["optimiser"]["state"] and state["best"]  # the state has moments and a second set of weights
    content = torch.load(path, weights_only=True)
    assert content["weights"].keys() == model.state_dict().keys()
    assert bundle.size_of(content) == bundle.size_of(content["weights"]) == bundle.size_of(model.state_dict())


def test_a_resumed_run_ends_with_the_best_weights_though_their_epoch_was_before_the_kill(tmp_path, monkeypatch):
    losses, seen = iter([1.0, 3.0, None, 2.0]), []  # the third epoch is killed, and then done again

    def scripted(self, rows, targets):
        seen.append(weights(self.inner))
        loss = next(losses)
        if loss is None:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(Runner, "mean_loss", scripted)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path)
    model, report = learn(tmp_path)
    assert report.best_epoch == 1 and len(report.history) == 3
    assert same(weights(model), seen[0]) and not same(seen[0], seen[1])


# ---- disk full and memory


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))


def test_a_full_disk_is_noticed_before_self_training_predicts_anything(tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr(Runner, "predict", lambda *_: pytest.fail("the corpus was predicted first"))
    model = model_of(learnt=False)
    before = weights(model)
    with pytest.raises(UserError, match=rf"{training.LOGITS}: needs .* MB are free in .*; free some space"):
        self_learn(tmp_path / "state", model)
    assert same(weights(model), before) and not (tmp_path / "state").exists()


@pytest.fixture
def label(tmp_path, monkeypatch):
    """label(): run predict.py on a file; gives the arrays that were filled with predictions."""
    made = bundle.Bundle(model_of(), toy(), {"trainable": False}, {}, {"level_weights": [1.0, 1.0, 1.0]})
    bundle.save(tmp_path / "model.pt", made)
    (tmp_path / "new.tsv").write_text("".join(f"d{row}\ttext {row}\n" for row in range(N)))
    flags = {"model": "model.pt", "input": "new.tsv", "out-predictions": "out/predictions.npy", "out-labels": "out/l"}
    filled = []

    def watched(out, *arguments):
        filled.append(out)
        return predict_into(out, *arguments)

    monkeypatch.setattr("sys.argv", ["predict.py", *(f"--{name}={tmp_path / each}" for name, each in flags.items())])
    monkeypatch.setattr(predict.documents, "reopen", lambda *_, **__: types.SimpleNamespace(tally=Tally()))
    monkeypatch.setattr(predict.documents, "prepared", lambda *_, **__: corpus()[0])
    monkeypatch.setattr(predict, "predict_into", watched)

    def run() -> list[np.ndarray]:
        predict.main()
        return filled

    return run


def test_the_predict_command_streams_its_predictions_into_a_memory_map(tmp_path, label):
    (streamed,) = label()
    assert isinstance(streamed, np.memmap) and streamed.shape == (N, len(toy()))
    stored = np.load(tmp_path / "out" / "predictions.npy", allow_pickle=False)
    assert stored.dtype == np.float32 and np.isfinite(stored).all()
    assert [each.name for each in (tmp_path / "out").glob("*.npy")] == ["predictions.npy"]


@pytest.mark.parametrize(("settings", "half"), [({}, True), ({"mixed_precision": False}, False)])
def test_the_predict_command_computes_as_the_model_was_trained(tmp_path, monkeypatch, label, settings, half):
    made, of, machines = bundle.load(tmp_path / "model.pt"), training.Machine.of, []
    bundle.save(tmp_path / "model.pt", replace(made, settings=settings))
    monkeypatch.setattr(training.Machine, "of", lambda *given: machines.append(of(*given)) or machines[-1])
    opened = []
    encoder = predict.documents.reopen()
    monkeypatch.setattr(predict.documents, "reopen", lambda *_, **options: opened.append(options) or encoder)
    label()
    assert [each.mixed_precision for each in machines] == [half]
    assert [each["mixed_precision"] for each in opened] == [half]


class OpenedError(Exception):
    """A model would be loaded."""


@pytest.mark.parametrize("half", [True, False])
def test_every_stage_opens_its_models_in_the_precision_that_is_set(monkeypatch, half):
    def opens(*_, mixed_precision: bool, **__):
        raise OpenedError(mixed_precision)

    for module in (similarity, train_classifier):
        monkeypatch.setattr(module.Encoder, "load", opens)
    monkeypatch.setattr(similarity.NliScorer, "load", opens)
    monkeypatch.setattr(self_train.documents, "reopen", opens)
    monkeypatch.setattr(self_train.bundle, "weights_digest", lambda _: "made")
    for module in (train_classifier, self_train):
        monkeypatch.setattr(module, "open_device", lambda _: "cpu")
        monkeypatch.setattr(module, "products", MagicMock())
    monkeypatch.setattr(self_train.bundle, "load", MagicMock())
    works = [
        (Similarity, lambda stage: similarity.by_embedding(stage, "cpu", toy(), [])),
        (Similarity, lambda stage: similarity.by_entailment(stage, "cpu", toy(), [])),
        (TrainClassifier, train_classifier.work),
        (SelfTrain, lambda stage: self_train.iterate(stage, {"weights_digest": "made"})),
    ]
    for kind, work in works:
        with pytest.raises(OpenedError) as caught:
            work(MagicMock(settings=kind(mixed_precision=half)))
        assert caught.value.args == (half,)


def test_the_predict_command_notices_a_full_disk_before_it_predicts(tmp_path, capsys, label, full_disk):
    with pytest.raises(SystemExit) as caught:
        label()
    assert caught.value.code == 2
    assert "free some space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
