"""Reading images from artifacts, and refusing what is not what its spec promises."""

import dataclasses

import numpy as np
import pytest
import torch

from tailfleet_agent.worker import datasets
from tailfleet_schema.errors import InputError, LabError


def pictures(images):
    return np.stack([np.asarray(picture) for picture in images.pictures(0, len(images))])


def test_a_split_holds_its_own_images_in_order(artifacts):
    images = datasets.load(artifacts.dataset(), artifacts.folder, "calibration")
    arrays = artifacts.arrays()
    assert len(images) == 8
    assert np.array_equal(pictures(images), arrays["images"][12:20])
    assert np.array_equal(images.labels.numpy(), arrays["labels"][12:20])


def test_a_limit_takes_the_first_images(artifacts):
    dataset = artifacts.dataset()
    few = datasets.load(dataset, artifacts.folder, "evaluation", 3)
    assert np.array_equal(pictures(few), pictures(datasets.load(dataset, artifacts.folder, "evaluation"))[:3])


def test_inputs_are_normalised_and_scaled_up_bilinearly(artifacts, tiny):
    ramp = np.tile(np.arange(0, 256, 32, dtype=np.uint8), (30, 8, 1))
    inputs = datasets.load(artifacts.dataset(images=ramp), artifacts.folder, "train").inputs(tiny.model)
    assert inputs.shape == (12, 1, 16, 16)
    pixels = (inputs[0, 0, 0] * 0.25 + 0.5) * 255
    # Doubling: half-pixel centres, so each output lies a quarter of a pixel beside an input's centre.
    expected = [0, *[32 * i + offset for i in range(7) for offset in (8, 24)], 224]
    assert torch.allclose(pixels, torch.tensor(expected, dtype=torch.float32), atol=1e-3)


def test_grey_and_colour_images_become_what_the_model_takes(artifacts, tiny):
    colour_model = dataclasses.replace(tiny.model, geometry=dataclasses.replace(tiny.geometry, channels=3))
    inputs = datasets.load(artifacts.dataset(), artifacts.folder, "train").inputs(colour_model)
    assert inputs.shape == (12, 3, 16, 16)
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    red = np.zeros((30, 8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    images = datasets.load(artifacts.dataset(images=red), artifacts.folder, "train")
    assert images.inputs(colour_model)[0, :, 0, 0].tolist() == [2, -2, -2]
    assert images.inputs(tiny.model).shape == (12, 1, 16, 16)
    # Luma of ITU-R 601, in whole steps of 255.
    assert float(images.inputs(tiny.model)[0, 0, 0, 0]) == pytest.approx((76 / 255 - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"images": np.zeros((30, 8, 8))}, "images must be uint8"),
        ({"images": np.zeros((30, 8, 8, 4), dtype=np.uint8)}, "images must be uint8"),
        ({"labels": np.zeros(29, dtype=np.int64)}, "labels must be int64, one for each"),
        ({"labels": np.full(30, 3, dtype=np.int64)}, "labels must lie between 0 and 2"),
        ({"train": np.array([30], dtype=np.int64)}, "train must be int64 indices"),
        ({"train": np.array([0.0])}, "train must be int64 indices"),
        ({"train": np.array([25], dtype=np.int64)}, "its splits share images"),
        ({"evaluation": np.array([], dtype=np.int64)}, "has no evaluation images"),
    ],
)
def test_an_artifact_that_breaks_its_promise_is_refused(artifacts, changed, sentence):
    with pytest.raises(InputError, match=sentence):
        datasets.load(artifacts.dataset(**changed), artifacts.folder, "evaluation")


def test_an_artifact_without_a_split_is_refused(artifacts):
    arrays = artifacts.arrays()
    del arrays["calibration"]
    dataset = dataclasses.replace(artifacts.dataset(), sha256=artifacts.put_arrays(**arrays))
    with pytest.raises(InputError, match="lacks calibration"):
        datasets.load(dataset, artifacts.folder, "train")


def test_bytes_that_are_no_npz_are_refused(artifacts):
    dataset = dataclasses.replace(artifacts.dataset(), sha256=artifacts.put(b"no archive"))
    with pytest.raises(InputError, match=r"not an \.npz"):
        datasets.load(dataset, artifacts.folder, "train")


def test_a_missing_and_a_damaged_artifact_are_the_labs_to_mend(artifacts, tmp_path):
    dataset = artifacts.dataset()
    with pytest.raises(LabError, match="not on this board"):
        datasets.load(dataclasses.replace(dataset, sha256="0" * 64), artifacts.folder, "train")
    (tmp_path / dataset.sha256).write_bytes(b"")
    with pytest.raises(LabError, match="damaged"):
        datasets.load(dataset, artifacts.folder, "train")


def test_an_unknown_split_is_refused(artifacts):
    with pytest.raises(InputError, match="unknown split 'test'"):
        datasets.load(artifacts.dataset(), artifacts.folder, "test")
