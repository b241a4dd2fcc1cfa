"""Sessions of ONNX Runtime: providers and what refuses them, threads, memory. What runs in them is ``onnx_runtime``'s.

Free token counts are fixed when a graph is loaded, so that what is timed is the static graph that users deploy, without
an export for each count. With its counts left free a graph gives the same outputs bit for bit and takes 1.3 to 2.8 %
more CPU time (``deit_small_patch16_224``, whole model and REDUCE, one thread of an EPYC); fixed ones are within 1 % of
an exported static graph, ToMe's within 2.5 %.

All sessions share one pool of threads, of the size that ONNX Runtime chooses for itself, as in a user's program with
its one session: a pool each would let threads of one session spin while another is timed.
"""

import glob
import os
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Tuple

import onnxruntime

from tailfleet_agent.worker import facts
from tailfleet_agent.worker.backends import memory
from tailfleet_schema.errors import ConfigurationError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

PROVIDERS = {
    "onnxruntime": [CPU],
    "onnxruntime-cuda": [CUDA, CPU],
    "onnxruntime-tensorrt": [TENSORRT, CUDA, CPU],
}

LEAST_TENSORRT = 10
"""TensorRT below 9 computes ``scatter`` with a reduction wrongly without an error; JetPack 4 ends at 8.2."""

SHARE_OF_MEMORY = 0.5
"""Sessions are kept while their weights take no more than this share of the memory that was free at the start."""


def check(backend: str) -> None:
    """Raise ``ConfigurationError``, which names what is missing, where ``backend`` cannot run here."""
    wanted = PROVIDERS[backend][0]
    if wanted == TENSORRT:
        version = facts.tensorrt_version()
        if version is not None and int(version.split(".")[0]) < LEAST_TENSORRT:
            raise ConfigurationError(
                "TensorRT {} is too old: it computes some reductions wrongly without an error".format(version),
                "install TensorRT {} or newer (JetPack 4 and 5 have none), or ask for backend eager".format(
                    LEAST_TENSORRT
                ),
            )
    if wanted not in onnxruntime.get_available_providers():
        package = "onnxruntime-gpu" + (" and tensorrt" if wanted == TENSORRT else "")
        raise ConfigurationError(
            "onnxruntime {} has no {} here".format(onnxruntime.__version__, wanted),
            "pip install {} in place of onnxruntime (on a Jetson: NVIDIA's own wheel)".format(package),
        )


class Sessions:
    """Opens graphs that lie in a folder and keeps them while memory lasts, those that were used last.

    ``threads`` is how many threads the first session's runs have, or 0 where that cannot be seen.
    """

    def __init__(self, backend: str, dtype: str, folder: str) -> None:
        self.providers = PROVIDERS[backend]
        self._dtype = dtype
        self._folder = folder
        self._open: "OrderedDict[Tuple[Any, ...], Tuple[Any, int]]" = OrderedDict()
        self._most_bytes = memory.free_bytes() * SHARE_OF_MEMORY
        self._threads_before = _threads()
        self._shared_pool = _share_one_pool()
        self.threads = 0

    def session(self, graph: str, counts: Dict[str, int]) -> Any:
        """The session of ``graph`` (a path in the folder, without its ending) for these free counts.

        Raises ``ConfigurationError`` where this runtime cannot run it, ``OutOfMemory`` where it does not fit.
        """
        key = (graph, *sorted(counts.items()))
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key][0]
        path = os.path.join(self._folder, graph + ".onnx")
        size = sum(os.path.getsize(part) for part in glob.glob(glob.escape(path) + "*"))
        while self._open and size + sum(held for _, held in self._open.values()) > self._most_bytes:
            self._open.popitem(last=False)
        made = self._made(path, counts)
        self._open[key] = made, size
        return made

    def forget(self) -> None:
        """Close all sessions."""
        self._open.clear()

    def _made(self, path: str, counts: Dict[str, int]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._shared_pool:
            options.use_per_session_threads = False
        for name, value in counts.items():
            options.add_free_dimension_override_by_name(name, value)
        with memory.told():
            providers = [self._configured(provider) for provider in self.providers]
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        if not self.threads and self._threads_before:
            # The calling thread computes too.
            self.threads = _threads() - self._threads_before + 1
        # Where a provider's libraries are missing, ONNX Runtime goes on without it, and says so in its log alone.
        if session.get_providers()[0] != self.providers[0]:
            raise ConfigurationError(
                "onnxruntime {} could not load its {}".format(onnxruntime.__version__, self.providers[0]),
                "install the CUDA, cuDNN and TensorRT that this onnxruntime was built for; see the log",
            )
        return session

    def _configured(self, provider: str) -> Any:
        if provider != TENSORRT:
            return provider
        settings = {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": self._folder,
            "trt_fp16_enable": str(self._dtype == "fp16"),
            "trt_bf16_enable": str(self._dtype == "bf16"),
        }
        return provider, {name: value for name, value in settings.items() if value != "False"}


_POOL: List[bool] = []


def _share_one_pool() -> bool:
    """Once in a process, before its first session; older releases cannot."""
    if not _POOL:
        setter: Optional[Callable[[int, int], None]] = getattr(onnxruntime, "set_global_thread_pool_sizes", None)
        try:
            if setter is not None:
                # No thread for running nodes side by side: sessions run one node after another unless told otherwise.
                setter(0, 1)
            _POOL.append(setter is not None)
        except Exception:
            _POOL.append(False)
    return _POOL[0]


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0
