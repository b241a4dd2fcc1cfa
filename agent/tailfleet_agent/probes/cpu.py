"""The processor's name and the number of its cores, from ``/proc/cpuinfo``.

x86 names itself; ARM gives implementer and part numbers only, which are named here for the cores of Jetson boards
and a few common others.
"""

import re
from typing import NamedTuple

from tailfleet_agent.probes import sysfile

_PATH = "proc/cpuinfo"

_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


class Processor(NamedTuple):
    """Name (several where cores differ) and number of cores that are on."""

    name: str
    cores: int


def available(root: str) -> bool:
    """Whether the kernel lists its processors."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> Processor:
    """The processor."""
    told = sysfile.text(root, _PATH)
    cores = len(re.findall(r"^processor\s*:", told, re.MULTILINE))
    names = re.findall(r"^model name\s*:\s*(.+?)\s*$", told, re.MULTILINE)
    implementers = re.findall(r"^CPU implementer\s*:\s*(\S+)", told, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", told, re.MULTILINE)
    if parts:
        # On ARM "model name" says "ARMv8 Processor rev 1 (v8l)" of every core there is.
        names = [_ARM_PARTS.get(pair, "ARM part {}:{}".format(*pair)) for pair in zip(implementers, parts)]
    distinct = sorted(set(names))
    return Processor(" and ".join(distinct) or "unknown", max(cores, 1))
