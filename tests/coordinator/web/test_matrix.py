"""Every endpoint against every kind of token, over real HTTP. A new endpoint needs a row here."""

import httpx
import pytest

from tailfleet_coordinator.web.access import hashed
from tailfleet_schema import codec
from tailfleet_schema.messages import ErrorReply

LOOK = {"operator", "viewer"}
CHANGE = {"operator"}
BOARD = {"board", "other board"}
ANYONE = LOOK | BOARD

# Whose token opens what; {} stands for a part of the path that names something.
ALLOWED = {
    ("GET", "/v1/openapi.json"): LOOK,
    ("GET", "/v1/health"): ANYONE,
    ("GET", "/v1/agent.pyz"): ANYONE | {"enrolment"},
    ("POST", "/v1/enroll"): {"enrolment"},
    ("POST", "/v1/lease"): BOARD,
    # Of another board than the job's: let in, and then told 403 for this job.
    ("POST", "/v1/jobs/{}/results"): BOARD,
    ("POST", "/v1/jobs/{}/heartbeat"): BOARD,
    ("POST", "/v1/jobs/{}/finish"): BOARD,
    ("GET", "/v1/jobs"): LOOK,
    ("GET", "/v1/jobs/{}"): LOOK,
    ("GET", "/v1/jobs/{}/log"): LOOK,
    ("POST", "/v1/jobs/{}/cancel"): CHANGE,
    ("GET", "/v1/artifacts/{}"): ANYONE,
    ("PUT", "/v1/artifacts/{}"): CHANGE,
    ("GET", "/v1/boards"): LOOK,
    ("POST", "/v1/boards/{}/revoke"): CHANGE,
    ("POST", "/v1/enrolments"): CHANGE,
    ("GET", "/v1/tokens"): CHANGE,
    ("POST", "/v1/tokens"): CHANGE,
    ("POST", "/v1/tokens/{}/revoke"): CHANGE,
    ("GET", "/v1/models"): LOOK,
    ("POST", "/v1/models"): CHANGE,
    ("GET", "/v1/datasets"): LOOK,
    ("POST", "/v1/datasets"): CHANGE,
    ("GET", "/v1/curves"): LOOK,
    ("GET", "/v1/curves/points"): LOOK,
    ("GET", "/v1/curves/treads"): LOOK,
    ("GET", "/v1/curves/cliffs"): LOOK,
    ("GET", "/v1/curves/rounds"): LOOK,
    ("GET", "/v1/curves/{}"): LOOK,
    ("GET", "/v1/curves/{}/samples"): LOOK,
    ("GET", "/v1/curves/{}/truth"): LOOK,
    ("GET", "/v1/schedules"): LOOK,
    ("POST", "/v1/schedules"): CHANGE,
    ("GET", "/v1/schedules/{}"): LOOK,
    ("GET", "/v1/shipments"): LOOK,
    ("POST", "/v1/shipments"): CHANGE,
    # Of another board's shipment: let in, and nothing comes of it.
    ("POST", "/v1/receipts"): BOARD,
    ("GET", "/v1/campaigns"): LOOK,
    ("POST", "/v1/campaigns"): CHANGE,
    ("GET", "/v1/campaigns/{}"): LOOK,
    ("POST", "/v1/campaigns/{}/cancel"): CHANGE,
    ("GET", "/v1/campaigns/{}/report"): LOOK,
}

# What does not exist: found missing by whoever is in, hidden from everybody else.
MISSING = {
    ("GET", "/"): 404,
    ("GET", "/docs"): 404,
    ("GET", "/v1/nothing"): 404,
    ("DELETE", "/v1/boards"): 405,
    ("HEAD", "/v1/boards"): 405,
    ("OPTIONS", "/v1/enroll"): 405,
    ("GET", "/v1/boards/"): 404,
}

# Tokens that open nothing at all, and what whoever brings them is told.
CLOSED = {
    "nothing": "needs a token",
    "guess": "opens nothing here",
    "guessed enrolment": "enrolment token is not known",
    "replaced board": "board's token opens nothing here any more",
    "used enrolment": "used already",
    "expired enrolment": "has expired",
    "revoked operator": "'gone' was revoked",
    "revoked board": "'lost' was revoked",
}

NO_SUCH = "no-such-thing"
"""Fills a part of a path, so that whoever is let in changes nothing."""


@pytest.fixture
def tokens(live):
    """A token of each kind."""
    store = live.lab.store
    for board in ("nano", "other", "lost"):
        live.board(board)
    store.revoke_board("lost")
    store.create_token("gone", "operator", hashed("gone-token"))
    store.revoke_token("gone")
    for name in ("open", "used", "expired"):
        store.create_enrolment(name, None, hashed(f"{name}-promise"), 60)
    store.enroll(hashed("used-promise"), live.lab.facts_of(), hashed("used-token"))
    live.lab.sql(
        "UPDATE enrolments SET created_at = '2020-01-01 00:00:00.000000', expires_at = '2020-01-02 00:00:00.000000'"
        " WHERE board = 'expired'"
    )
    return {
        "operator": live.operator,
        "viewer": live.viewer,
        "board": "nano-token",
        "other board": "other-token",
        "enrolment": "open-promise",
        "nothing": None,
        "guess": live.operator[:-1],
        "guessed enrolment": "tf-enrol-guess",
        "replaced board": "tf-board-replaced",
        "used enrolment": "used-promise",
        "expired enrolment": "expired-promise",
        "revoked operator": "gone-token",
        "revoked board": "lost-token",
    }


@pytest.fixture
def ask(live):
    with httpx.Client(base_url=live.url) as client:

        def ask(method, path, token):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            # A body that cannot be meant: whoever is let in changes nothing.
            return client.request(method, path.replace("{}", NO_SUCH), headers=headers, content=b"{")

        yield ask


def served(live):
    """Methods and paths of all routes, also of those that the OpenAPI document leaves out."""
    found = set()

    def walk(routes):
        for route in routes:
            inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
            if inner:
                walk(inner)
                continue
            path = "/".join("{}" if part.startswith("{") else part for part in route.path.split("/"))
            found.update((method, path) for method in route.methods - {"HEAD"})

    walk(live.app.routes)
    return found


def test_every_endpoint_has_a_row(live):
    assert served(live) == set(ALLOWED)


def test_who_may_do_what(live, tokens, ask):
    before = live.lab.sql("SELECT * FROM boards") + live.lab.sql("SELECT * FROM tokens")
    for (method, path), roles in ALLOWED.items():
        for kind, token in tokens.items():
            answer = ask(method, path, token)
            case = (method, path, kind, answer.status_code, answer.text)
            if kind in CLOSED:
                assert answer.status_code == 401, case
                assert CLOSED[kind] in codec.loads(ErrorReply, answer.content).error, case
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            elif kind in roles:
                assert answer.status_code in (200, 404, 422), case
            else:
                assert answer.status_code == 403, case
                assert codec.loads(ErrorReply, answer.content).mend is None
            assert token is None or token not in answer.text
    assert live.lab.sql("SELECT * FROM boards") + live.lab.sql("SELECT * FROM tokens") == before


def test_a_stranger_does_not_learn_which_paths_exist(tokens, ask):
    real = {kind: ask("GET", "/v1/boards", tokens[kind]) for kind in [*CLOSED, "enrolment"]}
    for (method, path), status in MISSING.items():
        for kind in ("operator", "viewer", "board"):
            assert ask(method, path, tokens[kind]).status_code == status, (method, path, kind)
        for kind, known in real.items():
            answer = ask(method, path, tokens[kind])
            assert answer.status_code == known.status_code, (method, path, kind)
            assert method == "HEAD" or answer.content == known.content, (method, path, kind)
