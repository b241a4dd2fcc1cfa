"""Tokens of people and programs: made, listed, revoked. One is shown once, in the answer that makes it.

Boards' tokens are left to ``people`` and ``boards``, judging what a request brings to ``access``.
"""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator.db.rows import Token
from tailfleet_coordinator.db.tables import ROLES
from tailfleet_coordinator.replies import NewToken, TokenRequest, Tokens, TokenStatus, iso
from tailfleet_coordinator.web.access import Door, hashed, new_token
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.enrolment import check_name
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.wire import read, reply
from tailfleet_schema.errors import InputError

LOCAL_TOKEN = "coordinator.json"
"""Name of the operator's token that the coordinator writes beside its database."""


def token_routes(context: Context, door: Door) -> APIRouter:
    """The endpoints for tokens."""
    router = APIRouter(prefix="/v1", tags=["tokens"])
    store, settings = context.store, context.settings
    operator = [Depends(door.operator)]

    @router.get("/tokens", dependencies=operator)
    @speaks(Tokens)
    def tokens() -> Response:
        return reply(_tokens())

    @router.post("/tokens", dependencies=operator)
    @speaks(NewToken, body=TokenRequest)
    async def create(request: Request) -> Response:
        message = await read(request, TokenRequest, settings.body_bytes)
        check_name("token", message.name)
        if message.role not in ROLES:
            raise InputError(f"there is no role {message.role!r}", f"use {' or '.join(ROLES)}")
        token = new_token(message.role)
        created_at = await run_in_threadpool(store.create_token, message.name, message.role, hashed(token))
        return reply(NewToken(message.name, message.role, token, created_at.isoformat()))

    @router.post("/tokens/{name}/revoke", dependencies=operator)
    @speaks(Tokens)
    def revoke(name: str) -> Response:
        if name == LOCAL_TOKEN:
            raise InputError(
                f"{LOCAL_TOKEN} is the coordinator's own token, and the last that opens everything",
                f"to replace it, delete {LOCAL_TOKEN} in the state folder and start the coordinator again",
            )
        store.revoke_token(name)
        return reply(_tokens())

    def _tokens() -> Tokens:
        return Tokens([_status(token) for token in store.list_tokens()])

    return router


def _status(token: Token) -> TokenStatus:
    return TokenStatus(
        name=token.name,
        role=token.role,
        created_at=token.created_at.isoformat(),
        revoked_at=iso(token.revoked_at),
    )
