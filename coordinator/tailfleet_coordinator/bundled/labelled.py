"""Labelled pictures in memory become a dataset artifact, and a small transformer to be trained on them.

The pictures are split once and for all into training, calibration and evaluation images; the bytes of the artifact are
the same on every machine, so that its sha256 names the split. Where pictures come from is left to a module for each
dataset, scaling them and running the model to the measured child.
"""

import hashlib
import io
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailfleet_schema import codec
from tailfleet_schema.errors import InternalError
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec, Preprocessing

MLP_RATIO = 4


@dataclass(frozen=True)
class Split:
    """Sorted indices of the images of each part; no image is in two."""

    train: NDArray[np.int64]
    calibration: NDArray[np.int64]
    evaluation: NDArray[np.int64]


def split(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    calibration_share: float,
    evaluation_share: float,
    seed: int,
) -> Split:
    """``images`` (n, h, w) apart by ``labels`` (n,): seeded, and with the same mix of classes in each part.

    Images equal in every bit would have to go to one side together; none of ours are, and ``InternalError`` is
    raised should a later release of a source bring some.
    """
    if len(np.unique(images.reshape(len(images), -1), axis=0)) != len(images):
        raise InternalError("two of the bundled digits are the same image, so a split could share it")
    # The legacy generator's stream is frozen by numpy's own promise; that of default_rng is not.
    random = np.random.RandomState(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        evaluation = round(len(members) * evaluation_share)
        calibration = evaluation + round(len(members) * calibration_share)
        for part, chosen in zip(parts, np.split(members, [evaluation, calibration]), strict=True):
            part.extend(int(index) for index in chosen)
    evaluation_part, calibration_part, train_part = (np.array(sorted(part), dtype=np.int64) for part in parts)
    return Split(train_part, calibration_part, evaluation_part)


def dataset(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], parts: Split, source: str
) -> tuple[DatasetSpec, bytes]:
    """The dataset and the bytes of its ``.npz``."""
    content = write_npz(
        {
            "images": images,
            "labels": labels,
            "train": parts.train,
            "calibration": parts.calibration,
            "evaluation": parts.evaluation,
        }
    )
    spec = DatasetSpec(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        classes=len(np.unique(labels)),
        calibration_images=len(parts.calibration),
        evaluation_images=len(parts.evaluation),
        source=source,
    )
    return spec, content


def preprocessing(train: NDArray[np.uint8]) -> Preprocessing:
    """Mean and deviation are those of ``train``, the training images."""
    pixels = train / 255
    return Preprocessing([round(float(pixels.mean()), 4)], [round(float(pixels.std()), 4)], "bilinear")


def vit(
    name: str,
    *,
    image_size: int,
    patch_size: int,
    classes: int,
    dim: int,
    depth: int,
    heads: int,
    dataset: str,
    preprocessing: Preprocessing,
    checkpoint_sha256: str | None,
) -> ModelSpec:
    """A grey-scale ``VisionTransformer`` with the weights of that content address; None: seeded random ones."""
    return ModelSpec(
        name=name,
        architecture="VisionTransformer",
        geometry=Geometry(
            depth=depth,
            dim=dim,
            heads=heads,
            mlp_dim=dim * MLP_RATIO,
            tokens=(image_size // patch_size) ** 2 + 1,
            prefix=1,
            image_size=image_size,
            patch_size=patch_size,
            channels=1,
            classes=classes,
        ),
        arguments={
            "img_size": image_size,
            "patch_size": patch_size,
            "in_chans": 1,
            "num_classes": classes,
            "embed_dim": dim,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": MLP_RATIO,
        },
        checkpoint_sha256=checkpoint_sha256,
        dataset=dataset,
        preprocessing=preprocessing,
    )


def training_command(
    model: ModelSpec, spec: DatasetSpec, content: bytes, out: Path, options: Sequence[str]
) -> list[str]:
    """The command that trains ``model`` from nothing and writes its weights to ``out``; ``options`` are added to it.

    Also writes the images beside ``out``, named by their sha256, since the command reads them from there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / spec.sha256).write_bytes(content)
    given = {
        "--model": codec.dumps(model),
        "--dataset": codec.dumps(spec),
        "--artifacts": str(out.parent),
        "--out": str(out),
    }
    words = [word for pair in given.items() for word in pair]
    return [sys.executable, "-m", "tailfleet_agent.worker.train", *words, *options]


def write_npz(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """An ``.npz`` whose bytes depend on ``arrays`` alone: no time stamps, and stored, since zlibs differ."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(name + ".npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # unix, wherever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, member.getvalue())
    return out.getvalue()
