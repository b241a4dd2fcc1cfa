"""What a board says of itself, as lines that a person reads: its facts, and one reading of its sensors with units.

Left to others: reading them (``probes``), and what they mean for a measurement (``tailfleet_schema.state``).
"""

from typing import List, Optional, Tuple

from tailfleet_schema.board import BoardFacts, BoardKind, Telemetry, fingerprint
from tailfleet_schema.state import hindrances

_WIDTH = 20

Row = Tuple[str, Optional[str]]
"""A name, and what is told; None: nothing is."""


def facts_lines(facts: BoardFacts, power_mode: Optional[str]) -> List[str]:
    """Hardware, software, and the fingerprint that curves of this board are kept under."""
    hardware, software = facts.hardware, facts.software
    kind = "virtual ({})".format(facts.virtual_profile) if facts.kind is BoardKind.VIRTUAL else "physical"
    gpu_memory = hardware.gpu_memory_bytes
    rows: List[Row] = [
        ("board", kind),
        ("name", hardware.soc),
        ("chip", hardware.chip),
        ("processor", "{}, {} cores, {}".format(hardware.cpu, hardware.cpu_cores, hardware.architecture)),
        ("memory", _gibibytes(hardware.memory_bytes) if hardware.memory_bytes else None),
        ("GPU", hardware.gpu),
        ("GPU's SMs", None if hardware.gpu_sms is None else str(hardware.gpu_sms)),
        ("GPU's memory", None if gpu_memory is None else _gibibytes(gpu_memory)),
        ("GPU's highest clock", None if hardware.gpu_max_mhz is None else "{:g} MHz".format(hardware.gpu_max_mhz)),
        ("system", software.os),
        ("kernel", software.kernel),
        ("L4T", software.l4t),
        ("JetPack", software.jetpack),
        ("NVIDIA driver", software.driver),
        ("CUDA", software.cuda),
        ("cuDNN", software.cudnn),
        ("TensorRT", software.tensorrt),
        ("Python", software.python),
        ("torch", software.torch),
        ("timm", software.timm),
        ("ONNX Runtime", software.onnxruntime),
        ("agent", software.agent),
        ("machine", hardware.machine_id),
        (
            "fingerprint",
            "{}, {}".format(
                fingerprint(facts, power_mode)[:12],
                "without a power mode" if power_mode is None else "in power mode {}".format(power_mode),
            ),
        ),
    ]
    return _lines(rows, "not found")


def telemetry_lines(state: Telemetry, reading_ms: float) -> List[str]:
    """Every figure with its unit, what no sensor tells, and what keeps the board from being itself."""
    zones = ", ".join("{} {:.1f}".format(name, value) for name, value in state.temperatures_c.items())
    throttled = None if state.throttled is None else state.throttled or "no"
    rows: List[Row] = [
        ("power mode", state.power_mode),
        ("CPU clocks", ", ".join("{:.0f}".format(mhz) for mhz in state.cpu_mhz) + " MHz" if state.cpu_mhz else None),
        ("CPU governor", state.governor),
        ("GPU clock", None if state.gpu_mhz is None else "{:.1f} MHz".format(state.gpu_mhz)),
        ("GPU governor", state.gpu_governor),
        ("memory clock", None if state.memory_mhz is None else "{:.0f} MHz".format(state.memory_mhz)),
        ("temperatures", zones + " °C" if zones else None),
        ("hottest", None if state.temperature_c is None else "{:.1f} °C".format(state.temperature_c)),
        ("power", _of(state.power_mw, "W", state.power_of)),
        ("energy counter", _of(state.energy_mj, "J", state.energy_of)),
        ("throttled", throttled),
        ("throttle events", None if state.throttle_events is None else "{} so far".format(state.throttle_events)),
        ("GPU's neighbours", None if state.gpu_neighbours is None else "{} other".format(state.gpu_neighbours)),
        (
            "memory available",
            None if state.memory_available_bytes is None else _gibibytes(state.memory_available_bytes),
        ),
        ("load", None if state.load_1m is None else "{:.2f} processes over a minute".format(state.load_1m)),
        ("up", _seconds(state.uptime_seconds)),
        ("others' CPU time", _seconds(state.others_cpu_seconds)),
        ("stolen CPU time", _seconds(state.stolen_cpu_seconds)),
        ("one reading takes", "{:.1f} ms".format(reading_ms)),
    ]
    return _lines(rows, "no sensor tells") + ["! " + words for words in hindrances(state)]


def _lines(rows: List[Row], absent: str) -> List[str]:
    silent = ", ".join(name for name, told in rows if told is None)
    said = [(name, told) for name, told in rows if told is not None] + ([(absent, silent)] if silent else [])
    return ["{:<{}} {}".format(name, _WIDTH, told) for name, told in said]


def _gibibytes(value: int) -> str:
    return "{:.1f} GiB".format(value / 2.0**30)


def _seconds(value: Optional[float]) -> Optional[str]:
    return None if value is None else "{:.1f} s".format(value)


def _of(milli: Optional[float], unit: str, covers: Optional[str]) -> Optional[str]:
    return None if milli is None else "{:.2f} {} of the {}".format(milli / 1000.0, unit, covers)
