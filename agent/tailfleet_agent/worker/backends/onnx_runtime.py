"""ONNX Runtime, on the CPU or with its CUDA or TensorRT provider; torch is never loaded here before timing is over.

A helper process exports the graphs (``onnx_helper``); this one loads them with onnxruntime and numpy alone
(``onnx_sessions``). Inputs and outputs are bound where the provider computes, so that a call neither copies nor
allocates on the way, as the calls of torch's backends do not. ``fused`` attention is ONNX's own operator, ``explicit``
what a model exported step by step has; TensorRT takes the latter and fuses for itself.
"""

import atexit
import os
import shutil
import tempfile
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

import numpy as np
import onnxruntime

from tailfleet_agent.worker import timing
from tailfleet_agent.worker.backends import Backend, OutOfMemory, graphs, memory, onnx_sessions
from tailfleet_agent.worker.backends.attention import Timer, choose
from tailfleet_agent.worker.backends.batches import in_batches
from tailfleet_agent.worker.backends.onnx_helper import Helper
from tailfleet_schema.curve import Part, Unit, UnitKey
from tailfleet_schema.errors import ConfigurationError, InputError
from tailfleet_schema.job import Job

FOLDER = "tailfleet-onnx-"
"""Graphs lie in a temporary folder of this name, followed by the process's id."""


class OnnxRuntimeBackend(Backend):
    """The graphs of ``job``, exported and loaded; ``runtime`` is as for ``open_backend``.

    Raises ``ConfigurationError`` for a provider, a package or a dtype that is missing.
    """

    def __init__(self, job: Job, artifacts: str, runtime: Optional[Mapping[str, str]] = None) -> None:
        onnx_sessions.check(job.workload.backend)
        self._job = job
        self._clock = timing.CpuClock()
        self.on_gpu = job.workload.backend != "onnxruntime"
        self._resident = memory.ResidentPeak()
        self._peak: Optional[int] = None
        self._met: Set[UnitKey] = set()
        self._folder = _new_folder()
        self._sessions = onnx_sessions.Sessions(job.workload.backend, job.workload.dtype, self._folder)
        self._arrays: Dict[str, Any] = {}
        count = job.workload.model.geometry.tokens
        self._whole = Unit(Part.SENTINEL, count, count)
        with Helper(job, artifacts) as helper:

            def export(attention: str, names: List[str]) -> None:
                folder = os.path.join(self._folder, attention)
                os.makedirs(folder, exist_ok=True)
                self._versions = helper.write(folder, attention, names)
                self._arrays = {name: np.load(os.path.join(folder, name + ".npy")) for name in ("images", "tokens")}

            def open_timer(attention: str) -> Timer:
                export(attention, [graphs.MODEL])
                return self._timer(attention)

            lacking = "TensorRT fuses for itself" if self._provider == onnx_sessions.TENSORRT else ""
            self._attention, self._words = choose(job.workload.attention, runtime or {}, lacking, open_timer)
            names = graphs.names_of(job)
            there = os.path.join(self._folder, self._attention, graphs.MODEL + ".onnx")
            export(self._attention, [name for name in names if name != graphs.MODEL or not os.path.exists(there)])
        self._probe()

    def describe(self) -> Dict[str, str]:
        """Provider, threads, versions, kind of attention."""
        threads = self._sessions.threads
        told = {
            "device": self._provider,
            "threads": "{} threads".format(threads) if threads else "onnxruntime's own number of threads",
            "onnxruntime": "onnxruntime {}".format(onnxruntime.__version__),
            "attention": self._words,
        }
        told.update(self._versions)
        return told

    def warm_up(self) -> None:
        """Run the whole model until its time is steady; see :func:`timing.warm_up`."""
        with memory.told():
            timing.warm_up(self._clock, self.prepare(self._whole))

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Time ``calls`` calls; the first time that a unit is met, one untimed call goes before."""
        self._peak = None
        with memory.told():
            self._resident.reset()
            call = self.prepare(unit)
            if unit.key(0) not in self._met:
                call()
                self._met.add(unit.key(0))
            taken = timing.timed_block(self._clock, call, calls)
            # A GPU's memory is the provider's own affair, and it does not tell.
            self._peak = self._resident.read() if self._provider == onnx_sessions.CPU else None
            return taken

    def peak_memory_bytes(self) -> Optional[int]:
        """What the process held at most; None with a GPU's provider."""
        return self._peak

    def prepare(self, unit: Unit) -> timing.Call:
        """The call that ``unit`` times, its session open and its inputs where the provider reads them.

        Raises ``InputError`` for what this job's graphs do not have.
        """
        most = self._job.workload.model.geometry.tokens
        if unit.tokens > most:
            raise InputError("{} tokens asked for, but the model has {}".format(unit.tokens, most))
        return self._bound(unit, self._attention)[0]

    def predict(self, digest: str, images: Any) -> Any:
        """See ``Backend``; batch by batch, by the graph of the workload's batch."""
        count = self._whole.tokens
        unit = Unit(Part.SCHEDULE, count, 1, digest) if digest else self._whole
        with memory.told():
            call, binding = self._bound(unit, self._attention)

            def run(part: Any) -> Any:
                binding.bind_ortvalue_input("images", self._value(part))
                call()
                return binding.copy_outputs_to_cpu()[0]

            return in_batches(images, self._job.workload.batch, run)

    @property
    def _provider(self) -> str:
        return self._sessions.providers[0]

    def _bound(self, unit: Unit, attention: str) -> Tuple[timing.Call, Any]:
        """The call and its binding."""
        name = graphs.name_of(unit)
        if not os.path.exists(os.path.join(self._folder, attention, name + ".onnx")):
            raise InputError("the job has no graph {!r}".format(name[:40]))
        session = self._sessions.session(os.path.join(attention, name), graphs.counts_of(unit))
        binding = session.io_binding()
        for feed, shape in graphs.feeds_of(name, unit, self._job.workload.batch):
            if feed == "tokens":
                array = np.ascontiguousarray(self._arrays["tokens"][:, : unit.tokens])
            elif feed == "images":
                array = self._arrays["images"]
            else:
                array = np.ones(shape, np.float32)
            # An exporter drops what a graph does not compute with.
            if feed in {given.name for given in session.get_inputs()}:
                binding.bind_ortvalue_input(feed, self._value(array))
        for out in session.get_outputs():
            binding.bind_output(out.name, self._device)
        return (lambda: session.run_with_iobinding(binding)), binding

    @property
    def _device(self) -> str:
        return "cpu" if self._provider == onnx_sessions.CPU else "cuda"

    def _value(self, array: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)

    def _timer(self, attention: str) -> Timer:
        call = self._tried(attention)
        timing.warm_up(self._clock, call, most_seconds=2.0)
        return lambda: int(timing.timed_block(self._clock, call, 1)[0])

    def _probe(self) -> None:
        """One pass with all tokens: what the runtime lacks for the dtype shows before anything is timed."""
        try:
            self._tried(self._attention)
        except Exception as error:
            # Smaller units may still fit; each says for itself whether it does.
            if not memory.is_out_of_memory(error):
                raise

    def _tried(self, attention: str) -> timing.Call:
        try:
            with memory.told():
                call = self._bound(self._whole, attention)[0]
                call()
                return call
        except (ConfigurationError, OutOfMemory):
            raise
        except Exception as error:
            raise ConfigurationError(
                "onnxruntime {} cannot run this model in {} with {} attention and {}: {}".format(
                    onnxruntime.__version__,
                    self._job.workload.dtype,
                    attention,
                    self._provider,
                    (str(error).strip().splitlines() or [type(error).__name__])[0][:200],
                ),
                "ask for dtype fp32" if self._job.workload.dtype != "fp32" else "ask for backend eager",
            )


def _new_folder() -> str:
    """An empty folder that goes with this process; those of processes that were killed go now."""
    root = tempfile.gettempdir()
    for name in os.listdir(root):
        owner = name[len(FOLDER) :].split("-")[0] if name.startswith(FOLDER) else ""
        if owner.isdigit() and not os.path.exists("/proc/" + owner):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="{}{}-".format(FOLDER, os.getpid()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
