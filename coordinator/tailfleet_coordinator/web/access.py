"""Tokens: making them, hashing them, and judging whose request may do what.

In two steps. The ``Gate`` stands around the whole application and turns away who brings no good token, whatever was
asked for: a stranger does not even learn which paths exist. Behind it the ``Door`` says, route by route, which roles
may go on.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from tailfleet_coordinator.db.rows import Caller
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.store_access import NEW_LINE
from tailfleet_coordinator.refusals import RoleRefused, TokenRefused
from tailfleet_coordinator.web.wire import check_address, refusal
from tailfleet_schema.errors import TailfleetError

WHERE_TOKENS_ARE = "the operator's token stands in coordinator.json in the coordinator's state folder"

ENROLMENT_OPENS = frozenset({("POST", "/v1/enroll"), ("GET", "/v1/agent.pyz")})
"""All that an enrolment token is good for: it travels on a command line."""


def new_token(kind: str) -> str:
    """A fresh token of 256 random bits; ``kind`` (enrol, board, operator, viewer) is told by its first letters."""
    return f"tf-{kind}-{secrets.token_urlsafe(32)}"


def hashed(token: str) -> str:
    """What is stored of a token. One round of sha256 is enough: nobody guesses 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


def token_of(request: Request) -> str:
    """The token that the request brings. Raises ``TokenRefused`` where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused("this request needs a token (Authorization: Bearer …)", WHERE_TOKENS_ARE)
    return token.strip()


_DOCUMENTED = Depends(HTTPBearer(scheme_name="token", description="A token of this fleet.", auto_error=False))
"""Puts the need for a token into the document; the ``Gate`` reads and judges it."""


class Gate:
    """Middleware: every request is somebody's. ``request.state.caller`` is whose."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on with the request, or answer with a refusal."""
        if scope["type"] == "http":
            request = Request(scope)
            try:
                caller = await run_in_threadpool(self._find, token_of(request))
                if caller.role == "enrolment" and (request.method, request.url.path) not in ENROLMENT_OPENS:
                    raise RoleRefused("an enrolment token is good for enrolling one board, and for nothing else")
            except TailfleetError as error:
                await refusal(request, error)(scope, receive, send)
                return
            request.state.caller = caller
        await self._app(scope, receive, send)

    def _find(self, token: str) -> Caller:
        caller = self._store.find_caller(hashed(token))
        if caller is not None:
            return caller
        if token.startswith("tf-enrol-"):
            raise TokenRefused("this enrolment token is not known", NEW_LINE)
        if token.startswith("tf-board-"):
            raise TokenRefused("this board's token opens nothing here any more", NEW_LINE)
        raise TokenRefused("this token opens nothing here", WHERE_TOKENS_ARE)


class Door:
    """Lets callers on by role; each attribute is a dependency for FastAPI, behind the ``Gate``.

    Who asks is judged first, then what the address says; what the body says is left to who reads it.
    """

    def __init__(self) -> None:
        self.enrolment = self._for("enrolment")
        """Who brings a promise, to become a board."""
        self.board = self._for("board")
        """Boards alone."""
        self.operator = self._for("operator")
        """Who may change things."""
        self.reader = self._for("operator", "viewer")
        """Who may look at things."""
        self.anyone = self._for("operator", "viewer", "board")
        """Everyone who is in."""
        self.installer = self._for("operator", "viewer", "board", "enrolment")
        """Everyone who is in, or is about to be."""

    def _for(self, *roles: str) -> Callable[..., object]:
        async def judge(request: Request, documented: Annotated[object, _DOCUMENTED]) -> Caller:
            caller: Caller = request.state.caller
            if caller.role not in roles:
                raise RoleRefused(f"a token of role {caller.role} may not do this; {' or '.join(roles)} may")
            await check_address(request)
            return caller

        return judge
