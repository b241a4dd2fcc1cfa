"""From a checkpoint to a model that can be registered: a child with torch and timm builds it, reads its weights, and
tells its geometry and how it wants its images. Nothing of torch is imported here.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tailfleet_coordinator.library import child
from tailfleet_coordinator.library.admission import check_images
from tailfleet_coordinator.names import check_name
from tailfleet_schema.errors import InputError, InternalError
from tailfleet_schema.messages import RegisterOrder, RegisterReply
from tailfleet_schema.workload import ModelSpec

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")

CHILD = ("-m", "tailfleet_agent.worker", "register")


class Weights(Enum):
    """Where a model's weights come from."""

    RANDOM = "random"
    """Seeded random ones: latency only."""
    CHECKPOINT = "checkpoint"
    """A file of one's own."""
    PRETRAINED = "pretrained"
    """timm's own, fetched here and kept by the coordinator."""
    PRETRAINED_ON_BOARD = "pretrained-on-board"
    """timm's own, fetched by every board that runs the model."""


def weights_of(checkpoint: Path | None, pretrained: bool, pretrained_on_board: bool) -> Weights:
    """Which weights are meant. Raises ``InputError`` where several are."""
    if (checkpoint is not None) + pretrained + pretrained_on_board > 1:
        raise InputError(
            "a model has one set of weights", "give one of --checkpoint, --pretrained and --pretrained-on-board"
        )
    if checkpoint is not None:
        return Weights.CHECKPOINT
    if pretrained:
        return Weights.PRETRAINED
    return Weights.PRETRAINED_ON_BOARD if pretrained_on_board else Weights.RANDOM


@dataclass(frozen=True)
class Registered:
    """A model whose spec is known; ``weights`` is the ``.npz`` that its ``checkpoint_sha256`` is to name."""

    spec: ModelSpec
    weights: Path | None


@contextlib.contextmanager
def register(
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    pretrained_on_board: bool = False,
    dataset: str | None = None,
) -> Iterator[Registered]:
    """The model as this machine's timm builds it; the spec names no checkpoint yet. The file is gone after the block.

    Raises ``InputError`` for what the author got wrong (a file, a name, weights that do not fit), and
    ``ConfigurationError`` or ``LabError`` where this machine lacks torch or the way to timm's weights.
    """
    check_name("model", name)
    weights = weights_of(checkpoint, pretrained, pretrained_on_board)
    check_images(name, weights is Weights.RANDOM, dataset)
    if checkpoint is not None:
        _check_file(checkpoint)
    with tempfile.TemporaryDirectory(prefix="tailfleet-model-") as folder:
        out = Path(folder, "weights.npz") if weights in (Weights.CHECKPOINT, Weights.PRETRAINED) else None
        order = RegisterOrder(
            name=name,
            architecture=architecture,
            arguments=dict(arguments),
            checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
            pretrained=pretrained or pretrained_on_board,
            out=None if out is None else str(out),
        )
        told = ask(order)
        if told.wrote != (out is not None and out.is_file()):
            raise InternalError("the child that reads weights says otherwise of its file than the disk does")
        yield Registered(
            ModelSpec(
                name=name,
                architecture=architecture,
                geometry=told.geometry,
                arguments=told.arguments,
                dataset=dataset,
                preprocessing=told.preprocessing,
                pretrained=pretrained_on_board,
            ),
            out,
        )


def ask(order: RegisterOrder) -> RegisterReply:
    """What the child answers. Its failures are raised as what they are; what it prints besides is kept to itself."""
    return child.ask(CHILD, order, RegisterReply, "reads weights", "torch, timm and tailfleet are")


def _check_file(checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise InputError(f"there is no file {checkpoint}")
    if checkpoint.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{checkpoint.name} is of no kind that is read here", f"checkpoints end in {', '.join(SUFFIXES)}"
        )
