"""What only the measured child can tell of a board: versions of torch and its kin, and the GPU that torch sees.

On a virtual board it tells the modelled hardware instead, and imports nothing. Left to the probes: all that files
of the operating system say.
"""

import glob
import importlib
import os
import re
from typing import Any, Dict, Optional, Sequence

LIBRARIES = ("/usr/lib", "/usr/lib/*-linux-gnu", "/usr/local/lib", "/usr/local/cuda/lib64", "/usr/local/tensorrt/lib")
"""Where TensorRT's packages put it."""


def read(virtual_profile: Optional[str] = None) -> Dict[str, Any]:
    """JSON-ready facts; None for what is absent.

    Keys: ``torch``, ``timm``, ``cuda``, ``cudnn``, ``onnxruntime``, ``tensorrt`` (versions), ``gpu``, ``gpu_sms``,
    ``gpu_memory_bytes``; of a virtual board also ``soc``, ``architecture``, ``cpu``, ``cpu_cores``,
    ``memory_bytes``, ``os``. Raises ``InputError`` for an unknown profile.
    """
    facts: Dict[str, Any] = dict.fromkeys(
        ("torch", "timm", "cuda", "cudnn", "onnxruntime", "tensorrt", "gpu", "gpu_sms", "gpu_memory_bytes")
    )
    if virtual_profile is not None:
        facts.update(_virtual(virtual_profile))
        return facts
    for name in ("timm", "onnxruntime"):
        facts[name] = _version(_module(name))
    facts["tensorrt"] = tensorrt_version()
    torch = _module("torch")
    if torch is None:
        return facts
    facts["torch"] = _version(torch)
    facts["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()
        gpu = torch.cuda.get_device_properties(0)
        facts.update(
            cudnn=None if cudnn is None else str(cudnn),
            gpu=gpu.name,
            gpu_sms=gpu.multi_processor_count,
            gpu_memory_bytes=gpu.total_memory,
        )
    return facts


def tensorrt_version(folders: Sequence[str] = LIBRARIES) -> Optional[str]:
    """TensorRT's version, by its Python package or, since a Jetson's Python has none, by its library's name."""
    version = _version(_module("tensorrt"))
    if version is not None:
        return version
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "libnvinfer.so.*")), key=len, reverse=True):
            found = re.search(r"libnvinfer\.so\.(\d+(?:\.\d+)*)$", path)
            if found is not None:
                return found.group(1)
    return None


def _virtual(name: str) -> Dict[str, Any]:
    from tailfleet_agent.worker.backends.named_boards import profile

    board = profile(name)
    stack = "torch 1.10, no fused attention" if not board.fused_attention else "torch 2, fused attention"
    return {
        "gpu": board.gpu,
        "gpu_sms": board.sms,
        "gpu_memory_bytes": board.memory_bytes,
        "soc": board.title,
        "architecture": board.architecture,
        "cpu": board.cpu,
        "cpu_cores": board.cpu_cores,
        "memory_bytes": board.memory_bytes,
        "os": "modelled ({})".format(stack),
    }


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:
        # A package that is there but broken (a wheel for another CUDA, say) is as good as absent.
        return None


def _version(module: Any) -> Optional[str]:
    version = getattr(module, "__version__", None)
    return None if version is None else str(version)
