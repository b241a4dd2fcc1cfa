"""How often the hardware itself held clocks down since the machine started: a counter, so no reading misses anything.

On an Orin under-voltage and over-current (``soctherm_oc``), which is what a weak power supply leads to; on an Intel CPU
heat, of cores and of the package.
"""

from typing import List, Optional

from tailfleet_agent.probes import sysfile

_HWMON = "sys/class/hwmon/hwmon*"
_CORES = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
_PACKAGES = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count"


def available(root: str) -> bool:
    """Whether anything counts."""
    return bool(_over_current(root)) or bool(sysfile.matching(root, _CORES))


def read(root: str) -> int:
    """The count of all kinds together."""
    counts = [sysfile.number(root, path) for path in _over_current(root) + sysfile.matching(root, _CORES)]
    # Every core repeats its package's count.
    packages = [sysfile.number(root, path) for path in sysfile.matching(root, _PACKAGES)]
    return int(sum(counts) + max(packages, default=0))


def _over_current(root: str) -> List[str]:
    folder: Optional[str] = None
    for candidate in sysfile.matching(root, _HWMON):
        if sysfile.text_or_none(root, candidate + "/name") == "soctherm_oc":
            folder = candidate
    if folder is None:
        return []
    # An event that is not wired to the clocks is only counted.
    return [
        path
        for path in sysfile.matching(root, folder + "/oc[0-9]_event_cnt")
        if sysfile.text_or_none(root, path.replace("_event_cnt", "_throt_en")) != "0"
    ]
