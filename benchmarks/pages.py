"""make figures: the measured tables of README.md and docs/measured.md, from the records of make bench and make study.

A table stands between two marks that name the command which measures it. Nothing is measured here: the same records
give the same pages, and a test compares.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import written
from bench import ORDER
from measure import ROOT, duration

RECORDS = ROOT / "benchmarks" / "results"
README, MEASURED = ROOT / "README.md", ROOT / "docs" / "measured.md"
# of some rows one comparison
IN_SHORT = {"spearman_complete": 1, "spearman_random_missing": 0, "vif": 1, "correlated_selection": 0}
FLOOR, DEFAULTS = "floor: best path by cosine", "defaults"
SETS = {
    "wos1k": "WOS, {:,} abstracts (the demo's)",
    "reuters21578": "Reuters-21578, {:,} of test",
    "20news": "20 Newsgroups, {:,} of test",
    "debtags": "Debian packages by tags, {:,} (gold is crowd-sourced)",
}
CLASSES = {"wos1k": "7 + 132", "reuters21578": "8 + 87", "20news": "6 + 20", "debtags": "19 + 373 + 65"}
CARRYING = {  # most of the result
    "no words of names": "no words of class names (`word_weight: 0`)",
    "mining: taxoclass": "`mining: taxoclass`",
    "decode: path": "`decode: path`",
}
OTHERS = {
    "no clusters in mining": "no clusters of documents (`clusterings: 0`)",
    "gnn: off": "`gnn: off`",
    "no self-training": "no self-training (`self_train_iterations: 0`)",
}
PAPER = "the paper's choices"
SWITCHES = {DEFAULTS: "**defaults**", **CARRYING, **OTHERS, PAPER: f"{PAPER} together"}
# micro-F1 / macro-F1 on the five classes, in percent, of their own papers
PUBLISHED = {
    "WeSTClass": "71.3 / 69.9",
    "LOTClass": "73.8 / 72.5",
    "ConWea": "75.7 / 73.3",
    "X-Class, BERT-base": "81.4 / 80.6",
}
SUPERVISED = ("supervised, BERT", "96.5")
THEIRS = 17_871  # documents of the five classes, autos and motorcycles among the sports


def main() -> None:
    for page, blocks in pages().items():
        written.renew(page, blocks)
        print(page.relative_to(ROOT))


def pages() -> dict[Path, dict[str, list[str]]]:
    """The lines of each table, by its page and mark."""
    bench, study = (json.loads((RECORDS / f"{name}.json").read_text()) for name in ("bench", "study"))
    return {
        README: {
            "real molecules, by make bench": real_molecules(bench),
            "in short, by make bench": in_short(bench),
            "corpora, by make study": corpora(study),
        },
        MEASURED: {
            "speed, by make bench": speed(bench),
            "five classes, by make study": five_classes(study),
            "switches, by make study": switches(study),
        },
    }


# ---- make bench


def real_molecules(bench: dict[str, Any]) -> list[str]:
    """What a run on the real descriptors takes."""
    real = bench["rows"]["passes_real"]
    first, later = (real["details"][run] for run in ("first run ever", "later runs"))
    largest = max(stage["peak_memory_bytes"] for stage in later.values() if isinstance(stage, dict))
    return [
        f"{real['size']} RDKit descriptors of the NCI HIV screen (MoleculeNet, nine files, not shipped) take "
        f"{duration(later['wall'])} and {largest / 1e9:.2f} GB at most, {duration(first['wall'])} the first time "
        "on a machine, which compiles the inner loops."
    ]


def in_short(bench: dict[str, Any]) -> list[str]:
    """One comparison of some rows."""
    chosen = [(bench["rows"][name], place) for name, place in IN_SHORT.items()]
    lines = [(row["work"], row["size"], *beside(row["comparisons"][place])) for row, place in chosen]
    return written.markdown(("work", "size", "winnow", "against", "reached"), lines)


def speed(bench: dict[str, Any]) -> list[str]:
    """Every comparison of every row that was measured, and where."""
    lines = []
    for row in (row for name in ORDER if "error" not in (row := bench["rows"][name])):
        work, size = row["work"], row["size"]
        for each in row["comparisons"]:
            lines.append((work, size, *beside(each)))
            work = size = ""
    box = bench["machine"]
    return [
        f"{box['cpu']}, {box['cores']} cores shared with others, {box['memory_gb']} GB, "
        f"{bench['settings']['threads']} threads a side:",
        "",
        *written.markdown(("work", "size", "winnow", "against", "reached"), lines),
    ]


def beside(each: dict[str, Any]) -> tuple[str, str, str]:
    """Ours, the peer or the limit with its own value, and what was reached."""
    peer, theirs = each["against"], re.sub(r"\d\S*e\+\d+", lambda found: f"{float(found[0]):,.0f}", each["theirs"])
    against = f"limit: {peer}" if theirs in peer else f"{peer}: {theirs}"  # a limit's name has its value
    return each["ours"], against, written.quantity(each["reached"], each["unit"])


# ---- make study


def corpora(study: dict[str, Any]) -> list[str]:
    """F1 of the text sets, with the floor."""
    found, lines = by_name(study), []
    for name, title in SETS.items():
        run = found[name, DEFAULTS]
        floor, ours = found[name, FLOOR], "{} ({} to {})".format(*map(share, (run["strict"], *run["interval"])))
        documents = title.format(run["documents_evaluated"])
        lines.append((documents, CLASSES[name], share(floor["strict"]), ours, share(run["p_at_1"])))
    return [
        "Example-F1 of the decoded labels, from class names alone, all-MiniLM-L6-v2 on a CPU, default settings, "
        f"{study['settings']['max_length']} tokens a document:",
        "",
        *written.markdown(("corpus", "classes", "floor", "winnow (95 % interval)", "P@1"), lines),
    ]


def five_classes(study: dict[str, Any]) -> list[str]:
    """20 Newsgroups with five names and no taxonomy, beside published figures."""
    found = by_name(study)

    def both(name: str, variant: str) -> str:
        run = found[name, variant]
        return f"{100 * run['micro_f1']:.1f} / {100 * run['macro_f1']:.1f}"

    ours = ("**winnow**, MiniLM on a CPU, fixed vectors", f"**{both('20news5-text', DEFAULTS)}**")
    documents = found["20news5-text", DEFAULTS]["documents_evaluated"]
    part = "" if documents == THEIRS else f" of their {THEIRS:,}, without the autos and motorcycles among their sports"
    return [
        f"Both splits, {documents:,} documents{part}:",
        "",
        *written.markdown(("", "micro-F1 / macro-F1"), [*PUBLISHED.items(), ours, SUPERVISED]),
        "",
        f"Without headers, on the field `body`, winnow has {both('20news5-body', DEFAULTS)} and the floor "
        f"{both('20news5-body', FLOOR)}.",
    ]


def switches(study: dict[str, Any]) -> list[str]:
    """F1 with one switch turned at a time, on the sets that have all of them."""
    found = by_name(study)
    sets = [name for name in SETS if (name, PAPER) in found]
    lines = [(title, *(share(found[name, switch]["strict"]) for name in sets)) for switch, title in SWITCHES.items()]
    moved = [abs(found[name, switch]["strict"] - found[name, DEFAULTS]["strict"]) for name in sets for switch in OTHERS]
    return [
        *written.markdown(("", *(SETS[name].split(",")[0] for name in sets)), lines),
        "",
        "Words of the class names, mining by a look at the whole corpus, and decoding for the expected F1 carry most "
        f"of it. The other switches of the table move it by {share(max(moved))} at most.",
    ]


def by_name(study: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(run["set"], run["variant"]): run for run in study["runs"]}


def share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
