"""Training: it learns, it is seeded, it stays off the images it is judged on, and its output can be loaded."""

import numpy as np
import pytest
import torch

from tailfleet_agent.worker import datasets, models, train
from tailfleet_schema import codec


@pytest.fixture
def stripes(artifacts):
    """Three classes that differ in which rows are bright."""
    images = np.random.RandomState(0).randint(0, 60, (240, 8, 8)).astype(np.uint8)
    labels = np.arange(240, dtype=np.int64) % 3
    for image, label in zip(images, labels):
        image[label * 3 : label * 3 + 2] += 150
    return artifacts.dataset(
        images=images,
        labels=labels,
        train=np.arange(192),
        calibration=np.arange(192, 216),
        evaluation=np.arange(216, 240),
    )


def command(artifacts, dataset, out, *more):
    return [
        "--model",
        codec.dumps(artifacts.model()),
        "--dataset",
        codec.dumps(dataset),
        "--artifacts",
        artifacts.folder,
        "--out",
        str(out),
        *more,
    ]


def test_it_learns_and_writes_weights_that_load(artifacts, stripes, tmp_path, capsys):
    out = tmp_path / "weights.npz"
    recipe = ("--epochs", "30", "--full-epochs", "20", "--learning-rate", "5e-3")
    assert train.main(command(artifacts, stripes, out, *recipe)) == 0
    assert "epoch 30/30" in capsys.readouterr().err
    spec = artifacts.model(checkpoint_sha256=artifacts.put(out.read_bytes()))
    model = models.build(spec, artifacts.folder, seed=99)
    share = train.top1(model, datasets.load(stripes, artifacts.folder, "evaluation"), spec)
    assert share >= 0.9
    with np.load(str(out)) as arrays:
        assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.float16)}


def test_a_seed_decides_the_weights(artifacts, stripes, tmp_path):
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert train.main(command(artifacts, stripes, tmp_path / name, "--epochs", "1", "--seed", seed)) == 0
        with np.load(str(tmp_path / name)) as arrays:
            weights.append(arrays["head.weight"])
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_only_training_images_are_trained_on(artifacts, stripes, tmp_path, monkeypatch):
    asked = []
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda spec, folder, split: asked.append(split) or load(spec, folder, split))
    monkeypatch.setattr(train, "train", lambda model, images, *_: asked.append(len(images)))
    assert train.main(command(artifacts, stripes, tmp_path / "weights.npz")) == 0
    assert asked == ["train", 192, "calibration", "evaluation"]


def test_part_of_the_tokens_keeps_the_prefix(artifacts):
    model = models.build(artifacts.model(), artifacts.folder, seed=0)
    anatomy, seen = train.dissect(model), []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.blocks[0].norm1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 1, 16, 16)
    train.forward(anatomy, images, 0.25)
    assert seen[0].shape == (2, 5, 12)
    assert torch.equal(seen[0][:, 0], anatomy.embed(images)[:, 0])


def test_augmented_images_differ_and_keep_their_background():
    torch.manual_seed(0)
    images = torch.full((4, 1, 16, 16), -0.8)
    assert torch.allclose(train.augment(images, -0.8), images)
    images[:, :, 6:10, 6:10] = 1.0
    moved = train.augment(images, -0.8)
    assert moved.shape == images.shape
    assert not torch.allclose(moved[0], moved[1])
    assert float(moved.min()) >= -0.8 - 1e-6


def test_a_missing_dataset_is_a_sentence(artifacts, stripes, tmp_path, capsys):
    (tmp_path / stripes.sha256).unlink()
    assert train.main(command(artifacts, stripes, tmp_path / "weights.npz")) == 1
    assert "error: dataset 'tiny' is not on this board" in capsys.readouterr().err
