"""The GPU's clock on a Jetson, from ``/sys/class/devfreq``. PCs have none here, and asking ``nvidia-smi`` disturbs."""

from typing import Optional

from tailfleet_agent.probes import sysfile

_GPU_NAMES = (".gpu", ".gm20b", ".gp10b", ".gv11b", ".ga10b", "gpu-")
"""How the folder of the GPU is called on Nano, TX2, Xavier and Orin, after its address; JetPack 7 leads with gpu-."""


def available(root: str) -> bool:
    """Whether a folder of a GPU is there."""
    return _folder(root) is not None


def read(root: str) -> float:
    """MHz."""
    folder = _folder(root)
    if folder is None:
        raise ValueError("no clock of a GPU")
    return sysfile.number(root, folder + "/cur_freq") / 1e6


def _folder(root: str) -> Optional[str]:
    for folder in sysfile.matching(root, "sys/class/devfreq/*"):
        if any(name in folder for name in _GPU_NAMES):
            return folder
    return None
