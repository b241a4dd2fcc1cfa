"""Train a small vision transformer on a bundled dataset, from nothing: ``python -m tailfleet_agent.worker.train``.

Cross-entropy with label smoothing, AdamW, one cosine; every epoch sees each training image once, shifted,
turned and scaled a little. To save time the first epochs see a random part of each image's patch tokens
only; the last ones see all, so that the model is a normal one that expects every token. Seeded: the same torch
on the same machine gives the same weights. Calibration and evaluation images are never trained on; the evaluation
images are looked at once, after the last step.
"""

import argparse
import math
import sys
import time
from typing import Any, List, Optional, cast

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from tailfleet_agent.worker import datasets, models
from tailfleet_reduce import Anatomy, dissect
from tailfleet_schema import codec
from tailfleet_schema.errors import TailfleetError
from tailfleet_schema.workload import DatasetSpec, ModelSpec

BATCH = 64
LEARNING_RATE = 1e-3
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1

FULL_EPOCHS = 8
"""Last epochs, in which every token is seen."""
PART_OF_TOKENS = 0.25
"""Part of the patch tokens that the epochs before see: one takes about a sixth of the time of a full one."""

TURN_DEGREES = 12.0
SHIFT = 0.1
"""Of half the image's width: up to 0.4 of the original 8 pixels."""
SCALE = 0.12


def augment(images: torch.Tensor, background: float) -> torch.Tensor:
    """Turn, scale and shift each image a little; (B, C, H, W) → the same; what comes in is ``background``."""
    count = images.shape[0]
    angle = (torch.rand(count) * 2 - 1) * (TURN_DEGREES * math.pi / 180)
    scale = 1 + (torch.rand(count) * 2 - 1) * SCALE
    shift = (torch.rand(count, 2) * 2 - 1) * SHIFT
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine, shift[:, 0]], 1),
            torch.stack([sine, cosine, shift[:, 1]], 1),
        ],
        1,
    )  # (B, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images - background, grid, align_corners=False)
    return moved + background


def forward(anatomy: Anatomy, images: torch.Tensor, part: float) -> torch.Tensor:
    """Logits (B, K) with a random ``part`` of each image's patch tokens, drawn anew for each image."""
    x = anatomy.embed(images)  # (B, N, C)
    if part < 1:
        patches = x.shape[1] - anatomy.prefix
        chosen = torch.rand(x.shape[0], patches).argsort(1)[:, : max(1, int(patches * part))] + anatomy.prefix
        kept = x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, : anatomy.prefix], kept], 1)
    for block in anatomy.blocks:
        x = block.mlp(block.attention(x))
    return anatomy.head(x)


def train(model: nn.Module, images: datasets.Images, spec: ModelSpec, epochs: int, seed: int) -> None:
    """Train ``model`` in place; progress to standard error."""
    torch.manual_seed(seed)
    inputs, labels = images.inputs(spec), images.labels
    background = float(inputs.min())
    anatomy = dissect(model)
    model.requires_grad_(True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}], lr=LEARNING_RATE
    )
    steps_per_epoch = len(labels) // BATCH
    steps = epochs * steps_per_epoch
    warmup = max(1, int(steps * WARMUP_SHARE))
    full_from = epochs - FULL_EPOCHS
    step, started = 0, time.time()
    for epoch in range(epochs):
        order = torch.randperm(len(labels))
        part = 1.0 if epoch >= full_from else PART_OF_TOKENS
        total = torch.zeros(())
        for index in order[: steps_per_epoch * BATCH].view(-1, BATCH):
            share = (step - warmup) / max(1, steps - warmup)
            factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * factor
            logits = forward(anatomy, augment(inputs[index], background), part)
            loss = functional.cross_entropy(logits, labels[index], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
            step += 1
        print(
            "epoch {}/{}  loss {:.3f}  {:.0f} s".format(
                epoch + 1, epochs, float(total) / steps_per_epoch, time.time() - started
            ),
            file=sys.stderr,
            flush=True,
        )
    model.requires_grad_(False)


def top1(model: nn.Module, images: datasets.Images, spec: ModelSpec) -> float:
    """Share of ``images`` that ``model`` names rightly."""
    inputs = images.inputs(spec)
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in torch.split(inputs, BATCH)])
    return float((guesses == images.labels).float().mean())


def main(argv: Optional[List[str]] = None) -> int:
    """Train, check on the evaluation images, and write the weights; 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="tailfleet_agent.worker.train", description=__doc__)
    parser.add_argument("--model", required=True, help="ModelSpec as JSON")
    parser.add_argument("--dataset", required=True, help="DatasetSpec as JSON")
    parser.add_argument("--artifacts", required=True, help="folder that holds the dataset, named by its sha256")
    parser.add_argument("--out", required=True, help=".npz to write")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    try:
        _run(given)
    except TailfleetError as error:
        print("error: " + error.sentence, file=sys.stderr)
        return 1
    return 0


def _run(given: Any) -> None:
    spec = codec.loads(ModelSpec, given.model)
    dataset = codec.loads(DatasetSpec, given.dataset)
    model = models.build(spec, given.artifacts, given.seed)
    train(model, datasets.load(dataset, given.artifacts, "train"), spec, given.epochs, given.seed)
    arrays = models.save(model)
    # What is checked is what is written: the rounded weights.
    model.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()})
    for split in ("calibration", "evaluation"):
        share = top1(model, datasets.load(dataset, given.artifacts, split), spec)
        print("top-1 on {} images: {:.2%}".format(split, share), file=sys.stderr, flush=True)
    with open(given.out, "wb") as file:
        np.savez(file, **cast(Any, arrays))


if __name__ == "__main__":
    sys.exit(main())
