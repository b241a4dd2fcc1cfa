"""Coordinators as processes on one database: a second is refused, a dead one is replaced, a deposed one ends."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time

import httpx
import pytest

from tailfleet_agent.client import Client, Unreachable
from tailfleet_coordinator.client import Fleet, FleetError
from tailfleet_coordinator.db.store import Store
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software
from tailfleet_schema.messages import EnrolRequest, LeaseRequest

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 180.0
LOOK_SECONDS = 0.05
FACTS = BoardFacts(BoardKind.PHYSICAL, Hardware("m", "x86_64", "cpu", 2, 1 << 30), Software("os", "k", "3", "0"))


class Up:
    """``tailfleet up`` with a state folder of its own on the given database."""

    def __init__(self, state, url):
        command = [
            sys.executable, "-m", "tailfleet_coordinator.cli.main", "up", "--port", "0", "--state", str(state),
            "--database-url", url,
        ]  # fmt: skip
        self.ready_file = state / "coordinator.json"
        self.ready_file.unlink(missing_ok=True)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(LOOK_SECONDS)
        return json.loads(self.ready_file.read_text())

    def ended(self):
        """The exit status and what was said on standard error."""
        _, words = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, words

    def kill(self, number):
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "shared.sqlite"


@pytest.fixture
def up(tmp_path, database):
    started = []

    def up(name):
        started.append(Up(tmp_path / name, f"sqlite:///{database}"))
        return started[-1]

    yield up
    for one in started:
        if one.process.poll() is None:
            one.kill(signal.SIGTERM)


def sql(database, statement):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as connection:
        return connection.execute(statement).fetchall()


def renewed(database):
    """Wait until the holder has renewed its hold."""
    before = sql(database, "SELECT expires_at FROM leadership")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sql(database, "SELECT expires_at FROM leadership") == before:
        assert time.monotonic() < deadline
        time.sleep(LOOK_SECONDS)


def test_a_second_coordinator_is_refused_and_a_restarted_one_is_not(up, database, tmp_path):
    first = up("one")
    first.ready()
    second = up("two")
    status, words = second.ended()
    assert status == 1
    sentence, mend = words.strip().splitlines()
    assert f"process {first.process.pid}, state folder {tmp_path / 'one'}" in sentence
    assert "stop that one" in mend

    first.kill(signal.SIGKILL)
    # The dead one's hold does not run out while this test lasts: another folder is refused, while who has the dead
    # one's own folder knows that it is dead.
    sql(database, "UPDATE leadership SET expires_at = '2099-01-01 00:00:00.000000'")
    status, words = up("two").ended()
    assert (status, f"process {first.process.pid}," in words) == (1, True)
    again = up("one")
    again.ready()
    assert sql(database, "SELECT epoch FROM leadership") == [(2,)]
    again.kill(signal.SIGTERM)
    assert again.process.returncode == 0

    # It gave the hold back: anyone may come at once.
    with contextlib.closing(Store(f"sqlite:///{database}")) as store:
        assert store.take_leadership("a third one", "its key", 60.0) == 3


def test_a_deposed_coordinator_refuses_every_write_and_ends(up, database):
    deposed = up("one")
    known = deposed.ready()
    with Fleet(known["url"], known["token"]) as fleet:
        promise = fleet.enroll_board("nano")
        board = Client(known["url"], Client(known["url"], promise.token).enroll(EnrolRequest(FACTS)).board_token)
        assert board.lease(LeaseRequest(FACTS, 0.0)).lease is None

        with contextlib.closing(Store(f"sqlite:///{database}")) as store:
            # Just after a renewal: the deposed one has a third of the hold before it finds out by itself.
            renewed(database)
            sql(database, "UPDATE leadership SET expires_at = '2020-01-01 00:00:00.000000'")
            store.take_leadership("the next one", "its key", 60.0)
        with pytest.raises(FleetError, match="the next one has taken over") as refusal:
            fleet.enroll_board("another")
        assert refusal.value.status == 503
        with pytest.raises(Unreachable, match="503"):
            board.lease(LeaseRequest(FACTS, 0.0))
    status, words = deposed.ended()
    assert status == 1
    assert "tailfleet: this coordinator no longer writes to the database: the next one has taken over" in words
    assert "Traceback" not in words
    assert sql(database, "SELECT count(*) FROM enrolments") == [(1,)]
    # It left the new one's hold as it was.
    assert sql(database, "SELECT holder, expires_at > taken_at FROM leadership") == [("the next one", 1)]
    with pytest.raises(httpx.ConnectError):
        httpx.get(known["url"])
