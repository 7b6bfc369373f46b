"""Targets and losses: set by hand for cores, by the float64 textbook for self-training, finite at any logit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from random_taxonomies import closed, taxonomy
from taxoclass import targets
from taxoclass.targets import (
    SelfTargets,
    bernoulli_loss,
    core_targets,
    decided,
    log_masses,
    one_sided_loss,
    sharpened,
)
from taxoclass.taxonomy import Taxonomy

EXTREME = [50.0, -50.0, 1e4, -1e4, 0.0]
few = settings(max_examples=40)
logits = stnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=st.floats(-15, 15))


def dag() -> Taxonomy:
    """r -> a, b; a -> c; b -> c; c -> d; s alone."""
    return taxonomy(6, [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)])


def of_cores(*sets: list[int]) -> targets.CoreTargets:
    indptr = np.cumsum([0, *map(len, sets)])
    return core_targets(dag(), indptr, np.array([row for each in sets for row in each], dtype=np.int32))


def textbook(z: np.ndarray, tau: float = 2) -> np.ndarray:
    """The printed quotients, in float64."""
    p = 1 / (1 + np.exp(-z))
    yes, no = p**tau / p.sum(axis=0), (1 - p) ** tau / (1 - p).sum(axis=0)
    return yes / (yes + no)


def self_targets(z: np.ndarray, target: str = "soft", threshold: float = 0.8, tau: float = 2.0) -> SelfTargets:
    masses = log_masses([torch.from_numpy(z)], z.shape[1])
    return SelfTargets(target, tau, threshold, z.astype(np.float32), *masses)


# ---- stage 3


def test_cores_and_their_ancestors_are_positive_their_descendants_ignored_the_rest_negative():
    q, weight = of_cores([1]).batch(np.array([0]))
    assert q.tolist() == [[1, 1, 0, 0, 0, 0]]
    assert weight.tolist() == [[1, 1, 1, 0, 0, 1]]  # c and d below a: ignored; b and s: negative


def test_positive_wins_over_ignored():
    q, weight = of_cores([0, 3]).batch(np.array([0]))  # c is below r, and a core
    assert q.tolist() == [[1, 1, 1, 1, 0, 0]]
    assert weight.tolist() == [[1, 1, 1, 1, 0, 1]]


def test_a_document_without_cores_is_left_out_and_rows_stay_those_of_the_corpus():
    found = of_cores([], [5], [], [4])
    assert found.rows.tolist() == [1, 3]
    q, _ = found.batch(np.array([3, 1]))
    assert q.tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert q.dtype == torch.float32


@few
@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=5))
def test_targets_equal_a_walk_over_sets(sets):
    graph, found = dag(), of_cores(*[sorted(each) for each in sets])
    q, weight = found.batch(np.arange(len(sets)))
    for row, cores in enumerate(sets):
        positive = closed(graph, sorted(cores))
        below = {each for each in range(6) if (closed(graph, [each]) - {each}) & cores}
        assert {each for each in range(6) if q[row, each]} == positive
        assert {each for each in range(6) if not weight[row, each]} == below - positive


def test_the_digest_tells_other_targets_apart():
    assert of_cores([1], [2]).digest == of_cores([1], [2]).digest
    assert len({of_cores([1], [2]).digest, of_cores([2], [1]).digest, of_cores([1, 2], []).digest}) == 3


# ---- stage 4


@few
@given(logits)
def test_the_closed_form_is_the_textbook_formula(z):
    log_f, log_g = log_masses([torch.from_numpy(z)], z.shape[1])
    np.testing.assert_allclose(sharpened(torch.from_numpy(z), log_f, log_g, 2.0).numpy(), textbook(z), atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 1.5, 3.0])
def test_other_temperatures_are_other_exponents(tau):
    z = np.random.default_rng(0).normal(0, 3, (30, 4))
    log_f, log_g = log_masses([torch.from_numpy(z)], 4)
    np.testing.assert_allclose(sharpened(torch.from_numpy(z), log_f, log_g, tau).numpy(), textbook(z, tau), atol=1e-6)


def test_single_precision_logits_are_summed_in_double():
    z = np.random.default_rng(1).normal(-6, 3, (20_000, 3)).astype(np.float32)
    log_f, log_g = log_masses([torch.from_numpy(z)], 3)
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    np.testing.assert_allclose(log_f.exp().numpy(), p.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(log_g.exp().numpy(), (1 - p).sum(axis=0), rtol=1e-12)
    assert log_f.dtype == torch.float64


@few
@given(logits, st.integers(1, 7))
def test_masses_do_not_depend_on_the_blocks(z, size):
    blocks = torch.from_numpy(z).split(size)
    for streamed, whole in zip(
        log_masses(blocks, z.shape[1]), log_masses([torch.from_numpy(z)], z.shape[1]), strict=True
    ):
        torch.testing.assert_close(streamed, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_targets_of_half_precision_logits_are_finite_where_log_of_p_plus_epsilon_is_not(dtype):
    """In fp16 1e-10 is 0, sigmoid(-20) is 0, and p^2 / f is 0 / 0."""
    z = torch.tensor([[-20.0, 30.0], [-25.0, 20.0], [-1e4, 1e4]]).to(dtype)
    log_f, log_g = log_masses([z], 2)
    q = sharpened(z, log_f, log_g, 2.0)
    assert torch.isfinite(torch.stack([log_f, log_g])).all() and torch.isfinite(q).all()
    assert q.dtype == torch.float64
    assert (q[0] > q[1]).tolist() == [True, True]  # p underflows, the order of the logits does not


@pytest.mark.parametrize("z", EXTREME)
@pytest.mark.parametrize("target", ["paper", "soft", "hard"])
def test_self_training_is_finite_at_any_logit(z, target):
    corpus = np.array([[z, 1.0], [z, -2.0], [0.5, z]])
    carried = self_targets(corpus, target)
    q, weight = carried.batch(np.arange(3))
    logit = torch.tensor(corpus, dtype=torch.float32, requires_grad=True)
    loss = carried.loss(logit, q, weight)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logit.grad).all() and torch.isfinite(q).all()


def test_rare_classes_are_inflated_as_the_spec_measured():
    """Mean p 0.003 flips at p ~ 0.05: why there is a confidence mask."""
    z = np.full((1000, 1), np.log(0.003 / 0.997))
    log_f, log_g = log_masses([torch.from_numpy(z)], 1)
    p = torch.tensor([[0.04], [0.07]], dtype=torch.float64)
    assert (sharpened(torch.logit(p), log_f, log_g, 2.0) > 0.5).flatten().tolist() == [False, True]


def test_targets_are_carried_by_document_index():
    z = np.random.default_rng(2).normal(0, 3, (20, 3))
    carried, rows = self_targets(z), np.random.default_rng(3).permutation(20)
    q, _ = carried.batch(rows)
    np.testing.assert_allclose(q.numpy(), textbook(z)[rows], atol=1e-6)


def test_the_confidence_mask_weighs_entries_and_sets_no_target_to_0():
    q = torch.tensor([0.0, 0.2, 0.21, 0.5, 0.79, 0.8, 1.0])
    assert decided(q, 0.8).tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert decided(q, 0.5).tolist() == [1] * 7
    z = np.random.default_rng(4).normal(0, 3, (50, 4))
    found, weight = self_targets(z, threshold=0.8).batch(np.arange(50))
    unmasked, _ = self_targets(z, threshold=0.5).batch(np.arange(50))
    assert torch.equal(found, unmasked) and 0 < float(weight.mean()) < 1


def test_the_three_targets_are_three_things():
    z = np.random.default_rng(5).normal(0, 2, (40, 3))
    logit = torch.zeros(40, 3)
    soft, hard, paper = (self_targets(z, target, threshold=0.5) for target in ("soft", "hard", "paper"))
    batches = [each.batch(np.arange(40)) for each in (soft, hard, paper)]
    assert torch.equal(batches[1][0], (batches[0][0] >= 0.5).float())
    assert torch.equal(batches[2][0], batches[0][0])
    losses = [float(each.loss(logit, *batch)) for each, batch in zip((soft, hard, paper), batches, strict=True)]
    assert (
        losses[0] == pytest.approx(losses[1]) == pytest.approx(120 * np.log(2))
    )  # at z = 0 the target does not matter
    assert losses[2] == pytest.approx(float(batches[2][0].sum()) * np.log(2), rel=1e-5)


def test_paper_at_threshold_one_half_is_the_printed_loss():
    z = np.random.default_rng(6).normal(0, 2, (30, 3))
    carried = self_targets(z, "paper", threshold=0.5)
    now = torch.from_numpy(np.random.default_rng(7).normal(0, 2, (30, 3)))
    q, p = textbook(z), torch.sigmoid(now).numpy()
    printed = (q * np.log(q / p)).sum() - (q * np.log(q)).sum()  # up to the entropy of q, which no weight can change
    assert float(carried.loss(now, *carried.batch(np.arange(30)))) == pytest.approx(printed, rel=1e-6)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target = 'softer' is not one of soft, hard, paper"):
        self_targets(np.zeros((1, 1)), "softer")


# ---- losses


@pytest.mark.parametrize("z", EXTREME)
@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_loss_is_finite_and_its_gradient_is_sigmoid_minus_target(z, q, dtype):
    logit = torch.tensor([[z]], dtype=dtype, requires_grad=True)
    loss = bernoulli_loss(logit, torch.tensor([[q]]), torch.ones(1, 1))
    loss.backward()
    assert torch.isfinite(loss) and loss.dtype != torch.float16
    assert float(logit.grad) == pytest.approx(
        1 / (1 + np.exp(-np.clip(z, -700, 700))) - q, abs=1e-3 if dtype == torch.float16 else 1e-6
    )


@few
@given(
    stnp.arrays(np.float64, (3, 2), elements=st.floats(-20, 20)),
    stnp.arrays(np.float64, (3, 2), elements=st.floats(0, 1)),
)
def test_the_loss_is_softplus_minus_qz_summed(z, q):
    weight = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = bernoulli_loss(*map(torch.from_numpy, (z, q, weight)))
    assert float(found) == pytest.approx((weight * (np.logaddexp(0, z) - q * z)).sum(), abs=1e-9)


def test_the_loss_is_least_where_p_is_the_target_and_the_one_sided_one_is_not():
    q = torch.full((1, 1), 0.3, dtype=torch.float64)
    z = torch.logit(q).requires_grad_()
    bernoulli_loss(z, q, torch.ones(1, 1)).backward()
    assert abs(float(z.grad)) < 1e-12
    z.grad = None
    one_sided_loss(z, q, torch.ones(1, 1)).backward()
    assert float(z.grad) == pytest.approx(0.3 * (0.3 - 1))  # pushes up at any p < 1


def test_an_ignored_class_has_no_gradient():
    z = torch.tensor([[3.0, -3.0]], requires_grad=True)
    bernoulli_loss(z, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])).backward()
    assert z.grad[0, 0] == 0 and z.grad[0, 1] < 0
