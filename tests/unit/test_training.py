"""Training: what a run learns, what it survives, and that it is a function of its inputs."""

import contextlib
import os
import random
import types
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from common import files
from common.errors import UserError
from common.taxoclass_settings import Optimiser, SelfTrain, TrainClassifier
from small_models import (
    KEYS,
    QUIET,
    N,
    Recorder,
    Scattering,
    close,
    core_training,
    corpus,
    faulty,
    interrupted,
    learn,
    model_of,
    one_thread,  # noqa: F401 (a fixture)
    run_to_bundle,
    same,
    token_corpus,
    toy,
    trained_encoder,
    weights,
)
from taxoclass import training
from taxoclass.bundle import read_tensors, size_of, write_tensors
from taxoclass.metrics_log import MetricsLog
from taxoclass.self_training import SelfTraining
from taxoclass.targets import CoreTargets, core_targets
from taxoclass.training import (
    Checkpoint,
    CoreTraining,
    Machine,
    Runner,
    Tokens,
    Vectors,
    adamw,
    schedule,
    split,
    train,
)

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


def test_of_equal_losses_the_weights_of_the_first_epoch_are_kept(tmp_path, monkeypatch):
    losses, seen = iter([2.0, 1.0, 1.0]), []
    monkeypatch.setattr(Runner, "mean_loss", lambda self, *_: seen.append(weights(self.inner)) or next(losses))
    model, report = learn(tmp_path)
    assert report.best_epoch == 2 and same(weights(model), seen[1]) and not same(seen[1], seen[2])


def test_the_validation_loss_is_the_mean_over_the_documents_however_many_are_predicted_at_once():
    documents, targets = corpus()
    rows = np.array([5, 3, 0, 10, 7, 2, 1])
    z = model_of()(*documents.batch(rows)).detach().double()
    expected = float(targets.loss(z, *targets.batch(rows))) / 7
    for size in (1, 3, 100):
        runner = Runner(model_of(), documents, Machine(predict_batch=size))
        assert runner.mean_loss(rows, targets) == pytest.approx(expected, rel=1e-6)


def test_the_report_of_an_epoch_is_made_of_its_steps(tmp_path):
    log = Recorder()
    _, report = learn(
        tmp_path, faulty(lambda n, calls: float("nan") if calls == 1 else None), log=MetricsLog([log]), clip=2.0
    )
    losses, norms = (np.reshape(log.of("step", name), (3, 4)) for name in ("loss", "gradient_norm"))
    sizes = np.array([32, 32, 32, report.documents - 96])
    assert 0 < sizes[-1] < 32 and np.isnan(losses[0, 0]) and np.isfinite(losses.ravel()[1:]).all()
    for epoch, (each, loss, norm) in enumerate(zip(report.history, losses, norms, strict=True)):
        there = np.isfinite(loss)
        assert each["epoch"] == epoch + 1 and each["nonfinite_steps"] == (~there).sum() == (epoch == 0)
        assert each["loss"] == pytest.approx((loss * sizes)[there].sum() / sizes[there].sum())
        assert each["gradient_norm_mean"] == pytest.approx(norm[there].mean())
        assert each["gradient_norm_max"] == norm[there].max()
        assert each["clipped_steps"] == (norm[there] > 2).sum()
    assert 0 < sum(each["clipped_steps"] for each in report.history) < 11
    assert log.of("epoch", "step") == [4, 8, 12]


def test_no_document_with_a_core_class_is_a_users_error(tmp_path):
    none = core_targets(toy(), np.zeros(N + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
    with pytest.raises(UserError, match="no document has a core class"):
        train(model_of(), corpus()[0], none, KEYS, core_training(), tmp_path)


def test_one_document_is_enough_to_run(tmp_path):
    documents, targets = corpus(1)
    report = train(model_of(), documents, targets, ["one"], core_training(epochs=1), tmp_path, QUIET)
    assert report.documents == report.validation_documents == 1


def test_a_trained_encoder_learns_from_tokens_in_two_groups(tmp_path):
    documents, targets = token_corpus()
    model, keys = trained_encoder(dropout=0.1), [str(row) for row in range(len(documents))]
    before = weights(model)
    settings = core_training(epochs=4, encoder_lr=5e-3, batch_size=16, micro_batch=4)
    report = train(model, documents, targets, keys, settings, tmp_path, QUIET)
    assert report.history[-1]["loss"] < 0.8 * report.history[0]["loss"]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "encoder.backbone.encoder.layer.0.attention.self.query.weight" in moved and "bilinear" in moved
    assert not moved & {"classes.features", "classes.edge_index"}


# ---- how long


@pytest.mark.parametrize(
    ("min_steps", "epochs"), [(0, 3), (1, 3), (12, 3), (13, 4), (16, 4), (17, 5)], ids=lambda value: str(value)
)
def test_a_small_corpus_has_more_epochs_until_the_steps_are_enough(tmp_path, min_steps, epochs):
    """An epoch has 4 steps; 3 epochs are asked for."""
    log = Recorder()
    _, report = learn(tmp_path, log=MetricsLog([log]), min_steps=min_steps)
    assert -(-report.documents // 32) == 4
    assert [each["epoch"] for each in report.history] == list(range(1, epochs + 1))
    assert log.of("step", "step") == list(range(4 * epochs))


def test_one_document_has_as_many_epochs_as_steps_are_asked_for(tmp_path):
    documents, targets = corpus(1)
    settings = core_training(epochs=2, min_steps=7)
    report = train(model_of(), documents, targets, ["one"], settings, tmp_path, QUIET)
    assert len(report.history) == 7


def test_more_epochs_by_steps_are_the_same_run_as_more_epochs(tmp_path):
    logs = Recorder(), Recorder()
    asked, _ = learn(tmp_path / "a", log=MetricsLog([logs[0]]), epochs=5)
    needed, _ = learn(tmp_path / "b", log=MetricsLog([logs[1]]), epochs=1, min_steps=18)
    assert same(weights(asked), weights(needed))
    rates = [log.of("step", "head_lr") for log in logs]
    assert rates[0] == rates[1] and rates[1][-1] == min(rates[1][2:]) < 0.1 * max(rates[1])  # they fall to the very end


def test_progress_is_of_the_texts_of_all_epochs_and_goes_on_where_it_was(tmp_path):
    told = []

    @contextlib.contextmanager
    def bar(total, unit, what):
        done, before = [], []
        yield types.SimpleNamespace(update=done.append, skip=before.append)
        told.append((what, total, sum(before), sum(done)))

    for _ in range(2):  # the second takes up the finished state
        _, report = learn(tmp_path, machine=Machine(progress=bar, warn=lambda text: None))
    texts, held_out = 3 * report.documents, report.validation_documents
    assert told == [("predicting", held_out, 0, held_out)] * 3 + [
        ("training", texts, 0, texts),
        ("training", texts, texts, 0),
    ]


def test_a_run_of_more_epochs_by_steps_is_resumed_where_it_was(tmp_path, monkeypatch):
    settings, log, told = {"epochs": 1, "min_steps": 16}, MetricsLog.__call__, []
    whole, expected = learn(tmp_path / "whole", **settings)

    def stopping(self, event, **values):
        if event == "step" and values["step"] == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped", **settings)
    monkeypatch.setattr(MetricsLog, "__call__", log)
    found, report = learn(tmp_path / "stopped", machine=Machine(warn=told.append), **settings)
    assert told == ["resumed after epoch 2 of 4"]
    assert same(weights(found), weights(whole)) and report == expected


# ---- documents


def test_tokens_are_padded_to_the_longest_of_the_batch_only():
    documents = Tokens(np.array([2, 5, 3, 2, 3, 2, 6, 7, 8, 3]), np.array([0, 3, 5, 10]), pad=0)
    ids, mask = documents.batch(np.array([1, 0]))
    assert ids.tolist() == [[2, 3, 0], [2, 5, 3]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert documents.batch(np.array([2]))[0].shape == (1, 5)
    assert (len(documents), documents.lengths.tolist()) == (3, [3, 2, 5])
    assert len(Tokens(documents.ids, documents.starts[:3], pad=0)) == 2


@pytest.mark.parametrize("row", [0, training.BLOCK - 1, training.BLOCK, 2 * training.BLOCK])
def test_every_value_counts_in_the_digest_of_vectors_and_no_layout_does(row):
    values = np.zeros((2 * training.BLOCK + 1, 2), np.float32)
    other = values.copy()
    other[row, 1] = 1e-30
    assert len({Vectors(each).digest for each in (values, other, values[:-1], values.astype(np.float64))}) == 4
    assert Vectors(np.asfortranarray(other)).digest == Vectors(other).digest


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
    groups = adamw(trained_encoder(), core_training()).param_groups
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
    runner = Runner(model_of(), watching, QUIET, core_training(micro_batch=7))
    loss = runner.gradients(np.arange(30), targets)
    assert sorted(np.concatenate(seen)) == list(range(30)) and [len(rows) for rows in seen] == [7, 7, 7, 7, 2]
    z = model_of()(*documents.batch(np.arange(30)))
    expected = targets.loss(z, *targets.batch(np.arange(30))) / 30
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    norm = torch.stack([p.grad.norm() for p in runner.inner.parameters()]).norm()
    assert float(norm) > 0.1
    seen.clear()
    settings = core_training(epochs=1, batch_size=32, micro_batch=7)
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


def test_dropout_has_a_seed_of_its_own_in_each_epoch(tmp_path, monkeypatch):
    models = [model_of(learnt=False) for _ in range(3)]
    seeds, seed = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda value: seeds.append(value) or seed(value))
    for name, given, model in zip("abc", (1, 1, 2), models, strict=True):
        learn(tmp_path / name, model, seed=given)
    assert seeds[:3] == seeds[3:6] and len({*seeds}) == 6


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
        f"out of memory: micro-batch is {size} from here on, the effective batch stays" for size in (8, 4)
    ]
    plain, _ = learn(tmp_path / "b", machine=Machine(warn=told.append, predict_batch=4), micro_batch=4)
    assert same(weights(model), weights(plain))


def test_prediction_halves_on_its_own():
    documents, _ = corpus()
    runner = Runner(faulty(out_of_memory_above(40)), documents, QUIET, core_training(micro_batch=8))
    found = np.zeros((N, 6), dtype=np.float32)
    runner.predict(np.arange(N), found.__setitem__)
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


# ---- data parallel


def test_a_data_parallel_wrapper_changes_nothing(tmp_path, monkeypatch):
    plain, _ = learn(tmp_path / "a")
    monkeypatch.setattr(training, "wrap", lambda model, devices: Scattering(model))
    wrapped, _ = learn(tmp_path / "b")
    close(weights(wrapped), weights(plain))


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
        train(model, documents, targets, keys, core_training(batch_size=4), tmp_path, QUIET)


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


@pytest.mark.parametrize("kind", ["train", "dropout"])
@pytest.mark.parametrize("step", [0, 7])
def test_resume_after_an_interruption_at_any_epoch_gives_the_same_bytes(tmp_path, kind, step, monkeypatch):
    whole = run_to_bundle(kind, tmp_path / "whole")
    assert interrupted(kind, step, tmp_path / "stopped", monkeypatch) == whole


def test_a_finished_state_is_taken_up_without_another_step(tmp_path):
    """A kill between the last epoch and the product costs nothing."""
    told, log = [], Recorder()
    first, report = learn(tmp_path)
    second, again = learn(tmp_path, machine=Machine(warn=told.append), log=MetricsLog([log]))
    assert same(weights(first), weights(second)) and again == report
    assert told == ["resumed after epoch 3 of 3"] and log.records == []


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
    train(model, documents, targets, keys, core_training(**settings), folder, machine, fingerprint=code)
    assert told == []


def test_a_damaged_state_is_started_anew_with_a_word(tmp_path):
    first, _ = learn(tmp_path)
    path, told = tmp_path / training.STATE, []
    path.write_bytes(path.read_bytes()[:1000])
    second, _ = learn(tmp_path, machine=Machine(warn=told.append))
    assert len(told) == 1 and told[0].startswith("starting anew: ")
    assert same(weights(first), weights(second))


def test_a_state_whose_content_is_another_is_told_of_with_its_file(tmp_path):
    told = []
    checkpoint = Checkpoint(tmp_path, [], core_training(), told.append)
    checkpoint.save(model={}, history="[1]")
    path = tmp_path / training.STATE
    write_tensors(path, read_tensors(path) | {"history": "[2]"})
    assert checkpoint.load() is None and not path.exists()
    assert told == [f"starting anew: {path}: is damaged: its content is not what was written"]


@pytest.mark.parametrize("seed", range(20))
def test_a_state_with_a_flipped_bit_is_not_gone_on_with(tmp_path, seed):
    # the reader of the file itself notices one in twenty
    checkpoint = Checkpoint(tmp_path, [], core_training(), print)
    checkpoint.save(model={"a": torch.arange(1000.0)}, optimiser={"state": {0: {"step": 3}}}, history="[1]")
    path = tmp_path / training.STATE
    content = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    whole = checkpoint.load()
    path.write_bytes(content)
    found = checkpoint.load()
    if found is not None:  # some bits of the archive mean nothing
        assert torch.equal(found.pop("model")["a"], whole.pop("model")["a"]) and found == whole


def test_the_state_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, [], core_training(), print)
    checkpoint.save(model={}, history="[1]")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"state\.pt: cannot be written"):
        checkpoint.save(model={}, history="[2]")
    assert checkpoint.load()["history"] == "[1]"
    assert [each.name for each in tmp_path.iterdir()] == [training.STATE]


def test_room_is_asked_for_the_model_the_best_one_and_two_moments(tmp_path, monkeypatch):
    asked, check = [], files.check_space
    monkeypatch.setattr(files, "check_space", lambda path, size: asked.append((path, size)) or check(path, size))
    model, _ = learn(tmp_path)
    assert asked[0] == (tmp_path / training.STATE, 4 * size_of(model.state_dict()))
    asked.clear()
    training.scratch_logits(tmp_path, 7, 3)
    assert asked[0] == (tmp_path / training.LOGITS, 7 * 3 * 4)


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    log = Recorder()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"state\.pt: needs .* free some space"):
        learn(tmp_path, log=MetricsLog([log]))
    assert log.records == []


# ---- settings of the config


@pytest.mark.parametrize("model", [TrainClassifier, SelfTrain])
@pytest.mark.parametrize(("trainable", "micro_batch"), [(True, 4), (False, 8)])
def test_settings_that_both_trainings_have_are_handed_on_under_their_names(model, trainable, micro_batch):
    given = {"micro_batch": 4, "weight_decay": 0.5, "warmup": 0.25, "clip": 2.0}
    given |= {"validation_share": 0.4, "nonfinite_steps": 1}
    if model is TrainClassifier:
        settings = TrainClassifier(**given, random_seed=7, batch_size=8, encoder_trainable=trainable)
        learns = CoreTraining.of(settings)
    else:
        learns = SelfTraining.of(SelfTrain(**given, random_seed=7, self_train_batch_size=8), trainable)
    # a batch of vectors of a fixed encoder always fits
    expected = given | {"seed": 7, "batch_size": 8, "micro_batch": micro_batch}
    assert asdict(learns).items() >= expected.items()
    # which the machine is told
    assert Optimiser.model_fields.keys() - given.keys() == {"random_seed", "mixed_precision"}


def test_each_training_learns_by_the_settings_of_its_own_stage():
    settings = TrainClassifier(epochs=7, min_steps=3, batch_size=5, encoder_lr=0.5, head_lr=0.25)
    learns = asdict(CoreTraining.of(settings))
    assert learns.items() >= {"epochs": 7, "min_steps": 3, "batch_size": 5, "encoder_lr": 0.5, "head_lr": 0.25}.items()
    given = {"epochs": 9, "temperature": 3.0, "threshold": 0.75, "target": "hard", "batch_size": 6}
    named = {"lr": 0.5, "head_lr": 0.25, "refresh": 4, "stop": 0.125}
    settings = SelfTrain(**{f"self_train_{name}": value for name, value in (given | named).items()})
    own = {"encoder_lr": 0.5, "head_lr": 0.25, "refresh_every": 4, "stop_share": 0.125}
    assert asdict(SelfTraining.of(settings, trainable=True)).items() >= (given | own).items()
