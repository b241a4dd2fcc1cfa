"""Checkpoints as people have them: read without running anything in them, fitted to a model, written as plain arrays.

``.npz`` and ``.safetensors`` hold numbers alone. A ``.pt`` is a pickle, which torch can be told to read for its weights
only; that is safe from torch 2.6 on, so an older one is not given the file at all. Building the model, and loading
what was written here, is left to ``models``.
"""

import argparse
import inspect
import os
import sys
import zipfile
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
import timm
import torch
from timm.models import vision_transformer as timm_vit
from torch import nn

from tailfleet_agent.worker import models
from tailfleet_agent.worker.datasets import read_arrays
from tailfleet_reduce import queries
from tailfleet_schema.errors import ConfigurationError, InputError, LabError

Arrays = Dict[str, "np.ndarray[Any, Any]"]
Tensors = Dict[str, torch.Tensor]

PICKLED = (".pt", ".pth", ".bin")

SAFE_TORCH = (2, 6)
"""Before it, a file could run code although only its weights were asked for (CVE-2025-32434)."""

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights, the averaged ones first, as timm does."""

PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
"""What torch's compiler and its distributed training put before every name, in either order."""


def read(path: str) -> Tensors:
    """The weights in the file, by the names they have there.

    Raises ``InputError`` for a file that is absent, unreadable or holds more than weights, ``ConfigurationError``
    for one that what is installed here cannot read safely.
    """
    if not os.path.isfile(path):
        raise InputError("there is no checkpoint {}".format(path))
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npz":
        found: Any = {name: torch.from_numpy(array) for name, array in _plain_arrays(path).items()}
    elif suffix == ".safetensors":
        found = _safetensors(path)
    elif suffix in PICKLED:
        found = _pickled(path)
    else:
        raise InputError(
            "{} is none of the checkpoints that are understood: .npz, .safetensors, {}".format(path, ", ".join(PICKLED))
        )
    return _bare(found, path)


def fit(model: nn.Module, architecture: str, tensors: Tensors, path: str) -> Arrays:
    """``tensors`` under the names of ``model``'s own ``state_dict``, in order; ``model`` is filled with them.

    Names of other origins (DeiT, MAE, CLIP, DINOv2, …) and position embeddings for another image size are converted
    by timm's own function for the architecture. bfloat16, which numpy lacks, is widened to fp32; all else keeps its
    type. Cropr's queries stay beside the weights as they are. Raises ``InputError``, which names what does not fit.
    """
    tensors, found = queries.separated(tensors)
    if not _fits(model, tensors):
        tensors = _converted(model, architecture, tensors, path)
    tensors = dict(tensors, **{queries.array_name(block): query for block, query in found.items()})
    arrays = {name: _array(tensors[name]) for name in sorted(tensors)}
    try:
        models.fill(model, arrays, "checkpoint {}".format(path))
    except InputError as error:
        raise InputError(error.sentence, _mend(model, arrays))
    return arrays


def arrays_of(model: nn.Module) -> Arrays:
    """The weights that ``model`` has, as ``fit`` gives them."""
    return {name: _array(tensor) for name, tensor in sorted(model.state_dict().items())}


def write(path: str, arrays: Arrays) -> None:
    """An ``.npz`` that ``models.build`` loads; the same arrays give the same bytes. Raises ``LabError``."""
    draft = path + ".part"
    try:
        try:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(arrays):
                    # A ZipInfo that is told nothing is dated 1980: no clock gets into the bytes.
                    with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as out:
                        np.lib.format.write_array(out, arrays[name], version=(1, 0), allow_pickle=False)
            os.replace(draft, path)
        except BaseException:
            if os.path.exists(draft):
                os.remove(draft)
            raise
    except OSError as error:
        raise LabError("cannot write {}: {}".format(path, error.strerror))


def _plain_arrays(path: str) -> Arrays:
    arrays = read_arrays(path, "checkpoint {}".format(path))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputError("checkpoint {}: {} holds {}, no numbers".format(path, name, array.dtype))
    return arrays


def _safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ConfigurationError(
            "safetensors is not installed for {}, so {} cannot be read".format(sys.executable, path),
            "{} -m pip install safetensors (Python 3.7 or newer)".format(sys.executable),
        )
    try:
        return load_file(path)
    except Exception as error:  # a kind of its own, and OSError
        raise InputError("checkpoint {} is not a .safetensors file: {}".format(path, error))


def _pickled(path: str) -> Any:
    if _torch_version() < SAFE_TORCH:
        raise ConfigurationError(
            "torch {} cannot read {} without running what may be hidden in it".format(torch.__version__, path),
            "use torch {}.{} or newer, or save the weights as .safetensors where they were made".format(*SAFE_TORCH),
        )
    try:
        # Training scripts store their options beside the weights; a namespace of plain values does no harm.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, and what else a wrong file provokes
        raise InputError(
            "checkpoint {} holds more than weights, or is none: {}".format(path, _reason(error)),
            "where it was made: torch.save(model.state_dict(), FILE), or save it as .safetensors",
        )


def _torch_version() -> Tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def _reason(error: Exception) -> str:
    """torch's own words go on for a page; the line that names the culprit is what helps."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0]


def _bare(found: Any, path: str) -> Tensors:
    """The weights themselves, out of what a training script wrapped around them."""
    for name in WRAPPINGS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not found:
        raise InputError("checkpoint {} holds no weights by name".format(path))
    tensors: Tensors = {}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                "checkpoint {}: {!r} is no tensor; the weights are looked for at the top, and under {}".format(
                    path, name, ", ".join(WRAPPINGS)
                )
            )
        name = str(name)
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name = name[len(prefix) :]
        tensors[name] = value
    return tensors


def _fits(model: nn.Module, tensors: Tensors) -> bool:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return expected == {name: tuple(value.shape) for name, value in tensors.items()}


def _converted(model: nn.Module, architecture: str, tensors: Tensors, path: str) -> Tensors:
    convert = _converter(architecture)
    more = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return convert(dict(tensors), model, **more)
    except Exception as error:  # it assumes a checkpoint of a known origin, and fails anyhow on others
        raise InputError("checkpoint {} does not fit: {}".format(path, error or type(error).__name__))


def _converter(architecture: str) -> Callable[..., Tensors]:
    """What timm converts checkpoints of ``architecture`` with."""
    fallback: Callable[..., Tensors] = timm_vit.checkpoint_filter_fn
    if architecture == models.OWN_CLASS:
        return fallback
    room = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    return getattr(room, "checkpoint_filter_fn", fallback)


def _array(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.numpy()).reshape(tuple(tensor.shape))


def _mend(model: nn.Module, arrays: Arrays) -> Optional[str]:
    """The option that helps, where one is plain to see."""
    head = arrays.get("head.weight")
    classes = getattr(model, "num_classes", 0)
    if head is not None and head.ndim == 2 and head.shape[0] != classes:
        return "--num-classes {}".format(head.shape[0])
    if head is None and classes:
        return "--num-classes 0, if it is meant to have no classifier (its latency can be measured, its accuracy not)"
    return None
