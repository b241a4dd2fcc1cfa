"""Bodies in and out: read with a limit, decoded and encoded by the schema's own codec, refused in one shape.

FastAPI's own decoding would take NaN, ``"3"`` for 3, and unknown fields; it is not used.
"""

import logging
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from tailfleet_coordinator.refusals import BodyTooLarge, status_of
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame, TailfleetError
from tailfleet_schema.messages import ErrorReply

T = TypeVar("T")

log = logging.getLogger("tailfleet.web")

PATIENCE = 4
"""So many times the limit is read and thrown away, so that an honest client hears why before it stops sending."""


async def read(request: Request, kind: type[T], limit_bytes: int) -> T:
    """The request's body as a ``kind``. Raises ``BodyTooLarge`` or ``DecodeError``."""
    body = await _body(request, limit_bytes)
    return await run_in_threadpool(codec.loads, kind, body)


async def _body(request: Request, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit_bytes:
            chunks.append(chunk)
        elif size > PATIENCE * limit_bytes:
            break
    if size > limit_bytes:
        raise BodyTooLarge(f"the request is larger than {limit_bytes} bytes", "send less at a time")
    return b"".join(chunks)


def reply(value: Any, status: int = 200) -> Response:
    """``value`` as canonical JSON."""
    return Response(codec.dumps(value), status, media_type="application/json")


def refusal(request: Request, error: TailfleetError) -> Response:
    """``error`` as the answer to ``request``."""
    status = status_of(error)
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error.sentence)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    answer = ErrorReply(error.sentence, error.blame, error.mend)
    return Response(codec.dumps(answer), status, headers=headers, media_type="application/json")


def refuse_in_one_shape(app: FastAPI) -> None:
    """Turn whatever can go wrong into an ``ErrorReply``."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TailfleetError)
        return refusal(request, error)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.method} is not possible at {request.url.path}",
        }.get(error.status_code, str(error.detail))
        return reply(ErrorReply(sentence, Blame.AUTHOR), error.status_code)

    async def of_a_bug(request: Request, error: Exception) -> Response:
        # The server logs the traceback; whoever asked is told no more than they can use.
        return reply(ErrorReply("the coordinator failed at this request", Blame.BUG, "read the coordinator's log"), 500)

    app.add_exception_handler(TailfleetError, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_a_bug)
