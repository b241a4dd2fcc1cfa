"""The version of NVIDIA's kernel driver, from ``/proc/driver/nvidia/version``; Jetsons before Orin have none."""

import re

from tailfleet_agent.probes import sysfile

_PATH = "proc/driver/nvidia/version"


def available(root: str) -> bool:
    """Whether the driver is loaded."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> str:
    """The version. Raises ``ValueError`` for another text."""
    told = sysfile.text(root, _PATH)
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", told)
    if found is None:
        raise ValueError("not a version of the driver: {!r}".format(told[:80]))
    return found.group(1)
