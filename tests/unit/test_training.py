"""Training: what a run learns, what it survives, and that it is a function of its inputs."""

import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classifier import SIZE, Scattering, model_of, names, toy, trained_encoder
from torch import nn

from common.errors import UserError
from taxoclass import bundle, training
from taxoclass.classifier import Classifier
from taxoclass.targets import CoreTargets, core_targets
from taxoclass.training import (
    Checkpoint,
    JsonLines,
    Machine,
    MetricsLog,
    Optimisation,
    Runner,
    SelfTraining,
    Silver,
    Tokens,
    Vectors,
    adamw,
    schedule,
    self_train_iteration,
    split,
    train,
)

N = 150
KEYS = [f"document {row}" for row in range(N)]
UNIT = Path(__file__).parent
QUIET = Machine(warn=lambda text: None)


def corpus(n: int = N, seed: int = 0) -> tuple[Vectors, CoreTargets]:
    """Documents near the name of one class each, most with it as their core; one in five without."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 6, n)
    centred = names(toy()) - names(toy()).mean(axis=0)
    values = centred[topic] / np.linalg.norm(centred[topic], axis=1, keepdims=True)
    values = (values + 0.2 * rng.standard_normal((n, SIZE))).astype(np.float32)
    cores = [[] if row % 5 == 4 else [each] for row, each in enumerate(topic)]
    indptr = np.cumsum([0, *map(len, cores)])
    return Vectors(values), core_targets(toy(), indptr, np.array([c for each in cores for c in each]))


def token_corpus(n: int = 40) -> tuple[Tokens, CoreTargets]:
    """Documents of 2 to 9 tokens, whose second one tells the class."""
    rng = np.random.default_rng(0)
    topic = np.arange(n) % 6
    texts = [np.r_[2, 10 + each, rng.integers(20, 40, rng.integers(0, 8))] for each in topic]
    starts = np.cumsum([0, *map(len, texts)])
    return Tokens(np.concatenate(texts), starts, pad=0), core_targets(toy(), np.arange(n + 1), topic)


def learn(folder: Path, model: Classifier | None = None, machine: Machine = QUIET, log=None, **settings):
    """One small stage-3 run: its model and its report."""
    documents, targets = corpus()
    model = model or model_of(learnt=False)
    settings = {"epochs": 3, "batch_size": 32, "micro_batch": 8} | settings
    return model, train(model, documents, targets, KEYS, Optimisation(**settings), folder, machine, log)


def self_learn(
    folder: Path, model: Classifier, machine: Machine = QUIET, silver=True, floor=None, log=None, **settings
):
    documents, targets = corpus()
    settings = SelfTraining(**({"epochs": 2, "batch_size": 32, "micro_batch": 8} | settings))
    held_out = Silver.held_out(targets, KEYS, settings.validation_share) if silver else None
    report = self_train_iteration(
        model, documents, toy(), settings, 1, folder, held_out, floor, machine=machine, log=log
    )
    return model, report


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 1e-4) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=atol, msg=name)


class Faulty(Classifier):
    """Breaks where it is told: ``fault(n documents, n calls)`` may raise, or return a factor on the logits."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        factor = self.fault(len(inputs[0]), self.calls)
        return super().forward(*inputs) * (1 if factor is None else factor)


def faulty(fault) -> Faulty:
    model = model_of(learnt=False)
    model.__class__ = Faulty
    model.calls, model.fault = 0, fault
    return model


@pytest.fixture(autouse=True)
def one_thread():
    """As the subprocesses have: the sums of more threads are rounded otherwise. And it is faster beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- it learns


def test_training_lowers_the_loss_and_finds_the_classes(tmp_path):
    documents, targets = corpus()
    model, report = learn(tmp_path, epochs=8, head_lr=0.1)
    assert report.history[-1]["loss"] < 0.5 * report.history[0]["loss"]
    q, weight = (each.bool() for each in targets.batch(targets.rows))

    def right(model):
        return float(((model.eval()(*documents.batch(targets.rows)) > 0) == q)[weight].float().mean())

    assert right(model) > 0.9 > 0.75 > right(model_of(learnt=False))


def test_the_model_ends_with_the_weights_of_least_validation_loss(tmp_path, monkeypatch):
    losses, seen = [3.0, 1.0, float("nan"), 2.0], []

    def scripted(self, rows, targets):
        seen.append(weights(self.inner))
        return losses[len(seen) - 1]

    monkeypatch.setattr(Runner, "mean_loss", scripted)
    model, report = learn(tmp_path, epochs=4)
    assert report.best_epoch == 2
    assert same(weights(model), seen[1]) and not same(weights(model), seen[3])


def test_a_first_epoch_without_a_loss_is_not_the_best(tmp_path, monkeypatch):
    losses = iter([float("nan"), 2.0, 3.0])
    monkeypatch.setattr(Runner, "mean_loss", lambda *_: next(losses))
    assert learn(tmp_path)[1].best_epoch == 2


def test_no_document_with_a_core_class_is_a_users_error(tmp_path):
    none = core_targets(toy(), np.zeros(N + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
    with pytest.raises(UserError, match="no document has a core class"):
        train(model_of(), corpus()[0], none, KEYS, Optimisation(), tmp_path)


def test_one_document_is_enough_to_run(tmp_path):
    documents, targets = corpus(1)
    report = train(model_of(), documents, targets, ["one"], Optimisation(epochs=1), tmp_path, QUIET)
    assert report.documents == report.validation_documents == 1


def test_a_trained_encoder_learns_from_tokens_in_two_groups(tmp_path):
    documents, targets = token_corpus()
    model, keys = trained_encoder(dropout=0.1), [str(row) for row in range(len(documents))]
    before = weights(model)
    settings = Optimisation(epochs=4, encoder_lr=5e-3, batch_size=16, micro_batch=4)
    report = train(model, documents, targets, keys, settings, tmp_path, QUIET)
    assert report.history[-1]["loss"] < 0.8 * report.history[0]["loss"]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "encoder.backbone.encoder.layer.0.attention.self.query.weight" in moved and "bilinear" in moved
    assert not moved & {"classes.features", "classes.edge_index"}


# ---- documents


def test_tokens_are_padded_to_the_longest_of_the_batch_only():
    documents = Tokens(np.array([2, 5, 3, 2, 3, 2, 6, 7, 8, 3]), np.array([0, 3, 5, 10]), pad=0)
    ids, mask = documents.batch(np.array([1, 0]))
    assert ids.tolist() == [[2, 3, 0], [2, 5, 3]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert documents.batch(np.array([2]))[0].shape == (1, 5)


def test_the_split_follows_the_text_not_the_place():
    training_rows, validation = split(np.arange(N), KEYS, 0.2)
    assert sorted([*training_rows, *validation]) == list(range(N)) and 10 < len(validation) < 50
    backwards = split(np.arange(N), KEYS[::-1], 0.2)[1]
    assert {KEYS[row] for row in validation} == {KEYS[::-1][row] for row in backwards}
    more = split(np.arange(N + 50), [*KEYS, *(f"new {row}" for row in range(50))], 0.2)[1]
    assert set(more[more < N]) == set(validation)
    assert split(np.arange(N), ["same"] * N, 0.2)[1].size in (1, N - 1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_side_of_the_split_is_empty(share):
    for n in (1, 2, 5):
        assert all(len(side) for side in split(np.arange(n), KEYS, share))


# ---- optimiser


def test_the_encoder_and_the_head_have_rates_of_their_own_and_vectors_no_decay():
    groups = adamw(trained_encoder(), Optimisation()).param_groups
    assert {(group["part"], group["weight_decay"]) for group in groups} == {
        (part, decay) for part in ("encoder", "head") for decay in (0.0, 0.01)
    }
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert sum(len(group["params"]) for group in groups) == len(list(trained_encoder().parameters()))


def test_rates_rise_over_the_warm_up_and_fall_to_the_end(tmp_path):
    shares = [schedule(step, 100, 0.06) for step in range(100)]
    assert shares.index(max(shares)) in (5, 6) and max(shares) == 1
    assert (np.diff(shares[:6]) > 0).all() and (np.diff(shares[6:]) < 0).all() and min(shares) > 0
    assert [schedule(step, 1, 0.06) for step in range(1)] == [1]
    assert [schedule(step, 2, 0.0) for step in range(2)] == [1, 0.5]
    log = Recorder()
    learn(tmp_path, log=MetricsLog([log]))
    assert max(log.of("step", "head_lr")) == 4e-3 and "encoder_lr" not in log.records[0]


def test_gradients_are_clipped_and_their_norms_before_it_logged(tmp_path, monkeypatch):
    norms, clip = [], nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        parameters = list(parameters)
        found = clip(parameters, limit)
        norms.append(float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()))
        return found

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched)
    log = Recorder()
    _, report = learn(tmp_path, log=MetricsLog([log]), clip=0.05)
    assert max(norms) < 0.05001
    assert max(log.of("step", "gradient_norm")) > 0.1
    assert report.history[0]["gradient_norm_max"] > 0.1 and report.history[0]["clipped_steps"] > 0


# ---- batches


def test_micro_batches_do_not_change_what_is_learnt_and_what_is_left_over_counts(tmp_path):
    """121 documents in steps of 32 and micro-batches of 7: left-overs at both ends."""
    models = [learn(tmp_path / str(size), micro_batch=size)[0] for size in (7, 32)]
    close(weights(models[0]), weights(models[1]))


def test_every_document_is_seen_once_an_epoch_and_the_mean_is_over_the_step(tmp_path):
    documents, targets = corpus()
    seen = []

    class Watching(Vectors):
        def batch(self, rows):
            seen.append(rows)
            return super().batch(rows)

    watching = Watching(documents.values)
    runner = Runner(model_of(), watching, QUIET, micro_batch=7)
    loss = runner.gradients(np.arange(30), targets)
    assert sorted(np.concatenate(seen)) == list(range(30)) and [len(rows) for rows in seen] == [7, 7, 7, 7, 2]
    z = model_of()(*documents.batch(np.arange(30)))
    expected = targets.loss(z, *targets.batch(np.arange(30))) / 30
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    norm = torch.stack([p.grad.norm() for p in runner.inner.parameters()]).norm()
    assert float(norm) > 0.1
    seen.clear()
    settings = Optimisation(epochs=1, batch_size=32, micro_batch=7)
    report = train(model_of(), watching, targets, KEYS, settings, tmp_path, QUIET)
    trained = np.concatenate([rows for rows in seen if len(rows) <= 7])
    assert report.documents == len(trained) == len(set(trained))


def test_class_vectors_are_computed_once_a_step(tmp_path):
    model, calls, steps = model_of(), [], Recorder()
    model.classes.register_forward_hook(lambda *_: calls.append(1))
    learn(tmp_path, model, log=MetricsLog([steps]), epochs=1, micro_batch=4)
    assert len(calls) == len(steps.of("step", "step")) + 1  # and once for the validation


def test_targets_follow_their_documents_through_the_shuffle(tmp_path, monkeypatch):
    _, targets = corpus()
    given: dict[int, list] = {}
    batch = CoreTargets.batch

    def watched(self, rows):
        q, weight = batch(self, rows)
        given.update({int(row): each.tolist() for row, each in zip(rows, q, strict=True)})
        return q, weight

    monkeypatch.setattr(CoreTargets, "batch", watched)
    learn(tmp_path)
    dense = targets.positive.toarray()
    assert given and all(dense[row].tolist() == each for row, each in given.items())


def test_shuffles_differ_by_epoch_and_by_seed_and_repeat_otherwise(tmp_path):
    one, again, other = (weights(learn(tmp_path / name, seed=seed)[0]) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(one, again) and not same(one, other)
    keys = [(seed, 0, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(training.generator(*key).permutation(50)) for key in keys}) == 4


def test_a_run_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(3)
    learn(tmp_path)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))


# ---- memory


def out_of_memory_above(limit: int):
    def fault(n_documents: int, calls: int) -> None:
        if n_documents > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    return fault


def test_on_a_lack_of_memory_the_micro_batch_halves_and_the_batch_stays(tmp_path):
    told, log = [], Recorder()
    machine = Machine(warn=told.append, predict_batch=4)
    model, report = learn(tmp_path / "a", faulty(out_of_memory_above(5)), machine, MetricsLog([log]), micro_batch=16)
    assert report.micro_batch == 4 and log.of("step", "micro_batch")[0] == 4
    assert [text for text in told if "memory" in text] == [
        f"out of memory: micro-batch is {size} from here on; results do not depend on it" for size in (8, 4)
    ]
    plain, _ = learn(tmp_path / "b", machine=Machine(warn=told.append, predict_batch=4), micro_batch=4)
    assert same(weights(model), weights(plain))


def test_prediction_halves_on_its_own():
    documents, _ = corpus()
    runner = Runner(faulty(out_of_memory_above(40)), documents, QUIET, micro_batch=8)
    found = np.zeros((N, 6), dtype=np.float32)
    training.fill(runner, found)
    torch.testing.assert_close(torch.from_numpy(found), model_of(learnt=False)(*documents.batch(np.arange(N))).detach())
    assert runner.sizes == {"micro-batch": 8, "predict_batch": 32}


def test_halving_is_bounded(tmp_path):
    model = faulty(out_of_memory_above(0))
    with pytest.raises(UserError, match="out of memory with one document at a time; turn gradient_checkpointing on"):
        learn(tmp_path, model)
    assert model.calls == 4  # 8, 4, 2, 1


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(tmp_path):
    def fault(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        learn(tmp_path, faulty(fault))


def test_predictions_are_streamed_into_a_memory_map(tmp_path):
    found = training._scratch(tmp_path, N, 6)
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    training.fill(Runner(model_of(), corpus()[0], QUIET, 8), found)
    assert np.isfinite(np.load(tmp_path / training.LOGITS)).all()


# ---- data parallel


def test_a_data_parallel_wrapper_changes_nothing(tmp_path, monkeypatch):
    plain, _ = learn(tmp_path / "a")
    plain, expected = self_learn(tmp_path / "b", plain)
    monkeypatch.setattr(training, "wrap", lambda model, devices: Scattering(model))
    wrapped, _ = learn(tmp_path / "c")
    wrapped, found = self_learn(tmp_path / "d", wrapped)
    close(weights(wrapped), weights(plain), atol=2e-3)
    assert found.changed == expected.changed


# ---- non-finite steps


def test_one_non_finite_step_is_left_out_and_counted(tmp_path):
    def fault(n_documents, calls):
        return float("nan") if calls in (2, 3) else None

    model, report = learn(tmp_path, faulty(fault))
    assert report.history[0]["nonfinite_steps"] == 1
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_five_non_finite_steps_in_a_row_end_the_run_with_its_state_kept(tmp_path):
    """An epoch has 4 steps of 4 micro-batches and one prediction: from step 4 on, the first of the second epoch."""
    model = faulty(lambda n, calls: float("inf") if calls > 18 else None)
    with pytest.raises(UserError) as error:
        learn(tmp_path, model, epochs=5)
    assert str(error.value) == (
        "5 steps in a row had non-finite gradients (last norm nan at step 8);"
        " state kept, lower head_lr (now 0.004) and run the same command again"
    )
    assert {training.STATE, training.STOPPED} <= {each.name for each in tmp_path.iterdir()}
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_the_remedy_works_lower_rates_take_up_the_state_and_anything_else_does_not(tmp_path):
    def broken(folder):
        with pytest.raises(UserError, match="state kept"):
            learn(folder, faulty(lambda n, calls: float("nan") if calls > 18 else None), epochs=5)

    told = []
    broken(tmp_path / "a")
    learn(tmp_path / "a", machine=Machine(warn=told.append), epochs=5, head_lr=1e-3)
    assert told == [
        "going on, with other rates, from the last epoch before the non-finite steps",
        "resumed after epoch 2 of 5",
    ]
    assert not (tmp_path / "a" / training.STOPPED).exists()
    told.clear()
    broken(tmp_path / "b")
    learn(tmp_path / "b", machine=Machine(warn=told.append), epochs=5, head_lr=1e-3, clip=0.5)
    assert told == []


def test_finite_steps_reset_the_count(tmp_path):
    _, report = learn(tmp_path, faulty(lambda n, calls: float("nan") if calls % 9 == 0 else None), nonfinite_steps=2)
    assert sum(each["nonfinite_steps"] for each in report.history) > 1


def test_the_message_names_both_rates_of_a_trained_encoder_under_the_names_of_the_stage(tmp_path):
    documents, targets = token_corpus()
    model = trained_encoder()
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    keys = [str(row) for row in range(len(documents))]
    with pytest.raises(UserError, match=r"lower encoder_lr \(now 5e-05\) or head_lr \(now 0.004\) and run"):
        train(model, documents, targets, keys, Optimisation(batch_size=4), tmp_path, QUIET)
    with pytest.raises(UserError, match=r"self_train_lr \(now 1e-06\) or self_train_head_lr \(now 0.0005\)"):
        settings = SelfTraining(batch_size=4)
        self_train_iteration(model, documents, toy(), settings, 1, tmp_path, machine=QUIET)


# ---- mixed precision


def test_half_precision_is_bf16_and_only_where_the_device_has_it(monkeypatch):
    with Machine().autocast():
        assert not torch.is_autocast_enabled("cpu")
    made = []
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: made.append((kind, dtype, enabled)))
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        Machine(devices=[torch.device("cuda")]).autocast()
        Machine(devices=[torch.device("cuda")], mixed_precision=False).autocast()
    assert made == [("cuda", torch.bfloat16, on) for on in (True, False, False, False)]


# ---- resume

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
import torch
torch.set_num_threads(1)
from test_training import run_to_bundle
from taxoclass import training

kind, step = sys.argv[1].split(":")
log = training.MetricsLog.__call__

def killing(self, event, **values):
    log(self, event, **values)
    if event == "step" and values["step"] == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

training.MetricsLog.__call__ = killing
run_to_bundle(kind, Path(sys.argv[2]))
"""


def run_to_bundle(kind: str, folder: Path) -> bytes:
    """Train, or self-train, and save: what a stage does. Model and settings are functions of ``kind`` alone."""
    torch.seed()  # another state of the global generator in every process
    gnn = "off" if kind.endswith("without graph") else "ego"  # which saves a subprocess an import of seconds
    if kind.startswith("train"):
        model, report = learn(folder / "state", model_of(gnn, learnt=False), epochs=4)
    elif kind == "dropout":
        documents, targets = token_corpus()
        keys = [str(row) for row in range(len(documents))]
        model = trained_encoder(dropout=0.2)
        report = train(model, documents, targets, keys, Optimisation(epochs=3, batch_size=16), folder / "state", QUIET)
    else:
        refresh = 2 if kind.startswith("refresh") else 0
        model, report = self_learn(folder / "state", model_of(gnn, learnt=False), epochs=3, refresh_every=refresh)
    bundle.save(folder / "model.pt", bundle.Bundle(model, toy(), {}, {"history": report.history}))
    return (folder / "model.pt").read_bytes()


def test_resume_after_kill_in_the_middle_of_an_iteration_gives_the_same_bytes(tmp_path):
    kind, step = "refresh without graph", 12
    whole = run_to_bundle(kind, tmp_path / "whole")
    path = [str(UNIT), str(UNIT.parent), str(UNIT.parent.parent / "scripts")]
    command = [sys.executable, "-c", KILLED, f"{kind}:{step}", str(tmp_path / "killed"), *path]
    assert subprocess.run(command, timeout=300).returncode == -signal.SIGKILL
    assert (tmp_path / "killed/state/state.pt").exists() and not (tmp_path / "killed/model.pt").exists()
    assert run_to_bundle(kind, tmp_path / "killed") == whole


@pytest.mark.parametrize("kind", ["train", "dropout", "self-train", "refresh"])
@pytest.mark.parametrize("step", [0, 7])
def test_resume_after_an_interruption_at_any_epoch_gives_the_same_bytes(tmp_path, kind, step, monkeypatch):
    whole = run_to_bundle(kind, tmp_path / "whole")
    log = MetricsLog.__call__

    def stopping(self, event, **values):
        if event == "step" and values["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_to_bundle(kind, tmp_path / "stopped")
    monkeypatch.setattr(MetricsLog, "__call__", log)
    assert run_to_bundle(kind, tmp_path / "stopped") == whole


def test_a_finished_state_is_taken_up_without_another_step_and_forgotten_on_demand(tmp_path):
    """A kill between the last epoch and the product costs nothing."""
    told, log = [], Recorder()
    first, report = learn(tmp_path)
    second, again = learn(tmp_path, machine=Machine(warn=told.append), log=MetricsLog([log]))
    assert same(weights(first), weights(second)) and again == report
    assert told == ["resumed after epoch 3 of 3"] and log.records == []
    training.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["settings", "seed", "weights", "documents", "targets", "code", "keys"])
def test_a_state_of_another_fingerprint_is_wiped(tmp_path, change):
    documents, targets = corpus()
    folder = tmp_path / "state"
    learn(folder)
    told = []
    settings = {"epochs": 3, "batch_size": 32, "micro_batch": 8}
    model, keys, code = model_of(learnt=False), list(KEYS), ""
    if change == "settings":
        settings["clip"] = 0.5
    elif change == "seed":
        settings["seed"] = 1
    elif change == "weights":
        model = model_of(seed=1)
    elif change == "documents":
        documents = Vectors(documents.values + 1e-3)
    elif change == "targets":
        targets = corpus(seed=1)[1]
    elif change == "code":
        code = "another digest"
    else:
        keys = [f"other {row}" for row in range(N)]
    machine = Machine(warn=told.append)
    train(model, documents, targets, keys, Optimisation(**settings), folder, machine, fingerprint=code)
    assert told == []


def test_a_damaged_state_is_started_anew_with_a_word(tmp_path):
    first, _ = learn(tmp_path)
    path, told = tmp_path / training.STATE, []
    path.write_bytes(path.read_bytes()[:1000])
    second, _ = learn(tmp_path, machine=Machine(warn=told.append))
    assert len(told) == 1 and told[0].startswith("starting anew: ")
    assert same(weights(first), weights(second))


def test_the_state_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, [], Optimisation(), print)
    checkpoint.save(model={}, history="[1]")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"state\.pt: cannot be written"):
        checkpoint.save(model={}, history="[2]")
    assert checkpoint.load()["history"] == "[1]"
    assert [each.name for each in tmp_path.iterdir()] == [training.STATE]


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    log = Recorder()
    monkeypatch.setattr(bundle.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"state\.pt: needs .* free some space"):
        learn(tmp_path, log=MetricsLog([log]))
    assert log.records == []


# ---- self-training


def test_self_training_reports_and_keeps_what_agrees_with_the_silver_labels(tmp_path):
    model, _ = learn(tmp_path / "a")
    before = weights(model)
    model, report = self_learn(tmp_path / "b", model)
    assert report.kept == "end" and not same(weights(model), before)
    assert report.agreement_after >= report.agreement_floor and report.silver_documents > 5
    assert 0 <= report.confident_before <= 1 and report.confident_after >= report.confident_before
    assert len(report.mass_p_before) == len(report.mass_q) == len(report.mass_p_after) == 6
    assert json.dumps(report.history)


def test_masses_and_confidence_are_those_of_the_whole_corpus(tmp_path):
    documents, _ = corpus()
    model, _ = learn(tmp_path / "a")
    z = model.eval()(*documents.batch(np.arange(N))).double().detach()
    p = z.sigmoid()
    _, report = self_learn(tmp_path / "b", model)
    np.testing.assert_allclose(report.mass_p_before, p.sum(0), rtol=1e-5)
    q = (p**2 / p.sum(0)) / (p**2 / p.sum(0) + (1 - p) ** 2 / (1 - p).sum(0))
    np.testing.assert_allclose(report.mass_q, q.sum(0), rtol=1e-4)
    assert report.confident_before == pytest.approx(float((p.max(1).values > 0.8).double().mean()))


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
    calls, fill = [], training.fill
    monkeypatch.setattr(training, "fill", lambda *arguments: calls.append(1) or fill(*arguments))
    self_learn(tmp_path / "a", model_of(learnt=False), refresh_every=0)
    assert len(calls) == 2  # before and after
    calls.clear()
    self_learn(tmp_path / "b", model_of(learnt=False), refresh_every=2)  # 2 epochs of 5 steps: 0, 2, 4
    assert len(calls) == 2 + 2 * 3


def test_targets_of_self_training_are_frozen_between_refreshes(tmp_path, monkeypatch):
    seen, batch = {}, training.SelfTargets.batch

    def watched(self, rows):
        q, weight = batch(self, rows)
        for row, each in zip(rows.tolist(), q.tolist(), strict=True):
            assert seen.setdefault(row, each) == each
        return q, weight

    monkeypatch.setattr(training.SelfTargets, "batch", watched)
    self_learn(tmp_path, model_of(learnt=False), head_lr=4e-3)
    assert len(seen) == N


# ---- metrics


class Recorder:
    def __init__(self) -> None:
        self.records: list[dict] = []

    def write(self, record):
        self.records.append(record)

    def close(self):
        pass

    def of(self, event, name):
        return [record[name] for record in self.records if record["event"] == event]


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
