"""The system on chip of a board with a device tree, such as ``tegra210``, from what the tree is compatible with."""

from tailfleet_agent.probes import sysfile

_PATHS = ("proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible")


def available(root: str) -> bool:
    """Whether there is a device tree."""
    return any(sysfile.exists(root, path) for path in _PATHS)


def read(root: str) -> str:
    """The last and most general entry without its maker: "nvidia,p3450-0000␀nvidia,tegra210" gives tegra210.

    Raises ``ValueError`` where there is none.
    """
    told = sysfile.text(root, next(path for path in _PATHS if sysfile.exists(root, path)))
    name = told.split("\0")[-1].partition(",")[2]
    if not name.replace("-", "").isalnum():
        raise ValueError("no chip: {!r}".format(told[:80]))
    return name
