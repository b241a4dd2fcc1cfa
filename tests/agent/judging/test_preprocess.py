"""Preprocessing against timm's own evaluation transform, bit for bit."""

import dataclasses
import inspect

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from tailfleet_agent.worker import preprocess
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import Preprocessing

SHAPES = [(16, 16), (8, 8), (17, 33), (40, 9), (100, 101), (3, 64), (64, 2), (31, 18), (1, 1)]
"""Heights and widths."""

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

HAS_CROP_MODES = "crop_mode" in inspect.signature(timm.data.create_transform).parameters


def picture(shape, channels, seed=0):
    wanted = shape if channels == 1 else (*shape, channels)
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, wanted).astype(np.uint8))


@pytest.fixture
def model_of(tiny):
    def make(preprocessing, channels, size=16):
        geometry = dataclasses.replace(tiny.geometry, channels=channels, image_size=size)
        return dataclasses.replace(tiny.model, geometry=geometry, preprocessing=preprocessing)

    return make


def ours(model, *pictures):
    return preprocess.normalised(preprocess.pixels(list(pictures), model), model)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("crop_share", [1.0, 0.9, 0.875])
def test_inputs_are_those_of_timm_bit_for_bit(model_of, crop_mode, interpolation, crop_share):
    if crop_mode != "center" and not HAS_CROP_MODES:
        pytest.skip("timm {} knows no crop modes".format(timm.__version__))
    modes = {"crop_mode": crop_mode} if HAS_CROP_MODES else {}
    for channels, size in ((3, 16), (1, 16), (3, 23)):
        mean, std = MEAN[:channels], STD[:channels]
        model = model_of(Preprocessing(mean, std, interpolation, crop_share, crop_mode), channels, size)
        transform = timm.data.create_transform(
            (channels, size, size),
            is_training=False,
            interpolation=interpolation,
            mean=tuple(mean),
            std=tuple(std),
            crop_pct=crop_share,
            **modes,
        )
        for seed, shape in enumerate(SHAPES):
            one = picture(shape, channels, seed)
            if crop_mode == "border" and min(shape) * size / crop_share / max(shape) <= 0.5:
                continue  # timm resizes it to nothing, and fails
            assert torch.equal(ours(model, one)[0], transform(one)), (shape, channels)


def test_a_sliver_is_still_an_image(model_of):
    model = model_of(Preprocessing(MEAN, STD, "bilinear", 1.0, "border"), 3)
    assert ours(model, picture((64, 1), 3)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_every_mode_are_converted(model_of, mode):
    model = model_of(Preprocessing(MEAN, STD), 3)
    one = picture((20, 20), 3).convert(mode)
    assert torch.equal(ours(model, one), ours(model, one.convert("RGB")))


def test_a_batch_is_its_images_side_by_side(model_of):
    model = model_of(Preprocessing([0.5], [0.25]), 3)
    one, other = picture((20, 31), 3), picture((9, 9), 1)
    assert torch.equal(ours(model, one, other), torch.cat([ours(model, one), ours(model, other)]))


@pytest.mark.parametrize(
    ("preprocessing", "channels", "sentence"),
    [
        (Preprocessing([0.5], [0.25]), 4, "takes 4 channels; images have 1 or 3"),
        (Preprocessing(MEAN, STD), 1, "takes 1 channels, but its preprocessing has 3 means"),
    ],
)
def test_what_cannot_be_is_refused(model_of, preprocessing, channels, sentence):
    with pytest.raises(InputError, match=sentence):
        ours(model_of(preprocessing, channels), picture((20, 20), 3))


def test_a_model_without_preprocessing_takes_no_images(tiny):
    model = dataclasses.replace(tiny.model, dataset=None, preprocessing=None)
    with pytest.raises(InputError, match="has no preprocessing"):
        preprocess.pixels([picture((20, 20), 1)], model)
