"""Ways to run a workload. A backend turns units into nanoseconds; which units and when is decided by ``run``.

``eager`` (torch as it is), ``compiled`` (torch.compile), ``cuda_graph`` (a captured CUDA graph), ``onnx_runtime`` (ONNX
Runtime on the CPU, with CUDA, or with TensorRT) and ``virtual`` (computed latencies of a named board, no torch at all).
The three of torch share ``programs``: what each unit computes. A process loads one runtime: two disturb each other.
"""

from typing import Any, Dict, List, Mapping, Optional

from tailfleet_schema.curve import Unit
from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.job import Job


class OutOfMemory(LabError):
    """The board has too little memory for one unit: a result of that unit, not the failure of its job."""


class Backend:
    """What every backend can do. One backend serves one job, in one process, and is not thread-safe."""

    on_gpu = False
    """Whether it computes on a GPU: then that one's power counts, else the CPU's."""

    def describe(self) -> Dict[str, str]:
        """What it runs on, by short words (device, threads, torch, timm, attention, provider); told to the coordinator
        once, and compared: what differs from run to run on an unchanged board does not belong here."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Bring the board to a steady state; called once, before the first timed unit.

        Raises ``OutOfMemory`` where even the whole model with all tokens does not fit.
        """

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Nanoseconds of ``calls`` calls of a timed ``unit``. Raises ``OutOfMemory`` where it does not fit."""
        raise NotImplementedError

    def peak_memory_bytes(self) -> Optional[int]:
        """The most that was held during the last ``measure``; None where nothing tells. Asked outside timed blocks."""
        return None

    def predict(self, digest: str, images: Any) -> Any:
        """Logits of the very model that is timed, in the workload's dtype: a numpy array fp32 (n, K) for one of
        ``images`` fp32 (n, channels, size, size), under the schedule ``digest`` (empty: the dense model)."""
        raise InputError("this backend makes no predictions")


def open_backend(
    job: Job, artifacts: str, virtual_profile: str = "", runtime: Optional[Mapping[str, str]] = None
) -> Backend:
    """The backend that ``job`` asks for, its model built.

    ``artifacts`` is the folder of weights; ``virtual_profile`` names the modelled board, empty on a real one.
    ``runtime`` is what an earlier attempt of the job described, so that this one makes the same choices where it has
    any; empty or None at the first.
    Raises ``InputError`` where the two contradict each other, ``ConfigurationError`` for what this board lacks,
    ``ImportError`` where a package is missing.
    """
    # Imported here: a virtual board has no torch, and one runtime is all that a timed process may load.
    if job.workload.backend == "virtual":
        from tailfleet_agent.worker.backends.virtual import VirtualBackend

        return VirtualBackend(job, virtual_profile)
    if virtual_profile:
        # What this machine measures must not be mixed with what is computed for another.
        raise InputError("the virtual board {} measures nothing; ask for backend virtual".format(virtual_profile))
    if job.workload.backend.startswith("onnxruntime"):
        from tailfleet_agent.worker.backends.onnx_runtime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(job, artifacts, runtime)
    if job.workload.backend == "compile":
        from tailfleet_agent.worker.backends.compiled import CompiledBackend

        return CompiledBackend(job, artifacts, runtime)
    if job.workload.backend == "cudagraph":
        from tailfleet_agent.worker.backends.cuda_graph import CudaGraphBackend

        return CudaGraphBackend(job, artifacts, runtime)
    from tailfleet_agent.worker.backends.eager import EagerBackend

    return EagerBackend(job, artifacts, runtime)
