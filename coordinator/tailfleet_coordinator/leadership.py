"""Keeps this coordinator's hold on the database, and knows when it is lost.

One coordinator writes at a time. The hold is a lease by the database's clock (``db.store_leadership``); what makes a
lost one harmless is the fence before every write (``Database.writing``). Ending the process is left to the server.
"""

import logging
import threading
import time
from collections.abc import Callable

from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import Deposed
from tailfleet_schema.errors import LabError, TailfleetError

RENEWALS = 3
"""A hold is renewed so many times before it would run out: two may fail."""

log = logging.getLogger("tailfleet.leadership")


class Leadership:
    """The hold of one coordinator, which writes by ``store``."""

    def __init__(self, store: Store, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._seconds = seconds
        self._clock = clock
        self.lost: TailfleetError | None = None
        """Why the coordinator must end; None while it holds the database."""

    def take(self, holder: str, holder_key: str) -> int:
        """Become the one that writes; the epoch. Raises ``AnotherWriter``; see ``Store.take_leadership``."""
        return self._store.take_leadership(holder, holder_key, self._seconds)

    def run(self, stopping: threading.Event) -> None:
        """Renew the hold until ``stopping`` is set or it is lost.

        A database that does not answer is asked again until the hold may have run out.
        """
        renewed = self._clock()
        while self.lost is None and not stopping.wait(self._seconds / RENEWALS):
            asked = self._clock()
            try:
                self._store.renew_leadership(self._seconds)
            except Deposed as error:
                self._lose(error)
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0]
                if self._clock() - renewed < self._seconds:
                    log.warning("the hold on the database could not be renewed (%s); trying again", reason)
                else:
                    self._lose(
                        LabError(
                            f"the hold on the database ran out: it could not be renewed for {self._seconds:.0f} s"
                            f" ({reason})",
                            "see that the database answers, and start the coordinator again",
                        )
                    )
            else:
                renewed = asked

    def end(self) -> None:
        """Let another coordinator take over at once, unless one has already."""
        if self.lost is not None:
            return
        try:
            self._store.end_leadership()
        except Exception as error:
            # Whoever comes next waits until the hold runs out.
            log.warning("the hold on the database could not be given back: %s", error)

    def _lose(self, error: TailfleetError) -> None:
        log.error("%s; this coordinator ends", error.sentence)
        self.lost = error
