"""Checkpoints of every kind: read without running them, fitted to the model, written the same each time."""

import argparse
import io
import os
import sys
import time

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_agent.worker import checkpoint, models
from tailfleet_schema.errors import ConfigurationError, InputError, LabError

SAFE = checkpoint._torch_version() >= checkpoint.SAFE_TORCH

needs_safe_torch = pytest.mark.skipif(not SAFE, reason="torch {} is not given pickles at all".format(torch.__version__))


@pytest.fixture
def model(tiny):
    torch.manual_seed(3)
    return VisionTransformer(**tiny.arguments)


@pytest.fixture
def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def other(tiny):
    torch.manual_seed(4)
    return VisionTransformer(**tiny.arguments)


def save_torch(weights, path):
    torch.save(weights, str(path))


def save_npz(weights, path):
    np.savez(str(path), **{name: value.numpy() for name, value in weights.items()})


def save_safetensors(weights, path):
    pytest.importorskip("safetensors", reason="safetensors is not installed").torch.save_file(weights, str(path))


def fitted(model, path):
    return checkpoint.fit(model, "VisionTransformer", checkpoint.read(str(path)), str(path))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.npz", save_npz),
        ("w.safetensors", save_safetensors),
        pytest.param("w.pt", save_torch, marks=needs_safe_torch),
        pytest.param("w.PTH", save_torch, marks=needs_safe_torch),
        pytest.param("w.bin", save_torch, marks=needs_safe_torch),
    ],
)
def test_every_kind_of_file_fills_the_model(other, weights, tmp_path, name, save):
    save(weights, tmp_path / name)
    arrays = fitted(other, tmp_path / name)
    assert list(arrays) == sorted(weights)
    for key, value in other.state_dict().items():
        assert torch.equal(value, weights[key])
        assert np.array_equal(arrays[key], weights[key].numpy())


@needs_safe_torch
@pytest.mark.parametrize("wrapping", ["state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_training_scripts_wrap_around_weights_is_taken_off(other, weights, tmp_path, wrapping, prefix):
    wrapped = {prefix + name: value for name, value in weights.items()}
    options = argparse.Namespace(lr=0.1, amp=True, data="/data")
    save_torch({"epoch": 3, "args": options, "arch": "vit", wrapping: wrapped}, tmp_path / "w.pt")
    fitted(other, tmp_path / "w.pt")
    assert torch.equal(other.head.weight, weights["head.weight"])


@needs_safe_torch
def test_averaged_weights_go_before_the_last_ones(other, weights, tmp_path):
    last = {name: value + 1 for name, value in weights.items()}
    save_torch({"state_dict": last, "state_dict_ema": weights}, tmp_path / "w.pt")
    fitted(other, tmp_path / "w.pt")
    assert torch.equal(other.head.weight, weights["head.weight"])


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin"])
def test_a_pickle_that_would_run_code_does_not(weights, tmp_path, name, legacy):
    weights["head.bias"] = Bomb(tmp_path / "exploded")
    torch.save(weights, str(tmp_path / name), _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError if SAFE else ConfigurationError) as caught:
        checkpoint.read(str(tmp_path / name))
    assert not (tmp_path / "exploded").exists()
    assert ("holds more than weights" if SAFE else "without running what may be hidden") in caught.value.sentence
    assert "safetensors" in caught.value.mend
    assert "\n" not in caught.value.sentence
    # It would have: that is what the refusal is for.
    trusting = {"weights_only": False} if SAFE else {}
    torch.load(str(tmp_path / name), **trusting)
    assert (tmp_path / "exploded").exists()


def test_a_pickle_within_an_npz_does_not_run(weights, tmp_path):
    arrays = {"head.bias": np.array([Bomb(tmp_path / "exploded")], dtype=object)}
    np.savez(str(tmp_path / "w.npz"), **arrays)
    with pytest.raises(InputError, match=r"not an \.npz of plain arrays"):
        checkpoint.read(str(tmp_path / "w.npz"))
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_the_clothes_of_safetensors_is_refused(weights, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    weights["head.bias"] = Bomb(tmp_path / "exploded")
    save_torch(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"is not a \.safetensors file"):
        checkpoint.read(str(tmp_path / "w.safetensors"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("version", ["1.10.1", "2.5.1+cu121"])
def test_a_torch_that_cannot_read_safely_is_not_asked(weights, tmp_path, monkeypatch, version):
    save_torch(weights, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was given the file"))
    with pytest.raises(ConfigurationError, match="torch {} cannot read".format(version.replace("+", r"\+"))):
        checkpoint.read(str(tmp_path / "w.pt"))


def test_without_safetensors_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="safetensors is not installed") as caught:
        checkpoint.read(str(tmp_path / "w.safetensors"))
    assert "-m pip install safetensors" in caught.value.mend


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.npz", None, "there is no checkpoint"),
        ("w.onnx", b"", r"none of the checkpoints that are understood: \.npz, \.safetensors, \.pt"),
        ("w.npz", b"no archive", r"not an \.npz"),
        pytest.param("w.pt", b"no pickle", "holds more than weights, or is none", marks=needs_safe_torch),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        checkpoint.read(str(tmp_path / name))


@needs_safe_torch
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds no weights by name"),
        ({}, "holds no weights by name"),
        ({"network": {"head.bias": torch.zeros(3)}}, "'network' is no tensor; the weights are looked for"),
    ],
)
def test_weights_that_are_elsewhere_are_said(tmp_path, content, sentence):
    save_torch(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=sentence):
        checkpoint.read(str(tmp_path / "w.pt"))


def test_an_array_of_words_is_refused(tmp_path):
    np.savez(str(tmp_path / "w.npz"), words=np.array(["a"]))
    with pytest.raises(InputError, match="words holds <U1, no numbers"):
        checkpoint.read(str(tmp_path / "w.npz"))


def test_positions_are_resized_for_another_image_size(tiny, weights, tmp_path):
    save_npz(weights, tmp_path / "w.npz")
    larger = VisionTransformer(**dict(tiny.arguments, img_size=32))
    arrays = fitted(larger, tmp_path / "w.npz")
    assert arrays["pos_embed"].shape == (1, 65, 12)
    assert np.array_equal(arrays["pos_embed"][:, 0], weights["pos_embed"][:, 0].numpy())
    assert np.array_equal(arrays["head.weight"], weights["head.weight"].numpy())


def test_names_of_another_origin_are_converted(tiny, tmp_path):
    """DeiT-III calls LayerScale's factors otherwise, and the earliest weights have the patch embedding flat."""
    arguments = dict(tiny.arguments, init_values=1e-2)
    torch.manual_seed(5)
    model, other = VisionTransformer(**arguments), VisionTransformer(**arguments)
    foreign = {}
    for name, value in model.state_dict().items():
        if name == "patch_embed.proj.weight":
            value = value.flatten(1)
        foreign[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = value
    save_npz(foreign, tmp_path / "w.npz")
    fitted(other, tmp_path / "w.npz")
    assert torch.equal(other.blocks[0].ls2.gamma, model.blocks[0].ls2.gamma)
    assert torch.equal(other.patch_embed.proj.weight, model.patch_embed.proj.weight)


@pytest.mark.parametrize(
    ("change", "sentence", "mend"),
    [
        (lambda weights: weights.pop("norm.bias"), "does not fit: missing norm.bias", None),
        (lambda weights: weights.update(extra=torch.zeros(1)), "does not fit: unknown extra", None),
        (
            lambda weights: weights.update({"head.weight": torch.zeros(7, 12), "head.bias": torch.zeros(7)}),
            r"head.weight is float32 \(7, 12\), not \(3, 12\)|head.bias is float32 \(7,\), not \(3,\)",
            "--num-classes 7",
        ),
        (
            lambda weights: [weights.pop("head.weight"), weights.pop("head.bias")],
            "missing head.bias, head.weight",
            "--num-classes 0, if it is meant",
        ),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("blocks.2")],
            r"missing blocks.2.attn.proj.bias, .* …",
            None,
        ),
    ],
)
def test_what_does_not_fit_is_named(other, weights, tmp_path, change, sentence, mend):
    change(weights)
    save_npz(weights, tmp_path / "w.npz")
    with pytest.raises(InputError, match=sentence) as caught:
        fitted(other, tmp_path / "w.npz")
    assert str(tmp_path / "w.npz") in caught.value.sentence
    assert "\n" not in caught.value.sentence
    assert (caught.value.mend or "").startswith(mend or "")
    assert bool(caught.value.mend) == bool(mend)


def test_half_precision_is_kept_and_bfloat16_widened(other, weights):
    half = {name: value.half() for name, value in weights.items()}
    assert {array.dtype for array in checkpoint.fit(other, "VisionTransformer", half, "w").values()} == {
        np.dtype(np.float16)
    }
    brain = {name: value.bfloat16() for name, value in weights.items()}
    arrays = checkpoint.fit(other, "VisionTransformer", brain, "w")
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert np.array_equal(arrays["head.weight"], brain["head.weight"].float().numpy())


def test_the_same_weights_are_written_as_the_same_bytes(artifacts, other, weights, tmp_path, monkeypatch):
    arrays = checkpoint.fit(other, "VisionTransformer", weights, "w")
    checkpoint.write(str(tmp_path / "one.npz"), arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    checkpoint.write(str(tmp_path / "two.npz"), dict(reversed(list(arrays.items()))))
    content = (tmp_path / "one.npz").read_bytes()
    assert content == (tmp_path / "two.npz").read_bytes()
    spec = artifacts.model(checkpoint_sha256=artifacts.put(content))
    built = models.build(spec, artifacts.folder, seed=9)
    assert all(torch.equal(value, weights[name]) for name, value in built.state_dict().items())
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert archive.files == sorted(weights)


def test_a_disk_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(LabError, match=r"cannot write .*/none/w\.npz: No such file"):
        checkpoint.write(str(tmp_path / "none" / "w.npz"), {"a": np.zeros(1)})
    (tmp_path / "taken").mkdir()
    with pytest.raises(LabError, match="cannot write"):
        checkpoint.write(str(tmp_path / "taken"), {"a": np.zeros(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
