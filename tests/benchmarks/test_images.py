"""The images that methods are compared on: nothing of an evaluation image was trained on, and all is the same again."""

import hashlib
import itertools

import numpy as np
import pytest
from tests.benchmarks import mnist, scenes


def test_the_mnist_artifact_has_the_same_bytes_everywhere():
    spec, content = mnist.dataset()
    assert hashlib.sha256(content).hexdigest() == spec.sha256
    assert spec.sha256 == "9387bd8d9e94d43589b56c82fd855f3743fc4112cc7202c8a35cf75e3ef8b442"


def test_mnist_is_split_evenly_and_no_image_is_in_two_parts():
    images, labels = mnist.source()
    parts = mnist.split()
    sizes = {"train": 2500, "calibration": 500, "evaluation": 2000}
    for name, size in sizes.items():
        assert np.bincount(labels[getattr(parts, name)]).tolist() == [size // 10] * 10
    together = np.concatenate([parts.train, parts.calibration, parts.evaluation])
    assert len({images[index].tobytes() for index in together}) == 5000


def test_scenes_are_made_of_their_own_splits_digits_and_columns(monkeypatch):
    drawn, cuts = [], []
    ink, photographs = scenes._ink, scenes._photographs()
    monkeypatch.setattr(scenes, "_ink", lambda digit, random: drawn.append(digit.tobytes()) or ink(digit, random))

    class Watched:
        height = photographs[0].height

        def resize(self, size, how, box):
            cuts.append(box)
            return photographs[0].resize(size, how, box=box)

    monkeypatch.setattr(scenes, "_photographs", lambda: [Watched()])
    images, _ = mnist.source()
    for split, (first, end) in scenes.COLUMNS.items():
        drawn.clear()
        cuts.clear()
        scenes.compose(split, 60, np.random.RandomState(0))
        own = {images[index].tobytes() for index in getattr(mnist.split(), split)}
        assert len(cuts) == 60 <= len(drawn)
        assert set(drawn) <= own
        assert all(first <= left < right <= end for left, _, right, _ in cuts)
    spans = sorted(scenes.COLUMNS.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_digits_pixels_are_lighter_and_labelled_with_it():
    made = scenes.compose("train", 40, np.random.RandomState(3))
    assert made.images.shape == (40, 56, 56, 3)
    light = made.images.mean(3)
    for image, label in zip(light, made.labels):
        assert 1 <= len(np.unique(label)) - 1 <= scenes.DIGITS_MOST
        assert image[label > 0].mean() > image[label == 0].mean() + 20
    again = scenes.compose("train", 40, np.random.RandomState(3))
    assert np.array_equal(made.images, again.images)
    assert np.array_equal(made.labels, again.labels)


@pytest.mark.parametrize("checkpoint", sorted(mnist.CHECKPOINT.parent.glob("*.npz")), ids=lambda path: path.stem)
def test_shipped_weights_are_small_and_finite(checkpoint):
    assert checkpoint.stat().st_size <= 3 << 20
    with np.load(checkpoint, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype == np.float16 and np.isfinite(arrays[name]).all() for name in arrays.files)
