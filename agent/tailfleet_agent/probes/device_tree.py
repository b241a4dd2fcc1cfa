"""The board's own name, such as "NVIDIA Jetson Nano Developer Kit", from the device tree; absent on PCs."""

from tailfleet_agent.probes import sysfile

_PATHS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")


def available(root: str) -> bool:
    """Whether there is a device tree that names its board."""
    return any(sysfile.exists(root, path) for path in _PATHS)


def read(root: str) -> str:
    """The name."""
    return sysfile.text(root, next(path for path in _PATHS if sysfile.exists(root, path)))
