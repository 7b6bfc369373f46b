"""The files between the stages: each is read back with a check that it speaks of the same documents and classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common import files, pieces
from common.errors import UserError
from common.memory import excuse
from taxoclass.corpus import Corpus
from taxoclass.labels import Cores, Labels, Sparse
from taxoclass.reading import lines
from taxoclass.taxonomy import Taxonomy

TRAIN, TEST = "train", "test"
AGAIN = "run the stage that makes it again"


# ---- taxonomy and corpus


def write_taxonomy(path: str, taxonomy: Taxonomy) -> None:
    files.write_json(
        path,
        taxonomy.asdict()
        | {"fingerprint": taxonomy.fingerprint, "descriptions_fingerprint": taxonomy.descriptions_fingerprint},
    )


def read_taxonomy(path: str) -> Taxonomy:
    content = files.read_json(path)
    try:
        taxonomy = Taxonomy.fromdict(content)
        found = {"fingerprint": taxonomy.fingerprint, "descriptions_fingerprint": taxonomy.descriptions_fingerprint}
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{path}: is not a taxonomy of check_corpus; {AGAIN}") from None
    if any(content.get(key) != value for key, value in found.items()):
        raise UserError(f"{path}: its content is not what was written; {AGAIN}")
    return taxonomy


def write_corpus(path: str, corpus: Corpus) -> None:
    """Columns doc_id, text and split."""
    table = pa.table({"doc_id": list(corpus.doc_ids), "text": list(corpus.texts), "split": list(corpus.split or ())})
    with files.atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_corpus(path: str) -> Corpus:
    """The documents of ``write_corpus``.

    Raises
    ------
    UserError : not such a file, or a damaged one.
    """
    columns = ["doc_id", "text", "split"]
    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        return Corpus(*(tuple(table[name].to_pylist()) for name in columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        excuse(path, error)
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); delete it and run the same command again") from None


def array_digest(array: np.ndarray) -> str:
    """Digest of an array's bytes, for the small file that stands for a large one."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


# ---- similarity


class SimilarityFile(NamedTuple):
    """What ``similarity`` found.

    similarity : (N, C) float32, NaN where unscored.
    neighbours : (N, k) int32, nearest documents; k = 0 where they were not looked for.
    clusters : (N, R) int32, cluster of each document in each clustering; R = 0 where there is none.
    meta : backend, model, templates, scale ("cosine" or "logit").
    """

    similarity: np.ndarray
    neighbours: np.ndarray
    clusters: np.ndarray
    meta: dict[str, Any]


class Scored(NamedTuple):
    """Some documents against all classes.

    scores : (n, C) float32, NaN where a pair was not scored.
    vectors : (n, d) float32 of a sentence encoder; d = 0 without one.
    model : what made the scores, for provenance; None of no documents.
    """

    scores: np.ndarray
    vectors: np.ndarray
    model: dict[str, Any] | None


def write_piece(path: str, key: str, shard: int, shards: int, scored: Scored) -> None:
    """One shard of ``similarity``; ``key`` is what it was made from."""
    pieces.write(path, key, shard, shards, {"scores": scored.scores, "vectors": scored.vectors}, scored.model)


def read_pieces(paths: Sequence[str], key: str) -> Scored:
    """All documents, put together from their shards, in order.

    Raises
    ------
    UserError : as :func:`common.pieces.read`.
    """
    read = [Scored(arrays["scores"], arrays["vectors"], model) for arrays, model in pieces.read(paths, key)]
    found = [each for each in read if len(each.scores)]  # more shards than documents leave some without any
    scores, vectors = (np.concatenate([getattr(each, name) for each in found]) for name in ("scores", "vectors"))
    return Scored(scores, vectors, found[0].model)


def write_similarity(
    path: str,
    similarity: np.ndarray,
    neighbours: np.ndarray,
    clusters: np.ndarray,
    corpus: Corpus,
    taxonomy: Taxonomy,
    meta: dict[str, Any],
) -> None:
    split = np.array(corpus.split)
    files.write_npz(
        path,
        similarity_matrix=similarity,
        neighbours=neighbours,
        clusters=clusters,
        doc_ids=np.array(corpus.doc_ids),
        class_ids=np.array(taxonomy.ids),
        train_size=np.int64((split == TRAIN).sum()),
        test_size=np.int64((split == TEST).sum()),
        meta=np.array(json.dumps(meta, sort_keys=True)),
    )


def read_similarity(path: str, corpus_ids: Sequence[str], taxonomy: Taxonomy) -> SimilarityFile:
    """The matrix of these documents and classes.

    Raises
    ------
    UserError : damaged, or of other documents or classes.
    """
    names = ("similarity_matrix", "neighbours", "clusters")
    stored = _checked(path, corpus_ids, taxonomy, *names, "meta")
    similarity, neighbours, clusters = (stored[name] for name in names)
    return SimilarityFile(similarity, neighbours, clusters, json.loads(str(stored["meta"])))


def _checked(path: str, doc_ids: Sequence[str], taxonomy: Taxonomy, *wanted: str) -> dict[str, np.ndarray]:
    stored = files.read_npz(path)
    missing = [name for name in ("doc_ids", "class_ids", *wanted) if name not in stored]
    if missing:
        raise UserError(f"{path}: has no array {missing[0]}; {AGAIN}")
    for name, what, expected in (("doc_ids", "documents", doc_ids), ("class_ids", "classes", taxonomy.ids)):
        if not np.array_equal(stored[name], np.array(expected)):
            raise UserError(f"{path}: was made from other {what} than those of this run; {AGAIN}")
    return stored


# ---- core classes


def write_cores(
    path: str, candidates: Sparse, cores: Cores, corpus_ids: Sequence[str], taxonomy: Taxonomy, meta: dict[str, Any]
) -> None:
    files.write_npz(
        path,
        candidate_indptr=candidates.indptr,
        candidate_indices=candidates.indices,
        candidate_path_score=candidates.values,
        core_indptr=cores.indptr,
        core_indices=cores.indices,
        core_confidence=cores.confidence,
        thresholds=cores.thresholds,
        doc_ids=np.array(corpus_ids),
        class_ids=np.array(taxonomy.ids),
        meta=np.array(json.dumps(meta, sort_keys=True)),
    )


def read_cores(path: str, corpus_ids: Sequence[str], taxonomy: Taxonomy) -> Cores:
    """As ``read_similarity``."""
    names = ("core_indptr", "core_indices", "core_confidence", "thresholds")
    stored = _checked(path, corpus_ids, taxonomy, *names)
    return Cores(*(stored[name] for name in names))


def read_candidates(path: str, corpus_ids: Sequence[str], taxonomy: Taxonomy) -> np.ndarray:
    """(K,) int32: class row of each candidate of all documents; none where the way of mining has no candidates."""
    return _checked(path, corpus_ids, taxonomy, "candidate_indices")["candidate_indices"]


# ---- labels


def write_label_sets(path: str, labels: Labels, corpus_ids: Sequence[str], taxonomy: Taxonomy) -> None:
    files.write_npz(
        path,
        indptr=labels.indptr,
        indices=labels.indices,
        doc_ids=np.array(corpus_ids),
        class_ids=np.array(taxonomy.ids),
    )


def read_label_sets(path: str, corpus_ids: Sequence[str], taxonomy: Taxonomy) -> Labels:
    """As ``read_similarity``."""
    stored = _checked(path, corpus_ids, taxonomy, "indptr", "indices")
    return Labels(stored["indptr"], stored["indices"])


def label_records(
    doc_ids: Sequence[str],
    taxonomy: Taxonomy,
    labels: Labels,
    chains: Iterable[tuple[int, ...]],
    chain_score: np.ndarray,
    scores: np.ndarray,
) -> Iterable[dict[str, Any]]:
    """A record a document: its labels, best label first, with names and probabilities, and the path behind them.

    chains : of each document the classes of its best path, () for none. chain_score : (N,), its mean probability.
    scores : (N, C) float32, probabilities; may be a memory map.
    """
    for row, (doc_id, chain) in enumerate(zip(doc_ids, chains, strict=True)):
        found = labels.indices[labels.indptr[row] : labels.indptr[row + 1]]
        ranked = found[np.argsort(-scores[row, found], kind="stable")].tolist()
        yield {
            "doc_id": doc_id,
            "labels": [taxonomy.ids[each] for each in ranked],
            "names": [taxonomy.names[each][0] for each in ranked],
            "scores": [round(float(scores[row, each]), 6) for each in ranked],
            "path": [taxonomy.ids[each] for each in chain],
            "path_score": round(float(chain_score[row]), 6) if chain else None,
        }


def iter_label_records(path: str) -> Iterator[dict[str, Any]]:
    """The lines of a labels.jsonl, one at a time.

    Raises
    ------
    UserError : a line that is no such record, a file that cannot be read.
    """
    for number, line in lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "doc_id" not in record:
            raise UserError(f"{path}: line {number} is no record of predict; {AGAIN}")
        yield record


# what a record has, in the types of Arrow
LABELS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("names", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("path", pa.list_(pa.string())),
        ("path_score", pa.float64()),
    ]
)


def read_label_records(path: str, doc_ids: Sequence[str], taxonomy: Taxonomy) -> Labels:
    """The label sets of a labels.jsonl of these documents.

    Raises
    ------
    UserError : it is of other documents or classes.
    """
    try:
        records = [json.loads(line) for line in files.read_lines(path)]
        if [record["doc_id"] for record in records] != list(doc_ids):
            raise ValueError
        return Labels.of([taxonomy.row[each] for each in record["labels"]] for record in records)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: has not the labels of these documents and classes; {AGAIN}") from None


def submission(doc_ids: Sequence[str], taxonomy: Taxonomy, labels: Labels) -> list[str]:
    """Lines of submission.csv: id and, in quotes, its class ids in ascending order (as numbers, if all are)."""
    numbers = all(each.isascii() and each.isdecimal() for each in taxonomy.ids)
    rank = sorted(range(len(taxonomy)), key=lambda row: (int(taxonomy.ids[row]) if numbers else 0, taxonomy.ids[row]))
    place = np.argsort(rank)
    lines = ["id,labels"]
    for row, doc_id in enumerate(doc_ids):
        found = labels.indices[labels.indptr[row] : labels.indptr[row + 1]].tolist()
        ids = ",".join(taxonomy.ids[each] for each in sorted(found, key=place.__getitem__))
        lines.append(f"{_csv(doc_id)},{_quoted(ids)}")
    return lines


def _csv(text: str) -> str:
    return _quoted(text) if set(text) & set(',"') else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
