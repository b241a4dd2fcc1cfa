"""Whatever is wrong with a request: one shape of answer, the right status, and nothing stored."""

import json

import httpx
import pytest

from tailfleet_coordinator.web.access import hashed
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame
from tailfleet_schema.messages import EnrolRequest, ErrorReply, LeaseRequest


@pytest.fixture
def ask(live):
    with httpx.Client(base_url=live.url) as client:

        def ask(method, path, token=None, content=None):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.request(method, path, headers=headers, content=content)

        yield ask


def refusal(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    reply = codec.loads(ErrorReply, answer.content)
    assert reply.error
    assert "Traceback" not in answer.text
    return reply


BODIES = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b"[]", "must be an object"),
    (b'{"models": ["tiny"]}', "boards: is missing"),
    (b'{"models": ["tiny"], "boards": ["nano"], "colour": 1}', "colour: unknown field"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": NaN}', "NaN"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": Infinity}', "Infinity"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": "3"}', "batch: must be a whole number"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": true}', "batch: must be a whole number"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": 123456789012345678901234567890}', "64 bits"),
    (b'{"models": ["tiny"], "boards": ["nano"], "batch": 0}', "batch: must be at least 1"),
    (b'{"models": ["tiny"], "boards": ["nano"], "sweep": {"counts": "18"}}', "18 tokens"),
    (b'{"models": ["tiny"], "boards": ["nano"], "dtype": "fp64"}', "fp64"),
    (b'{"models": ["tiny"], "boards": ["nano"], "objective": {"latency_share": 0.8, "on": "p75"}}', "objective.on"),
    (b'{"models": ["tiny"], "boards": ["nano"], "objective": {"latency_share": 0.8, "on": "p99"}}', "takes 368 calls"),
    (b'{"models": ["tiny"], "boards": ["nano", "nano"]}', "twice"),
]


def test_a_body_that_cannot_be_meant(live, ask):
    live.board("nano")
    for body, words in BODIES:
        reply = refusal(ask("POST", "/v1/campaigns", live.operator, body), 422)
        assert words in reply.error, body[:80]
        assert reply.blame is Blame.AUTHOR
    assert live.lab.sql("SELECT count(*) FROM campaigns") == [(0,)]


def test_unknown_names_are_named(live, ask):
    live.board("nano")
    for request, name in (
        ({"models": ["ghost"], "boards": ["nano"]}, "ghost"),
        ({"models": ["tiny"], "boards": ["phantom"]}, "phantom"),
    ):
        assert name in refusal(ask("POST", "/v1/campaigns", live.operator, json.dumps(request)), 404).error
    for path in ("/v1/campaigns/ghost", "/v1/campaigns/ghost/report", "/v1/schedules/ghost"):
        assert "ghost" in refusal(ask("GET", path, live.viewer), 404).error
    assert "ghost" in refusal(ask("POST", "/v1/campaigns/ghost/cancel", live.operator), 404).error
    for name in ("0" * 64, "..", "coordinator.json", "%2e%2e%2ftailfleet.sqlite"):
        refusal(ask("GET", f"/v1/artifacts/{name}", live.viewer), 404)


def test_paths_and_methods_that_do_not_exist(live, ask):
    assert "/v1/nothing" in refusal(ask("GET", "/v1/nothing", live.viewer), 404).error
    assert "DELETE" in refusal(ask("DELETE", "/v1/boards", live.viewer), 405).error


def test_a_body_that_is_too_large_is_refused_unread(live, ask):
    live.board("nano")
    live.lab.store.create_enrolment("other", None, hashed("promise"), 60)
    body = b" " * (live.settings.body_bytes + 1)
    for path, token in (("/v1/campaigns", live.operator), ("/v1/lease", "nano-token"), ("/v1/enroll", "promise")):
        assert "larger than" in refusal(ask("POST", path, token, body), 413).error

    def stream():
        for _ in range(8):
            yield b" " * (live.settings.body_bytes // 4)

    refusal(ask("POST", "/v1/campaigns", live.operator, stream()), 413)


def test_a_failure_of_our_own_tells_nothing_of_the_inside(live, ask, monkeypatch):
    monkeypatch.setattr(type(live.lab.store), "list_boards", lambda *_: 1 / 0)
    reply = refusal(ask("GET", "/v1/boards", live.viewer), 500)
    assert reply.blame is Blame.BUG
    assert "division" not in reply.error


def test_an_agent_of_another_protocol_is_told_so(live, ask):
    live.board("nano")
    live.lab.store.create_enrolment("other", None, hashed("promise"), 60)
    for path, token, message in (
        ("/v1/lease", "nano-token", LeaseRequest(live.lab.facts_of(), protocol=99)),
        ("/v1/enroll", "promise", EnrolRequest(live.lab.facts_of(), protocol=99)),
    ):
        reply = refusal(ask("POST", path, token, codec.dumps(message)), 422)
        assert "protocol 99" in reply.error
        assert reply.blame is Blame.CONFIGURATION


ENROLMENTS = [
    ({"board": "../x"}, "cannot be called"),
    ({"board": ""}, "cannot be called"),
    ({"board": "a" * 64}, "cannot be called"),
    ({"board": "a; rm"}, "cannot be called"),
    ({"board": "nano", "minutes": 0}, "minutes"),
    ({"board": "nano", "ca": "a\nb"}, "path"),
    ({"board": "nano", "minutes": 10**9}, "minutes: must lie between"),
    ({"board": "nano", "virtual_profile": "p" * 129}, "virtual_profile: has 129 characters"),
    ({"board": "nano", "virtual_profile": ""}, "virtual_profile: is empty"),
    (
        {"board": "nano", "virtual_profile": "jetson-tx2:nois=1"},
        "virtual_profile: a virtual board has no option 'nois'",
    ),
    ({"board": "nano", "virtual_profile": "jetson-tx2:seed=x"}, "virtual_profile: option seed of a virtual board must"),
]


def test_enrolments_that_cannot_be_meant(live, ask):
    for request, words in ENROLMENTS:
        assert words in refusal(ask("POST", "/v1/enrolments", live.operator, json.dumps(request)), 422).error
    assert live.lab.sql("SELECT count(*) FROM enrolments") == [(0,)]
