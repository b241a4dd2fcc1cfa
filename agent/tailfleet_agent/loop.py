"""The agent's life: drain the spool → lease → run → report, for ever.

While a job runs, requests are rare and fall between two timed blocks. A coordinator that does not answer
stops nothing: results wait in the spool. Left to others: HTTP (``client``), the child (``runner``), the disk
(``spool``), sensors (``probes``).
"""

import logging
import threading
import time
from typing import Callable, List, Optional

from tailfleet_agent import config as config_room
from tailfleet_agent.cache import Cache
from tailfleet_agent.client import Client, Refused, Unreachable
from tailfleet_agent.config import Config
from tailfleet_agent.runner import Child, Silence, worker_command
from tailfleet_agent.spool import Entry, Spool
from tailfleet_schema.board import BoardFacts, Telemetry
from tailfleet_schema.errors import Blame, DecodeError, TailfleetError
from tailfleet_schema.job import Failure, Job
from tailfleet_schema.messages import (
    FinishRequest,
    HeartbeatRequest,
    Lease,
    LeaseRequest,
    Outcome,
    ResultsUpload,
    WorkerOrder,
)
from tailfleet_schema.workload import FILES

RESULTS_PER_UPLOAD = 500
UNIT_SECONDS = 1800.0
"""A child that says nothing for so long is taken for hung."""
EXIT_SECONDS = 10.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits after one, two, … fruitless tries to reach the coordinator."""

log = logging.getLogger("tailfleet.agent")


class LeaseLost(Exception):
    """The job no longer belongs to this agent."""


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
            lease = self._client.lease(request).lease
        finally:
            self.waiting = False
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
        """Deliver everything undelivered. Raises ``Unreachable``; what remains stays."""
        for entry in self._spool.entries():
            try:
                self._upload(entry)
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
                # Asking again would be refused again; the job is given again by the coordinator.
                log.error("job %s: the coordinator refuses its results: %s", entry.job, error.sentence)
            entry.drop()

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
        folder = self._dataset_folder(lease.job)
        contact = min(self._config.contact_seconds, lease.lease_seconds / 4)
        needed = needed_artifacts(lease.job, has_folder=folder is not None)
        with self._cache.holding(self._client, needed, self._breathing(lease, entry, contact)):
            order = WorkerOrder(
                lease.job,
                lease.known,
                self._cache.folder,
                self._config.virtual_profile,
                handshake=True,
                dataset_folder=folder,
            )
            log_path = config_room.path(self._home, "logs", "{}.{}.log".format(lease.job.id, lease.attempt))
            with Child(self._command, order, log_path) as child:
                return self._attend(child, lease, entry, contact)

    def _dataset_folder(self, job: Job) -> Optional[str]:
        """Where this board has the image files of the job's dataset; None where it does not say."""
        if job.dataset is None or job.dataset.form != FILES:
            return None
        return self._config.datasets.get(job.dataset.name)

    def _breathing(self, lease: Lease, entry: Entry, contact_seconds: float) -> Callable[[], None]:
        """What a long download calls now and then: it keeps the lease, and hears of a cancelled job or a stop."""
        contacted = time.monotonic()

        def breathe() -> None:
            nonlocal contacted
            if self._stopping.is_set():
                raise JobEnded(_stopped(lease.attempt))
            if time.monotonic() - contacted >= contact_seconds:
                if self._contact(entry):
                    raise JobEnded(FinishRequest(lease.attempt, Outcome.CANCELLED))
                contacted = time.monotonic()

        return breathe

    def _attend(self, child: Child, lease: Lease, entry: Entry, contact_seconds: float) -> FinishRequest:
        """Take the child's events until it ends; speak with the coordinator between them."""
        heard = contacted = time.monotonic()
        while True:
            if self._stopping.is_set():
                child.kill()
                return _stopped(lease.attempt)
            try:
                # Silence is rare: a child that loads a model or judges images. A timed block is far shorter.
                event = child.next_event(max(0.1, lease.lease_seconds / 3))
            except Silence:
                if time.monotonic() - heard > UNIT_SECONDS:
                    child.kill()
                    return FinishRequest(
                        lease.attempt,
                        Outcome.FAILED,
                        Failure(
                            "the measured child said nothing for {:.0f} s".format(UNIT_SECONDS),
                            Blame.LAB,
                            child.log_tail(),
                        ),
                    )
                if self._contact(entry):
                    child.kill()
                    return FinishRequest(lease.attempt, Outcome.CANCELLED)
                contacted = time.monotonic()
                continue
            except DecodeError as error:
                return FinishRequest(
                    lease.attempt,
                    Outcome.FAILED,
                    Failure(
                        "the measured child wrote what is not an event: " + error.sentence, Blame.BUG, child.log_tail()
                    ),
                )
            heard = time.monotonic()
            if event is None:
                return _died(lease.attempt, child)
            if event.failure is not None:
                return FinishRequest(lease.attempt, Outcome.FAILED, event.failure, child.log_tail())
            if event.done:
                child.wait(EXIT_SECONDS)
                return FinishRequest(lease.attempt, Outcome.DONE, None, child.log_tail())
            if event.result is None:
                continue
            entry.append(event.result)
            if heard - contacted >= contact_seconds:
                if self._contact(entry):
                    child.stop()
                    child.wait(EXIT_SECONDS)
                    return FinishRequest(lease.attempt, Outcome.CANCELLED)
                contacted = time.monotonic()
            child.go()

    def _contact(self, entry: Entry) -> bool:
        """Upload or renew the lease; whether the job was cancelled. A silent coordinator is not an error here."""
        try:
            if entry.pending(1):
                return self._upload(entry)
            return self._client.heartbeat(entry.job, HeartbeatRequest(entry.attempt)).cancel
        except Unreachable as error:
            log.warning("%s; results wait in the spool", error.sentence)
            return False
        except Refused as error:
            if error.lease_is_gone:
                raise LeaseLost()
            raise

    def _upload(self, entry: Entry) -> bool:
        """Deliver all pending results of ``entry``; whether the job was cancelled."""
        cancel = False
        while True:
            results = entry.pending(RESULTS_PER_UPLOAD)
            if not results:
                return cancel
            try:
                cancel = self._client.results(entry.job, ResultsUpload(entry.attempt, results)).cancel
            except Refused as error:
                if error.lease_is_gone:
                    raise LeaseLost()
                raise
            entry.delivered(len(results))


def needed_artifacts(job: Job, has_folder: bool = False) -> List[str]:
    """Content addresses of what the child reads: the checkpoint, and the images where something is judged.

    A board that ``has_folder`` with the image files needs their index alone.
    """
    needed = [job.workload.model.checkpoint_sha256]
    if job.dataset is not None:
        needed += [job.dataset.sha256, None if has_folder else job.dataset.pack_sha256]
    return [sha256 for sha256 in needed if sha256 is not None]


def _stopped(attempt: int) -> FinishRequest:
    return FinishRequest(attempt, Outcome.INTERRUPTED, Failure("the agent was stopped", Blame.LAB))


def _died(attempt: int, child: Child) -> FinishRequest:
    """The child ended without a word: by a signal it may be given again, by itself it is a bug."""
    status = child.wait(EXIT_SECONDS)
    if status < 0:
        sentence = "the measured child was ended by signal {}".format(-status)
        return FinishRequest(attempt, Outcome.INTERRUPTED, Failure(sentence, Blame.LAB, child.log_tail()))
    return FinishRequest(
        attempt,
        Outcome.FAILED,
        Failure("the measured child ended with status {}".format(status), Blame.BUG, child.log_tail()),
        child.log_tail(),
    )
