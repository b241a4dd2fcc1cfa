import dataclasses
import random

import numpy as np
import pytest
from plan_board import GEOMETRY, MadeUpBoard, model, profile_results, staircase

from tailfleet_coordinator.plan import refine
from tailfleet_coordinator.plan.accuracy import AccuracyProfile, TokenWork
from tailfleet_coordinator.plan.candidates import problem, searched
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.planner import PlanInput, make_plan
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_coordinator.plan.refine import Searched, refined
from tailfleet_coordinator.plan.search import search
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema.campaign import Objective

SMALL = dataclasses.replace(GEOMETRY, depth=4, tokens=37)
COARSE = [37, 30, 24, 18, 12, 8]


def small(seed, method="topk"):
    """A model of 37 tokens on a board with steps of its own, what a sweep of it says, and its profile."""
    rng = random.Random(seed)
    width, slope = rng.choice([5, 8, 13]), rng.uniform(0, 4e3)
    board = MadeUpBoard(
        half_ns=lambda n: 100e3 + 30e3 * -(-n // width) + slope * n,
        launch_ns=rng.uniform(0, 20e3),
        geometry=SMALL,
        rng=random.Random(seed),
    )
    latency = LatencyModel.fit(SMALL, summarise(board.sweep([method])))
    loss = AccuracyProfile.fit(SMALL, method, profile_results(SMALL, method, rng.uniform(0.2, 2.0)))
    return dataclasses.replace(model("d"), geometry=SMALL), latency, loss


def best_within(front, most_loss, unit=1.0):
    return float(front.latency_ns[front.loss * unit <= most_loss + 1e-9].min())


@pytest.fixture
def all_counts(monkeypatch):
    monkeypatch.setattr(refine, "MOST_PROMISING", 200)


@pytest.mark.usefixtures("all_counts")
@pytest.mark.parametrize("method", ["topk", "pomt", "tome", "cropr"])
@pytest.mark.parametrize("seed", range(5))
def test_around_a_point_it_is_exact_over_all_counts(seed, method):
    spec, latency, loss = small(seed, method)
    own = searched(spec, method, latency, loss, COARSE)
    every = search(problem(spec, method, latency, loss, range(2, 38)), latency.dense.ns)
    better = 0
    for point in range(1, len(own)):
        finer = refined(own, point, Searched(spec, method, latency, loss, COARSE))
        # Any limit between this point's loss and that of the next faster one would choose this point.
        for share in (0.0, 0.5, 0.999):
            limit = own.loss[point] + share * (own.loss[point - 1] - own.loss[point])
            assert best_within(finer, limit) == pytest.approx(best_within(every, limit, loss.unit), rel=1e-9)
            better += best_within(finer, limit) < (1 - 1e-9) * best_within(own, limit)
        # The same for budgets, between its latency and that of the next slower one.
        if point + 1 < len(own):
            budget = float(np.mean(own.latency_ns[point : point + 2]))
            least = every.loss[every.latency_ns <= budget].min() * loss.unit
            assert finer.loss[finer.latency_ns <= budget].min() == pytest.approx(least)
    assert better


@pytest.mark.usefixtures("all_counts")
@pytest.mark.parametrize("seed", range(3))
def test_beyond_the_fastest_point_it_finds_the_fastest_of_all(seed):
    spec, latency, loss = small(seed)
    own = searched(spec, "topk", latency, loss, COARSE)
    every = search(problem(spec, "topk", latency, loss, range(2, 38)), latency.dense.ns)
    finer = refined(own, 0, Searched(spec, "topk", latency, loss, COARSE))
    assert finer.latency_ns[0] == pytest.approx(every.latency_ns[0], rel=1e-9)
    assert finer.latency_ns[0] < own.latency_ns[0]


def many_steps(n):
    return staircase(n, width=5, height=15e3)


@pytest.fixture(scope="module")
def large():
    """197 tokens on a board with more steps than a search has counts."""
    board = MadeUpBoard(half_ns=many_steps)
    results = board.sweep(["topk", "zero-tprune"])
    return Reading.of(GEOMETRY, results), LatencyModel.fit(GEOMETRY, summarise(results))


@pytest.mark.parametrize("judged", [True, False])
def test_nothing_is_lost_and_something_is_found(large, judged):
    reading, latency = large
    loss = AccuracyProfile.fit(GEOMETRY, "topk", profile_results()) if judged else TokenWork(GEOMETRY)
    own = searched(model(), "topk", latency, loss, reading.candidates)
    finer = refined(own, len(own) // 2, Searched(model(), "topk", latency, loss, reading.candidates))
    for ns, lost in zip(own.latency_ns, own.loss):
        assert ((finer.latency_ns <= ns * (1 + 1e-9)) & (finer.loss <= lost + 1e-9)).any()
    assert list(finer.latency_ns) == sorted(finer.latency_ns)
    assert list(finer.loss) == sorted(finer.loss, reverse=True)
    kept = {n for point in range(len(finer)) for n in finer.schedule(point).keep}
    assert kept - set(reading.candidates)
    for point in (0, len(finer) // 2, len(finer) - 1):
        schedule = finer.schedule(point)
        assert latency.predict(schedule).ns == pytest.approx(finer.latency_ns[point])


def test_no_more_counts_are_searched_than_can_be(large, monkeypatch):
    reading, latency = large
    loss = AccuracyProfile.fit(GEOMETRY, "topk", profile_results())
    own = searched(model(), "topk", latency, loss, reading.candidates)
    seen = []

    def looked_at(problem, *limits):
        seen.append(len(problem.counts))
        return search(problem, *limits)

    monkeypatch.setattr(refine, "search", looked_at)
    refined(own, len(own) // 2, Searched(model(), "topk", latency, loss, reading.candidates))
    assert len(seen) == 1
    assert seen[0] <= refine.MOST_PROMISING + refine.MOST_BESIDE + 1 + len(set(own.schedule(len(own) // 2).keep))


def test_where_blocks_differ_no_bound_holds_and_nothing_is_added(large):
    reading, latency = large
    own = searched(model(), "zero-tprune", latency, TokenWork(GEOMETRY), reading.candidates)
    assert refined(own, 1, Searched(model(), "zero-tprune", latency, TokenWork(GEOMETRY), reading.candidates)) is own


@pytest.mark.parametrize(
    "objective",
    [
        Objective(max_accuracy_drop=2.0),
        Objective(latency_share=0.8),
        Objective(utility_alpha=0.5),
    ],
)
def test_a_plan_is_no_worse_for_it_and_lies_on_the_front_that_is_drawn(objective, monkeypatch):
    board = MadeUpBoard(half_ns=many_steps)
    given = PlanInput(model("d"), "topk", "optimal", objective, board.sweep(["topk"]), profile_results(), verify=3)
    made = make_plan(given)
    monkeypatch.setattr("tailfleet_coordinator.plan.planner.refined", lambda own, *_: own)
    coarse = make_plan(given)
    at = {tuple(point.keep): point for point in made.front}
    point = at[tuple(made.schedule.keep)]
    assert point.latency_ns == pytest.approx(made.predicted_ns)
    loss = next(p.loss for p in coarse.front if p.keep == coarse.schedule.keep)
    if objective.max_accuracy_drop is not None:
        assert made.predicted_ns <= coarse.predicted_ns
        assert point.loss <= 2.0
    elif objective.latency_share is not None:
        assert point.loss <= loss
        assert made.predicted_ns <= 0.8 * made.dense_ns
    else:
        top1 = 98.0
        utility = [
            0.5 * (1 - p.predicted_ns / p.dense_ns) + 0.5 * (1 - lost / top1)
            for p, lost in ((made, point.loss), (coarse, loss))
        ]
        assert utility[0] >= utility[1]
    assert made.schedule != coarse.schedule or objective.utility_alpha is not None


def test_where_all_of_a_front_is_wanted_none_of_its_points_is_gone_into():
    board = MadeUpBoard(half_ns=many_steps)
    sweep = board.sweep(["topk"])
    made = make_plan(PlanInput(model("d"), "topk", "optimal", Objective(front=True), sweep, profile_results()))
    known = set(Reading.of(GEOMETRY, sweep).candidates)
    assert all(set(point.keep) <= known for point in made.front)
