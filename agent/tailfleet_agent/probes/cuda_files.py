"""Versions of CUDA, cuDNN and TensorRT as their own files tell them, however they were installed."""

import re
from typing import Dict

from tailfleet_agent.probes import sysfile

_CUDA = ("usr/local/cuda/version.json", "usr/local/cuda/version.txt")
_HEADERS = {
    "cudnn": ("cudnn_version.h", r"#define CUDNN_(MAJOR|MINOR|PATCHLEVEL)\s+(\d+)"),
    "tensorrt": ("NvInferVersion.h", r"#define NV_TENSORRT_(MAJOR|MINOR|PATCH)\s+(\d+)"),
}
_FOLDERS = ("usr/include", "usr/include/*-linux-gnu", "usr/local/cuda/include")


def available(root: str) -> bool:
    """Whether any of the files is there."""
    return any(sysfile.exists(root, path) for path in _CUDA) or any(
        sysfile.matching(root, "{}/{}".format(folder, header)) for folder in _FOLDERS for header, _ in _HEADERS.values()
    )


def read(root: str) -> Dict[str, str]:
    """Versions by ``cuda``, ``cudnn`` and ``tensorrt``, as far as they are told."""
    found: Dict[str, str] = {}
    for path in _CUDA:
        told = sysfile.text_or_none(root, path) or ""
        version = re.search(r'CUDA Version (\d[\d.]*)|"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"(\d[\d.]*)"', told)
        if version is not None and "cuda" not in found:
            found["cuda"] = version.group(1) or version.group(2)
    for name, (header, pattern) in _HEADERS.items():
        for folder in _FOLDERS:
            for path in sysfile.matching(root, "{}/{}".format(folder, header)):
                pieces = dict(re.findall(pattern, sysfile.text_or_none(root, path) or ""))
                if len(pieces) == 3 and name not in found:
                    found[name] = ".".join(pieces.values())
    return found
