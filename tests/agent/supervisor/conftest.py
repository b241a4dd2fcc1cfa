"""A coordinator over real HTTP that keeps its state in memory and can be told to misbehave.

The real coordinator cannot be made to refuse or vanish at a chosen request; the whole way with the real one
is tested in tests/e2e.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tailfleet_schema import codec
from tailfleet_schema.messages import (
    EnrolReply,
    EnrolRequest,
    FinishReply,
    FinishRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    ResultsReply,
    ResultsUpload,
)


class CoordinatorDouble:
    """``requests`` is what arrived: (path, decoded body). ``answers[path]`` overrides: a status, or a callable; with
    ``refusal`` as the body where that is set."""

    def __init__(self):
        self.leases = []
        self.artifacts = {}
        self.requests = []
        self.results = {}
        self.finishes = []
        self.cancel = False
        self.answers = {}
        self.refusal = None
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                sha256 = self.path.rpartition("/")[2]
                self._send(200, double.artifacts.get(sha256, b""))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = double.answers.get(self.path.rpartition("/")[2])
                if callable(status):
                    status = status()
                if status is not None:
                    words = {"error": "no: status {}".format(status), "blame": "lab", "mend": "try otherwise"}
                    self._send(status, double.refusal or json.dumps(words).encode())
                    return
                reply = double.answer(self.path, body, self.headers.get("Authorization"))
                self._send(200, codec.dumps(reply).encode())

            def _send(self, status, content):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:{}".format(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
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
        }
        name = path.rpartition("/")[2]
        message = codec.loads(kinds[name], body)
        self.requests.append((name, message, authorization))
        if name == "enroll":
            return EnrolReply("board-1", "board-token")
        if name == "lease":
            return LeaseReply(self.leases.pop(0) if self.leases else None)
        if name == "results":
            new = [result for result in message.results if result.key not in self.results]
            self.results.update({result.key: result for result in message.results})
            return ResultsReply(len(new), self.cancel)
        if name == "heartbeat":
            return HeartbeatReply(self.cancel)
        self.finishes.append(message)
        return FinishReply(message.outcome.value)


@pytest.fixture
def coordinator():
    double = CoordinatorDouble()
    yield double
    double.close()
