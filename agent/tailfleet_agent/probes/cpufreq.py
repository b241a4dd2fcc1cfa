"""Governor and clock of each core, from ``/sys/devices/system/cpu``; where it is silent, clocks from cpuinfo."""

import re
from typing import List, NamedTuple, Optional

from tailfleet_agent.probes import sysfile

_FOLDERS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_CPUINFO = "proc/cpuinfo"


class Frequencies(NamedTuple):
    """``governor`` is a comma-separated list where cores differ."""

    governor: Optional[str]
    mhz: List[float]


def available(root: str) -> bool:
    """Whether either source is there."""
    return bool(sysfile.matching(root, _FOLDERS)) or sysfile.exists(root, _CPUINFO)


def read(root: str) -> Frequencies:
    """Governor and clocks of the cores that are on."""
    governors: List[str] = []
    mhz: List[float] = []
    for folder in sysfile.matching(root, _FOLDERS):
        try:
            mhz.append(sysfile.number(root, folder + "/scaling_cur_freq") / 1000.0)
            governors.append(sysfile.text(root, folder + "/scaling_governor"))
        except (OSError, ValueError):
            # A core that is switched off (nvpmodel does that) keeps its folder and refuses to be read.
            continue
    if not mhz and sysfile.exists(root, _CPUINFO):
        told = sysfile.text(root, _CPUINFO)
        mhz = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", told, re.MULTILINE)]
    return Frequencies(",".join(sorted(set(governors))) or None, mhz)
