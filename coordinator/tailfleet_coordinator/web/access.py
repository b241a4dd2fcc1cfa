"""Tokens: making them, hashing them, and judging whose request may do what."""

import hashlib
import secrets
from collections.abc import Callable

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator.db.rows import Caller
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import RoleRefused, TokenRefused

WHERE_TOKENS_ARE = "the operator's token stands in coordinator.json in the coordinator's state folder"


def new_token(kind: str) -> str:
    """A fresh token of 256 random bits; ``kind`` (enrol, board, operator) is told by its first letters."""
    return f"tf-{kind}-{secrets.token_urlsafe(32)}"


def hashed(token: str) -> str:
    """What is stored of a token. One round of sha256 is enough: nobody guesses 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


class Door:
    """Lets callers in by role; each attribute is a dependency for FastAPI."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.board = self._for("board")
        """Boards alone."""
        self.operator = self._for("operator")
        """Who may change things."""
        self.reader = self._for("operator", "viewer")
        """Who may look at things."""
        self.anyone = self._for("operator", "viewer", "board")
        """Everyone with a token."""

    def _for(self, *roles: str) -> Callable[[Request], object]:
        async def judge(request: Request) -> Caller:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise TokenRefused("this request needs a token (Authorization: Bearer …)", WHERE_TOKENS_ARE)
            caller = await run_in_threadpool(self._store.find_caller, hashed(token.strip()))
            if caller is None:
                raise TokenRefused("this token opens nothing here", WHERE_TOKENS_ARE)
            if caller.role not in roles:
                raise RoleRefused(f"a token of role {caller.role} may not do this; {' or '.join(roles)} may")
            return caller

        return judge
