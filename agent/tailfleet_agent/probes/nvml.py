"""An NVIDIA GPU through its driver's own library (NVML), by ctypes: no package is needed.

Handles stay open, so that a reading is a few short calls and not the start of ``nvidia-smi``, which makes spikes. What
the driver does not tell of a GPU is None; a GPU or driver that is gone makes the whole reading fail. Jetsons have the
library from JetPack 6 on, but it tells nothing there: their sensors are files. Names and numbers are of NVIDIA's NVML
API reference.
"""

import ctypes
import functools
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, TypeVar

from tailfleet_agent.probes import sysfile

T = TypeVar("T")

RETRY_SECONDS = 60.0
"""A driver that does not answer is not asked again for so long: starting it takes seconds where it is broken."""

_LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
_DRIVERS = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg")

_GONE = (1, 9, 12, 15, 16, 18)
"""Not initialised, driver not loaded, library not found, GPU lost, reset required, library and driver differ."""

_TOO_SMALL = 7

_CLOCK_SM, _CLOCK_MEMORY = 1, 2

_REASONS = (
    (0x4, "SW power cap"),
    (0x8, "HW slowdown"),
    (0x10, "sync boost"),
    (0x20, "SW thermal slowdown"),
    (0x40, "HW thermal slowdown"),
    (0x80, "HW power brake"),
)
_NO_REASONS = 0x1 | 0x2 | 0x100
"""Idle, clocks that somebody set, and clocks of a display: none holds a busy GPU down against its settings."""

_MOST_PROCESSES = 64


class Gpu(NamedTuple):
    """What a GPU tells of this moment; None where it does not."""

    name: Optional[str] = None
    driver: Optional[str] = None
    memory_bytes: Optional[int] = None
    max_mhz: Optional[float] = None
    sm_mhz: Optional[float] = None
    memory_mhz: Optional[float] = None
    temperature_c: Optional[float] = None
    power_mw: Optional[float] = None
    """Of the whole card, its memory included; averaged over a second on some (Ampere and later)."""
    energy_mj: Optional[float] = None
    """Of the whole card since the driver was loaded (Volta and later)."""
    throttled: Optional[str] = None
    """Why clocks are held down; empty: they are not."""
    neighbours: Optional[int] = None
    """Other processes that compute on it; None also where this process does not see theirs (a container)."""


class Gone(Exception):
    """The driver or the GPU does not answer any more."""


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    # Of the second and third version of the call; the first lacks the two ids.
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def _load() -> Any:
    """The library. Raises ``OSError`` where there is none."""
    for name in _LIBRARIES[:-1]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return ctypes.CDLL(_LIBRARIES[-1])


class Session:
    """One GPU, asked again and again by one process: the first that CUDA shows it, else the first there is.

    CUDA counts its GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML by place: on a machine with different GPUs,
    set that, or name one in CUDA_VISIBLE_DEVICES by its UUID.
    """

    def __init__(
        self,
        load: Callable[[], Any] = _load,
        environment: Optional[Dict[str, str]] = None,
        now: Callable[[], float] = time.monotonic,
        process_exists: Callable[[int], bool] = lambda pid: os.path.exists("/proc/{}".format(pid)),
    ) -> None:
        self._load = load
        self._environment = os.environ if environment is None else environment
        self._now = now
        self._process_exists = process_exists
        self._library: Any = None
        self._handle = ctypes.c_void_p()
        self._failed_at: Optional[float] = None

    def read(self) -> Optional[Gpu]:
        """All that the GPU tells; None where there is none, or where it was lost on the way."""
        return self._with_gpu(self._gpu)

    def energy_mj(self) -> Optional[float]:
        """The energy counter alone: one call."""
        return self._with_gpu(lambda: self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong))

    def power_mw(self) -> Optional[float]:
        """The power alone: one call."""
        return self._with_gpu(lambda: self._number("nvmlDeviceGetPowerUsage"))

    def _with_gpu(self, ask: Callable[[], Optional[T]]) -> Optional[T]:
        if self._failed_at is not None and self._now() - self._failed_at < RETRY_SECONDS:
            return None
        try:
            if self._library is None:
                self._open()
            return ask()
        except (OSError, AttributeError, Gone):
            self._library, self._failed_at = None, self._now()
            return None

    def _open(self) -> None:
        library = self._load()
        if library.nvmlInit_v2() != 0:
            raise Gone()
        shown = self._environment.get("CUDA_VISIBLE_DEVICES")
        first = "0" if shown is None else shown.split(",")[0].strip()
        if first.isdigit():
            status = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(self._handle))
        else:
            # Neither an empty name nor -1 is any GPU's: nothing is shown to this process.
            status = library.nvmlDeviceGetHandleByUUID(first.encode("ascii", "replace"), ctypes.byref(self._handle))
        if status != 0:
            raise Gone()
        self._library, self._failed_at = library, None

    def _gpu(self) -> Gpu:
        memory = _Memory()
        return Gpu(
            name=self._text("nvmlDeviceGetName", self._handle),
            driver=self._text("nvmlSystemGetDriverVersion"),
            memory_bytes=(
                memory.total if self._ask("nvmlDeviceGetMemoryInfo", self._handle, ctypes.byref(memory)) == 0 else None
            ),
            max_mhz=self._clock("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
            sm_mhz=self._clock("nvmlDeviceGetClockInfo", _CLOCK_SM),
            memory_mhz=self._clock("nvmlDeviceGetClockInfo", _CLOCK_MEMORY),
            temperature_c=self._temperature(),
            power_mw=self._number("nvmlDeviceGetPowerUsage"),
            energy_mj=self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong),
            throttled=self._throttled(),
            neighbours=self._neighbours(),
        )

    def _ask(self, name: str, *arguments: Any) -> int:
        """What the call returns; 13 (function not found) where this driver lacks it. Raises ``Gone``."""
        call = getattr(self._library, name, None)
        if call is None:
            return 13
        status = int(call(*arguments))
        if status in _GONE:
            raise Gone()
        return status

    def _text(self, name: str, *handle: Any) -> Optional[str]:
        buffer = ctypes.create_string_buffer(96)
        if self._ask(name, *handle, buffer, ctypes.c_uint(len(buffer))) != 0:
            return None
        return buffer.value.decode("utf-8", "replace") or None

    def _number(self, name: str, kind: Any = ctypes.c_uint) -> Optional[float]:
        value = kind()
        return float(value.value) if self._ask(name, self._handle, ctypes.byref(value)) == 0 else None

    def _clock(self, name: str, which: int) -> Optional[float]:
        value = ctypes.c_uint()
        status = self._ask(name, self._handle, ctypes.c_int(which), ctypes.byref(value))
        return float(value.value) if status == 0 else None

    def _temperature(self) -> Optional[float]:
        value = ctypes.c_uint()
        status = self._ask("nvmlDeviceGetTemperature", self._handle, ctypes.c_int(0), ctypes.byref(value))
        return float(value.value) if status == 0 else None

    def _throttled(self) -> Optional[str]:
        mask = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong)
        if mask is None:
            mask = self._number("nvmlDeviceGetCurrentClocksEventReasons", ctypes.c_ulonglong)
        if mask is None:
            return None
        left = int(mask) & ~_NO_REASONS
        words: List[str] = []
        for bit, reason in _REASONS:
            if left & bit:
                words.append(reason)
                left &= ~bit
        if left:
            # Drivers may learn new reasons; what is not known is not hidden.
            words.append("reason {:#x} of the driver".format(left))
        return "; ".join(words)

    def _neighbours(self) -> Optional[int]:
        processes = (_Process * _MOST_PROCESSES)()
        for version in ("_v3", "_v2"):
            count = ctypes.c_uint(_MOST_PROCESSES)
            name = "nvmlDeviceGetComputeRunningProcesses" + version
            status = self._ask(name, self._handle, ctypes.byref(count), processes)
            if status == _TOO_SMALL:
                return int(count.value)
            if status == 0:
                pids = [processes[place].pid for place in range(count.value)]
                if not all(self._process_exists(pid) for pid in pids):
                    # Process ids of another namespace: one of them may be this process.
                    return None
                return len(set(pids) - {os.getpid()})
        return None


@functools.lru_cache(maxsize=None)
def host() -> Session:
    """This machine's GPU."""
    return Session()


def available(root: str) -> bool:
    """Whether this machine has NVIDIA's driver; a recorded tree has no library to ask."""
    return root == "/" and any(sysfile.exists(root, path) for path in _DRIVERS)


def read(root: str) -> Optional[Gpu]:
    """What this machine's GPU tells."""
    return host().read()
