"""What people ask about jobs, by HTTP and from Python."""

import pandas
import pytest

from tailfleet_coordinator.client import FleetError
from tailfleet_coordinator.jobs import order_of
from tailfleet_coordinator.replies import JOB_COLUMNS
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure, Job, JobKind
from tailfleet_schema.messages import Outcome
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Workload


@pytest.fixture
def board(live):
    return live.board("modelled", BoardKind.VIRTUAL)


@pytest.fixture
def job(live, board):
    live.lab.campaign("c1", "modelled")
    return live.lab.sweep("c1", board)


def test_no_job_is_a_table_with_all_columns(fleet):
    assert list(fleet.jobs().columns) == list(JOB_COLUMNS)
    assert fleet.jobs().empty


def test_a_failed_job_says_who_must_act(live, fleet, board, job):
    live.lab.claim(board)
    cause = Failure("timm is not installed", Blame.CONFIGURATION, "Traceback …")
    live.lab.store.finish_job(board, job.id, 1, Outcome.FAILED, cause, "a\nlast words\n")
    (row,) = fleet.jobs(campaign="c1", board="modelled", model="tiny", state="failed").to_dict("records")
    assert (row["id"], row["board_kind"], row["attempt"]) == (job.id, "virtual", 1)
    assert (row["failure"], row["who_must_act"]) == (cause.sentence, Blame.CONFIGURATION.who_must_act)
    assert row["created_at"] <= row["finished_at"] <= pandas.Timestamp.now("UTC")
    found = fleet.job(job.id[:5])
    assert (found.failure, found.who_must_act) == (cause, "the installation: a package or a setting is missing")
    assert [(one.attempt, one.last_words) for one in found.attempts] == [(1, "last words")]
    assert found.lease_expires_at is None
    assert fleet.jobs(state="done").empty


def test_a_running_job_in_full(live, fleet, board, job):
    live.lab.claim(board)
    live.lab.add(board, job, 1, live.lab.results_of(job)[:2])
    found = fleet.job(job.id)
    assert (found.state, found.done, found.total, found.attempt) == ("leased", 2, 4, 1)
    assert (found.failure, found.who_must_act, found.lease_lapsed) == (None, None, False)
    assert found.order.counts == [5, 17]
    assert (found.order.rounds, found.order.calls, found.order.units) == (2, 1, 2)
    assert [one.results for one in found.attempts] == [2]


def test_an_order_in_short(live):
    model = live.lab.model
    schedules = [Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])]
    units = [Unit(Part.SENTINEL, 17, 17), Unit(Part.REDUCE, 17, 9, "tome"), Unit(Part.REDUCE, 17, 5, "pomt")]
    units += [Unit(Part.MODEL, n, n) for n in (17, 3, 9)] + [Unit(Part.SCHEDULE, 17, 9, schedules[0].digest)]
    order = order_of(Job("j", JobKind.VERIFY, Workload(model), units, 3, 5, 0, schedules))
    assert order.parts == ["model", "sentinel", "reduce", "schedule"]
    assert order.counts == [3, 9, 17]
    assert order.methods == ["pomt", "tome"]
    assert [(one.method, one.keep) for one in order.schedules] == [("topk", [17, 9, 9, 9])]


def test_logs_of_each_attempt(live, fleet, board, job):
    nothing = fleet.job_log(job.id)
    assert (nothing.attempt, nothing.state, nothing.log, nothing.stored_at) == (0, "queued", "", None)
    live.lab.claim(board)
    live.lab.store.renew_lease(board, job.id, 1, 60.0, "first\n")
    assert fleet.job_log(job.id).log == "first\n"
    live.lab.store.take_back_jobs(board)
    live.lab.claim(board)
    assert (fleet.job_log(job.id).attempt, fleet.job_log(job.id).log) == (2, "")
    assert fleet.job_log(job.id, attempt=1).log == "first\n"
    for attempt in (0, 3):
        with pytest.raises(FleetError, match="no attempt") as refusal:
            fleet.job_log(job.id, attempt=attempt)
        assert refusal.value.status == 404


def test_cancelling(live, fleet, board, job):
    found = fleet.cancel_job(job.id)
    assert found.state == "cancelled"
    assert found.failure.sentence == "the job was cancelled by operator 'op'"
    with pytest.raises(FleetError, match="cancelled already") as refusal:
        fleet.cancel_job(job.id)
    assert (refusal.value.status, refusal.value.blame) == (409, Blame.AUTHOR)
    live.lab.campaign("c2", "modelled")
    running = live.lab.sweep("c2", board)
    live.lab.claim(board)
    found = fleet.cancel_job(running.id)
    assert (found.state, found.cancel_requested) == ("leased", True)


def test_what_cannot_be_meant(fleet, job):
    for asked, status, words in (
        (lambda: fleet.jobs(state="asleep"), 422, "queued, leased"),
        (lambda: fleet.jobs(limit=0), 422, "limit"),
        (lambda: fleet.jobs(limit=10**6), 422, "limit"),
        (lambda: fleet.job("ghost"), 404, "ghost"),
        (lambda: fleet.job_log("ghost"), 404, "ghost"),
        (lambda: fleet.cancel_job("ghost"), 404, "ghost"),
    ):
        with pytest.raises(FleetError, match=words) as refusal:
            asked()
        assert refusal.value.status == status
