"""A farm of real processes: coordinator, agents, measured children, on ports and folders of their own.

A test waits for something to happen by looking again and again up to a deadline; it never waits for time to pass.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tailfleet_coordinator.client import Fleet
from tailfleet_schema.campaign import CampaignState

PATIENCE_SECONDS = 600.0
LEASE_SECONDS = 4.0
LOOK_SECONDS = 0.25


def until(what, look, seconds=PATIENCE_SECONDS):
    """The first true answer of ``look``; fails with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = look()
        if answer:
            return answer
        # Not oftener: who looks takes time from who is measured.
        time.sleep(LOOK_SECONDS)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Process:
    """A process in a session of its own, so that it can be ended with all it started, or alone."""

    def __init__(self, command, folder, log, **environment):
        self.log = log
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def alive(self):
        return self._popen.poll() is None

    def kill(self):
        """SIGKILL to this one process: what it started must find out by itself."""
        os.kill(self.pid, signal.SIGKILL)
        self._popen.wait()

    def end(self, group=False):
        """SIGTERM to it (or to all it started, too), then SIGKILL to what is left."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signal.SIGTERM)
        try:
            self._popen.wait(30)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()


def children(pid):
    """Process ids whose parent is ``pid``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(status.parent.name))
    return found


class Farm:
    """One coordinator, started with ``options`` beyond the usual ones, and its boards."""

    until = staticmethod(until)

    def __init__(self, folder, *options):
        self.folder = folder
        self.options = options
        self.state = folder / "state"
        self.coordinator = None
        self.fleet = None
        self.agents = {}
        self.port = 0

    def start_coordinator(self):
        self.close_fleet()
        ready = self.state / "coordinator.json"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "tailfleet_coordinator.cli.main",
            "up",
            "--port",
            str(self.port),
            "--state",
            str(self.state),
            "--lease-seconds",
            str(LEASE_SECONDS),
            *self.options,
        ]
        self.coordinator = Process(command, self.folder, self.folder / "coordinator.log")

        def is_ready():
            assert self.coordinator.alive, self.coordinator.log.read_text()[-3000:]
            return ready.exists()

        until("the coordinator is ready", is_ready)
        known = json.loads(ready.read_text())
        self.port = int(known["url"].rpartition(":")[2])
        self.token = known["token"]
        self.fleet = Fleet(known["url"], known["token"], known.get("ca"))

    def enroll(self, name, profile=None, ca=None):
        """Enrol a board by the line that people paste, and wait until it asks for work."""
        self.enroll_all({name: profile}, ca)

    def enroll_all(self, profiles, ca=None):
        """The same for each name of ``profiles``, side by side."""
        for name, profile in profiles.items():
            self.home(name).mkdir(parents=True, exist_ok=True)
            self._agent(name, ["sh", "-c", self.fleet.enroll_board(name, virtual_profile=profile, ca=ca).line])
        until(f"{', '.join(profiles)} online", lambda: all(map(self.is_online, profiles)))

    def is_online(self, name):
        board = self.board(name)
        return board is not None and board["online"]

    def restart_agent(self, name):
        self.agents[name].end(group=True)
        self._agent(name, ["python3", "tailfleet-agent.pyz", "run"])

    def _agent(self, name, command):
        home = self.home(name)
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        # One thread: what is measured here is of no interest, and two of them crawl beside a third on two cores.
        self.agents[name] = Process(
            command, home, home / "agent.log", TAILFLEET_AGENT_HOME=str(home), PATH=path, OMP_NUM_THREADS="1"
        )

    def home(self, name):
        return self.folder / "boards" / name

    def board(self, name):
        frame = self.fleet.boards()
        rows = frame[frame["name"] == name] if not frame.empty else frame
        return None if rows.empty else rows.iloc[0]

    def supervisor_pid(self, name):
        """The agent's own process: the shell's child where a line was pasted."""
        agent = self.agents[name]
        command = Path(f"/proc/{agent.pid}/cmdline").read_bytes()
        return agent.pid if b"tailfleet-agent.pyz\0run" in command else children(agent.pid)[0]

    def worker_pid(self, name):
        """The measured child, once it runs."""
        return until(f"{name} measures", lambda: next(iter(children(self.supervisor_pid(name))), None))

    def wait_campaign(self, campaign):
        def ended():
            status = self.fleet.campaign(campaign)
            return status if status.state is not CampaignState.RUNNING else None

        return until(f"campaign {campaign} ends", ended)

    def query(self, sql, *arguments):
        """Rows straight from the database's file: what is stored, not what is said of it."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.state / 'tailfleet.sqlite'}?mode=ro", uri=True)
        ) as database:
            return database.execute(sql, arguments).fetchall()

    def stored_keys(self, campaign):
        """Keys of all stored results of a campaign's sweeps, each as often as it is stored."""
        return sorted(
            self.query(
                "SELECT r.part, r.label, r.block, r.tokens, r.kept, r.round FROM results r"
                " JOIN jobs j ON j.id = r.job_id WHERE j.campaign_id = ? AND j.kind = 'sweep'",
                campaign,
            )
        )

    def close_fleet(self):
        if self.fleet is not None:
            self.fleet.close()

    def end(self):
        self.close_fleet()
        for agent in self.agents.values():
            agent.end(group=True)
        if self.coordinator is not None:
            self.coordinator.end()


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    running = Farm(tmp_path_factory.mktemp("farm"))
    running.start_coordinator()
    yield running
    running.end()
