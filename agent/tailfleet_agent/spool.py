"""Results that the coordinator does not have yet, kept on the board's disk until it has them.

One folder a held job, ``JOB.ATTEMPT``: ``results.jsonl`` grows by whole lines that reach the disk before the
measured child goes on; ``runtime.json`` says what they were measured on, ``finish.json`` how the run ended. A
delivered prefix is forgotten by an atomic rename, so a cut at any moment loses nothing and at worst delivers
something twice, which the coordinator counts once.
"""

import os
import shutil
from typing import Dict, List, Optional, Tuple

from tailfleet_agent.config import write_durably
from tailfleet_schema import codec
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.errors import DecodeError
from tailfleet_schema.messages import FinishRequest


class Entry:
    """The undelivered results of one job and attempt."""

    def __init__(self, folder: str, job: str, attempt: int) -> None:
        self.job = job
        self.attempt = attempt
        self._folder = os.path.join(folder, "{}.{}".format(job, attempt))
        self._lines = os.path.join(self._folder, "results.jsonl")
        self._runtime = os.path.join(self._folder, "runtime.json")
        self._finish = os.path.join(self._folder, "finish.json")
        self.kept = 0
        """Results that were appended here, delivered or not."""
        os.makedirs(self._folder, exist_ok=True)

    def append(self, result: UnitResult) -> None:
        """Keep ``result``; it is on the disk when this returns."""
        with open(self._lines, "ab") as file:
            file.write(codec.dumps(result).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.kept += 1

    def pending(self, most: int) -> List[UnitResult]:
        """The oldest undelivered results, at most ``most``. A last line that a cut left unfinished is passed over:
        its unit is measured again."""
        results: List[UnitResult] = []
        try:
            with open(self._lines, "rb") as file:
                for line in file:
                    if len(results) == most:
                        break
                    result = _result(line)
                    if result is not None:
                        results.append(result)
        except FileNotFoundError:
            pass
        return results

    def delivered(self, count: int) -> None:
        """Forget the ``count`` oldest results."""
        with open(self._lines, "rb") as file:
            while count:
                line = file.readline()
                if not line:
                    break
                count -= _result(line) is not None
            remaining = file.read()
        write_durably(self._lines, remaining)

    def tell_runtime(self, runtime: Dict[str, str]) -> None:
        """Keep what the child runs on; to be delivered with its results."""
        write_durably(self._runtime, codec.dumps(runtime).encode("utf-8"))

    def runtime(self) -> Dict[str, str]:
        """What the child runs on; empty where it has not told."""
        try:
            with open(self._runtime, "rb") as file:
                return codec.loads(Dict[str, str], file.read())
        except (FileNotFoundError, DecodeError):
            return {}

    def finish(self, request: FinishRequest) -> None:
        """Keep how the run ended; to be delivered after all results."""
        write_durably(self._finish, codec.dumps(request).encode("utf-8"))

    def finished(self) -> Optional[FinishRequest]:
        """How the run ended, if it did."""
        try:
            with open(self._finish, "rb") as file:
                return codec.loads(FinishRequest, file.read())
        except (FileNotFoundError, DecodeError):
            return None

    def drop(self) -> None:
        """Forget everything: it is delivered, or nobody wants it."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Spool:
    """All entries of one agent."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        os.makedirs(folder, exist_ok=True)

    def entry(self, job: str, attempt: int) -> Entry:
        """The entry of a job and attempt, new or found."""
        return Entry(self._folder, job, attempt)

    def entries(self) -> List[Entry]:
        """All entries, oldest first."""
        found: List[Tuple[float, str, int]] = []
        for name in os.listdir(self._folder):
            job, _, attempt = name.rpartition(".")
            if job and attempt.isdigit():
                found.append((os.path.getmtime(os.path.join(self._folder, name)), job, int(attempt)))
        return [Entry(self._folder, job, attempt) for _, job, attempt in sorted(found)]


def _result(line: bytes) -> Optional[UnitResult]:
    """The result that a line holds; None for one that a cut left unfinished."""
    try:
        return codec.loads(UnitResult, line)
    except DecodeError:
        return None
