"""Whether the kernel holds clocks down against heat, from the cooling devices in ``/sys/class/thermal``.

A hint only, and on a Jetson the only one: its hardware tells nothing more. What hardware does by itself is counted in
``events``.
"""

import re
from typing import Optional

from tailfleet_agent.probes import sysfile

_DEVICES = "sys/class/thermal/cooling_device*"

_THROTTLES = re.compile(
    r"throttle|balanced|hot-surface|^(thermal-)?(cpufreq|devfreq)|^Processor$|powerclamp", re.IGNORECASE
)
"""Devices that cool by slowing down: gpu-throttle-alert, cpu-balanced, cpufreq-cpu0, devfreq-17000000.gpu, ACPI's
Processor. Others are fans and screens."""


def available(root: str) -> bool:
    """Whether there is a device that cools by slowing down."""
    return any(_throttles(root, folder) for folder in sysfile.matching(root, _DEVICES))


def read(root: str) -> str:
    """Which of them are at work, such as "cooling by gpu-throttle-alert"; empty: none."""
    busy = []
    for folder in sysfile.matching(root, _DEVICES):
        kind = _throttles(root, folder)
        # Powerclamp says −1 while it rests.
        if kind is not None and sysfile.number(root, folder + "/cur_state") > 0 and kind not in busy:
            busy.append(kind)
    return "; ".join("cooling by " + kind for kind in busy)


def _throttles(root: str, folder: str) -> Optional[str]:
    kind = sysfile.text_or_none(root, folder + "/type")
    return kind if kind and _THROTTLES.search(kind) else None
