"""Other selections: ``python scripts/alternatives.py --clusters final_cluster_info.json --number 10 --seed 1``.

Of each cluster one member stands in the final descriptor's place. What is known of it is in its line: how many steps
lead from it to the final descriptor, and the weakest of these links. A link of pass 2 or 4 is at or above the threshold
of that pass; one of pass 3 is not, it names the best explainer of a column that the others explained together, and is
walked only if asked for. Of the ends of a chain of several steps nothing more is known, nor of members of different
clusters, which may be alike.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated

from pydantic import Field

from common import files
from common.errors import UserError
from common.settings import Settings
from common.stage import Stage, run_stage
from descriptors import alternatives

HEADER = ("set", "final", "alternative", "steps", "weakest_similarity", "links")


class Alternatives(Settings):
    """Other selections, drawn from the clusters."""

    number: int = Field(10, ge=1, description="sets to draw, all different, none the selection itself")
    seed: int = Field(1, ge=0, description="the same seed draws the same sets")
    passes: list[Annotated[int, Field(ge=2, le=4)]] = Field(
        [2, 4], min_length=1, description="whose links may be walked; those of pass 3 are below every threshold"
    )


def main() -> None:
    run_stage(
        "alternatives",
        Alternatives,
        inputs={"clusters": "JSON: final_cluster_info.json"},
        outputs={"out": "tsv: the sets, a line for each cluster; default: standard output"},
        work=work,
        optional=("out",),
    )


def work(stage: Stage) -> None:
    settings: Alternatives = stage.settings
    clusters = alternatives.members(files.read_json(stage.paths.clusters), settings.passes)
    possible = alternatives.count(clusters)
    if possible < settings.number:
        raise UserError(
            f"{stage.paths.clusters}: there are {possible} other sets through passes "
            f"{', '.join(map(str, settings.passes))}, not {settings.number}; lower --number"
        )
    sets = alternatives.draw(clusters, settings.number, settings.seed)
    lines = ["\t".join(HEADER)]
    for number, chosen in enumerate(sets, start=1):
        for final, member in zip(clusters, chosen, strict=True):
            links = "; ".join(member.links)
            lines.append(f"{number}\t{final}\t{member.name}\t{member.steps}\t{member.weakest:.6g}\t{links}")
    if stage.paths.out:
        files.write_lines(stage.paths.out, lines)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)
    several = sum(len(each) > 1 for each in clusters.values())
    there_are = f"{possible:,}" if possible < 10**6 else f"1e{math.floor(math.log10(possible))}"
    stage.log(f"{len(sets)} of {there_are} sets", f"{several} of {len(clusters)} clusters have a choice")


if __name__ == "__main__":
    main()
