"""Temperatures of the board's silicon by zone, from ``/sys/class/thermal``, and on PCs from ``/sys/class/hwmon``."""

import re
from typing import Dict

from tailfleet_agent.probes import sysfile

_ZONES = "sys/class/thermal/thermal_zone*"
_HWMON = "sys/class/hwmon/hwmon*"

_CPU_DRIVERS = ("coretemp", "k10temp", "zenpower")
"""Drivers of CPUs' own sensors; an AMD desktop has no thermal zone for its CPU."""

_NOT_SILICON = re.compile(
    r"PMIC|iwlwifi|nvme|thermal-fan-est|Tboard|INT3400|pch_|acpitz|B0D4|SEN\d|TSKN|TMEM|BAT|ambient|wifi", re.IGNORECASE
)
"""Zones that say nothing of how hot the silicon is. A Jetson's PMIC reports a constant 100 °C until it trips; acpitz is
the mainboard's, and on many PCs a constant."""

_PLAUSIBLE_C = (-40.0, 150.0)
"""Zones of parts that are switched off say −256 or −274 °C."""


def available(root: str) -> bool:
    """Whether there are zones or sensors."""
    return bool(sysfile.matching(root, _ZONES)) or bool(sysfile.matching(root, _HWMON))


def read(root: str) -> Dict[str, float]:
    """Degrees Celsius by zone. Raises ``ValueError`` where none gives a plausible value."""
    degrees: Dict[str, float] = {}
    for zone in sysfile.matching(root, _ZONES):
        kind = sysfile.text_or_none(root, zone + "/type")
        if kind and not _NOT_SILICON.search(kind):
            _note(degrees, kind, root, zone + "/temp")
    for folder in sysfile.matching(root, _HWMON):
        name = sysfile.text_or_none(root, folder + "/name")
        if name in _CPU_DRIVERS and name is not None:
            # The first is the package (Intel) or what the fan is steered by (AMD).
            _note(degrees, name, root, folder + "/temp1_input")
    if not degrees:
        raise ValueError("no zone gives a plausible temperature")
    return degrees


def _note(degrees: Dict[str, float], kind: str, root: str, path: str) -> None:
    try:
        value = sysfile.number(root, path) / 1000.0
    except (OSError, ValueError):
        # Zones of parts that sleep answer "Resource temporarily unavailable".
        return
    if not _PLAUSIBLE_C[0] < value < _PLAUSIBLE_C[1]:
        return
    number = 1
    name = kind
    while name in degrees:
        number += 1
        name = "{} {}".format(kind, number)
    degrees[name] = value
