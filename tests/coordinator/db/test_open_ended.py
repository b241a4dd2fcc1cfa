"""Jobs that go on beyond what they list: when they are done, what their next holder is given, what they ran on."""

import pytest

from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.job import Effort, JobState
from tailfleet_schema.messages import Outcome

CHIP = {"device": "a chip", "attention": "fused"}


@pytest.fixture
def job(lab, board):
    lab.campaign("c1", "nano")
    return lab.sweep("c1", board, effort=Effort(least_tokens=2))


def more(job, *places):
    """Results beyond the least: counts that were added."""
    return [UnitResult(Unit(Part.MODEL, n, n), number, [1000 + n]) for n, number in places]


def progress(lab, job):
    record = lab.store.get_record(job.id)
    return record.done, record.total


def finish(lab, board, job, attempt, results, outcome=Outcome.DONE, runtime=CHIP):
    return lab.store.finish_job(board, job.id, attempt, outcome, None, "", results, runtime)


def test_it_is_done_when_everything_that_its_holder_claims_is_stored(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, [*lab.results_of(job), *more(job, (9, 2), (10, 2))])
    assert finish(lab, board, job, 1, 6) == (JobState.DONE, 0)


def test_what_is_claimed_and_not_stored_is_missing(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job))
    assert finish(lab, board, job, 1, 7) == (JobState.QUEUED, 3)


def test_its_budget_may_end_it_before_the_least(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job)[:3])
    assert finish(lab, board, job, 1, 3) == (JobState.DONE, 0)
    assert progress(lab, job) == (3, 3)


def test_it_is_not_done_without_any_result(lab, board, job):
    lab.claim(board)
    assert finish(lab, board, job, 1, 0) == (JobState.QUEUED, 1)


def test_who_claims_nothing_must_have_the_least(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job)[:3])
    assert finish(lab, board, job, 1, None) == (JobState.QUEUED, 1)


def test_a_job_that_is_not_open_ended_needs_all_that_it_lists_whatever_is_claimed(lab, board):
    lab.campaign("c2", "nano")
    listed = lab.sweep("c2", board)
    lab.claim(board)
    lab.add(board, listed, 1, lab.results_of(listed)[:3])
    assert finish(lab, board, listed, 1, 3) == (JobState.QUEUED, 1)


def test_no_more_is_done_than_there_is_in_all(lab, board, job):
    lab.claim(board)
    assert progress(lab, job) == (0, 4)
    lab.add(board, job, 1, lab.results_of(job))
    assert progress(lab, job) == (4, 4)
    lab.add(board, job, 1, more(job, (9, 2), (9, 2), (10, 2)))
    assert progress(lab, job) == (6, 6)


def test_the_next_holder_is_given_what_the_job_ran_on(lab, board, job):
    assert lab.claim(board).runtime == {}
    lab.store.add_results(board, job.id, 1, [], 60.0, None, CHIP)
    lab.store.take_back_jobs(board)
    assert lab.claim(board).runtime == CHIP


def test_earlier_results_come_in_the_order_of_their_arrival_without_telemetry(lab, board, job):
    told = Telemetry("2026-01-01T00:00:00+00:00")
    results = [UnitResult(r.unit, r.round, r.call_ns, telemetry=told) for r in reversed(lab.results_of(job))]
    judged = UnitResult(Unit(Part.LOSS, 17, 5, "topk", 1), 0, judgement=Judgement(10, 9, 9, 0.0, "host"))
    lab.claim(board)
    lab.add(board, job, 1, [judged, *results])
    assert lab.store.list_earlier(job.id) == list(reversed(lab.results_of(job)))
    assert lab.store.list_results(job.id)[1].telemetry == told


def test_what_was_measured_is_listed_once(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, [*lab.results_of(job), *more(job, (9, 2), (9, 3))])
    assert lab.store.list_units(job.id) == {*job.units, Unit(Part.MODEL, 9, 9)}


@pytest.mark.parametrize(("second", "changed"), [(CHIP, False), ({**CHIP, "attention": "explicit"}, True), ({}, False)])
def test_another_runtime_in_a_later_attempt_marks_the_curve(lab, board, job, second, changed):
    lab.claim(board)
    lab.store.add_results(board, job.id, 1, lab.results_of(job)[:2], 60.0, None, CHIP)
    lab.store.take_back_jobs(board)
    lab.claim(board)
    lab.store.add_results(board, job.id, 2, lab.results_of(job)[2:], 60.0, None, second)
    assert finish(lab, board, job, 2, 4, runtime=second)[0] is JobState.DONE
    assert lab.store.get_record(job.id).fingerprint_changed is changed
    lab.store.create_curve(job.id, True, "")
    (curve,) = lab.store.list_curves()
    assert curve.stable is not changed
    assert ("changed in mid-sweep" in curve.unstable_reason) is changed
    assert lab.sql("SELECT runtime_json FROM jobs") == [('{"attention":"fused","device":"a chip"}',)]
