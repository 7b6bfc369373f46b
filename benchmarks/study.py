"""make study: what each switch of the text pipeline is worth, on every labelled corpus that is given.

One switch at a time is turned away from the defaults, and the workflow runs as its users run it: Snakemake makes again
what the switch touches, the evaluation alone reads the gold labels. A finished run is written at once and not made
again by the same command with the same source.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import written
from measure import ROOT, cores, machine, source

FLOOR = "floor: best path by cosine"  # no part of the workflow but its first stage
SEED = 42
VARIANTS: dict[str, dict[str, Any]] = {
    FLOOR: {"hypothesis_template": "{path}"},
    "defaults": {},
    "label text: name": {"hypothesis_template": "{class_name}"},
    "label text: path": {"hypothesis_template": "{path}"},
    "no words of names": {"word_weight": 0.0},
    "no neighbours in mining": {"neighbours": 0},
    "no clusters in mining": {"clusterings": 0},
    "mining: path_margin": {"mining": "path_margin"},
    "mining: taxoclass": {"mining": "taxoclass"},
    "core_share: 0.8": {"core_share": 0.8},
    "gnn: full": {"gnn": "full"},
    "gnn: off": {"gnn": "off"},
    "no self-training": {"self_train_iterations": 0},
    "self-training: one-sided loss": {"self_train_target": "paper"},
    "no neighbours in prediction": {"predict_neighbours": 0},
    "decode: path": {"decode": "path"},
    "decode: topdown": {"decode": "topdown"},
    "decode: topk": {"decode": "topk"},
    "the paper's choices": {
        "hypothesis_template": "{class_name}",
        "word_weight": 0.0,
        "mining": "taxoclass",
        "self_train_target": "paper",
        "decode": "topk",
    },
}
TRAINABLE = {"encoder trained": {"encoder_trainable": True}}  # hours without a GPU
FLAT = {"max_labels": 1}  # one class a document, as in the published table
FIVE = {
    "computer": ("comp",),
    "sports": ("rec",),
    "science": ("sci",),
    "politics": ("politics",),
    "religion": ("religion",),
}


@dataclass(frozen=True)
class TextSet:
    """A labelled corpus. settings : its files, as settings of the workflow."""

    name: str
    settings: dict[str, Any]


def main() -> None:
    arguments = parse()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "documents": arguments.documents,
        "max_length": arguments.max_length,
        "threads": arguments.threads,
        "source": source(),
    }
    variants = VARIANTS | TRAINABLE
    chosen = {name: variants[name] for name in arguments.only or (variants if arguments.trainable else VARIANTS)}
    for title, write in text_sets(arguments.texts).items():
        if title not in (arguments.sets or [title]):
            continue
        each = write(arguments.documents, folder / title)
        for name, switch in chosen.items():
            path = folder / each.name / f"{slug(name)}.json"
            if path.exists() and is_of(json.loads(path.read_text()), settings):
                print(f"{each.name}, {name}: done before with this source and these settings", flush=True)
                continue
            print(f"{each.name}, {name} ...", end=" ", flush=True)
            found = run(
                each, switch, arguments, folder / each.name, target="similarity" if name == FLOOR else "taxoclass"
            )
            written.write_json(path, {**found, **settings, "set": each.name, "variant": name, "switch": switch})
            print(found.get("error") or f"{found['strict']:.3f} ({found['seconds']:.0f} s)", flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]
    rows = [row for row in rows if is_of(row, settings)]
    tables = arguments.tables.resolve()
    rows += kept(tables / "study.json", rows, settings)
    text = f"{head(settings)}\n\n{table(rows, list(variants))}"
    print(f"\n{text}")
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "study.txt").write_text(f"{text}\n")
    written.write_json(tables / "study.json", {"machine": machine(), "settings": settings, "runs": rows})
    if rows:
        plot(rows, list(variants), tables / "study.png")
    print(f"\n{tables}/study.txt, study.json, study.png")


def is_of(run: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a run ended well, and was made with this source and these settings."""
    return "error" not in run and run.items() >= settings.items()


def kept(record: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs of an earlier record that were not made anew, of as many documents and tokens; each names its source."""
    before = json.loads(record.read_text())["runs"] if record.exists() else []
    anew = {(row["set"], row["variant"]) for row in rows}
    alike = {name: settings[name] for name in ("documents", "max_length")}
    known = [run for run in before if run["variant"] in VARIANTS | TRAINABLE and run.items() >= alike.items()]
    return [run for run in known if (run["set"], run["variant"]) not in anew]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--texts",
        type=Path,
        required=True,
        help="folder of text sets, each with corpus.jsonl(.gz), labels.tsv, taxonomy.tsv, gold.tsv",
    )
    parser.add_argument("--sets", nargs="+", help="these alone; 20news5 is made from 20news")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these alone, by name")
    parser.add_argument("--trainable", action="store_true", help="also train the encoder: hours without a GPU")
    parser.add_argument("--documents", type=int, help="so many of each set at most, from a seed")
    parser.add_argument("--max-length", type=int, default=128, help="tokens read of a document (128)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "study", help="runs; default results/study")
    shown = ROOT / "benchmarks" / "results"
    parser.add_argument("--tables", type=Path, default=shown, help="table, plot, JSON; default benchmarks/results")
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - {*VARIANTS, *TRAINABLE}
    if unknown:
        parser.error(f"--only {min(unknown)!r}: is none of {', '.join([*VARIANTS, *TRAINABLE])}")
    known = list(text_sets(arguments.texts))
    unknown = set(arguments.sets or ()) - set(known)
    if unknown or not known:
        which = f"--sets {min(unknown)!r}: is none of" if unknown else "no text sets among"
        parser.error(f"{which} {', '.join(known) or 'the folders'} in {arguments.texts}")
    arguments.out, arguments.texts = arguments.out.resolve(), arguments.texts.resolve()
    return arguments


def slug(name: str) -> str:
    return "".join(each if each.isalnum() else "_" for each in name)


# ---- text sets


def text_sets(folder: Path) -> dict[str, Callable[[int | None, Path], TextSet]]:
    """Those of a folder, by name, each to be cut to so many documents and written to a folder of its own; and the five
    top classes of 20 Newsgroups, where these are there."""
    found: dict[str, Callable[[int | None, Path], TextSet]] = {}
    for path in sorted(folder.glob("*/labels.tsv")):
        found[path.parent.name] = partial(whole, path.parent)
        if path.parent.name == "20news":
            found |= {f"20news5-{field}": partial(five_tops, path.parent, field) for field in ("text", "body")}
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    path = next(folder.glob("corpus.jsonl*"))
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as handle:
        return [json.loads(line) for line in handle]


def whole(folder: Path, documents: int | None, out: Path) -> TextSet:
    records = write_corpus(read(folder), documents, out)
    corpus = str(out / "corpus.jsonl")
    files = {
        "classes_file": str(folder / "labels.tsv"),
        "hierarchy_file": str(folder / "taxonomy.tsv"),
        "gold_labels": str(folder / "gold.tsv"),
        "train_corpus": corpus,
    }
    if {record.get("split") for record in records} == {"train", "test"}:
        files |= {"train_split": "train", "test_corpus": corpus, "test_split": "test"}
    return TextSet(folder.name, files)


def five_tops(folder: Path, field: str, documents: int | None, out: Path) -> TextSet:
    """20 Newsgroups as published class-name-only methods use it: five classes, without a taxonomy, both splits."""
    keys = {}
    for line in (folder / "labels.tsv").read_text().splitlines()[1:]:
        number, _, _, key = line.split("\t")
        keys[number] = key
    own = {
        key: row
        for row, places in enumerate(FIVE.values())
        for key in keys.values()
        if any(key == place or key.startswith(f"{place}/") for place in places)
    }
    gold = {}
    for line in (folder / "gold.tsv").read_text().splitlines():
        doc_id, _, numbers = line.partition("\t")
        rows = {own[keys[number]] for number in numbers.split(",") if keys[number] in own}
        if len(rows) == 1:
            gold[doc_id] = rows.pop()
    records = [
        {"doc_id": each["doc_id"], "split": each["split"], "text": each[field]}
        for each in read(folder)
        if each["doc_id"] in gold and each[field].strip()
    ]
    write_corpus(records, documents, out)
    (out / "classes.tsv").write_text("".join(f"{row}\t{name}\n" for row, name in enumerate(FIVE)))
    (out / "hierarchy.tsv").write_text("")
    (out / "gold.tsv").write_text("".join(f"{doc_id}\t{row}\n" for doc_id, row in gold.items()))
    files = {
        "classes_file": str(out / "classes.tsv"),
        "hierarchy_file": str(out / "hierarchy.tsv"),
        "gold_labels": str(out / "gold.tsv"),
        "train_corpus": str(out / "corpus.jsonl"),
    }
    return TextSet(f"20news5-{field}", files | FLAT)


def write_corpus(records: list[dict[str, Any]], documents: int | None, out: Path) -> list[dict[str, Any]]:
    """Write corpus.jsonl, of ``documents`` of the records, and give back which."""
    if documents is not None and documents < len(records):
        chosen = set(random.Random(SEED).sample(range(len(records)), documents))
        records = [record for row, record in enumerate(records) if row in chosen]
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path = out / "corpus.jsonl"
    if not path.exists() or path.read_text() != lines:  # Snakemake looks at its time
        path.write_text(lines)
    return records


# ---- runs


def run(
    text_set: TextSet, switch: dict[str, Any], arguments: argparse.Namespace, folder: Path, target: str
) -> dict[str, Any]:
    """One run of the workflow: its metrics, or its last word; of ``similarity`` alone, those of the floor."""
    config = folder / "config.json"
    length = {"similarity_max_length": arguments.max_length, "doc_max_length": arguments.max_length}
    results = folder / "results"
    config.write_text(json.dumps({"results": str(results), "taxoclass": text_set.settings | length | switch}, indent=1))
    command = [
        *(sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--workflow-profile", str(ROOT / "profiles" / "default")),
        *("--cores", str(arguments.threads), "--resources", "gpu=1", "--configfile", str(config)),
    ]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - started
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1], "seconds": seconds}
    stages = {path.stem: json.loads(path.read_text()) for path in (results / "taxoclass" / "provenance").glob("*.json")}
    if target == "similarity":
        answer = folder / "floor.answer"
        command = [sys.executable, str(Path(__file__).with_name("floor.py")), str(results / "taxoclass")]
        command += [text_set.settings["gold_labels"], str(answer)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")})
        found = json.loads(answer.read_text())
    else:
        found = json.loads((results / "taxoclass" / "metrics.json").read_text())
    return {
        "strict": found["strict"]["example_f1"],
        "interval": found["intervals"]["strict.example_f1"],
        "compat": found["compat"]["example_f1"],
        "compat_interval": found["intervals"]["compat.example_f1"],
        "p_at_1": found["strict"]["p_at_1"],
        "micro_f1": found["micro_f1"],
        "macro_f1": found["macro_f1"],
        "level_f1": {level: each["f1"] for level, each in found["level_f1"].items()},
        "core_class_precision": found.get("core_class_precision"),
        "documents_evaluated": found["documents"],
        "seconds": round(seconds, 1),
        "stage_seconds": {name: record.get("seconds") for name, record in stages.items()},
    }


# ---- what was found


def head(settings: dict[str, Any]) -> str:
    box = machine()
    cut = "all documents" if settings["documents"] is None else f"{settings['documents']:,} documents of each set"
    return (
        f"{box['cpu']}, {box['cores']} cores, {box['memory_gb']} GB; {settings['threads']} threads, {cut}, "
        f"{settings['max_length']} tokens each"
    )


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "set": lambda row: row["set"],
    "switch": lambda row: row["variant"],
    "Example-F1": lambda row: f"{row['strict']:.3f}",
    "95 %": lambda row: "{:.3f} to {:.3f}".format(*row["interval"]),
    "compat": lambda row: f"{row['compat']:.3f}",
    "P@1": lambda row: f"{row['p_at_1']:.3f}",
    "micro": lambda row: f"{row['micro_f1']:.3f}",
    "macro": lambda row: f"{row['macro_f1']:.3f}",
    "F1 by level": lambda row: " ".join(f"{value:.3f}" for value in row["level_f1"].values()),
    "cores right": lambda row: f"{row['core_class_precision']:.3f}" if row["core_class_precision"] is not None else "",
    "seconds": lambda row: f"{row['seconds']:.0f}",
    "source": lambda row: row["source"],
}


def table(rows: list[dict[str, Any]], variants: list[str]) -> str:
    ordered = sorted(rows, key=lambda row: (row["set"], variants.index(row["variant"])))
    return written.aligned(tuple(COLUMNS), [tuple(show(row) for show in COLUMNS.values()) for row in ordered])


def plot(rows: list[dict[str, Any]], variants: list[str], path: Path) -> None:
    """Example-F1 of every switch with its interval, a panel a set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = sorted({row["set"] for row in rows})
    figure, axes = plt.subplots(
        1, len(sets), figsize=(3 + 2.6 * len(sets), 1 + 0.28 * len(variants)), sharey=True, layout="constrained"
    )
    for axis, name in zip([axes] if len(sets) == 1 else axes, sets, strict=True):
        own = {row["variant"]: row for row in rows if row["set"] == name}
        for place, variant in enumerate(variants):
            if variant in own:
                low, high = own[variant]["interval"]
                axis.plot([low, high], [place, place], "-", color="C0", alpha=0.5)
                axis.plot(own[variant]["strict"], place, "o", color="C3" if variant == "defaults" else "C0", ms=4)
        if "defaults" in own:
            axis.axvline(own["defaults"]["strict"], color="C3", lw=0.8, alpha=0.6)
        axis.set_title(name, fontsize="medium")
        axis.set_xlabel("Example-F1")
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(variants)), variants)
    figure.gca().invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
