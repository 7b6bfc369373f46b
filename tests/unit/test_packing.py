"""Packed states: the same states and gradients as with padding, on fewer tokens; else the model is left as it was."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from small_models import QUIET, Scattering, tiny_bert, tokens, trained_encoder
from taxoclass import packing
from taxoclass.classifier import unwrap, wrap
from taxoclass.packing import Layout, without_padding

OWN_NAMES = {"distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}}
USUAL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def model_of(architecture: str, **more):
    shape = OWN_NAMES.get(architecture, USUAL) | {"vocab_size": 60, "max_position_embeddings": 40} | more
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(AutoConfig.for_model(architecture, **shape)).eval()


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = 2 + torch.arange(mask.numel()).reshape(mask.shape) * 7 % 37
    return ids * mask + (1 - mask), mask


def states(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


def seen_by(layer) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    layer.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    return shapes


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "albert", "xlm-roberta"])
def test_states_are_those_with_padding_and_every_layer_sees_the_tokens_alone(architecture):
    plain, packed = model_of(architecture), model_of(architecture)
    assert without_padding(packed)
    shapes = seen_by(next(each for name, each in packed.named_modules() if name.endswith((".query", ".q_lin"))))
    ids, mask = batch([9, 2, 30, 5])
    torch.testing.assert_close(states(packed, ids, mask), states(plain, ids, mask), atol=1e-5, rtol=0)
    assert {shape[:2] for shape in shapes} == {(1, 46)}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_gradients_are_those_with_padding(lengths):
    gradients = []
    for pack in (False, True):
        model = tiny_bert()
        assert not pack or without_padding(model)
        found = states(model, *batch(lengths))
        (found * torch.linspace(-1, 1, found.numel()).reshape(found.shape)).sum().backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=2e-5, rtol=1e-4)


def test_padding_is_zero_where_the_rest_of_the_model_looks_at_it_and_without_any_nothing_is_packed():
    model = tiny_bert().eval()
    assert without_padding(model)
    shapes = seen_by(model.encoder.layer[0].attention.self.query)
    ids, mask = tokens()
    assert not model(input_ids=ids, attention_mask=mask).last_hidden_state[mask == 0].any()
    for whole in (torch.ones_like(mask), None):
        found = model(input_ids=ids, attention_mask=whole).last_hidden_state
        torch.testing.assert_close(found, tiny_bert().eval()(input_ids=ids).last_hidden_state)
    assert [shape[:2] for shape in shapes] == [(1, 9), (3, 4), (3, 4)]


@pytest.mark.parametrize("architecture", ["mpnet", "deberta-v2", "layoutlm", "gpt2"])
def test_a_model_whose_tokens_are_tied_together_otherwise_stays_as_it_was(architecture):
    model = model_of(architecture, pad_token_id=1)
    before, implementation = states(model, *batch([9, 2, 5])), model.config._attn_implementation
    assert not without_padding(model)
    assert model.config._attn_implementation == implementation
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
    assert torch.equal(states(model, *batch([9, 2, 5])), before)


def test_a_model_that_gives_other_states_when_packed_stays_as_it_was(monkeypatch):
    """A layer that looks at its neighbours, and packed ones are another text's."""
    model = tiny_bert()
    output = model.encoder.layer[0].output
    forward = output.forward
    monkeypatch.setattr(output, "forward", lambda states, given: forward(states.roll(1, dims=1), given))
    assert model.training and not without_padding(model)
    assert model.training and model.config._attn_implementation == "sdpa" and not model.encoder._forward_hooks


def test_a_model_is_changed_once_and_its_generators_not_at_all():
    model = tiny_bert(dropout=0.5).train()
    state = torch.random.get_rng_state()
    assert without_padding(model) and without_padding(model)
    assert len(model.encoder._forward_hooks) == 1 and model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_of_the_same_configuration_is_packed_or_not_by_itself():
    one, ids_and_mask = tiny_bert().eval(), tokens()
    other = type(one)(one.config).eval()
    other.load_state_dict(one.state_dict())
    expected = states(one, *ids_and_mask)
    assert without_padding(one) and other.config._attn_implementation == packing.PACKED
    shapes = seen_by(other.encoder.layer[0].attention.self.query)
    torch.testing.assert_close(states(other, *ids_and_mask), expected)
    assert without_padding(other)
    torch.testing.assert_close(states(other, *ids_and_mask), expected)
    assert [shape[:2] for shape in shapes if shape[1] != max(packing.PROBE)] == [
        (3, 4),
        (1, sum(packing.PROBE)),
        (1, 9),
    ]


def test_the_try_reads_different_tokens_and_layers_get_all_that_they_are_given():
    model, read = tiny_bert(), []
    model.embeddings.word_embeddings.register_forward_hook(lambda _, given, __: read.append(given[0].unique().numel()))
    assert without_padding(model)
    assert read == [21, 21]  # with and without padding
    ones = torch.ones(1, 3, 2)
    given, named = packing._pack(model, (ones, None, "more"), {"cache": None})
    assert given == ("more",) and named == {"hidden_states": ones, "attention_mask": None, "cache": None}


def test_dropout_of_attention_is_that_of_the_model():
    """Else training would drop nothing: two runs of the same input would agree."""
    model = tiny_bert(dropout=0.0).train()
    model.encoder.layer[0].attention.self.dropout.p = 0.5
    assert without_padding(model)
    ids, mask = tokens()
    assert not torch.equal(states(model, ids, mask), states(model, ids, mask))


def test_in_bf16_states_are_those_with_padding():
    """Autocast as on a card: what is spread out and packed again is bf16, what is added to it float32."""
    model, (ids, mask) = tiny_bert().eval(), tokens()
    assert without_padding(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = (states(each, ids, mask).float() for each in (model, tiny_bert().eval()))
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=0)


def test_attention_that_is_told_more_than_the_mask_is_refused():
    layout = Layout(torch.ones(1, 3, dtype=torch.bool), torch.arange(3))
    query = torch.ones(1, 1, 3, 2)
    attend = partial(
        packing._attention, torch.nn.Identity(), query, query, query, layout, is_causal=False, softcap=None
    )
    torch.testing.assert_close(attend()[0], torch.ones(1, 3, 1, 2))
    with pytest.raises(TypeError, match=r"nothing of position_bias$"):
        attend(position_bias=query)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_wrapped_classifier_has_the_logits_and_gradients_of_the_bare_one(checkpointing):
    ids, mask = tokens()
    bare = trained_encoder("mean", checkpointing).train()
    wrapped = wrap(copy.deepcopy(bare), QUIET.devices)
    shapes = seen_by(unwrap(wrapped).encoder.backbone.encoder.layer[0].attention.self.query)
    logits = [model(ids, mask) for model in (bare, wrapped)]
    torch.testing.assert_close(logits[1], logits[0])
    for each in logits:
        each.square().sum().backward()
    assert set(shapes) == {(1, 9, 12)} and len(shapes) == 1 + checkpointing
    one, other = ({name: each.grad for name, each in model.named_parameters()} for model in (bare, wrapped))
    assert all(gradient is not None or "pooler" in name for name, gradient in one.items())
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_replicas_pack_their_own_part_of_the_batch():
    model = wrap(trained_encoder(), QUIET.devices).eval()
    ids, mask = tokens()
    torch.testing.assert_close(Scattering(model, 2)(ids, mask), trained_encoder().eval()(ids, mask))


def test_packing_leaves_the_weights_and_the_configuration_that_are_saved_alone():
    bare = trained_encoder()
    wrapped = wrap(copy.deepcopy(bare), QUIET.devices)
    assert bare.state_dict().keys() == wrapped.state_dict().keys()
    assert bare.encoder.backbone.config.to_dict() == wrapped.encoder.backbone.config.to_dict()


def test_a_padded_copy_works_as_before_and_leaves_the_packed_one_as_it_is():
    model = tiny_bert().eval()
    assert without_padding(model)
    ids, mask = tokens()
    copied = packing.padded(model)
    for each, seen in ((copied, (3, 4)), (model, (1, 9))):
        shapes = seen_by(each.encoder.layer[0].attention.self.query)
        torch.testing.assert_close(states(each, ids, mask), states(tiny_bert().eval(), ids, mask))
        assert [shape[:2] for shape in shapes] == [seen]
    assert without_padding(copied) and len(copied.encoder._forward_hooks) == 1
    shapes = seen_by(copied.encoder.layer[0].attention.self.query)
    states(copied, ids, mask)
    assert [shape[:2] for shape in shapes] == [(1, 9)]
