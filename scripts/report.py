"""One page that shows what the run did to the data: pictures, tables, search. It needs no network."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common import files
from common.errors import UserError
from common.settings import Settings
from common.stage import Stage, run_stage
from descriptors import nonlinear
from descriptors import products as passes
from reporting import labelling, page, run, selection
from taxoclass import corpus, products

EXCERPT = 280  # characters of a text that are quoted
SELECTION = {
    "pass1": "JSON of pass 1",
    "pass2": "JSON of pass 2",
    "pass3": "JSON of pass 3",
    "pass4": "JSON of pass 4",
    "columns1": "text: columns that passed pass 1",
    "columns2": "text: columns that passed pass 2",
    "columns3": "text: columns that passed pass 3",
    "columns4": "text: the final descriptors",
    **passes.RANKED,
    "matrix": "npy: their Spearman correlation",
    "repaired": "npy: a positive definite correlation of the columns that passed pass 2",
    "clusters": "JSON: final clusters",
    "similarity": "npz: similarities of pass 4",
}
PREDICTED = {"utility": "JSON of utility"}
LABELLING = {
    "corpus": "Parquet of check_corpus",
    "taxonomy": "JSON of check_corpus",
    "checked": "JSON of check_corpus",
    "cores": "npz of core_classes",
    "mined": "JSON of core_classes",
    "trained": "JSON of train_classifier",
    "iterations": "JSON of each iteration of self-training, in order",
    "labels": "JSON lines of predict",
    "predicted": "JSON of predict",
}
JUDGED = {"gold": "document id TAB class ids with commas between them", "metrics": "JSON of evaluate"}


def main() -> None:
    inputs = SELECTION | PREDICTED | LABELLING | JUDGED
    run_stage(
        "report",
        Settings,
        inputs={"template": "Jinja template of the page"} | inputs,
        outputs={"out-report": "HTML"},
        values={
            "provenances": "folders with the provenance of the stages",
            "rule-graph": "JSON: jobs of each rule, and which rule reads files of which other one",
        },
        optional=(*inputs, "provenances", "rule-graph"),
        several=("iterations", "provenances"),
        work=work,
    )


def work(stage: Stage) -> None:
    given = {name for name, value in vars(stage.paths).items() if value}
    chapters: dict[str, list[page.Section]] = {}
    if given >= set(SELECTION):
        chapters["Descriptors"] = selection.sections(read_selection(stage))
    if given >= set(LABELLING) - {"iterations"}:
        chapters["Texts"] = labelling.sections(read_labelling(stage))
    if not chapters:
        raise UserError("nothing to report: give all files of the descriptors, or all of the texts; see --help")
    if provenance := read_provenance(stage.paths.provenances or []):
        chapters["The run"] = run.sections(provenance, read_graph(stage.paths.rule_graph))
    template = Path(stage.paths.template).read_text(encoding="utf-8")
    files.write_text(stage.paths.out_report, page.render(template, "winnow: what was done to the data", chapters))
    stage.log(
        f"{sum(map(len, chapters.values()))} sections", f"{Path(stage.paths.out_report).stat().st_size / 1e6:.1f} MB"
    )


def read_selection(stage: Stage) -> selection.Selection:
    paths = stage.paths
    similarity = files.read_npz(paths.similarity)
    return selection.Selection(
        details=[files.read_json(getattr(paths, f"pass{number}")) for number in (1, 2, 3, 4)],
        ranked=passes.load(paths.columns1, paths.stats, paths.codes, paths.fine, paths.ecdf, paths.pass1),
        matrix=files.read_npy(paths.matrix, mapped=True),
        repaired=files.read_npy(paths.repaired),
        columns=[files.read_lines(getattr(paths, f"columns{number}")) for number in (1, 2, 3, 4)],
        clusters=files.read_json(paths.clusters),
        similarity=nonlinear.Similarity(
            similarity.get("hsic"), similarity.get("rdc"), similarity["fused"], similarity["common_rows"]
        ),
        utility=files.read_json(paths.utility) if paths.utility else None,
    )


def read_labelling(stage: Stage) -> labelling.Labelling:
    paths = stage.paths
    taxonomy = products.read_taxonomy(paths.taxonomy)
    gold = corpus.read_labels(paths.gold, taxonomy) if paths.gold else {}
    names = {"check_corpus": "checked", "core_classes": "mined", "train_classifier": "trained", "predict": "predicted"}
    found = labelling.tally(products.iter_label_records(paths.labels), taxonomy, gold)
    doc_ids = pq.read_table(paths.corpus, columns=["doc_id"])["doc_id"].to_pylist()
    return labelling.Labelling(
        taxonomy=taxonomy,
        details={name: files.read_json(getattr(paths, flag)) for name, flag in names.items()},
        iterations=[files.read_json(path) for path in paths.iterations or []],
        cores=products.read_cores(paths.cores, doc_ids, taxonomy),
        candidates=products.read_candidates(paths.cores, doc_ids, taxonomy),
        metrics=files.read_json(paths.metrics) if paths.metrics else None,
        tally=found,
        texts=excerpts(paths.corpus, set(found.shown)),
    )


def excerpts(path: str, doc_ids: Collection[str]) -> dict[str, str]:
    """The beginnings of some documents' texts."""
    found = {}
    for batch in pq.ParquetFile(path).iter_batches(columns=["doc_id", "text"]):
        for doc_id, text in zip(batch["doc_id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            if doc_id in doc_ids:
                found[doc_id] = text if len(text) <= EXCERPT else f"{text[:EXCERPT].rstrip()} …"
    return found


def read_graph(path: str | None) -> dict[str, Any] | None:
    """What the workflow wrote as it began; where it is the module of another one, it wrote none."""
    return files.read_json(path) if path and Path(path).exists() else None


def read_provenance(folders: list[str]) -> list[dict[str, Any]]:
    return [files.read_json(path) for folder in folders for path in sorted(Path(folder).glob("*.json"))]


if __name__ == "__main__":
    main()
