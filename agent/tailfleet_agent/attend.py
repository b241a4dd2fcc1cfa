"""Attend to the measured child: take its events, keep its results, and stop it when the job is called off.

While the child may be timing, nothing but its pipe is listened to. Left to others: the child (``runner``), the
coordinator (``line``), the disk (``spool``).
"""

import threading
import time
from typing import Optional, Tuple

from tailfleet_agent.line import Line
from tailfleet_agent.runner import Child, Silence
from tailfleet_agent.spool import Entry
from tailfleet_schema.errors import Blame, DecodeError
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import Outcome, WorkerEvent

UNIT_SECONDS = 1800.0
"""A child that says nothing for so long is taken for hung."""

SILENT_SECONDS = 5.0
"""A child that says nothing for so long builds a model or judges images. Where it does time a block that long, what
the supervisor does about an answer costs some milliseconds of it."""

EXIT_SECONDS = 10.0

Ending = Tuple[Outcome, Optional[Failure]]


class _CalledOff(Exception):
    """The job was cancelled while the child said nothing."""


class _Stopped(Exception):
    """The agent is to stop."""


def attend(child: Child, entry: Entry, line: Line, lease_seconds: float, stopping: threading.Event) -> Ending:
    """How the run of ``child`` ended; its results are kept in ``entry``. Raises ``LeaseLost``.

    The child may still live where it was not asked to end.
    """
    try:
        return _follow(child, entry, line, lease_seconds, stopping)
    except Silence:
        sentence = "the measured child said nothing for {:.0f} s".format(UNIT_SECONDS)
        return Outcome.FAILED, Failure(sentence, Blame.LAB)
    except DecodeError as error:
        sentence = "the measured child wrote what is not an event: " + error.sentence
        return Outcome.FAILED, Failure(sentence, Blame.BUG)
    except _CalledOff:
        return Outcome.CANCELLED, None
    except _Stopped:
        return stopped()


def stopped() -> Ending:
    """The agent was told to stop: the job is given again."""
    return Outcome.INTERRUPTED, Failure("the agent was stopped", Blame.LAB)


def _follow(child: Child, entry: Entry, line: Line, lease_seconds: float, stopping: threading.Event) -> Ending:
    while True:
        event = _next_event(child, line, lease_seconds, stopping)
        if event is None:
            return _died(child)
        if event.note is not None:
            child.note(event.note)
        if event.runtime is not None:
            entry.tell_runtime(event.runtime)
        if event.failure is not None:
            return Outcome.FAILED, event.failure
        if event.done:
            child.wait(EXIT_SECONDS)
            return Outcome.DONE, None
        if event.result is None:
            continue
        entry.append(event.result)
        if line.called_off():
            child.stop()
            child.wait(EXIT_SECONDS)
            return Outcome.CANCELLED, None
        child.go()


def _next_event(child: Child, line: Line, lease_seconds: float, stopping: threading.Event) -> Optional[WorkerEvent]:
    """The child's next event, None when it has ended. Once the child is silent, the lease is kept from here."""
    began = time.monotonic()
    silent = min(SILENT_SECONDS, lease_seconds / 4)
    beside = None
    while not stopping.is_set():
        try:
            return child.next_event(silent if beside is None else lease_seconds / 4, beside)
        except Silence:
            if time.monotonic() - began > UNIT_SECONDS:
                raise
            if line.called_off():
                raise _CalledOff()
            beside = line.held
    raise _Stopped()


def _died(child: Child) -> Ending:
    """The child ended without a word: by a signal it may be given again, by itself it is a bug."""
    status = child.wait(EXIT_SECONDS)
    if status < 0:
        sentence = "the measured child was ended by signal {}".format(-status)
        return Outcome.INTERRUPTED, Failure(sentence, Blame.LAB)
    return Outcome.FAILED, Failure("the measured child ended with status {}".format(status), Blame.BUG)
