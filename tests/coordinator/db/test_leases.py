"""The contract of a lease: who gets a job, who may speak for it, and what a result counts for."""

import pytest
from sqlalchemy import update

from tailfleet_coordinator.db.engine import Now
from tailfleet_coordinator.db.store_jobs import MAX_ATTEMPTS
from tailfleet_coordinator.db.tables import JobTable
from tailfleet_coordinator.refusals import LeaseGone, RoleRefused, UnknownName
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure, JobState
from tailfleet_schema.messages import Outcome


def state(lab, job):
    ((found, attempt),) = lab.sql("SELECT state, attempt FROM jobs WHERE id = ?", job.id)
    return found, attempt


def test_a_job_goes_to_its_board_once(lab, board, job):
    other = lab.board("other", machine="machine-2")
    assert lab.claim(other) is None
    claim = lab.claim(board)
    assert (claim.job, claim.attempt) == (job, 1)
    assert lab.claim(board) is None


def test_the_oldest_job_comes_first(lab, board, job):
    lab.campaign("c2", "nano")
    later = lab.sweep("c2", board)
    lab.write(update(JobTable).where(JobTable.id == later.id).values(created_at=Now(-3600)))
    assert lab.claim(board).job.id == later.id


def test_a_board_that_asks_again_gets_its_job_again_at_once(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job)[:1])
    lab.store.take_back_jobs(board)
    assert lab.claim(board).attempt == 2
    (key,) = lab.store.list_known_keys(job.id)
    assert key.as_tuple() == lab.results_of(job)[0].key
    with pytest.raises(LeaseGone, match="given again"):
        lab.add(board, job, 1, lab.results_of(job))
    assert len(lab.store.list_known_keys(job.id)) == 1


def test_results_of_an_expired_lease_count_while_nobody_else_has_it(lab, board, job):
    lab.claim(board)
    lab.expire()
    assert lab.add(board, job, 1, lab.results_of(job)) == (4, False)
    assert lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "") == (JobState.DONE, 0)


def test_a_key_counts_once_however_often_it_is_sent(lab, board, job):
    lab.claim(board)
    results = lab.results_of(job)
    assert lab.add(board, job, 1, results[:3])[0] == 3
    assert lab.add(board, job, 1, results[:3])[0] == 0
    assert lab.add(board, job, 1, [*results, *results])[0] == 1
    assert lab.store.list_results(job.id) == results


def test_a_job_is_not_done_while_a_key_is_missing(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job)[:3])
    assert lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "") == (JobState.QUEUED, 1)
    assert lab.claim(board).attempt == 2


def test_finishing_twice_says_the_same_and_does_nothing(lab, board, job):
    lab.claim(board)
    lab.add(board, job, 1, lab.results_of(job))
    first = lab.store.finish_job(board, job.id, 1, Outcome.DONE, None, "")
    assert lab.store.finish_job(board, job.id, 1, Outcome.FAILED, None, "") == first == (JobState.DONE, 0)
    with pytest.raises(LeaseGone):
        lab.store.renew_lease(board, job.id, 1, 60)


def test_an_interrupted_job_waits_again_a_failed_one_is_over(lab, board, job):
    lab.claim(board)
    assert lab.store.finish_job(board, job.id, 1, Outcome.INTERRUPTED, None, "")[0] is JobState.QUEUED
    lab.claim(board)
    cause = Failure("no torch", Blame.CONFIGURATION)
    assert lab.store.finish_job(board, job.id, 2, Outcome.FAILED, cause, "last words")[0] is JobState.FAILED
    assert lab.store.list_jobs("c1")[0].failure == cause
    assert lab.sql("SELECT attempt, log FROM job_logs") == [(2, "last words")]
    assert lab.claim(board) is None


def test_a_job_that_never_ends_is_failed(lab, board, job):
    lab.sql("UPDATE jobs SET attempt = ?", MAX_ATTEMPTS - 1)
    lab.claim(board)
    died = Failure("ended by signal 9", Blame.LAB)
    assert lab.store.finish_job(board, job.id, MAX_ATTEMPTS, Outcome.INTERRUPTED, died, "")[0] is JobState.FAILED
    assert "ended by signal 9" in lab.store.list_jobs("c1")[0].failure.sentence


def test_nobody_speaks_for_a_job_of_another_board(lab, board, job):
    other = lab.board("other", machine="machine-2")
    lab.claim(board)
    for speak in (
        lambda: lab.add(other, job, 1, lab.results_of(job)),
        lambda: lab.store.renew_lease(other, job.id, 1, 60),
        lambda: lab.store.finish_job(other, job.id, 1, Outcome.DONE, None, ""),
    ):
        with pytest.raises(RoleRefused):
            speak()
    with pytest.raises(UnknownName):
        lab.store.renew_lease(board, "no-such-job", 1, 60)
    assert lab.store.list_results(job.id) == []


def test_cancelling_stops_waiting_jobs_at_once_and_given_ones_when_they_speak(lab, board, job):
    lab.claim(board)
    lab.campaign("c2", "nano")
    waiting = lab.sweep("c2", board)
    assert lab.store.end_campaign("c2", CampaignState.CANCELLED)
    assert state(lab, waiting) == ("cancelled", 0)
    assert lab.store.end_campaign("c1", CampaignState.CANCELLED)
    assert not lab.store.end_campaign("c1", CampaignState.CANCELLED)
    assert lab.store.renew_lease(board, job.id, 1, 60) is True
    assert lab.add(board, job, 1, lab.results_of(job)[:1]) == (1, True)
    assert lab.store.finish_job(board, job.id, 1, Outcome.CANCELLED, None, "")[0] is JobState.CANCELLED
    assert lab.store.get_campaign("c1").state is CampaignState.CANCELLED


def test_a_cancelled_job_is_not_given_again(lab, board, job):
    lab.claim(board)
    lab.store.end_campaign("c1", CampaignState.CANCELLED)
    lab.store.take_back_jobs(board)
    assert lab.claim(board) is None
    assert state(lab, job) == ("cancelled", 1)


def test_no_job_for_a_campaign_that_has_ended_and_none_twice(lab, board, job):
    assert not lab.store.create_job("c1", board, "tiny", job)
    lab.store.end_campaign("c1", CampaignState.CANCELLED)
    lab.campaign("c2", "nano")
    lab.store.end_campaign("c2", CampaignState.CANCELLED)
    assert not lab.store.create_job("c2", board, "tiny", job)
    assert lab.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_a_board_that_changed_in_mid_sweep_makes_an_unstable_curve(lab, board, job):
    lab.claim(board)
    lab.store.see_board(board, lab.facts_of(torch="2.1"), None)
    lab.store.take_back_jobs(board)
    lab.claim(board)
    lab.add(board, job, 2, lab.results_of(job))
    lab.store.finish_job(board, job.id, 2, Outcome.DONE, None, "")
    curve = lab.store.get_curve(lab.store.create_curve(job.id, True, ""))
    assert not curve.stable
    assert "changed" in curve.unstable_reason
    assert lab.store.create_curve(job.id, True, "") == curve.id


@pytest.mark.parametrize("said", ["half a pair \ud800", "nothing\0 at all"])
def test_whatever_a_child_printed_is_kept_as_text(lab, board, job, said):
    lab.claim(board)
    assert lab.store.finish_job(board, job.id, 1, Outcome.INTERRUPTED, None, said)[0] is JobState.QUEUED
    ((log,),) = lab.sql("SELECT log FROM job_logs")
    assert len(log) == len(said)
    assert log[:7] == said[:7]
