"""The classifier of stage 3: a graph network over the taxonomy on one side, a document on the other, z = c' B d.

The graph and the class features are buffers, so the weights alone restore a model, and ``forward`` takes documents
only, so nothing else can be scattered by a data-parallel wrapper.

References
----------
Shen et al. (2021), TaxoClass: hierarchical multi-label text classification using only class names, section 3.3.
Kipf & Welling (2017), Semi-supervised classification with graph convolutional networks.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.taxoclass_settings import Gnn, Pooling, TrainClassifier
from taxoclass.packing import without_padding
from taxoclass.taxonomy import Taxonomy

# a product with a dense matrix is all that is asked of it
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

SHARPNESS = 15.0  # logit of an untrained model at cosine 1
NEARLY_ZERO = 1e-6  # norm below which a centred vector is rounding noise: its class has the mean name


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What has to be known, beside the weights, to build the same model again; plain enough for JSON.

    gnn : class encoder over each class's ego network, over the full graph, or without a graph.
    gnn_num_layers : convolutions; without a graph there are none.
    document_size : length D of a document vector.
    encoder : configuration of the trained transformer, or None where documents come as vectors.
    pooling, gradient_checkpointing : of the trained transformer.
    """

    document_size: int
    gnn: Gnn
    gnn_num_layers: int
    encoder: dict[str, Any] | None
    pooling: Pooling
    gradient_checkpointing: bool

    @classmethod
    def of(cls, settings: TrainClassifier, backbone: nn.Module) -> Architecture:
        """``backbone``: the document encoder, trained or not."""
        configuration: Any = backbone.config
        return cls(
            document_size=configuration.hidden_size,
            gnn=settings.gnn,
            gnn_num_layers=settings.gnn_num_layers,
            encoder=configuration.to_dict() if settings.encoder_trainable else None,
            pooling=settings.doc_pooling,
            gradient_checkpointing=settings.gradient_checkpointing,
        )

    def __post_init__(self) -> None:
        for name, choices in (("gnn", get_args(Gnn)), ("pooling", get_args(Pooling))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(choices)}")


@dataclass(frozen=True)
class Graph:
    """Nodes, each standing for a class, in networks that no edge crosses; every network is one class's.

    edge_index : (2, E) int64, from node to node, both directions, without self loops.
    node_class : (M,) int64, the class that a node stands for.
    network : (M,) int64, the class that a node's network belongs to.
    """

    edge_index: np.ndarray
    node_class: np.ndarray
    network: np.ndarray


def class_graph(taxonomy: Taxonomy, gnn: Gnn) -> Graph:
    """``ego``: of each class the network of itself, its parents and its children; ``full``: all classes as one graph.

    In the full graph the readout of a class is its own node; ``off`` is the full graph without its edges.
    """
    n = len(taxonomy)
    if gnn != "ego":
        edges = taxonomy.edges if gnn == "full" else np.empty((0, 2), dtype=np.int64)
        return Graph(_both_ways(edges), np.arange(n), np.arange(n))
    egos = [np.r_[row, taxonomy.parents[row], taxonomy.children[row]] for row in range(n)]
    starts = np.cumsum([0, *map(len, egos)])
    links = [_induced(taxonomy, ego) + start for ego, start in zip(egos, starts[:-1], strict=True)]
    network = np.repeat(np.arange(n), np.diff(starts))
    return Graph(_both_ways(np.concatenate(links)), np.concatenate(egos), network)


def _induced(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    """(E, 2) int64, the taxonomy's edges between ``nodes``, as positions in ``nodes``."""
    place = {int(node): position for position, node in enumerate(nodes)}
    pairs = [
        (place[node], place[child]) for node in place for child in taxonomy.children[node].tolist() if child in place
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _both_ways(edges: np.ndarray) -> np.ndarray:
    return np.concatenate([edges, edges[:, ::-1]]).T.astype(np.int64)


def class_features(vectors: np.ndarray) -> np.ndarray:
    """Vectors of class names, centred and L2-normalised: raw ones are nearly collinear.

    Parameters
    ----------
    vectors : (C, F) floating, one row a class.

    Returns
    -------
    (C, F) float32 with rows of norm 1; a row equal to the mean is 0. A single class is not centred: it would vanish.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    centred = vectors - vectors.mean(axis=0) if len(vectors) > 1 else vectors
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(norms > NEARLY_ZERO, centred / np.maximum(norms, NEARLY_ZERO), 0).astype(np.float32)


class DocumentEncoder(nn.Module):
    """A transformer that is trained: token ids and mask in, one vector a document out."""

    def __init__(self, backbone: nn.Module, pooling: Pooling, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        if gradient_checkpointing:
            transformer: Any = backbone
            transformer.config.use_cache = False  # a decoder's, and at odds with checkpoints
            transformer.activation_checkpointing_enable()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, L) int64 and (n, L) int64 of 0 and 1 -> (n, D)."""
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        weight = mask[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


class ClassEncoder(nn.Module):
    """c = x + LayerNorm(sum over the class's network of h), h <- LayerNorm(h + ReLU(sum over v of alpha_uv W h_v)).

    alpha_uv = 1 / sqrt(|N(u)| |N(v)|), u in N(u): torch-geometric's GCNConv, which is given alpha as a matrix. h starts
    as the features x. The norm of the readout starts with weight 0, so an untrained class vector is its name, and what
    the graph adds is learnt: at random it would drown the name in those of parents and children.
    """

    edge_index: Tensor
    node_class: Tensor
    network: Tensor
    features: Tensor
    starts: Tensor
    columns: Tensor
    alpha: Tensor

    def __init__(self, layers: int, features: Tensor, edge_index: Tensor, node_class: Tensor, network: Tensor) -> None:
        super().__init__()
        for name, value in (("edge_index", edge_index), ("node_class", node_class), ("network", network)):
            self.register_buffer(name, value)
        self.register_buffer("features", features)
        size = features.shape[1]
        self.convolutions = nn.ModuleList([_convolution(size) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(size) for _ in range(layers)])
        self.readout = nn.LayerNorm(size) if layers else None
        if self.readout is not None:
            nn.init.zeros_(self.readout.weight)
        # derived from edge_index, so not part of the weights; plain tensors, which any wrapper can copy
        derived = zip(("starts", "columns", "alpha"), _normalised(edge_index, len(node_class)), strict=True)
        for name, value in derived:
            self.register_buffer(name, value, persistent=False)

    def forward(self) -> Tensor:
        """(C, F): the vectors of all classes, of norm sqrt(F) as LayerNorm makes them."""
        names = self.features * math.sqrt(self.features.shape[1])
        if self.readout is None:
            return names
        # nodes of the same class start alike, so the first weights are applied to each class once
        states, into = names[self.node_class], (names, self._sparse(self.node_class[self.columns], len(names)))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            states = norm(states + functional.relu(convolution(*into)))
            into = (states, self._sparse(self.columns, len(states)))
        return names + self.readout(torch.zeros_like(names).index_add(0, self.network, states))

    def _sparse(self, columns: Tensor, width: int) -> Tensor:
        """(M, width) alpha, with those columns in place of its own."""
        size = (len(self.node_class), width)
        return torch.sparse_csr_tensor(self.starts, columns, self.alpha, size, check_invariants=False)


def _normalised(edge_index: Tensor, n_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """alpha of a graph with self loops as CSR: (M + 1,) int64, (E + M,) int64, (E + M,) float32."""
    loops = torch.arange(n_nodes, device=edge_index.device).expand(2, -1)
    rows, columns = torch.cat([edge_index, loops], dim=1)
    order = torch.argsort(rows * n_nodes + columns)
    rows, columns = rows[order], columns[order]
    degrees = torch.bincount(rows, minlength=n_nodes)
    starts = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    weight = degrees.float().rsqrt()
    return starts, columns, weight[rows] * weight[columns]


def _convolution(size: int) -> nn.Module:
    from torch_geometric.nn import GCNConv  # takes seconds to import, so only where there is a graph

    return GCNConv(size, size, normalize=False)


class Classifier(nn.Module):
    """Logits of documents against all classes: z = c' B d / sqrt(F) + b.

    Documents enter with norm 1. 1 / sqrt(F) as in attention: one step at a rate of 4e-3 then moves z by O(1) at
    any width. B starts as a multiple of the identity where names and documents share a space: the untrained model ranks
    by cosine, with probabilities of a usual spread. One b for all classes, starting at the log odds of one class in C:
    nearly every pair is negative, and a document vector of norm 1 has no constant part; one a class would undo the
    sharing between classes.
    """

    held: Tensor | None

    def __init__(self, architecture: Architecture, classes: ClassEncoder, encoder: DocumentEncoder | None) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes = classes
        self.encoder = encoder
        n_classes, size = classes.features.shape
        self.bilinear = nn.Parameter(SHARPNESS * _identity(size, architecture.document_size))
        self.bias = nn.Parameter(torch.tensor(-math.log(max(n_classes - 1, 1))))
        # a buffer, so that a data-parallel wrapper copies it whole to each device, with its gradient
        self.register_buffer("held", None, persistent=False)

    @property
    def n_classes(self) -> int:
        return self.classes.features.shape[0]

    def forward(self, documents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of (n, D) float document vectors, or of (n, L) int64 token ids with their (n, L) mask.

        Returns
        -------
        (n, C) in the precision of the weights, also under autocast.
        """
        if (mask is None) != (self.encoder is None):
            raise ValueError("a model with an encoder takes (ids, mask), one without takes (vectors)")
        vectors = documents if self.encoder is None or mask is None else self.encoder(documents, mask)
        with torch.autocast(vectors.device.type, enabled=False):
            unit = functional.normalize(vectors.to(self.bilinear.dtype), dim=1)
            directions = self.directions() if self.held is None else self.held
            return unit @ directions.T + self.bias

    def class_vectors(self) -> Tensor:
        """(C, F) in the precision of the weights, divided by sqrt(F)."""
        with torch.autocast(self.bilinear.device.type, enabled=False):
            return self.classes() / math.sqrt(self.bilinear.shape[0])

    def directions(self) -> Tensor:
        """(C, D): c' B, what documents are multiplied with."""
        with torch.autocast(self.bilinear.device.type, enabled=False):
            return self.class_vectors() @ self.bilinear

    @contextlib.contextmanager
    def class_vectors_once(self) -> Iterator[None]:
        """Compute c' B once for all calls inside; its gradient goes back through the graph at the end.

        An error inside leaves no gradient in B and the class encoder.
        """
        directions = self.directions()
        held = directions.detach().requires_grad_(directions.requires_grad)
        self.held = held
        try:
            yield
            if held.grad is not None:
                directions.backward(held.grad)
        finally:
            self.held = None


def _identity(rows: int, columns: int) -> Tensor:
    """Identity, or where it is not square orthonormal rows or columns, from torch's generator."""
    return torch.eye(rows) if rows == columns else nn.init.orthogonal_(torch.empty(rows, columns))


def build(
    taxonomy: Taxonomy,
    names: np.ndarray,
    architecture: Architecture,
    seed: int,
    backbone: nn.Module | None = None,
) -> Classifier:
    """A new model.

    Parameters
    ----------
    names : (C, F) floating, vectors of the class names in the taxonomy's order, as the encoder gives them.
    architecture : its ``encoder`` is the configuration of ``backbone``, None without one.
    backbone : a transformer to be trained (transformers' AutoModel), or None for documents as vectors.
    """
    if len(names) != len(taxonomy):
        raise ValueError(f"{len(names)} class vectors for a taxonomy of {len(taxonomy)} classes")
    graph = class_graph(taxonomy, architecture.gnn)
    buffers = [torch.from_numpy(class_features(names))]
    buffers += [torch.from_numpy(part) for part in (graph.edge_index, graph.node_class, graph.network)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assemble(architecture, buffers, backbone)


def restore(architecture: Architecture, weights: dict[str, Tensor]) -> Classifier:
    """The model whose ``state_dict`` these weights are; strict.

    Raises
    ------
    ValueError : the weights are not those of such a model.
    """
    try:
        buffers = [weights[f"classes.{name}"] for name in ("features", "edge_index", "node_class", "network")]
        backbone = None if architecture.encoder is None else _empty_backbone(architecture.encoder)
        with torch.random.fork_rng(devices=[]):
            model = _assemble(architecture, [buffer.clone() for buffer in buffers], backbone)
        model.load_state_dict(weights, strict=True)
    except (KeyError, RuntimeError, IndexError, AttributeError) as error:
        raise ValueError(f"weights do not fit the architecture ({' '.join(str(error).split())})") from None
    return model


def _assemble(architecture: Architecture, buffers: Sequence[Tensor], backbone: nn.Module | None) -> Classifier:
    if (backbone is None) != (architecture.encoder is None):
        raise ValueError("the architecture names an encoder's configuration exactly where there is an encoder")
    layers = 0 if architecture.gnn == "off" else architecture.gnn_num_layers
    classes = ClassEncoder(layers, *buffers)
    encoder = None
    if backbone is not None:
        encoder = DocumentEncoder(backbone, architecture.pooling, architecture.gradient_checkpointing)
    return Classifier(architecture, classes, encoder)


def _empty_backbone(configuration: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    settings = dict(configuration)
    return AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))


def wrap(model: Classifier, devices: Sequence[torch.device]) -> nn.Module:
    """The one place where a model is moved and wrapped: data-parallel on several devices, itself on one.

    A trained encoder works without padding from here on.
    """
    model = unwrap(model).to(devices[0])
    if model.encoder is not None:
        without_padding(model.encoder.backbone)
    return nn.DataParallel(model, device_ids=list(devices)) if len(devices) > 1 else model


def unwrap(model: nn.Module) -> Classifier:
    """The classifier inside any number of wrappers (data-parallel, compiled): attributes live there only."""
    inner: Any = model
    while not isinstance(inner, Classifier):
        inner = getattr(inner, "module", None) or getattr(inner, "_orig_mod", None)
        if inner is None:
            raise TypeError(f"{type(model).__name__} holds no Classifier")
    return inner
