"""Scenes of handwritten digits before photographs, every pixel labelled: a small task of semantic segmentation.

A scene is one to three MNIST digits, turned and scaled, in light ink on a darkened cut of one of scikit-learn's two
sample photographs, 56 × 56 pixels in colour. Its digits come from the MNIST images of its own split, its background
from the columns of the photographs that are its split's, so that nothing of an evaluation scene was seen in training.
Everything follows from a seed. The model on it is built here; training it is left to ``train_scenes``.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from tests.benchmarks import mnist
from timm.models.vision_transformer import VisionTransformer

from tailfleet_reduce import dissect
from tailfleet_reduce.segmentation import PatchSegmenter

MODEL = "scenes_vit"
CHECKPOINT = Path(__file__).with_name("weights") / "scenes_vit.npz"

SIZE = 56
CLASSES = 11
"""Background, then the digits 0 … 9."""
COUNTS = {"train": 3000, "calibration": 400, "evaluation": 1000}
SEEDS = {"train": 11, "calibration": 12, "evaluation": 13}
COLUMNS = {"train": (0, 352), "calibration": (352, 448), "evaluation": (448, 640)}
"""Of the photographs, which are 640 pixels wide."""

DIGITS_MOST = 3
FRAME = (30.0, 38.0)
"""Side that the digit's frame of 28 pixels gets; its ink fills about seven tenths of it."""
TURN_DEGREES = 8.0
CUT = (56, 96)
"""Side of the square that is cut from a photograph and scaled to the scene."""
BACKGROUND_LIGHT = (0.3, 0.6)
INK_LIGHT = (0.8, 1.0)
INK_THRESHOLD = 0.4
"""A pixel is the digit's where its ink covers more than this; less is background."""
PLACE_TRIES = 20

MEAN = (0.23, 0.23, 0.20)
STD = (0.23, 0.21, 0.21)

PATCH_SIZE = 4
DIM = 96
DEPTH = 8
HEADS = 3


@dataclass(frozen=True)
class Scenes:
    """Scenes of one split."""

    images: NDArray[np.uint8]  # (n, 56, 56, 3)
    labels: NDArray[np.uint8]  # (n, 56, 56), 0 … 10

    def inputs(self) -> torch.Tensor:
        """As the model takes them: fp32 (n, 3, 56, 56)."""
        pixels = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    def targets(self) -> torch.Tensor:
        """Labels as torch's losses take them: int64 (n, 56, 56)."""
        return torch.from_numpy(self.labels).long()


@cache
def scenes(split: str) -> Scenes:
    """All scenes of ``train``, ``calibration`` or ``evaluation``; always the same ones."""
    return compose(split, COUNTS[split], np.random.RandomState(SEEDS[split]))


def compose(split: str, count: int, random: np.random.RandomState) -> Scenes:
    """``count`` new scenes of ``split``'s digits and photographs; ``random`` decides all of them."""
    pixels, digits = mnist.source()
    members = getattr(mnist.split(), split)
    images = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    for image, label in zip(images, labels):
        scene = _background(split, random)
        taken = np.zeros((SIZE, SIZE), dtype=bool)
        for _ in range(random.randint(1, DIGITS_MOST + 1)):
            chosen = members[random.randint(len(members))]
            ink = _ink(pixels[chosen], random)
            place = _place(ink, taken, random)
            if place is None:
                continue
            taken[place] = True
            colour = random.uniform(*INK_LIGHT, size=3)
            scene[place] += ink[..., None] * (colour - scene[place])
            label[place][ink > INK_THRESHOLD] = digits[chosen] + 1
        image[:] = np.rint(scene * 255)
    return Scenes(images, labels)


def _background(split: str, random: np.random.RandomState) -> NDArray[np.float64]:
    """A darkened cut of a photograph, (56, 56, 3) in 0 … 1."""
    photograph = _photographs()[random.randint(len(_photographs()))]
    first, end = COLUMNS[split]
    side = random.randint(CUT[0], min(CUT[1], end - first) + 1)
    x, y = random.randint(first, end - side + 1), random.randint(photograph.height - side + 1)
    cut = photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    if random.randint(2):
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cut) / 255 * random.uniform(*BACKGROUND_LIGHT)


def _ink(digit: NDArray[np.uint8], random: np.random.RandomState) -> NDArray[np.float64]:
    """``digit`` turned, scaled, and cut to its ink: (h, w) in 0 … 1."""
    side = random.uniform(*FRAME)
    frame, turn = int(np.ceil(side)), np.deg2rad(random.uniform(-TURN_DEGREES, TURN_DEGREES))
    step, middle = mnist.IMAGE_SIZE / side, mnist.IMAGE_SIZE / 2
    a, b = np.cos(turn) * step, np.sin(turn) * step
    # Where in the digit a pixel of the frame lies; the middle stays the middle.
    matrix = (a, b, middle - (a + b) * frame / 2, -b, a, middle - (a - b) * frame / 2)
    turned = Image.fromarray(digit).transform(
        (frame, frame), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
    ink = np.asarray(turned) / 255
    rows, columns = (np.flatnonzero((ink > INK_THRESHOLD).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    ink: NDArray[np.float64], taken: NDArray[np.bool_], random: np.random.RandomState
) -> tuple[slice, slice] | None:
    """A free place for the digit; None where none was found."""
    height, width = ink.shape
    for _ in range(PLACE_TRIES):
        y, x = random.randint(SIZE - height + 1), random.randint(SIZE - width + 1)
        place = (slice(y, y + height), slice(x, x + width))
        if not taken[place].any():
            return place
    return None


@cache
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]


def backbone() -> VisionTransformer:
    """The transformer with random weights: 196 patch tokens and no other."""
    return VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        class_token=False,
        global_pool="",
    )


def trained(checkpoint: Path = CHECKPOINT) -> PatchSegmenter:
    """The dense model, as it is shipped or of other weights, in eval mode, without gradients."""
    segmenter = PatchSegmenter(dissect(backbone()), CLASSES)
    with np.load(checkpoint, allow_pickle=False) as arrays:
        segmenter.load_state_dict({name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files})
    return segmenter.requires_grad_(False).eval()
