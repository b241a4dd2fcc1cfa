"""The power mode of a PC: the platform profile that ACPI's firmware follows, such as ``balanced``."""

from tailfleet_agent.probes import sysfile

_PATH = "sys/firmware/acpi/platform_profile"


def available(root: str) -> bool:
    """Whether the firmware has profiles."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> str:
    """Such as ``low-power``, ``balanced`` or ``performance``. Raises ``ValueError`` for no name."""
    told = sysfile.text(root, _PATH)
    if not told.replace("-", "").isalpha():
        raise ValueError("no name of a profile: {!r}".format(told[:40]))
    return told
