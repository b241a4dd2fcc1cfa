"""What jtop's service tells of a Jetson, where its package is there and its service runs: a last resort.

Its service runs as root, so it knows the memory's clock that others may not read. But it starts to poll the board while
somebody listens, and its first answer takes up to a second: it is asked between jobs only, never by the measured child,
and never started by us.
"""

import importlib
from typing import NamedTuple, Optional

from tailfleet_agent.probes import sysfile

_SOCKET = "run/jtop.sock"


class Board(NamedTuple):
    """None where this version of jtop does not tell."""

    power_mode: Optional[str]
    power_mw: Optional[float]
    temperature_c: Optional[float]
    gpu_mhz: Optional[float]
    memory_mhz: Optional[float]


def available(root: str) -> bool:
    """Whether the service listens. Of another machine's tree nobody can be asked."""
    return root == "/" and sysfile.exists(root, _SOCKET)


def read(root: str) -> Board:
    """One answer. Raises whatever jtop raises where it does not answer."""
    with importlib.import_module("jtop").jtop() as service:
        if not service.ok():
            raise ValueError("jtop does not answer")
        told = dict(service.stats)
        memory = getattr(service, "memory", None)
        gpus = dict(getattr(service, "gpu", None) or {})
    heat = [value for name, value in told.items() if name.lower().startswith("temp ") and _number(value) is not None]
    mode = told.get("nvp model")
    return Board(
        power_mode=str(mode) if mode else None,
        # Version 4 and 3 of jtop; milliwatts.
        power_mw=_number(told.get("Power TOT", told.get("power cur"))),
        temperature_c=max((float(value) for value in heat), default=None),
        gpu_mhz=_khz(next(iter(gpus.values()), None), "freq"),
        memory_mhz=_khz(memory, "EMC"),
    )


def _number(value: object) -> Optional[float]:
    # A sensor that is offline says −256.
    return float(value) if isinstance(value, (int, float)) and value > -100 else None


def _khz(holder: object, name: str) -> Optional[float]:
    """MHz of the clock ``{name: {"cur": kilohertz}}``."""
    try:
        value = _number(holder[name]["cur"])  # type: ignore[index]
    except (KeyError, TypeError, IndexError):
        return None
    return value / 1000.0 if value else None
