"""The decision what a step needs next, over every situation it can be in."""

import itertools
from dataclasses import replace

import pytest

from tailfleet_coordinator.cluster.steps import Action, StepFacts, decide
from tailfleet_schema.job import JobState

START = StepFacts(curve=False, usable_curve=False, sweep=None, wants_plans=True, unprofiled=3, unplanned=2, verify=None)


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({}, Action.SWEEP),
        ({"usable_curve": True}, Action.ADOPT),
        ({"sweep": JobState.QUEUED}, Action.AWAIT_SWEEP),
        ({"sweep": JobState.LEASED}, Action.AWAIT_SWEEP),
        ({"sweep": JobState.DONE}, Action.AWAIT_SWEEP),
        ({"sweep": JobState.DONE, "usable_curve": True}, Action.ADOPT),
        ({"sweep": JobState.FAILED}, Action.FAIL),
        ({"sweep": JobState.CANCELLED}, Action.FAIL),
        ({"curve": True, "wants_plans": False}, Action.DONE),
        ({"curve": True}, Action.PROFILE),
        ({"curve": True, "unprofiled": 0}, Action.PLAN),
        ({"curve": True, "unprofiled": 0, "unplanned": 0}, Action.VERIFY),
        ({"curve": True, "unplanned": 0, "verify": JobState.LEASED}, Action.AWAIT_VERIFY),
        ({"curve": True, "unplanned": 0, "verify": JobState.DONE}, Action.DONE),
        ({"curve": True, "unplanned": 0, "verify": JobState.FAILED}, Action.FAIL),
    ],
)
def test_what_comes_next(changes, action):
    assert decide(replace(START, **changes)) is action


def test_no_situation_orders_what_is_ordered_already():
    states = [None, *JobState]
    for curve, usable, sweep, wants, unprofiled, unplanned, verify in itertools.product(
        (False, True), (False, True), states, (False, True), (0, 1), (0, 1), states
    ):
        action = decide(StepFacts(curve, usable, sweep, wants, unprofiled, unplanned, verify))
        assert not (action is Action.SWEEP and (sweep is not None or curve))
        assert not (action is Action.VERIFY and (verify is not None or not wants or unplanned))
        assert not (action is Action.PLAN and unprofiled)
        if {sweep, verify} & {JobState.FAILED, JobState.CANCELLED}:
            assert action is Action.FAIL
