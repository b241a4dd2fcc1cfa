"""Schedules under their digests: planned ones, and those that people added."""

import pytest

from tailfleet_coordinator.db.rows import NewPlan
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule

MINE = Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])


def listed(lab, **which):
    return [(s.digest, s.board, s.planner, s.campaign_id) for s in lab.store.list_schedules(**which)]


def test_an_added_schedule_is_found_by_its_digest_and_listed_without_a_board(lab):
    lab.store.add_schedule(MINE)
    lab.store.add_schedule(MINE)
    assert lab.store.get_schedule(MINE.digest[:8]) == MINE
    assert listed(lab) == listed(lab, model="tiny") == [(MINE.digest, "", "", "")]
    assert listed(lab, board="nano") == listed(lab, campaign="c1") == listed(lab, model="other") == []


def test_one_that_is_planned_too_is_listed_as_planned(lab):
    board_id = lab.board("nano")
    lab.campaign("c1", "nano")
    other = Schedule("topk", "tiny", 17, 1, [17, 8, 8, 8])
    lab.store.add_schedule(MINE)
    lab.store.add_schedule(other)
    lab.store.add_plan("c1", board_id, "tiny", "optimal", "topk", "{}", MINE)
    planned, added = (MINE.digest, "nano", "optimal", "c1"), (other.digest, "", "", "")
    assert listed(lab) == [added, planned]
    assert listed(lab, board="nano") == [planned]


def test_contenders_of_a_plan_are_listed_after_what_was_chosen(lab):
    board_id = lab.board("nano")
    lab.campaign("c1", "nano")
    first, second = (Schedule("topk", "tiny", 17, 1, [17, count, count, count]) for count in (8, 7))
    for _ in range(2):
        lab.store.add_plan("c1", board_id, "tiny", "optimal", "topk", "{}", MINE, [second, first, second])
    assert listed(lab, campaign="c1") == [(one.digest, "nano", "optimal", "c1") for one in (MINE, second, first)]
    lab.store.add_schedule(Schedule("topk", "tiny", 17, 1, [17, 6, 6, 6]))
    assert [one.choice for one in lab.store.list_schedules()] == ["chosen", "contender", "contender", ""]


def test_what_does_not_fit_its_model_is_not_stored(lab):
    with pytest.raises(UnknownName, match="'ghost'"):
        lab.store.add_schedule(Schedule("topk", "ghost", 17, 1, [17]))
    with pytest.raises(ScheduleError, match=r"^keep: has 1 blocks, model 'tiny' has 4"):
        lab.store.add_schedule(Schedule("topk", "tiny", 17, 1, [17]))
    assert listed(lab) == []


def test_plans_are_stored_many_at_a_time_and_each_once(lab):
    board_id = lab.board("nano")
    lab.campaign("c1", "nano")
    told = [
        NewPlan("c1", board_id, "tiny", "optimal", method, "{}", schedule)
        for method, schedule in (("topk", MINE), ("pomt", MINE), ("tome", None))
    ]
    lab.store.add_plans([])
    lab.store.add_plans(told)
    lab.store.add_plans(told)
    stored = [(plan.method, plan.schedule_digest) for plan in lab.store.list_plans("c1")]
    assert stored == [("topk", MINE.digest), ("pomt", MINE.digest), ("tome", None)]
    assert lab.store.get_schedule(MINE.digest) == MINE
