"""The power that a Jetson draws, from its INA3221 monitor, whichever of its two drivers the release carries.

JetPack 4 has NVIDIA's own driver, which gives milliwatts by rail; JetPack 5 and later the kernel's, which gives
millivolts and milliamperes. The rail that feeds the whole board is taken; where none is, the sum of all rails.
"""

from typing import Dict

from tailfleet_agent.probes import sysfile

_OLD = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
_NEW = "sys/class/hwmon/hwmon*"

_WHOLE_BOARD = ("POM_5V_IN", "VDD_IN", "VIN_SYS_5V0_TOTAL")


def available(root: str) -> bool:
    """Whether a monitor of either kind is there."""
    return bool(_rails(root))


def read(root: str) -> float:
    """Milliwatts."""
    rails = _rails(root)
    for name in _WHOLE_BOARD:
        if name in rails:
            return rails[name]
    return sum(rails.values())


def _rails(root: str) -> Dict[str, float]:
    """Milliwatts of each rail by its name."""
    rails: Dict[str, float] = {}
    for folder in sysfile.matching(root, _OLD):
        for path in sysfile.matching(root, folder + "/rail_name_[0-9]"):
            channel = path[-1]
            rails[sysfile.text(root, path)] = sysfile.number(root, "{}/in_power{}_input".format(folder, channel))
    for folder in sysfile.matching(root, _NEW):
        if not sysfile.exists(root, folder + "/name") or sysfile.text(root, folder + "/name") != "ina3221":
            continue
        for path in sysfile.matching(root, folder + "/in[0-9]*_label"):
            volts, amperes = path.replace("_label", "_input"), path.replace("/in", "/curr").replace("_label", "_input")
            if sysfile.exists(root, amperes):
                rails[sysfile.text(root, path)] = sysfile.number(root, volts) * sysfile.number(root, amperes) / 1000.0
    # A channel that nothing is wired to is called NC.
    return {name: value for name, value in rails.items() if name != "NC" and "sum of shunt" not in name}
