"""The power that a Jetson draws, from its monitors on I²C, whichever of their drivers the release carries.

JetPack 4 has NVIDIA's own driver of the INA3221, which gives milliwatts by rail; JetPack 5 and later the kernel's,
which gives millivolts and milliamperes. A Thor's carrier has an INA238 beside it, in microwatts. The rail that feeds
the whole module is taken, carrier board and fan not included; where none is (AGX boards), the sum of all rails, which
leaves out what has no monitor and, on an AGX Orin, may count the memory's rail twice.
"""

from typing import Dict, List, NamedTuple

from tailfleet_agent.probes import sysfile

_OLD = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
_NEW = "sys/class/hwmon/hwmon*"
_NEW_NAMES = ("ina3221", "ina238")

_WHOLE = ("POM_5V_IN", "VDD_IN", "VIN", "VIN_SYS_5V0_TOTAL")
"""What the rail that feeds everything is called: Nano; TX2, Xavier NX, Orin Nano and NX; Thor; others."""


class Power(NamedTuple):
    """Milliwatts at this moment, and what they are of."""

    mw: float
    of: str


def available(root: str) -> bool:
    """Whether a monitor is there."""
    return bool(sysfile.matching(root, _OLD)) or any(
        sysfile.text_or_none(root, folder + "/name") in _NEW_NAMES for folder in sysfile.matching(root, _NEW)
    )


def read(root: str) -> Power:
    """The power of the whole module where a rail feeds it. Raises ``OSError`` or ``ValueError`` where none answers."""
    rails = _rails(root)
    if not rails:
        raise ValueError("no rail has a monitor")
    for name in _WHOLE:
        if name in rails:
            return Power(rails[name], "module ({})".format(name))
    return Power(sum(rails.values()), "rails ({})".format(" + ".join(sorted(rails))))


def _rails(root: str) -> Dict[str, float]:
    """Milliwatts of each rail by its name."""
    rails: Dict[str, float] = {}
    for folder in sysfile.matching(root, _OLD):
        for path in sysfile.matching(root, folder + "/rail_name_[0-9]"):
            _note(rails, root, path, ["{}/in_power{}_input".format(folder, path[-1])], 1.0)
    for folder in sysfile.matching(root, _NEW):
        name = sysfile.text_or_none(root, folder + "/name")
        if name == "ina238":
            for path in sysfile.matching(root, folder + "/in[0-9]_label"):
                _note(rails, root, path, [folder + "/power1_input"], 1e-3)
        if name == "ina3221":
            # in4 to in6 are voltages of shunts, in7 is their sum: neither has a rail's label and current.
            for path in sysfile.matching(root, folder + "/in[1-3]_label"):
                volts = path.replace("_label", "_input")
                _note(rails, root, path, [volts, volts.replace("/in", "/curr")], 1e-3)
    return rails


def _note(rails: Dict[str, float], root: str, label: str, factors: List[str], unit: float) -> None:
    """Note the product of the ``factors``' files, if this is a rail: a channel that nothing is wired to says NC.

    Raises ``OSError`` or ``ValueError`` where it does not answer: a sum without it would be another figure.
    """
    name = sysfile.text_or_none(root, label)
    if not name or name == "NC" or sysfile.text_or_none(root, label.replace("_label", "_enable")) == "0":
        return
    milliwatts = unit
    for path in factors:
        milliwatts *= sysfile.number(root, path)
    rails[name] = milliwatts
