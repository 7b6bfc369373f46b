"""Taxonomy files become one directed acyclic graph, or one line that says which file and line is wrong."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from random_taxonomies import closed
from taxoclass import reading, taxonomy
from taxoclass.reading import lines, read_taxonomy
from taxoclass.taxonomy import Taxonomy

FOLDERS = ["wos1k", "20news", "reuters21578", "debtags"]
HEADER_WORDS = ["id", "class", "label", "parent", "source", "name", "key"]

CLASSES = "a\tanimals\nb\tbirds\nc\tcats|felines\nd\tdogs\n"
EDGES = "a\tb\na\tc\na\td\n"


def made(edges: list[tuple[int, int]], count: int, **others) -> Taxonomy:
    ids = tuple(f"c{row}" for row in range(count))
    names = tuple((f"name {row}",) for row in range(count))
    return Taxonomy(ids, names, np.array(edges, dtype=np.int64).reshape(-1, 2), **others)


@st.composite
def graphs(draw, acyclic: bool = True, most: int = 9) -> tuple[list[tuple[int, int]], int]:
    """Edges and the number of classes; rows are in no particular order, and some classes stand alone."""
    count = draw(st.integers(1, most))
    place = draw(st.permutations(range(count)))
    pairs = [(a, b) for a in range(count) for b in range(count) if (place[a] < place[b] if acyclic else a != b)]
    return (draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2 * count)) if pairs else []), count


@pytest.fixture
def read(write):
    def read_files(classes=CLASSES, edges=EDGES, keywords=None, hierarchy="edges.tsv") -> Taxonomy:
        return read_taxonomy(
            None if classes is None else write("classes.txt", classes),
            write(hierarchy, edges),
            None if keywords is None else write("keywords.tsv", keywords),
        )

    return read_files


@pytest.fixture
def refusal(read, tmp_path):
    def refuse(*arguments, **named) -> str:
        """The one line that refuses the files, without the folder."""
        with pytest.raises(UserError) as caught:
            read(*arguments, **named)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert message.startswith(str(tmp_path))  # a file is named first
        return message.replace(f"{tmp_path}/", "")

    return refuse


def named_edges(found: Taxonomy) -> set[tuple[str, str]]:
    return {(found.ids[parent], found.ids[child]) for parent, child in found.edges.tolist()}


def content(found: Taxonomy) -> tuple:
    return found.ids, found.names, found.edges.tolist(), found.descriptions


# ---- the graph, against plain Python


def ways_to(row: int, edges: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Every way from a root down to a class, by going up."""
    above = [parent for parent, child in edges if child == row]
    return [(*way, row) for parent in above for way in ways_to(parent, edges)] if above else [(row,)]


@given(graphs())
def test_parents_children_roots_and_leaves_are_read_off_the_edges(graph):
    edges, count = graph
    found = made(edges, count)
    for row in range(count):
        assert found.parents[row].tolist() == sorted(a for a, b in edges if b == row)
        assert found.children[row].tolist() == sorted(b for a, b in edges if a == row)
        assert found.leaves[row] == all(a != row for a, _ in edges)
    assert found.roots.tolist() == [row for row in range(count) if all(b != row for _, b in edges)]


@given(graphs())
def test_order_has_every_class_once_and_parents_first(graph):
    edges, count = graph
    order = made(edges, count).order.tolist()
    assert sorted(order) == list(range(count))
    assert all(order.index(parent) < order.index(child) for parent, child in edges)


@given(graphs())
def test_chains_are_all_ways_from_a_root_each_once(graph):
    edges, count = graph
    chains = made(edges, count).chains
    assert sorted(chains) == sorted(way for row in range(count) for way in ways_to(row, edges))


@given(graphs())
def test_a_chain_follows_the_chain_that_it_extends(graph):
    edges, count = graph
    chains = made(edges, count).chains
    for at, chain in enumerate(chains):
        assert len(chain) == 1 or chain[:-1] in chains[:at]


@given(graphs())
def test_level_is_the_shortest_way_from_a_root(graph):
    edges, count = graph
    expected = [min(len(way) for way in ways_to(row, edges)) - 1 for row in range(count)]
    assert made(edges, count).level.tolist() == expected


@given(graphs())
def test_ancestors_are_the_classes_on_any_way_from_a_root(graph):
    edges, count = graph
    found = made(edges, count).ancestors
    expected = np.zeros((count, count), dtype=bool)
    for row in range(count):
        expected[row, [other for way in ways_to(row, edges) for other in way[:-1]]] = True
    assert found.shape == (count, count)
    assert found.dtype == bool
    assert np.array_equal(found.toarray(), expected)


@given(graphs())
def test_siblings_are_the_other_children_of_all_parents_and_roots_are_siblings(graph):
    edges, count = graph
    found = made(edges, count)
    for row in range(count):
        above = {parent for parent, child in edges if child == row}
        family = {child for parent, child in edges if parent in above}
        if not above:
            family = set(range(count)) - {child for _, child in edges}
        assert found.siblings(row).tolist() == sorted(family - {row})


@given(graphs(), st.data())
def test_closed_adds_what_lies_on_any_way_to_the_classes(graph, data):
    edges, count = graph
    rows = data.draw(st.lists(st.integers(0, count - 1)))
    expected = {other for row in rows for way in ways_to(row, edges) for other in way}
    assert closed(made(edges, count), rows) == expected
    assert closed(made(edges, count), np.array(rows, dtype=np.int64)) == expected


@given(graphs(acyclic=False))
def test_a_cycle_is_found_exactly_where_a_class_reaches_itself(graph):
    edges, count = graph
    reach = np.zeros((count, count), dtype=bool)
    for edge in edges:
        reach[edge] = True
    for middle in range(count):
        reach |= reach[:, [middle]] & reach[[middle], :]
    found = made(edges, count)
    assert bool(found.cycle) == bool(reach.diagonal().any())
    if found.cycle:
        assert len(set(found.cycle)) == len(found.cycle)
        assert {*pairwise(found.cycle), (found.cycle[-1], found.cycle[0])} <= set(edges)
        with pytest.raises(ValueError, match=f"cycle: .*{found.ids[found.cycle[0]]}"):
            _ = found.order


def test_the_cycle_is_named_and_not_a_class_below_it():
    # row 0 hangs below the cycle: an earlier version named it
    found = made([(1, 2), (2, 1), (2, 0)], 3)
    assert set(found.cycle) == {1, 2}


def test_a_diamond_has_two_chains_to_its_end():
    found = made([(0, 1), (0, 2), (1, 3), (2, 3)], 4)
    assert found.chains == ((0,), (0, 1), (0, 1, 3), (0, 2), (0, 2, 3))
    assert found.level.tolist() == [0, 1, 1, 2]


def test_ragged_depth_a_shortcut_decides_the_level_but_adds_a_chain():
    found = made([(0, 1), (1, 2), (0, 2)], 3)
    assert found.level.tolist() == [0, 1, 1]
    assert sorted(found.chains) == [(0,), (0, 1), (0, 1, 2), (0, 2)]


def test_a_class_alone_is_root_and_leaf_and_its_own_chain():
    found = made([], 1)
    assert (found.roots.tolist(), found.leaves.tolist(), found.level.tolist()) == ([0], [True], [0])
    assert (found.chains, closed(found, [0]), found.siblings(0).tolist()) == (((0,),), {0}, [])
    assert found.ancestors.nnz == 0


def test_a_taxonomy_of_amazon_size_is_consistent():
    rng = np.random.default_rng(0)
    edges = {(int(rng.integers(6)), row) for row in range(6, 70)}
    edges |= {(int(rng.integers(6, 70)), row) for row in range(70, 531)}
    while len(edges) < 568:
        edges.add((int(rng.integers(6, 70)), int(rng.integers(70, 531))))
    found = made(sorted(edges), 531)
    assert np.bincount(found.level).tolist() == [6, 64, 461]
    assert len(found.chains) == 531 + 568 - 525  # every second parent adds a chain of its own
    assert found.ancestors.nnz >= 64 + 2 * 461
    assert all(closed(found, [chain[-1]]) >= set(chain) for chain in found.chains)


def test_too_many_chains_are_counted_and_refused_before_they_fill_the_memory(monkeypatch):
    layers = [(2 * k + a, 2 * k + 2 + b) for k in range(9) for a in (0, 1) for b in (0, 1)]
    assert len(made(layers, 20).chains) == 2**11 - 2
    monkeypatch.setattr(taxonomy, "MAX_CHAINS", 2**11 - 3)
    with pytest.raises(UserError, match="2,046 ways from a root to a class, and 2,045 are the limit; leave out"):
        _ = made(layers, 20).chains


def test_the_fingerprint_tells_ids_names_and_edges_apart_but_not_the_order_of_edges():
    one = made([(0, 1), (0, 2)], 3)
    assert one.fingerprint == made([(0, 2), (0, 1)], 3).fingerprint
    renamed = Taxonomy(one.ids, (("other",), *one.names[1:]), one.edges)
    other_id = Taxonomy(("x", *one.ids[1:]), one.names, one.edges)
    assert len({each.fingerprint for each in (one, renamed, other_id, made([(0, 1), (1, 2)], 3))}) == 4


@given(graphs(), st.booleans())
def test_a_taxonomy_comes_back_through_json_with_its_fingerprints(graph, described):
    more = {"descriptions": tuple(f"über {row}" for row in range(graph[1]))} if described else {}
    before = made(*graph, **more)
    names = tuple((each[0], '"quoted" | ü') for each in before.names)
    before = Taxonomy(before.ids, names, before.edges, before.descriptions)
    after = Taxonomy.fromdict(json.loads(json.dumps(before.asdict())))
    assert content(after) == content(before)
    assert (after.edges.dtype, after.edges.shape) == (np.int64, (len(graph[0]), 2))
    assert after.fingerprint == before.fingerprint
    assert after.descriptions_fingerprint == before.descriptions_fingerprint
    assert after.chains == before.chains


def test_descriptions_have_a_fingerprint_of_their_own():
    # other descriptions are other scores, not other classes: a model stays the model of these classes
    plain, described, other = (made([(0, 1)], 2, descriptions=each) for each in ((), ("a", ""), ("", "a")))
    assert len({each.descriptions_fingerprint for each in (plain, described, other)}) == 3
    assert len({each.fingerprint for each in (plain, described, other)}) == 1


def test_ids_and_rows_are_each_others_inverse():
    found = Taxonomy(("x", "10", "9"), (("n",),) * 3, np.empty((0, 2), np.int64))
    assert [found.row[name] for name in found.ids] == [0, 1, 2]


# ---- reading


@pytest.mark.parametrize("name", FOLDERS)
def test_the_shared_taxonomies_have_their_documented_counts(shared_data, name):
    folder = shared_data / "text" / name
    stats = json.loads((folder / "stats.json").read_text())
    found = read_taxonomy(str(folder / "labels.tsv"), str(folder / "taxonomy.tsv"))
    assert len(found) == stats["classes"]
    assert np.bincount(found.level).tolist() == [*stats["per_level"].values()]
    assert len(found.edges) == len((folder / "taxonomy.tsv").read_text().splitlines())
    table = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()[1:]]
    assert found.ids == tuple(fields[0] for fields in table)
    assert found.names == tuple((fields[1],) for fields in table)
    assert (found.level + 1).tolist() == [int(fields[2]) for fields in table]


def test_rows_follow_the_classes_file_and_names_are_split(read):
    found = read("z\tlast | final\na\tfirst\tfurther\tcolumns\n", "z\ta\tfurther\n")
    assert content(found) == (("z", "a"), (("last", "final"), ("first",)), [[0, 1]], ())


def test_a_name_may_repeat_and_a_synonym_counts_once(read):
    found = read("1\tother|other\n2\tother\n", "")
    assert found.names == (("other",), ("other",))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n" + text.replace("\n", "\n  \n") + "\n\n",
        lambda text: text.replace("\n", "\tmore\tcolumns\n"),
        lambda text: text.replace("\t", " \t "),
        lambda text: gzip.compress(text.encode()),
    ],
    ids=["byte-order mark", "CRLF", "no last line end", "empty lines", "further columns", "spaces", "gzip"],
)
def test_how_a_file_is_written_does_not_matter(read, change):
    assert content(read(change(CLASSES), change(EDGES))) == content(read())


def test_csv_files_have_the_same_columns(write):
    classes = write("classes.csv", 'id,name\na,"animals, all"\nb,"says ""tweet"""\n')
    found = read_taxonomy(classes, write("edges.csv.gz", gzip.compress(b"parent,child\na,b\n")))
    assert content(found) == (("a", "b"), (("animals, all",), ('says "tweet"',)), [[0, 1]], ())


def test_tabs_have_no_quotes(read):
    assert read('a\t"animals\nb\tbirds"\n', "").names == (('"animals',), ('birds"',))


def test_an_edge_that_is_there_twice_counts_once(read):
    assert content(read(edges=EDGES + "a\tc\n")) == content(read())


def test_the_order_of_the_edges_does_not_matter(read):
    assert content(read(edges="a\td\na\tb\na\tc\n")) == content(read())


def test_an_empty_hierarchy_makes_a_flat_taxonomy_of_one_or_more_classes(read):
    assert read(edges="").roots.tolist() == [0, 1, 2, 3]
    assert read("only\tone\n", "").chains == ((0,),)
    assert read("only\tone\n", "parent\tchild\n").chains == ((0,),)


@given(graphs(), st.permutations(HEADER_WORDS), st.booleans(), st.booleans(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_header_line_changes_nothing_even_where_ids_are_header_words(write, graph, words, classes, edges, turned):
    links, count = graph
    ids = (*words, "x", "y")[:count]
    # a class that no edge uses could be a header by its id alone; the last ones are plain
    if all(end != 0 for link in links for end in link):
        ids = ("plain", *ids[1:])
    body = "".join(f"{name}\tname {row}\n" for row, name in enumerate(ids))
    ends = [(ids[child], ids[parent]) if turned else (ids[parent], ids[child]) for parent, child in links]
    lines_ = "".join(f"{one}\t{two}\n" for one, two in ends)
    header = ("child\tparent\n" if turned else "parent\tchild\n") if edges or turned else ""
    found = read_taxonomy(
        write("classes.txt", ("id\tname\tlevel\n" if classes else "") + body), write("edges.tsv", header + lines_)
    )
    assert found.ids == ids
    assert sorted(map(tuple, found.edges.tolist())) == sorted(links)


@pytest.mark.parametrize(
    "header", ["id\tname", "class_id\tclass_name", "#ID\tTitle", "label\tname", "Label-Id\tbezeichnung", "node\tlabel"]
)
def test_headers_of_classes_in_many_words_are_left_out(read, header):
    assert content(read(f"{header}\n{CLASSES}")) == content(read())


@pytest.mark.parametrize(
    "header", ["parent\tchild", "Parent ID\tchild_id", "source\ttarget", "from\tto", "hypernym\thyponym", "parent\tid"]
)
def test_headers_of_edges_in_many_words_are_left_out(read, header):
    assert content(read(edges=f"{header}\n{EDGES}")) == content(read())


@pytest.mark.parametrize("header", ["child\tparent", "id\tparent_id", "target\tsource"])
def test_a_header_with_the_child_first_turns_the_columns_round(read, header):
    assert content(read(edges=f"{header}\nb\ta\nc\ta\nd\ta\n")) == content(read())


def test_a_first_line_of_header_words_is_data_where_an_edge_needs_it(read):
    found = read("id\tname\nx\tIndonesia's part\n", "id\tx\n")
    assert found.names == (("name",), ("Indonesia's part",))
    found = read("parent\tthe parent\nchild\tthe child\n", "parent\tchild\n")
    assert named_edges(found) == {("parent", "child")}


def test_a_header_is_left_out_where_a_class_has_its_id(read):
    found = read("id\tname\nid\tIndonesia\nasia\tAsia\n", "asia\tid\n")
    assert found.names == (("Indonesia",), ("Asia",))


def test_headers_that_share_a_word_are_both_left_out(read):
    found = read("id\tname\nparent\tx\nb\ty\n", "parent\tid\nparent\tb\n")
    assert found.ids == ("parent", "b")
    assert named_edges(found) == {("parent", "b")}


# ---- keywords


def test_keywords_belong_to_their_class_and_may_be_missing(read):
    found = read(keywords="d\tbark, tail\tmore\na\tliving things\n")
    assert found.descriptions == ("living things", "", "", "bark, tail")
    assert read(keywords="").descriptions == ("",) * 4


def test_a_header_of_keywords_is_left_out_unless_a_class_is_called_so(read):
    assert read(keywords="id\tkeywords\nb\twings\n").descriptions == ("", "wings", "", "")
    assert read("id\tx|y\nb\tz\n", "b\tid\n", "id\twings\n").descriptions == ("wings", "")


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ("b\twings\nx\tfur\n", "keywords.tsv: line 2: class id 'x' is not in "),
        ("id\ttext\nid\ttext\n", "keywords.tsv: line 2: class id 'id' is not in "),
        ("b\twings\nb\tfeathers\n", "keywords.tsv: line 2: class id 'b' is on line 1 already; "),
        ("b wings\n", "keywords.tsv: line 1: no tab in 'b wings'; "),
        ("\twings\n", "keywords.tsv: line 1: the class id is empty; "),
    ],
)
def test_bad_keywords_are_refused_with_their_line(refusal, keywords, line):
    assert refusal(keywords=keywords).startswith(line)


# ---- what is refused


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ("a\tanimals\nbirds\n", "classes.txt: line 2: no tab in 'birds'; write class id and name, with a tab between"),
        ("a\tanimals\n\tbirds\n", "classes.txt: line 2: the class id is empty; "),
        ("a\tanimals\nb\t \n", "classes.txt: line 2: class 'b': the class has no name; "),
        ("a\tanimals\nb\t\tx\n", "classes.txt: line 2: class 'b': the class has no name; "),
        ("a\tanimals\nb\tx||y\n", "classes.txt: line 2: class 'b': the class name is empty; "),
        ("a\tanimals\nb\tx\x07y\n", "classes.txt: line 2: class 'b': the class name 'x\\x07y' has a control character"),
        ("a\tanimals\nb\x00\tx\n", "classes.txt: line 2: the class id 'b\\x00' has a control character; "),
        ("a\tanimals\n\ufeffb\tx\n", "classes.txt: line 2: the class id '\\ufeffb' has a control character; "),
        ("a\tx\n\nb\ty\na \tz\n", "classes.txt: line 4: class id 'a' is on line 1 already; "),
        ("id\tname\na\tx\na\tx\n", "classes.txt: line 3: class id 'a' is on line 2 already; "),
        ("a,b\tx\n", "classes.txt: line 1: class id 'a,b' has a comma"),
        ("", "classes.txt: no class in it; "),
        ("id\tname\n", "classes.txt: no class in it; "),
        (b"a\tx\nb\tM\xfcller\n", "classes.txt: line 2: byte 4 (0xfc) is not UTF-8; "),
        ("a\tx\n".encode("utf-16"), "classes.txt: line 1: byte 1 (0xff) is not UTF-8; convert the file, for example "),
    ],
)
def test_bad_classes_are_refused_with_their_line(refusal, classes, line):
    message = refusal(classes, "")
    assert message.startswith(line)
    assert "; " in message  # the fix


@pytest.mark.parametrize(
    ("edges", "line"),
    [
        ("a\tb\na b\n", "edges.tsv: line 2: no tab in 'a b'; write parent id and child id, with a tab between them"),
        ("a\tb\na\t\n", "edges.tsv: line 2: the class id is empty; "),
        ("a\tb\nc\tx\n", "edges.tsv: line 2: class id 'x' is not in classes.txt; add it there or correct it"),
        ("a\tb\nx\tc\n", "edges.tsv: line 2: class id 'x' is not in classes.txt; "),
        ("x\ty\n", "edges.tsv: line 1: class id 'x' is not in classes.txt; add it there or correct it (a header line"),
        ("parent\tchild\nparent\tchild\n", "edges.tsv: line 2: class id 'parent' is not in classes.txt; "),
        ("a\tb\nc\tc\n", "edges.tsv: line 2: class 'c' is its own parent; remove the line"),
        ("parent\tchild\na\tb\nb\ta\n", "edges.tsv: line 3: the edge closes a cycle, "),
        ("a\tb\nb\ta\na\tb\n", "edges.tsv: line 2: the edge closes a cycle, "),
    ],
)
def test_bad_edges_are_refused_with_their_line(refusal, edges, line):
    assert refusal(edges=edges).startswith(line)


def test_a_cycle_is_refused_with_the_classes_on_it_and_no_others(refusal):
    message = refusal(edges="a\tb\nb\tc\nc\tb\nc\td\n")
    assert message.startswith("edges.tsv: line 3: the edge closes a cycle, ")
    around = message.split(", ")[1].split("; ")[0]
    assert around in ("b -> c -> b", "c -> b -> c")
    assert message.endswith("; remove one of these edges")


def test_a_long_cycle_is_named_in_part(refusal):
    ids = [f"c{row:03}" for row in range(400)]
    classes = "".join(f"{name}\tx\n" for name in ids)
    edges = "".join(f"{one}\t{two}\n" for one, two in pairwise([*ids, ids[0]]))
    message = refusal(classes, edges)
    assert message.startswith("edges.tsv: line 400: ")
    assert "-> (388 more) ->" in message
    assert message.count(" -> ") == reading.CLASSES_SHOWN + 1


def test_edges_without_a_classes_file_are_refused(refusal):
    assert refusal(None).startswith("edges.tsv: a list of edges needs the names of its classes; set classes_file")


def test_a_missing_file_and_a_folder_are_refused(write, tmp_path):
    for path in (tmp_path / "nothing.tsv", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read \(.+\); correct the path or its permissions"):
            read_taxonomy(str(path), write("edges.tsv", ""))


@pytest.mark.parametrize("cut", [20, -9, -4])
def test_a_truncated_gzip_file_is_refused(refusal, cut):
    packed = gzip.compress("".join(f"{row}\tname {row * row}\n" for row in range(10_000)).encode())
    assert refusal(packed[:cut], "").startswith("classes.txt: the gzip data end or break after line ")


def test_damaged_gzip_data_are_refused_also_where_only_the_name_says_gzip(write, refusal):
    packed = bytearray(gzip.compress(CLASSES.encode()))
    packed[-8] ^= 0xFF  # of the checksum
    assert refusal(bytes(packed), "").startswith("classes.txt: the gzip data end or break after line ")
    with pytest.raises(UserError, match="gzip data end or break after line 0"):
        read_taxonomy(write("classes.txt.gz", CLASSES), write("edges.tsv", ""))


def test_lines_break_at_line_feeds_only(write):
    path = write("x.txt", "\ufeffone\u2028two\x0bthree\x85\rfour\r\nfive\n\nsix")
    assert list(lines(path)) == [(1, "one\u2028two\x0bthree\x85\rfour"), (2, "five"), (3, ""), (4, "six")]


# ---- nested hierarchies

NESTED = {"animals": {"birds": {"owls": {}}, "cats|felines": None}, "plants": ["trees", {"herbs": ["birds"]}]}
NESTED_IDS = ("animals", "animals/birds", "animals/birds/owls", "animals/cats", "plants", "plants/trees")
NESTED_IDS += ("plants/herbs", "plants/herbs/birds")


@pytest.mark.parametrize("dump", [json.dumps, lambda tree: yaml.safe_dump(tree, sort_keys=False)], ids=["JSON", "YAML"])
def test_a_nested_hierarchy_has_paths_as_ids_and_names_that_repeat(read, dump):
    found = read(None, dump(NESTED), hierarchy="tree.json" if dump is json.dumps else "tree.yaml")
    assert found.ids == NESTED_IDS
    assert found.names[1] == found.names[7] == ("birds",)
    assert found.names[3] == ("cats", "felines")
    assert named_edges(found) == {(name.rpartition("/")[0], name) for name in NESTED_IDS if "/" in name}


def trees() -> st.SearchStrategy:
    names = st.text(st.characters(categories=["L", "N", "S", "P"], exclude_characters="|,/"), min_size=1, max_size=5)
    return st.recursive(
        st.none() | st.just({}),
        lambda below: st.dictionaries(names, below, max_size=4) | st.lists(names, unique=True, max_size=4),
        max_leaves=12,
    ).filter(bool)


def paths_of(tree, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    entries = tree.items() if isinstance(tree, dict) else [(name, None) for name in tree or []]
    return [path for name, below in entries for path in ((*above, name), *paths_of(below, (*above, name)))]


@given(trees(), st.sampled_from(["indented by tabs", "in letters of ASCII", "YAML"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_tree_comes_back_from_json_and_yaml(write, tree, how):
    if how == "YAML":
        path = write("tree.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    else:
        path = write("tree.json", json.dumps(tree, indent="\t", ensure_ascii=how.endswith("ASCII")))
    found = read_taxonomy(None, path)
    assert [tuple(name.split("/")) for name in found.ids] == paths_of(tree)
    assert [called for (called,) in found.names] == [path[-1] for path in paths_of(tree)]


def test_yaml_words_that_mean_values_stay_names(read):
    found = read(None, "no:\n  1.10: {}\n  on: ~\n2024-01-01: [null, true]\n", hierarchy="tree.yml")
    assert found.ids == ("no", "no/1.10", "no/on", "2024-01-01", "2024-01-01/null", "2024-01-01/true")


def test_commas_are_left_out_of_ids_but_not_of_names(read):
    found = read(None, '{"Clothing, Shoes & Jewelry": ["Hats,Caps"]}', hierarchy="tree.json")
    assert found.ids == ("Clothing Shoes & Jewelry", "Clothing Shoes & Jewelry/Hats Caps")
    assert found.names == (("Clothing, Shoes & Jewelry",), ("Hats,Caps",))


def test_with_a_classes_file_the_keys_are_its_ids_and_a_class_may_have_two_parents(read):
    found = read("id\tname\n" + CLASSES, "a: [b, {c: [d]}]\nb: [d]\n", hierarchy="tree.yaml")
    assert found.ids == ("a", "b", "c", "d")
    assert named_edges(found) == {("a", "b"), ("a", "c"), ("c", "d"), ("b", "d")}


def test_a_nested_hierarchy_may_be_packed_and_have_keywords(write):
    path = write("tree.json.gz", gzip.compress(json.dumps(NESTED).encode()))
    found = read_taxonomy(None, path, write("keywords.tsv", "animals/birds\tfeathers\n"))
    assert found.descriptions[found.row["animals/birds"]] == "feathers"
    assert sum(map(bool, found.descriptions)) == 1


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ("a:\n  b: {}\n  b: {}\n", "tree.yaml: line 3: class 'a/b' is on line 2 already; "),
        ("a/b: {}\na:\n  b: {}\n", "tree.yaml: line 3: class 'a/b' is on line 1 already; "),
        ("- a\n- [b]\n", "tree.yaml: line 2: a list where the name of a class belongs; "),
        ("a:\n  ? [b]\n  : {}\n", "tree.yaml: line 2: a list where the name of a class belongs; "),
        ("a:\n  b: text\n", "tree.yaml: line 2: 'text' stands where the children of 'b' belong; "),
        ("a:\n  '': {}\n", "tree.yaml: line 2: the class has no name; "),
        ("a:\n  ',': {}\n", "tree.yaml: line 2: the class name, but for commas, is empty; "),
        ("a: &x {b: {}}\nc:\n  <<: *x\n", "tree.yaml: line 3: the merge key << is not supported; "),
        ("a: &x\n  b: *x\n", "tree.yaml: line 2: a cycle, "),
        ("- &x [a, {b: *x}]\n", "tree.yaml: line 1: a list where the name of a class belongs; "),
        ("- a\n- &x {b: [c, *x]}\n", "tree.yaml: line 2: a cycle, 'b' leads back "),
        ("a: {b\n", "tree.yaml: line 1: not valid YAML ("),
        ("a: {}\n---\nb: {}\n", "tree.yaml: line 2: not valid YAML ("),
        ("a: \x07\n", "tree.yaml: not valid YAML ("),
        ("just text\n", "tree.yaml: line 1: 'just text' is no hierarchy; "),
        ("", "tree.yaml: no class in it; "),
        ("{}", "tree.yaml: no class in it; "),
        ("[" * 1500 + "]" * 1500, "tree.yaml: nested too deeply; "),
    ],
)
def test_bad_nested_yaml_is_refused_with_its_line(refusal, tree, line):
    assert refusal(None, tree, hierarchy="tree.yaml").startswith(line)


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ('{"a":\n {"b" {}}}', "tree.json: line 2: not valid JSON (Expecting ':' delimiter, column 7); "),
        ('{"a": {},\n "a": {}}', "tree.json: line 2: class 'a' is on line 1 already; "),
        ('{"a":\n 5}', "tree.json: line 2: '5' stands where the children of 'a' belong; "),
        ('{"a\\u0007": {}}', "tree.json: line 1: the class name 'a\\x07' has a control character; "),
        ('{"a":' * 1500 + "{}" + "}" * 1500, "tree.json: nested too deeply; "),
    ],
)
def test_bad_nested_json_is_refused_with_its_line(refusal, tree, line):
    assert refusal(None, tree, hierarchy="tree.json").startswith(line)


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ("a: [b, x]\n", "tree.yaml: line 1: class id 'x' is not in classes.txt; "),
        ("a:\n  b:\n    a: {}\n", "tree.yaml: line 3: the edge closes a cycle, "),
        ("a:\n  a: {}\n", "tree.yaml: line 2: class 'a' is its own parent; "),
    ],
)
def test_bad_ids_in_a_nested_hierarchy_are_refused_with_their_line(refusal, tree, line):
    assert refusal(edges=tree, hierarchy="tree.yaml").startswith(line)


def test_a_path_may_be_a_path_object(write):
    assert len(read_taxonomy(Path(write("classes.txt", CLASSES)), Path(write("edges.tsv", EDGES)))) == 4
