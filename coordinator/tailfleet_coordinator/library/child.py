"""The measured child, asked one thing: one order on its standard input, one reply on its standard output.

Which program that is, what it is asked, and what its answer is good for is left to the modules that ask. Nothing of
torch is imported here.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, TypeVar

from tailfleet_schema import codec
from tailfleet_schema.errors import (
    Blame,
    ConfigurationError,
    DecodeError,
    InputError,
    InternalError,
    LabError,
    TailfleetError,
)
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import WorkerEvent

Reply = TypeVar("Reply")

GRACE_SECONDS = 10.0
"""A child that is interrupted has so long to end by itself."""


def ask(arguments: Sequence[str], order: Any, reply: type[Reply], doing: str, needed: str) -> Reply:
    """What the child that ``arguments`` start answers; ``doing`` says in words what it does, ``needed`` on what it
    rests.

    Its failures are raised as what they are; what it prints besides is kept to itself.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        with process:
            try:
                said, _ = process.communicate(codec.dumps(order).encode() + b"\n")
            except BaseException:
                # Whoever is interrupted lets the child take away what it has half written.
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, signal.SIGINT)
                    process.wait(GRACE_SECONDS)
                raise
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        complaint = log.read().decode(errors="replace").strip()
    line = said.strip().splitlines()[-1] if said.strip() else b""
    if not line:
        last = complaint.splitlines()[-1] if complaint else f"it ended with status {process.returncode}"
        raise ConfigurationError(
            f"the child that {doing} says nothing: {last}", f"see that {needed} installed for {sys.executable}"
        )
    try:
        if "failure" not in json.loads(line):
            return codec.loads(reply, line, "reply")
        failure = codec.loads(WorkerEvent, line, "event").failure
    except ValueError as error:
        raise InternalError(f"the child that {doing} says what is no answer: {error}") from error
    except DecodeError as error:
        raise InternalError(f"the child that {doing} says what is no answer: {error.sentence}") from error
    assert failure is not None
    raise raised(failure)


def raised(failure: Failure) -> TailfleetError:
    """The child's failure as an error of the same blame."""
    sentence, _, mend = failure.sentence.partition("; mend: ")
    kinds: dict[Blame, type[TailfleetError]] = {
        Blame.AUTHOR: InputError,
        Blame.LAB: LabError,
        Blame.CONFIGURATION: ConfigurationError,
        Blame.BUG: InternalError,
    }
    return kinds[failure.blame](sentence, mend or None)
