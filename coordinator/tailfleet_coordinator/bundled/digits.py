"""Handwritten digits as a dataset artifact, and the small vision transformer that is trained on them.

The images are scikit-learn's copy of the UCI "Optical recognition of handwritten digits" test set: 1797 real
scans, 8 × 8 pixels. Splitting them and writing the artifact is ``labelled``'s work.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.bundled import labelled
from tailfleet_schema.workload import DatasetSpec, ModelSpec

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


def model(checkpoint_sha256: str | None) -> ModelSpec:
    """The digits transformer with the weights of that content address; None: seeded random ones."""
    images, _ = _source()
    return labelled.vit(
        MODEL,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        classes=CLASSES,
        dim=DIM,
        depth=DEPTH,
        heads=HEADS,
        dataset=DATASET,
        preprocessing=labelled.preprocessing(images[_split().train]),
        checkpoint_sha256=checkpoint_sha256,
    )


@cache
def dataset() -> tuple[DatasetSpec, bytes]:
    """The digits and the bytes of their ``.npz``."""
    images, labels = _source()
    source = "UCI Optical Recognition of Handwritten Digits (test set), as shipped with scikit-learn"
    return labelled.dataset(DATASET, images, labels, _split(), source)


@cache
def _source() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 8, 8) and labels (n,)."""
    # Imported late: it takes longer than all else that a command imports, and few need the images.
    from sklearn.datasets import load_digits

    source = load_digits()
    return np.rint(source.images * (255 / 16)).astype(np.uint8), source.target.astype(np.int64)


@cache
def _split() -> labelled.Split:
    images, labels = _source()
    return labelled.split(
        images, labels, calibration_share=CALIBRATION_SHARE, evaluation_share=EVALUATION_SHARE, seed=SPLIT_SEED
    )
