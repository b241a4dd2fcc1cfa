"""Requests in and replies out: bodies read with a limit, decoded and encoded by the schema's own codec; what an
address says judged as strictly; every refusal in one shape.

FastAPI's own decoding would take NaN, ``"3"`` for 3, and unknown fields; it is not used. What is documented of bodies
is left to ``openapi``.
"""

import logging
import re
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tailfleet_coordinator.refusals import BodyTooLarge, RangeRefused, UnknownName, UnreadableBody, status_of
from tailfleet_coordinator.web.openapi import spoken_by
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame, InputError, TailfleetError
from tailfleet_schema.messages import ErrorReply

T = TypeVar("T")

log = logging.getLogger("tailfleet.web")

PATIENCE = 4
"""So many times the limit is read and thrown away, so that an honest client hears why before it stops sending."""

SENTENCE_LENGTH = 400
"""Characters of a refusal: whoever sends a name of a megabyte is not sent it back."""

LONGEST_VALUE = 256
"""Characters of a name in an address; none that exists has more."""


async def check_address(request: Request) -> None:
    """What every door ends with: refuse what its address, or a body that it does not have, cannot mean.

    Raises ``UnknownName`` for a path that nothing can be called by, ``InputError`` for query parameters that are
    unknown, repeated or no text that can be stored, and for a body where none is read.
    """
    for value in request.path_params.values():
        if len(str(value)) > LONGEST_VALUE or codec.storable(str(value)) != value:
            raise UnknownName(f"there is nothing at {codec.shown(request.url.path)}")
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    seen = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            takes = f"known: {', '.join(known)}" if known else "none is known here"
            raise InputError(f"unknown query parameter {codec.shown(name)}; {takes}")
        if name in seen:
            raise InputError("is given twice", path=name)
        seen.add(name)
        codec.decode(str, value, name)
        if len(value) > LONGEST_VALUE:
            raise InputError(f"has more than {LONGEST_VALUE} characters", path=name)
    if spoken_by(request.scope["endpoint"]).body is None and _has_body(request):
        raise InputError("this request takes no body", "send it without one")


def check_range(request: Request, size: int) -> None:
    """Refuse a Range that is not one run of bytes, or begins behind the last of ``size``; without one, all are asked
    for. Starlette would refuse it in another shape."""
    asked = request.headers.get("range")
    if asked is None:
        return
    found = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", asked)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise InputError(f"cannot read the header Range: {codec.shown(asked)}", "send bytes=FIRST- or bytes=FIRST-LAST")
    if int(found[1]) >= size:
        raise RangeRefused(f"there is no byte {found[1]}: it has {size} bytes")


async def read(request: Request, kind: type[T], limit_bytes: int) -> T:
    """The request's body as a ``kind``. Raises ``UnreadableBody``, ``BodyTooLarge`` or ``DecodeError``."""
    _check_form(request)
    body = await _body(request, limit_bytes)
    return await run_in_threadpool(codec.loads, kind, body)


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _check_form(request: Request) -> None:
    """Refuse a body that says it is something other than plain JSON; one that says nothing is taken for JSON."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnreadableBody(f"a body of type {codec.shown(media)} is not read", "send Content-Type: application/json")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnreadableBody(f"a body with Content-Encoding {codec.shown(coding)} is not read", "send it uncompressed")


async def _body(request: Request, limit_bytes: int) -> bytes:
    declared = int(request.headers.get("content-length") or 0)
    too_large = BodyTooLarge(f"the request is larger than {limit_bytes} bytes", "send less at a time")
    if declared > limit_bytes and (_waits_to_send(request) or declared > PATIENCE * limit_bytes):
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if max(size, declared) <= limit_bytes:
                chunks.append(chunk)
            elif size <= PATIENCE * limit_bytes:
                chunks.clear()
            else:
                break
    except ClientDisconnect:
        raise InputError("the request ended before its body did") from None
    if size > limit_bytes:
        raise too_large
    return b"".join(chunks)


def _waits_to_send(request: Request) -> bool:
    """Whether the client sends its body only after it was asked to."""
    return request.headers.get("expect", "").lower() == "100-continue"


def reply(value: Any, status: int = 200) -> Response:
    """``value`` as canonical JSON."""
    return Response(codec.dumps(value), status, media_type="application/json")


def refusal(request: Request, error: TailfleetError) -> Response:
    """``error`` as the answer to ``request``."""
    status = status_of(error)
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error.sentence)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return _refusal(status, error.sentence, error.blame, error.mend, headers)


def refuse_in_one_shape(app: FastAPI) -> None:
    """Turn whatever can go wrong into an ``ErrorReply``."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TailfleetError)
        return refusal(request, error)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = codec.shown(request.url.path)[1:-1]
        sentence = {
            404: f"there is nothing at {where}",
            405: f"{request.method} is not possible at {where}",
        }.get(error.status_code, str(error.detail))
        return _refusal(error.status_code, sentence, headers=dict(error.headers or {}))

    async def of_fastapi(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:])
        return _refusal(422, InputError(str(first["msg"]), path=path).sentence)

    async def of_a_bug(request: Request, error: Exception) -> Response:
        # The server logs the traceback; whoever asked is told no more than they can use.
        return _refusal(500, "the coordinator failed at this request", Blame.BUG, "read the coordinator's log")

    app.add_exception_handler(TailfleetError, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_fastapi)
    app.add_exception_handler(Exception, of_a_bug)


def _refusal(
    status: int,
    sentence: str,
    blame: Blame = Blame.AUTHOR,
    mend: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    if len(sentence) > SENTENCE_LENGTH:
        sentence = sentence[: SENTENCE_LENGTH - 1] + "…"
    answer = codec.dumps(ErrorReply(sentence, blame, mend))
    return Response(answer, status, headers=headers, media_type="application/json")
