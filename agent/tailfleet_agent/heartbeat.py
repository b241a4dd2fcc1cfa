"""A held heartbeat: asked between two timed blocks, answered when the coordinator has something to say.

No thread waits for it. The socket does not block, and the kernel takes the answer's one packet by itself; the
supervisor looks between two blocks whether it is there, which is one system call that returns at once. What that
costs the measured machine is not measured here: at most one packet in and one out in ``wait_seconds``, and no process
that wakes up for it while a block is timed. Left to others: when to ask, and what follows from the answer (``line``).
"""

import http.client
import io
import ssl
import time
import urllib.parse
import urllib.request
from typing import Any, Dict, Optional, Tuple

from tailfleet_agent.client import CONNECT_SECONDS, Client, Unreachable, refusal
from tailfleet_schema import codec
from tailfleet_schema.errors import DecodeError
from tailfleet_schema.messages import HeartbeatReply, HeartbeatRequest

MOST_BYTES = 1 << 20
"""More than any answer of a coordinator to a heartbeat."""


def hold(client: Client, job: str, request: HeartbeatRequest) -> "Held":
    """Send the heartbeat and leave its answer to come. Raises ``Unreachable``."""
    body = codec.dumps(request).encode("utf-8")
    headers = dict(client.headers(body), Connection="close")
    url = "{}/v1/jobs/{}/heartbeat".format(client.url, job)
    return Held(url, body, headers, client.context, request.wait_seconds)


class Held:
    """One request whose answer has not come yet; has a ``fileno`` to select on. Over http, https, and proxies without
    a password; a proxy that does not let it wait makes it ``Unreachable``."""

    def __init__(
        self, url: str, body: bytes, headers: Dict[str, str], context: Optional[ssl.SSLContext], wait_seconds: float
    ) -> None:
        self._url = url
        self._received = b""
        self._connection, target = _connection(url, context)
        try:
            self._connection.request("POST", target, body, headers)
            self._connection.sock.setblocking(False)
        except (OSError, http.client.HTTPException, ssl.CertificateError) as error:
            self.close()
            raise Unreachable("{} does not answer: {}".format(url, error))
        self._deadline = time.monotonic() + wait_seconds + CONNECT_SECONDS

    def fileno(self) -> int:
        """Of its socket."""
        return int(self._connection.sock.fileno())

    def close(self) -> None:
        """Listen no longer."""
        self._connection.close()

    def answer(self) -> Optional[HeartbeatReply]:
        """What the coordinator says; None as long as it says nothing. Never waits.

        Raises ``Unreachable`` when the connection was cut or is overdue, ``Refused`` for a refusal.
        """
        ended = self._receive()
        try:
            answer = _parse(self._received, ended)
        except http.client.HTTPException as error:
            raise Unreachable("{} does not answer as a coordinator does ({!r})".format(self._url, error))
        if answer is None:
            if ended or time.monotonic() > self._deadline or len(self._received) > MOST_BYTES:
                raise Unreachable("{} gave no answer to a heartbeat".format(self._url))
            return None
        status, content = answer
        if status != 200:
            raise refusal(self._url, status, content)
        try:
            return codec.loads(HeartbeatReply, content, "reply")
        except DecodeError as error:
            raise Unreachable("{} does not answer as a coordinator does ({})".format(self._url, error.sentence))

    def _receive(self) -> bool:
        """Take what has arrived; whether the other side has closed."""
        try:
            # Until nothing is left: over https some may lie decrypted where no select sees it.
            while len(self._received) <= MOST_BYTES:
                chunk = self._connection.sock.recv(65536)
                if not chunk:
                    return True
                self._received += chunk
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise Unreachable("{} does not answer: {}".format(self._url, error))
        return False


class _Received:
    """Bytes in the form of a socket, as ``HTTPResponse`` wants one."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def _parse(received: bytes, ended: bool) -> Optional[Tuple[int, bytes]]:
    """Status and body of the answer; None while a part is missing. Raises ``HTTPException`` for what is not HTTP."""
    if b"\r\n\r\n" not in received:
        return None
    with http.client.HTTPResponse(_Received(received)) as response:  # type: ignore[arg-type]
        response.begin()
        if response.length is None and not response.chunked and not ended:
            return None
        try:
            return response.status, response.read()
        except http.client.IncompleteRead:
            return None


def _connection(url: str, context: Optional[ssl.SSLContext]) -> Tuple[http.client.HTTPConnection, str]:
    """A connection that will lead to ``url``, and what to ask for on it."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
    if proxy is None:
        return _open(host, port, context), parts.path
    through = urllib.parse.urlsplit(proxy if "//" in proxy else "//" + proxy)
    connection = _open(through.hostname or "", through.port, context)
    if context is None:
        return connection, url
    connection.set_tunnel(host, port)
    return connection, parts.path


def _open(host: str, port: Optional[int], context: Optional[ssl.SSLContext]) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
    return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
