"""Every descriptor that went is traced to exactly one that stayed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descriptors.lineage import HEADER, LARGEST, Parent, cluster_info, removal_table, roots

PASSES = ("pass2", "pass3", "pass4")


@st.composite
def forests(draw):
    """Columns in file order, the final ones, and the parents of the others: every parent goes later, or never."""
    n = draw(st.integers(0, 30))
    names = [f"d{i}" for i in draw(st.permutations(range(n)))]
    parents = {}
    for place in range(1, n):
        if draw(st.booleans()):
            parent = names[draw(st.integers(0, place - 1))]
            in_pass = draw(st.sampled_from((2, 3, 4)))
            parents[names[place]] = Parent(parent, in_pass, draw(st.floats(0, 1)), "measure")
    columns = draw(st.permutations(names))
    return columns, [name for name in columns if name not in parents], parents


def climb(name, parents):
    """The root in the plainest way."""
    return climb(parents[name].parent, parents) if name in parents else name


@settings(deadline=None, max_examples=60)
@given(forests())
def test_the_root_is_where_the_climb_from_parent_to_parent_ends(forest):
    columns, _, parents = forest
    assert roots(columns, parents) == {name: climb(name, parents) for name in columns}


@settings(deadline=None, max_examples=60)
@given(forests())
def test_roots_are_the_final_list(forest):
    columns, final, parents = forest
    assert set(roots(columns, parents).values()) == set(final)


@settings(deadline=None, max_examples=60)
@given(forests())
def test_every_survivor_of_pass_1_is_in_exactly_one_cluster(forest):
    columns, final, parents = forest
    descriptors = cluster_info(columns, final, parents)["descriptors"]
    everyone = [name for kept, entry in descriptors.items() for name in (kept, *entry["alternative_descriptors"])]
    assert sorted(everyone) == sorted(columns)
    assert sum(entry["cluster_size"] for entry in descriptors.values()) == len(columns)
    assert list(descriptors) == final


@settings(deadline=None, max_examples=60)
@given(forests())
def test_alternatives_are_all_descendants_in_file_order(forest):
    columns, final, parents = forest
    descriptors = cluster_info(columns, final, parents)["descriptors"]
    for kept in final:
        expected = [name for name in columns if name != kept and climb(name, parents) == kept]
        assert descriptors[kept]["alternative_descriptors"] == expected


@settings(deadline=None, max_examples=60)
@given(forests())
def test_the_removal_history_holds_every_alternative_once_with_its_own_parent(forest):
    columns, final, parents = forest
    info = cluster_info(columns, final, parents)
    for entry in info["descriptors"].values():
        history = entry["removal_history"]
        assert tuple(history) == PASSES
        told = {step["descriptor"]: (key, step) for key in PASSES for step in history[key]}
        assert sorted(told) == sorted(entry["alternative_descriptors"])
        for name, (key, step) in told.items():
            link = parents[name]
            assert key == f"pass{link.in_pass}"
            assert step == {
                "descriptor": name,
                "parent": link.parent,
                "similarity": link.similarity,
                "measure": link.measure,
            }


@settings(deadline=None, max_examples=60)
@given(forests())
def test_statistics_add_up(forest):
    columns, final, parents = forest
    info = cluster_info(columns, final, parents)
    statistics, descriptors = info["statistics"], info["descriptors"]
    sizes = sorted((entry["cluster_size"] for entry in descriptors.values()), reverse=True)
    assert info["metadata"] == {"n_pass1": len(columns), "n_final": len(final)}
    assert statistics["cluster_size_distribution"] == {size: sizes.count(size) for size in sorted(set(sizes))}
    assert sum(statistics["removal_distribution"].values()) == len(columns) - len(final)
    assert [entry["cluster_size"] for entry in statistics["largest_clusters"]] == sizes[:LARGEST]
    for entry in statistics["largest_clusters"]:
        assert descriptors[entry["descriptor"]]["cluster_size"] == entry["cluster_size"]


def test_a_descriptor_that_went_later_takes_along_those_it_stood_for():
    columns = ["LogP", "ALogP", "MolWt", "HeavyAtoms"]
    parents = {
        "ALogP": Parent("LogP", 2, 0.97, "spearman"),
        "LogP": Parent("MolWt", 3, 0.91, "r2"),
        "HeavyAtoms": Parent("MolWt", 4, 0.83, "hsic+rdc"),
    }
    info = cluster_info(columns, ["MolWt"], parents)
    assert info["metadata"] == {"n_pass1": 4, "n_final": 1}
    assert info["statistics"] == {
        "cluster_size_distribution": {4: 1},
        "removal_distribution": {"pass2": 1, "pass3": 1, "pass4": 1},
        "largest_clusters": [{"descriptor": "MolWt", "cluster_size": 4}],
    }
    assert info["descriptors"]["MolWt"] == {
        "cluster_size": 4,
        "alternative_descriptors": ["LogP", "ALogP", "HeavyAtoms"],
        "removal_history": {
            "pass2": [{"descriptor": "ALogP", "parent": "LogP", "similarity": 0.97, "measure": "spearman"}],
            "pass3": [{"descriptor": "LogP", "parent": "MolWt", "similarity": 0.91, "measure": "r2"}],
            "pass4": [{"descriptor": "HeavyAtoms", "parent": "MolWt", "similarity": 0.83, "measure": "hsic+rdc"}],
        },
    }
    assert info["parents"]["ALogP"] == {"parent": "LogP", "pass": 2, "similarity": 0.97, "measure": "spearman"}
    assert list(info["parents"]) == ["LogP", "ALogP", "HeavyAtoms"]
    json.dumps(info, allow_nan=False)


def test_equally_large_clusters_are_listed_in_file_order_and_ten_at_most():
    columns = [f"d{i}" for i in range(15)]
    parents = {"d14": Parent("d13", 2, 1.0, "spearman")}
    largest = cluster_info(columns, columns[:14], parents)["statistics"]["largest_clusters"]
    assert [entry["descriptor"] for entry in largest] == ["d13", *columns[:9]]


@pytest.mark.parametrize("forwards", [True, False])
def test_a_chain_of_ten_thousand_has_one_root(forwards):
    columns = [f"d{i}" for i in range(10_000)]
    parents = {f"d{i}": Parent(f"d{i + 1}", 3, 0.9, "r2") for i in range(9_999)}
    order = columns if forwards else columns[::-1]
    assert set(roots(order, parents).values()) == {"d9999"}
    assert cluster_info(order, ["d9999"], parents)["descriptors"]["d9999"]["cluster_size"] == 10_000


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle_is_refused_and_one_of_its_members_named(length):
    parents = {f"c{i}": Parent(f"c{(i + 1) % length}", 2, 1.0, "spearman") for i in range(length)}
    parents["tail"] = Parent("c0", 2, 1.0, "spearman")
    with pytest.raises(ValueError, match=r"lineage: c\d stands for itself"):
        roots(["free", "tail", *(f"c{i}" for i in range(length))], parents)


@pytest.mark.parametrize(
    ("final", "parents", "message"),
    [
        (["a", "b"], {"c": Parent("x", 2, 1.0, "m")}, "c -> x, but x is not a survivor of pass 1"),
        (["a", "b"], {"x": Parent("c", 2, 1.0, "m")}, "x -> c, but x is not a survivor of pass 1"),
        (["a", "b", "c"], {"c": Parent("a", 2, 1.0, "m")}, "c is final and yet an alternative of a"),
        (["a", "b"], {}, "c is neither final nor removed"),
        (["a", "b", "c", "x"], {}, "x is final, but not a survivor of pass 1"),
        (["a", "b", "c", "a"], {}, "a is 2 times among the final descriptors"),
        (["a", "b"], {"c": Parent("a", 1, 1.0, "m")}, "c was removed by pass 1"),
    ],
)
def test_what_contradicts_itself_is_refused_and_the_descriptor_named(final, parents, message):
    with pytest.raises(ValueError, match=message):
        cluster_info(["a", "b", "c"], final, parents)


def test_a_survivor_that_counts_twice_is_refused():
    with pytest.raises(ValueError, match="a is 2 times among the survivors of pass 1"):
        cluster_info(["a", "b", "a"], ["a", "b"], {})


def test_no_columns_at_all_make_an_empty_report():
    info = cluster_info([], [], {})
    assert info["metadata"] == {"n_pass1": 0, "n_final": 0}
    assert info["statistics"]["cluster_size_distribution"] == {}


def test_the_removal_table_names_reason_favourite_and_root():
    parents = {
        "c": Parent("b", 3, 0.99, "r2"),
        "d": Parent("c", 2, -0.96, "spearman"),
        "e": Parent("b", 3, 1.0, "r2"),
    }
    reasons = {"c": "variance inflation", "d": "redundant", "e": "exact dependence"}
    rows = removal_table(["b", "c", "d", "e"], parents, {"flat": ["constant", "too few values"]}, reasons)
    assert HEADER == ("descriptor", "pass", "reason", "in_favour_of", "similarity", "measure", "root")
    assert rows == [
        ("flat", 1, "constant; too few values", "", "", "", ""),
        ("d", 2, "redundant", "c", -0.96, "spearman", "b"),
        ("c", 3, "variance inflation", "b", 0.99, "r2", "b"),
        ("e", 3, "exact dependence", "b", 1.0, "r2", "b"),
    ]


@settings(deadline=None, max_examples=60)
@given(forests())
def test_the_removal_table_has_one_row_for_every_descriptor_that_went(forest):
    columns, final, parents = forest
    rows = removal_table(columns, parents, {"flat": ["constant"]}, dict.fromkeys(parents, "redundant"))
    assert sorted(row[0] for row in rows) == sorted(["flat", *parents])
    assert all(len(row) == len(HEADER) for row in rows)
    assert all(row[6] in final for row in rows[1:])
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)


def test_a_descriptor_cannot_both_go_in_pass_1_and_survive_it():
    with pytest.raises(ValueError, match="a was removed by pass 1 and survived it"):
        removal_table(["a"], {}, {"a": ["constant"]}, {})


def test_a_descriptor_cannot_go_without_a_reason():
    with pytest.raises(ValueError, match="b was removed by pass 2 without a reason"):
        removal_table(["a", "b"], {"b": Parent("a", 2, 1.0, "m")}, {}, {})
