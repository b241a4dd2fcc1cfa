"""Sensors of a board, one to a file, standard library only. Each has ``available(root)`` and ``read(root)``.

``root`` is where the board's file system begins (``/``), so that a sensor can be tried on a recorded tree. A sensor
that is absent, or that fails, gives None: no measurement ends because a sensor did. What only torch can tell
(versions, the GPU) comes from the measured child as ``child_facts``. Sensors are read between timed blocks only.
"""

import datetime
import os
import platform
from types import ModuleType
from typing import Any, Dict, Optional

from tailfleet_agent.probes import (
    cpu,
    cpufreq,
    devfreq,
    device_tree,
    ina3221,
    l4t,
    load,
    machine,
    memory,
    nvidia_driver,
    nvpmodel,
    os_release,
    thermal,
)
from tailfleet_schema import __version__
from tailfleet_schema.board import BoardFacts, BoardKind, Hardware, Software, Telemetry

__all__ = ["read_facts", "read_telemetry"]


def read_facts(
    kind: BoardKind, virtual_profile: Optional[str], child_facts: Dict[str, Any], root: str = "/"
) -> BoardFacts:
    """Hardware and software of this board; of a virtual one, the modelled hardware that ``child_facts`` tells.

    ``machine_id`` is that of the machine the agent runs on, for virtual boards too: whoever measures that machine
    must know which agents compute on it.
    """
    physical = kind is BoardKind.PHYSICAL
    processor = _read(cpu, root) if physical else None
    amounts = _read(memory, root) if physical else None

    def told(name: str, otherwise: Any = None) -> Any:
        value = child_facts.get(name)
        return otherwise if value is None else value

    hardware = Hardware(
        machine_id=_read(machine, root) or machine.unknown(),
        architecture=told("architecture", platform.machine() or "unknown"),
        cpu=told("cpu", processor.name if processor else "unknown"),
        cpu_cores=told("cpu_cores", processor.cores if processor else os.cpu_count() or 1),
        memory_bytes=told("memory_bytes", amounts.total_bytes if amounts else 0),
        soc=told("soc", _read(device_tree, root) if physical else None),
        gpu=told("gpu"),
        gpu_sms=told("gpu_sms"),
        gpu_memory_bytes=told("gpu_memory_bytes"),
    )
    software = Software(
        os=told("os", (_read(os_release, root) if physical else None) or platform.system() or "unknown"),
        kernel=(_kernel(root) if physical else "modelled"),
        python=platform.python_version(),
        agent=__version__,
        l4t=_read(l4t, root) if physical else None,
        driver=_read(nvidia_driver, root) if physical else None,
        cuda=told("cuda"),
        cudnn=told("cudnn"),
        torch=told("torch"),
        timm=told("timm"),
        onnxruntime=told("onnxruntime"),
    )
    return BoardFacts(kind, hardware, software, virtual_profile)


def read_telemetry(root: str = "/") -> Telemetry:
    """The state of the board at this moment; a few dozen small files, some milliseconds."""
    frequencies = _read(cpufreq, root)
    amounts = _read(memory, root)
    return Telemetry(
        taken_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        power_mode=_read(nvpmodel, root),
        governor=frequencies.governor if frequencies else None,
        cpu_mhz=list(frequencies.mhz) if frequencies else [],
        gpu_mhz=_read(devfreq, root),
        temperature_c=_read(thermal, root),
        power_mw=_read(ina3221, root),
        load_1m=_read(load, root),
        memory_available_bytes=amounts.available_bytes if amounts else None,
    )


def _read(sensor: ModuleType, root: str) -> Any:
    """What ``sensor`` reads; None where it is absent or fails."""
    try:
        return sensor.read(root) if sensor.available(root) else None
    except Exception:
        # Drivers answer with any error, and with any text. None of it may end a measurement.
        return None


def _kernel(root: str) -> str:
    try:
        with open(os.path.join(root, "proc/sys/kernel/osrelease")) as file:
            return file.read().strip()
    except OSError:
        return platform.release() or "unknown"
