"""The clock of a Jetson's memory (EMC), which only root may read on most of them: debugfs is closed to others."""

from typing import Optional

from tailfleet_agent.probes import sysfile

_PATHS = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",  # TX2, Xavier, Orin
    "sys/kernel/debug/clk/emc/clk_rate",  # Nano
    "sys/class/devfreq/bwmgr/cur_freq",  # Thor
)


def available(root: str) -> bool:
    """Whether the clock is there for this user."""
    return _path(root) is not None


def read(root: str) -> float:
    """MHz."""
    path = _path(root)
    if path is None:
        raise ValueError("no clock of the memory")
    return sysfile.number(root, path) / 1e6


def _path(root: str) -> Optional[str]:
    return next((path for path in _PATHS if sysfile.exists(root, path)), None)
