"""Versions of NVIDIA's libraries that Debian's package manager installed, from its own list.

What torch brings itself is not among them; ``cuda_files`` knows what was installed without packages.
"""

import os
import re
from typing import Dict, List

from tailfleet_agent.probes import sysfile

_PATH = "var/lib/dpkg/status"

_WANTED = {
    "jetpack": re.compile(r"nvidia-jetpack$"),
    "cuda": re.compile(r"cuda-cudart-\d+-\d+$"),
    "cudnn": re.compile(r"libcudnn\d+(-cuda-\d+)?$"),
    "tensorrt": re.compile(r"libnvinfer\d+$"),
}


def available(root: str) -> bool:
    """Whether packages are managed by dpkg."""
    return sysfile.exists(root, _PATH)


def read(root: str) -> Dict[str, str]:
    """Versions without the packager's own part, by ``jetpack``, ``cuda``, ``cudnn`` and ``tensorrt``; where several
    are installed, the newest."""
    found: Dict[str, str] = {}
    kind, installed = "", False
    # Line by line: the list has some megabytes, and an idle agent is to stay small.
    with open(os.path.join(root, _PATH), encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.rstrip().partition(": ")
            if key == "Package":
                kind = next((name for name, pattern in _WANTED.items() if pattern.match(value)), "")
                installed = False
            elif kind and key == "Status":
                installed = value.endswith(" installed")
            elif kind and installed and key == "Version":
                version = re.split(r"[-+~]", value)[0]
                if kind not in found or _order(version) > _order(found[kind]):
                    found[kind] = version
    return found


def _order(version: str) -> List[int]:
    return [int(piece) for piece in re.findall(r"\d+", version)]
