"""What the holder of one job says to the coordinator while the job runs, and what it hears.

Results and log go out rarely; that the job was cancelled is heard at once (``heartbeat``). A coordinator that does not
answer stops nothing. Left to others: the child, and when it lies between two timed blocks (``attend``).
"""

import logging
import time
from typing import Callable, Optional

from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_agent.heartbeat import Held, hold
from tailfleet_agent.spool import Entry
from tailfleet_schema.errors import TailfleetError
from tailfleet_schema.messages import HeartbeatRequest, ResultsUpload

RESULTS_PER_UPLOAD = 500

HOLD_SECONDS = 20.0
"""The longest that an answer is held back: below the usual 30 s of proxies."""

log = logging.getLogger("tailfleet.agent")


class LeaseLost(Exception):
    """The job no longer belongs to this agent."""


class Line:
    """The line of one held job; a context manager."""

    def __init__(self, client: Client, entry: Entry, contact_seconds: float, lease_seconds: float) -> None:
        self._client = client
        self._entry = entry
        self._contact_seconds = contact_seconds
        self._hold_seconds = min(HOLD_SECONDS, lease_seconds / 4)
        self.tell_log: Callable[[], str] = lambda: ""
        """Gives the end of the child's log, once there is a child."""
        self._told = ""
        self._contacted = self._asked = time.monotonic()
        self._held: Optional[Held] = None
        self._ask()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    @property
    def held(self) -> Optional[Held]:
        """The heartbeat whose answer is still to come, to select on."""
        return self._held

    def called_off(self) -> bool:
        """Whether the job is known to be cancelled; delivers what is due. To be called between two timed blocks.

        Asks nobody while a heartbeat is held and nothing is due. Raises ``LeaseLost``.
        """
        due = time.monotonic() - self._contacted >= self._contact_seconds
        if self._held is not None:
            try:
                answer = self._held.answer()
                if answer is not None and answer.cancel:
                    return True
                over = answer is not None
                # One that comes early is not asked for again at once: somebody does not let it wait.
                due = due or (over and time.monotonic() - self._asked >= self._contact_seconds)
            except Refused as error:
                # The contact below will hear it, too, and in a form that counts.
                over = True
                due = due or error.lease_is_gone
            except TailfleetError as error:
                log.debug("%s; asking again", error.sentence)
                over = True
            if over:
                self._hang_up()
        return due and self._contact()

    def _contact(self) -> bool:
        """Upload or renew the lease, then hold a heartbeat; whether the job was cancelled."""
        text = self.tell_log()
        try:
            cancel = self._speak(text if text != self._told else None)
        except Unreachable as error:
            log.warning("%s; results wait in the spool", error.sentence)
            return False
        finally:
            self._contacted = time.monotonic()
        self._told = text
        if not cancel and self._held is None:
            self._ask()
        return cancel

    def _speak(self, text: Optional[str]) -> bool:
        cancel = upload(self._client, self._entry, text)
        if cancel is None:
            request = HeartbeatRequest(self._entry.attempt, log=text)
            try:
                cancel = self._client.heartbeat(self._entry.job, request).cancel
            except Refused as error:
                raise _lost(error)
        return cancel

    def _ask(self) -> None:
        self._asked = time.monotonic()
        try:
            self._held = hold(
                self._client, self._entry.job, HeartbeatRequest(self._entry.attempt, wait_seconds=self._hold_seconds)
            )
        except Unreachable as error:
            log.debug("%s; asking again", error.sentence)

    def _hang_up(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def upload(client: Client, entry: Entry, text: Optional[str] = None) -> Optional[bool]:
    """Deliver all pending results of ``entry``, the first with the log ``text``; whether the job was cancelled, None
    where there was nothing to deliver. Raises ``LeaseLost``, ``Unreachable``, ``Refused``."""
    cancel = None
    while True:
        results = entry.pending(RESULTS_PER_UPLOAD)
        if not results:
            return cancel
        batch = ResultsUpload(entry.attempt, results, text, entry.runtime())
        try:
            cancel = client.results(entry.job, batch).cancel
        except Refused as error:
            raise _lost(error)
        entry.delivered(len(results))
        text = None


def _lost(error: Refused) -> Exception:
    return LeaseLost() if error.lease_is_gone else error
