"""The parts of the report: what is counted, and that names stay names."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from reporting import labelling, page, pictures, run, selection
from reporting.page import Branch, Picture, Section, Table, Tree
from taxoclass.taxonomy import Taxonomy

TEMPLATE = (ROOT / "scripts" / "reporting" / "page.html.j2").read_text()
HOSTILE = '</script><img src=x onerror="alert(1)">&amp;{{ 7 * 7 }}'
NAMES = ["animals", "cats", "dogs", "music", "jazz"]
TAXONOMY = Taxonomy(
    ids=("a", "c", "d", "m", "j"), names=tuple((name,) for name in NAMES), edges=np.array([[0, 1], [0, 2], [3, 4]])
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (float("nan"), ""), (1234567, "1,234,567"), (0.70182, "0.702"), (1e-7, "1e-07"), (56789.0, "5.68e+04"),
     ("x", "x"), (-0.25, "-0.250"), (0, "0"), (np.float64(0.5), "0.500")],
)  # fmt: skip
def test_a_cell_shows_what_says_something(value, text):
    assert page.cell(value) == text


def test_names_from_the_data_are_never_markup():
    section = Section(
        HOSTILE,
        HOSTILE,
        (
            Table((HOSTILE,), [(HOSTILE,)], HOSTILE, search=HOSTILE),
            Tree([Branch(HOSTILE, HOSTILE, [Branch(HOSTILE, "")])], HOSTILE),
            Picture("<svg></svg>", HOSTILE),
        ),
    )
    html = page.render(TEMPLATE, HOSTILE, {HOSTILE: [section]})
    assert "<img" not in html and "{{ 7 * 7 }}" in html and "49" not in html.split("</style>")[1]
    assert html.count("<script>") == html.count("</script>") == 1


def drawn(text: str) -> str:
    with pictures.figure(3, 2) as figure:
        axes = figure.subplots()
        axes.imshow(np.eye(3))
        axes.set_title(text)
        return pictures.svg(figure)


def test_a_picture_takes_the_colour_of_the_text_and_fetches_nothing():
    svg = drawn("a < b & c")
    assert svg == drawn("a < b & c")
    assert "currentColor" in svg and pictures.INK not in svg
    assert "a &lt; b &amp; c" in svg
    assert all(link.startswith(("#", "data:image/png")) for link in re.findall(r'href="([^"]*)"', svg))
    assert "width=" not in svg[: svg.index(">")] and "viewBox" in svg[: svg.index(">")]


def test_who_stands_for_a_dropped_descriptor_is_told_step_by_step():
    links = {
        "a": {"parent": "b", "pass": 2, "measure": "Spearman", "similarity": 0.97},
        "b": {"parent": "c", "pass": 4, "measure": "HSIC + RDC", "similarity": 0.8},
    }
    assert selection.chain("a", links) == "a → b (pass 2, Spearman 0.97) → c (pass 4, HSIC + RDC 0.80)"
    assert selection.chain("c", links) == "c"


acyclic = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] < pair[1]), unique=True)


@given(acyclic)
def test_without_shortcuts_what_is_reached_is_the_same_and_no_edge_is_too_many(edges):
    def reached(edges):
        matrix = np.eye(9, dtype=int)
        for one, other in edges:
            matrix[one, other] = 1
        return np.linalg.matrix_power(matrix, 9) > 0

    left = run.without_shortcuts(9, edges)
    assert set(left) <= set(edges) and np.array_equal(reached(left), reached(edges))
    for edge in left:
        assert not np.array_equal(reached([other for other in left if other != edge]), reached(edges))


@pytest.mark.parametrize(
    ("jobs", "edges", "arrows"),
    [
        ({"pass1": 1}, [], 0),
        ({"a": 3}, [["a", "a"]], 0),
        ({"a": 1, "b": 2, "<c>": 1, "d": 1}, [["a", "b"], ["b", "<c>"], ["a", "<c>"], ["a", "d"]], 3),
    ],
)
def test_the_picture_of_the_rules_has_each_of_them_and_its_arrows(monkeypatch, jobs, edges, arrows):
    drawn = []
    monkeypatch.setattr(pictures, "svg", lambda figure, real=pictures.svg: drawn.append(figure) or real(figure))
    svg = run.rules({"jobs": jobs, "edges": edges}).svg
    for name, number in jobs.items():
        told = name.replace("<", "&lt;").replace(">", "&gt;") + (f" ({number} jobs)" if number > 1 else "")
        assert svg.count(f">{told}<") == 1
    [axes] = drawn[0].axes
    assert sum(text.arrow_patch is not None for text in axes.texts if hasattr(text, "arrow_patch")) == arrows


def test_a_run_that_made_no_files_has_no_picture_of_rules():
    # snakemake cost
    numbers = {"seconds": 1.0, "peak_memory_bytes": 1, "threads": 1, "peak_device_bytes": 0, "versions": {}}
    texts = dict.fromkeys(("stage", "device", "code", "python", "machine"), "") | {"finished": "2026-01-01T00:00:00Z"}
    assert [each.title for each in run.sections([numbers | texts], {"jobs": {}, "edges": []})] == ["Stages"]


rows = st.lists(st.integers(0, 4), unique=True, max_size=3)
documents = st.lists(st.tuples(rows, rows, st.floats(0, 1)), max_size=40)


@given(documents)
def test_a_tally_is_what_counting_all_labels_gives(found):
    records, gold = [], {}
    for number, (given_rows, true, score) in enumerate(found):
        records.append(
            {
                "doc_id": f"d{number}",
                "labels": [TAXONOMY.ids[row] for row in given_rows],
                "names": [NAMES[row] for row in given_rows],
                "scores": [score] * len(given_rows),
                "path": [TAXONOMY.ids[row] for row in given_rows[:1]],
                "path_score": score if given_rows else None,
            }
        )
        if true:
            gold[f"d{number}"] = frozenset(true)
    told = labelling.tally(records, TAXONOMY, gold)
    assert told.documents == len(found)
    for row in range(len(NAMES)):
        having = [score for given_rows, _, score in found if row in given_rows]
        assert told.counts[row] == len(having)
        assert told.scores[row] == pytest.approx(sum(having))
    wrong = [(set(g), set(t)) for g, t, _ in found if t and set(g) != set(t)]
    assert told.n_wrong == len(wrong) == len(told.wrong)
    level = TAXONOMY.level
    pairs = [(one, other) for g, t in wrong for one in t - g for other in g - t if level[one] == level[other]]
    assert sum(told.confused.values()) == len(pairs) and set(told.confused) == set(pairs)
    scores = sorted(score for given_rows, _, score in found if given_rows)
    assert sorted(key for key, *_ in told.best) == scores[-labelling.EXAMPLES :]
    assert sorted(-key for key, *_ in told.worst) == scores[: labelling.EXAMPLES]


def test_only_so_many_errors_are_kept_and_the_most_wrong_ones():
    def record(number: int, label: str) -> dict:
        return {
            "doc_id": str(number),
            "labels": [label],
            "names": ["x"],
            "scores": [0.5],
            "path": [label],
            "path_score": 0.5,
        }

    records = [record(k, "c") for k in range(labelling.ERRORS)] + [record(k, "m") for k in range(1000, 1007)]
    gold = {each["doc_id"]: frozenset([0, 1]) for each in records}
    told = labelling.tally(records, TAXONOMY, gold)
    assert told.n_wrong == labelling.ERRORS + 7 and len(told.wrong) == labelling.ERRORS
    assert sum(kept["f1"] == 0 for *_, kept in told.wrong) == 7
