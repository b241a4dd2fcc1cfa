"""Requests that wait for a word: boards for work, holders of jobs for being called off. One look at the database for
all who wait for the same, four times a second, off the event loop.

Whether a board may have the work that waits for it, and what a holder is to be told, is decided by the request itself
once it is woken, not here.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

LOOK_SECONDS = 0.25

ANSWER_SECONDS = 1.0
"""An answer that takes longer than this is not waited for."""

log = logging.getLogger("tailfleet.web")

K = TypeVar("K")


class Ticket:
    """One waiting request."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self.answered = asyncio.Event()
        """Set when the request waits no longer and is about to be answered."""
        self.void = False
        """Whether the request must do nothing more: it was made again, nobody listens, or the coordinator ends."""

    async def wait(self, seconds: float) -> bool:
        """Until there is a word, the ticket is void, or ``seconds`` are over (False)."""
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        """There may be a word."""
        self._woken.set()

    def cancel(self) -> None:
        """The request is to be answered at once, with nothing."""
        self.void = True
        self._woken.set()


class Waiting(Generic[K]):
    """All requests that wait for the same, at most one a key: who asks again no longer listens to the earlier request,
    which must not be given a job that nobody would run. ``look`` tells for which keys there is a word."""

    def __init__(self, look: Callable[[list[K]], set[K]], look_seconds: float = LOOK_SECONDS) -> None:
        self._look = look
        self._look_seconds = look_seconds
        self._tickets: dict[K, Ticket] = {}
        self._closed = False

    @contextlib.contextmanager
    def ticket(self, key: K) -> Iterator[Ticket]:
        """Wait for ``key``; an earlier request for it becomes void."""
        earlier = self._tickets.get(key)
        if earlier is not None:
            earlier.cancel()
        mine = self._tickets[key] = Ticket()
        if self._closed:
            mine.cancel()
        try:
            yield mine
        finally:
            mine.answered.set()
            if self._tickets.get(key) is mine:
                del self._tickets[key]

    async def watch(self) -> None:
        """Wake those for whom there is a word, for ever."""
        while True:
            await asyncio.sleep(self._look_seconds)
            await self._wake()

    async def look_now(self) -> None:
        """Wake those for whom there is a word, and return when they are being answered."""
        answers = [asyncio.ensure_future(ticket.answered.wait()) for ticket in await self._wake()]
        if answers:
            _, slow = await asyncio.wait(answers, timeout=ANSWER_SECONDS)
            for answer in slow:
                answer.cancel()

    async def _wake(self) -> list[Ticket]:
        if not self._tickets:
            return []
        try:
            found = await run_in_threadpool(self._look, list(self._tickets))
        except Exception:
            log.exception("looking for those who wait failed; trying again")
            return []
        woken = [self._tickets[key] for key in found & set(self._tickets)]
        for ticket in woken:
            ticket.wake()
        return woken

    def close(self) -> None:
        """Answer everyone with nothing, from now on."""
        self._closed = True
        for ticket in self._tickets.values():
            ticket.cancel()


@contextlib.asynccontextmanager
async def listening(request: Request, ticket: Ticket) -> AsyncIterator[None]:
    """Make ``ticket`` void when whoever made ``request``, whose body is read, hangs up."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        ticket.cancel()

    listener = asyncio.create_task(listen())
    try:
        yield
    finally:
        listener.cancel()
