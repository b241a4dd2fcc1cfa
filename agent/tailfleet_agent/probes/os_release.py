"""The operating system's name and version, such as "Ubuntu 18.04.6 LTS", from ``/etc/os-release``."""

import re

from tailfleet_agent.probes import sysfile

_PATHS = ("etc/os-release", "usr/lib/os-release")


def available(root: str) -> bool:
    """Whether the system names itself."""
    return any(sysfile.exists(root, path) for path in _PATHS)


def read(root: str) -> str:
    """The name. Raises ``ValueError`` where there is none."""
    told = sysfile.text(root, next(path for path in _PATHS if sysfile.exists(root, path)))
    found = re.search(r"^PRETTY_NAME=[\"']?([^\"'\n]+)", told, re.MULTILINE)
    if found is None:
        raise ValueError("the system does not name itself")
    return found.group(1)
