"""Train ``scenes_vit`` again, over its bundled weights: ``python -m tests.benchmarks.train_scenes [--out FILE]``.

AdamW, one cosine, cross-entropy over pixels; every epoch composes new scenes of the training digits and photographs.
To save time the first epochs see a third of each scene's patches only, mostly those that digits lie on, and the last
ones see all; the loss is taken on what is seen.
Seeded: the same torch on the same machine gives the same weights. The calibration scenes are looked at on the way, the
evaluation scenes once, after the last step.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from tests.benchmarks import scenes

from tailfleet_agent.worker import checkpoint
from tailfleet_agent.worker.train import descend, draw, optimizer_for, rate_factor, sine_positions
from tailfleet_reduce import dissect
from tailfleet_reduce.segmentation import PatchSegmenter, confusions, mean_iou_of, patch_labels

SEED = 1
BATCH = 32
LEARNING_RATE = 1e-3

EPOCHS = 64
FULL_EPOCHS = 4
"""Last epochs, in which every patch is seen."""
PART_OF_PATCHES = 1 / 3
"""Part of the patches that the epochs before see, which is a little more than digits lie on."""
WEIGHT_OF_BACKGROUND = 0.1
"""How likely a patch without a digit is to be the next one drawn, against one that a digit covers."""


def loss(segmenter: PatchSegmenter, images: torch.Tensor, labels: torch.Tensor, full: bool) -> torch.Tensor:
    """Cross-entropy over the pixels of the patches that are seen."""
    anatomy = segmenter.anatomy
    x = anatomy.embed(images)  # (B, N, C)
    targets = patch_labels(labels, segmenter.patch_size)  # (B, N, p, p)
    if not full:
        ink = (targets > 0).flatten(2).any(2) + WEIGHT_OF_BACKGROUND  # (B, N)
        chosen = draw(ink, int(ink.shape[1] * PART_OF_PATCHES))
        x = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
        targets = targets.gather(1, chosen[..., None, None].expand(-1, -1, *targets.shape[2:]))
    state = anatomy.state()
    for block in anatomy.blocks:
        x = block.whole(x, state)
    return functional.cross_entropy(segmenter.patch_logits(x).flatten(0, 1), targets.flatten(0, 1))


def train(segmenter: PatchSegmenter, out: Path) -> None:
    """Train in place; progress to standard output, and the weights to ``out`` now and then."""
    optimizer = optimizer_for(segmenter, LEARNING_RATE)
    random = np.random.RandomState(SEED)
    steps_per_epoch = scenes.COUNTS["train"] // BATCH
    steps = EPOCHS * steps_per_epoch
    step, started = 0, time.monotonic()
    for epoch in range(EPOCHS):
        full = epoch >= EPOCHS - FULL_EPOCHS
        fresh = scenes.compose("train", steps_per_epoch * BATCH, random)
        total = 0.0
        for images, labels in zip(fresh.inputs().split(BATCH), fresh.targets().split(BATCH)):
            value = loss(segmenter, images, labels, full)
            descend(optimizer, segmenter, value, LEARNING_RATE * rate_factor(step, steps))
            total += value.item()
            step += 1
        line = f"epoch {epoch + 1}/{EPOCHS}  loss {total / steps_per_epoch:.3f}  {time.monotonic() - started:.0f} s"
        if (epoch + 1) % 4 == 0:
            save(segmenter, out)
            line += f"  mean IoU on calibration scenes {judge(segmenter, 'calibration'):.3f}"
        print(line, flush=True)


def judge(segmenter: PatchSegmenter, split: str) -> float:
    """Mean IoU on a split."""
    chosen = scenes.scenes(split)
    pairs = zip(chosen.inputs().split(BATCH), chosen.targets().split(BATCH))
    with torch.no_grad():
        found = [confusions(segmenter(images).argmax(1), labels, scenes.CLASSES) for images, labels in pairs]
    return mean_iou_of(torch.cat(found))


def save(segmenter: PatchSegmenter, out: Path) -> None:
    """The weights in half precision."""
    arrays = {name: value.detach().numpy().astype(np.float16) for name, value in segmenter.state_dict().items()}
    checkpoint.write(str(out), arrays)


def main() -> None:
    """Train, write, and judge what was written: the rounded weights."""
    parser = argparse.ArgumentParser(prog="make train-scenes")
    parser.add_argument("--out", type=Path, default=scenes.CHECKPOINT, help="where the weights go (%(default)s)")
    out = parser.parse_args().out
    torch.manual_seed(SEED)
    segmenter = PatchSegmenter(dissect(scenes.backbone()), scenes.CLASSES)
    with torch.no_grad():
        place = segmenter.anatomy.model.pos_embed
        place.copy_(sine_positions(segmenter.grid, scenes.DIM))
    train(segmenter, out)
    save(segmenter, out)
    for split in ("calibration", "evaluation"):
        print(f"mean IoU on {split} scenes: {judge(scenes.trained(out), split):.4f}", flush=True)


if __name__ == "__main__":
    main()
