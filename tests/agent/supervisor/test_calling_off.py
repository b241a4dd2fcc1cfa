"""A job that is called off stops before its next unit; a line that breaks ends no job. Real HTTP, real children."""

import threading

import pytest
from scripted import FACTS, lease

from tailfleet_agent import attend, line
from tailfleet_agent.client import Unreachable
from tailfleet_agent.line import Line
from tailfleet_agent.runner import Child
from tailfleet_agent.spool import Spool
from tailfleet_schema.curve import Part, Unit, UnitResult
from tailfleet_schema.messages import HeartbeatReply, Outcome

NEVER = 3600.0

PATIENCE_SECONDS = 12.0
"""Less than the quarter of a lease after which an agent speaks in any case."""


class Running:
    """An agent at work on one job, in a thread."""

    def __init__(self, agent):
        self._thread = threading.Thread(target=agent.step, args=(FACTS,))
        self._thread.start()

    def ends(self):
        self._thread.join(PATIENCE_SECONDS)
        return not self._thread.is_alive()


@pytest.fixture
def running(coordinator, agent):
    started = []

    def run(act, contact_seconds=NEVER):
        coordinator.leases = [lease()]
        one = agent(act, contact_seconds)
        started.append((one, Running(one)))
        return started[-1][1]

    yield run
    for one, job in started:
        one._stopping.set()
        assert job.ends()


def heartbeats(coordinator):
    return [message.wait_seconds > 0 for name, message, _ in coordinator.requests if name == "heartbeat"]


def test_it_stops_before_the_next_unit(coordinator, running, pace):
    job = running(pace.act)
    pace.one()
    pace.one()
    pace.begun()
    coordinator.call_off()
    pace.go()
    assert job.ends()
    assert len(coordinator.results) == 3
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.CANCELLED]


def test_a_silent_child_is_stopped_too(coordinator, running, pace, monkeypatch):
    heard = []
    listen = Child.next_event

    def spy(child, seconds, beside=None):
        heard.append(beside)
        return listen(child, seconds, beside)

    monkeypatch.setattr(Child, "next_event", spy)
    monkeypatch.setattr(attend, "SILENT_SECONDS", 0.01)
    job = running(pace.act)
    pace.begun()
    coordinator.call_off()
    assert job.ends()
    # First the child alone, which may be timing; then the line, too.
    assert heard[0] is None
    assert heard[-1] is not None
    assert coordinator.results == {}
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.CANCELLED]


def test_while_it_measures_it_says_nothing(coordinator, agent):
    """One heartbeat is held at the start; results go when the job is done."""
    coordinator.leases = [lease()]
    agent(contact_seconds=NEVER).step(FACTS)
    assert heartbeats(coordinator) == [True]
    assert [name for name, _, _ in coordinator.requests].count("results") == 1
    assert len(coordinator.results) == 6


def test_an_early_answer_is_not_asked_for_again_at_once(coordinator, agent):
    coordinator.holds = False
    coordinator.leases = [lease()]
    agent(contact_seconds=NEVER).step(FACTS)
    assert heartbeats(coordinator) == [True]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 502, 503])
def test_a_refused_heartbeat_ends_no_job_while_results_are_taken(coordinator, agent, status):
    coordinator.answers = {"heartbeat": status}
    coordinator.leases = [lease()]
    agent(contact_seconds=NEVER).step(FACTS)
    assert len(coordinator.results) == 6
    assert [finish.outcome for finish in coordinator.finishes] == [Outcome.DONE]


def test_a_lost_lease_is_heard_while_a_heartbeat_is_held(coordinator, running, pace):
    job = running(pace.act)
    pace.one()
    pace.begun()
    coordinator.answers = {"results": 409, "heartbeat": 409}
    coordinator.call_off(cancel=False)
    pace.go()
    assert job.ends()
    assert coordinator.finishes == []


class Held:
    """A held heartbeat that answers as told."""

    def __init__(self):
        self.says = None
        self.closed = False

    def answer(self):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def close(self):
        self.closed = True


class Desk:
    """A client and a clock, both by hand."""

    def __init__(self):
        self.now = 0.0
        self.said = []
        self.held = []

    def monotonic(self):
        return self.now

    def hold(self, client, job, request):
        self.held.append(Held())
        return self.held[-1]

    def heartbeat(self, job, request):
        self.said.append(("heartbeat", self.now, request.log))
        return HeartbeatReply()

    def results(self, job, upload):
        self.said.append(("results", self.now, upload.log))
        return HeartbeatReply()


@pytest.fixture
def desk(monkeypatch):
    desk = Desk()
    monkeypatch.setattr(line, "time", desk)
    monkeypatch.setattr(line, "hold", desk.hold)
    return desk


@pytest.fixture
def entry(tmp_path):
    return Spool(str(tmp_path / "spool")).entry("job", 1)


def test_when_the_answer_came_it_speaks_once_and_holds_the_next(desk, entry):
    with Line(desk, entry, 10.0, 120.0) as job:
        desk.now = 5.0
        assert not job.called_off()
        desk.now = 10.0
        assert not job.called_off()
        assert len(desk.said) == 1
        desk.now = 19.9
        desk.held[0].says = HeartbeatReply()
        assert not job.called_off()
        assert [moment for _, moment, _ in desk.said] == [10.0, 19.9]
        assert len(desk.held) == 2
        assert desk.held[0].closed
        desk.held[1].says = HeartbeatReply(True)
        assert job.called_off()
    assert desk.held[1].closed


@pytest.mark.parametrize("says", [HeartbeatReply(), Unreachable("cut")])
def test_what_ends_early_is_tried_again_after_a_while(desk, entry, says):
    with Line(desk, entry, 10.0, 120.0) as job:
        desk.held[0].says = says
        desk.now = 1.0
        assert not job.called_off()
        assert (desk.said, len(desk.held)) == ([], 1)
        assert job.held is None
        desk.now = 10.0
        assert not job.called_off()
        assert (len(desk.said), len(desk.held)) == (1, 2)


def test_the_log_goes_along_when_it_has_grown(desk, entry):
    text = ["a\n"]
    with Line(desk, entry, 10.0, 120.0) as job:
        job.tell_log = lambda: text[0]
        for desk.now, said in ((10.0, "a\n"), (20.0, "a\n"), (30.0, "a\nb\n")):
            text[0] = said
            job.called_off()
        entry.append(UnitResult(Unit(Part.MODEL, 3, 3), 0, [1]))
        desk.now, text[0] = 40.0, "c\n"
        job.called_off()
    assert [(name, log) for name, _, log in desk.said] == [
        ("heartbeat", "a\n"),
        ("heartbeat", None),
        ("heartbeat", "a\nb\n"),
        ("results", "c\n"),
    ]
