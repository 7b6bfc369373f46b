"""Similarity of documents and classes from class texts alone: entailment (NLI) or cosine of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from transformers import AutoModelForSequenceClassification

from common import files
from common.errors import UserError
from common.progress import Progress, unseen
from common.taxoclass_settings import Names, NliScore
from taxoclass.decoding import Chains
from taxoclass.encoders import Encoder, content_keys, distinct, piece, unit
from taxoclass.inference import Cost, Loaded, Tally, Warn, forward_flops, load
from taxoclass.taxonomy import Taxonomy

PART = {"cpu": 1024, "cuda": 65_536}
BLOCK = 4096


# ---- class texts


def label_texts(taxonomy: Taxonomy, template: str) -> tuple[tuple[str, ...], ...]:
    """Of each class the template, one that the settings accept, filled in once a name, without repeats.

    Raises
    ------
    UserError : a class is left without a text.
    """
    texts = tuple(tuple(dict.fromkeys(_filled(taxonomy, row, template))) for row in range(len(taxonomy)))
    if ("",) in texts:
        raise UserError(
            f"class {taxonomy.ids[texts.index(('',))]}: has no description, and nothing else is in {template!r}; write"
            " one in keywords_file, or use {class_name}"
        )
    return texts


def _filled(taxonomy: Taxonomy, row: int, template: str) -> list[str]:
    """The template filled in for each name of a class; ancestors in {path} have their main name."""
    above = [taxonomy.names[each][0] for each in taxonomy.first_chain(row)[:-1]]
    description = taxonomy.description(row)
    return [
        template.format(class_name=name, path=" > ".join([*above, name]), description=description).strip()
        for name in taxonomy.names[row]
    ]


def ensembles(taxonomy: Taxonomy, templates: Sequence[str]) -> list[list[list[str]]]:
    """Of each class, of each of its names, the texts of several templates.

    A template with {description} is left out for a class that has none.

    Raises
    ------
    UserError : a class is left without a text.
    """
    found = []
    for row in range(len(taxonomy)):
        fitting = [each for each in templates if taxonomy.description(row) or "{description}" not in each]
        if not fitting:
            raise UserError(
                f"class {taxonomy.ids[row]}: has no description, and {templates[0]!r} needs one; write one in"
                " keywords_file, or add a template with {class_name}"
            )
        found.append([list(texts) for texts in zip(*(_filled(taxonomy, row, each) for each in fitting), strict=True)])
    return found


def _flat(class_texts: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All class texts in one list, and (C + 1,) int64, where those of each class begin."""
    empty = next((row for row, texts in enumerate(class_texts) if not len(texts) or not all(texts)), None)
    if empty is not None:
        raise UserError(f"class in row {empty}: has no text to be compared with; give it a name")
    starts = np.cumsum([0, *(len(texts) for texts in class_texts)])
    return [text for texts in class_texts for text in texts], starts


def combine(scores: np.ndarray, starts: np.ndarray, names: Names) -> np.ndarray:
    """The best or the mean score of each class over its names.

    scores : (..., T) float32, a column a text. starts : (C,) first column of each class. Returns (..., C) float32.
    """
    if names == "best":
        return np.maximum.reduceat(scores, starts, axis=-1)
    counts = np.diff(starts, append=scores.shape[-1])
    return (np.add.reduceat(scores, starts, axis=-1, dtype=np.float64) / counts).astype(np.float32)


# ---- backend: embedding


def label_vectors(encoder: Encoder, groups: Sequence[Sequence[str]], batch_tokens: int | None = None) -> np.ndarray:
    """(T, d) float32 of length 1: of each group of texts the mean of their vectors.

    Cosines with the mean over four templates were .01 to .02 Example-F1 better than with the name or the path alone on
    three corpora, and .02 worse than with the path on a fourth (measured).
    """
    vectors = encoder.encode([text for group in groups for text in group], batch_tokens)
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    return unit(np.add.reduceat(vectors, starts, axis=0))


def embedding_scores(documents: np.ndarray, labels: np.ndarray, first: np.ndarray, names: Names = "best") -> np.ndarray:
    """Cosine of document vectors and classes.

    documents : (N, d) float32, rows of length 1; labels : (T, d) float32, rows of length 1, of the same encoder.
    first : (C,) int64, the first label vector of each class.

    Returns
    -------
    (N, C) float32.
    """
    scores = np.empty((len(documents), len(first)), dtype=np.float32)
    for at in range(0, len(documents), BLOCK):
        scores[at : at + BLOCK] = combine(documents[at : at + BLOCK] @ labels.T, first, names)
    return scores


# ---- backend: nli


def entailment_index(labels: dict[int, str]) -> int:
    """Where the model says "entailment", by its own label map."""
    found = [index for index, label in labels.items() if str(label).strip().lower().startswith("entail")]
    if len(found) != 1:
        said = ", ".join(map(str, labels.values()))
        raise UserError(
            f"{len(found) or 'none'} of the model's labels ({said}) starts with entail, not one; take a model trained"
            " for natural language inference, or mend id2label in its config.json"
        )
    return int(found[0])


def contradiction_index(labels: dict[int, str], entailment: int) -> int:
    """Where the model says "contradiction"; of two labels, the other one."""
    found = [index for index, label in labels.items() if str(label).strip().lower().startswith("contra")]
    others = [index for index in labels if index != entailment]
    if len(found) == 1 or len(others) == 1:
        return int((found or others)[0])
    raise UserError(
        f"nli_score: entail_vs_contra needs one label that starts with contra, the model has"
        f" {', '.join(map(str, labels.values()))}; use nli_score: three_way"
    )


@dataclass
class NliScorer:
    """An entailment model: premise = document, hypothesis = class text.

    ``score`` is a probability p, and what is stored is its logit: softmax over all labels (three_way), where
    logit p = e - logsumexp(the other labels), or sigmoid(e - c) (entail_vs_contra), where it is e - c.
    """

    loaded: Loaded
    entailment: int
    contradiction: int | None
    score: NliScore = "three_way"

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "cpu",
        max_length: int = 256,
        local_files_only: bool = True,
        *,
        score: NliScore = "three_way",
        mixed_precision: bool = True,
        warn: Warn = print,
    ) -> NliScorer:
        """As :func:`taxoclass.inference.load`.

        Raises
        ------
        UserError : also where the model's labels are not those of NLI.
        """
        loaded = load(
            name,
            AutoModelForSequenceClassification,
            device,
            max_length,
            pair=True,
            local_files_only=local_files_only,
            mixed_precision=mixed_precision,
            warn=warn,
        )
        labels = {int(index): label for index, label in loaded.model.config.id2label.items()}
        try:
            entailment = entailment_index(labels)
            contradiction = contradiction_index(labels, entailment) if score == "entail_vs_contra" else None
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return cls(loaded, entailment, contradiction, score)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self.loaded.fingerprint | {
            "score": self.score,
            "entailment": self.entailment,
            "contradiction": self.contradiction,
        }

    @property
    def key(self) -> str:
        return self.loaded.key(score=self.score, entailment=self.entailment, contradiction=self.contradiction)

    def logits(self, premises: Sequence[np.ndarray], hypotheses: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        """One batch, begun: (n,) float32 logits of entailment for ids that fit together within ``max_length``."""
        raw = self.loaded.forward(self.loaded.pack(premises, hypotheses)).logits.float()
        return self.loaded.fetched(self._logit(raw))

    def _logit(self, raw: torch.Tensor) -> torch.Tensor:
        entailed = raw[:, self.entailment]
        if self.contradiction is not None:
            return entailed - raw[:, self.contradiction]
        # a list as an index would be copied to a card, and waited for
        others = torch.cat([raw[:, : self.entailment], raw[:, self.entailment + 1 :]], dim=1)
        return entailed - torch.logsumexp(others, dim=1)


@dataclass
class PairScorer:
    """Entailment of any (document, class) pairs that are asked for; no pair of texts is run twice.

    Documents and class texts are tokenised once and spliced. With a ``cache_folder``, logits are kept by model, score,
    document and class text, in files of one part of the work each: a killed run goes on at its first unfinished part,
    a new or renamed class costs only its own pairs. Shard large corpora by documents, a PairScorer a shard (``known``
    holds a float32 a document and class text); shards may share the folder.

    documents : N texts. class_texts : of each class one or more hypotheses.
    ``progress`` is called with the number of pairs of distinct texts done since its last call.
    """

    scorer: NliScorer
    documents: Sequence[str]
    class_texts: Sequence[Sequence[str]]
    names: Names = "best"
    batch_tokens: int | None = None
    cache_folder: str | Path | None = None
    progress: Progress = unseen
    known: np.ndarray = field(init=False, repr=False)  # (distinct documents, distinct texts), NaN = not run

    def __post_init__(self) -> None:
        texts, self._starts = _flat(self.class_texts)
        self._documents, self._document = distinct(self.documents)
        self._texts, self._text = distinct(texts)
        self.known = np.full((len(self._documents), len(self._texts)), np.nan, dtype=np.float32)
        if self.cache_folder is not None:
            self._recall()

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.documents), len(self.class_texts)

    @property
    def tally(self) -> Tally:
        return self.scorer.loaded.tally

    # -- what is asked for

    def score_pairs(self, doc_rows: np.ndarray, class_rows: np.ndarray) -> np.ndarray:
        """(P,) float32 logits of pairs, in their order; a class with several texts has the best or mean of theirs.

        doc_rows, class_rows : (P,) int64.
        """
        documents, texts, firsts = self._texts_of(doc_rows, class_rows)
        self._run(documents, texts)
        found = self.known[documents, texts]
        return combine(found, firsts, self.names) if len(found) else found

    def count(self, doc_rows: np.ndarray, class_rows: np.ndarray) -> int:
        """How many pairs of distinct texts these are, of which ``progress`` will be told."""
        documents, texts, _ = self._texts_of(doc_rows, class_rows)
        return len(np.unique(documents * len(self._texts) + texts))

    def _texts_of(self, doc_rows: np.ndarray, class_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct document and text of each text of the pairs' classes, one after another; where each pair's begin."""
        counts = np.diff(self._starts)[class_rows]
        firsts = np.cumsum(counts) - counts
        each = np.arange(counts.sum()) - np.repeat(firsts - self._starts[class_rows], counts)
        return np.repeat(self._document[doc_rows], counts), self._text[each], firsts

    def score_all(self) -> np.ndarray:
        """(N, C) float32 logits of all pairs."""
        scores = np.empty(self.shape, dtype=np.float32)
        documents, texts = (np.arange(size) for size in self.known.shape)
        for at in range(0, len(documents), BLOCK):
            block = documents[at : at + BLOCK]
            self._run(np.repeat(block, len(texts)), np.tile(texts, len(block)))
        for at in range(0, len(scores), BLOCK):
            found = self.known[self._document[at : at + BLOCK]][:, self._text]
            scores[at : at + BLOCK] = combine(found, self._starts[:-1], self.names)
        return scores

    # -- what is run

    def _run(self, documents: np.ndarray, texts: np.ndarray) -> None:
        """Fill in ``known`` for pairs of distinct documents and texts, part by part."""
        pairs = np.unique(documents * len(self._texts) + texts)
        missing = pairs[np.isnan(self.known.ravel()[pairs])]
        self.progress(len(pairs) - len(missing))
        part = PART.get(self.scorer.loaded.device.type, PART["cpu"])
        for at in range(0, len(missing), part):
            rows, columns = np.divmod(missing[at : at + part], len(self._texts))
            self.known[rows, columns] = self._computed(rows, columns)
            if self.cache_folder is not None:
                self._keep(rows, columns)

    def _computed(self, documents: np.ndarray, texts: np.ndarray) -> np.ndarray:
        premises, premise_length = self._premises
        hypotheses, hypothesis_length = self._hypotheses
        left = self.scorer.loaded.room - hypothesis_length[texts]
        cut = np.minimum(premise_length[documents], left)
        logits = np.empty(len(documents), dtype=np.float32)

        def begin(rows: np.ndarray) -> Callable[[], np.ndarray]:
            first = [premises[documents[row]][: cut[row]] for row in rows]
            return self.scorer.logits(first, [hypotheses[texts[row]] for row in rows])

        def keep(rows: np.ndarray, found: np.ndarray) -> None:
            logits[rows] = found
            self.progress(len(rows))

        lengths = cut + hypothesis_length[texts] + self.scorer.loaded.frame.cost
        self.scorer.loaded.run(lengths, self.batch_tokens, begin, keep)
        wrong = int((~np.isfinite(logits)).sum())
        if wrong:
            raise UserError(f"{self.scorer.loaded.name}: {wrong} scores are not finite; the weights are damaged?")
        return logits

    @cached_property
    def _hypotheses(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids and lengths; only the premise may be cut, so each must leave room for one token of it."""
        room = self.scorer.loaded.room
        ids, lengths = self.scorer.loaded.tokens(self._texts, room)
        if lengths.max() >= room:
            long = self._texts[int(lengths.argmax())]
            raise UserError(
                f"class text {long[:60]!r}: {lengths.max()} tokens leave no room for a document in the"
                f" {self.scorer.loaded.max_length} of both; shorten it or raise similarity_max_length"
            )
        return ids, lengths

    @cached_property
    def _premises(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids, as many as any hypothesis leaves room for, and the lengths of the whole documents."""
        most = self.scorer.loaded.room - int(self._hypotheses[1].min())
        return self.scorer.loaded.tokens(self._documents, most)

    @property
    def truncated(self) -> int:
        """Documents that do not fit beside the longest class text."""
        room = self.scorer.loaded.room - int(self._hypotheses[1].max())
        return int((self._premises[1] > room)[self._document].sum())

    # -- what it costs

    def cost(self, pairs: int | None = None, *, measure: bool = True) -> Cost:
        """What ``pairs`` pairs of distinct texts will take (default: all that are not known yet).

        The lengths are the mean over all pairs, the speed comes from a short run on this machine.
        """
        loaded = self.scorer.loaded
        tokens = flops = 0.0
        for length, count in zip(*np.unique(self._hypotheses[1], return_counts=True), strict=True):
            sequences = np.minimum(self._premises[1], loaded.room - length) + length + loaded.frame.cost
            tokens += count * float(sequences.sum())
            flops += count * float(forward_flops(loaded.model, sequences).sum())
        wanted = int(np.isnan(self.known).sum()) if pairs is None else pairs
        share = wanted / max(self.known.size, 1)
        typical = round(tokens / max(self.known.size, 1))
        rate = loaded.calibrate(typical, self.batch_tokens) if measure else np.nan
        return Cost("pairs", wanted, tokens * share, flops * share, flops * share * rate)

    # -- what outlives a run

    @property
    def _folder(self) -> Path:
        assert self.cache_folder is not None
        return Path(self.cache_folder) / self.scorer.key[:16]

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        return content_keys(self._documents), content_keys(self._texts)

    def _keep(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """One part: its documents x its texts, NaN where a pair is not in it, under a name of its content."""
        documents, at_row = np.unique(rows, return_inverse=True)
        texts, at_column = np.unique(columns, return_inverse=True)
        logits = np.full((len(documents), len(texts)), np.nan, dtype=np.float32)
        logits[at_row, at_column] = self.known[rows, columns]
        keys = {"documents": self._keys[0][documents], "texts": self._keys[1][texts]}
        content = b"\0".join([keys["documents"].tobytes(), keys["texts"].tobytes(), np.isnan(logits).tobytes()])
        files.write_npz(self._folder / f"{xxhash.xxh3_64_hexdigest(content)}.npz", logits=logits, **keys)

    def _recall(self) -> None:
        rows, columns = ({key: at for at, key in enumerate(keys.tolist())} for keys in self._keys)
        for path in sorted(self._folder.glob("*.npz")):
            stored = piece(path, self.scorer.loaded.warn)
            if stored is None:
                continue
            here = np.array([rows.get(key, -1) for key in stored["documents"].tolist()])
            there = np.array([columns.get(key, -1) for key in stored["texts"].tolist()])
            logits = stored["logits"][here >= 0][:, there >= 0]
            target = np.ix_(here[here >= 0], there[there >= 0])
            self.known[target] = np.where(np.isnan(logits), self.known[target], logits)


# ---- candidates


def path_candidates(taxonomy: Taxonomy, similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes on the k chains, from a root to any class, with the best mean similarity; ties at the k-th all count.

    similarity : (N, C) float32, finite.

    Returns
    -------
    doc_rows, class_rows : (P,) int64, sorted by document, then class.
    """
    if not np.isfinite(similarity).all():
        raise ValueError("the prefilter needs a similarity for every pair")
    chains = Chains.of(taxonomy)
    last = max(len(chains.length) - k, 0)
    found = []
    for at in range(0, len(similarity), BLOCK):
        means = chains.score(similarity[at : at + BLOCK].T.astype(np.float64)).T
        chosen = means >= np.partition(means, last, axis=1)[:, [last]]
        rows, classes = np.nonzero(chosen.astype(np.float64) @ chains.weights)
        found.append(np.stack([rows + at, classes]))
    doc_rows, class_rows = np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.int64)
    return doc_rows, class_rows
