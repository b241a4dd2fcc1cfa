"""The energy that a PC's CPU used, from the counters of ``/sys/class/powercap`` (RAPL): Intel, and AMD from Zen on.

The packages' sum: cores, caches and built-in graphics, without memory, mainboard and a plugged-in GPU. Since 2020 only
root may read the counters (they leak secrets of other processes), so most agents have none.
"""

from typing import Dict, List, Tuple

from tailfleet_agent.probes import sysfile

_ZONES = "sys/class/powercap/intel-rapl:*"

_seen: Dict[Tuple[str, str], Tuple[float, float]] = {}
"""By root and zone: the counter when it was last read, and what its earlier rounds amount to; microjoules."""


def available(root: str) -> bool:
    """Whether there is a counter of a package."""
    return bool(_packages(root))


def read(root: str) -> float:
    """Millijoules, growing within this process although the counters begin anew after some minutes to hours.

    Two readings must not lie further apart than that: 262 kJ on an Intel CPU, 65 kJ on an AMD (5 minutes at 200 W).
    Raises ``OSError`` where
    only root may read.
    """
    total_uj = 0.0
    for zone in _packages(root):
        now = sysfile.number(root, zone + "/energy_uj")
        last, passed = _seen.get((root, zone), (now, 0.0))
        if now < last:
            passed += sysfile.number(root, zone + "/max_energy_range_uj")
        _seen[root, zone] = now, passed
        total_uj += passed + now
    return total_uj / 1000.0


def _packages(root: str) -> List[str]:
    # Beside them lie their parts (core, uncore, dram) and on few machines psys, which is the whole machine.
    return [
        zone
        for zone in sysfile.matching(root, _ZONES)
        if (sysfile.text_or_none(root, zone + "/name") or "").startswith("package")
    ]
