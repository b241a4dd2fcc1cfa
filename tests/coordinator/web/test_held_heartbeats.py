"""A heartbeat whose answer is held: until the job is called off, the lease is lost, nobody listens, or time is over."""

import subprocess
import sys
import threading
import time

import httpx
import pytest

from tailfleet_coordinator.client import Fleet
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import ErrorReply, HeartbeatReply, HeartbeatRequest

REASON = Failure("the job was cancelled by a test", Blame.AUTHOR)
PATIENCE_SECONDS = 20.0
LONG = 3600.0
"""Longer than any test is patient."""


@pytest.fixture
def live(serve):
    return serve(poll_seconds=LONG, lease_seconds=4 * LONG)


class Asking(threading.Thread):
    """One request of a board, held in a thread of its own."""

    def __init__(self, live, job, attempt=1, seconds=LONG):
        super().__init__()
        self._request = f"{live.url}/v1/jobs/{job.id}/heartbeat", codec.dumps(HeartbeatRequest(attempt, seconds))
        self.status = self.reply = None
        self.start()

    def run(self):
        url, content = self._request
        headers = {"Authorization": "Bearer nano-token"}
        answer = httpx.post(url, content=content, headers=headers, timeout=PATIENCE_SECONDS)
        self.status = answer.status_code
        self.reply = codec.loads(HeartbeatReply if answer.is_success else ErrorReply, answer.content)

    def answered(self):
        self.join(PATIENCE_SECONDS)
        return self.status, self.reply


def waits(live):
    """Wait until a heartbeat is held."""
    until(lambda: live.app.state.holding._tickets)


def until(look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline


def given(live):
    board_id = live.board("nano")
    live.lab.campaign("c1", "nano")
    job = live.lab.sweep("c1", board_id)
    live.lab.claim(board_id)
    return board_id, job


@pytest.mark.parametrize("whole", [False, True], ids=["job", "campaign"])
def test_who_cancels_is_answered_after_the_holder_was(serve, whole):
    """The coordinator looks at the database once an hour here: it is the request that makes it look."""
    live = serve(look_seconds=LONG, poll_seconds=LONG, lease_seconds=4 * LONG)
    _, job = given(live)
    asking = Asking(live, job)
    waits(live)
    with Fleet(live.url, live.operator) as fleet:
        fleet.cancel("c1") if whole else fleet.cancel_job(job.id)
    assert live.app.state.holding._tickets == {}
    assert asking.answered() == (200, HeartbeatReply(True))


def test_a_cancellation_by_another_hand_is_found_in_the_database(live):
    _, job = given(live)
    asking = Asking(live, job)
    waits(live)
    live.lab.store.cancel_job(job.id, REASON)
    assert asking.answered() == (200, HeartbeatReply(True))


def test_a_cancelled_job_s_holder_is_not_made_to_wait(live):
    _, job = given(live)
    live.lab.store.cancel_job(job.id, REASON)
    assert Asking(live, job).answered() == (200, HeartbeatReply(True))


def test_a_lost_lease_is_said(live):
    board_id, job = given(live)
    asking = Asking(live, job)
    waits(live)
    live.lab.store.take_back_jobs(board_id)
    status, reply = asking.answered()
    assert status == 409
    assert "not leased" in reply.error


def test_nothing_to_say_is_said_in_time(serve):
    """The time asked for, the coordinator's own patience, and a part of a lease: whichever is shortest."""
    _, job = given(live := serve(lease_seconds=0.3))
    assert Asking(live, job, seconds=1e6).answered() == (200, HeartbeatReply(False))
    for seconds in (0.05, 0.0, -1.0):
        assert Asking(live, job, seconds=seconds).answered() == (200, HeartbeatReply(False))
    live.close()
    live = serve(poll_seconds=0.05)
    assert Asking(live, job).answered() == (200, HeartbeatReply(False))


def test_the_lease_is_renewed_when_the_heartbeat_comes_not_when_it_is_answered(live):
    _, job = given(live)
    live.lab.expire()
    asking = Asking(live, job)
    waits(live)
    until(lambda: not live.lab.store.get_record(job.id).lease_lapsed)
    live.app.state.let_go()
    assert asking.answered() == (200, HeartbeatReply(False))


def test_a_coordinator_that_ends_lets_holders_go_on(live):
    _, job = given(live)
    asking = Asking(live, job)
    waits(live)
    live.app.state.let_go()
    assert asking.answered() == (200, HeartbeatReply(False))
    assert Asking(live, job).answered() == (200, HeartbeatReply(False))


def test_an_agent_that_is_killed_leaves_nothing_behind(live):
    _, job = given(live)
    program = (
        "import sys\nfrom tailfleet_agent.client import Client\nfrom tailfleet_agent.heartbeat import hold\n"
        "from tailfleet_schema.messages import HeartbeatRequest\n"
        "held = hold(Client(sys.argv[1], 'nano-token'), sys.argv[2], HeartbeatRequest(1, 3600.0))\nsys.stdin.read()"
    )
    agent = subprocess.Popen([sys.executable, "-c", program, live.url, job.id], stdin=subprocess.PIPE)
    try:
        waits(live)
    finally:
        agent.kill()
        agent.communicate()
    until(lambda: not live.app.state.holding._tickets)


def test_nobody_listens_for_another_board(live):
    _, job = given(live)
    live.board("other", machine="machine-2")
    asking = Asking(live, job)
    waits(live)
    content = codec.dumps(HeartbeatRequest(1, LONG))
    headers = {"Authorization": "Bearer other-token"}
    assert httpx.post(f"{live.url}/v1/jobs/{job.id}/heartbeat", content=content, headers=headers).status_code == 403
    assert len(live.app.state.holding._tickets) == 1
    live.lab.store.cancel_job(job.id, REASON)
    assert asking.answered() == (200, HeartbeatReply(True))
