"""Makes a small world of one's own: a folder of real images by class, and a small ViT trained on them.

Run as a program, since torch belongs to the board's side: ``python own_models.py FOLDER``. Leaves ``images/`` and the
same weights as ``weights.safetensors`` and ``weights.pt``.
"""

import sys
from pathlib import Path

import numpy
import safetensors.torch
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer

CLASSES = ("one", "two", "zero")
"""In the order of their folders; their labels are not the digits."""

DIGITS = {"zero": 0, "one": 1, "two": 2}
IMAGES = 20
SIZE = 16
ARGUMENTS = {
    "img_size": SIZE, "patch_size": 4, "in_chans": 1, "num_classes": len(CLASSES), "embed_dim": 48, "depth": 3,
    "num_heads": 3,
}  # fmt: skip
MEAN, STD = sum((0.485, 0.456, 0.406)) / 3, sum((0.229, 0.224, 0.225)) / 3
"""timm's for a model it says nothing of."""


def main(folder: Path) -> None:
    """Make both."""
    digits = load_digits()
    pictures, labels = [], []
    for label, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for number in numpy.flatnonzero(digits.target == DIGITS[name])[:IMAGES]:
            pixels = numpy.rint(digits.images[number] * (255 / 16)).astype(numpy.uint8)
            picture = Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC)
            picture.save(folder / "images" / name / f"{number:04d}.png")
            pictures.append(numpy.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
            labels.append(label)
    torch.manual_seed(0)
    model = VisionTransformer(**ARGUMENTS)
    inputs = (torch.from_numpy(numpy.stack(pictures)).float().unsqueeze(1) / 255 - MEAN) / STD  # (n, 1, SIZE, SIZE)
    targets = torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    torch.save(weights, folder / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
