"""What happened to a board between two readings of its sensors, and what is wrong with it at one, in words.

For the reasons that a measurement gives when it calls a round disturbed or a curve unstable. Pure; a figure that either
reading lacks says nothing, so silence is no proof of a quiet board. Left to others: whether a round counts (``quiet``),
and reading the sensors (the agent's probes).
"""

from typing import List, Optional

from tailfleet_schema.board import Telemetry

GPU_CLOCK_SHARE = 0.05
"""A GPU's boost clock wanders by a step or two (15 MHz of 1900) on its own; heat and power limits take more."""

CPU_CLOCK_SHARE = 0.10
"""Of the fastest core's clock. How many other cores are awake moves a boost clock by some percent."""

TEMPERATURE_C = 10.0
"""Clocks depend on heat from some point on; less than this is what any minute of work does."""

NEIGHBOUR_CORES = 0.2
"""Cores' worth of CPU time. An idle system spends a few hundredths on itself."""

LEAST_SECONDS = 0.5
"""Between two readings that say how busy others were: the kernel counts CPU time in hundredths of a second."""


def changes(before: Telemetry, after: Telemetry) -> List[str]:
    """What changed by more than it does on its own, the gravest first; empty: nothing that the sensors tell of.

    Both readings must be of the same process and under the same load: an idle board's clocks say nothing.
    """
    said: List[str] = []
    elapsed = _grown(before.uptime_seconds, after.uptime_seconds)
    if elapsed is not None and elapsed < 0:
        # Counters began anew, and clocks are those of a board that has just started.
        return ["the board was restarted"]
    said += _setting("power mode", before.power_mode, after.power_mode)
    news = [reason for reason in _reasons(after) if reason not in _reasons(before)]
    if news:
        said.append("throttled: {}".format("; ".join(news)))
    events = _grown(before.throttle_events, after.throttle_events)
    if events:
        said.append("throttled {:.0f} times in between, as the hardware counts".format(events))
    said += _clock("GPU clock", before.gpu_mhz, after.gpu_mhz, GPU_CLOCK_SHARE)
    said += _clock("memory clock", before.memory_mhz, after.memory_mhz, GPU_CLOCK_SHARE)
    said += _clock(
        "clock of the fastest core",
        max(before.cpu_mhz, default=None),
        max(after.cpu_mhz, default=None),
        CPU_CLOCK_SHARE,
    )
    if before.cpu_mhz and after.cpu_mhz and len(before.cpu_mhz) != len(after.cpu_mhz):
        said.append("cores that are on changed from {} to {}".format(len(before.cpu_mhz), len(after.cpu_mhz)))
    said += _setting("governor of the CPU", before.governor, after.governor)
    said += _setting("governor of the GPU", before.gpu_governor, after.gpu_governor)
    said += _temperature(before, after)
    said += _neighbours(before, after)
    return said


def hindrances(state: Telemetry) -> List[str]:
    """What keeps the board from being itself at this one moment, however long it has lasted: throttling, and other
    processes on the GPU."""
    said: List[str] = []
    if state.throttled:
        said.append("throttled: {}".format(state.throttled))
    if state.gpu_neighbours:
        said.append(_gpu_neighbours(state.gpu_neighbours))
    return said


def _setting(name: str, before: Optional[str], after: Optional[str]) -> List[str]:
    if before is None or after is None or before == after:
        return []
    return ["{} changed from {} to {}".format(name, before, after)]


def _clock(name: str, before: Optional[float], after: Optional[float], share: float) -> List[str]:
    if before is None or after is None or abs(after - before) <= share * max(before, after):
        return []
    return ["{} {} from {:.0f} to {:.0f} MHz".format(name, _moved(before, after), before, after)]


def _temperature(before: Telemetry, after: Telemetry) -> List[str]:
    # By zone: one that is hot all the time hides the others from the hottest.
    pairs = [
        (abs(after.temperatures_c[zone] - celsius), " of " + zone, celsius, after.temperatures_c[zone])
        for zone, celsius in before.temperatures_c.items()
        if zone in after.temperatures_c
    ]
    if before.temperature_c is not None and after.temperature_c is not None:
        # The hottest speaks for the board where it moved as far as any.
        pairs.append((abs(after.temperature_c - before.temperature_c), "", before.temperature_c, after.temperature_c))
    if not pairs:
        return []
    moved, zone, cold, hot = max(pairs, key=lambda pair: (pair[0], not pair[1]))
    if moved < TEMPERATURE_C:
        return []
    return ["temperature{} {} from {:.0f} to {:.0f} °C".format(zone, _moved(cold, hot), cold, hot)]


def _neighbours(before: Telemetry, after: Telemetry) -> List[str]:
    said: List[str] = []
    if after.gpu_neighbours and after.gpu_neighbours > (before.gpu_neighbours or 0):
        said.append(_gpu_neighbours(after.gpu_neighbours))
    seconds = _grown(before.uptime_seconds, after.uptime_seconds)
    if seconds is None or seconds < LEAST_SECONDS:
        return said
    for used, words in (
        (_grown(before.others_cpu_seconds, after.others_cpu_seconds), "other processes used {:.1f} cores"),
        (_grown(before.stolen_cpu_seconds, after.stolen_cpu_seconds), "the host gave {:.1f} cores to others"),
    ):
        if used is not None and used / seconds >= NEIGHBOUR_CORES:
            said.append(words.format(used / seconds))
    return said


def _gpu_neighbours(count: int) -> str:
    return "{} other {} on the GPU".format(count, "process computes" if count == 1 else "processes compute")


def _reasons(state: Telemetry) -> List[str]:
    return [reason for reason in (state.throttled or "").split("; ") if reason]


def _grown(before: Optional[float], after: Optional[float]) -> Optional[float]:
    return None if before is None or after is None else after - before


def _moved(before: float, after: float) -> str:
    return "rose" if after > before else "fell"
