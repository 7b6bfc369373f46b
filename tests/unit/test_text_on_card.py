"""Texts on a card: pytest -m gpu. The same answers as on the CPU, within the memory that was granted."""

from __future__ import annotations

import numpy as np
import pytest
import test_encoders
import torch

from common import device
from small_models import QUIET, close, learn, model_of, self_learn, tokens, trained_encoder, weights
from taxoclass.encoders import Encoder
from taxoclass.inference import TENSOR_CORES
from taxoclass.packing import without_padding
from taxoclass.scoring import NliScorer, PairScorer
from taxoclass.training import Machine

pytestmark = pytest.mark.gpu
TEXTS = [f"{word} " * count for count in (1, 3, 7, 12) for word in ("wave", "stone", "leaf")]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True, scope="module")
def card():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA card")


@pytest.fixture(scope="module", params=[("bert", None), ("roberta", test_encoders.LABELS)])
def model(request, tmp_path_factory):
    architecture, labels = request.param
    return test_encoders.save_model(tmp_path_factory.mktemp(architecture), architecture, labels), labels


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 4e-3)])
def test_similarities_are_those_of_the_cpu(model, half, tolerance):
    folder, labels = model
    expected = "fp16" if half and torch.cuda.get_device_capability() >= TENSOR_CORES else "fp32"

    def similarity(where: str) -> np.ndarray:
        if labels is None:
            encoder = Encoder.load(str(folder), where, max_length=32, mixed_precision=half)
            assert encoder.loaded.precision == (expected if where == "cuda" else "fp32")
            vectors = encoder.encode(TEXTS)
            return vectors @ vectors.T
        scorer = NliScorer.load(str(folder), where, 32, mixed_precision=half)
        assert scorer.loaded.precision == (expected if where == "cuda" else "fp32")
        return 1 / (1 + np.exp(-PairScorer(scorer, TEXTS, [["a wave"], ["a stone"]]).score_all()))

    assert np.abs(similarity("cuda") - similarity("cpu")).max() <= tolerance


def test_texts_beyond_the_range_of_fp16_are_read_again_in_fp32_on_a_card(tmp_path):
    folder = test_encoders.save_model(tmp_path, "bert")
    exact, half = (Encoder.load(str(folder), "cuda", 32, mixed_precision=False, warn=lambda _: None) for _ in range(2))
    for encoder in (exact, half):
        test_encoders.reaches(encoder.loaded, 6.7e4, "wave")
    half.loaded.precision = "fp16"
    texts = ["wave", *(f"{text} {number}" for number in range(100) for text in TEXTS)]
    assert np.abs(half.encode(texts, 64) - exact.encode(texts, 64)).max() < 1e-2
    assert half.tally.beyond > 0


def test_training_ends_near_the_weights_of_the_cpu(tmp_path):
    on_card = Machine([CUDA], predict_batch=16, mixed_precision=False, warn=QUIET.warn)
    models = [learn(tmp_path / str(number), machine=each)[0] for number, each in enumerate((QUIET, on_card))]
    close(*[{name: value.cpu() for name, value in weights(each).items()} for each in models], atol=1e-3)
    torch.manual_seed(0)
    models = [
        self_learn(tmp_path / f"s{number}", model_of(), machine=each)[0] for number, each in enumerate((QUIET, on_card))
    ]
    close(*[{name: value.cpu() for name, value in weights(each).items()} for each in models], atol=1e-3)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_texts_without_padding_have_the_states_of_padded_ones(half, tolerance):
    ids, mask = (part.to(CUDA) for part in tokens())
    models = [trained_encoder("mean").encoder.backbone.eval().to(CUDA) for _ in range(2)]
    assert without_padding(models[1])
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=half):
        states = [model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()] for model in models]
    torch.testing.assert_close(states[1].float(), states[0].float(), atol=tolerance, rtol=0)


def test_a_share_of_the_card_is_not_exceeded_and_what_does_not_fit_is_halved(model):
    folder, labels = model
    if labels is not None:
        pytest.skip("the same code for both")
    texts = ["wave stone leaf " * 9] * 20_000
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    expected = Encoder.load(str(folder), "cuda", max_length=32).encode(texts, 2**12)
    granted = 2**27
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    [card, *_] = device._torch_cards()
    torch.cuda.set_per_process_memory_fraction(granted / card.memory)
    try:
        told: list[str] = []
        encoder = Encoder.load(str(folder), "cuda", max_length=32, warn=told.append)
        found = encoder.encode(texts, 2**22)
        assert encoder.tally.halvings > 0 and "token budget halved" in told[0]
        assert torch.cuda.max_memory_reserved() <= granted
        assert np.abs(found - expected).max() < 1e-2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
