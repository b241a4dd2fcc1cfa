"""Handwritten digits as a dataset artifact, and the small vision transformer that is trained on them.

The images are scikit-learn's copy of the UCI "Optical recognition of handwritten digits" test set: 1797 real
scans, 8 × 8 pixels. They are split here, once and for all, into training, calibration and evaluation images;
the bytes of the artifact are the same on every machine, so that its sha256 names the split. Scaling images
up and running the model is the measured child's work.
"""

import hashlib
import io
import zipfile
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tailfleet_schema.errors import InternalError
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec, Preprocessing

DATASET = "digits"
MODEL = "digits_vit"

CLASSES = 10
EVALUATION_SHARE = 400 / 1797
CALIBRATION_SHARE = 200 / 1797
SPLIT_SEED = 20240705

IMAGE_SIZE = 56
"""7 × 8 pixels: with 4 × 4 patches the grid is 14 × 14, and 197 tokens enter, as in a DeiT at 224."""
PATCH_SIZE = 4
DIM = 96
DEPTH = 12
HEADS = 3
MLP_RATIO = 4


def model(checkpoint_sha256: str | None) -> ModelSpec:
    """The digits transformer with the weights of that content address; None: seeded random ones."""
    return ModelSpec(
        name=MODEL,
        architecture="VisionTransformer",
        geometry=Geometry(
            depth=DEPTH,
            dim=DIM,
            heads=HEADS,
            mlp_dim=DIM * MLP_RATIO,
            tokens=(IMAGE_SIZE // PATCH_SIZE) ** 2 + 1,
            prefix=1,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            channels=1,
            classes=CLASSES,
        ),
        arguments={
            "img_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "in_chans": 1,
            "num_classes": CLASSES,
            "embed_dim": DIM,
            "depth": DEPTH,
            "num_heads": HEADS,
            "mlp_ratio": MLP_RATIO,
        },
        checkpoint_sha256=checkpoint_sha256,
        dataset=DATASET,
        preprocessing=_preprocessing(),
    )


def _preprocessing() -> Preprocessing:
    """Mean and deviation are those of the training images."""
    images, labels = _source()
    train, _, _ = split(images, labels)
    pixels = images[train] / 255
    return Preprocessing([round(float(pixels.mean()), 4)], [round(float(pixels.std()), 4)], "bilinear")


@cache
def _source() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 8, 8) and labels (n,)."""
    source = load_digits()
    return np.rint(source.images * (255 / 16)).astype(np.uint8), source.target.astype(np.int64)


@cache
def dataset() -> tuple[DatasetSpec, bytes]:
    """The digits and the bytes of their ``.npz``."""
    images, labels = _source()
    train, calibration, evaluation = split(images, labels)
    content = write_npz(
        {"images": images, "labels": labels, "train": train, "calibration": calibration, "evaluation": evaluation}
    )
    spec = DatasetSpec(
        name=DATASET,
        sha256=hashlib.sha256(content).hexdigest(),
        classes=CLASSES,
        calibration_images=len(calibration),
        evaluation_images=len(evaluation),
        source="UCI Optical Recognition of Handwritten Digits (test set), as shipped with scikit-learn",
    )
    return spec, content


def split(
    images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sorted train, calibration and evaluation indices: seeded, and with the same mix of classes in each.

    Images equal in every bit would have to go to one side together; there are none, and ``InternalError`` is
    raised should a later release of the source bring some.
    """
    if len(np.unique(images.reshape(len(images), -1), axis=0)) != len(images):
        raise InternalError("two of the bundled digits are the same image, so a split could share it")
    # The legacy generator's stream is frozen by numpy's own promise; that of default_rng is not.
    random = np.random.RandomState(SPLIT_SEED)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in range(CLASSES):
        members = random.permutation(np.flatnonzero(labels == label))
        evaluation = round(len(members) * EVALUATION_SHARE)
        calibration = evaluation + round(len(members) * CALIBRATION_SHARE)
        for part, chosen in zip(parts, np.split(members, [evaluation, calibration]), strict=True):
            part.extend(int(index) for index in chosen)
    evaluation_part, calibration_part, train_part = (np.array(sorted(part), dtype=np.int64) for part in parts)
    return train_part, calibration_part, evaluation_part


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
