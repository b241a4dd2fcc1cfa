"""A coordinator over real HTTP that keeps its state in memory and can be told to misbehave.

The real coordinator cannot be made to refuse or vanish at a chosen request; the whole way with the real one
is tested in tests/e2e.
"""

import hashlib
import json
import os
import select
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

# With importlib mode, folders of tests are on no path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import pytest
from scripted import CHILD, FACTS

from tailfleet_agent.client import Client
from tailfleet_agent.config import Config
from tailfleet_agent.loop import Agent
from tailfleet_schema import codec
from tailfleet_schema.board import Telemetry
from tailfleet_schema.messages import (
    EnrolReply,
    EnrolRequest,
    FinishReply,
    FinishRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    ReceiptsReply,
    ReceiptsUpload,
    ResultsReply,
    ResultsUpload,
)


class _Server(ThreadingMixIn, HTTPServer):
    """One thread a request: a held one must not keep the others waiting."""

    daemon_threads = False

    def handle_error(self, request, client_address):
        """Who asked has hung up; tests do that on purpose."""


class CoordinatorDouble:
    """``requests`` is what arrived: (path, decoded body). ``answers[path]`` overrides: a status, or a callable; with
    ``refusal`` as the body where that is set. ``leases`` and ``shipments`` are given with the next answers.

    A heartbeat that may wait is held until ``call_off`` or ``let_go``, or answered at once where ``holds`` is false.
    """

    def __init__(self):
        self.leases = []
        self.shipments = []
        self.receipts = []
        self.artifacts = {}
        self.requests = []
        self.results = {}
        self.finishes = []
        self.cancel = False
        self.answers = {}
        self.refusal = None
        self.holds = True
        self.held = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.told = threading.Semaphore(0)
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                sha256 = self.path.rpartition("/")[2]
                self._send(200, double.artifacts.get(sha256, b""))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                name = self.path.rpartition("/")[2]
                if self._refused(name):
                    return
                reply = double.answer(self.path, body, self.headers.get("Authorization"))
                if name != "heartbeat":
                    self._send(200, codec.dumps(reply).encode())
                    return
                # What it is told may have changed while it was held.
                if not self._refused(name):
                    self._send(200, codec.dumps(reply).encode())
                double.told.release()

            def _refused(self, name):
                status = double.answers.get(name)
                if callable(status):
                    status = status()
                if status is not None:
                    words = {"error": "no: status {}".format(status), "blame": "lab", "mend": "try otherwise"}
                    self._send(status, double.refusal or json.dumps(words).encode())
                return status is not None

            def _send(self, status, content):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:{}".format(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def call_off(self, cancel=True):
        """Cancel the job (or only let go), and return when the held heartbeat is answered."""
        assert self.held.acquire(timeout=20)
        self.cancel = cancel
        self.let_go.set()
        assert self.told.acquire(timeout=20)

    def close(self):
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def artifact(self, content):
        sha256 = hashlib.sha256(content).hexdigest()
        self.artifacts[sha256] = content
        return sha256

    def answer(self, path, body, authorization):
        kinds = {
            "enroll": EnrolRequest,
            "lease": LeaseRequest,
            "results": ResultsUpload,
            "heartbeat": HeartbeatRequest,
            "finish": FinishRequest,
            "receipts": ReceiptsUpload,
        }
        name = path.rpartition("/")[2]
        message = codec.loads(kinds[name], body)
        self.requests.append((name, message, authorization))
        if name == "enroll":
            return EnrolReply("board-1", "board-token")
        if name == "lease":
            shipments = self.shipments.pop(0) if self.shipments else []
            return LeaseReply(self.leases.pop(0) if self.leases else None, shipments)
        if name == "receipts":
            self.receipts.append(message.receipts)
            return ReceiptsReply(len(message.receipts))
        if name == "results":
            new = [result for result in message.results if result.key not in self.results]
            self.results.update({result.key: result for result in message.results})
            return ResultsReply(len(new), self.cancel)
        if name == "heartbeat":
            if message.wait_seconds and not self.cancel and self.holds:
                self.held.release()
                self.let_go.wait(message.wait_seconds)
            return HeartbeatReply(self.cancel)
        self.finishes.append(message)
        return FinishReply(message.outcome.value)


class Pace:
    """Lets a child's results go one by one: the child runs ``act`` before each, the test calls ``one``."""

    def __init__(self, folder):
        self._ready, self._gate = (str(folder / name) for name in ("ready", "gate"))
        for path in (self._ready, self._gate):
            os.mkfifo(path)
        # Open at both ends: neither side waits for the other to open.
        self._files = [
            os.fdopen(os.open(path, os.O_RDWR), mode) for path, mode in ((self._ready, "r"), (self._gate, "w"))
        ]
        self.act = (
            "ready = ready if n else open({!r}, 'w', 1); gate = gate if n else open({!r});".format(
                self._ready, self._gate
            )
            + "ready.write('.\\n'); gate.readline()"
        )

    def begun(self):
        """Wait until the child is about to give its next result; it stays there."""
        assert select.select([self._files[0]], [], [], 20)[0]
        assert self._files[0].readline() == ".\n"

    def one(self):
        """Wait until the child is about to give its next result, and let it."""
        self.begun()
        self.go()

    def go(self):
        """Let it, where it has begun."""
        self._files[1].write("\n")
        self._files[1].flush()

    def close(self):
        for file in self._files:
            file.close()


@pytest.fixture
def pace(tmp_path):
    pace = Pace(tmp_path)
    yield pace
    pace.close()


@pytest.fixture
def coordinator():
    double = CoordinatorDouble()
    yield double
    double.close()


@pytest.fixture
def agent(coordinator, tmp_path):
    def make(act="pass", contact_seconds=0.0, source=CHILD, **more):
        config = Config(coordinator.url, "b", "t", "jetson-nano", contact_seconds=contact_seconds, **more)
        return Agent(
            str(tmp_path),
            config,
            Client(coordinator.url, "t"),
            lambda: FACTS,
            lambda: Telemetry("2026-01-01T00:00:00+00:00"),
            threading.Event(),
            [sys.executable, "-c", source.format(act=act)],
        )

    return make
