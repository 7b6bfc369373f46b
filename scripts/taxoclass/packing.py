"""Texts of unequal length through a transformer without padding: every layer works on the tokens alone.

The layers of an encoder treat each token by itself, but for attention. So the states of a batch are packed, (1, T, d)
in the place of (n, L, d), and are spread out again only for the attention itself, a small part of the work. Of the
texts of a training step, whose lengths are random, a fifth to a half of the padded batch is padding.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PACKED = "packed_sdpa"
STACKS = ("encoder", "transformer")  # where a model of transformers keeps its layers
PROBE = (7, 1, 4)  # tokens of three texts
SAME = 1e-4  # of the largest state, in float32


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a padded batch are. mask : (n, L) bool; place : (T,) int64, in its rows laid end to end."""

    mask: Tensor
    place: Tensor

    def pack(self, padded: Tensor) -> Tensor:
        """(n, L, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def spread(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (n, L, ...), 0 where padding is."""
        empty = packed.new_zeros(self.mask.numel(), *packed.shape[1:])
        return empty.index_copy(0, self.place, packed).unflatten(0, self.mask.shape)


def without_padding(backbone: Any) -> bool:
    """Let the layers of an encoder (transformers' AutoModel) see no padding, with the same states; False: as it was.

    So it stays where attention is not all that ties tokens together, or where it is told more than the mask, such as
    relative positions: a try with three short texts tells. A model is changed once, however often it is given.
    """
    stack = next((getattr(backbone, name) for name in STACKS if hasattr(backbone, name)), None)
    before = backbone.config._attn_implementation
    if stack is None or before not in ("sdpa", PACKED) or not backbone._can_set_attn_implementation():
        return False
    if _pack in stack._forward_pre_hooks.values():
        backbone.set_attn_implementation(PACKED)
        return True
    hooks: list[Any] = []
    try:
        with _evaluating(backbone):
            expected = _probe(backbone)
            backbone.set_attn_implementation(PACKED)
            hooks.append(stack.register_forward_pre_hook(_pack, with_kwargs=True))
            hooks.append(stack.register_forward_hook(_spread, with_kwargs=True))
            difference = (_probe(backbone) - expected).abs().max()
        same = bool(difference <= SAME * expected.abs().max())
    except (RuntimeError, TypeError, AttributeError, ValueError, LookupError):  # not made for packed states
        same = False
    if not same:
        backbone.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    return same


def padded(backbone: Any) -> Any:
    """A copy that works on padded texts again, for one who has to see through it (ONNX)."""
    copied = copy.deepcopy(backbone)
    if copied.config._attn_implementation == PACKED:
        copied.set_attn_implementation("sdpa")
    return copied


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _probe(backbone: Any) -> Tensor:
    """The states of the tokens of three texts, (T, d)."""
    lengths = torch.tensor(PROBE)
    mask = torch.arange(max(PROBE)) < lengths[:, None]
    ids = torch.arange(mask.numel()).reshape(mask.shape) % backbone.config.vocab_size
    states = backbone(input_ids=ids.to(backbone.device), attention_mask=mask.long().to(backbone.device))
    return states.last_hidden_state[mask.to(backbone.device)]


# ---- what transformers calls


def _pack(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before the layers: their states packed, and the layout in the place of the mask, which they only hand on."""
    named = dict(zip(("hidden_states", "attention_mask"), given, strict=False)) | named
    mask = named["attention_mask"]
    if mask is not None and mask.ndim == 2:  # with another attention it has four
        layout = Layout(mask, mask.flatten().nonzero()[:, 0])
        full = len(layout.place) == mask.numel()
        states = named["hidden_states"] if full else layout.pack(named["hidden_states"])[None]
        named |= {"hidden_states": states, "attention_mask": None if full else layout}
    return given[2:], named


def _spread(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """After them: padded, as the rest of the model knows it."""
    layout = named["attention_mask"]
    if isinstance(layout, Layout):
        output.last_hidden_state = layout.spread(output.last_hidden_state[0])
    return output


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Layout | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Three of (1, h, T, s) -> (1, T, h, s); without a layout, but for the form of the mask, transformers' own.

    A configuration may belong to several models, of which some are packed.
    """
    if not isinstance(attention_mask, Layout):
        mask = None if attention_mask is None else attention_mask[:, None, None]
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **more)
    told = [name for name, each in more.items() if each is not None and each is not False]
    if told:
        raise TypeError(f"packed attention knows nothing of {', '.join(told)}")
    query, key, value = (attention_mask.spread(each[0].transpose(0, 1)).transpose(1, 2) for each in (query, key, value))
    mask = attention_mask.mask[:, None, None]
    found = functional.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    return attention_mask.pack(found.transpose(1, 2))[None], None


def _mask(*, attention_mask: Tensor | None, **_: Any) -> Tensor | None:
    """(n, L) bool, as it was given."""
    return attention_mask


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, _mask)
