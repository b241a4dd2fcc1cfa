"""What tells this machine from another: a hash, the same after each boot, stored nowhere by us.

From ``/etc/machine-id`` where the system has one, else from the hardware addresses of its network and its host
name. Only a hash leaves the board: machine ids are meant to be kept secret.
"""

import hashlib
import platform

from tailfleet_agent.probes import sysfile

_PATHS = ("etc/machine-id", "var/lib/dbus/machine-id")
_NO_ADDRESS = "00:00:00:00:00:00"


def available(root: str) -> bool:
    """Always: there is a fallback."""
    return True


def read(root: str) -> str:
    """The hash: 32 hexadecimal digits."""
    for path in _PATHS:
        if sysfile.exists(root, path):
            told = sysfile.text(root, path)
            # systemd writes "uninitialized" into images that have not booted yet.
            if len(told) == 32:
                return _hash(told)
    addresses = [_address(root, path) for path in sysfile.matching(root, "sys/class/net/*")]
    name = sysfile.text(root, "proc/sys/kernel/hostname") if sysfile.exists(root, "proc/sys/kernel/hostname") else ""
    known = sorted(address for address in addresses if address)
    return _hash("|".join([*known, name])) if known or name else unknown()


def unknown() -> str:
    """The hash of what Python itself knows of the machine."""
    return _hash(platform.node())


def _address(root: str, interface: str) -> str:
    # Only interfaces with a device behind them: bridges and tunnels invent their addresses at each boot.
    if not sysfile.exists(root, interface + "/device") or not sysfile.exists(root, interface + "/address"):
        return ""
    address = sysfile.text(root, interface + "/address")
    return "" if address == _NO_ADDRESS else address


def _hash(text: str) -> str:
    return hashlib.sha256(("tailfleet machine " + text).encode("utf-8")).hexdigest()[:32]
