"""The load average of the last minute, from ``/proc/loadavg``."""

from tailfleet_agent.probes import sysfile

_PATH = "proc/loadavg"


def available(root: str) -> bool:
    """Whether the kernel tells."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> float:
    """Processes that ran or wanted to, averaged over a minute."""
    return sysfile.number(root, _PATH)
