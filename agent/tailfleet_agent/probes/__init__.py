"""Sensors of a board, one to a file, standard library only. Each has ``available(root)`` and ``read(root)``.

``root`` is where the board's file system begins (``/``), so that a sensor can be tried on a recorded tree; the GPU's
library is asked of this machine only, and can be given. A sensor that is absent, or that fails, gives None: no
measurement ends because a sensor did. What only torch can tell (versions, the GPU) comes from the measured child as
``child_facts``. Sensors are read between timed blocks only.

What power and energy cover differs by board, and every reading says it (``power_of``, ``energy_of``):

===================  =============================================  ==========================================
board                power                                          energy counter
===================  =============================================  ==========================================
Jetson               the module's input rail, else its rails' sum   none
PC, jobs on its GPU  the card (NVML)                                the card (NVML; Volta and later)
PC, jobs on its CPU  none                                           the CPU's packages (RAPL; mostly root only)
===================  =============================================  ==========================================
"""

import datetime
import os
import platform
from types import ModuleType
from typing import Any, Dict, NamedTuple, Optional

from tailfleet_agent.probes import (
    chip,
    cooling,
    cpu,
    cpufreq,
    cuda_files,
    devfreq,
    device_tree,
    emc,
    events,
    ina3221,
    jetpack,
    jtop,
    l4t,
    load,
    machine,
    memory,
    neighbours,
    nvidia_driver,
    nvml,
    nvpmodel,
    os_release,
    packages,
    platform_profile,
    rapl,
    thermal,
)
from tailfleet_schema import __version__
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry

__all__ = ["Energy", "read_energy", "read_energy_mj", "read_facts", "read_power_mw", "read_telemetry"]


class Energy(NamedTuple):
    """A counter in millijoules, of which only differences within this process mean anything, and what it is of."""

    mj: float
    of: str


def read_facts(
    kind: BoardKind,
    virtual_profile: Optional[str],
    child_facts: Dict[str, Any],
    root: str = "/",
    gpu: Optional[nvml.Session] = None,
) -> BoardFacts:
    """Hardware and software of this board; of a virtual one, the modelled hardware that ``child_facts`` tells.

    ``machine_id`` is that of the machine the agent runs on, for virtual boards too: whoever measures that machine
    must know which agents compute on it. What torch tells goes before what files tell. ``gpu`` is asked instead of
    this machine's.
    """

    def told(name: str, otherwise: Any = None) -> Any:
        value = child_facts.get(name)
        return otherwise if value is None else value

    def read(sensor: ModuleType) -> Any:
        # The machine that computes a virtual board's latencies is not that board.
        return _read(sensor, root) if kind is BoardKind.PHYSICAL else None

    processor, amounts, clock = read(cpu), read(memory), read(devfreq)
    card = (_card(root, gpu) if kind is BoardKind.PHYSICAL else None) or nvml.Gpu()
    # Several CUDAs may be installed as packages; the files are those of the one that is in use.
    installed: Dict[str, str] = {**(read(packages) or {}), **(read(cuda_files) or {})}
    hardware = Hardware(
        machine_id=_read(machine, root) or machine.unknown(),
        architecture=told("architecture", platform.machine() or "unknown"),
        cpu=told("cpu", processor.name if processor else "unknown"),
        cpu_cores=told("cpu_cores", processor.cores if processor else os.cpu_count() or 1),
        memory_bytes=told("memory_bytes", amounts.total_bytes if amounts else 0),
        soc=told("soc", read(device_tree)),
        gpu=told("gpu", card.name),
        gpu_sms=told("gpu_sms"),
        gpu_memory_bytes=told("gpu_memory_bytes", card.memory_bytes),
        gpu_max_mhz=told("gpu_max_mhz", (clock.max_mhz if clock else None) or card.max_mhz),
        chip=told("chip", read(chip)),
    )
    software = Software(
        os=told("os", read(os_release) or platform.system() or "unknown"),
        kernel=(_kernel(root) if kind is BoardKind.PHYSICAL else "modelled"),
        python=platform.python_version(),
        agent=__version__,
        l4t=read(l4t),
        driver=read(nvidia_driver) or card.driver,
        cuda=told("cuda", installed.get("cuda")),
        cudnn=told("cudnn", installed.get("cudnn")),
        torch=told("torch"),
        timm=told("timm"),
        onnxruntime=told("onnxruntime"),
        jetpack=installed.get("jetpack") or read(jetpack),
        tensorrt=told("tensorrt", installed.get("tensorrt")),
    )
    return BoardFacts(kind, hardware, software, virtual_profile)


def read_telemetry(root: str = "/", gpu: Optional[nvml.Session] = None, between_jobs: bool = False) -> Telemetry:
    """The state of the board at this moment; some dozens of small files and a few calls, some milliseconds.

    ``gpu`` is asked instead of this machine's. ``between_jobs`` also asks services that answer slowly and disturb.
    """
    frequencies = _read(cpufreq, root)
    clock = _read(devfreq, root)
    amounts = _read(memory, root)
    others = _read(neighbours, root)
    card = _card(root, gpu) or nvml.Gpu()
    temperatures: Dict[str, float] = _read(thermal, root) or {}
    if card.temperature_c is not None:
        temperatures["gpu"] = card.temperature_c
    power = _read(ina3221, root) or (None if card.power_mw is None else ina3221.Power(card.power_mw, "gpu"))
    energy = read_energy(root=root) if card.energy_mj is None else Energy(card.energy_mj, "gpu")
    throttled = [words for words in (_read(cooling, root), card.throttled) if words is not None]
    slow = (_read(jtop, root) if between_jobs else None) or jtop.Board(None, None, None, None, None)
    if power is None and slow.power_mw is not None:
        power = ina3221.Power(slow.power_mw, "module (jtop)")
    return Telemetry(
        taken_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        power_mode=_first(_read(nvpmodel, root), _read(platform_profile, root), slow.power_mode),
        governor=frequencies.governor if frequencies else None,
        cpu_mhz=list(frequencies.mhz) if frequencies else [],
        gpu_mhz=_first(clock.mhz if clock else None, card.sm_mhz, slow.gpu_mhz),
        temperature_c=max(temperatures.values(), default=slow.temperature_c),
        power_mw=power.mw if power else None,
        load_1m=_read(load, root),
        memory_available_bytes=amounts.available_bytes if amounts else None,
        memory_mhz=_first(_read(emc, root), card.memory_mhz, slow.memory_mhz),
        energy_mj=energy.mj if energy else None,
        throttled="; ".join(words for words in throttled if words) if throttled else None,
        gpu_governor=clock.governor if clock else None,
        temperatures_c=temperatures,
        power_of=power.of if power else None,
        energy_of=energy.of if energy else None,
        throttle_events=_read(events, root),
        gpu_neighbours=card.neighbours,
        uptime_seconds=others.uptime_seconds if others else None,
        others_cpu_seconds=others.others_cpu_seconds if others else None,
        stolen_cpu_seconds=others.stolen_cpu_seconds if others else None,
    )


def read_energy(on_gpu: Optional[bool] = None, root: str = "/", gpu: Optional[nvml.Session] = None) -> Optional[Energy]:
    """An energy counter and nothing else, as quickly as it can be read; None where there is none.

    ``on_gpu`` says where the job computes: True takes the GPU's alone and False the CPU's alone, None the first that
    there is. A GPU's job keeps its CPU busy too, which no counter of the GPU holds.
    """
    if on_gpu is not False:
        session = _session(root, gpu)
        counted = None if session is None else session.energy_mj()
        if counted is not None:
            return Energy(counted, "gpu")
    counted = None if on_gpu else _read(rapl, root)
    return None if counted is None else Energy(counted, "cpu")


def read_energy_mj(
    on_gpu: Optional[bool] = None, root: str = "/", gpu: Optional[nvml.Session] = None
) -> Optional[float]:
    """Only the millijoules of ``read_energy``."""
    energy = read_energy(on_gpu, root, gpu)
    return None if energy is None else energy.mj


def read_power_mw(
    on_gpu: Optional[bool] = None, root: str = "/", gpu: Optional[nvml.Session] = None
) -> Optional[float]:
    """The power at this moment and nothing else, for boards without a counter: a Jetson's module, else the GPU.

    Times the duration it is an energy only as far as the power did not change while the block ran. The GPU's is never
    taken for a job that computes on the CPU (``on_gpu`` False).
    """
    power = _read(ina3221, root)
    if power is not None:
        return float(power.mw)
    session = None if on_gpu is False else _session(root, gpu)
    return None if session is None else session.power_mw()


def _session(root: str, gpu: Optional[nvml.Session]) -> Optional[nvml.Session]:
    return gpu or (nvml.host() if nvml.available(root) else None)


def _card(root: str, gpu: Optional[nvml.Session]) -> Optional[nvml.Gpu]:
    session = _session(root, gpu)
    try:
        return None if session is None else session.read()
    except Exception:
        return None


def _read(sensor: ModuleType, root: str) -> Any:
    """What ``sensor`` reads; None where it is absent or fails."""
    try:
        return sensor.read(root) if sensor.available(root) else None
    except Exception:
        # Drivers answer with any error, and with any text. None of it may end a measurement.
        return None


def _first(*values: Any) -> Any:
    """The first that is told."""
    return next((value for value in values if value is not None), None)


def _kernel(root: str) -> str:
    try:
        with open(os.path.join(root, "proc/sys/kernel/osrelease")) as file:
            return file.read().strip()
    except OSError:
        return platform.release() or "unknown"
