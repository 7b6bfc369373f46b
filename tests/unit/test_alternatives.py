"""Other selections: one member a cluster, each set once, and what is known of each member."""

import json
import math
import sys
from collections import Counter

import pytest

import alternatives as door
from common import files
from descriptors import alternatives
from descriptors.lineage import Parent, cluster_info

# a <- b (pass 2) <- c (pass 2); a <- d (pass 3) <- e (pass 2); f alone; g <- h (pass 4)
PARENTS = {
    "b": Parent("a", 4, -0.8, "HSIC + RDC"),
    "c": Parent("b", 2, 0.97, "Spearman"),
    "d": Parent("a", 3, 0.1, "Spearman"),
    "e": Parent("d", 2, 0.99, "Spearman"),
    "h": Parent("g", 4, 0.7, "HSIC + RDC"),
}
INFO = cluster_info(list("abcdefgh"), list("afg"), PARENTS)


def names(clusters) -> dict[str, list[str]]:
    return {final: [member.name for member in each] for final, each in clusters.items()}


def test_members_are_those_whose_whole_chain_is_of_the_passes():
    assert names(alternatives.members(INFO, [2, 3, 4])) == {"a": list("abcde"), "f": ["f"], "g": ["g", "h"]}
    assert names(alternatives.members(INFO, [2, 4])) == {"a": list("abc"), "f": ["f"], "g": ["g", "h"]}
    assert names(alternatives.members(INFO, [2])) == {"a": ["a"], "f": ["f"], "g": ["g"]}


def test_a_member_has_its_weakest_link_and_all_of_them():
    found = {each.name: each for each in alternatives.members(INFO, [2, 3, 4])["a"]}
    assert (found["c"].steps, found["c"].weakest) == (2, 0.8)
    assert found["c"].links == ("Spearman in pass 2", "HSIC + RDC in pass 4")
    assert (found["e"].steps, found["e"].weakest) == (2, 0.1)
    assert (found["a"].steps, found["a"].weakest, found["a"].links) == (0, 1, ())


def test_a_chain_with_an_undefined_link_has_no_weakest_one():
    info = cluster_info(
        list("abc"), ["a"], {"b": Parent("a", 2, math.nan, "Spearman"), "c": Parent("b", 2, 0.9, "Spearman")}
    )
    assert [math.isnan(each.weakest) for each in alternatives.members(info, [2])["a"]] == [False, True, True]


@pytest.mark.parametrize("number", [1, 5, 9])
def test_sets_differ_have_one_member_a_cluster_and_are_not_the_selection(number):
    clusters = alternatives.members(INFO, [2, 3, 4])
    assert alternatives.count(clusters) == 9
    sets = [tuple(each.name for each in chosen) for chosen in alternatives.draw(clusters, number, 3)]
    assert len(set(sets)) == number and ("a", "f", "g") not in sets
    assert all(one in "abcde" and two == "f" and three in "gh" for one, two, three in sets)


def test_every_set_is_equally_likely():
    clusters = alternatives.members(INFO, [2, 4])
    drawn = Counter(tuple(each.name for each in alternatives.draw(clusters, 1, seed)[0]) for seed in range(2000))
    assert len(drawn) == 5 and min(drawn.values()) > 320  # of 400 on average


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["alternatives", *arguments])
    door.main()


@pytest.fixture
def clusters(write) -> str:
    path = write("final_cluster_info.json", "")
    files.write_json(path, json.loads(json.dumps(INFO, default=vars)))
    return path


def test_the_command_writes_a_line_for_each_cluster_of_each_set(monkeypatch, clusters, tmp_path, capsys):
    given = ("--clusters", clusters, "--number", "3", "--seed", "5")
    run(monkeypatch, *given)
    shown = capsys.readouterr().out
    run(monkeypatch, *given, "--out", str(tmp_path / "sets.tsv"))
    assert (tmp_path / "sets.tsv").read_text() == shown
    lines = [line.split("\t") for line in shown.splitlines()]
    assert lines[0] == list(door.HEADER)
    assert [line[:2] for line in lines[1:]] == [[number, final] for number in "123" for final in "afg"]
    assert not any("pass 3" in line[5] for line in lines[1:])


def test_more_sets_than_there_are_is_one_line(monkeypatch, clusters, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--clusters", clusters, "--number", "6")
    assert ended.value.code == 2
    assert "there are 5 other sets through passes 2, 4, not 6; lower --number" in capsys.readouterr().err
