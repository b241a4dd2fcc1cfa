"""Train a small vision transformer on a bundled dataset, from nothing: ``python -m tailfleet_agent.worker.train``.

Cross-entropy with label smoothing, AdamW, one cosine; every epoch sees each training image once, shifted,
turned and scaled a little. To save time the first epochs see a random part of each image's patch tokens
only, or with ``--favour-ink`` mostly those that are drawn on; the last ones see all, so that the model is a normal one
that expects every token. Seeded: the same torch
on the same machine gives the same weights. Calibration and evaluation images are never trained on; the evaluation
images are looked at once, after the last step.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, cast

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from tailfleet_agent.worker import checkpoint, datasets, models
from tailfleet_reduce import Anatomy, dissect
from tailfleet_schema import codec
from tailfleet_schema.errors import TailfleetError
from tailfleet_schema.workload import DatasetSpec, ModelSpec

BATCH = 64
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1

PART_OF_TOKENS = 0.25
"""Part of the patch tokens that the epochs before see: one takes about a sixth of the time of a full one."""

INK_OF_NOTHING = 0.2
"""Of an average patch's ink, so that a patch without any is seen too."""
POSITION_SIZE = 0.3
"""Amplitude of sines as positions' first embedding. timm's own, of 0.02, leaves a narrow model long without a sense of
place: with it, MNIST stays near chance for ten epochs."""

TURN_DEGREES = 12.0
SHIFT = 0.1
"""Of half the image's width: up to 0.4 of the original 8 pixels."""
SCALE = 0.12


@dataclass(frozen=True)
class Recipe:
    """What differs from one training to another. The defaults are those of the bundled digits."""

    learning_rate: float = 1e-3
    full_epochs: int = 8
    """Last epochs, in which every token is seen."""
    favour_ink: bool = False
    sine_positions: bool = False


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


def forward(anatomy: Anatomy, images: torch.Tensor, part: float, ink: Optional[torch.Tensor] = None) -> torch.Tensor:
    """Logits (B, K) with a random ``part`` of each image's patch tokens, drawn anew for each image.

    With ``ink`` (B, N - P), positive, a patch with twice as much of it is twice as likely to be the next one seen.
    """
    x = anatomy.embed(images)  # (B, N, C)
    state = anatomy.state()
    if part < 1:
        patches = x.shape[1] - anatomy.prefix
        count = max(1, int(patches * part))
        chosen = torch.rand(x.shape[0], patches).argsort(1)[:, :count] if ink is None else draw(ink, count)
        x, state = anatomy.drawn(x, chosen)
    for block in anatomy.blocks:
        x = block.mlp(block.attention(x, state))
    return anatomy.head(x)


def draw(weights: torch.Tensor, count: int) -> torch.Tensor:
    """Positions (B, count) drawn from (B, n) without putting back; twice the weight is twice as likely to be next."""
    # The smallest of exponential times with these rates.
    return (-torch.rand(weights.shape).log() / weights).argsort(1)[:, :count]


def ink_of(images: torch.Tensor, background: float, patch_size: int) -> torch.Tensor:
    """How far each patch is from ``background`` on average, and a little more: (B, C, H, W) → (B, N - P), positive."""
    ink = functional.avg_pool2d((images - background).abs().mean(1, keepdim=True), patch_size).flatten(1)
    return ink + INK_OF_NOTHING * ink.mean() + 1e-6


def sine_positions(grid: int, dim: int) -> torch.Tensor:
    """Sines and cosines of a patch's row and column, a quarter of the ``dim`` channels each: (1, grid², dim)."""
    rate = math.pi / 2 * 2.0 ** -torch.linspace(0, math.log2(grid), dim // 4)
    angle = torch.arange(grid)[:, None] * rate  # (grid, dim / 4)
    one = torch.cat([angle.sin(), angle.cos()], 1)  # (grid, dim / 2)
    rows, columns = one[:, None].expand(-1, grid, -1), one[None].expand(grid, -1, -1)
    return POSITION_SIZE * torch.cat([rows, columns], 2).reshape(1, grid * grid, dim)


def optimizer_for(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW, which decays matrices alone."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}], lr=learning_rate
    )


def rate_factor(step: int, steps: int) -> float:
    """What the learning rate is multiplied with: up in a line, down in a cosine."""
    warmup = max(1, int(steps * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def descend(optimizer: torch.optim.Optimizer, model: nn.Module, loss: torch.Tensor, learning_rate: float) -> None:
    """One step against the gradient of ``loss``, cut to length 1."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def train(
    model: nn.Module,
    images: datasets.Images,
    spec: ModelSpec,
    epochs: int,
    seed: int,
    recipe: Recipe,
    after_epoch: Callable[[int], None] = lambda done: None,
) -> None:
    """Train ``model`` in place; progress to standard error.

    ``after_epoch`` is called with the number of epochs done, and must leave the random state alone.
    """
    torch.manual_seed(seed)
    inputs, labels = images.inputs(spec), images.labels
    background = float(inputs.min())
    anatomy = dissect(model)
    if recipe.sine_positions:
        grid = spec.geometry.image_size // spec.geometry.patch_size
        with torch.no_grad():
            cast(Any, model).pos_embed[:, -(grid**2) :] = sine_positions(grid, spec.geometry.dim)
    model.requires_grad_(True)
    optimizer = optimizer_for(model, recipe.learning_rate)
    steps_per_epoch = len(labels) // BATCH
    steps = epochs * steps_per_epoch
    full_from = epochs - recipe.full_epochs
    step, started = 0, time.time()
    for epoch in range(epochs):
        order = torch.randperm(len(labels))
        part = 1.0 if epoch >= full_from else PART_OF_TOKENS
        total = torch.zeros(())
        for index in order[: steps_per_epoch * BATCH].view(-1, BATCH):
            moved = augment(inputs[index], background)
            ink = ink_of(moved, background, spec.geometry.patch_size) if recipe.favour_ink else None
            loss = functional.cross_entropy(
                forward(anatomy, moved, part, ink), labels[index], label_smoothing=LABEL_SMOOTHING
            )
            descend(optimizer, model, loss, recipe.learning_rate * rate_factor(step, steps))
            total += loss.detach()
            step += 1
        print(
            "epoch {}/{}  loss {:.3f}  {:.0f} s".format(
                epoch + 1, epochs, float(total) / steps_per_epoch, time.time() - started
            ),
            file=sys.stderr,
            flush=True,
        )
        after_epoch(epoch + 1)
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
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate, help="its peak (%(default)s)")
    parser.add_argument(
        "--full-epochs", type=int, default=Recipe.full_epochs, help="last epochs, which see every token (%(default)s)"
    )
    parser.add_argument("--favour-ink", action="store_true", help="before, see mostly patches that are drawn on")
    parser.add_argument("--sine-positions", action="store_true", help="start from sines as position embeddings")
    parser.add_argument("--save-every", type=int, default=0, help="also write the weights after so many epochs")
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

    def write(arrays: Any) -> None:
        checkpoint.write(given.out, arrays)

    def after_epoch(done: int) -> None:
        if given.save_every and done % given.save_every == 0:
            write(models.save(model))

    images = datasets.load(dataset, given.artifacts, "train")
    recipe = Recipe(given.learning_rate, given.full_epochs, given.favour_ink, given.sine_positions)
    train(model, images, spec, given.epochs, given.seed, recipe, after_epoch)
    arrays = models.save(model)
    # What is checked is what is written: the rounded weights.
    model.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()})
    for split in ("calibration", "evaluation"):
        share = top1(model, datasets.load(dataset, given.artifacts, split), spec)
        print("top-1 on {} images: {:.2%}".format(split, share), file=sys.stderr, flush=True)
    write(arrays)


if __name__ == "__main__":
    sys.exit(main())
