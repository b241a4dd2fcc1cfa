"""Top-1 of every method at equal tokens, image by image, so that methods are compared on the same images.

On the vision transformer for MNIST where it is there, else on the bundled digits. Cropr is left out until queries are
there: arrays ``cropr.<block>`` beside the weights, or in an ``.npz`` of their own that ends on ``_cropr.npz``.
Left to others: which goals these figures have.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.benchmarks.method_latency import METHODS

from tailfleet_coordinator import bundled
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec

BLOCKS = [3, 6, 9]
"""Tokens leave here, as EViT published it; of fewer blocks those at the same quarters of the depth."""

SHARES = [0.7, 0.5]
"""Of the patches that arrive there."""

BATCH = 50
RESAMPLES = 10000


@dataclass(frozen=True)
class Source:
    """A trained model and its images."""

    model: ModelSpec
    weights: bytes
    dataset: DatasetSpec
    images: bytes
    queries: Path
    """Where Cropr's may lie, beside those in ``weights``."""


@dataclass(frozen=True)
class Accuracy:
    """Which images one method got right."""

    method: str
    share: float
    right: np.ndarray


def source() -> Source:
    """MNIST where its weights are there, else the digits."""
    here = Path(__file__).parent
    weights = here / "weights" / "mnist_vit.npz"
    if weights.exists():
        mnist = importlib.import_module("tests.benchmarks.mnist")
        model, content = mnist.trained()
        return Source(model, content, *mnist.dataset(), weights.with_name("mnist_vit_cropr.npz"))
    model = next(one for one in bundled.models() if one.dataset is not None)
    dataset, content = next(pair for pair in bundled.datasets() if pair[0].name == model.dataset)
    return Source(model, bundled.checkpoint_bytes(), dataset, content, here / "weights" / f"{model.name}_cropr.npz")


def keep(geometry: Geometry, share: float) -> list[int]:
    """Tokens that leave each block: prefix, and ``share`` of the patches that arrive at each of ``BLOCKS``."""
    reducing = {round(block * geometry.depth / 12) for block in BLOCKS}
    count, counts = geometry.tokens, []
    for block in range(geometry.depth):
        if block in reducing:
            count = geometry.prefix + int(np.ceil(share * (count - geometry.prefix)))
        counts.append(count)
    return counts


def measure(folder: str, limit: int | None = None) -> list[Accuracy]:
    """Every method on the evaluation images, dense first; ``folder`` takes the artifacts."""
    import torch

    from tailfleet_agent.worker import datasets
    from tailfleet_agent.worker.models import build
    from tailfleet_reduce import apply, queries

    given = source()
    assert given.model.checkpoint_sha256 is not None
    Path(folder, given.model.checkpoint_sha256).write_bytes(given.weights)
    Path(folder, given.dataset.sha256).write_bytes(given.images)
    stored = datasets.read_arrays(str(Path(folder, given.model.checkpoint_sha256)), "the weights")
    found = queries.separated(stored)[1]
    if given.queries.exists():
        found = queries.separated(datasets.read_arrays(str(given.queries), "the queries"))[1]
    model = build(given.model, folder, 0)
    loaded = datasets.load(given.dataset, folder, "evaluation", limit)
    images, labels = loaded.inputs(given.model), loaded.labels
    geometry = given.model.geometry

    def right(run: torch.nn.Module) -> np.ndarray:
        with torch.inference_mode():
            told = torch.cat([run(images[start : start + BATCH]).argmax(1) for start in range(0, len(images), BATCH)])
        return (told == labels).numpy()

    results = [Accuracy("dense", 1.0, right(model))]
    for share in SHARES:
        schedule_keep = keep(geometry, share)
        for method in METHODS:
            schedule = Schedule(method, given.model.name, geometry.tokens, geometry.prefix, schedule_keep)
            if method == "cropr" and not set(schedule.reducing_blocks) <= set(found):
                print(f"  cropr at {share:g}: left out, there are no queries of {given.model.name} for it", flush=True)
                continue
            chosen = {block: torch.from_numpy(found[block]) for block in found} if method == "cropr" else None
            results.append(Accuracy(method, share, right(apply(model, schedule, queries=chosen))))
    return results


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Top-1 of ``one`` less that of ``other``, percentage points, with a 95 % paired bootstrap over images."""
    apart = 100.0 * (one.astype(float) - other.astype(float))
    # Of each image one of three values: how often each is drawn is all that a mean needs.
    values, counts = np.unique(apart, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(apart), counts / len(apart), RESAMPLES)
    low, high = np.quantile(drawn @ values / len(apart), [0.025, 0.975])
    return float(apart.mean()), float(low), float(high)
