"""What a board goes through, over real HTTP: enrol, wait, work, deliver, finish."""

import threading

import httpx
import pytest

from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Effort, Failure
from tailfleet_schema.messages import (
    EnrolReply,
    EnrolRequest,
    ErrorReply,
    FinishReply,
    FinishRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    Outcome,
    ResultsReply,
    ResultsUpload,
)


class BoardDouble:
    """A board's requests; ``refused`` expects a refusal and returns its status and words."""

    def __init__(self, url, token=None):
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"} if token else {})

    def post(self, path, message, kind):
        answer = self.http.post(f"/v1/{path}", content=codec.dumps(message))
        assert answer.status_code == 200, answer.text
        return codec.loads(kind, answer.content)

    def refused(self, path, message):
        answer = self.http.post(f"/v1/{path}", content=codec.dumps(message))
        return answer.status_code, codec.loads(ErrorReply, answer.content).error

    def lease(self, facts, wait=0.0):
        return self.post("lease", LeaseRequest(facts, wait), LeaseReply).lease


@pytest.fixture
def boards(live):
    made = []

    def board(name, *arguments, **options):
        live.board(name, *arguments, **options)
        made.append(BoardDouble(live.url, f"{name}-token"))
        return made[-1]

    yield board
    for double in made:
        double.http.close()


def ordered(live, *names):
    live.lab.campaign("c1", *names)
    return [live.lab.sweep("c1", board_id) for board_id in live.lab.store.find_boards(list(names))]


def test_enrolling_by_http_gives_a_token_that_works(live):
    from tailfleet_coordinator.client import Fleet

    with Fleet(live.url, live.operator) as fleet:
        promise = fleet.enroll_board("nano")
    board = BoardDouble(live.url, promise.token)
    assert board.http.get("/v1/agent.pyz").content == live.bundle.content
    request = EnrolRequest(live.lab.facts_of())
    reply = board.post("enroll", request, EnrolReply)
    assert reply.board == "nano"
    status, words = board.refused("enroll", request)
    assert (status, "used already" in words) == (401, True)
    board.http.headers["Authorization"] = f"Bearer {reply.board_token}"
    assert board.lease(live.lab.facts_of()) is None
    board.http.close()
    stored = str(live.lab.sql("SELECT * FROM boards") + live.lab.sql("SELECT * FROM enrolments"))
    assert promise.token not in stored
    assert reply.board_token not in stored


def test_from_lease_to_done(live, boards):
    board = boards("nano")
    (job,) = ordered(live, "nano")
    lease = board.lease(live.lab.facts_of())
    assert (lease.job, lease.attempt, lease.known) == (job, 1, [])
    results = live.lab.results_of(job)
    assert board.post(f"jobs/{job.id}/results", ResultsUpload(1, results[:1]), ResultsReply) == ResultsReply(1)
    again = board.lease(live.lab.facts_of())
    assert again.attempt == 2
    assert [key.as_tuple() for key in again.known] == [results[0].key]
    assert board.post(f"jobs/{job.id}/heartbeat", HeartbeatRequest(2), HeartbeatReply) == HeartbeatReply()
    assert board.post(f"jobs/{job.id}/results", ResultsUpload(2, results), ResultsReply) == ResultsReply(3)
    assert board.post(f"jobs/{job.id}/finish", FinishRequest(2, Outcome.DONE), FinishReply) == FinishReply("done")
    assert live.lab.store.list_curves()[0].job_id == job.id
    assert board.lease(live.lab.facts_of()) is None


def test_a_waiting_board_is_given_work_when_there_is_some(live, boards):
    board = boards("nano")
    got = []
    waiter = threading.Thread(target=lambda: got.append(board.lease(live.lab.facts_of(), wait=20.0)))
    waiter.start()
    (job,) = ordered(live, "nano")
    waiter.join(10)
    assert got
    assert got[0].job == job


def test_a_request_that_the_board_no_longer_listens_to_gets_no_job(live, boards):
    board, same = boards("nano"), BoardDouble(live.url, "nano-token")
    got = []
    waiter = threading.Thread(target=lambda: got.append(board.lease(live.lab.facts_of(), wait=20.0)))
    waiter.start()
    while not live.app.state.waiting._tickets:
        pass
    assert same.lease(live.lab.facts_of(), wait=0.0) is None
    waiter.join(10)
    assert got == [None]
    same.http.close()


def test_a_coordinator_that_ends_lets_waiting_boards_go(live, boards):
    board = boards("nano")
    got = []
    waiter = threading.Thread(target=lambda: got.append(board.lease(live.lab.facts_of(), wait=20.0)))
    waiter.start()
    while not live.app.state.waiting._tickets:
        pass
    live.app.state.waiting.close()
    waiter.join(10)
    assert got == [None]
    assert board.lease(live.lab.facts_of(), wait=20.0) is None


def test_an_earlier_attempt_may_say_nothing_more(live, boards):
    board = boards("nano")
    (job,) = ordered(live, "nano")
    board.lease(live.lab.facts_of())
    board.lease(live.lab.facts_of())
    for what, message in (
        ("results", ResultsUpload(1, live.lab.results_of(job))),
        ("heartbeat", HeartbeatRequest(1)),
        ("finish", FinishRequest(1, Outcome.DONE)),
    ):
        assert board.refused(f"jobs/{job.id}/{what}", message)[0] == 409
    assert live.lab.store.list_results(job.id) == []


def test_results_that_were_not_ordered_are_refused_whole(live, boards):
    board = boards("nano")
    (job,) = ordered(live, "nano")
    board.lease(live.lab.facts_of())
    good = live.lab.results_of(job)
    foreign = codec.decode(type(good[0]), {**codec.encode(good[0]), "round": job.rounds})
    status, words = board.refused(f"jobs/{job.id}/results", ResultsUpload(1, [good[1], foreign]))
    assert status == 422
    assert "results[1]" in words
    body = codec.dumps(ResultsUpload(1, good[:1])).replace("[1000]", "[-5]")
    answer = board.http.post(f"/v1/jobs/{job.id}/results", content=body)
    assert answer.status_code == 422
    assert "results[0]" in answer.text
    assert live.lab.store.list_results(job.id) == []


def test_a_revoked_board_loses_its_job_and_gets_no_other_though_it_waits(live, boards):
    from tailfleet_coordinator.client import Fleet

    board = boards("nano")
    (job,) = ordered(live, "nano")
    board.lease(live.lab.facts_of())
    with Fleet(live.url, live.operator) as fleet:
        assert fleet.revoke_board("nano").revoked_at is not None
        status, words = board.refused(f"jobs/{job.id}/results", ResultsUpload(1, live.lab.results_of(job)))
        assert (status, words) == (401, "the token of board 'nano' was revoked")
        assert live.lab.sql("SELECT state, lease_expires_at FROM jobs") == [("queued", None)]
        assert live.lab.sql("SELECT count(*) FROM machine_uses") == [(0,)]
        (board_id,) = live.lab.sql("SELECT id FROM boards")[0]
        assert live.lab.claim(board_id) is None

        again = BoardDouble(live.url, fleet.enroll_board("nano").token)
    reply = again.post("enroll", EnrolRequest(live.lab.facts_of()), EnrolReply)
    again.http.headers["Authorization"] = f"Bearer {reply.board_token}"
    lease = again.lease(live.lab.facts_of())
    assert (lease.job, lease.attempt) == (job, 2)
    assert live.lab.sql("SELECT id, revoked_at FROM boards") == [(board_id, None)]
    assert board.refused("lease", LeaseRequest(live.lab.facts_of()))[0] == 401
    again.http.close()


def test_another_board_s_job_is_not_yours(live, boards):
    boards("nano")
    other = boards("other", BoardKind.PHYSICAL, "machine-2")
    (job,) = ordered(live, "nano")
    assert other.refused(f"jobs/{job.id}/heartbeat", HeartbeatRequest(1))[0] == 403
    assert other.refused("jobs/none/heartbeat", HeartbeatRequest(1))[0] == 404


def test_a_failure_is_kept_with_its_blame(live, boards):
    board = boards("nano")
    (job,) = ordered(live, "nano")
    board.lease(live.lab.facts_of())
    cause = Failure("timm is not installed", Blame.CONFIGURATION)
    reply = board.post(f"jobs/{job.id}/finish", FinishRequest(1, Outcome.FAILED, cause, "log"), FinishReply)
    assert reply == FinishReply("failed", 4)
    assert live.lab.store.list_jobs("c1")[0].failure == cause


def test_artifacts_and_the_agent_are_served_whole(live, boards):
    board = boards("nano")
    sha256 = live.artifacts.put(b"weights")
    assert board.http.get(f"/v1/artifacts/{sha256}").content == b"weights"
    agent = board.http.get("/v1/agent.pyz")
    assert agent.content == live.bundle.content
    assert agent.headers["x-sha256"] == live.bundle.sha256
    assert board.http.get("/v1/health").json()["status"] == "ok"


def open_ended(live, name, **effort):
    live.lab.campaign("c1", name)
    (board_id,) = live.lab.store.find_boards([name])
    return live.lab.sweep("c1", board_id, effort=Effort(**effort))


def test_an_open_ended_job_goes_on_where_its_last_holder_was(live, boards):
    nano = boards("nano")
    job = open_ended(live, "nano", least_tokens=2)
    first = nano.lease(live.lab.facts_of())
    assert (first.earlier, first.runtime) == ([], {})
    results = [*live.lab.results_of(job), UnitResult(Unit(Part.MODEL, 9, 9), 5, [1000])]
    nano.post(f"jobs/{job.id}/results", ResultsUpload(1, results, runtime={"device": "a chip"}), ResultsReply)
    again = nano.lease(live.lab.facts_of())
    assert (again.attempt, again.earlier, again.runtime) == (2, results, {"device": "a chip"})
    assert len(again.known) == 5
    nano.post(
        f"jobs/{job.id}/results", ResultsUpload(2, [UnitResult(Unit(Part.MODEL, 10, 10), 5, [1000])]), ResultsReply
    )
    request = FinishRequest(2, Outcome.DONE, results=6, runtime={"device": "a chip"})
    assert nano.post(f"jobs/{job.id}/finish", request, FinishReply) == FinishReply("done", 0)


def test_a_job_that_is_not_open_ended_needs_no_earlier_results(live, boards):
    nano = boards("nano")
    (job,) = ordered(live, "nano")
    nano.lease(live.lab.facts_of())
    nano.post(f"jobs/{job.id}/results", ResultsUpload(1, live.lab.results_of(job)[:2]), ResultsReply)
    again = nano.lease(live.lab.facts_of())
    assert (len(again.known), again.earlier) == (2, [])


@pytest.mark.parametrize(
    ("unit", "number", "effort", "accepted"),
    [
        (Unit(Part.MODEL, 5, 5), 199, {}, True),
        (Unit(Part.MODEL, 5, 5), 200, {}, False),
        (Unit(Part.MODEL, 5, 5), 3, {"most_rounds": 3}, False),
        (Unit(Part.MODEL, 9, 9), 0, {}, False),
        (Unit(Part.MODEL, 9, 9), 2, {"least_tokens": 9}, True),
        (Unit(Part.MODEL, 8, 8), 2, {"least_tokens": 9}, False),
        (Unit(Part.MODEL, 18, 18), 2, {"least_tokens": 9}, False),
        (Unit(Part.MLP, 9, 9), 2, {"least_tokens": 9}, False),
    ],
)
def test_results_beyond_the_least_are_those_that_the_effort_allows(live, boards, unit, number, effort, accepted):
    nano = boards("nano")
    job = open_ended(live, "nano", **effort)
    nano.lease(live.lab.facts_of())
    upload = ResultsUpload(1, [UnitResult(unit, number, [1000])])
    if accepted:
        assert nano.post(f"jobs/{job.id}/results", upload, ResultsReply).stored == 1
    else:
        status, words = nano.refused(f"jobs/{job.id}/results", upload)
        assert (status, words) == (422, "results[0]: the job has no such unit and round")
