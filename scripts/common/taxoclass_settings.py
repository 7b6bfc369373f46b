"""The settings of TaxoClass: one typed model a stage, and the machine's."""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

import Stemmer
from pydantic import AfterValidator, Field, field_validator, model_validator

from common.settings import OnDevice, Percent, Positive, Seeded, Settings, Share, without

FIELDS = ("class_name", "path", "description")


def _fillable(template: str) -> str:
    """A template has fields of a class, at least one, and no others."""
    known = ", ".join(f"{{{field}}}" for field in FIELDS)
    try:
        found = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        if set(found) <= set(FIELDS):
            template.format(**dict.fromkeys(FIELDS, ""))
    except ValueError as error:
        raise ValueError(f"{template!r} has a brace that names no field ({error}); its fields are {known}") from None
    if not found:
        raise ValueError(f"{template!r} reads alike for all classes; use {known}")
    if set(found) - set(FIELDS):
        raise ValueError(f"{template!r} has a field {{{min(set(found) - set(FIELDS))}}}; its fields are {known}")
    return template


Names = Literal["best", "mean"]
NliScore = Literal["three_way", "entail_vs_contra"]
Pooling = Literal["mean", "cls"]
Gnn = Literal["ego", "full", "off"]
Target = Literal["soft", "hard", "paper"]
Method = Literal["expected_f1", "path", "topk", "threshold", "topdown", "beam", "prune"]
Template = Annotated[str, Field(min_length=1), AfterValidator(_fillable)]
MINILM = "all-MiniLM-L6-v2"
TEMPLATES = ["{class_name}", "{path}", "This text is about {class_name}.", "a document about {class_name}"]


class CandidateSelection(Settings):
    """How many classes a document is compared with on the way down; level 0 is a virtual root above the roots."""

    candidate_selection_quota: int = Field(
        2, ge=1, description="a: at level l each class offers its l + a most similar children"
    )
    candidate_selection_cap: int = Field(1, ge=0, description="b: the (l + b) ^ power best of them go on, all at l = 0")
    candidate_selection_power: float = Field(2.0, ge=0, description="power of that")


class NameWords(Settings):
    """Words of class names in the texts, beside what vectors or an entailment model say."""

    word_weight: float = Field(
        2.0,
        ge=0,
        description="logit of a class whose name a text says in full, beside the scores (mining: posterior; decode: "
        "expected_f1); 0 = words are not looked at",
    )
    word_language: str | None = Field(
        "english", min_length=1, description="Snowball stemmer of these words; null = words as they are"
    )

    @field_validator("word_language")
    @classmethod
    def _has_a_stemmer(cls, value: str | None) -> str | None:
        known = sorted(Stemmer.algorithms())
        if value is not None and value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}; null = words are compared as they are")
        return value


class LevelWeights(Settings):
    level_weights: list[Positive] | None = Field(
        None,
        min_length=1,
        description="weight of each level in the mean along a path, from the roots down, the last one for all below; "
        "[1] = equal; null = estimated from the scores, without labels",
    )


class Precision(Settings):
    mixed_precision: bool = Field(
        True,
        description="half precision on a GPU that has it: fp16, for an encoder that is trained bf16; "
        "false = fp32, as on a CPU",
    )


class CheckCorpus(Settings):
    """Reading and checking the corpora and the taxonomy."""

    text_field: str = Field("text", min_length=1, description="name of the field or column that holds the text")
    train_split: str | None = Field(
        None,
        min_length=1,
        description="only documents of train_corpus with this value in their field split; null = all",
    )
    test_split: str | None = Field(None, min_length=1, description="the same of test_corpus")


class Similarity(CandidateSelection, Seeded, Precision):
    """Document-class similarity."""

    backend: Literal["embedding", "nli"] = Field(
        "embedding", description="cosine of sentence vectors, or the entailment probability of an NLI model"
    )
    similarity_model: str = Field(
        MINILM, min_length=1, description=f"{MINILM} (from its package), a model folder, or a hub name"
    )
    hypothesis_template: Template | list[Template] | None = Field(
        None,
        min_length=1,
        description="text that stands for a class, with {class_name}, {path} or {description}; of several the mean "
        "vector (embedding), or see class_names (nli); null = four of them, or 'This document is about {class_name}.'",
    )
    class_names: Names = Field("best", description="score of a class with several names or hypotheses")
    nli_score: NliScore = Field(
        "three_way", description="softmax over all labels, or sigmoid of entailment minus contradiction"
    )
    candidates: Literal["all", "topdown", "paths"] = Field(
        "all",
        description="classes scored a document: all, those that candidate selection asks for, or those on the "
        "best paths of a sentence encoder (topdown and paths: backend nli)",
    )
    candidate_paths: int = Field(20, ge=1, description="paths a document (candidates: paths)")
    prefilter_model: str = Field(MINILM, min_length=1, description="sentence encoder of candidates: paths")
    similarity_max_length: int = Field(256, ge=8, description="tokens of a document that the model reads")
    similarity_chunks: int = Field(1, ge=1, description="windows of that length read of a long document (embedding)")
    neighbours: int = Field(
        10, ge=0, description="nearest documents that mining: posterior averages over; 0 = none (sentence encoder)"
    )
    clusterings: int = Field(
        10,
        ge=0,
        description="ways to cluster the documents, for mining: posterior where classes have hundreds of them; "
        "0 = none (sentence encoder)",
    )
    batch_tokens: int | None = Field(
        None,
        ge=64,
        description="tokens run at once, halved by itself when memory runs out; null = 8,192, on a GPU 65,536",
    )

    @model_validator(mode="after")
    def _pairs_are_chosen_for_nli_only(self) -> Similarity:
        if self.backend == "embedding" and self.candidates != "all":
            raise ValueError(
                f"candidates = {self.candidates!r} needs backend = 'nli'; embedding scores all pairs at once"
            )
        return self

    def templates(self, described: bool) -> list[str]:
        """Those of the config, or the default; ``described``: whether classes have descriptions."""
        given = self.hypothesis_template
        if given is not None:
            return [given] if isinstance(given, str) else given
        if self.backend == "nli":
            return ["This document is about {class_name}."]
        return [*TEMPLATES, *(["{class_name}: {description}"] if described else [])]

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what the chosen backend and candidates do not read: it must not score everything again."""
        no_vectors = settings["backend"] == "nli" and settings["candidates"] != "paths"
        unread = {
            *(() if settings["candidates"] == "topdown" else CandidateSelection.model_fields),
            *(() if settings["candidates"] == "paths" else ("candidate_paths", "prefilter_model")),
            *(("nli_score",) if settings["backend"] == "embedding" else ("similarity_chunks",)),
            *(("neighbours", "clusterings") if no_vectors else ()),
            *(("random_seed",) if no_vectors or not settings["clusterings"] else ()),
        }
        return without(settings, unread)


class CoreClasses(CandidateSelection, LevelWeights, NameWords):
    """Core classes, the labels that stage 3 learns from."""

    mining: Literal["posterior", "path_margin", "taxoclass"] = Field(
        "posterior",
        description="the surest documents of each class after a look at the whole corpus, those whose best path "
        "wins most clearly, or candidates with confidence (paper)",
    )
    core_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the documents that get a core class (posterior: of each class; path_margin); null = "
        "half, and more where clusters of documents count (posterior)",
    )
    confidence_threshold_percentile: Percent = Field(
        50.0, description="a core class's confidence is above this percentile of its class (taxoclass)"
    )
    require_positive: bool = Field(True, description="and above 0 (taxoclass)")
    min_conf: float | None = Field(
        None, description="and at least this, of cosines half of it; null = no floor (taxoclass)"
    )

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what the chosen way of mining does not read."""
        read = {
            "posterior": ("core_share", "word_weight", *(("word_language",) if settings["word_weight"] else ())),
            "path_margin": ("core_share", "level_weights"),
            "taxoclass": (
                *CandidateSelection.model_fields,
                *("confidence_threshold_percentile", "require_positive", "min_conf"),
            ),
        }[settings["mining"]]
        kept = {"mining", *read}
        return {key: value for key, value in settings.items() if key in kept}


class Optimiser(Seeded, Precision):
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="documents in memory at once, halved by itself when memory runs out (trained encoder); "
        "null = 16, on a GPU all of a step",
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW; biases and norms have none")
    warmup: Share = Field(0.06, description="share of the steps in which the learning rates rise from 0")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="of the documents with core classes; picks the best epoch, guards self-training"
    )
    nonfinite_steps: int = Field(5, ge=1, description="steps in a row with non-finite gradients that end the run")

    def shared(self, batch_size: int, trainable: bool) -> dict[str, Any]:
        """As fields of ``taxoclass.training.Optimisation``; a batch of vectors of a fixed encoder always fits."""
        names = ("weight_decay", "warmup", "clip", "validation_share", "nonfinite_steps")
        batches = {"batch_size": batch_size, "micro_batch": self.micro_batch if trainable else batch_size}
        return {name: getattr(self, name) for name in names} | batches | {"seed": self.random_seed}


class TrainClassifier(Optimiser):
    """The classifier, learnt from core classes."""

    doc_encoder_model: str = Field(MINILM, min_length=1, description="document encoder: names as similarity_model")
    encoder_trainable: bool = Field(
        False, description="train the document encoder too; false = fixed document vectors, an epoch takes seconds"
    )
    doc_max_length: int = Field(256, ge=8, description="tokens of a document that the encoder reads")
    doc_chunks: int = Field(1, ge=1, description="windows of that length read of a long document (fixed encoder)")
    doc_pooling: Pooling = Field("mean", description="document vector: mean of its tokens, or the [CLS] token")
    class_template: Template = Field(
        "{class_name}",
        description="text whose vector stands for a class, with {class_name}, {path} or {description}",
    )
    gnn: Gnn = Field(
        "ego", description="graph network over each class's parents and children, over the whole taxonomy, or none"
    )
    gnn_num_layers: int = Field(2, ge=1, le=16, description="its layers")
    epochs: int = Field(5, ge=1, description="passes over the documents with core classes; the best one is kept")
    min_steps: int = Field(
        200, ge=0, description="more passes for a small corpus, until the steps are at least as many"
    )
    batch_size: int = Field(64, ge=1, description="documents a step, whatever fits in memory at once")
    encoder_lr: float = Field(5e-5, gt=0, description="learning rate of a trained encoder")
    head_lr: float = Field(1e-3, gt=0, description="learning rate of all else")
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time (trained encoder)")

    @field_validator("gnn", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: Any) -> Any:
        """YAML reads off and no as false."""
        return "off" if value is False else value

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what a model without a graph, or with a fixed encoder, does not read."""
        of_a_trained_one = ("encoder_lr", "gradient_checkpointing", "micro_batch")
        unread = {
            *(("gnn_num_layers",) if settings["gnn"] == "off" else ()),
            *(("doc_chunks",) if settings["encoder_trainable"] else of_a_trained_one),
        }
        return without(settings, unread)

    @model_validator(mode="after")
    def _windows_are_for_fixed_encoders(self) -> TrainClassifier:
        if self.encoder_trainable and self.doc_chunks > 1:
            raise ValueError(f"doc_chunks = {self.doc_chunks} needs encoder_trainable = false")
        return self


class SelfTrain(Optimiser):
    """One iteration of self-training."""

    self_train_epochs: int = Field(3, ge=1, description="passes over all documents in one iteration")
    self_train_batch_size: int = Field(256, ge=1, description="documents a step, whatever fits in memory at once")
    self_train_lr: float = Field(1e-6, gt=0, description="learning rate of a trained encoder")
    self_train_head_lr: float = Field(5e-4, gt=0, description="learning rate of all else")
    self_train_temperature: float = Field(2.0, gt=0, description="tau of logit(q) = tau z + log g - log f")
    self_train_threshold: float = Field(
        0.8, ge=0.5, le=1, description="targets count where q is at least this, or at most 1 minus this; 0.5 = all"
    )
    self_train_target: Target = Field(
        "soft", description="q and the Bernoulli KL, q rounded, or the printed one-sided loss, which only pushes up"
    )
    self_train_refresh: int = Field(0, ge=0, description="steps after which q is made anew; 0 = once an iteration")
    self_train_stop: Share = Field(
        0.005,
        description="an iteration that changes the best path of a smaller share of documents is the last to train",
    )

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what a fixed encoder leaves unread; only a whole config says that it is fixed."""
        fixed = not settings.get("encoder_trainable", True)
        return without(settings, ("self_train_lr", "micro_batch")) if fixed else settings


class Predict(LevelWeights, NameWords):
    """Prediction and decoding."""

    # no ``relevant``: the model that is handed out keeps all of them, for who labels other texts in another way

    decode: Method = Field(
        "expected_f1",
        description="how probabilities become labels; expected_f1: those of a softmax over the leaves, summed upwards, "
        "into the set of the highest expected Example-F1; all others: a sigmoid a class",
    )
    decode_k: int = Field(3, ge=1, description="labels a document, before their parents are added (topk)")
    decode_threshold: float = Field(0.5, ge=0, le=1, description="least probability of a label (threshold, prune)")
    decode_stop: Share = Field(0.0, description="topdown goes on while a child has at least this probability")
    predict_neighbours: int = Field(
        10,
        ge=0,
        description="probabilities of documents that are labelled together are averaged with those of so many nearest "
        "ones, the more the more documents a class has (expected_f1, fixed encoder); 0 = each by itself",
    )
    beam_width: int = Field(4, ge=1, description="chains kept a level (beam)")
    marginal: float | None = Field(
        None,
        ge=0,
        le=1,
        description="path: add further paths while their new classes have a mean probability above this; null = one",
    )
    min_labels: int = Field(1, ge=0, description="least labels a document")
    max_labels: int | None = Field(None, ge=1, description="most labels a document; null = no limit")
    consistent: bool = Field(True, description="every label below a root comes with a parent")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Predict:
        if self.max_labels is not None and self.min_labels > self.max_labels:
            raise ValueError(f"min_labels = {self.min_labels} must be at most max_labels = {self.max_labels}")
        return self


class Evaluate(Seeded):
    """Comparison with gold labels."""

    metric_ks: list[Annotated[int, Field(ge=1)]] = Field([1, 3, 5], min_length=1, description="k of P@k and nDCG@k")
    bootstrap_resamples: int = Field(1000, ge=0, description="resamples of the 95 % intervals; 0 = none")

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without the seed where nothing is drawn."""
        return settings if settings["bootstrap_resamples"] else without(settings, ("random_seed",))


class Files(Settings):
    """What the user gives."""

    classes_file: str | None = Field(
        None,
        min_length=1,
        description="id TAB name (several: with vertical bars between them); null only with a nested hierarchy_file",
    )
    hierarchy_file: str = Field(min_length=1, description="parent id TAB child id, or nested YAML or JSON")
    keywords_file: str | None = Field(None, min_length=1, description="id TAB keywords or description of the class")
    train_corpus: str = Field(min_length=1, description="documents: TSV, CSV, JSONL or Parquet, plain or gzip")
    test_corpus: str | None = Field(
        None,
        min_length=1,
        description="the documents to label, unlabelled text like the others; null = label those of train_corpus",
    )
    gold_labels: str | None = Field(
        None, min_length=1, description="document id TAB class ids with commas; read by evaluate and by nothing else"
    )


class Given(Files):
    self_train_iterations: int = Field(3, ge=0, description="iterations of self-training, each a rule of its own")


class TaxoclassRuntime(OnDevice):
    """How a run uses the machine; none of these is a reason to run a stage again."""

    similarity_shards: int = Field(
        1, ge=1, description="jobs that the comparison of documents and classes is cut into, by documents"
    )
    local_files_only: bool = Field(True, description="never download a model")
    loggers: list[Literal["tensorboard", "wandb"]] = Field(
        [], description="metrics go there too, beside the JSON lines that are always written"
    )


class Taxoclass(
    Given, CheckCorpus, Similarity, CoreClasses, TrainClassifier, SelfTrain, Predict, Evaluate, TaxoclassRuntime
):
    """Hierarchical text classification from class names."""
