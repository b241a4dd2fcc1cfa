"""The temperature of the hottest zone, from ``/sys/class/thermal``."""

from typing import List

from tailfleet_agent.probes import sysfile

_ZONES = "sys/class/thermal/thermal_zone*"

_NOT_SILICON = ("PMIC-Die", "PMIC", "iwlwifi_1", "thermal-fan-est")
"""Zones that say nothing of the board's heat. A Jetson's PMIC reports a constant 100 °C until it trips."""

_PLAUSIBLE_C = (-40.0, 150.0)


def available(root: str) -> bool:
    """Whether there are zones."""
    return bool(sysfile.matching(root, _ZONES))


def read(root: str) -> float:
    """Degrees Celsius. Raises ``ValueError`` where no zone gives a plausible one."""
    degrees: List[float] = []
    for zone in sysfile.matching(root, _ZONES):
        try:
            kind = sysfile.text(root, zone + "/type")
            value = sysfile.number(root, zone + "/temp") / 1000.0
        except (OSError, ValueError):
            # Zones of parts that sleep answer "Resource temporarily unavailable".
            continue
        if kind not in _NOT_SILICON and _PLAUSIBLE_C[0] < value < _PLAUSIBLE_C[1]:
            degrees.append(value)
    return max(degrees)
