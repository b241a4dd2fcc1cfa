"""What a board is: its hardware, its software, its state of the moment, and the fingerprint of all that
decides a latency. Facts only; reading them is the work of the agent's probes."""

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Dict, List, Optional

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
    """The board's name where the device tree gives one: "NVIDIA Jetson Nano Developer Kit"."""
    gpu: Optional[str] = None
    gpu_sms: Optional[int] = None
    """Streaming multiprocessors that are on."""
    gpu_memory_bytes: Optional[int] = None
    """On a Jetson the memory that GPU and CPU share."""
    gpu_max_mhz: Optional[float] = None
    """The highest clock that the GPU has, whatever the power mode allows of it."""
    chip: Optional[str] = None
    """The system on chip where the device tree names it: tegra210, tegra186, tegra234."""

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
    """NVIDIA's Linux for Tegra: 32.7.1."""
    driver: Optional[str] = None
    """NVIDIA's kernel driver: 535.104.05."""
    cuda: Optional[str] = None
    """What torch was built for, else what is installed."""
    cudnn: Optional[str] = None
    """As torch counts it (8201), else as installed (8.2.1)."""
    torch: Optional[str] = None
    timm: Optional[str] = None
    onnxruntime: Optional[str] = None
    jetpack: Optional[str] = None
    """The JetPack that the L4T belongs to: 4.6.1."""
    tensorrt: Optional[str] = None


@dataclass(frozen=True)
class Telemetry:
    """The state of a board at one moment, read between timed blocks; None where no sensor says.

    Counters (``energy_mj``, ``throttle_events``, ``..._seconds``) only grow within one process of the agent: only
    differences between two readings of the same process mean anything. What a difference says stands in ``state``.
    """

    taken_at: str
    """UTC, ISO 8601, by the board's own clock, which may be wrong."""
    power_mode: Optional[str] = None
    """nvpmodel's on a Jetson (MAXN, 5W), the platform profile on a PC (balanced)."""
    governor: Optional[str] = None
    """Of the CPU's clocks; comma-separated where cores differ."""
    cpu_mhz: List[float] = field(default_factory=list)
    """Of each core that is on."""
    gpu_mhz: Optional[float] = None
    temperature_c: Optional[float] = None
    """The hottest of ``temperatures_c``."""
    power_mw: Optional[float] = None
    """Of what, says ``power_of``."""
    load_1m: Optional[float] = None
    memory_available_bytes: Optional[int] = None
    memory_mhz: Optional[float] = None
    """Clock of the memory that the GPU uses: EMC on a Jetson (read by root only), its own on a PC's GPU."""
    energy_mj: Optional[float] = None
    """A counter of what ``energy_of`` says."""
    throttled: Optional[str] = None
    """Why the clocks are held down, in the sensors' words, several apart by "; "; empty: they are not; None: no
    sensor says."""
    gpu_governor: Optional[str] = None
    temperatures_c: Dict[str, float] = field(default_factory=dict)
    """Of every zone that tells of silicon, by the zone's own name, and of a PC's GPU as ``gpu``."""
    power_of: Optional[str] = None
    """What ``power_mw`` covers: ``module (VDD_IN)``, ``rails (A + B)``, ``gpu``."""
    energy_of: Optional[str] = None
    """What ``energy_mj`` covers: ``gpu`` (the whole card) or ``cpu`` (its packages, without memory)."""
    throttle_events: Optional[int] = None
    """A counter of how often hardware itself held clocks down: over-current on an Orin, heat on an Intel CPU."""
    gpu_neighbours: Optional[int] = None
    """Other processes that compute on the GPU."""
    uptime_seconds: Optional[float] = None
    """A counter: since the machine started."""
    others_cpu_seconds: Optional[float] = None
    """A counter: CPU time of every process of the machine but the one that reads."""
    stolen_cpu_seconds: Optional[float] = None
    """A counter: CPU time that a virtual machine's host gave to others."""


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


_ADDED = ("gpu_max_mhz", "chip", "jetpack", "tensorrt")
"""Facts that earlier releases did not tell. Where a board still does not, its fingerprint stays what it was."""


def fingerprint(facts: BoardFacts, power_mode: Optional[str] = None) -> str:
    """sha256 (hex) of everything in ``facts`` that may change a latency, and of nothing that moves by itself.

    ``power_mode`` is a setting that somebody makes, so it belongs here; clocks, governors and temperatures of the
    moment are state (``Telemetry``). The agent's own version is left out: an update of the agent alone does not age a
    curve; neither does ``machine_id``, which only says where the board's process runs.
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
