"""The application, a real agent and a real child whose pace the test holds: a cancelled job stops within one count."""

import os
import select
import sys
import threading
import time

import pytest

from tailfleet_agent import attend
from tailfleet_agent.client import Client
from tailfleet_agent.config import Config
from tailfleet_agent.loop import Agent
from tailfleet_coordinator.client import Fleet
from tailfleet_schema.board import BoardKind

PATIENCE_SECONDS = 20.0

CHILD = """
import json, sys
ready, gate = open(sys.argv[1], "w", 1), open(sys.argv[2])
order = json.loads(sys.stdin.readline())
known = order["known"]
for r in range(order["job"]["rounds"]):
    for unit in order["job"]["units"]:
        if dict(unit, round=r) in known:
            continue
        print("about to measure", unit["tokens"], file=sys.stderr, flush=True)
        ready.write(".\\n")
        if not gate.readline():
            sys.exit(4)
        print(json.dumps({"result": {"unit": unit, "round": r, "call_ns": [7]}}), flush=True)
        if sys.stdin.readline().strip() != "go":
            sys.exit(3)
print(json.dumps({"done": True}), flush=True)
"""


def until(look):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline


class Board:
    """A board at work in a thread; ``begins`` waits until its child is about to measure, ``measures`` lets it."""

    def __init__(self, live, folder, contact_seconds):
        self.id = live.board("modelled", BoardKind.VIRTUAL)
        self._facts = live.lab.facts_of(BoardKind.VIRTUAL)
        paths = [str(folder / name) for name in ("ready", "gate")]
        for path in paths:
            os.mkfifo(path)
        # Open at both ends: neither side waits for the other to open.
        self._files = [os.fdopen(os.open(path, os.O_RDWR), mode) for path, mode in zip(paths, ("r", "w"))]
        config = Config(live.url, "modelled", "modelled-token", "jetson-tx2", contact_seconds=contact_seconds)
        client = Client(live.url, "modelled-token")
        command = [sys.executable, "-c", CHILD, *paths]
        self._stopping = threading.Event()
        self._agent = Agent(
            str(folder / "home"), config, client, lambda: self._facts, lambda: None, self._stopping, command
        )
        self._thread = None

    def works(self):
        self._thread = threading.Thread(target=self._agent.step, args=(self._facts, 0.0))
        self._thread.start()

    def begins(self):
        assert select.select([self._files[0]], [], [], PATIENCE_SECONDS)[0]
        assert self._files[0].readline() == ".\n"

    def measures(self):
        self._files[1].write("\n")
        self._files[1].flush()

    def ends(self):
        self._thread.join(PATIENCE_SECONDS)
        return not self._thread.is_alive()

    def close(self):
        self._stopping.set()
        if self._thread is not None:
            assert self.ends()
        for file in self._files:
            file.close()


@pytest.fixture
def board(tmp_path):
    made = []

    def enrol(live, contact_seconds=0.0):
        made.append(Board(live, tmp_path, contact_seconds))
        return made[-1]

    yield enrol
    for one in made:
        one.close()


def ordered(live, board, campaign="c1"):
    live.lab.campaign(campaign, "modelled")
    return live.lab.sweep(campaign, board.id, counts=range(2, 18))


def stored(live, job):
    return len(live.lab.store.list_results(job.id))


@pytest.mark.parametrize("whole", [False, True], ids=["job", "campaign"])
def test_at_most_one_result_is_stored_after_the_cancellation(serve, board, whole):
    """The coordinator looks of its own accord once an hour here, and the board uploads after each result."""
    live = serve(look_seconds=3600.0)
    nano = board(live)
    job = ordered(live, nano)
    nano.works()
    for _ in range(3):
        nano.begins()
        nano.measures()
    nano.begins()
    before = stored(live, job)
    assert before == 3
    with Fleet(live.url, live.operator) as fleet:
        fleet.cancel("c1") if whole else fleet.cancel_job(job.id)
        nano.measures()
        assert nano.ends()
        found = fleet.job(job.id)
        assert "about to measure" in fleet.job_log(job.id).log
    assert stored(live, job) <= before + 1
    assert (found.state, found.done, found.attempt) == ("cancelled", stored(live, job), 1)
    assert "cancelled" in found.failure.sentence
    assert found.who_must_act is None


def test_a_board_that_hardly_ever_speaks_stops_as_soon(serve, board):
    live = serve(look_seconds=3600.0)
    nano = board(live, contact_seconds=3600.0)
    job = ordered(live, nano)
    nano.works()
    for _ in range(3):
        nano.begins()
        nano.measures()
    nano.begins()
    with Fleet(live.url, live.operator) as fleet:
        fleet.cancel_job(job.id)
        nano.measures()
        assert nano.ends()
        assert fleet.job(job.id).state == "cancelled"
    # What it had measured before is kept, too.
    assert stored(live, job) == 4


def test_a_child_that_says_nothing_is_stopped_at_once(live, board, monkeypatch):
    monkeypatch.setattr(attend, "SILENT_SECONDS", 0.01)
    nano = board(live, contact_seconds=3600.0)
    job = ordered(live, nano)
    nano.works()
    nano.begins()
    with Fleet(live.url, live.operator) as fleet:
        fleet.cancel_job(job.id)
        assert nano.ends()
        assert fleet.job(job.id).state == "cancelled"
    assert stored(live, job) == 0


def test_a_coordinator_that_starts_again_neither_ends_the_job_nor_loses_the_line(serve, board, monkeypatch):
    monkeypatch.setattr(attend, "SILENT_SECONDS", 0.01)
    live = serve()
    nano = board(live)
    job = ordered(live, nano)
    nano.works()
    nano.begins()
    nano.measures()
    nano.begins()
    until(lambda: live.app.state.holding._tickets)
    port = int(live.url.rpartition(":")[2])
    live.close()
    nano.measures()
    nano.begins()
    live = serve(port=port)
    nano.measures()
    nano.begins()
    until(lambda: stored(live, job) == 3)
    until(lambda: live.app.state.holding._tickets)
    with Fleet(live.url, live.operator) as fleet:
        found = fleet.job(job.id)
        assert (found.state, found.attempt) == ("leased", 1)
        fleet.cancel_job(job.id)
        nano.measures()
        assert nano.ends()
        assert fleet.job(job.id).state == "cancelled"
    assert stored(live, job) <= 4


def test_the_log_is_there_while_the_job_runs(live, board):
    nano = board(live)
    job = ordered(live, nano)
    nano.works()
    nano.begins()
    nano.measures()
    nano.begins()
    with Fleet(live.url, live.viewer) as fleet:
        log = fleet.job_log(job.id)
        assert (log.attempt, log.state) == (1, "leased")
        assert "attempt 1 begins" in log.log
        assert "about to measure 2" in log.log
