"""torch as it is: each unit is one call of ordinary, uncompiled modules on the board's CPU or first GPU.

:class:`TorchBackend` is what every way to run torch shares: the model, the choice of attention, timing, memory,
predictions. What a unit computes is ``programs``', timing itself ``timing``'s.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional, Set

import timm
import torch

from tailfleet_agent.worker import timing
from tailfleet_agent.worker.backends import Backend, OutOfMemory, memory
from tailfleet_agent.worker.backends.attention import Timer, choose
from tailfleet_agent.worker.backends.programs import Program, Programs
from tailfleet_schema.curve import Part, Unit, UnitKey
from tailfleet_schema.errors import ConfigurationError
from tailfleet_schema.job import Job

_NO_GRADIENTS = getattr(torch, "inference_mode", torch.no_grad)

BF16_CAPABILITY = (8, 0)
"""The oldest compute capability whose GPUs calculate in bf16; torch emulates it on others, slowly."""


class TorchBackend(Backend):
    """The model of ``job``, built once, on the GPU where torch sees one, else on the CPU.

    ``runtime`` is as for ``open_backend``. Raises ``ConfigurationError`` for a dtype that the device lacks.
    """

    def __init__(self, job: Job, artifacts: str, runtime: Optional[Mapping[str, str]] = None) -> None:
        self._job = job
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.on_gpu = self._device == "cuda"
        self.check(job.workload.dtype)
        self._clock: Any = timing.CudaClock(torch) if self._device == "cuda" else timing.CpuClock()
        self._resident = memory.ResidentPeak()
        self._peak: Optional[int] = None
        self._met: Set[UnitKey] = set()
        self._programs = Programs(job, artifacts, self._device)
        count = job.workload.model.geometry.tokens
        self._whole = Unit(Part.SENTINEL, count, count)
        with _NO_GRADIENTS():
            self._probe()
            attention, self._attention = choose(
                job.workload.attention, runtime or {}, self._programs.lacks_fused(), self._timer
            )
            self._programs.use(attention)

    def check(self, dtype: str) -> None:
        """Raise ``ConfigurationError`` for what can be known to be impossible here before a model is built."""
        if self._device == "cuda" and dtype == "bf16" and torch.cuda.get_device_capability(0) < BF16_CAPABILITY:
            raise ConfigurationError(
                "{} does not calculate in bf16".format(torch.cuda.get_device_name(0)), "ask for dtype fp16 or fp32"
            )

    def callable(self, program: Program) -> timing.Call:
        """A call that runs ``program`` in this backend's way, everything that must be made for it made already."""
        module, inputs = program
        return lambda: module(*inputs)

    def describe(self) -> Dict[str, str]:
        """Device, threads, versions, kind of attention."""
        device = torch.cuda.get_device_name(0) if self._device == "cuda" else "CPU"
        return {
            "device": device,
            "threads": "{} threads".format(torch.get_num_threads()),
            "torch": "torch {}".format(torch.__version__),
            "timm": "timm {}".format(timm.__version__),
            "attention": self._attention,
        }

    def warm_up(self) -> None:
        """Run the whole model until its time is steady; see :func:`timing.warm_up`."""
        with _NO_GRADIENTS(), memory.told():
            timing.warm_up(self._clock, self.prepare(self._whole))

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Time ``calls`` calls; the first time that a unit is met, one untimed call goes before."""
        self._peak = None
        try:
            with _NO_GRADIENTS(), memory.told():
                self.reset_peak()
                call = self.prepare(unit)
                if unit.key(0) not in self._met:
                    self._computed(call)
                    self._met.add(unit.key(0))
                taken = timing.timed_block(self._clock, call, calls)
                self._peak = self.read_peak()
                return taken
        except OutOfMemory:
            if self._device == "cuda":
                torch.cuda.empty_cache()
            raise

    def peak_memory_bytes(self) -> Optional[int]:
        """On a GPU what torch's allocator held at most, else the process."""
        return self._peak

    def prepare(self, unit: Unit) -> timing.Call:
        """The call that ``unit`` times. To be called without gradients.

        Raises ``InputError`` for what this model or these methods do not have.
        """
        return self.callable(self._programs.program(unit))

    def predict(self, digest: str, images: Any) -> Any:
        """See ``Backend``; as many images at once as are given."""
        with _NO_GRADIENTS(), memory.told():
            given = torch.from_numpy(images).to(device=self._device, dtype=self._programs.images.dtype)
            return self.runner(digest)(given).float().cpu().numpy()

    def runner(self, digest: str) -> Callable[[Any], Any]:
        """What turns images on the device into logits, under the schedule ``digest`` (empty: the dense model)."""
        return self._programs.reduced(digest)

    def _probe(self) -> None:
        """One pass with all tokens: what torch lacks for the dtype shows before anything is timed."""
        try:
            self._computed(lambda: self._programs.model(self._programs.images[:1]))
        except RuntimeError as error:
            # Smaller units may still fit; each says for itself whether it does.
            if not memory.is_out_of_memory(error):
                raise

    def _timer(self, attention: str) -> Timer:
        self._programs.use(attention)
        with memory.told():
            call = self.callable(self._programs.program(self._whole))
            timing.warm_up(self._clock, call, most_seconds=2.0)

        def timed() -> int:
            self._programs.use(attention)
            return int(timing.timed_block(self._clock, call, 1)[0])

        return timed

    def reset_peak(self) -> None:
        """Count what is held anew."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self._resident.reset()

    def read_peak(self) -> Optional[int]:
        """Bytes held at most since; None where nothing tells."""
        return int(torch.cuda.max_memory_allocated()) if self._device == "cuda" else self._resident.read()

    def _computed(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; where torch lacks a kernel for the dtype, a sentence about that instead."""
        try:
            return call()
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            raise ConfigurationError(
                "torch {} cannot compute in {} on this board's {}".format(
                    torch.__version__, self._job.workload.dtype, self._device.upper()
                ),
                "ask for dtype fp32",
            )


class EagerBackend(TorchBackend):
    """Ordinary modules, called."""
