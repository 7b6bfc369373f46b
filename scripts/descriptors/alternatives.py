"""Other selections from the same forest: of each cluster a member in the final descriptor's place."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Member:
    """One that may stand in a final descriptor's place: the links of the chain between them, the nearest first.

    steps : number of links, 0 = the final descriptor itself.
    weakest : the smallest absolute similarity of a link; 1 without links, NaN if one is undefined.
    links : "measure in pass", of each link.
    """

    name: str
    steps: int
    weakest: float
    links: tuple[str, ...]


def members(info: Mapping[str, Any], passes: Collection[int]) -> dict[str, list[Member]]:
    """Of each final descriptor itself and all that lead to it through links of these passes alone.

    Parameters
    ----------
    info : content of final_cluster_info.json.
    passes : of 2, 3 and 4.
    """
    found = {}
    for final, cluster in info["descriptors"].items():
        chains = [_chain(name, final, info["parents"]) for name in cluster["alternative_descriptors"]]
        allowed = [chain for chain in chains if all(link["pass"] in passes for _, link in chain)]
        found[final] = [Member(final, 0, 1.0, ()), *map(_member, allowed)]
    return found


def draw(clusters: Mapping[str, Sequence[Member]], number: int, seed: int) -> list[list[Member]]:
    """Different sets with one member of each cluster, every set but that of all final descriptors equally likely.

    Parameters
    ----------
    clusters : by final descriptor, itself first.
    number : of sets, at most :func:`count`.
    """
    sizes = [len(each) for each in clusters.values()]
    rng = random.Random(seed)
    numbers: dict[int, None] = {}
    # a set is the number whose digits, in the clusters' sizes as bases, are its members' places; 0 are the finals
    total = count(clusters)
    if total < 2 * number:
        numbers = dict.fromkeys(rng.sample(range(1, total + 1), number))
    while len(numbers) < number:
        numbers[rng.randint(1, total)] = None
    sets = []
    for code in numbers:
        places = []
        for size in sizes:
            code, place = divmod(code, size)
            places.append(place)
        sets.append([each[place] for each, place in zip(clusters.values(), places, strict=True)])
    return sets


def count(clusters: Mapping[str, Sequence[Member]]) -> int:
    """How many sets there are beside that of all final descriptors."""
    return math.prod(len(each) for each in clusters.values()) - 1


def _chain(name: str, final: str, parents: Mapping[str, Any]) -> list[tuple[str, Any]]:
    chain = []
    while name != final:
        chain.append((name, parents[name]))
        name = parents[name]["parent"]
    return chain


def _member(chain: list[tuple[str, Any]]) -> Member:
    strengths = [abs(float(link["similarity"])) for _, link in chain]
    weakest = math.nan if any(map(math.isnan, strengths)) else min(strengths)
    return Member(
        chain[0][0], len(chain), weakest, tuple(f"{link['measure']} in pass {link['pass']}" for _, link in chain)
    )
