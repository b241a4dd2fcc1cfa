"""How much CPU time everyone else used, from ``/proc/stat``: a busy neighbour is seen even between two readings."""

import os
import time
from typing import NamedTuple, Optional

from tailfleet_agent.probes import sysfile

_STAT = "proc/stat"
_UPTIME = "proc/uptime"


class Neighbours(NamedTuple):
    """Counters in seconds since the machine started; ``stolen_seconds`` is None where the kernel does not count it."""

    uptime_seconds: float
    others_cpu_seconds: float
    stolen_cpu_seconds: Optional[float]


def available(root: str) -> bool:
    """Whether the kernel tells."""
    return sysfile.exists(root, _STAT) and sysfile.exists(root, _UPTIME)


def read(root: str) -> Neighbours:
    """The counters; this process's own time is taken out, and that of other users of the machine is in."""
    first = sysfile.text(root, _STAT).split("\n", 1)[0].split()
    if first[:1] != ["cpu"]:
        raise ValueError("no total of CPU time")
    ticks = [float(value) for value in first[1:]]
    per_second = float(os.sysconf("SC_CLK_TCK"))
    # user, nice, system, (idle, waiting,) irq, softirq; guests are in user.
    busy = (sum(ticks[:3]) + sum(ticks[5:7])) / per_second
    # A recorded tree never ran this process.
    own = time.process_time() if root == "/" else 0.0
    return Neighbours(
        sysfile.number(root, _UPTIME), max(busy - own, 0.0), ticks[7] / per_second if len(ticks) > 7 else None
    )
