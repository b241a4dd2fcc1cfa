"""Jobs as people list, read and cancel them; their logs, whatever bytes a child writes."""

import pytest

from tailfleet_coordinator.db.rows import Holder
from tailfleet_coordinator.db.store_jobs import LOG_CHARACTERS
from tailfleet_coordinator.refusals import JobEnded, LeaseGone, UnknownName
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.errors import Blame, InputError
from tailfleet_schema.job import Failure, JobState
from tailfleet_schema.messages import Outcome

REASON = Failure("the job was cancelled by operator 'lab'", Blame.AUTHOR)


def test_a_waiting_job_is_over_at_once(lab, board, job):
    assert lab.store.cancel_job(job.id, REASON) is JobState.CANCELLED
    found = lab.store.get_record(job.id)
    assert (found.state, found.failure) == (JobState.CANCELLED, REASON)
    assert found.finished_at is not None
    assert lab.claim(board) is None


def test_a_given_job_is_over_when_its_holder_speaks_and_keeps_what_it_has(lab, board, job):
    lab.claim(board)
    assert lab.store.cancel_job(job.id, REASON) is JobState.LEASED
    other = Failure("once more", Blame.AUTHOR)
    assert lab.store.cancel_job(job.id, other) is JobState.LEASED
    assert lab.store.renew_lease(board, job.id, 1, 60.0) is True
    assert lab.add(board, job, 1, lab.results_of(job)[:1]) == (1, True)
    lab.store.finish_job(board, job.id, 1, Outcome.CANCELLED, None, "the end\n")
    found = lab.store.get_record(job.id)
    assert (found.state, found.done, found.failure) == (JobState.CANCELLED, 1, REASON)


def test_a_job_that_was_done_before_its_holder_heard_is_done(lab, board, job):
    lab.claim(board)
    lab.store.cancel_job(job.id, REASON)
    lab.add(board, job, 1, lab.results_of(job))
    assert lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "") == (JobState.DONE, 0)
    assert lab.store.get_record(job.id).failure is None


@pytest.mark.parametrize("whole", [False, True], ids=["job", "campaign"])
def test_a_job_whose_holder_is_gone_is_over_at_once(lab, board, job, whole):
    lab.claim(board)
    lab.expire()
    if whole:
        lab.store.end_campaign("c1", CampaignState.CANCELLED)
    else:
        assert lab.store.cancel_job(job.id, REASON) is JobState.CANCELLED
    assert lab.store.get_record(job.id).state is JobState.CANCELLED
    assert lab.sql("SELECT count(*) FROM machine_uses") == [(0,)]
    with pytest.raises(LeaseGone):
        lab.add(board, job, 1, lab.results_of(job))


def test_what_is_over_cannot_be_cancelled(lab, board, job):
    lab.store.cancel_job(job.id, REASON)
    with pytest.raises(JobEnded, match="cancelled already"):
        lab.store.cancel_job(job.id, Failure("again", Blame.AUTHOR))
    assert lab.store.get_record(job.id).failure == REASON
    with pytest.raises(UnknownName):
        lab.store.cancel_job("ghost", REASON)


def test_the_other_jobs_are_left_alone(lab, board, job):
    lab.campaign("c2", "nano")
    other = lab.sweep("c2", board)
    lab.store.cancel_job(job.id, REASON)
    assert lab.claim(board).job == other


def test_who_must_hear_something(lab, board, job):
    far = lab.board("far", machine="machine-2")
    lab.campaign("c2", "far")
    theirs = lab.sweep("c2", far)
    lab.claim(board), lab.claim(far)
    mine, other = Holder(board, job.id, 1), Holder(far, theirs.id, 1)
    strangers = {Holder(far, job.id, 1), Holder(board, job.id, 2), Holder(board, "ghost", 1)}
    assert lab.store.find_called_off([mine, other, *strangers]) == strangers
    lab.store.cancel_job(job.id, REASON)
    assert lab.store.find_called_off([mine, other]) == {mine}
    lab.store.take_back_jobs(far)
    assert lab.store.find_called_off([mine, other]) == {mine, other}


def test_jobs_are_listed_by_what_is_asked_the_newest_first(lab, board, job):
    far = lab.board("far", BoardKind.VIRTUAL, machine="machine-2")
    lab.campaign("c2", "nano", "far")
    newer = [lab.sweep("c2", board_id) for board_id in (board, far)]
    lab.claim(far)
    lab.add(far, newer[1], 1, lab.results_of(newer[1])[:3])
    everything = [record.id for record in lab.store.list_records()]
    assert sorted(everything[:2]) == sorted(made.id for made in newer)
    assert everything[2] == job.id
    asked = {
        "campaign_id": ("c1", [job.id]),
        "board": ("far", [newer[1].id]),
        "state": (JobState.LEASED, [newer[1].id]),
        "model": ("ghost", []),
        "limit": (1, everything[:1]),
    }
    for name, (value, ids) in asked.items():
        assert [record.id for record in lab.store.list_records(**{name: value})] == ids, name
    (given,) = lab.store.list_records(state=JobState.LEASED)
    assert (given.board, given.board_kind, given.done, given.total) == ("far", BoardKind.VIRTUAL, 3, 4)
    assert not given.lease_lapsed
    lab.expire()
    assert lab.store.get_record(given.id).lease_lapsed


def test_a_job_is_found_by_the_beginning_of_its_id(lab, board, job):
    lab.campaign("c1-x", "nano")
    longer = lab.sweep("c1-x", board)
    assert lab.store.find_job(job.id) == job.id
    assert lab.store.find_job("c1-x") == longer.id
    with pytest.raises(InputError, match="several jobs begin with 'c1'"):
        lab.store.find_job("c1")
    for unknown in ("", "ghost", "%", "c1_"):
        with pytest.raises(UnknownName):
            lab.store.find_job(unknown)


def test_an_id_that_begins_another_one_is_meant_itself(lab, board, job):
    lab.campaign(f"{job.id}0", "nano")
    longer = lab.sweep(f"{job.id}0", board)
    assert longer.id.startswith(job.id)
    assert lab.store.find_job(job.id) == job.id


def test_each_attempt_keeps_its_results_and_its_log(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job)[:1])
    lab.store.renew_lease(board, job.id, 1, 60.0, "first\n")
    lab.store.renew_lease(board, job.id, 1, 60.0, "first\nsecond\n")
    lab.store.renew_lease(board, job.id, 1, 60.0, None)
    lab.store.take_back_jobs(board)
    lab.claim(board)
    lab.store.take_back_jobs(board)
    lab.claim(board)
    lab.store.add_results(board, job.id, 3, lab.results_of(job)[1:], 60.0, "third\n")
    first, third = lab.store.list_attempts(job.id)
    assert (first.attempt, first.results, first.log) == (1, 1, "first\nsecond\n")
    assert (third.attempt, third.results, third.log) == (3, 3, "third\n")
    assert third.first_result_at <= third.last_result_at
    assert first.log_at.tzinfo is not None
    lab.store.finish_job(board, job.id, 3, Outcome.DONE, None, "")
    assert lab.store.list_attempts(job.id)[1].log == "third\n"


def test_nobody_else_writes_into_a_log(lab, board, job):
    lab.claim(board)
    lab.store.take_back_jobs(board)
    lab.claim(board)
    with pytest.raises(LeaseGone):
        lab.store.renew_lease(board, job.id, 1, 60.0, "late")
    with pytest.raises(LeaseGone):
        lab.store.add_results(board, job.id, 1, [], 60.0, "late")
    assert lab.store.list_attempts(job.id) == []


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\N{SMILE}"])
def test_any_text_can_be_kept(lab, board, job, text):
    lab.claim(board)
    lab.store.finish_job(board, job.id, 1, Outcome.CANCELLED, None, text)
    (kept,) = lab.store.list_attempts(job.id)
    assert kept.log[0] == text[0]
    assert "\0" not in kept.log
    kept.log.encode()


def test_of_a_long_log_the_end_is_kept(lab, board, job):
    lab.claim(board)
    lab.store.renew_lease(board, job.id, 1, 60.0, "x" * LOG_CHARACTERS + "end")
    (kept,) = lab.store.list_attempts(job.id)
    assert len(kept.log) == LOG_CHARACTERS
    assert kept.log.endswith("end")
