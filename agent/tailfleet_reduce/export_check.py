"""Whether a written model computes what eager does, on images that tell.

A reduction is a choice between scores. Where two are so close that rounding decides, an exact file and eager may keep
other tokens, and their logits say nothing of the file. So images are drawn until some are settled: eager itself does
not change its mind about them for a difference in the pixels as small as rounding. Random images have no meaning to
a model, but every operator of it computes on them.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple, cast

import torch
from torch import nn

from tailfleet_schema.errors import ConfigurationError, InputError

TOLERANCE = 1e-4
"""Of a logit in fp32, and for logits above 1 of the largest."""

HALF_TOLERANCE = 0.2
"""Root mean square of the difference to eager in fp16, as a share of that of the logits: rounding decides between more
tokens there, so only a file that computes something else is told."""

IMAGES = 4
DRAWN = 32
NUDGE = 2e-6

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Checked:
    """How far the file's logits are from eager's in the same precision."""

    difference: float
    """Greatest difference of a logit."""
    images: int
    by: str
    """What ran the file."""


def check(deployed: nn.Module, path: str, form: str, batch: Optional[int], dtype: str) -> Checked:
    """Run the file ``path`` on images that tell; ``batch`` at once, None: any number.

    Raises ``ConfigurationError`` where it does not compute what ``deployed`` does, and ``InputError`` where no image
    tells.
    """
    run, by = _opened(path, form)
    eager = cast(Run, deployed)
    with torch.no_grad():
        images = _images(deployed) if dtype != "fp32" else _settled(deployed, eager)
        whole = images[torch.arange(batch or len(images)) % len(images)]
        pairs = [(eager(part), run(part)) for part in ([whole] if batch else [whole, whole[:1]])]
    expected, found = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    difference = float((found - expected).abs().max())
    if dtype == "fp32":
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        exact = difference <= allowed
    else:
        exact = bool((found - expected).square().mean() <= (HALF_TOLERANCE**2) * expected.square().mean())
    # Also where a number is none.
    if not exact:
        raise ConfigurationError(
            "what torch {} wrote computes something else in {}: logits differ by up to {:.2g}".format(
                torch.__version__, by, difference
            ),
            "install another torch, or choose another format",
        )
    return Checked(difference, min(len(images), len(whole)), by)


def _opened(path: str, form: str) -> Tuple[Run, str]:
    if form == "pt2":
        program: Any = cast(Any, torch).export.load(path).module()
        return program, "torch {}".format(torch.__version__)
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except RuntimeError:
        # A program whose sessions share one pool of threads cannot open one that has its own.
        options.use_per_session_threads = False
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run, "onnxruntime {}".format(runtime.__version__)


def _images(deployed: nn.Module, count: int = IMAGES) -> torch.Tensor:
    geometry = cast(Any, deployed).reduced.anatomy.geometry()
    shape = (count, geometry.channels, geometry.image_size, geometry.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _settled(deployed: nn.Module, eager: Run) -> torch.Tensor:
    """Up to ``IMAGES`` that rounding decides nothing about."""
    kept: List[torch.Tensor] = []
    generator = torch.Generator().manual_seed(1)
    for image in _images(deployed, DRAWN):
        nudge = NUDGE * torch.randn(image.shape, generator=generator)
        logits = torch.cat([eager(moved[None]) for moved in (image, image + nudge, image - nudge)])
        if (logits - logits[:1]).abs().max() <= TOLERANCE / 2 * max(1.0, float(logits.abs().max())):
            kept.append(image)
        if len(kept) == IMAGES:
            break
    if not kept:
        raise InputError(
            "rounding alone decides which tokens this model keeps: of {} images none tells whether the file is"
            " right".format(DRAWN),
            "give it trained weights",
        )
    return torch.stack(kept)
