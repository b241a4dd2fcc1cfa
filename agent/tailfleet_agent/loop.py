"""The agent's life: drain the spool → lease → run → report, for ever.

While a job runs, requests are rare and fall between two timed blocks. A coordinator that does not answer
stops nothing: results wait in the spool. Left to others: HTTP (``client``), the child (``runner``, ``attend``), what
is said while it runs (``line``), the disk (``spool``, ``schedules``), sensors (``probes``).
"""

import http.client
import logging
import os
import threading
from typing import Callable, List, Optional

from tailfleet_agent import config as config_room
from tailfleet_agent.attend import attend, stopped
from tailfleet_agent.cache import Cache
from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_agent.config import Config
from tailfleet_agent.line import LeaseLost, Line, upload
from tailfleet_agent.runner import DETAIL_BYTES, KEPT_LOGS, Child, forget_old_logs, worker_command
from tailfleet_agent.schedules import Schedules
from tailfleet_agent.spool import Entry, Spool
from tailfleet_schema.board import BoardFacts, Telemetry
from tailfleet_schema.errors import Blame, TailfleetError
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import (
    FinishRequest,
    Lease,
    LeaseRequest,
    Outcome,
    ReceiptsUpload,
    WorkerOrder,
)
from tailfleet_schema.shipment import Shipment

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits after one, two, … fruitless tries to reach the coordinator."""

log = logging.getLogger("tailfleet.agent")


class JobEnded(Exception):
    """The job is over before its child has been started."""

    def __init__(self, finish: FinishRequest) -> None:
        super().__init__()
        self.finish = finish


class Agent:
    """One board's agent.

    ``facts`` and ``telemetry`` read the board; ``stopping`` ends the loop when it is set and is also what the
    agent waits on, so that a test or a signal never has to wait for a clock.
    """

    def __init__(
        self,
        home: str,
        config: Config,
        client: Client,
        facts: Callable[[], BoardFacts],
        telemetry: Callable[[], Optional[Telemetry]],
        stopping: threading.Event,
        command: Optional[List[str]] = None,
    ) -> None:
        self._home = home
        self._config = config
        self._client = client
        self._facts = facts
        self._telemetry = telemetry
        self._stopping = stopping
        self._command = command or worker_command(config.worker_python)
        self._spool = Spool(config_room.path(home, "spool"))
        self._schedules = Schedules(config_room.path(home, "schedules"))
        self._cache = Cache(config_room.path(home, "artifacts"), config.cache_bytes, stopping.wait)
        self._failures = 0
        self.waiting = False
        """Whether it only waits for the coordinator's answer: nothing is lost by ending it then."""

    def run(self) -> None:
        """Work until ``stopping`` is set. Raises ``Refused`` when the coordinator no longer knows this board."""
        facts = self._facts()
        while not self._stopping.is_set():
            try:
                self.step(facts)
                self._failures = 0
            except Unreachable as error:
                pause = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
                if self._failures == 0:
                    log.warning("%s; trying again", error.sentence)
                self._failures += 1
                self._stopping.wait(pause)

    def step(self, facts: BoardFacts, wait_seconds: float = 20.0) -> bool:
        """Deliver what is due, ask for work once, and do it. Whether there was work."""
        self.drain()
        request = LeaseRequest(facts, wait_seconds, self._telemetry())
        self.waiting = True
        try:
            reply = self._client.lease(request)
        finally:
            self.waiting = False
        lease = reply.lease
        if reply.shipments:
            self.take(reply.shipments, busy=lease is not None)
        if lease is None:
            return False
        log.info(
            "job %s, attempt %d: %s of %s, %d results known",
            lease.job.id,
            lease.attempt,
            lease.job.kind.value,
            lease.job.workload.model.name,
            len(lease.known),
        )
        self.work(lease)
        return True

    def drain(self) -> None:
        """Deliver everything undelivered. Raises ``Unreachable``, or ``Refused`` where this board is not known (any
        more, or to whoever answers at that address); what remains stays.
        """
        for entry in self._spool.entries():
            try:
                upload(self._client, entry)
                finish = entry.finished()
                if finish is not None:
                    reply = self._client.finish(entry.job, finish)
                    log.info("job %s: %s", entry.job, reply.state)
            except LeaseLost:
                log.warning(
                    "job %s, attempt %d is no longer this board's; its undelivered results are dropped",
                    entry.job,
                    entry.attempt,
                )
            except Refused as error:
                if error.status == http.client.UNAUTHORIZED:
                    raise
                # Asking again would be refused again; the job is given again by the coordinator.
                log.error("job %s: the coordinator refuses its results: %s", entry.job, error.sentence)
            entry.drop()

    def take(self, shipments: List[Shipment], busy: bool = False) -> None:
        """Put schedules where the user's program finds them, and tell the coordinator what came of each.

        Raises ``Unreachable`` where it does not answer, unless the agent is ``busy``: it will ship them again.
        """
        receipts = [self._schedules.take(shipment) for shipment in shipments]
        for shipment, receipt in zip(shipments, receipts):
            what = "schedule {} of {}".format(shipment.digest[:12], shipment.model)
            if receipt.refusal is None:
                log.info("%s is %s", what, "verified" if shipment.verified else "delivered")
            else:
                log.error("%s is refused: %s", what, receipt.refusal)
        try:
            self._client.receipts(ReceiptsUpload(receipts))
        except Unreachable:
            # The job in hand must not wait for it.
            if not busy:
                raise
        except Refused as error:
            if error.status == http.client.UNAUTHORIZED:
                raise
            log.error("the coordinator refuses to hear of schedules: %s", error.sentence)
            # It ships them again at once.
            self._stopping.wait(0.0 if busy else RETRY_SECONDS[-1])

    def work(self, lease: Lease) -> None:
        """Run the child for ``lease`` and spool how it ended, then try to deliver."""
        entry = self._spool.entry(lease.job.id, lease.attempt)
        try:
            finish = self._measure(lease, entry)
        except LeaseLost:
            entry.drop()
            return
        except JobEnded as ended:
            finish = ended.finish
        except Unreachable as error:
            # The images or weights could not be fetched: the job goes back, to be given again.
            finish = FinishRequest(lease.attempt, Outcome.INTERRUPTED, Failure(error.sentence, Blame.LAB))
        except TailfleetError as error:
            finish = FinishRequest(lease.attempt, Outcome.FAILED, Failure(error.sentence, error.blame))
        entry.finish(finish)
        self.drain()

    def _measure(self, lease: Lease, entry: Entry) -> FinishRequest:
        folder = lease.job.image_folder(self._config.datasets)
        contact = min(self._config.contact_seconds, lease.lease_seconds / 4)
        needed = lease.job.artifacts(has_folder=folder is not None)
        order = WorkerOrder(
            lease.job,
            lease.known,
            self._cache.folder,
            self._config.virtual_profile,
            handshake=True,
            dataset_folder=folder,
            earlier=lease.earlier,
            runtime=lease.runtime,
        )
        with Line(self._client, entry, contact, lease.lease_seconds) as line, self._cache.holding(
            self._client, needed, self._breathing(lease, line)
        ):
            return self._run_child(order, lease, entry, line)

    def _run_child(self, order: WorkerOrder, lease: Lease, entry: Entry, line: Line) -> FinishRequest:
        logs = config_room.path(self._home, "logs")
        forget_old_logs(logs, KEPT_LOGS - 1)
        with Child(self._command, order, os.path.join(logs, "{}.{}.log".format(lease.job.id, lease.attempt))) as child:
            child.note("attempt {} begins, {} results known".format(lease.attempt, len(lease.known)))
            line.tell_log = child.log_tail
            outcome, failure = attend(child, entry, line, lease.lease_seconds, self._stopping)
        child.note(outcome.value + (": " + failure.sentence if failure else ""))
        if failure is not None and not failure.detail:
            failure = Failure(failure.sentence, failure.blame, child.log_tail(DETAIL_BYTES))
        # What an earlier attempt left in the spool was delivered, or refused, before this lease was given.
        claimed = outcome is Outcome.DONE and lease.job.effort is not None
        results = len(lease.known) + entry.kept if claimed else None
        return FinishRequest(lease.attempt, outcome, failure, child.log_tail(), results, entry.runtime())

    def _breathing(self, lease: Lease, line: Line) -> Callable[[], None]:
        """What a long download calls now and then: it keeps the lease, and hears of a cancelled job or a stop."""

        def breathe() -> None:
            if self._stopping.is_set():
                raise JobEnded(FinishRequest(lease.attempt, *stopped()))
            if line.called_off():
                raise JobEnded(FinishRequest(lease.attempt, Outcome.CANCELLED))

        return breathe
