"""What comes with tailfleet: fixed bytes, disjoint images, weights that are there, and a command that makes them."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest

from tailfleet_coordinator import bundled
from tailfleet_coordinator.bundled import digits, labelled
from tailfleet_schema import codec
from tailfleet_schema.errors import ConfigurationError, InternalError
from tailfleet_schema.workload import DatasetSpec, ModelSpec


def test_the_digits_artifact_has_the_same_bytes_everywhere():
    spec, content = digits.dataset()
    assert hashlib.sha256(content).hexdigest() == spec.sha256
    assert spec.sha256 == "99672f6d21ed095a90438757be9dcf942caadd08263e1fcccbc39cb365a2e2c1"


def test_splits_cover_all_images_and_share_none():
    spec, content = digits.dataset()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        parts = {name: arrays[name] for name in ("train", "calibration", "evaluation")}
    assert images.shape == (1797, 8, 8)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert (images.min(), images.max()) == (0, 255)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    assert (len(parts["calibration"]), len(parts["evaluation"])) == (spec.calibration_images, spec.evaluation_images)
    assert 190 <= spec.calibration_images <= 210
    assert 390 <= spec.evaluation_images <= 410
    pixels = {name: {images[index].tobytes() for index in part} for name, part in parts.items()}
    assert not pixels["train"] & pixels["calibration"]
    assert not (pixels["train"] | pixels["calibration"]) & pixels["evaluation"]
    for part in parts.values():  # the same mix of classes everywhere
        share = np.bincount(labels[part], minlength=10) / len(part)
        assert np.allclose(share, np.bincount(labels) / 1797, atol=0.005)


def test_images_that_are_the_same_cannot_be_split():
    images = np.zeros((20, 8, 8), dtype=np.uint8)
    with pytest.raises(InternalError, match="the same image"):
        labelled.split(images, np.arange(20, dtype=np.int64) % 10, calibration_share=0.1, evaluation_share=0.2, seed=1)


def test_the_models_say_what_they_are_judged_on():
    by_name = {spec.name: spec for spec in bundled.models()}
    deit, small = by_name["deit_small_patch16_224"], by_name["digits_vit"]
    assert (deit.checkpoint_sha256, deit.dataset) == (None, None)
    assert small.dataset in {spec.name for spec, _ in bundled.datasets()}
    assert small.checkpoint_sha256 == hashlib.sha256(bundled.checkpoint_bytes()).hexdigest()
    assert deit.geometry.tokens == small.geometry.tokens == 197
    assert all(codec.loads(ModelSpec, codec.dumps(spec)) == spec for spec in by_name.values())


def test_the_checkpoint_is_small_and_plain():
    assert len(bundled.checkpoint_bytes()) <= 5 * 2**20
    with np.load(io.BytesIO(bundled.checkpoint_bytes()), allow_pickle=False) as arrays:
        assert arrays["pos_embed"].shape == (1, 197, digits.DIM)
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_a_missing_checkpoint_names_the_command_that_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "CHECKPOINT", tmp_path / "none.npz")
    bundled.checkpoint_bytes.cache_clear()
    try:
        with pytest.raises(ConfigurationError) as refusal:
            bundled.checkpoint_bytes()
    finally:
        bundled.checkpoint_bytes.cache_clear()
    assert refusal.value.mend == "tailfleet model train-digits"


def test_the_training_command_finds_its_images(tmp_path):
    command = bundled.training_command(tmp_path / "new" / "weights.npz")
    given = dict(zip(command[3::2], command[4::2]))
    dataset = codec.loads(DatasetSpec, given["--dataset"])
    assert codec.loads(ModelSpec, given["--model"]).checkpoint_sha256 is None
    assert given["--out"] == str(tmp_path / "new" / "weights.npz")
    assert (tmp_path / "new" / dataset.sha256).read_bytes() == digits.dataset()[1]
    assert command[1:3] == ["-m", "tailfleet_agent.worker.train"]


def test_nothing_here_imports_torch():
    code = "import sys, tailfleet_coordinator.bundled as b; b.datasets(); b.models(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
