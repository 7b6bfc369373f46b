"""What the stages made of the documents: pictures, tables and the tree of classes, from their products."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reporting import pictures
from reporting.page import Branch, Picture, Section, Table, Tree
from taxoclass.labels import Cores
from taxoclass.taxonomy import Taxonomy

EXAMPLES = 5  # documents, of the best and of the worst
ERRORS = 300  # documents in the table of errors
CONFUSIONS = 40  # pairs of classes


@dataclass(frozen=True)
class Labelling:
    """Products of the stages.

    details : JSON of check_corpus, core_classes, train_classifier and predict, by name. iterations : JSON of each
    iteration of self-training. candidates : (K,) class row of each candidate. metrics : JSON of evaluate, None without
    gold labels.
    """

    taxonomy: Taxonomy
    details: Mapping[str, Mapping[str, Any]]
    iterations: Sequence[Mapping[str, Any]]
    cores: Cores
    candidates: np.ndarray
    metrics: Mapping[str, Any] | None
    tally: Tally
    texts: Mapping[str, str]


@dataclass
class Tally:
    """What one pass over the labels finds, in memory that does not grow with the documents.

    Rows of classes are those of the taxonomy. best, worst, wrong: heaps of (key, number, record).
    """

    n_classes: int
    documents: int = 0
    counts: np.ndarray = field(init=False)
    scores: np.ndarray = field(init=False)
    best: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    worst: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    wrong: list[tuple[tuple[float, float], int, dict[str, Any]]] = field(default_factory=list)
    n_wrong: int = 0
    confused: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.n_classes, np.int64)
        self.scores = np.zeros(self.n_classes)

    @property
    def shown(self) -> list[str]:
        """The documents whose texts the page quotes."""
        return [record["doc_id"] for heap in (self.best, self.worst, self.wrong) for *_, record in heap]


def tally(records: Iterable[Mapping[str, Any]], taxonomy: Taxonomy, gold: Mapping[str, frozenset[int]]) -> Tally:
    """Count the labels of all documents, and keep some of them.

    records : lines of labels.jsonl. gold : rows of the classes of a document; empty without gold labels.
    """
    found = Tally(len(taxonomy))
    level = taxonomy.level
    for number, record in enumerate(records):
        found.documents += 1
        rows = [taxonomy.row[each] for each in record["labels"]]
        found.counts[rows] += 1
        found.scores[rows] += record["scores"]
        kept = dict(record)
        if record["path_score"] is not None:
            _keep(found.best, (record["path_score"], -number, kept), EXAMPLES)
            _keep(found.worst, (-record["path_score"], -number, kept), EXAMPLES)
        true = gold.get(record["doc_id"])
        if true is None or true == set(rows):
            continue
        found.n_wrong += 1
        missing, extra = true - set(rows), set(rows) - true
        f1 = 2 * len(true & set(rows)) / (len(true) + len(rows))
        kept |= {"gold": sorted(true), "f1": f1}
        _keep(found.wrong, ((-f1, record["path_score"] or 0.0), -number, kept), ERRORS)
        found.confused.update((one, other) for one in missing for other in extra if level[one] == level[other])
    return found


def _keep(heap: list[Any], entry: Any, number: int) -> None:
    """The ``number`` largest entries."""
    if len(heap) < number:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def sections(made: Labelling) -> list[Section]:
    corpus, chosen = made.details["check_corpus"], made.details["core_classes"]
    told = (
        f"{corpus['documents']:,} documents and {len(made.taxonomy):,} classes came in; {made.tally.documents:,} "
        f"documents have {made.details['predict']['labels_a_document']:.2f} labels on average, "
        f"{made.details['predict']['documents_without_labels']:,} have none. Core classes were found for "
        f"{chosen['documents_with_cores']:,}; the rest was learnt from these."
    )
    parts: list[Section] = [Section("The classes, and how often they were given", told, (tree(made),))]
    if made.metrics is not None:
        parts.append(Section("How good the labels are", "Against gold labels, which no stage reads.", quality(made)))
    parts += [
        Section("Core classes", "", (core_classes(made),)),
        Section("Training", "", (training(made),)),
        Section("Documents", "", examples(made)),
    ]
    if made.metrics is not None and made.tally.n_wrong:
        parts.append(Section("Errors", "", errors(made)))
    return parts


def tree(made: Labelling) -> Tree:
    """The taxonomy, with a class below each of its parents."""
    taxonomy, found = made.taxonomy, made.tally
    cores = np.bincount(made.cores.indices, minlength=len(taxonomy))

    def branch(row: int) -> Branch:
        count = int(found.counts[row])
        mean = f", mean score {found.scores[row] / count:.2f}" if count else ""
        note = f"{count:,} documents{mean}; core class of {cores[row]:,}"
        return Branch(taxonomy.names[row][0], note, [branch(int(child)) for child in taxonomy.children[row]])

    never = int((found.counts == 0).sum())
    caption = (
        "Documents that have the label, its mean probability, and documents that it is a core class of. "
        f"{never:,} of {len(taxonomy):,} classes were given to none."
    )
    return Tree([branch(int(row)) for row in taxonomy.roots], caption)


def quality(made: Labelling) -> tuple[Picture, Table]:
    metrics = made.metrics
    assert metrics is not None
    intervals = metrics.get("intervals", {})
    levels = sorted(metrics["level_f1"], key=int)
    values = [metrics["level_f1"][level]["f1"] for level in levels]
    bounds = [
        intervals.get(f"level_f1.{level}.f1", (value, value)) for level, value in zip(levels, values, strict=True)
    ]
    with pictures.figure(7.5, 2.6) as drawn:
        left, right = drawn.subplots(1, 2)
        spread = np.abs(np.array(bounds, dtype=float).T - np.array(values))
        left.bar(
            [f"level {level}" for level in levels], values, yerr=spread, color=pictures.FIRST, ecolor=pictures.MUTED
        )
        left.set_ylim(0, 1)
        left.set_ylabel("micro-F1")
        curve = metrics["example_f1_by_model"]
        right.plot(range(len(curve)), list(curve.values()), color=pictures.GOOD, marker=".")
        right.set_xticks(range(len(curve)))
        right.set_xticklabels(["classifier", *map(str, range(1, len(curve)))])
        right.set_ylim(0, 1)
        right.set_xlabel("iteration of self-training")
        right.set_ylabel("Example-F1 of all documents")
    told = {
        "strict.example_f1": "Example-F1", "strict.p_at_1": "P@1", "strict.mrr": "MRR of the first true class",
        "micro_f1": "micro-F1", "hierarchical.f1": "hierarchical F1", "consistency_rate": "labels beside a parent",
        "labels_per_document": "labels a document", "macro_f1": "macro-F1",
        "core_class_precision": "precision of core classes",
    }  # fmt: skip
    rows = []
    for key, name in told.items():
        value: Any = metrics
        for part in key.split("."):
            value = value.get(part)  # no P@1 where it was not asked for
        rows.append((name, value, *intervals.get(key, (None, None))))
    resamples = metrics["parameters"]["bootstrap_resamples"]
    documents = f"{metrics['documents']:,} documents"
    note = f"95 % intervals of {resamples:,} bootstrap resamples of {documents}." if resamples else f"Of {documents}."
    caption = f"Micro-F1 of the labels of each level, level 0 the roots, and Example-F1 by iteration. {note}"
    return Picture(pictures.svg(drawn), caption), Table(("metric", "value", "from", "to"), rows, note)


def core_classes(made: Labelling) -> Picture:
    chosen, level = made.details["core_classes"], made.taxonomy.level
    numbers = np.arange(level.max() + 1)

    def by_level(rows: np.ndarray) -> np.ndarray:
        return np.bincount(level[rows], minlength=len(numbers))

    given = {"candidates": by_level(made.candidates)} if len(made.candidates) else {}
    given["core classes"] = by_level(made.cores.indices)
    with pictures.figure(7.5, 2.4) as drawn:
        left, right = drawn.subplots(1, 2)
        for place, (what, counts) in enumerate(given.items()):
            color = pictures.FIRST if what == "core classes" else pictures.MUTED
            left.bar(numbers + 0.4 * place, counts, 0.8 / len(given), color=color, label=what)
        left.set_title("of all documents")
        left.legend()
        right.bar(numbers, np.bincount(level), color=pictures.MUTED, label="classes")
        used = by_level(np.unique(made.cores.indices))
        right.bar(numbers, used, color=pictures.GOOD, label="core class of some document")
        right.set_title("classes")
        right.legend(loc="upper left")
        for axes, middle in ((left, 0.2 * (len(given) - 1)), (right, 0)):
            axes.set_xticks(numbers + middle, [f"level {each}" for each in numbers])
    never = len(chosen["classes_never_chosen"])
    on_average = "" if chosen["cores_per_document"] is None else f", {chosen['cores_per_document']:.2f} on average"
    candidates = f" Candidates of all documents: {len(made.candidates):,}." if len(made.candidates) else ""
    return Picture(
        pictures.svg(drawn),
        f"{chosen['documents_with_cores']:,} of {chosen['documents']:,} documents have core classes{on_average}; "
        f"{never:,} classes are core class of none (mining: {chosen['parameters']['mining']}).{candidates}",
    )


def training(made: Labelling) -> Picture:
    first = made.details["train_classifier"]
    with pictures.figure(8.5, 2.6) as drawn:
        left, middle, right = drawn.subplots(1, 3)
        history = first["history"]
        epochs = [each["epoch"] for each in history]
        left.plot(epochs, [each["loss"] for each in history], color=pictures.FIRST, label="training")
        held_out = np.array([each.get("validation_loss") for each in history], dtype=float)
        if not np.isnan(held_out).all():
            left.plot(epochs, held_out, color=pictures.SECOND, label="held out")
        pictures.threshold(left, first["best_epoch"])
        left.legend()
        left.set_title("classifier: loss")
        left.set_xlabel("epoch")
        numbers = [each["iteration"] for each in made.iterations]
        trained = [each for each in made.iterations if not each["passes_through"]]
        for each in trained:
            losses = [epoch["loss"] for epoch in each["history"]]
            places = each["iteration"] + np.linspace(-0.3, 0.3, len(losses)) if len(losses) > 1 else [each["iteration"]]
            middle.plot(places, losses, color=pictures.FIRST, marker=".")
        middle.set_title("self-training: loss")
        middle.set_xlabel("iteration")
        for key, label, color in (
            ("confident_after", "confident", pictures.GOOD),
            ("changed", "changed", pictures.MARK),
        ):
            right.plot(numbers, [each.get(key) for each in made.iterations], color=color, marker=".", label=label)
        right.set_title("share of documents")
        right.set_xlabel("iteration")
        right.legend()
        for axes in (middle, right):
            axes.set_xticks(numbers)
    passed = [str(each["iteration"]) for each in made.iterations if each["passes_through"]]
    converged = f" Iterations {', '.join(passed)} had nothing left to learn." if passed else ""
    return Picture(
        pictures.svg(drawn),
        f"Stage 3 kept epoch {first['best_epoch']} (dashed). Self-training: loss of each epoch, share of documents "
        f"with confident labels, share whose labels changed.{converged}",
    )


def largest_first(made: Labelling, heap: Iterable[Any]) -> list[tuple[dict[str, Any], tuple[str, str, str]]]:
    """The records of a heap, the largest first; of each the document, the beginning of its text, labels and scores."""
    found = []
    for _, _, record in sorted(heap, key=lambda entry: entry[:2], reverse=True):
        labels = zip(record["names"], record["scores"], strict=True)
        text = made.texts.get(record["doc_id"], "")
        found.append((record, (record["doc_id"], text, ", ".join(f"{name} ({score:.2f})" for name, score in labels))))
    return found


def examples(made: Labelling) -> list[Table]:
    header = ("document", "text", "labels", "path", "score of the path")
    tables = []
    for heap, which in [(made.tally.best, "surest"), (made.tally.worst, "least sure")]:
        rows = [
            (
                *cells,
                " → ".join(made.taxonomy.names[made.taxonomy.row[each]][0] for each in record["path"]),
                record["path_score"],
            )
            for record, cells in largest_first(made, heap)
        ]
        tables.append(Table(header, rows, f"The {len(rows)} documents whose labels are {which}."))
    return tables


def errors(made: Labelling) -> list[Table]:
    names = made.taxonomy.names
    rows = [
        (*cells, ", ".join(names[row][0] for row in record["gold"]), record["f1"])
        for record, cells in largest_first(made, made.tally.wrong)
    ]
    pairs = [
        (names[one][0], names[other][0], count) for (one, other), count in made.tally.confused.most_common(CONFUSIONS)
    ]
    return [
        Table(
            ("document", "text", "labels", "gold labels", "F1"),
            rows,
            f"{len(rows):,} of {made.tally.n_wrong:,} documents whose labels are not exactly the gold ones, the most "
            "wrong and among them the surest first.",
            search="a class, a document, a word",
        ),
        Table(
            ("gold", "given in its place", "documents"),
            pairs,
            "Classes of one level that stand in for one another most.",
        ),
    ]
