"""The board's side of the coordinator's HTTP interface: one method a request, schema dataclasses in and out.

Standard library only. Left to others: when to ask, what to do when the coordinator does not answer.
"""

import hashlib
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any, List, Optional, Type, TypeVar

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
    ResultsReply,
    ResultsUpload,
)

T = TypeVar("T")

CONNECT_SECONDS = 10.0
"""How long a request may take beyond the time that the coordinator is asked to wait."""

CHUNK_BYTES = 1 << 20


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
        handlers: List[Any] = []
        if self.url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_trusting(ca)))
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
        """Renew the lease."""
        return self._post("/v1/jobs/{}/heartbeat".format(job), request, HeartbeatReply)

    def finish(self, job: str, request: FinishRequest) -> FinishReply:
        """Say how the job ended."""
        return self._post("/v1/jobs/{}/finish".format(job), request, FinishReply)

    def fetch_artifact(self, sha256: str, folder: str) -> str:
        """The path of the artifact in ``folder``, fetched unless it lies there already.

        Raises ``LabError`` when what arrived does not have that hash; a damaged file is never kept.
        """
        name = os.path.join(folder, sha256)
        if os.path.exists(name):
            return name
        os.makedirs(folder, exist_ok=True)
        draft = "{}.{}.part".format(name, os.getpid())
        digest = hashlib.sha256()
        try:
            request = self._request("/v1/artifacts/" + sha256)
            with self._open(request, CONNECT_SECONDS) as reply, open(draft, "wb") as out:
                while True:
                    chunk = reply.read(CHUNK_BYTES)
                    if not chunk:
                        break
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != sha256:
                raise LabError("artifact {} arrived damaged".format(sha256[:12]))
            os.replace(draft, name)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable("artifact {} could not be fetched: {}".format(sha256[:12], error))
        finally:
            if os.path.exists(draft):
                os.remove(draft)
        return name

    def _request(self, path: str, body: Optional[bytes] = None) -> urllib.request.Request:
        headers = {"User-Agent": "tailfleet-agent/" + __version__}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = "Bearer " + self._token
        return urllib.request.Request(self.url + path, data=body, headers=headers)

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
            # A proxy or a coordinator that is just starting may say 5xx: that passes.
            if error.code >= 500:
                raise Unreachable("{} answers with status {}".format(self.url, error.code))
            raise Refused(error.code, _refusal(error.code, content))
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


def _refusal(status: int, content: bytes) -> ErrorReply:
    try:
        return codec.decode(ErrorReply, json.loads(content.decode("utf-8")))
    except (ValueError, DecodeError):
        return ErrorReply("the coordinator refused with status {}".format(status), Blame.BUG)
