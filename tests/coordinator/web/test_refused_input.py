"""What cannot be meant, through HTTP and through the command line: one clear sentence, and nothing stored."""

import collections
import contextlib
import io
import json
import re
import socket
import sys
from pathlib import Path

import httpx
import pytest

from tailfleet_agent.client import Client, Refused
from tailfleet_coordinator.cli.main import main
from tailfleet_coordinator.web.access import hashed
from tailfleet_schema import codec, schedule
from tailfleet_schema.messages import EnrolRequest, ErrorReply, ResultsUpload

DENSE = codec.encode(schedule.Schedule("dense", "tiny", 17, 1, [17] * 4))


def everything(lab):
    """Every row of every table."""
    tables = [name for (name,) in lab.sql("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {table: sorted(map(repr, lab.sql(f'SELECT * FROM "{table}"'))) for table in tables}


@contextlib.contextmanager
def nothing_stored(lab):
    before = everything(lab)
    assert sum(map(len, before.values())) > 3
    yield
    assert everything(lab) == before


class Door:
    """Asks by HTTP and by the command line, and expects to be refused in one sentence."""

    def __init__(self, live, monkeypatch, capsys):
        self.live, self._monkeypatch, self._capsys = live, monkeypatch, capsys
        self.http = httpx.Client(base_url=live.url)
        monkeypatch.setenv("TAILFLEET_URL", live.url)
        monkeypatch.setenv("TAILFLEET_TOKEN", live.operator)

    def refused(self, path, body, status=422, token=None):
        """The sentence of the refusal of a POST; ``body`` is sent as it is where it is a text or bytes."""
        content = body if isinstance(body, (str, bytes)) else json.dumps(body)
        headers = {"Authorization": f"Bearer {token or self.live.operator}"}
        with nothing_stored(self.live.lab):
            answer = self.http.post(f"/v1/{path}", content=content, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        return one_sentence(codec.loads(ErrorReply, answer.content).error)

    def alive(self):
        """Whether the coordinator still answers."""
        headers = {"Authorization": f"Bearer {self.live.operator}"}
        return self.http.get("/v1/health", headers=headers).status_code == 200

    def command(self, *arguments, stdin=b""):
        """Exit status, and what was printed on standard output and error."""
        self._monkeypatch.setattr(sys, "argv", ["tailfleet", *arguments])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        printed = self._capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    def fails(self, *arguments, stdin=b""):
        """The sentence of a command that ends with status 2."""
        with nothing_stored(self.live.lab):
            code, out, err = self.command(*arguments, stdin=stdin)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        first, *mend = err.splitlines()
        assert len(mend) <= 1
        assert all(line.startswith("  mend: ") for line in mend)
        assert first.startswith("tailfleet: ")
        return one_sentence(first[len("tailfleet: ") :])


def one_sentence(text):
    assert 5 < len(text) <= 400
    assert "\n" not in text
    return text


@pytest.fixture
def door(live, monkeypatch, capsys):
    live.board("nano")
    live.board("other", machine="machine-2")
    live.lab.campaign("c1", "nano")
    door = Door(live, monkeypatch, capsys)
    yield door
    door.http.close()


@pytest.fixture
def job(door):
    """A job that ``nano`` holds."""
    (board_id,) = door.live.lab.store.find_boards(["nano"])
    job = door.live.lab.sweep("c1", board_id)
    assert door.live.lab.claim(board_id).attempt == 1
    return job


def enroll(live, token):
    """As an agent does it."""
    return Client(live.url, token).enroll(EnrolRequest(live.lab.facts_of(machine="machine-3")))


def test_an_unknown_model(door):
    assert "'ghost'" in door.refused("campaigns", {"models": ["ghost"], "boards": ["nano"]}, 404)
    assert "'ghost'" in door.refused("schedules", {"schedule": {**DENSE, "model": "ghost"}}, 404)
    assert "'ghost'" in door.fails("campaign", "run", "--models", "ghost", "--boards", "nano")
    assert "'ghost'" in door.fails("schedule", "add", "-", stdin=json.dumps({**DENSE, "model": "ghost"}).encode())


def test_an_unknown_board(door):
    assert "'ghost'" in door.refused("campaigns", {"models": ["tiny"], "boards": ["ghost"]}, 404)
    assert "'ghost'" in door.fails("campaign", "run", "--models", "tiny", "--boards", "ghost")


def test_a_shipment_that_cannot_be_meant(door):
    mine = schedule.Schedule("topk", "tiny", 17, 1, [17, 9, 9, 9])
    door.live.lab.store.add_schedule(mine)
    door.live.lab.store.revoke_board("other")
    good = {"digest": mine.digest, "boards": ["nano"]}
    for changes, words, status in (
        ({"digest": "f" * 64}, "there is no schedule", 404),
        ({"digest": ""}, "there is no schedule ''", 404),
        ({"digest": "%" * 10_000}, "there is no schedule", 404),
        ({"boards": []}, "boards: is empty", 422),
        ({"boards": ["nano", "ghost"]}, "'ghost'", 404),
        ({"boards": ["nano", "other"]}, "board 'other' is revoked", 422),
        ({"boards": ["x" * 65]}, "boards[0]: has 65 characters", 422),
    ):
        assert words in door.refused("shipments", {**good, **changes}, status)
    assert "'ghost'" in door.fails("schedule", "ship", mine.digest, "nano", "ghost")
    assert "revoked" in door.fails("schedule", "ship", mine.digest, "other")
    assert "there is no schedule" in door.fails("schedule", "ship", "ffff", "nano")


def test_receipts_that_cannot_be_meant(door):
    receipt = {"digest": "a" * 64, "verified": True}
    for receipts, words in (
        ([{**receipt, "digest": "abc"}], "receipts[0].digest: must be a sha256"),
        ([{**receipt, "refusal": ""}], "receipts[0].refusal: "),
        ([{**receipt, "refusal": "x" * 401}], "receipts[0].refusal: "),
        ([receipt] * 1001, "receipts: must be at most 1000"),
    ):
        assert words in door.refused("receipts", {"receipts": receipts}, 422, "nano-token")


def test_a_board_name_that_is_taken(door):
    assert "'nano' is enrolled already" in door.refused("enrolments", {"board": "nano"}, 409)
    assert "'nano' is enrolled already" in door.fails("board", "enroll", "nano")


def test_a_board_name_that_is_none(door):
    for name in ("", "a b", "../x", "x" * 10_000):
        assert "cannot be called" in door.refused("enrolments", {"board": name})
        assert "cannot be called" in door.fails("board", "enroll", name)


def test_a_wrong_or_used_enrolment_token(door):
    live = door.live
    with nothing_stored(live.lab), pytest.raises(Refused, match="not known") as wrong:
        enroll(live, "tf-enrol-guess")
    _, out, _ = door.command("board", "enroll", "third")
    token = re.search(r"tf-enrol-[A-Za-z0-9_-]+", out).group()
    assert enroll(live, token).board == "third"
    with nothing_stored(live.lab), pytest.raises(Refused, match="used already") as used:
        enroll(live, token)
    assert wrong.value.status == used.value.status == 401


def test_a_token_of_another_board(door, job):
    upload = codec.encode(ResultsUpload(1, door.live.lab.results_of(job)))
    for path, body in (
        ("results", upload),
        ("heartbeat", {"attempt": 1}),
        ("finish", {"attempt": 1, "outcome": "failed"}),
    ):
        assert "another board" in door.refused(f"jobs/{job.id}/{path}", body, 403, "other-token")
        assert "may not do this" in door.refused(f"jobs/{job.id}/{path}", body, 403, door.live.operator)


CAMPAIGN = '{"models": ["tiny"], "boards": ["nano"], '
BODIES = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b"\xef\xbb\xbf{}", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"a": ' * 20_000, "not valid JSON"),
    (b"[]", "must be an object, not a list"),
    (b"null", "must be an object, not null"),
    (CAMPAIGN + '"batch": 1, "batch": 2}', '"batch" stands twice'),
    (CAMPAIGN + '"batch": NaN}', "NaN is not a number"),
    (CAMPAIGN + '"batch": Infinity}', "Infinity is not a number"),
    (CAMPAIGN + '"objective": {"latency_share": NaN}}', "NaN is not a number"),
    (CAMPAIGN + '"objective": {"latency_share": -Infinity}}', "-Infinity is not a number"),
    (CAMPAIGN + '"objective": {"latency_share": 1e999}}', "objective.latency_share: must be finite"),
    (CAMPAIGN + '"objective": {"latency_ns": -5}}', "objective.latency_ns: a latency budget must be positive"),
    (CAMPAIGN + '"batch": 123456789012345678901234567890}', "batch: does not fit in 64 bits"),
    (CAMPAIGN + '"batch": ' + "9" * 100_000 + "}", "batch: does not fit in 64 bits"),
    (CAMPAIGN + '"batch": 9223372036854775807}', "batch: must be at most"),
    (CAMPAIGN + '"batch": 1e0}', "batch: must be a whole number"),
    (CAMPAIGN + '"batch": 1.0}', "batch: must be a whole number"),
    (CAMPAIGN + '"batch": "1"}', "batch: must be a whole number"),
    (CAMPAIGN + '"batch": true}', "batch: must be a whole number"),
    (CAMPAIGN + '"sweep": {"counts": "²"}}', "sweep.counts: "),
    (CAMPAIGN + '"sweep": {"counts": "' + "9" * 10_000 + '"}}', "sweep.counts: "),
    (CAMPAIGN + '"sweep": {"counts": "18"}}', "sweep.counts: cannot measure 18 tokens"),
    (CAMPAIGN + '"sweep": {"rounds": 0}}', "sweep.rounds: must be at least 1, not 0"),
    (CAMPAIGN + '"methods": ["topk", "magic"]}', "methods[1]: unknown: 'magic'"),
    (CAMPAIGN + '"dtype": "' + "x" * 10_000 + '"}', "dtype: unknown: 'xxx"),
    (CAMPAIGN + '"colour": 1}', "colour: unknown field"),
    (CAMPAIGN + '"\\ud800": 1}', '"\\ud800": unknown field'),
    ('{"boards": ["nano"], "models": ["\\u0000"]}', "models[0]: holds the character U+0000"),
    ('{"boards": ["nano"], "models": ["\\ud800"]}', "models[0]: holds half of a surrogate pair"),
    ('{"models": ["tiny"], "boards": ' + json.dumps([f"b{n}" for n in range(20_000)]) + "}", "boards: has 20000 names"),
    (CAMPAIGN + '"' + "x" * 10_000 + '": 1}', "xxx"),
]


def test_a_body_that_cannot_be_meant(door):
    for body, words in BODIES:
        assert words in door.refused("campaigns", body), body[:80]


LATENCIES = [
    ("-5", "results[1].call_ns[0]: -5 ns"),
    ("0", "results[1].call_ns[0]: 0 ns"),
    ("9223372036854775807", "results[1].call_ns[0]: 9223372036854775807 ns"),
    ("1000.0", "results[1].call_ns[0]: must be a whole number, not a number"),
    ('"1000"', "results[1].call_ns[0]: must be a whole number, not a text"),
    ("NaN", "NaN is not a number"),
    ("Infinity", "Infinity is not a number"),
    ("123456789012345678901234567890", "results[1].call_ns[0]: does not fit in 64 bits"),
]


def test_a_latency_that_cannot_be(door, job):
    upload = codec.dumps(ResultsUpload(1, door.live.lab.results_of(job)[:2])).rsplit("1000", 1)
    for call, words in LATENCIES:
        assert words in door.refused(f"jobs/{job.id}/results", call.join(upload), 422, "nano-token"), call


SCHEDULES = [
    ({"keep": [17, 17, 17, 300]}, "schedule.keep[3]: 300, but only 17 tokens arrive"),
    ({"keep": [17, 18, 17, 17]}, "schedule.keep[1]: 18, but only 17 tokens arrive"),
    ({"keep": [17, 8, 8, 8], "method": "tome"}, "schedule.keep[1]: 8, but tome can leave no fewer than 9 of 17 tokens"),
    ({"keep": [17, 1, 1, 1]}, "schedule.keep[1]: 1, but topk can leave no fewer than 2 of 17 tokens"),
    ({"keep": [17, 17, 16, -1]}, "schedule.keep[3]: -1, but topk"),
    ({"keep": [17, 17]}, "schedule.keep: has 2 blocks, model 'tiny' has 4"),
    ({"tokens": 18}, "schedule.tokens: expects 18 tokens, but model 'tiny' has 17"),
    ({"prefix": 2}, "schedule.prefix: "),
    ({"method": "magic"}, "schedule.method: unknown method 'magic'"),
    ({"method": "x" * 10_000}, "schedule.method: unknown method 'xxx"),
    ({"restore_before": 300}, "schedule.restore_before: "),
    ({"parameters": {"alpha": 0.5}}, "schedule.parameters: method 'topk' has no parameter 'alpha'"),
    ({"colour": 1}, "schedule.colour: unknown field"),
    ({"keep": [17, 17, 17, True]}, "schedule.keep[3]: must be a whole number"),
    ({"model": "x" * 129}, "schedule.model: "),
]


def test_a_schedule_that_cannot_be_followed(door, tmp_path):
    file = tmp_path / "schedule.json"
    for change, words in SCHEDULES:
        given = {**DENSE, "method": "topk", **change}
        assert words in door.refused("schedules", {"schedule": given})
        file.write_text(json.dumps(given))
        assert words in door.fails("schedule", "add", str(file))


FILES = [
    (b"{", "not valid JSON"),
    (b'{"keep": NaN}', "NaN is not a number"),
    (json.dumps(DENSE).replace("17,", "9" * 30 + ",", 1).encode(), "does not fit in 64 bits"),
    (b" " * (2 << 20), "larger than"),
]


def test_a_file_that_is_no_schedule(door):
    for text, words in FILES:
        assert words in door.fails("schedule", "add", "-", stdin=text)


def test_a_file_that_cannot_be_read(door, tmp_path):
    assert "No such file" in door.fails("schedule", "add", str(tmp_path / "none.json"))
    assert "directory" in door.fails("schedule", "add", str(tmp_path))
    assert "null" in door.fails("schedule", "add", "a\0b")


CAMPAIGNS = [
    (["--objective", "max-accuracy-drop=nan"], "finite"),
    (["--objective", "max-accuracy-drop=Infinity"], "finite"),
    (["--objective", "latency-budget=-5ms"], "latency"),
    (["--batch", "1" * 30], "batch: must be at most"),
    (["--counts", "9" * 30], "counts: "),
]


def test_a_campaign_that_cannot_be_meant(door):
    for arguments, words in CAMPAIGNS:
        assert words in door.fails("campaign", "run", "--models", "tiny", "--boards", "nano", *arguments)


def test_a_schedule_that_a_person_made_is_kept(door):
    text = json.dumps({**DENSE, "method": "topk", "keep": [17, 9, 9, 9]})
    code, digest, _ = door.command("schedule", "add", "-", stdin=text.encode())
    assert code == 0
    again = door.command("schedule", "add", "-", stdin=text.encode())
    assert again[:2] == (0, digest)
    code, shown, _ = door.command("schedule", "show", digest[:12])
    assert (code, json.loads(shown)) == (0, json.loads(text))
    code, listed, _ = door.command("schedule", "list")
    assert digest[:12] in listed
    assert "17×1 9×3" in listed
    assert digest[:12] not in door.command("schedule", "list", "--board", "nano")[1]
    assert door.live.lab.sql("SELECT digest, model, method FROM schedules") == [(digest.strip(), "tiny", "topk")]


ADDRESSES = [
    ("/v1/campaigns/%00", 404),
    ("/v1/campaigns/%00/report", 404),
    ("/v1/campaigns/a%00b", 404),
    ("/v1/campaigns/%ed%a0%80", 404),
    ("/v1/campaigns/" + "x" * 10_000, 404),
    ("/v1/campaigns/" + "%ff" * 1000, 404),
    ("/v1/campaigns/..", 404),
    ("/v1/campaigns/%2e%2e", 404),
    ("/v1/campaigns/%2e%2e%2fboards", 404),
    ("/v1/campaigns/", 404),
    ("/v1/schedules/%25", 404),
    ("/v1/schedules/%00", 404),
    ("/v1/artifacts/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
    ("/v1/artifacts/%00", 404),
    ("/v1/%00", 404),
    ("/v1/" + "x" * 10_000, 404),
    ("/v1/curves?model=%00", 422),
    ("/v1/curves?model=" + "x" * 10_000, 422),
    ("/v1/curves?model=a&model=b", 422),
    ("/v1/curves?colour=1", 422),
    ("/v1/curves?Model=tiny", 422),
    ("/v1/curves?model=tiny&%00=1", 422),
    ("/v1/boards?model=tiny", 422),
    ("/v1/health?x=1", 422),
    ("/v1/agent.pyz?x=1", 422),
    ("/v1/schedules?campaign=%00", 422),
]


def test_an_address_that_cannot_be_meant(door):
    for path, status in ADDRESSES:
        # httpx would tidy the address up.
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer operator-token\r\nConnection: close\r\n\r\n"
        head, _, body = spoken(door.live, request.encode(), hang_up=False).partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status, (path[:60], body)
        sentence = one_sentence(codec.loads(ErrorReply, body).error)
        # PostgreSQL could not even be asked for such a name.
        assert ("there is nothing at" in sentence) or "/%00" not in path


def test_every_endpoint_refuses_what_it_does_not_know(door):
    door.live.lab.store.create_enrolment("third", None, hashed("promise"), 60)
    tokens = collections.defaultdict(lambda: door.live.operator, boards="nano-token")
    for path, operations in door.live.app.openapi()["paths"].items():
        for method, operation in operations.items():
            token = "promise" if path == "/v1/enroll" else tokens[operation["tags"][0]]
            headers = {"Authorization": f"Bearer {token}"}
            address = re.sub(r"{\w+}", "x", path)
            answer = door.http.request(method, address + "?colour=1", headers=headers)
            assert answer.status_code == 422, (method, path)
            if method == "head":
                continue
            assert '"colour"' in codec.loads(ErrorReply, answer.content).error
            if "requestBody" not in operation:
                answer = door.http.request(method, address, headers=headers, content=b"{}")
                assert answer.status_code == 422, (method, path)
                assert "takes no body" in codec.loads(ErrorReply, answer.content).error


FORMS = [
    ("Content-Type", "text/plain"),
    ("Content-Type", "application/x-www-form-urlencoded"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Encoding", "gzip"),
    ("Content-Encoding", "br"),
]


def test_a_body_of_another_form(door):
    for name, value in FORMS:
        headers = {"Authorization": f"Bearer {door.live.operator}", name: value}
        with nothing_stored(door.live.lab):
            answer = door.http.post("/v1/enrolments", content=b'{"board": "third"}', headers=headers)
        assert answer.status_code == 415, value
        one_sentence(codec.loads(ErrorReply, answer.content).error)


def test_json_may_say_that_it_is_json(door):
    for media in ("application/json", "Application/JSON; charset=utf-8"):
        headers = {"Authorization": f"Bearer {door.live.operator}", "Content-Type": media}
        assert door.http.post("/v1/enrolments", content=b'{"board": "third"}', headers=headers).status_code == 200


def test_a_part_that_an_artifact_does_not_have(door):
    path = "/v1/artifacts/" + door.live.artifacts.put(b"weights")
    headers = {"Authorization": f"Bearer {door.live.operator}"}
    for asked, status in (
        ("bytes=7-", 416), ("bytes=999999999999999999-", 416), ("bytes=-3", 422), ("bytes=5-2", 422),
        ("bytes=0-1,3-4", 422), ("lines=1-", 422), ("bytes=" + "9" * 5000 + "-", 422),
    ):  # fmt: skip
        answer = door.http.get(path, headers={**headers, "Range": asked})
        assert answer.status_code == status, asked
        one_sentence(codec.loads(ErrorReply, answer.content).error)
    for asked, content in (
        ("bytes=0-", b"weights"),
        ("bytes=3-", b"ghts"),
        ("bytes=3-4", b"gh"),
        ("bytes=3-99", b"ghts"),
    ):
        answer = door.http.get(path, headers={**headers, "Range": asked})
        assert (answer.status_code, answer.content) == (206, content)


HEAD = b"POST /v1/enrolments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer operator-token\r\n"


def spoken(live, *parts, hang_up=True):
    """What comes back for raw bytes, until the coordinator hangs up; we do so (or not) after the last of them."""
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as wire:
        wire.settimeout(20)
        for part in parts:
            wire.sendall(part)
        if hang_up:
            wire.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: wire.recv(65536), b""))


NO_HTTP = [
    b"nonsense\r\n\r\n",
    b"GET /v1/boards HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    HEAD + b"Content-Length: x\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
]


def test_what_is_no_http(door):
    for request in NO_HTTP:
        with nothing_stored(door.live.lab):
            answer = spoken(door.live, request, hang_up=False)
        # The HTTP library refuses what it cannot parse in words of its own, before the application hears of it.
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), (request, answer)
        assert b"Traceback" not in answer
    with nothing_stored(door.live.lab):
        spoken(door.live, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert door.alive()


def test_a_body_that_is_shorter_than_it_says(door, caplog):
    with nothing_stored(door.live.lab):
        spoken(door.live, HEAD + b'Content-Length: 1000\r\n\r\n{"board": "third"}')
    assert door.alive()
    assert "Traceback" not in caplog.text


def test_a_client_that_asks_before_it_sends_is_told_at_once(door):
    with nothing_stored(door.live.lab):
        head = HEAD + b"Connection: close\r\nExpect: 100-continue\r\n"
        answer = spoken(
            door.live, head + b"Content-Length: %d\r\n\r\n" % (door.live.settings.body_bytes + 1), hang_up=False
        )
    assert answer.startswith(b"HTTP/1.1 413 ")
    answer = spoken(door.live, head + b"Content-Length: 18\r\n\r\n", b'{"board": "third"}', hang_up=False)
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 200 " in answer


def rss_peak():
    """This process's largest resident size since it was last reset, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb(lab, serve, chunked):
    """With the limit that an installation has."""
    live = serve(body_bytes=64 << 20)
    live.board("nano")
    piece, count = b" " * (1 << 20), 100
    Path("/proc/self/clear_refs").write_text("5")
    before = rss_peak()
    with nothing_stored(lab), socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as wire:
        wire.sendall(HEAD + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (count << 20)))
        wire.sendall(b"\r\nConnection: close\r\n\r\n")
        for _ in range(count):
            wire.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            wire.sendall(b"0\r\n\r\n")
        head, _, body = b"".join(iter(lambda: wire.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert "larger than 67108864 bytes" in one_sentence(codec.loads(ErrorReply, body).error)
    # What is read is forgotten once it is known to be too much; what is announced as too much is not even kept.
    assert rss_peak() - before < (96 << 20 if chunked else 24 << 20)
    assert httpx.get(live.url + "/v1/health", headers={"Authorization": f"Bearer {live.operator}"}).status_code == 200
