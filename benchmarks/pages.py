"""make figures: the measured tables of README.md, from the records that make bench and make study leave.

A table stands between two marks that name the command which measures it. Nothing is measured here: the same records
give the same page, and a test compares.
"""

from __future__ import annotations

import json
from typing import Any

import written
from bench import ORDER
from measure import ROOT, duration

RECORDS = ROOT / "benchmarks" / "results"
FLOOR, DEFAULTS = "floor: best path by cosine", "defaults"
SETS = {
    "wos1k": "WOS, 1,000 abstracts (the demo's)",
    "reuters21578": "Reuters-21578, 3,019 of test",
    "20news": "20 Newsgroups, 7,532 of test",
    "debtags": "Debian packages by tags, 19,096 (gold is crowd-sourced)",
}
CLASSES = {"wos1k": "7 + 132", "reuters21578": "8 + 87", "20news": "6 + 20", "debtags": "19 + 373 + 65"}
SWITCHES = {
    DEFAULTS: "**defaults**",
    "no words of names": "no words of class names (`word_weight: 0`)",
    "mining: taxoclass": "`mining: taxoclass`",
    "no clusters in mining": "no clusters of documents (`clusterings: 0`)",
    "gnn: off": "`gnn: off`",
    "no self-training": "no self-training (`self_train_iterations: 0`)",
    "decode: path": "`decode: path`",
    "the paper's choices": "the paper's choices together",
}
# micro-F1 / macro-F1 on the five classes, in percent, of their own papers
PUBLISHED = {
    "WeSTClass": "71.3 / 69.9",
    "LOTClass": "73.8 / 72.5",
    "ConWea": "75.7 / 73.3",
    "X-Class, BERT-base": "81.4 / 80.6",
}
SUPERVISED = ("supervised, BERT", "96.5")


def main() -> None:
    written.renew(ROOT / "README.md", blocks())
    print("README.md")


def blocks() -> dict[str, list[str]]:
    """The lines of each table, by its mark."""
    bench, study = (json.loads((RECORDS / f"{name}.json").read_text()) for name in ("bench", "study"))
    return speed(bench) | quality(study)


# ---- make bench


def speed(bench: dict[str, Any]) -> dict[str, list[str]]:
    """Every comparison of every row that was measured, and where."""
    rows = {name: row for name in ORDER if "error" not in (row := bench["rows"][name])}
    lines = []
    for row in rows.values():
        work, size = row["work"], row["size"]
        for each in row["comparisons"]:
            peer, theirs = each["against"], each["theirs"]
            against = f"limit: {peer}" if theirs in peer else f"{peer}: {theirs}"  # a limit's name has its value
            lines.append((work, size, each["ours"], against, written.quantity(each["reached"], each["unit"])))
            work = size = ""
    box, real = bench["machine"], rows["passes_real"]
    first, later = (real["details"][run] for run in ("first run ever", "later runs"))
    largest = max(stage["peak_memory_bytes"] for stage in later.values() if isinstance(stage, dict))
    return {
        "real molecules, by make bench": [
            f"{real['size']} RDKit descriptors of the NCI HIV screen (MoleculeNet, nine files, not shipped) take "
            f"{duration(later['wall'])} and {largest / 1e9:.2f} GB at most, {duration(first['wall'])} the first time "
            "on a machine, which compiles the inner loops."
        ],
        "speed, by make bench": [
            f"{box['cpu']}, {box['cores']} cores shared with others, {box['memory_gb']} GB, "
            f"{bench['settings']['threads']} threads a side:",
            "",
            *written.markdown(("work", "size", "winnow", "against", "reached"), lines),
        ],
    }


# ---- make study


def quality(study: dict[str, Any]) -> dict[str, list[str]]:
    """F1 of the sets, of the five classes beside published figures, and of every switch."""
    found = {(run["set"], run["variant"]): run for run in study["runs"]}

    def f1(name: str, variant: str) -> str:
        return share(found[name, variant]["strict"]) if (name, variant) in found else ""

    def both(name: str, variant: str) -> str:
        return "{micro_f1:.1f} / {macro_f1:.1f}".format(
            **{key: 100 * found[name, variant][key] for key in ("micro_f1", "macro_f1")}
        )

    corpora = []
    for name, title in SETS.items():
        run = found[name, DEFAULTS]
        ours = "{} ({} to {})".format(*map(share, (run["strict"], *run["interval"])))
        corpora.append((title, CLASSES[name], f1(name, FLOOR), ours, share(run["p_at_1"])))
    five = [*PUBLISHED.items(), ("**winnow**, MiniLM on a CPU, fixed vectors", f"**{both('20news5-text', DEFAULTS)}**")]
    three = [name for name in SETS if (name, "the paper's choices") in found]
    switches = [(title, *(f1(name, switch) for name in three)) for switch, title in SWITCHES.items()]
    return {
        "corpora, by make study": written.markdown(
            ("corpus", "classes", "floor", "winnow (95 % interval)", "P@1", "no self-training"), corpora
        ),
        "without headers, by make study": [
            f"Without headers, on the field `body`, winnow has {both('20news5-body', DEFAULTS)} and the floor "
            f"{both('20news5-body', FLOOR)}:"
        ],
        "five classes, by make study": written.markdown(("", "micro-F1 / macro-F1"), [*five, SUPERVISED]),
        "switches, by make study": written.markdown(("", *(SETS[name].split(",")[0] for name in three)), switches),
    }


def share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
