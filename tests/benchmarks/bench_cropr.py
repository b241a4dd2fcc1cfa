"""Cropr trained on MNIST: top-1 at half and a quarter of the tokens, beside random and topk at the same counts.

The share is that of tokens which blocks see on average: a constant drop after every block but the last, no last-layer
fusion. Queries and weights are trained on 2,500 images for a few epochs, with three seeds. All are judged on the same
2,000 images that no training saw, and their differences by a paired bootstrap over images, an image counting with its
mean over seeds. Fine-tuning alone makes a model better, so everything stands twice: on the weights that were there
before, and, which is the harder comparison, on those that each seed trained for Cropr, dense among them.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks import mnist
from tests.benchmarks.figure import Figure
from tests.benchmarks.paired import difference
from torch import nn

from tailfleet_agent.worker import datasets, models
from tailfleet_agent.worker.train_cropr import Batches
from tailfleet_reduce import apply
from tailfleet_reduce.train import Classification, Losses, Settings, Training, for_share, train
from tailfleet_schema.schedule import Schedule

SHARES = {"half": 0.5, "a quarter": 0.25}
SEEDS = (1, 2, 3)
EPOCHS = 3
BATCH = 64

GOAL_LOST = 1.0


def measure(quick: bool = False) -> list[Figure]:
    """A line an epoch, then the figures."""
    spec, content = mnist.trained()
    dataset, images = mnist.dataset()
    with tempfile.TemporaryDirectory() as folder:
        assert spec.checkpoint_sha256 is not None
        Path(folder, spec.checkpoint_sha256).write_bytes(content)
        Path(folder, dataset.sha256).write_bytes(images)
        model = models.build(spec, folder, 0)
        learned = datasets.load(dataset, folder, "train", 256 if quick else None)
        judged = datasets.load(dataset, folder, "evaluation", 200 if quick else None)
    inputs, labels = judged.inputs(spec), judged.labels
    batches = Batches(learned, spec, BATCH, True, lambda part: None)
    dense = right(model, inputs, labels)
    figures = [Figure(f"dense, {len(labels)} images: top-1", 100 * float(dense.mean()), "%")]
    for words, share in SHARES.items():
        schedule = for_share(spec.name, spec.geometry, share, fusion=False)
        seeds, epochs = (SEEDS[:1], 1) if quick else (SEEDS, EPOCHS)
        figures += _figures(words, schedule, model, batches, inputs, labels, dense, seeds, epochs)
    return figures


def right(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> NDArray[np.float64]:
    """1 for each image that ``model`` names rightly, 0 for the others."""
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in inputs.split(BATCH)])
    return (guesses == labels).double().numpy()


def rivals(
    model: nn.Module, schedule: Schedule, inputs: torch.Tensor, labels: torch.Tensor, seed: int
) -> dict[str, NDArray[np.float64]]:
    """What needs no training, at the counts of ``schedule``, and no reduction at all."""
    drawn = replace(schedule, method="random", parameters={"seed": seed})
    return {
        "dense": right(model, inputs, labels),
        "random": right(apply(model, drawn), inputs, labels),
        "topk": right(apply(model, replace(schedule, method="topk")), inputs, labels),
    }


def _figures(
    words: str,
    schedule: Schedule,
    model: nn.Module,
    batches: Batches,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    dense: NDArray[np.float64],
    seeds: tuple[int, ...],
    epochs: int,
) -> list[Figure]:
    ours, before, trained = [], [], []
    for seed in seeds:

        def tell(training: Training, losses: Losses, seed: int = seed) -> None:
            print(
                f"  {words}, seed {seed}, epoch {losses.epoch}: {losses.auxiliary:.2f}, {losses.main:.3f}", flush=True
            )

        own = copy.deepcopy(model)
        train(own, schedule, Classification(mnist.CLASSES), batches, Settings(epochs, seed=seed), after_epoch=tell)
        ours.append(right(apply(own, schedule), inputs, labels))
        trained.append(rivals(own, schedule, inputs, labels, seed))
        if seed == seeds[0]:
            untouched = rivals(model, schedule, inputs, labels, seed)
        else:
            drawn = replace(schedule, method="random", parameters={"seed": seed})
            untouched = {**untouched, "random": right(apply(model, drawn), inputs, labels)}
        before.append(untouched)
    mean = np.mean(ours, axis=0)
    where = f"{words} of the tokens"
    goal = GOAL_LOST if words == "half" else None
    figures = [Figure(f"{where}, cropr: top-1, mean of {len(seeds)} seeds", 100 * float(mean.mean()), "%")]
    for weights, found in (("weights as they were", before), ("cropr's weights", trained)):
        worst = max(100 * float(other["dense"].mean() - one.mean()) for one, other in zip(ours, found, strict=True))
        lost = difference(np.mean([one["dense"] for one in found], axis=0), mean)
        figures += [
            Figure(f"{where}, dense on {weights}: top-1", _mean(found, "dense"), "%"),
            Figure(f"{where}, cropr: lost to that, worst seed", worst, "points", goal),
            Figure(f"{where}, cropr: lost to that, 95 % interval's upper end", lost.high, "points"),
        ]
        for name in ("random", "topk"):
            above = difference(mean, np.mean([one[name] for one in found], axis=0))
            figures += [
                Figure(f"{where}, {name} on {weights}: top-1", _mean(found, name), "%"),
                Figure(f"{where}, cropr above that", above.value, "points"),
                Figure(f"{where}, cropr above that, 95 % interval's lower end", above.low, "points", 0.0, "max"),
            ]
    return figures


def _mean(found: list[dict[str, NDArray[np.float64]]], name: str) -> float:
    return 100 * float(np.mean([one[name] for one in found]))
