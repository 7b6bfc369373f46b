"""Self-training: what an iteration keeps and reports, and that it is a function of its inputs."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import sem

from common.errors import UserError
from small_models import (
    QUIET,
    N,
    Scattering,
    close,
    corpus,
    interrupted,
    learn,
    model_of,
    one_thread,  # noqa: F401 (a fixture)
    run_to_bundle,
    same,
    self_learn,
    token_corpus,
    toy,
    trained_encoder,
    weights,
)
from small_models import (
    self_training as small_training,
)
from taxoclass import self_training, training
from taxoclass.labels import Labels
from taxoclass.self_training import Silver, Survey, judge, self_train_iteration, survey
from taxoclass.targets import SelfTargets
from taxoclass.training import Machine, Runner

TESTS = Path(__file__).parent.parent


# ---- what an iteration keeps and reports


def test_self_training_reports_and_keeps_what_agrees_with_the_silver_labels(tmp_path):
    model, _ = learn(tmp_path / "a")
    before = weights(model)
    model, report = self_learn(tmp_path / "b", model)
    assert report.kept == "end" and not same(weights(model), before)
    assert report.agreement_after >= report.agreement_floor and report.silver_documents > 5
    assert 0 <= report.confident_before <= 1 and report.confident_after >= report.confident_before
    assert len(report.mass_p_before) == len(report.mass_q) == len(report.mass_p_after) == 6
    assert json.dumps(report.history)


def less_sure(model):
    """Of most documents, some class is likely, and of some none."""
    with torch.no_grad():
        model.bias -= 8.5
    return model


def test_masses_and_confidence_are_those_of_the_whole_corpus(tmp_path):
    documents, _ = corpus()
    model = less_sure(learn(tmp_path / "a")[0])
    z = model.eval()(*documents.batch(np.arange(N))).double().detach()
    p = z.sigmoid()
    _, report = self_learn(tmp_path / "b", model)
    np.testing.assert_allclose(report.mass_p_before, p.sum(0), rtol=1e-5)
    q = (p**2 / p.sum(0)) / (p**2 / p.sum(0) + (1 - p) ** 2 / (1 - p).sum(0))
    np.testing.assert_allclose(report.mass_q, q.sum(0), rtol=1e-4)
    assert report.confident_before == pytest.approx(float((p.max(1).values > 0.8).double().mean()))
    assert 0.1 < report.confident_before < 0.9


def test_the_corpus_is_looked_at_block_by_block(tmp_path, monkeypatch):
    documents, _ = corpus()
    model = less_sure(learn(tmp_path / "a")[0])
    runner, logits = Runner(model, documents, QUIET), np.empty((N, 6), np.float32)
    whole = survey(runner, logits, toy(), None)
    assert 0 < whole.confident < 1
    mass_q = self_training._mass_of_targets(SelfTargets("paper", 2.0, 0.5, logits, whole.log_f, whole.log_g))
    monkeypatch.setattr(self_training, "BLOCK", 40)
    found = survey(runner, logits, toy(), None)
    assert found.chain.tolist() == whole.chain.tolist() and found.confident == whole.confident
    assert all(np.array_equal(one, other) for one, other in zip(found.labels, whole.labels, strict=True))
    torch.testing.assert_close((found.log_f, found.log_g), (whole.log_f, whole.log_g))
    targets = SelfTargets("paper", 2.0, 0.5, logits, found.log_f, found.log_g)
    assert self_training._mass_of_targets(targets) == pytest.approx(mass_q)


def test_self_training_that_loses_agreement_gives_back_the_start_and_says_so(tmp_path):
    model, _ = learn(tmp_path / "a", epochs=6)
    before, told = weights(model), []
    machine = Machine(warn=told.append)
    # a rate that wrecks the model
    model, report = self_learn(tmp_path / "b", model, machine, target="paper", head_lr=5.0, epochs=4)
    assert report.kept == "start" and report.passes_through and same(weights(model), before)
    assert report.agreement_after < report.agreement_before
    assert "the model from before the iteration is kept" in report.why and report.why in told


def test_several_iterations_together_do_not_fall_below_the_best_by_more_than_one_error(tmp_path):
    model, _ = learn(tmp_path / "a")
    model, report = self_learn(tmp_path / "b", model, floor=1.01)
    assert report.kept == "start" and report.agreement_floor == 1.01


def test_without_silver_labels_the_report_says_that_nothing_was_compared(tmp_path):
    _, report = self_learn(tmp_path, model_of(learnt=False), silver=False)
    assert report.kept == "end" and report.agreement_before is None
    assert "start and end were not compared" in report.why


def test_an_iteration_that_changes_next_to_nothing_lets_the_next_pass_through(tmp_path):
    model, _ = learn(tmp_path / "a")
    _, report = self_learn(tmp_path / "b", model, head_lr=1e-9)
    assert report.changed == 0 and report.passes_through
    _, report = self_learn(tmp_path / "c", model_of(learnt=False), silver=False, head_lr=4e-3, epochs=6)
    assert report.changed > 0.005 and not report.passes_through


@pytest.mark.parametrize(
    ("bias", "words"), [(-20.0, "0% of .* hardly move"), (20.0, "100% of .* classes that took over")]
)
def test_unusual_confidence_is_warned_about(tmp_path, bias, words):
    told, model = [], model_of(learnt=False)
    with torch.no_grad():
        model.bias.fill_(bias)
    self_learn(tmp_path, model, Machine(warn=told.append), head_lr=1e-9)
    assert any(re.search(words, text) for text in told)


def test_a_refresh_makes_q_anew_every_n_steps_and_at_the_start_of_each_epoch(tmp_path, monkeypatch):
    calls, fill = [], self_training.fill
    monkeypatch.setattr(self_training, "fill", lambda *arguments: calls.append(1) or fill(*arguments))
    self_learn(tmp_path / "a", model_of(learnt=False), refresh_every=0)
    assert len(calls) == 2  # before and after
    calls.clear()
    self_learn(tmp_path / "b", model_of(learnt=False), refresh_every=2)  # 2 epochs of 5 steps: 0, 2, 4
    assert len(calls) == 2 + 2 * 3


def test_targets_of_self_training_are_frozen_between_refreshes(tmp_path, monkeypatch):
    seen, batch = {}, SelfTargets.batch

    def watched(self, rows):
        q, weight = batch(self, rows)
        for row, each in zip(rows.tolist(), q.tolist(), strict=True):
            assert seen.setdefault(row, each) == each
        return q, weight

    monkeypatch.setattr(SelfTargets, "batch", watched)
    self_learn(tmp_path, model_of(learnt=False), head_lr=4e-3)
    assert len(seen) == N


def test_predictions_are_streamed_into_a_memory_map(tmp_path):
    found = training.scratch_logits(tmp_path, N, 6)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    self_training.fill(Runner(model_of(), corpus()[0], QUIET), found)
    assert np.isfinite(np.load(tmp_path / training.LOGITS)).all()


def test_the_message_names_both_rates_of_a_trained_encoder_under_the_names_of_the_stage(tmp_path):
    documents, _ = token_corpus()
    model = trained_encoder()
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"self_train_lr \(now 1e-06\) or self_train_head_lr \(now 0.0005\)"):
        settings = small_training(batch_size=4)
        self_train_iteration(model, documents, toy(), settings, 1, tmp_path, machine=QUIET)


# ---- the guard

HELD_OUT = Silver(np.array([1, 2, 4]), csr_array([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]))
RIGHT = [[], [0, 1], [0, 2], [], [0, 3]]


def surveyed(labels: list[list[int]], chain: tuple[int, ...] = (0, 0, 0, 0, 0)) -> Survey:
    return Survey(np.array(chain, np.int32), Labels.of(labels), 0.5, torch.zeros(4), torch.zeros(4))


def test_agreement_is_the_example_f1_of_the_held_out_documents():
    assert HELD_OUT.agreement(Labels.of(RIGHT)).tolist() == [1, 1, 1]
    found = HELD_OUT.agreement(Labels.of([[3], [0, 1], [0], [3], [1, 2, 3]]))
    assert found == pytest.approx([1, 2 / 3, 2 / 5])


def test_a_loss_of_more_than_one_standard_error_is_reason_to_go_back_and_a_smaller_one_is_not():
    worse = surveyed([[], [0, 1], [0], [], [1, 2, 3]])  # 1, 2/3 and 2/5 instead of 1
    lost = judge(surveyed(RIGHT), worse, HELD_OUT, 0.0, None)
    assert (lost.kept, lost.passes_through) == ("start", True)
    assert (lost.agreement_before, lost.agreement_after) == (1, pytest.approx(31 / 45))
    assert lost.agreement_floor == pytest.approx(1 - sem([0, -1 / 3, -3 / 5]))
    mixed = judge(
        surveyed([[], [0], [0, 2], [], [0, 3]]), surveyed([[], [0, 1], [0, 2], [], [1, 2, 3]]), HELD_OUT, 0.0, None
    )
    assert mixed.agreement_after < mixed.agreement_before and mixed.kept == "end"
    assert mixed.agreement_floor == pytest.approx(8 / 9 - sem([1 / 3, 0, -3 / 5]))
    assert "within one standard error: the trained model is kept" in mixed.why
    for before in (worse, surveyed(RIGHT)):
        assert judge(before, surveyed(RIGHT), HELD_OUT, 0.0, None).why == ""


def test_the_floor_of_earlier_iterations_holds_where_it_is_higher_and_may_be_met():
    middling = surveyed([[], [0, 1], [0], [], [0, 3]])
    now = float(HELD_OUT.agreement(middling.labels).mean())
    for floor, kept, next_floor in ((now, "end", now), (now + 1e-9, "start", now + 1e-9), (0.0, "end", now)):
        verdict = judge(middling, middling, HELD_OUT, 0.0, floor)
        assert (verdict.kept, verdict.agreement_floor) == (kept, next_floor)


def test_one_held_out_document_has_no_standard_error():
    alone = Silver(np.array([1]), HELD_OUT.positive[[0]])
    verdict = judge(surveyed(RIGHT), surveyed([[], [0], [], [], []]), alone, 0.0, None)
    assert (verdict.kept, verdict.agreement_floor) == ("start", 1)


@pytest.mark.parametrize("silver", [HELD_OUT, None])
@pytest.mark.parametrize(("stop_share", "passes_through"), [(0.2, False), (0.21, True)])
def test_what_changes_fewer_top_paths_than_the_share_lets_the_next_pass_through(silver, stop_share, passes_through):
    verdict = judge(surveyed(RIGHT), surveyed(RIGHT, chain=(0, 0, 3, 0, 0)), silver, stop_share, None)
    assert (verdict.kept, verdict.changed, verdict.passes_through) == ("end", 0.2, passes_through)


@pytest.mark.parametrize(("share", "usual"), [(0.09, False), (0.1, True), (0.9, True), (0.91, False)])
def test_a_tenth_to_nine_tenths_of_confident_documents_are_usual(share, usual):
    assert (self_training._unusual(share) == "") == usual


# ---- data parallel


def test_a_data_parallel_wrapper_changes_nothing(tmp_path, monkeypatch):
    plain, _ = learn(tmp_path / "a")
    plain, expected = self_learn(tmp_path / "b", plain)
    monkeypatch.setattr(training, "wrap", lambda model, devices: Scattering(model))
    wrapped, _ = learn(tmp_path / "c")
    wrapped, found = self_learn(tmp_path / "d", wrapped)
    close(weights(wrapped), weights(plain), atol=2e-3)
    assert found.changed == expected.changed


# ---- resume

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
import torch
torch.set_num_threads(1)
from small_models import run_to_bundle
from taxoclass.metrics_log import MetricsLog

kind, step = sys.argv[1].split(":")
log = MetricsLog.__call__

def killing(self, event, **values):
    log(self, event, **values)
    if event == "step" and values["step"] == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

MetricsLog.__call__ = killing
run_to_bundle(kind, Path(sys.argv[2]))
"""


def test_resume_after_kill_in_the_middle_of_an_iteration_gives_the_same_bytes(tmp_path):
    kind, step = "refresh without graph", 12
    whole = run_to_bundle(kind, tmp_path / "whole")
    path = [str(TESTS), str(TESTS.parent / "scripts")]
    command = [sys.executable, "-c", KILLED, f"{kind}:{step}", str(tmp_path / "killed"), *path]
    assert subprocess.run(command, timeout=300).returncode == -signal.SIGKILL
    assert (tmp_path / "killed/state/state.pt").exists() and not (tmp_path / "killed/model.pt").exists()
    assert run_to_bundle(kind, tmp_path / "killed") == whole


@pytest.mark.parametrize("kind", ["self-train", "refresh"])
@pytest.mark.parametrize("step", [0, 7])
def test_resume_after_an_interruption_at_any_epoch_gives_the_same_bytes(tmp_path, kind, step, monkeypatch):
    whole = run_to_bundle(kind, tmp_path / "whole")
    assert interrupted(kind, step, tmp_path / "stopped", monkeypatch) == whole
