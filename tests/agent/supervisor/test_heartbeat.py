"""A held heartbeat on real sockets: nothing is waited for, and whatever arrives, in whatever pieces, is understood."""

import select
import socket
import ssl
import threading

import pytest

from tailfleet_agent import heartbeat
from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame
from tailfleet_schema.messages import ErrorReply, HeartbeatReply, HeartbeatRequest

REQUEST = HeartbeatRequest(3, wait_seconds=20.0)


class Server:
    """A listening socket; what the client is told is said by the test, byte by byte."""

    def __init__(self):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1)
        self.address = "127.0.0.1:{}".format(self._listener.getsockname()[1])
        self.connection = None
        self.request = b""

    def accept(self, context=None):
        self.connection, _ = self._listener.accept()
        if context is not None:
            self.connection = context.wrap_socket(self.connection, server_side=True)
        while b'"wait_seconds"' not in self.request:
            self.request += self.connection.recv(65536)

    def say(self, text):
        self.connection.sendall(text if isinstance(text, bytes) else text.encode())

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self._listener.close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def held(server):
    made = []

    def make(url=None, ca=None):
        made.append(heartbeat.hold(Client(url or "http://" + server.address, "t", ca), "job-1", REQUEST))
        return made[-1]

    yield make
    for one in made:
        one.close()


def heard(held):
    """Its answer, once something has arrived."""
    assert select.select([held], [], [], 20)[0]
    return held.answer()


def until_answered(held):
    answer = None
    while answer is None:
        answer = heard(held)
    return answer


def reply(body, head="HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n"):
    return head.format(len(body)) + body


def test_an_answer_may_come_in_pieces(server, held):
    one = held()
    server.accept()
    head, _, body = server.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/jobs/job-1/heartbeat HTTP/1.1\r\n")
    assert b"Authorization: Bearer t" in head
    assert codec.loads(HeartbeatRequest, body) == REQUEST
    assert one.answer() is None
    text = reply(codec.dumps(HeartbeatReply(True)))
    for piece in (text[:10], text[10:-5]):
        server.say(piece)
        assert heard(one) is None
    server.say(text[-5:])
    assert heard(one) == HeartbeatReply(True)


CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [CHUNKED + 'a\r\n{"cancel":', "\r\n5\r\ntrue}\r\n", "0\r\n\r\n"],
        ['HTTP/1.0 200 OK\r\n\r\n{"cancel":', "true}", None],
    ],
)
def test_an_answer_of_unknown_length_ends_with_its_end(server, held, pieces):
    one = held()
    server.accept()
    for piece in pieces[:-1]:
        server.say(piece)
        assert heard(one) is None
    if pieces[-1] is None:
        server.connection.close()
    else:
        server.say(pieces[-1])
    assert heard(one) == HeartbeatReply(True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HTTP/1.1 200 OK\r\nContent-Len",
        "SSH-2.0-OpenSSH\r\n\r\n",
        reply('{"hello":"world"}'),
        reply("not JSON"),
        reply("", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: {}\r\n\r\n"),
        reply("", "HTTP/1.1 302 Found\r\nContent-Length: {}\r\n\r\n"),
        "x" * 3_000_000,
    ],
)
def test_what_is_no_answer_is_unreachable(server, held, text):
    one = held()
    server.accept()
    speaker = threading.Thread(target=lambda: (server.say(text), server.connection.close()))
    speaker.start()
    with pytest.raises(Unreachable):
        until_answered(one)
    one.close()
    speaker.join()


def test_a_refusal_keeps_its_words(server, held):
    one = held()
    server.accept()
    words = codec.dumps(ErrorReply("the job was given again", Blame.LAB))
    server.say(reply(words, "HTTP/1.1 409 Conflict\r\nContent-Length: {}\r\n\r\n"))
    with pytest.raises(Refused, match="given again") as refused:
        heard(one)
    assert refused.value.lease_is_gone


def test_an_answer_that_never_comes_is_given_up(server, held, monkeypatch):
    one = held()
    monkeypatch.setattr(one, "_deadline", 0.0)
    with pytest.raises(Unreachable):
        one.answer()


def test_nobody_there_is_unreachable(server, held):
    server.close()
    with pytest.raises(Unreachable):
        held()


def test_over_https_nothing_is_waited_for_either(server, held, tmp_path):
    """TLS sends tickets of its own after the handshake: there is something to read, but no answer."""
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    accepting = threading.Thread(target=server.accept, args=(context,))
    accepting.start()
    one = held("https://" + server.address, str(tmp_path / "ca.pem"))
    accepting.join(20)
    assert select.select([one], [], [], 20)[0]
    assert one.answer() is None
    assert not select.select([one], [], [], 0)[0]
    server.say(reply(codec.dumps(HeartbeatReply(True))))
    assert heard(one) == HeartbeatReply(True)


def test_a_proxy_is_asked_where_one_is_named(server, held, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://" + server.address)
    monkeypatch.setenv("no_proxy", "")
    one = held("http://coordinator.example:8765")
    server.accept()
    assert server.request.startswith(b"POST http://coordinator.example:8765/v1/jobs/job-1/heartbeat HTTP/1.1\r\n")
    assert b"Host: coordinator.example:8765" in server.request
    server.say(reply(codec.dumps(HeartbeatReply())))
    assert heard(one) == HeartbeatReply()
