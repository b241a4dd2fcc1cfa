"""Models and images that come with tailfleet: enough to see the whole way with no download.

``deit_small_patch16_224`` has random weights and no images: its latency is real, its accuracy is not asked for.
``digits_vit`` is a small transformer trained on real handwritten digits, so its accuracy is a real number.
Building and running them is left to the measured child; nothing here imports torch.
"""

import hashlib
from functools import cache
from pathlib import Path

from tailfleet_coordinator.bundled import digits, labelled
from tailfleet_schema.errors import ConfigurationError
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec

CHECKPOINT = Path(__file__).with_name("digits_vit.npz")
DEIT = "deit_small_patch16_224"

MODEL_NAMES = frozenset([DEIT, digits.MODEL])
DATASET_NAMES = frozenset([digits.DATASET])

TRAINING_EPOCHS = 120
TRAINING_SEED = 1


def models() -> list[ModelSpec]:
    """The bundled models. Raises ``ConfigurationError`` where the digits' weights are missing."""
    return [deit_small(), digits.model(hashlib.sha256(checkpoint_bytes()).hexdigest())]


def datasets() -> list[tuple[DatasetSpec, bytes]]:
    """The bundled datasets, each with the bytes of its artifact."""
    return [digits.dataset()]


@cache
def checkpoint_bytes() -> bytes:
    """The weights of ``digits_vit``, an ``.npz``."""
    try:
        return CHECKPOINT.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the weights of digits_vit cannot be read: {error}", "tailfleet model train-digits"
        ) from error


def deit_small() -> ModelSpec:
    """DeiT-S at 224: random weights, latency only."""
    return ModelSpec(
        name=DEIT,
        architecture=DEIT,
        geometry=Geometry(
            depth=12,
            dim=384,
            heads=6,
            mlp_dim=1536,
            tokens=197,
            prefix=1,
            image_size=224,
            patch_size=16,
            channels=3,
            classes=1000,
        ),
    )


def training_command(out: Path) -> list[str]:
    """The command that trains ``digits_vit`` again and writes its weights to ``out``; about 23 minutes on one core.

    Also writes the images beside ``out``, where the command reads them.
    """
    spec, content = digits.dataset()
    options = ["--epochs", str(TRAINING_EPOCHS), "--seed", str(TRAINING_SEED)]
    return labelled.training_command(digits.model(None), spec, content, out, options)
