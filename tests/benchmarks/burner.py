"""A busy neighbour: a process that burns one core half of the time, in bursts of exponential length.

Paused by its harness, it lets its own clock stand still, so that whoever measures beside it while it is not paused
sees bursts and gaps of the asked mean. Run as a module it is that process: seed and mean in seconds as arguments, on
standard input a line to pause and a line to go on, each answered by a line; it ends with its input.
"""

import contextlib
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.figure import ROOT

LOOK_SECONDS = 0.0005
"""While it burns it looks for a line so often."""


class Burner:
    """The process; a context manager. It burns from the beginning."""

    def __init__(self, seed: int, mean_seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.burner", str(seed), str(mean_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.pid = self._process.pid

    def __enter__(self) -> "Burner":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It sleeps, and no time passes for it."""
        self._say()
        try:
            yield
        finally:
            self._say()

    def _say(self) -> None:
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError("the burner has ended")


def burn(seed: int, mean_seconds: float) -> None:
    """Burn and rest in turn, for ever; see the module."""
    lengths = random.Random(seed)
    burning = False
    while True:
        burning = not burning
        left = lengths.expovariate(1 / mean_seconds)
        while left > 0:
            began = time.monotonic()
            if burning:
                said = False
                while time.monotonic() - began < left and not said:
                    until = time.monotonic() + LOOK_SECONDS
                    while time.monotonic() < until:
                        pass
                    said = _readable(0)
            else:
                said = _readable(left)
            left -= time.monotonic() - began
            if said:
                _answer_line()
                _answer_line()


def _readable(seconds: float) -> bool:
    return bool(select.select([0], [], [], seconds)[0])


def _answer_line() -> None:
    if not os.read(0, 1):
        raise SystemExit(0)
    os.write(1, b"\n")


if __name__ == "__main__":
    burn(int(sys.argv[1]), float(sys.argv[2]))
