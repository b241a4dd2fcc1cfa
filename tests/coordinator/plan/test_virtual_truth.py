"""Predictions held against what virtual boards say that they would take without noise."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tailfleet_agent.worker.backends.virtual import true_ns
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.statistics import PointSummary
from tailfleet_schema.board import BoardKind
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import Geometry

DEIT_S = Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000)
METHODS = ["topk", "pomt", "tome"]


def random_schedules(count, methods=METHODS):
    rng = random.Random(11)
    made = []
    for number in range(count):
        method, keep, n = methods[number % len(methods)], [], 197
        chance = rng.choice([0.1, 0.4, 1.0])
        for _ in range(12):
            least = max(smallest_reachable(method, n, 1), 40, round(n * (1 - 0.15 / chance)))
            if rng.random() < chance and least < n:
                n = rng.randrange(least, n)
            keep.append(n)
        made.append(Schedule(method, "m", 197, 1, keep))
    return [schedule for schedule in made if not schedule.is_dense]


def swept(board, batch, counts, methods=METHODS):
    timed = anchors("m", DEIT_S, methods)
    named = {s.digest: s for s in timed}
    units = design.sweep_units(DEIT_S, methods, counts, BoardKind.VIRTUAL, batch, "virtual")
    points = []
    for unit in units + design.schedule_units(timed):
        ns = true_ns(board, DEIT_S, unit, batch, "fp32", named.get(unit.label))
        points.append(PointSummary(unit, ns, 0.997 * ns, 1.003 * ns, ns, ns, ns, 9, 3, "ok"))
    return LatencyModel.fit(DEIT_S, points, anchors=timed)


@pytest.mark.parametrize(("counts", "most"), [("all", 0.015), ("adaptive", 0.03)])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("board", ["jetson-tx2", "xavier-nx", "rtx-3060"])
def test_random_schedules_of_all_methods(board, batch, counts, most):
    """``adaptive``: the coarse counts alone, before any refinement."""
    model = swept(board, batch, counts)
    schedules = random_schedules(60)
    predictions = [model.predict(schedule) for schedule in schedules]
    truths = [
        true_ns(board, DEIT_S, unit, batch, "fp32", schedule)
        for unit, schedule in zip(design.schedule_units(schedules), schedules)
    ]
    errors = np.abs([p.ns / truth - 1 for p, truth in zip(predictions, truths)])
    assert np.median(errors) < most / 3
    assert np.quantile(errors, 0.95) < most
    assert np.mean([p.low_ns <= truth <= p.high_ns for p, truth in zip(predictions, truths)]) >= 0.95


def errors_of(model, board, batch, schedules):
    """Of predictions, as shares of the truth, and how often the truth lies within their intervals."""
    predictions = [model.predict(schedule) for schedule in schedules]
    truths = [
        true_ns(board, DEIT_S, unit, batch, "fp32", schedule)
        for unit, schedule in zip(design.schedule_units(schedules), schedules)
    ]
    inside = [p.low_ns <= truth <= p.high_ns for p, truth in zip(predictions, truths)]
    return np.abs([p.ns / truth - 1 for p, truth in zip(predictions, truths)]), np.mean(inside)


@pytest.mark.parametrize(("method", "median", "most"), [("cropr", 0.005, 0.01), ("zero-tprune", 0.03, 0.09)])
@pytest.mark.parametrize(("board", "batch"), [("jetson-tx2", 8), ("rtx-3060", 1)])
def test_schedules_that_reduce_behind_blocks(board, batch, method, median, most):
    """What Zero-TPrune costs depends on the block, which a sweep cannot tell: known less well, and said so."""
    errors, inside = errors_of(swept(board, batch, "all", [method]), board, batch, random_schedules(30, [method]))
    assert np.median(errors) < median
    assert np.quantile(errors, 0.95) < most
    assert inside >= 0.95


@pytest.mark.parametrize("method", ["topk", "cropr"])
def test_schedules_that_restore_all_tokens(method):
    model = swept("jetson-tx2", 1, "all", [method])
    schedules = [
        replace(s, keep=[*s.keep[:11], last], restore_before=11)
        for s in random_schedules(20, [method])
        for last in (197, 120)
        if s.keep[10] < 197
    ]
    errors, inside = errors_of(model, "jetson-tx2", 1, schedules)
    assert errors.max() < 0.03
    assert inside == 1.0
