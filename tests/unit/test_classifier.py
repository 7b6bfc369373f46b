"""The classifier: its graph is the printed one, its logits are c' B d, and the weights alone bring it back."""

import copy
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from random_taxonomies import taxonomy
from small_models import (
    SIZE,
    Scattering,
    architecture,
    model_of,
    names,
    tiny_bert,
    tokens,
    toy,
    trained_encoder,
    vectors,
)
from taxoclass import classifier
from taxoclass.classifier import Architecture, build, class_features, class_graph, restore, unwrap, wrap

# ---- features and graph


def test_class_features_have_norm_one_and_mean_zero_before_it():
    raw = names(toy())
    features = class_features(raw)
    centred = raw - raw.mean(axis=0)
    np.testing.assert_allclose(features, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-6)
    assert features.dtype == np.float32


def test_centring_makes_nearly_collinear_names_tell_apart():
    raw = names(toy()) * 0.01 + 5
    cosine = raw @ raw.T / np.outer(*[np.linalg.norm(raw, axis=1)] * 2)
    features = class_features(raw)
    assert cosine.min() > 0.999
    assert np.abs(features @ features.T - np.eye(len(raw))).max() < 0.9


def test_a_single_class_and_a_class_with_the_mean_name_have_no_nan():
    assert np.isclose(np.linalg.norm(class_features(np.array([[3.0, 4.0]]))), 1)
    equal = class_features(np.ones((3, 4)))
    assert (equal == 0).all()


def test_the_ego_network_of_a_class_is_itself_its_parents_and_its_children():
    graph = class_graph(toy(), "ego")
    members = [set(graph.node_class[graph.network == row].tolist()) for row in range(6)]
    assert members == [{0, 2, 3}, {1, 5}, {0, 2, 4}, {0, 3, 4}, {2, 3, 4, 5}, {1, 4, 5}]


@pytest.mark.parametrize("gnn", ["ego", "full", "off"])
def test_edges_stay_inside_a_network_go_both_ways_and_are_edges_of_the_taxonomy(gnn):
    graph, known = class_graph(toy(), gnn), {tuple(edge) for edge in toy().edges.tolist()}
    source, target = graph.edge_index
    pairs = set(zip(source.tolist(), target.tolist(), strict=True))
    assert pairs == {(b, a) for a, b in pairs}
    if gnn == "ego":
        assert (graph.network[source] == graph.network[target]).all()
    linked = {(graph.node_class[a], graph.node_class[b]) for a, b in pairs}
    assert linked == ({pair for edge in known for pair in (edge, edge[::-1])} if gnn != "off" else set())


@pytest.mark.parametrize("gnn", ["ego", "full"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_class_vectors_are_those_of_the_printed_formula(gnn, layers):
    model = model_of(gnn, layers, learnt=True).double()
    taxonomy, state = toy(), model.state_dict()
    found = model.class_vectors().detach().numpy()
    if gnn == "ego":
        networks = [[row, *taxonomy.parents[row], *taxonomy.children[row]] for row in range(6)]
    else:
        networks = [list(range(6))] * 6
    edges = {tuple(edge) for edge in taxonomy.edges.tolist()}
    x = state["classes.features"].numpy() * math.sqrt(SIZE)
    for row, network in enumerate(networks):
        neighbours = [[v for v in network if u == v or (u, v) in edges or (v, u) in edges] for u in network]
        h = x[network]
        for layer in range(layers):
            w, b = (state[f"classes.convolutions.{layer}.{name}"].numpy() for name in ("lin.weight", "bias"))
            gamma, beta = (state[f"classes.norms.{layer}.{name}"].numpy() for name in ("weight", "bias"))
            passed = np.zeros_like(h)
            for u, around in enumerate(neighbours):
                for v in around:
                    alpha = 1 / math.sqrt(len(around) * len(neighbours[network.index(v)]))
                    passed[u] += alpha * (w @ h[network.index(v)])
            h = normed(h + np.maximum(passed + b, 0)) * gamma + beta
        total = h.sum(axis=0) if gnn == "ego" else h[row]
        np.testing.assert_allclose(found[row], (x[row] + normed(total)) / math.sqrt(SIZE), atol=1e-6)


def normed(h: np.ndarray) -> np.ndarray:
    centred = h - h.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


# ---- logits


def test_a_logit_is_c_b_d_with_documents_of_norm_one():
    model, documents = model_of(), vectors(4)
    unit = documents / documents.norm(dim=1, keepdim=True)
    expected = [[c @ model.bilinear @ d + model.bias for c in model.class_vectors()] for d in unit]
    torch.testing.assert_close(model(documents), torch.stack([torch.stack(row) for row in expected]))
    assert model(documents).shape == (4, 6)


def test_logits_reach_both_sides_of_zero():
    """The paper's sigma(exp(.)) cannot go below one half."""
    z = model_of()(vectors(200))
    assert (z < 0).any() and (z > 0).any()


@pytest.mark.parametrize("gnn", ["ego", "full", "off"])
def test_the_untrained_model_ranks_by_cosine(gnn):
    model, documents = model_of(gnn, learnt=False), vectors(50)
    cosine = nn.functional.normalize(documents, dim=1) @ torch.from_numpy(class_features(names(toy()))).T
    assert torch.equal(model(documents).argsort(dim=1), cosine.argsort(dim=1))


def test_names_and_documents_may_have_different_sizes():
    model = build(toy(), names(toy(), size=7), architecture(), seed=0)
    assert model(vectors(3)).shape == (3, 6)


def test_the_seed_decides_the_model_and_torchs_generator_is_left_alone():
    torch.manual_seed(5)
    first, drawn = model_of(seed=1).state_dict(), torch.rand(3)
    torch.manual_seed(5)
    again, undrawn = model_of(seed=1).state_dict(), torch.rand(3)
    other = model_of(seed=2).state_dict()
    assert torch.equal(drawn, undrawn)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classes.convolutions.0.lin.weight"], other["classes.convolutions.0.lin.weight"])


def test_under_autocast_logits_keep_the_precision_of_the_weights():
    model, documents = trained_encoder(), tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(*documents).dtype == torch.float32


def test_one_class_and_one_document_have_a_logit():
    model = build(taxonomy(1, []), np.ones((1, SIZE)), architecture(), seed=0)
    assert torch.isfinite(model(vectors(1))).all()


def test_a_class_count_that_differs_from_the_taxonomy_is_refused():
    with pytest.raises(ValueError, match="5 class vectors for a taxonomy of 6 classes"):
        build(toy(), names(toy())[:5], architecture(), seed=0)


def test_an_unknown_switch_is_refused():
    with pytest.raises(ValueError, match="gnn = 'egos' is not one of ego, full, off"):
        architecture(gnn="egos")


# ---- trained encoder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_a_document(pooling):
    model = trained_encoder(pooling).eval()
    ids, mask = tokens()
    together = model(ids, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_pooling_is_the_first_state_or_the_mean_over_the_mask():
    ids, mask = tokens()
    states = tiny_bert().eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(trained_encoder("cls").eval().encoder(ids, mask), states[:, 0])
    means = torch.stack([state[: int(n)].mean(0) for state, n in zip(states, mask.sum(1), strict=True)])
    torch.testing.assert_close(trained_encoder("mean").eval().encoder(ids, mask), means)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = trained_encoder(checkpointing=checkpointing)
        assert model.encoder.backbone.is_activation_checkpointing == checkpointing
        model.train()(*tokens()).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_vectors_for_a_model_with_an_encoder_and_ids_for_one_without_are_refused():
    with pytest.raises(ValueError, match="takes"):
        trained_encoder()(vectors(2))
    with pytest.raises(ValueError, match="takes"):
        model_of()(*tokens())


# ---- the graph travels in the weights


@pytest.mark.parametrize("gnn", ["ego", "full", "off"])
def test_the_weights_alone_restore_the_model(gnn):
    model = model_of(gnn)
    again = restore(model.architecture, {name: value.clone() for name, value in model.state_dict().items()}).eval()
    assert torch.equal(again(vectors(5)), model(vectors(5)))
    assert {"classes.edge_index", "classes.features", "classes.network"} <= set(model.state_dict())


def test_the_weights_alone_restore_a_trained_encoder():
    model = trained_encoder().eval()
    again = restore(Architecture(**asdict(model.architecture)), model.state_dict()).eval()
    assert torch.equal(again(*tokens()), model(*tokens()))


@pytest.mark.parametrize("fault", ["missing", "surplus", "shape", "no graph"])
def test_weights_that_do_not_fit_are_refused(fault):
    model = model_of()
    weights = dict(model.state_dict())
    if fault == "missing":
        del weights["bilinear"]
    elif fault == "surplus":
        weights["other"] = torch.ones(1)
    elif fault == "shape":
        weights["bilinear"] = torch.ones(3, 3)
    else:
        del weights["classes.edge_index"]
    with pytest.raises(ValueError, match="do not fit"):
        restore(model.architecture, weights)


# ---- data parallel


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_scattering_wrapper_changes_neither_logits_nor_gradients(n):
    """A graph as an input would be cut along dim 0; held class vectors that are no buffer would lose their gradient."""
    documents, plain, wrapped = vectors(6), model_of(), model_of()
    outer = Scattering(wrapped, n)
    for model, called in ((plain, plain), (wrapped, outer)):
        with model.class_vectors_once():
            called(documents).square().sum().backward()
    torch.testing.assert_close(outer(documents), plain(documents))
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    for name, parameter in wrapped.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_a_scattering_wrapper_takes_ids_and_mask_of_a_trained_encoder():
    model = trained_encoder().eval()
    torch.testing.assert_close(Scattering(model)(*tokens()), model(*tokens()))


def test_unwrap_finds_the_classifier_inside_any_wrappers():
    model = model_of()
    assert unwrap(model) is model
    assert unwrap(nn.DataParallel(Scattering(model))) is model
    with pytest.raises(AttributeError):
        _ = Scattering(model).architecture  # why unwrap exists
    with pytest.raises(TypeError, match="Linear holds no Classifier"):
        unwrap(nn.Linear(1, 1))


def test_wrapping_twice_wraps_once(monkeypatch):
    monkeypatch.setattr(classifier.nn, "DataParallel", lambda model, device_ids: Scattering(model, len(device_ids)))
    cpu, model = torch.device("cpu"), model_of()
    assert wrap(model, [cpu]) is model
    assert wrap(wrap(model, [cpu, cpu]), [cpu, cpu]).module is model


# ---- class vectors once


def test_held_class_vectors_give_the_same_gradients_and_are_computed_once():
    documents = vectors(6)
    plain, held = model_of(), model_of()
    plain(documents).square().sum().backward()
    calls = []
    held.classes.register_forward_hook(lambda *_: calls.append(1))
    with held.class_vectors_once():
        for part in documents.split(2):
            held(part).square().sum().backward()
    assert len(calls) == 1
    for (name, expected), (_, found) in zip(plain.named_parameters(), held.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_after_an_error_inside_the_class_vectors_are_let_go_and_no_gradient_is_left():
    model = model_of()
    with pytest.raises(ZeroDivisionError), model.class_vectors_once():
        model(vectors(2)).sum().backward()
        raise ZeroDivisionError
    assert model.held is None
    assert all(parameter.grad is None for parameter in model.classes.parameters())


def test_held_class_vectors_are_not_part_of_the_weights():
    model = model_of()
    with model.class_vectors_once():
        assert "held" not in model.state_dict()
    assert copy.deepcopy(model).held is None
