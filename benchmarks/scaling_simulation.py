"""Jobs that wait for one another on a number of nodes: when each would start and end, and what no schedule can beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Job:
    """What one job of the workflow asks for.

    seconds : of one node, start-up included. bytes : moved over the network before that, as if nothing overlapped.
    needs : places of the jobs that have to end first; all of them before this one. gpu : whether it takes a card.
    """

    name: str
    seconds: float
    bytes: float = 0.0
    needs: tuple[int, ...] = ()
    gpu: bool = False


@dataclass(frozen=True)
class Cluster:
    """slots, cards : jobs and GPU jobs side by side. a_node, shared : bytes a second, of one job and of all of them."""

    slots: float
    cards: float = math.inf
    a_node: float = math.inf
    shared: float = math.inf


@dataclass
class _Running:
    """left : bytes while it moves them, seconds afterwards."""

    job: int
    moving: bool
    left: float


def simulate(jobs: Sequence[Job], cluster: Cluster) -> list[tuple[float, float]]:
    """Start and end of each job, in seconds: a free slot takes the first job of the list that may run.

    Jobs that move bytes share the network evenly, none of them faster than a node's own link.
    """
    starts, ends, waiting, now = [0.0] * len(jobs), [0.0] * len(jobs), list(range(len(jobs))), 0.0
    done: set[int] = set()
    running: list[_Running] = []
    while waiting or running:
        cards = sum(jobs[each.job].gpu for each in running)
        for place in list(waiting):
            job = jobs[place]
            if len(running) < cluster.slots and done.issuperset(job.needs) and (not job.gpu or cards < cluster.cards):
                waiting.remove(place)
                running.append(_Running(place, job.bytes > 0, job.bytes or job.seconds))
                starts[place] = now
                cards += job.gpu
        rate = min(cluster.a_node, cluster.shared / max(sum(each.moving for each in running), 1))
        needed = [each.left / rate if each.moving else each.left for each in running]
        step = min(needed)
        now += step
        for each, seconds in zip(list(running), needed, strict=True):
            if seconds > step:
                each.left -= step * rate if each.moving else step
            elif each.moving:
                each.moving, each.left = False, jobs[each.job].seconds
            else:
                running.remove(each)
                done.add(each.job)
                ends[each.job] = now
    return list(zip(starts, ends, strict=True))


def wall(jobs: Sequence[Job], cluster: Cluster) -> float:
    """When the last job ends."""
    return max((end for _, end in simulate(jobs, cluster)), default=0.0)


def lengths(jobs: Sequence[Job], cluster: Cluster) -> list[float]:
    """Seconds of each job with the network to itself."""
    rate = min(cluster.a_node, cluster.shared)
    return [job.seconds + job.bytes / rate for job in jobs]


def critical_path(jobs: Sequence[Job], cluster: Cluster) -> float:
    """Seconds of the longest chain of jobs: what no number of nodes gets below."""
    ends: list[float] = []
    for job, length in zip(jobs, lengths(jobs, cluster), strict=True):
        ends.append(length + max((ends[each] for each in job.needs), default=0.0))
    return max(ends, default=0.0)


def least(jobs: Sequence[Job], cluster: Cluster) -> float:
    """Lower bound of any schedule: the work on all slots, the GPU jobs on all cards, the bytes, the critical path."""
    each = lengths(jobs, cluster)
    on_cards = sum(length for job, length in zip(jobs, each, strict=True) if job.gpu)
    moved = sum(job.bytes for job in jobs) / cluster.shared
    return max(sum(each) / cluster.slots, on_cards / cluster.cards, moved, critical_path(jobs, cluster))


def closed_form(jobs: Sequence[Job], cluster: Cluster) -> float:
    """Level by level of the graph: ceil(jobs / slots) turns of a mean job, all that run together at one file system."""
    depth: list[int] = []
    for job in jobs:
        depth.append(1 + max((depth[each] for each in job.needs), default=-1))
    total = 0.0
    for level in range(max(depth, default=-1) + 1):
        own = [job for job, at in zip(jobs, depth, strict=True) if at == level]
        slots = min(cluster.slots, cluster.cards) if any(job.gpu for job in own) else cluster.slots
        together = min(len(own), slots)
        rate = min(cluster.a_node, cluster.shared / together)
        mean = sum(job.seconds + job.bytes / rate for job in own) / len(own)
        total += math.ceil(len(own) / together) * mean
    return total


def jittered(jobs: Sequence[Job], spread: float, rng: np.random.Generator) -> list[Job]:
    """The same jobs with log-normal seconds of the same mean; ``spread`` : standard deviation of the logarithm."""
    factors = np.exp(spread * rng.standard_normal(len(jobs)) - spread**2 / 2)
    return [replace(job, seconds=job.seconds * float(factor)) for job, factor in zip(jobs, factors, strict=True)]
