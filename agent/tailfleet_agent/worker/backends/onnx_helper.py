"""The processes that export a job's ONNX graphs, seen from the one that runs them; see ``onnx_export``.

An export keeps one core busy for seconds, so several work side by side where there are cores and memory for them.
"""

import json
import os
import subprocess
import sys
from typing import Any, Dict, List, Type

from tailfleet_agent.runner import worker_command
from tailfleet_agent.worker.backends import memory
from tailfleet_schema import codec
from tailfleet_schema.errors import Blame, ConfigurationError, InputError, InternalError, LabError, TailfleetError
from tailfleet_schema.job import Failure, Job
from tailfleet_schema.messages import WorkerOrder
from tailfleet_schema.workload import Geometry

_ERRORS: Dict[Blame, Type[TailfleetError]] = {
    Blame.AUTHOR: InputError,
    Blame.LAB: LabError,
    Blame.CONFIGURATION: ConfigurationError,
}


MOST = 4
"""Processes at once."""

EACH = 4
"""Graphs that one process exports at least: it takes seconds to start, as one graph does."""

EACH_BYTES = 2 * 1024**3
FP32_BYTES = 4
COPIES = 4
"""Free memory that a process needs: for torch, and for so many copies of a model's blocks (the model, its graphs)."""


class Helper:
    """A context manager; leaving it ends its processes, so that nothing runs beside what is timed afterwards."""

    def __init__(self, job: Job, artifacts: str) -> None:
        self._order = codec.dumps(WorkerOrder(job, artifacts=artifacts))
        self._geometry = job.workload.model.geometry
        self._processes = [_Process(self._order)]

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.end()

    def write(self, folder: str, attention: str, names: List[str]) -> Dict[str, str]:
        """Write the graphs ``names`` into ``folder``; the versions of what made them. Raises what went wrong there."""
        wanted = working_on(len(names), self._geometry, len(self._processes))
        self._processes += [_Process(self._order) for _ in range(wanted - len(self._processes))]
        working = self._processes[:wanted]
        for number, process in enumerate(working):
            # The first has what they are timed with to write, too.
            share = names[number::wanted]
            process.ask({"folder": folder, "attention": attention, "names": share, "inputs": number == 0})
        answers = [process.answer() for process in working]
        return answers[0]


def working_on(graphs: int, geometry: Geometry, started: int) -> int:
    """Processes that export so many graphs of a model side by side, ``started`` of which there are."""
    each_bytes = EACH_BYTES + COPIES * FP32_BYTES * geometry.block_weights
    further = memory.free_bytes() / each_bytes
    return max(1, int(min(MOST, len(os.sched_getaffinity(0)), graphs // EACH, started + further)))


class _Process:
    def __init__(self, order: str) -> None:
        # It exports on the CPU: a GPU's memory is the runtime's.
        environment = dict(os.environ, CUDA_VISIBLE_DEVICES="")
        self._process = subprocess.Popen(
            [*worker_command(sys.executable), "export"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._say(order)

    def end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        self._process.kill()
        self._process.wait()

    def ask(self, wish: Dict[str, Any]) -> None:
        self._say(json.dumps(wish))

    def answer(self) -> Dict[str, str]:
        """The versions; raises what went wrong."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise LabError(
                "the process that exports the model ended with status {}{}".format(
                    status, ": out of memory, it seems" if status == -9 else ""
                ),
                "see the log of the measured child",
            )
        said: Dict[str, Any] = json.loads(line.decode("utf-8"))
        if said.get("failure") is not None:
            raise _error(codec.decode(Failure, said["failure"], "failure"))
        versions: Dict[str, str] = said["versions"]
        return versions

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except OSError:
            # It has ended; its answer, or none, says why.
            pass


def _error(failure: Failure) -> TailfleetError:
    sentence, _, mend = failure.sentence.partition("; mend: ")
    kind: Type[TailfleetError] = _ERRORS.get(failure.blame, InternalError)
    return kind(sentence, mend or None)
