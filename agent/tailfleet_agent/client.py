"""The board's side of the coordinator's HTTP interface: one method a request, schema dataclasses in and out.

Standard library only. Left to others: when to ask, what to do when the coordinator does not answer; and the one
request that is not waited for (``heartbeat``).
"""

import contextlib
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type, TypeVar

from tailfleet_schema import __version__, codec
from tailfleet_schema.errors import Blame, ConfigurationError, DecodeError, LabError, TailfleetError
from tailfleet_schema.messages import (
    EnrolReply,
    EnrolRequest,
    ErrorReply,
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

T = TypeVar("T")

CONNECT_SECONDS = 10.0
"""How long a request may take beyond the time that the coordinator is asked to wait."""

CHUNK_BYTES = 1 << 20

RANGE_NOT_SATISFIABLE = 416


class Unreachable(LabError):
    """The coordinator did not answer; the same request may succeed later."""


class Refused(TailfleetError):
    """The coordinator answered with a refusal; the same request will be refused again."""

    def __init__(self, status: int, reply: ErrorReply) -> None:
        super().__init__(reply.error, reply.mend)
        self.status = status
        self.blame = reply.blame

    @property
    def lease_is_gone(self) -> bool:
        """Whether the job now belongs to nobody or to a later attempt."""
        return self.status in (404, 409, 410)


class Client:
    """Requests of one board. Every method raises ``Unreachable`` or ``Refused``."""

    def __init__(self, url: str, token: Optional[str] = None, ca: Optional[str] = None) -> None:
        """For https, trust the certificates in the file ``ca``, else the system's.

        Raises ``ConfigurationError`` for a file that cannot be used.
        """
        self.url = url.rstrip("/")
        self._token = token
        self.context = _trusting(ca) if self.url.startswith("https:") else None
        """Whom to trust over https; None over http."""
        handlers: List[Any] = []
        if self.context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.context))
        self._opener = urllib.request.build_opener(*handlers)

    def enroll(self, request: EnrolRequest) -> EnrolReply:
        """Trade an enrolment token for the board's own."""
        return self._post("/v1/enroll", request, EnrolReply)

    def lease(self, request: LeaseRequest) -> LeaseReply:
        """Ask for work; the coordinator holds the answer back for up to ``wait_seconds``."""
        return self._post("/v1/lease", request, LeaseReply, wait_seconds=request.wait_seconds)

    def results(self, job: str, upload: ResultsUpload) -> ResultsReply:
        """Deliver results; renews the lease."""
        return self._post("/v1/jobs/{}/results".format(job), upload, ResultsReply, wait_seconds=20.0)

    def heartbeat(self, job: str, request: HeartbeatRequest) -> HeartbeatReply:
        """Renew the lease, without waiting; see ``heartbeat`` for one whose answer is held back."""
        return self._post("/v1/jobs/{}/heartbeat".format(job), request, HeartbeatReply)

    def finish(self, job: str, request: FinishRequest) -> FinishReply:
        """Say how the job ended."""
        return self._post("/v1/jobs/{}/finish".format(job), request, FinishReply)

    def receipts(self, upload: ReceiptsUpload) -> ReceiptsReply:
        """Say what became of shipped schedules."""
        return self._post("/v1/receipts", upload, ReceiptsReply)

    @contextlib.contextmanager
    def artifact(self, sha256: str, start: int = 0) -> Iterator["Transfer"]:
        """The artifact's bytes from ``start`` on, or from 0 where the other side does not serve that part alone."""
        reply, begins = self._open_from(sha256, start), start
        try:
            total = _length(reply)
            if start:
                begins, total = _range(reply, start)
                if begins not in (0, start):
                    reply.close()
                    reply, begins = self._open_from(sha256, 0), 0
                    total = _length(reply)
            yield Transfer(reply, begins, total, "artifact {}".format(sha256[:12]))
        finally:
            reply.close()

    def _open_from(self, sha256: str, start: int) -> Any:
        request = self._request("/v1/artifacts/" + sha256)
        if start:
            request.add_header("Range", "bytes={}-".format(start))
        try:
            return self._open(request, CONNECT_SECONDS)
        except Refused as error:
            if error.status == RANGE_NOT_SATISFIABLE and start:
                return self._open_from(sha256, 0)
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable("artifact {} could not be fetched: {}".format(sha256[:12], error))

    def headers(self, body: Optional[bytes] = None) -> Dict[str, str]:
        """What a request with ``body`` says of itself and of this board."""
        headers = {"User-Agent": "tailfleet-agent/" + __version__}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = "Bearer " + self._token
        return headers

    def _request(self, path: str, body: Optional[bytes] = None) -> urllib.request.Request:
        return urllib.request.Request(self.url + path, data=body, headers=self.headers(body))

    def _post(self, path: str, message: object, kind: Type[T], wait_seconds: float = 0.0) -> T:
        request = self._request(path, codec.dumps(message).encode("utf-8"))
        try:
            with self._open(request, CONNECT_SECONDS + wait_seconds) as reply:
                content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable("{} does not answer: {}".format(self.url, error))
        try:
            return codec.loads(kind, content, "reply")
        except DecodeError as error:
            raise Unreachable("{} does not answer as a coordinator does ({})".format(self.url, error.sentence))

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        try:
            return self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                content = error.read()
            raise refusal(self.url, error.code, content)
        except (urllib.error.URLError, socket.timeout, ssl.CertificateError) as error:
            problem = _mistrust(getattr(error, "reason", error))
            if problem is not None:
                raise Unreachable(
                    "the certificate of {} is not trusted: {}".format(self.url, problem),
                    mend="enroll with --ca and the file of the coordinator's certificate, or of its authority's",
                )
            raise Unreachable("{} does not answer: {}".format(self.url, getattr(error, "reason", error)))


def _trusting(ca: Optional[str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigurationError(
            "the certificates in {} cannot be read: {}".format(ca, error.strerror or error),
            mend="enroll with --ca and a PEM file that is there",
        )


def _mistrust(reason: object) -> Optional[str]:
    """What is wrong with the coordinator's certificate; None where something else is wrong."""
    # Before Python 3.7 a wrong name is a ValueError of its own, and what else is wrong stands in the text alone.
    if isinstance(reason, ssl.CertificateError):
        return str(getattr(reason, "verify_message", reason))
    if isinstance(reason, ssl.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(reason):
        return str(reason)
    return None


class Transfer:
    """An artifact that is arriving."""

    def __init__(self, reply: Any, start: int, total: Optional[int], what: str) -> None:
        self.start = start
        """The byte it begins with."""
        self.total = total
        """Bytes of the whole artifact; None where nobody says."""
        self._reply = reply
        self._what = what

    def chunks(self) -> Iterator[bytes]:
        """The bytes, piece by piece. Raises ``Unreachable`` when they end before the artifact does."""
        have = self.start
        while True:
            try:
                chunk = self._reply.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable("{} could not be fetched: {}".format(self._what, error))
            if not chunk:
                break
            have += len(chunk)
            yield chunk
        if self.total is not None and have < self.total:
            raise Unreachable("{} broke off after {} of {} bytes".format(self._what, have, self.total))


def _length(reply: Any) -> Optional[int]:
    words = reply.headers.get("Content-Length", "")
    return int(words) if words.isdigit() else None


def _range(reply: Any, start: int) -> Tuple[int, Optional[int]]:
    """The byte that the reply to a request for those from ``start`` on begins with, and the bytes of the whole.

    A begin that is neither 0 nor ``start`` says that the reply is of no use.
    """
    if reply.getcode() != http.client.PARTIAL_CONTENT:
        return 0, _length(reply)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    if found is None or int(found.group(1)) != start:
        return -1, None
    return start, None if found.group(2) == "*" else int(found.group(2))


def refusal(url: str, status: int, content: bytes) -> TailfleetError:
    """What an answer other than 200 means. A proxy or a coordinator that is just starting may say 5xx: that passes."""
    if not 400 <= status < 500:
        return Unreachable("{} answers with status {}".format(url, status))
    try:
        reply = codec.loads(ErrorReply, content)
    except DecodeError:
        reply = ErrorReply("the coordinator refused with status {}".format(status), Blame.BUG)
    return Refused(status, reply)
