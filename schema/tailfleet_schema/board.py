"""What a board is: its hardware, its software, its state of the moment, and the fingerprint of all that
decides a latency. Facts only; reading them is the work of the agent's probes."""

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import List, Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.limits import check_count, check_name
from tailfleet_schema.virtual_board import check_profile


class BoardKind(Enum):
    """Where a board's latencies come from."""

    PHYSICAL = "physical"
    """Measured on a real machine."""
    VIRTUAL = "virtual"
    """Computed by a model of a named board; never mixed with measured ones."""


@dataclass(frozen=True)
class Hardware:
    """The machine. ``machine_id`` tells two agents on one machine apart from two machines."""

    machine_id: str
    architecture: str
    """As the kernel names it: x86_64, aarch64."""
    cpu: str
    cpu_cores: int
    memory_bytes: int
    soc: Optional[str] = None
    """Board or system-on-chip name where the device tree gives one."""
    gpu: Optional[str] = None
    gpu_sms: Optional[int] = None
    gpu_memory_bytes: Optional[int] = None
    gpu_max_mhz: Optional[float] = None

    def __post_init__(self) -> None:
        check_name("machine_id", self.machine_id)
        check_count("cpu_cores", self.cpu_cores, 0)


@dataclass(frozen=True)
class Software:
    """Versions of all that stands between a model and the silicon; None where absent."""

    os: str
    kernel: str
    python: str
    agent: str
    l4t: Optional[str] = None
    driver: Optional[str] = None
    cuda: Optional[str] = None
    cudnn: Optional[str] = None
    torch: Optional[str] = None
    timm: Optional[str] = None
    onnxruntime: Optional[str] = None
    jetpack: Optional[str] = None
    tensorrt: Optional[str] = None


@dataclass(frozen=True)
class Telemetry:
    """The state of a board at one moment, read between timed blocks; None where no sensor says."""

    taken_at: str
    """UTC, ISO 8601."""
    power_mode: Optional[str] = None
    governor: Optional[str] = None
    cpu_mhz: List[float] = field(default_factory=list)
    gpu_mhz: Optional[float] = None
    temperature_c: Optional[float] = None
    power_mw: Optional[float] = None
    load_1m: Optional[float] = None
    memory_available_bytes: Optional[int] = None
    memory_mhz: Optional[float] = None
    """Clock of the memory (EMC on a Jetson)."""
    energy_mj: Optional[float] = None
    """A counter that only grows, where the board has one: only differences mean anything."""
    throttled: Optional[str] = None
    """Why the clocks are held down, in the sensor's words; empty: they are not; None: no sensor says."""


@dataclass(frozen=True)
class BoardFacts:
    """All that an agent says of its board when it enrols and when it asks for work."""

    kind: BoardKind
    hardware: Hardware
    software: Software
    virtual_profile: Optional[str] = None
    """The modelled board, and how it is disturbed (``virtual_board``); set exactly for virtual boards."""

    def __post_init__(self) -> None:
        if (self.kind is BoardKind.VIRTUAL) != (self.virtual_profile is not None):
            raise InputError("is given exactly for a virtual board", path="virtual_profile")
        if self.virtual_profile is not None:
            check_profile("virtual_profile", self.virtual_profile)


_ADDED = ("gpu_max_mhz", "jetpack", "tensorrt")
"""Facts that earlier releases did not tell. Where a board still does not, its fingerprint stays what it was."""


def fingerprint(facts: BoardFacts, power_mode: Optional[str] = None) -> str:
    """sha256 (hex) of everything in ``facts`` that may change a latency.

    The agent's own version is left out: an update of the agent alone does not age a curve; neither does
    ``machine_id``, which only says where the board's process runs.
    """
    hardware = {key: value for key, value in codec.encode(facts.hardware).items() if key != "machine_id"}
    software = {key: value for key, value in codec.encode(facts.software).items() if key != "agent"}
    for told in (hardware, software):
        for name in _ADDED:
            if told.get(name, "") is None:
                del told[name]
    if facts.kind is BoardKind.VIRTUAL:
        hardware, software = {}, {}
    text = codec.dumps([facts.kind.value, facts.virtual_profile, hardware, software, power_mode])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
