"""A connection to a coordinator: where it is, its certificate, requests, and refusals as exceptions.

What is asked over it is left to ``client``.
"""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.tls import trusting
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame, ConfigurationError, DecodeError, LabError, TailfleetError
from tailfleet_schema.messages import ErrorReply

T = TypeVar("T")
Here = TypeVar("Here", bound="Connection")


class FleetError(TailfleetError):
    """The coordinator refused; the sentence is its own. ``status`` is the HTTP status."""

    def __init__(self, status: int, reply: ErrorReply) -> None:
        super().__init__(reply.error, reply.mend)
        self.status = status
        self.blame = reply.blame


class Connection:
    """To one coordinator.

    ``url`` and ``token`` default to ``$TAILFLEET_URL`` and ``$TAILFLEET_TOKEN``, else to what the coordinator of this
    machine wrote into ``coordinator.json``. ``ca`` is a file of certificates to trust for https, of authorities or of
    the coordinator itself; it defaults to ``$TAILFLEET_CA``, else to the one named beside the URL that was found, else
    to the system's. Methods raise ``FleetError`` for a refusal, ``LabError`` where nobody answers.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        url = url or os.environ.get("TAILFLEET_URL")
        token = token or os.environ.get("TAILFLEET_TOKEN")
        ca = ca or os.environ.get("TAILFLEET_CA")
        if url is None or token is None:
            known = _this_machines_coordinator(url is None)
            if url is None:
                url, ca = known["url"], ca or known.get("ca")
            token = token or known["token"]
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            verify=trusting(ca) if ca is not None and self.url.startswith("https:") else True,
            transport=transport,
            timeout=timeout_seconds,
        )

    def close(self) -> None:
        """Close the connections; the object is of no use afterwards."""
        self._http.close()

    def __enter__(self: Here) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str, kind: type[T], parameters: Mapping[str, str] | None = None) -> T:
        return self._ask("GET", path, kind, params=parameters)

    def _post(self, path: str, message: object, kind: type[T], timeout: httpx.Timeout | None = None) -> T:
        content = b"" if message is None else codec.dumps(message).encode()
        headers = {"Content-Type": "application/json"}
        return self._ask("POST", path, kind, content=content, headers=headers, timeout=timeout or self._http.timeout)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unanswered(self.url, error) from error

    def _ask(self, method: str, path: str, kind: type[T], **options: Any) -> T:
        answer = self._send(method, path, **options)
        if answer.is_success:
            return codec.loads(kind, answer.content, "reply")
        raise self._refusal(answer)

    def _pieces_of(self, path: str) -> Iterator[tuple[bytes, int]]:
        """What lies at ``path``, piece by piece, each with how many bytes there are in all."""
        try:
            with self._http.stream("GET", path) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer)
                size = int(answer.headers.get("Content-Length", 0))
                for piece in answer.iter_bytes():
                    yield piece, size
        except httpx.HTTPError as error:
            raise _unanswered(self.url, error) from error

    def _refusal(self, answer: httpx.Response) -> FleetError:
        try:
            refusal = codec.loads(ErrorReply, answer.content)
        except DecodeError:
            refusal = ErrorReply(f"{self.url} answers with status {answer.status_code}", Blame.BUG)
        return FleetError(answer.status_code, refusal)


def part_of_path(name: str) -> str:
    """``name`` as one part of a path."""
    return quote(name, safe="") or "-"


def _unanswered(url: str, error: httpx.HTTPError) -> LabError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LabError(
                f"the certificate of {url} is not trusted: {cause.verify_message}",
                "name the file of its authority's certificate: TAILFLEET_CA",
            )
        cause = cause.__cause__ or cause.__context__
    return LabError(f"no coordinator answers at {url} ({error})", "tailfleet up")


def _this_machines_coordinator(needs_url: bool) -> dict[str, str]:
    path = Settings().ready_file
    try:
        known = json.loads(path.read_text())
        return {name: str(known[name]) for name in ("url", "token", *(["ca"] if "ca" in known else []))}
    except FileNotFoundError:
        what = "no coordinator runs on this machine" if needs_url else "no token is given"
        raise ConfigurationError(
            f"{what}: there is no {path}", "tailfleet up, or set TAILFLEET_URL and TAILFLEET_TOKEN"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", "start the coordinator again") from error
