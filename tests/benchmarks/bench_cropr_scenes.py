"""Cropr trained to segment scenes: mean IoU with half of the tokens dropped, all put back in grid order at the end.

One query for each patch; dropped tokens come back before the last block, so that every pixel gets a label. Half is
what is left when the last of a constant drop is done; blocks see more on average, which is told. Weights, head and
queries are trained on the training scenes; all are judged on the same 1,000 scenes that no training saw, and their
differences by a paired bootstrap over scenes.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks import scenes
from tests.benchmarks.figure import Figure
from tests.benchmarks.paired import difference
from torch import nn

from tailfleet_reduce import apply, dissect
from tailfleet_reduce.segmentation import PatchSegmenter, confusions, mean_iou_of
from tailfleet_reduce.train import Losses, Segmentation, Settings, Training, constant_drop, train
from tailfleet_schema.schedule import dense as dense_schedule
from tailfleet_schema.schedule import flops

SEEDS = (1, 2, 3)
EPOCHS = 2
BATCH = 50
LEFT = 0.5
"""Of the patches, after the last drop."""

GOAL_LOST = 2.0


class Scenes:
    """``count`` of a split's scenes (None: all), in another order each time."""

    def __init__(self, split: str, count: int | None) -> None:
        found = scenes.scenes(split)
        self.inputs, self.targets = found.inputs()[:count], found.targets()[:count]

    def __len__(self) -> int:
        return len(self.inputs) // BATCH

    def __iter__(self) -> Any:
        for index in torch.randperm(len(self.inputs))[: len(self) * BATCH].view(-1, BATCH):
            yield self.inputs[index], self.targets[index]


class Pixels(nn.Module):
    """A segmenter's head on what the last block leaves: (B, N, C) → logits (B, K, S, S). Its own is the head alone."""

    def __init__(self, segmenter: PatchSegmenter) -> None:
        super().__init__()
        self.head = segmenter.head
        self._segmenter = [segmenter]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        (segmenter,) = self._segmenter
        return segmenter.unpatch(segmenter.patch_logits(x[:, x.shape[1] - segmenter.grid**2 :]))


def measure(quick: bool = False) -> list[Figure]:
    """A line an epoch, then the figures."""
    learned, judged = Scenes("train", 200 if quick else None), Scenes("evaluation", 100 if quick else None)
    segmenter = scenes.trained()
    geometry = segmenter.anatomy.geometry()
    patches = geometry.tokens - geometry.prefix
    drop = round((1 - LEFT) * patches / (geometry.depth - 2))
    schedule = constant_drop(scenes.MODEL, geometry, drop)
    dense = confused(segmenter, judged)
    found = []
    for seed in SEEDS[:1] if quick else SEEDS:

        def tell(training: Training, losses: Losses, seed: int = seed) -> None:
            print(f"  seed {seed}, epoch {losses.epoch}: {losses.auxiliary:.2f}, {losses.main:.3f}", flush=True)

        own = copy.deepcopy(segmenter)
        # Not the copy's own anatomy: that is made of the modules it was made of.
        own = PatchSegmenter(dissect(own.backbone), own.classes, own.head)
        task = Segmentation(scenes.CLASSES, own.grid)
        settings = Settings(1 if quick else EPOCHS, seed=seed, backbone_learning_rate=3e-4)
        train(own.backbone, schedule, task, learned, settings, Pixels(own), after_epoch=tell)
        found.append(confused(PatchSegmenter(apply(own.backbone, schedule), own.classes, own.head), judged))
    rivals = {
        name: confused(
            PatchSegmenter(
                apply(segmenter.backbone, replace(schedule, method=name)), segmenter.classes, segmenter.head
            ),
            judged,
        )
        for name in ("random", "topk")
    }
    share = sum(schedule.entering) / (schedule.tokens * geometry.depth)
    work = flops(schedule, geometry) / flops(dense_schedule(scenes.MODEL, geometry), geometry)
    lost = [100 * (_iou(dense.sum(0)) - _iou(one.sum(0))) for one in found]
    interval = difference(dense, np.mean(found, axis=0), _iou)
    figures = [
        Figure("patches left after the last drop", 100 * (schedule.keep[-2] - geometry.prefix) / patches, "%"),
        Figure("tokens that blocks see on average", 100 * share, "%"),
        Figure("multiply-adds of dense", 100 * work, "%"),
        Figure(f"dense, {len(dense)} scenes: mean IoU", 100 * _iou(dense.sum(0)), "%"),
        Figure(
            f"cropr: mean IoU, mean of {len(found)} seeds",
            float(np.mean([100 * _iou(one.sum(0)) for one in found])),
            "%",
        ),
        Figure("cropr: lost to dense, worst seed", max(lost), "points", GOAL_LOST),
        Figure("cropr: lost to dense, 95 % interval's upper end", interval.high, "points"),
    ]
    for name, theirs in rivals.items():
        above = difference(np.mean(found, axis=0), theirs, _iou)
        figures += [
            Figure(f"{name}, not trained: mean IoU", 100 * _iou(theirs.sum(0)), "%"),
            Figure(f"cropr above {name}, 95 % interval's lower end", above.low, "points"),
        ]
    return figures


def confused(segmenter: PatchSegmenter, judged: Scenes) -> NDArray[np.float64]:
    """Each scene's pixels by class and by what they are called, (n, K, K)."""
    with torch.no_grad():
        parts = [
            confusions(segmenter(inputs).argmax(1), targets, segmenter.classes)
            for inputs, targets in zip(judged.inputs.split(BATCH), judged.targets.split(BATCH), strict=True)
        ]
    return torch.cat(parts).double().numpy()


def _iou(confusion: NDArray[np.float64]) -> float:
    return mean_iou_of(torch.from_numpy(confusion))
