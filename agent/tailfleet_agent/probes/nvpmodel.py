"""The power mode of a Jetson, by name where ``/etc/nvpmodel.conf`` names it, else by number."""

import re

from tailfleet_agent.probes import sysfile

_STATUS = "var/lib/nvpmodel/status"
_CONFIGURATION = "etc/nvpmodel.conf"


def available(root: str) -> bool:
    """Whether a mode was ever set."""
    return sysfile.exists(root, _STATUS)


def read(root: str) -> str:
    """Such as ``MAXN``, ``5W`` or ``2``. Raises ``ValueError`` where the state is not understood."""
    found = re.search(r"pmode:(\d+)", sysfile.text(root, _STATUS))
    if found is None:
        raise ValueError("no power mode in the state of nvpmodel")
    number = int(found.group(1))
    if sysfile.exists(root, _CONFIGURATION):
        named = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", sysfile.text(root, _CONFIGURATION))
        for identity, name in named:
            if int(identity) == number:
                return str(name)
    return str(number)
