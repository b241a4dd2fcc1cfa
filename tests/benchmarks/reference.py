"""The reference: a second process with the same model, which measures only while the first one waits.

It is told by lines of JSON what to do and answers with what it measured; between two lines it is blocked in a read and
uses no processor time. Its calls are the eager backend's own, so that what is compared are two ways to measure one
thing. Left to others: when it measures (``beside``), and what follows from its figures (the benchmarks).
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figure import ROOT

from tailfleet_schema import codec
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.job import Job
from tailfleet_schema.messages import WorkerOrder

IN_ORDER_SECONDS = 2.0
"""``min_run_time`` of each count in POMT's protocol."""


@dataclass(frozen=True)
class InOrder:
    """One count by the protocol of POMT's released code: ``blocked_autorange``, its median."""

    tokens: int
    median_ns: float
    seconds: float
    """All that it took, finding the size of its blocks included."""


class Reference:
    """Measures the curve of ``order``'s job in a process of its own; a context manager."""

    def __init__(self, order: WorkerOrder) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.reference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self._asked(codec.dumps(order))

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def blocks(self, counts: Sequence[int]) -> list[list[int]]:
        """Nanoseconds of every call of one block of each of ``counts``, in that order."""
        return self._asked(json.dumps({"blocks": list(counts)}))

    def in_order(self, counts: Sequence[int]) -> list[InOrder]:
        """Each of ``counts`` by POMT's protocol, in that order."""
        return [InOrder(*row) for row in self._asked(json.dumps({"in_order": list(counts)}))]

    def _asked(self, line: str) -> list:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the reference ended with status {self._process.wait()}")
        return json.loads(answer)


class Passes:
    """In what order the reference visits its counts: each pass visits every one, in a fresh random order."""

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self._counts = list(counts)
        self._random = random.Random(seed)
        self._left: list[int] = []

    def following(self, most: int) -> list[int]:
        """The next counts, at least one and at most ``most``, none beyond the end of the pass."""
        if not self._left:
            self._left = self._random.sample(self._counts, len(self._counts))
        chosen, self._left = self._left[:most], self._left[most:]
        return chosen


def cpu_ns(pid: int) -> int:
    """Processor time that the process and its threads have used so far, as the scheduler counts it."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[0])
    return total


def serve() -> int:
    """Serve one order; see the module."""
    # Libraries print where they please: answers have a channel of their own.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = iter(sys.stdin.readline, "")
    order = codec.loads(WorkerOrder, next(lines), "order")
    from tailfleet_agent.worker.backends import open_backend

    backend = open_backend(order.job, order.artifacts)
    backend.warm_up()
    print("[]", file=channel, flush=True)
    for line in lines:
        told = json.loads(line)
        if "blocks" in told:
            answer = [backend.measure(Unit(Part.MODEL, n, n), 0, order.job.calls) for n in told["blocks"]]
        else:
            answer = list(_in_order(backend, order.job, told["in_order"]))
        print(json.dumps(answer), file=channel, flush=True)
    return 0


def _in_order(backend, job: Job, counts: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    import torch
    from torch.utils.benchmark import Timer

    for n in counts:
        began = time.perf_counter()
        with torch.inference_mode():
            call = backend.prepare(Unit(Part.MODEL, n, n))
            # Its default of one thread would measure something else than users' programs see.
            timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
            median = timer.blocked_autorange(min_run_time=IN_ORDER_SECONDS).median
        yield n, median * 1e9, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(serve())
