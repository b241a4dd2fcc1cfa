"""Cropr trained on MNIST: top-1 at half and a quarter of the tokens, beside random and topk at the same counts.

The share is that of tokens which blocks see on average: a constant drop after every block but the last, no last-layer
fusion. Queries and weights are trained on 2,500 images for a few epochs, with three seeds; random has three of its own.
All are judged on the same 2,000 images that no training saw, and their differences by a paired bootstrap over images,
an image counting with its mean over seeds. What fine-tuning alone is worth is seen in the rows where random and topk
run on the weights that were trained for Cropr.
"""

import copy
import tempfile
from collections.abc import Iterator
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
EPOCHS = 4
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
    model: nn.Module, schedule: Schedule, inputs: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Methods that need no training, at the counts of ``schedule``."""
    drawn = [replace(schedule, method="random", parameters={"seed": seed}) for seed in SEEDS]
    yield "random", np.mean([right(apply(model, one), inputs, labels) for one in drawn], axis=0)
    yield "topk", right(apply(model, replace(schedule, method="topk")), inputs, labels)


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
    ours, trained_rivals = [], []
    for seed in seeds:

        def tell(training: Training, losses: Losses, seed: int = seed) -> None:
            print(
                f"  {words}, seed {seed}, epoch {losses.epoch}: {losses.auxiliary:.2f}, {losses.main:.3f}", flush=True
            )

        own = copy.deepcopy(model)
        train(own, schedule, Classification(mnist.CLASSES), batches, Settings(epochs, seed=seed), after_epoch=tell)
        ours.append(right(apply(own, schedule), inputs, labels))
        trained_rivals.append(dict(rivals(own, schedule, inputs, labels)))
    mean = np.mean(ours, axis=0)
    where = f"{words} of the tokens"
    worst = max(100 * float(dense.mean() - one.mean()) for one in ours)
    lost = difference(dense, mean)
    half = words == "half"
    figures = [
        Figure(f"{where}, cropr: top-1, mean of {len(seeds)} seeds", 100 * float(mean.mean()), "%"),
        Figure(f"{where}, cropr: lost to dense, worst seed", worst, "points", GOAL_LOST if half else None),
        Figure(f"{where}, cropr: lost to dense, 95 % interval's upper end", lost.high, "points"),
    ]
    for name, theirs in rivals(model, schedule, inputs, labels):
        above = difference(mean, theirs)
        figures += [
            Figure(f"{where}, {name}: top-1", 100 * float(theirs.mean()), "%"),
            Figure(f"{where}, cropr above {name}", above.value, "points"),
            Figure(f"{where}, cropr above {name}, interval's lower end", above.low, "points", 0.0, "max"),
        ]
    for name in trained_rivals[0]:
        theirs = np.mean([one[name] for one in trained_rivals], axis=0)
        above = difference(mean, theirs)
        figures += [
            Figure(f"{where}, {name} on cropr's weights: top-1", 100 * float(theirs.mean()), "%"),
            Figure(f"{where}, cropr above that, interval's lower end", above.low, "points"),
        ]
    return figures
