"""What a unit needs of a board's memory: the most that was held meanwhile, and how each runtime says "not enough".

Where the kernel itself ends the process for want of memory (Linux' OOM killer; the usual way on a Jetson, whose GPU
shares the memory), nothing here is reached: the supervisor sees a child killed by signal 9.
"""

from contextlib import contextmanager
from typing import Iterator, Optional

from tailfleet_agent.probes import memory as probe
from tailfleet_agent.worker.backends import OutOfMemory

_SIGNS = (
    "out of memory",
    "outofmemory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "available memory of",
    "nvmapmemallocinternaltagged",
)
"""Of torch's and ONNX Runtime's allocators, cuBLAS, cuDNN, TensorRT, C++ and the Jetsons' NvMap."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, of whatever runtime, says that memory did not suffice."""
    if isinstance(error, (OutOfMemory, MemoryError)):
        return True
    text = "{}: {}".format(type(error).__name__, error).lower()
    return isinstance(error, Exception) and any(sign in text for sign in _SIGNS)


@contextmanager
def told() -> Iterator[None]:
    """Turn each runtime's way to say that memory did not suffice into ``OutOfMemory``."""
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def free_bytes() -> float:
    """What the kernel says is left to allocate; infinite where it does not say."""
    left = probe.read("/").available_bytes if probe.available("/") else None
    return float("inf") if left is None else float(left)


class ResidentPeak:
    """The most that this process held in memory since :meth:`reset`, by Linux' own count (``VmHWM``).

    The count is the whole process's: libraries, weights and all. ``root`` is where ``/proc/self`` is looked for.
    """

    def __init__(self, root: str = "/proc/self") -> None:
        self._root = root
        self._counting = False

    def reset(self) -> None:
        """Count anew from what is held now; where the kernel does not let one (Linux before 4.0), nothing is told."""
        try:
            with open(self._root + "/clear_refs", "w") as file:
                file.write("5")
            self._counting = True
        except OSError:
            self._counting = False

    def read(self) -> Optional[int]:
        """Bytes; None where the count could not be reset, or is not told."""
        if not self._counting:
            return None
        try:
            with open(self._root + "/status") as file:
                for line in file:
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return None
