"""The metrics log: what it writes, and that no logger can stop or change a run."""

import json
import sys
import types

import numpy as np
import pytest

from small_models import Recorder, faulty, learn, one_thread, same, weights  # noqa: F401 (a fixture)
from taxoclass.metrics_log import JsonLines, MetricsLog


class Raising:
    """A logger that raises on every call, as one without network."""

    calls = 0

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def write(self, record):
        Raising.calls += 1
        raise self.error("no network")

    def close(self):
        raise self.error("no network")


@pytest.mark.parametrize("error", [OSError, RuntimeError, SystemExit, TimeoutError])
def test_a_logger_that_raises_on_every_call_leaves_the_run_unchanged(tmp_path, error):
    told, kept = [], Recorder()
    log = MetricsLog([Raising(error), kept], told.append)
    Raising.calls = 0
    model, report = learn(tmp_path / "a", log=log)
    log.close()
    plain, expected = learn(tmp_path / "b")
    assert same(weights(model), weights(plain)) and report == expected
    assert Raising.calls == 1 and told == [f"Raising is left out: {error.__name__}: no network"]
    assert len(kept.of("epoch", "loss")) == 3


def test_json_lines_hold_every_step_and_epoch_and_are_json(tmp_path):
    log = MetricsLog.open(tmp_path / "metrics.jsonl")
    learn(tmp_path / "state", faulty(lambda n, calls: float("nan") if calls == 2 else None), log=log)
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["event"] == "step"] == list(range(12))
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2, 3]
    assert records[0]["loss"] == "nan" and np.isnan(float(records[0]["loss"]))


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "a"}\n{"eve')
    lines = JsonLines(path)
    lines.write({"event": "b"})
    lines.close()
    assert path.read_text() == '{"event": "a"}\n{"eve\n{"event": "b"}\n'


@pytest.mark.parametrize("resumed", [True, False])
def test_a_resumed_run_goes_on_with_the_file_and_another_run_begins_it_anew(tmp_path, resumed):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "a"}\n{"eve')
    told = []
    log = MetricsLog.open(path, warn=told.append, resumed=resumed)
    log("b")
    log.close()
    assert path.read_text() == ('{"event": "a"}\n{"eve\n' if resumed else "") + '{"event": "b"}\n'
    assert told == []


def test_a_run_goes_on_with_the_file_unless_it_is_told_otherwise(tmp_path):
    for event in ("a", "b"):
        log = MetricsLog.open(tmp_path / "metrics.jsonl")
        log(event)
        log.close()
    assert [json.loads(line)["event"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == ["a", "b"]


def test_to_begin_anew_needs_no_file_and_leaves_those_beside_it_alone(tmp_path):
    (tmp_path / "other.jsonl").write_text("kept")
    for folder in (tmp_path, tmp_path / "new"):
        log = MetricsLog.open(folder / "metrics.jsonl", warn=pytest.fail, resumed=False)
        log("a")
        log.close()
        assert (folder / "metrics.jsonl").read_text() == '{"event": "a"}\n'
    assert (tmp_path / "other.jsonl").read_text() == "kept"


def test_a_file_that_cannot_be_begun_anew_stops_no_run(tmp_path):
    told = []
    (tmp_path / "metrics.jsonl").mkdir()
    log = MetricsLog.open(tmp_path / "metrics.jsonl", warn=told.append, resumed=False)
    log("a")
    log.close()
    assert told and all(text.startswith("metrics file is left out: ") for text in told)


def test_what_is_not_installed_or_cannot_be_opened_is_left_out_with_a_word(tmp_path, monkeypatch):
    told = []
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "file").write_text("")
    log = MetricsLog.open(tmp_path / "file" / "metrics.jsonl", ["wandb"], told.append)
    log("step", step=1)
    assert (
        len(told) == 2
        and told[0].startswith("metrics file is left out: ")
        and told[1].startswith("wandb is left out: ")
    )


def test_wandb_and_tensorboard_are_opened_in_the_folder_and_wandb_offline(tmp_path, monkeypatch):
    made: dict = {"scalars": [], "logged": []}

    class Writer:
        def __init__(self, folder):
            made["folder"] = folder

        def add_scalar(self, *arguments):
            made["scalars"].append(arguments)

        def close(self):
            made["closed"] = True

    def init(**arguments):
        made["wandb"] = arguments
        return types.SimpleNamespace(log=made["logged"].append, finish=lambda: made.update(finished=True))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log = MetricsLog.open(tmp_path / "metrics.jsonl", ["tensorboard", "wandb"])
    log("step", step=3, loss=0.5)
    log.close()
    assert made["wandb"]["mode"] == "offline" and made["wandb"]["dir"] == str(tmp_path / "wandb")
    assert made["folder"] == str(tmp_path / "tensorboard")
    assert made["scalars"] == [("step/loss", 0.5, 3)] and made["logged"] == [{"step/step": 3, "step/loss": 0.5}]
    assert made["closed"] and made["finished"]
