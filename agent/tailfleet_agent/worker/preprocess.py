"""From a picture to a model's input, exactly as timm's own evaluation transform does it, whatever timm is installed.

Written out here since timm 0.6.12 knows no crop modes, and a judgement must not depend on a board's timm: the
same picture gives the same input everywhere, bit for bit. Reading pictures is left to ``datasets``.
"""

import math
from typing import Any, List, Tuple

import numpy as np
import torch
from PIL import Image

from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import ModelSpec, Preprocessing

# Pillow moved them to a class of their own; Python 3.6 has the last Pillow before that.
_RESAMPLING: Any = getattr(Image, "Resampling", Image)

_FILTERS = {
    "nearest": _RESAMPLING.NEAREST,
    "bilinear": _RESAMPLING.BILINEAR,
    "bicubic": _RESAMPLING.BICUBIC,
    "lanczos": _RESAMPLING.LANCZOS,
}

_MODES = {1: "L", 3: "RGB"}


def pixels(pictures: List["Image.Image"], model: ModelSpec) -> torch.Tensor:
    """``pictures``, resized and cut as ``model`` wants them: uint8 (B, channels, size, size).

    Raises ``InputError`` for a model without preprocessing, or one that takes neither grey nor colour images.
    """
    preprocessing = _of(model)
    channels, size = model.geometry.channels, model.geometry.image_size
    if channels not in _MODES:
        raise InputError("model {!r} takes {} channels; images have 1 or 3".format(model.name, channels))
    arrays = [
        np.asarray(_square(picture.convert(_MODES[channels]), size, preprocessing)).reshape(size, size, channels)
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def normalised(pixels: torch.Tensor, model: ModelSpec) -> torch.Tensor:
    """uint8 (B, channels, size, size) → fp32 of the same shape."""
    preprocessing = _of(model)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return pixels.float().div_(255).sub_(mean).div_(std)


def _of(model: ModelSpec) -> Preprocessing:
    if model.preprocessing is None:
        raise InputError("model {!r} has no preprocessing, so it cannot be given images".format(model.name))
    if len(model.preprocessing.mean) not in (1, model.geometry.channels):
        raise InputError(
            "model {!r} takes {} channels, but its preprocessing has {} means".format(
                model.name, model.geometry.channels, len(model.preprocessing.mean)
            )
        )
    return model.preprocessing


def _square(picture: "Image.Image", size: int, preprocessing: Preprocessing) -> "Image.Image":
    width, height = picture.size
    target = math.floor(size / preprocessing.crop_share)
    background: Any = 0
    if preprocessing.crop_mode == "squash":
        resized = target, target
    elif preprocessing.crop_mode == "border":
        longest = max(height / target, width / target)
        resized = max(1, round(width / longest)), max(1, round(height / longest))
        background = _colour(preprocessing.mean, picture.mode)
    elif width <= height:
        resized = target, int(target * height / width)
    else:
        resized = int(target * width / height), target
    if resized != picture.size:
        picture = picture.resize(resized, _FILTERS[preprocessing.interpolation])
    return _cut(picture, size, background)


def _cut(picture: "Image.Image", size: int, background: Any) -> "Image.Image":
    """The middle ``size`` × ``size``; where ``picture`` is smaller, it lies in the middle of ``background``."""
    width, height = picture.size
    if width < size or height < size:
        wider, higher = max(width, size), max(height, size)
        padded = Image.new(picture.mode, (wider, higher), background)
        padded.paste(picture, ((wider - width) // 2, (higher - height) // 2))
        picture, width, height = padded, wider, higher
    # Python rounds halves to even, as torchvision does here.
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return picture.crop((left, top, left + size, top + size))


def _colour(mean: List[float], mode: str) -> Any:
    values: Tuple[int, ...] = tuple(round(255 * value) for value in mean)
    if mode == "L":
        return values[0]
    return values * 3 if len(values) == 1 else values
