"""The GPU's clock on a Jetson, from ``/sys/class/devfreq``. PCs have none here: theirs is ``nvml``'s."""

from typing import NamedTuple, Optional

from tailfleet_agent.probes import sysfile

_GPU_NAMES = (".gpu", ".gm20b", ".gp10b", ".gv11b", ".ga10b", "gpu-")
"""How the folder of the GPU is called after its address: Nano 57000000.gpu, TX2 17000000.gp10b, Xavier
17000000.gv11b, Orin 17000000.ga10b and from JetPack 6 on 17000000.gpu; a Thor's leads with gpu-."""


class GpuClock(NamedTuple):
    """``max_mhz`` is the highest that the chip has, not what the power mode allows: that is max_freq."""

    mhz: float
    governor: Optional[str]
    max_mhz: Optional[float]


def available(root: str) -> bool:
    """Whether a folder of a GPU is there."""
    return _folder(root) is not None


def read(root: str) -> GpuClock:
    """The clock of this moment; a GPU that is switched off (railgated) tells its last one."""
    folder = _folder(root)
    if folder is None:
        raise ValueError("no clock of a GPU")
    governor = sysfile.text_or_none(root, folder + "/governor")
    steps = (sysfile.text_or_none(root, folder + "/available_frequencies") or "").split()
    highest = max((float(step) for step in steps if step.isdigit()), default=None)
    return GpuClock(
        sysfile.number(root, folder + "/cur_freq") / 1e6, governor, None if highest is None else highest / 1e6
    )


def _folder(root: str) -> Optional[str]:
    for folder in sysfile.matching(root, "sys/class/devfreq/*"):
        if any(name in folder for name in _GPU_NAMES):
            return folder
    return None
