"""Top-1 of every method at equal tokens on MNIST, image by image, so that methods are compared on the same images.

Cropr is trained here, once, under the schedule of fewest tokens, on the training images, queries and weights together
as its paper does; all others run on the dense model's weights. What fine-tuning alone is worth is ``bench_cropr``'s
question. Left to others: which goals these figures have.
"""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks import mnist
from tests.benchmarks.method_latency import METHODS

from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

BLOCKS = [3, 6, 9]
"""Tokens leave here, as EViT published it."""

SHARES = [0.7, 0.5]
"""Of the patches that arrive there."""

BATCH = 50
EPOCHS = 2
"""Of Cropr's training."""


@dataclass(frozen=True)
class Accuracy:
    """Which images one method got right, 1 or 0."""

    method: str
    share: float
    right: NDArray[np.float64]


def keep(geometry: Geometry, share: float) -> list[int]:
    """Tokens that leave each block: prefix, and ``share`` of the patches that arrive at each of ``BLOCKS``."""
    count, counts = geometry.tokens, []
    for block in range(geometry.depth):
        if block in BLOCKS:
            count = geometry.prefix + int(np.ceil(share * (count - geometry.prefix)))
        counts.append(count)
    return counts


def measure(limit: int | None = None) -> list[Accuracy]:
    """Every method on the evaluation images, or ``limit`` of them; dense first."""
    import torch

    from tailfleet_agent.worker import datasets
    from tailfleet_agent.worker.models import build
    from tailfleet_agent.worker.train_cropr import Batches
    from tailfleet_reduce import apply
    from tailfleet_reduce.train import Classification, Settings, train

    spec, weights = mnist.trained()
    dataset, content = mnist.dataset()
    assert spec.checkpoint_sha256 is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, spec.checkpoint_sha256).write_bytes(weights)
        Path(folder, dataset.sha256).write_bytes(content)
        model = build(spec, folder, 0)
        judged = datasets.load(dataset, folder, "evaluation", limit)
        learned = datasets.load(dataset, folder, "train", limit)
    images, labels = judged.inputs(spec), judged.labels

    def right(run: torch.nn.Module) -> NDArray[np.float64]:
        with torch.inference_mode():
            told = torch.cat([run(part).argmax(1) for part in images.split(BATCH)])
        return (told == labels).double().numpy()

    def under(method: str, share: float) -> Schedule:
        counts = keep(spec.geometry, share)
        return Schedule(method, spec.name, spec.geometry.tokens, spec.geometry.prefix, counts)

    tuned = copy.deepcopy(model)
    batches = Batches(learned, spec, BATCH, True, lambda part: None)
    settings = Settings(1 if limit else EPOCHS, seed=1)
    train(tuned, under("cropr", min(SHARES)), Classification(mnist.CLASSES), batches, settings)
    results = [Accuracy("dense", 1.0, right(model))]
    for share in SHARES:
        for method in METHODS:
            reduced = apply(tuned if method == "cropr" else model, under(method, share))
            results.append(Accuracy(method, share, right(reduced)))
    return results
