"""What a campaign orders, and which stored sweep serves it instead. No store, no board."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tailfleet_coordinator.cluster import orders
from tailfleet_coordinator.db.rows import Step
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest, Objective, Statistic, SweepSettings
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import dense
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

MODEL = ModelSpec("deep", "VisionTransformer", Geometry(12, 384, 6, 1536, 197, 1, 224, 16, 3, 1000))
STEP = Step(1, "c1", 1, "nano", "deep", "sweep", "", None, None)
PHYSICAL = BoardKind.PHYSICAL


def ask(objective=None, **sweep):
    return CampaignRequest(["deep"], ["nano"], ["topk"], objective=objective, sweep=SweepSettings(**sweep))


def swept(**sweep):
    """A sweep that was ordered so, and the units it has results of when it came to nothing more."""
    request = ask(**sweep)
    units = orders.sweep_units(request, MODEL, PHYSICAL)
    job = Job(
        "j", JobKind.SWEEP, Workload(MODEL), units, request.sweep.rounds, request.sweep.calls, 0,
        effort=orders.wanted_effort(request, MODEL),
    )  # fmt: skip
    return job, set(units)


@pytest.mark.parametrize(("counts", "least"), [("adaptive", 2), ("auto", 2), ("all", None), ("20,40", None)])
def test_only_an_adaptive_sweep_adds_counts(counts, least):
    effort = orders.wanted_effort(ask(counts=counts, precision=0.01, budget_seconds=99.0), MODEL)
    assert (effort.least_tokens, effort.precision, effort.budget_seconds) == (least, 0.01, 99.0)


@pytest.mark.parametrize(
    ("stored", "wanted", "served"),
    [
        ({}, {}, True),
        ({"precision": 0.01}, {"precision": 0.02}, True),
        ({"precision": 0.02}, {"precision": 0.01}, False),
        ({"rounds": 4, "calls": 5}, {}, True),
        ({"rounds": 2}, {}, False),
        ({"calls": 1}, {}, False),
        ({"counts": "all"}, {}, True),
        ({"counts": "all"}, {"counts": "20,40"}, True),
        ({}, {"counts": "all"}, False),
        ({"counts": "20,40,60"}, {"counts": "20,40"}, True),
        ({"counts": "20,40"}, {"counts": "20,40,60"}, False),
        ({"counts": "20,40,60"}, {}, False),
    ],
)
def test_which_curve_serves_whom(stored, wanted, served):
    job, measured = swept(**stored)
    assert orders.serves(job, measured, ask(**wanted), MODEL, PHYSICAL) is served


def test_an_adaptive_curve_serves_the_counts_that_it_came_to():
    job, measured = swept()
    wish = ask(counts="all")
    whole = {Unit(Part.MODEL, n, n) for n in range(2, 198)}
    assert orders.serves(job, measured | whole, wish, MODEL, PHYSICAL)
    assert not orders.serves(job, (measured | whole) - {Unit(Part.MODEL, 77, 77)}, wish, MODEL, PHYSICAL)
    without = {unit for unit in measured | whole if unit.part is not Part.REDUCE}
    assert not orders.serves(job, without, wish, MODEL, PHYSICAL)


def test_attention_that_the_board_chose_serves_nobody_who_chose_it_himself():
    job, measured = swept()
    assert not orders.serves(job, measured, replace(ask(), attention="explicit"), MODEL, PHYSICAL)


def test_a_curve_of_an_earlier_release_serves_nobody():
    job, measured = swept()
    assert not orders.serves(replace(job, effort=None), measured, ask(), MODEL, PHYSICAL)


@pytest.mark.parametrize(("pass_ns", "budget"), [(1e6, 600.0), (1e9, 2 * 20 * 80 * 1.0)])
def test_a_verification_repeats_its_schedules_and_has_time_for_what_a_tail_takes(pass_ns, budget):
    objective = Objective(latency_share=0.9, on=Statistic.P99)
    board = type("Board", (), {"kind": PHYSICAL})()
    schedules = [dense("deep", MODEL.geometry)]
    job = orders.verification(ask(objective), STEP, board, MODEL, schedules, None, pass_ns)
    assert (job.effort.least_tokens, job.effort.precision) == (None, 0.02)
    assert job.effort.budget_seconds == pytest.approx(max(600.0, 2 * job.rounds * job.calls * pass_ns * 1e-9))


@pytest.mark.parametrize("kind", list(BoardKind))
def test_a_sweep_times_schedules_that_anchor_its_parts(kind):
    job = orders.sweep(ask(), STEP, SimpleNamespace(kind=kind), MODEL)
    assert job.schedules == anchors("deep", MODEL.geometry, ["topk"])
    assert {u.label for u in job.units if u.part is Part.SCHEDULE} == {s.digest for s in job.schedules}
