"""Boards that wait for work: one look at the database for all of them, four times a second, off the event loop.

Whether a board may have the work that waits for it is decided when it claims, not here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from fastapi.concurrency import run_in_threadpool

LOOK_SECONDS = 0.25

log = logging.getLogger("tailfleet.web")


class Ticket:
    """One waiting request of a board."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self.void = False
        """Whether the request must not claim any more: the board has asked again, or the coordinator ends."""

    async def wait(self, seconds: float) -> None:
        """Until there may be work, the ticket is void, or ``seconds`` are over."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()

    def wake(self) -> None:
        """There may be work."""
        self._woken.set()

    def cancel(self) -> None:
        """The request is to be answered at once, with nothing."""
        self.void = True
        self._woken.set()


class Waiting:
    """All waiting requests, at most one a board: an agent that asks again no longer listens to its earlier request,
    which must not be given a job that nobody would run."""

    def __init__(self, look: Callable[[list[int]], set[int]], look_seconds: float = LOOK_SECONDS) -> None:
        self._look = look
        self._look_seconds = look_seconds
        self._tickets: dict[int, Ticket] = {}
        self._closed = False

    @contextlib.contextmanager
    def ticket(self, board_id: int) -> Iterator[Ticket]:
        """Wait as ``board_id``; an earlier request of the board becomes void."""
        earlier = self._tickets.get(board_id)
        if earlier is not None:
            earlier.cancel()
        mine = self._tickets[board_id] = Ticket()
        if self._closed:
            mine.cancel()
        try:
            yield mine
        finally:
            if self._tickets.get(board_id) is mine:
                del self._tickets[board_id]

    async def watch(self) -> None:
        """Wake boards that have work, for ever."""
        while True:
            await asyncio.sleep(self._look_seconds)
            if not self._tickets:
                continue
            try:
                found = await run_in_threadpool(self._look, list(self._tickets))
            except Exception:
                log.exception("looking for waiting work failed; trying again")
                continue
            for board_id in found & set(self._tickets):
                self._tickets[board_id].wake()

    def close(self) -> None:
        """Answer everyone with nothing, from now on."""
        self._closed = True
        for ticket in self._tickets.values():
            ticket.cancel()
