"""The scaling model's simulator against what is known of any schedule, and its jobs against the workflow's."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from scaling_simulation import (
    Cluster,
    Job,
    closed_form,
    critical_path,
    jittered,
    least,
    lengths,
    simulate,
    wall,
)

CLOSE = 1e-9


@st.composite
def graphs(draw, moving: bool = False, cards: bool = False) -> list[Job]:
    """Up to ten jobs, each after some of those before it."""
    jobs = []
    for place in range(draw(st.integers(1, 10))):
        needs = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        jobs.append(
            Job(
                f"job{place}",
                draw(st.floats(0.1, 10)),
                draw(st.floats(0, 50)) if moving else 0.0,
                tuple(sorted(needs)),
                cards and draw(st.booleans()),
            )
        )
    return jobs


@given(graphs())
def test_on_one_node_the_wall_time_is_the_sum(jobs):
    assert wall(jobs, Cluster(1)) == pytest.approx(sum(job.seconds for job in jobs), rel=CLOSE)


@given(graphs(moving=True))
def test_on_one_node_bytes_take_their_time_at_its_link(jobs):
    cluster = Cluster(1, a_node=7.0, shared=20.0)
    assert wall(jobs, cluster) == pytest.approx(sum(job.seconds + job.bytes / 7 for job in jobs), rel=CLOSE)


@given(graphs())
def test_with_nodes_for_all_the_wall_time_is_the_longest_chain_of_all_chains(jobs):
    def chains(place: int) -> list[float]:
        before = [length for each in jobs[place].needs for length in chains(each)] or [0.0]
        return [length + jobs[place].seconds for length in before]

    longest = max(length for place in range(len(jobs)) for length in chains(place))
    assert wall(jobs, Cluster(math.inf)) == pytest.approx(longest, rel=CLOSE)
    assert critical_path(jobs, Cluster(math.inf)) == pytest.approx(longest, rel=CLOSE)


@settings(max_examples=200)
@given(graphs(moving=True, cards=True), st.integers(1, 5), st.integers(1, 5), st.floats(1, 100))
def test_no_schedule_beats_the_lower_bounds(jobs, slots, cards, shared):
    cluster = Cluster(slots, cards, a_node=9.0, shared=shared)
    assert wall(jobs, cluster) >= least(jobs, cluster) * (1 - CLOSE)


@given(graphs(), st.integers(1, 6))
def test_list_scheduling_keeps_grahams_bound(jobs, slots):
    # R. L. Graham (1966), Bounds for certain multiprocessing anomalies
    cluster = Cluster(slots)
    work = sum(lengths(jobs, cluster))
    bound = work / slots + (1 - 1 / slots) * critical_path(jobs, cluster)
    assert wall(jobs, cluster) <= bound * (1 + CLOSE)


@settings(max_examples=200)
@given(graphs(moving=True, cards=True), st.integers(1, 4), st.integers(1, 3))
def test_no_job_runs_before_its_needs_without_a_slot_or_without_a_card(jobs, slots, cards):
    times = simulate(jobs, Cluster(slots, cards, a_node=9.0, shared=30.0))
    for job, (start, end) in zip(jobs, times, strict=True):
        assert start >= max((times[each][1] for each in job.needs), default=0.0)
        assert end - start >= job.seconds * (1 - CLOSE)
    for start, _ in times:
        here = [job for job, (other, end) in zip(jobs, times, strict=True) if other <= start < end]
        assert len(here) <= slots and sum(job.gpu for job in here) <= cards


def test_jobs_that_move_bytes_at_once_share_the_network():
    pair = [Job("a", 1.0, 100.0), Job("b", 1.0, 100.0)]
    # both at 10 of 20 bytes a second, then one second each side by side
    assert wall(pair, Cluster(2, a_node=15.0, shared=20.0)) == pytest.approx(11.0)
    # b moves its last 50 bytes with the network to itself
    uneven = [Job("a", 1.0, 50.0), Job("b", 1.0, 100.0)]
    assert np.allclose(simulate(uneven, Cluster(2, a_node=20.0, shared=20.0)), [(0, 6.0), (0, 8.5)])


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3))
def test_the_closed_form_is_exact_for_levels_of_equal_jobs_and_one_merge_each(shards, slots, levels):
    jobs: list[Job] = []
    for level in range(levels):
        needs = (len(jobs) - 1,) if jobs else ()
        first = len(jobs)
        jobs += [Job(f"shard{level}", 3.0, 0.0, needs) for _ in range(shards)]
        jobs.append(Job(f"merge{level}", 2.0, 0.0, tuple(range(first, len(jobs)))))
    cluster = Cluster(slots)
    exact = levels * (math.ceil(shards / slots) * 3.0 + 2.0)
    assert closed_form(jobs, cluster) == pytest.approx(exact) == pytest.approx(wall(jobs, cluster))


def test_the_spread_keeps_the_mean_and_is_that_asked_for():
    jobs = [Job(f"job{place}", 5.0, 1.0) for place in range(20_000)]
    seconds = np.array([job.seconds for job in jittered(jobs, 0.3, np.random.default_rng(0))])
    assert seconds.mean() == pytest.approx(5.0, rel=0.02)
    assert np.log(seconds).std() == pytest.approx(0.3, rel=0.03)


def test_nothing_to_do_takes_no_time():
    assert wall([], Cluster(1)) == closed_form([], Cluster(1)) == least([], Cluster(1)) == 0
