"""How much memory the board has and has left, from ``/proc/meminfo``."""

import re
from typing import NamedTuple, Optional

from tailfleet_agent.probes import sysfile

_PATH = "proc/meminfo"


class Memory(NamedTuple):
    """Both in bytes; ``available_bytes`` is None on kernels before 3.14."""

    total_bytes: int
    available_bytes: Optional[int]


def available(root: str) -> bool:
    """Whether the kernel tells."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> Memory:
    """Total and available memory."""
    kilobytes = dict(re.findall(r"^(\w+):\s*(\d+) kB", sysfile.text(root, _PATH), re.MULTILINE))
    left = kilobytes.get("MemAvailable")
    return Memory(int(kilobytes["MemTotal"]) * 1024, None if left is None else int(left) * 1024)
