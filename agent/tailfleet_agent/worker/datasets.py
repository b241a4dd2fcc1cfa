"""Labelled images on a board: reading their artifact and turning pixels into what a model takes.

The artifact is an ``.npz`` that holds plain arrays alone (no pickle) and whose sha256 is checked before it is
parsed. What a split is for, and judging predictions, are left to ``judge``; fetching the file to the supervisor.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from typing import Any, Dict, Optional

import numpy as np
import torch
import torch.nn.functional as functional

from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.workload import DatasetSpec, ModelSpec

SPLITS = ("train", "calibration", "evaluation")


@dataclass(frozen=True)
class Images:
    """One split: pixels as they are stored, and labels, in the artifact's order."""

    pixels: torch.Tensor
    """uint8 (n, h, w) or (n, h, w, 3)"""
    labels: torch.Tensor
    """int64 (n,)"""

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def inputs(self, model: ModelSpec) -> torch.Tensor:
        """All images as ``model`` takes them: fp32 (n, channels, size, size).

        Bilinear, without antialiasing, the one resampling that torch 1.10 and the newest compute alike.
        Raises ``InputError`` for colour images and a model that takes grey ones.
        """
        geometry, preprocessing = model.geometry, model.preprocessing
        if preprocessing is None:
            raise InputError("model {!r} has no preprocessing, so it cannot be given images".format(model.name))
        images = self.pixels.float() / 255
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)  # (n, 1 or 3, h, w)
        if images.shape[1] != geometry.channels:
            if images.shape[1] != 1:
                raise InputError(
                    "the images have {} channels, the model takes {}".format(images.shape[1], geometry.channels)
                )
            images = images.expand(-1, geometry.channels, -1, -1)
        images = functional.interpolate(
            images, size=(geometry.image_size, geometry.image_size), mode="bilinear", align_corners=False
        )
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return (images - mean) / std


def read_artifact(artifacts_dir: str, sha256: str, what: str) -> bytes:
    """The bytes of the artifact, checked. Raises ``LabError`` where it is absent or not what its name says."""
    path = os.path.join(artifacts_dir, sha256)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise LabError("{} is not on this board: {}".format(what, error))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LabError(
            "{} is damaged: its bytes do not have the sha256 {}".format(what, sha256[:12]),
            "remove {} and start the job again".format(path),
        )
    return content


def read_arrays(content: bytes, what: str) -> Dict[str, "np.ndarray[Any, Any]"]:
    """The plain arrays of an ``.npz``; never unpickles. Raises ``InputError`` for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a file that is none
        raise InputError("{} is not an .npz of plain arrays ({})".format(what, error))


def load(spec: DatasetSpec, artifacts_dir: str, split: str, limit: Optional[int] = None) -> Images:
    """The first ``limit`` images (None: all) of ``split``.

    Raises ``LabError`` for a missing or damaged artifact, ``InputError`` for one that does not hold what
    ``DatasetSpec`` promises: labels within the classes, and splits that share no image.
    """
    if split not in SPLITS:
        raise InputError("unknown split {!r}; known: {}".format(split, ", ".join(SPLITS)))
    what = "dataset {!r}".format(spec.name)
    arrays = read_arrays(read_artifact(artifacts_dir, spec.sha256, what), what)
    missing = [name for name in ("images", "labels", *SPLITS) if name not in arrays]
    if missing:
        raise InputError("{} lacks {}".format(what, ", ".join(missing)))
    images, labels = arrays["images"], arrays["labels"]
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
        raise InputError("{}: images must be uint8 (n, h, w) or (n, h, w, 3)".format(what))
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise InputError("{}: labels must be int64, one for each image".format(what))
    if labels.size and not 0 <= labels.min() <= labels.max() < spec.classes:
        raise InputError("{}: labels must lie between 0 and {}".format(what, spec.classes - 1))
    for name in SPLITS:
        index = arrays[name]
        inside = not index.size or 0 <= index.min() <= index.max() < len(labels)
        if index.dtype != np.int64 or index.ndim != 1 or not inside:
            raise InputError("{}: {} must be int64 indices of images".format(what, name))
    together = np.concatenate([arrays[name] for name in SPLITS])
    if len(np.unique(together)) != len(together):
        raise InputError("{}: its splits share images".format(what))
    chosen = arrays[split][:limit]
    if not len(chosen):
        raise InputError("{} has no {} images".format(what, split))
    return Images(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))
