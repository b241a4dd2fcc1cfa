"""Cropr trained to segment scenes: mean IoU with half of the tokens dropped, all put back in grid order at the end.

One query for each patch; dropped tokens come back before the last block, so that every pixel gets a label. Twice:
with half of the tokens in blocks on average, and with half of the patches left after the last of a constant drop,
when blocks see more. Weights, head and queries are trained on the training scenes; all are judged on the same 1,000
scenes that no training saw, and their differences by a paired bootstrap over scenes. Fine-tuning alone makes a model
better, so rivals stand twice: on the weights as they were, and on those that each seed trained for Cropr, dense among
them.
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
from tailfleet_reduce.train import Losses, Segmentation, Settings, Training, constant_drop, for_share, train
from tailfleet_schema.schedule import Schedule, flops
from tailfleet_schema.schedule import dense as dense_schedule

SEEDS = (1, 2, 3)
EPOCHS = 3
BATCH = 50
HALF = 0.5

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
    drop = round((1 - HALF) * patches / (geometry.depth - 2))
    schedules = {
        "half of the tokens on average": for_share(scenes.MODEL, geometry, HALF),
        "half of the patches left at last": constant_drop(scenes.MODEL, geometry, drop),
    }
    figures = []
    for words, schedule in schedules.items():
        share = sum(schedule.entering) / (schedule.tokens * geometry.depth)
        work = flops(schedule, geometry) / flops(dense_schedule(scenes.MODEL, geometry), geometry)
        figures += [
            Figure(f"{words}: tokens that blocks see on average", 100 * share, "%"),
            Figure(f"{words}: multiply-adds of dense", 100 * work, "%"),
            *_figures(words, schedule, segmenter, learned, judged, quick),
        ]
    return figures


def _figures(
    words: str, schedule: Schedule, segmenter: PatchSegmenter, learned: Scenes, judged: Scenes, quick: bool
) -> list[Figure]:
    ours, trained = [], []
    for seed in SEEDS[:1] if quick else SEEDS:

        def tell(training: Training, losses: Losses, seed: int = seed) -> None:
            print(
                f"  {words}, seed {seed}, epoch {losses.epoch}: {losses.auxiliary:.2f}, {losses.main:.3f}", flush=True
            )

        own = copy.deepcopy(segmenter)
        # Not the copy's own anatomy: that is made of the modules it was made of.
        own = PatchSegmenter(dissect(own.backbone), own.classes, own.head)
        task = Segmentation(scenes.CLASSES, own.grid)
        settings = Settings(1 if quick else EPOCHS, seed=seed, backbone_learning_rate=3e-4)
        train(own.backbone, schedule, task, learned, settings, Pixels(own), after_epoch=tell)
        ours.append(confused(PatchSegmenter(apply(own.backbone, schedule), own.classes, own.head), judged))
        trained.append(rivals(own, schedule, judged))
    mean = np.mean(ours, axis=0)
    figures = [Figure(f"{words}, cropr: mean IoU, mean of {len(ours)} seeds", _mean(ours), "%")]
    for weights, found in (
        ("weights as they were", [rivals(segmenter, schedule, judged)] * len(ours)),
        ("cropr's weights", trained),
    ):
        worst = max(
            100 * (_iou(other["dense"].sum(0)) - _iou(one.sum(0))) for one, other in zip(ours, found, strict=True)
        )
        lost = difference(np.mean([one["dense"] for one in found], axis=0), mean, _iou)
        figures += [
            Figure(f"{words}, dense on {weights}: mean IoU", _mean([one["dense"] for one in found]), "%"),
            Figure(f"{words}, cropr: lost to that, worst seed", worst, "points", GOAL_LOST),
            Figure(f"{words}, cropr: lost to that, 95 % interval's upper end", lost.high, "points"),
        ]
        for name in ("random", "topk"):
            theirs = [one[name] for one in found]
            above = difference(mean, np.mean(theirs, axis=0), _iou)
            figures += [
                Figure(f"{words}, {name} on {weights}: mean IoU", _mean(theirs), "%"),
                Figure(f"{words}, cropr above that, 95 % interval's lower end", above.low, "points"),
            ]
    return figures


def rivals(segmenter: PatchSegmenter, schedule: Schedule, judged: Scenes) -> dict[str, NDArray[np.float64]]:
    """Confusions of what needs no training, at the counts of ``schedule``, and of no reduction at all."""
    found = {"dense": confused(segmenter, judged)}
    for name in ("random", "topk"):
        reduced = apply(segmenter.backbone, replace(schedule, method=name))
        found[name] = confused(PatchSegmenter(reduced, segmenter.classes, segmenter.head), judged)
    return found


def _mean(found: list[NDArray[np.float64]]) -> float:
    return float(np.mean([100 * _iou(one.sum(0)) for one in found]))


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
