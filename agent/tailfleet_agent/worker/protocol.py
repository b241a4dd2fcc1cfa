"""What the measured child says and hears: one order in, events out, both as lines of JSON.

::

    supervisor → child   WorkerOrder                  then, with ``handshake``: "go" or "stop" after each result
    child → supervisor   WorkerEvent note* runtime? (result note*)* then done, or failure

Exit status: 0 after ``done``; 1 after ``failure``; 3 when told to stop, or when nobody listens any more; 2 for a
wrong command line. Logs go to standard error. With ``facts`` as its argument the child instead prints what only
torch can tell of the board, as one JSON object. With ``register`` it reads a RegisterOrder and answers with a
RegisterReply, with ``truth`` a TruthOrder and a TruthReply, with ``deploy`` a DeployOrder and a DeployReply; or with
the WorkerEvent of a failure. With ``export`` it is a child's own helper; see ``backends.onnx_export``.

Nothing is imported here at the top that a bare Python 3.6 lacks, so that even there one sentence can be said.
"""

import json
import os
import sys
import time
import traceback
from typing import IO, Any, Callable, List, Optional

DONE = 0
FAILED = 1
USAGE = 2
STOPPED = 3

_DETAIL_CHARACTERS = 8000


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve one order, or tell facts; the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    # Libraries print to standard output when they please. It carries the protocol, so it is taken away from them.
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import dataclasses  # noqa: F401
    except ImportError:
        command = "{} -m pip install dataclasses".format(sys.executable)
        return _refuse(channel, arguments, "Python 3.6 needs the dataclasses backport: " + command)
    if not arguments:
        return _Session(sys.stdin.buffer, channel).serve()
    if arguments[0] == "facts" and (len(arguments) == 1 or (len(arguments) == 3 and arguments[1] == "--virtual")):
        return _tell_facts(channel, arguments[2] if len(arguments) == 3 else None)
    if arguments == ["register"]:
        return _answer(sys.stdin.buffer, channel, _register)
    if arguments == ["truth"]:
        return _answer(sys.stdin.buffer, channel, _truth)
    if arguments == ["deploy"]:
        return _answer(sys.stdin.buffer, channel, _deploy)
    if arguments == ["export"]:
        return _export(sys.stdin.buffer, channel)
    usage = "usage: python -m tailfleet_agent.worker [facts [--virtual PROFILE] | register | truth | deploy]"
    return _refuse(channel, ["usage"], usage, USAGE)


class _Gone(Exception):
    """The supervisor said stop, or is no more."""


class _Session:
    """One order served over a pair of pipes."""

    def __init__(self, orders: IO[bytes], channel: IO[bytes]) -> None:
        self._orders = orders
        self._channel = channel
        self._parent = os.getppid()

    def serve(self) -> int:
        """Read the order, run it, report; the exit status."""
        from tailfleet_schema.messages import WorkerEvent

        try:
            try:
                self._run()
            except _Gone:
                raise
            except Exception as error:
                traceback.print_exc()
                self._emit(WorkerEvent(failure=_failure(error)))
                return FAILED
            self._emit(WorkerEvent(done=True))
            return DONE
        except _Gone:
            return STOPPED

    def _run(self) -> None:
        from tailfleet_agent import probes
        from tailfleet_agent.worker import run
        from tailfleet_agent.worker.backends import Backend, open_backend
        from tailfleet_schema import codec
        from tailfleet_schema.curve import Part
        from tailfleet_schema.job import JobKind
        from tailfleet_schema.messages import WorkerEvent, WorkerOrder

        line = self._orders.readline()
        if not line:
            raise _Gone()
        order = codec.loads(WorkerOrder, line, "order")
        job, profile = order.job, order.virtual_profile
        # Only a board that computes its own predictions may call them its own.
        computed_on = "host" if profile is not None or job.kind is JobKind.PROFILE else "board"

        def open_judge(backend: Optional[Backend]) -> Any:
            # A backend that has loaded no torch has done its timing when this loads it.
            from tailfleet_agent.worker.judge import Judge

            # Several virtual boards may share this host; predictions do not depend on threads, their speed does.
            threads = order.judge_threads or (1 if profile is not None else None)
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            device = _judging_device(order.judge_on_gpu, computed_on)
            if order.judge_on_gpu:
                self._emit(WorkerEvent(runtime={"device": device}))
            predict = None
            if computed_on == "board" and any(unit.part in (Part.ACCURACY, Part.FIDELITY) for unit in job.units):
                predict = (backend or open_backend(job, order.artifacts, "", order.runtime)).predict
            return Judge(job, order.artifacts, computed_on, device, order.dataset_folder, predict).judge

        modelled: List[Any] = []

        def open_timed() -> Any:
            backend = open_backend(job, order.artifacts, profile or "", order.runtime)
            if profile is not None:
                modelled.append(backend)
            return backend

        def read_telemetry() -> Any:
            if profile is None:
                return probes.read_telemetry()
            # The state of the machine that computes a virtual board's latencies says nothing about that board.
            return modelled[-1].telemetry() if modelled else None

        measuring = run.Measuring(
            job,
            open_timed,
            open_judge,
            read_telemetry,
            probes.read_energy_mj if profile is None else lambda on_gpu: None,
            note=lambda words: self._emit(WorkerEvent(note=words)),
            runtime=lambda told: self._emit(WorkerEvent(runtime=told)),
            pause=time.sleep if profile is None else None,
        )
        known = [key.as_tuple() for key in order.known]
        for result in run.run(job, measuring, known, order.earlier):
            self._emit(WorkerEvent(result=result))
            if order.handshake and self._orders.readline().strip() != b"go":
                raise _Gone()
            # A dead parent's children are adopted: without a handshake that is the only sign.
            if os.getppid() != self._parent:
                raise _Gone()

    def _emit(self, event: Any) -> None:
        from tailfleet_schema import codec

        # What says nothing is left out: a sweep has thousands of results.
        said = {name: value for name, value in codec.encode(event).items() if value not in (None, False)}
        try:
            self._channel.write(json.dumps(said, separators=(",", ":"), allow_nan=False).encode("utf-8") + b"\n")
            self._channel.flush()
        except OSError:
            raise _Gone()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _judging_device(on_gpu: bool, computed_on: str) -> str:
    if computed_on == "board":
        return _device()
    if not on_gpu or _device() == "cpu":
        return "cpu"
    import torch

    # A profile is to be the same whichever worker judged it; rounding to 10 bits would differ from a CPU's.
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def _failure(error: Exception) -> Any:
    """``error`` as a Failure: who must act, one sentence with its mend, and the traceback for the curious."""
    from tailfleet_schema.errors import Blame, TailfleetError
    from tailfleet_schema.job import Failure

    detail = traceback.format_exc()[-_DETAIL_CHARACTERS:]
    if isinstance(error, TailfleetError):
        sentence = error.sentence if error.mend is None else "{}; mend: {}".format(error.sentence, error.mend)
        return Failure(sentence, error.blame, detail)
    missing = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ImportError) and missing in _PACKAGES:
        return Failure(
            "{} is not installed for {}; mend: {}".format(missing, sys.executable, install_command(missing)),
            Blame.CONFIGURATION,
            detail,
        )
    if isinstance(error, MemoryError):
        return Failure("the board has too little memory to build the model", Blame.LAB, detail)
    return Failure("the measured child failed: {}: {}".format(type(error).__name__, error), Blame.BUG, detail)


_PACKAGES = ("torch", "timm", "numpy", "torchvision", "PIL", "onnxruntime")


def install_command(missing: str = "torch") -> str:
    """The pip command that gives this interpreter torch and timm, the newest of each that it can have, or what else is
    ``missing``."""
    if missing == "onnxruntime":
        return "{} -m pip install onnxruntime onnx onnxscript".format(sys.executable)
    if sys.version_info < (3, 7):
        wanted = '"torch<1.11" torchvision "timm<0.7"'
    else:
        wanted = "torch timm numpy"
    return "{} -m pip install {} (on a Jetson: NVIDIA's own torch wheel for its JetPack)".format(sys.executable, wanted)


def _tell_facts(channel: IO[bytes], profile: Optional[str]) -> int:
    from tailfleet_agent.worker import facts
    from tailfleet_schema.errors import TailfleetError

    try:
        told = facts.read(profile)
    except TailfleetError as error:
        return _refuse(channel, ["facts"], error.sentence)
    channel.write(json.dumps(told, sort_keys=True).encode("utf-8") + b"\n")
    channel.flush()
    return DONE


def _answer(orders: IO[bytes], channel: IO[bytes], reply: Callable[[bytes], Any]) -> int:
    """One order in, one reply or failure out; the exit status."""
    from tailfleet_schema import codec

    said: Any
    try:
        said, status = reply(orders.readline()), DONE
    except Exception as error:
        traceback.print_exc()
        said, status = {"failure": _failure(error)}, FAILED
    channel.write(codec.dumps(said).encode("utf-8") + b"\n")
    channel.flush()
    return status


def _register(line: bytes) -> Any:
    from tailfleet_agent.worker.register import register
    from tailfleet_schema import codec
    from tailfleet_schema.messages import RegisterOrder

    return register(codec.loads(RegisterOrder, line, "order"))


def _truth(line: bytes) -> Any:
    from tailfleet_agent.worker.truth import truth
    from tailfleet_schema import codec
    from tailfleet_schema.messages import TruthOrder

    return truth(codec.loads(TruthOrder, line, "order"))


def _deploy(line: bytes) -> Any:
    from tailfleet_agent.worker.deploy import deploy
    from tailfleet_schema import codec
    from tailfleet_schema.messages import DeployOrder

    return deploy(codec.loads(DeployOrder, line, "order"))


def _export(orders: IO[bytes], channel: IO[bytes]) -> int:
    from tailfleet_schema import codec

    try:
        from tailfleet_agent.worker.backends.onnx_export import serve

        serve(orders, channel)
    except Exception as error:
        traceback.print_exc()
        channel.write(codec.dumps({"failure": _failure(error)}).encode("utf-8") + b"\n")
        channel.flush()
        return FAILED
    return DONE


def _refuse(channel: IO[bytes], arguments: List[str], sentence: str, status: int = FAILED) -> int:
    """Say ``sentence``: as a failure event where one is expected, else on standard error alone."""
    if arguments in ([], ["register"], ["truth"], ["deploy"], ["export"]):
        event = {"failure": {"sentence": sentence, "blame": "configuration", "detail": ""}}
        channel.write(json.dumps(event).encode("utf-8") + b"\n")
        channel.flush()
    sys.stderr.write(sentence + "\n")
    return status
