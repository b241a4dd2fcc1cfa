"""The release of NVIDIA's Linux for Tegra, such as "32.7.1" (JetPack 4.6.1), from ``/etc/nv_tegra_release``."""

import re

from tailfleet_agent.probes import sysfile

_PATH = "etc/nv_tegra_release"


def available(root: str) -> bool:
    """Whether this is a Jetson with NVIDIA's Linux."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> str:
    """The release. Raises ``ValueError`` for another text."""
    told = sysfile.text(root, _PATH)
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", told)
    if found is None:
        raise ValueError("not a release of L4T: {!r}".format(told[:80]))
    return ".".join(found.groups())
