"""Building models from specs: seeds, checkpoints, and what a spec may not ask for."""

import dataclasses

import numpy as np
import pytest
import torch

from tailfleet_agent.worker import models
from tailfleet_schema.errors import InputError, LabError
from tailfleet_schema.workload import Geometry, ModelSpec


def flat(model):
    return torch.cat([value.float().flatten() for value in model.state_dict().values()])


def test_random_weights_are_decided_by_the_seed_alone(artifacts):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = models.build(artifacts.model(), artifacts.folder, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12)
    assert torch.equal(flat(first), flat(models.build(artifacts.model(), artifacts.folder, seed=4)))
    assert not torch.equal(flat(first), flat(models.build(artifacts.model(), artifacts.folder, seed=5)))


def test_a_model_is_ready_to_run(artifacts):
    model = models.build(artifacts.model(), artifacts.folder, seed=0, dtype="bf16")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_timm_builds_by_name(artifacts):
    spec = ModelSpec(
        "deit",
        "deit_tiny_patch16_224",
        Geometry(
            depth=12,
            dim=192,
            heads=3,
            mlp_dim=768,
            tokens=197,
            prefix=1,
            image_size=224,
            patch_size=16,
            channels=3,
            classes=5,
        ),
        {"num_classes": 5},
    )
    assert models.build(spec, artifacts.folder, seed=0).head.out_features == 5


def test_half_precision_checkpoints_are_widened(artifacts):
    kept = {}
    sha256 = artifacts.checkpoint(change=lambda weights: kept.update(weights))
    model = models.build(artifacts.model(checkpoint_sha256=sha256), artifacts.folder, seed=0)
    assert model.cls_token.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), kept[name].astype(np.float32))


def test_what_is_saved_is_loaded_again(artifacts):
    model = models.build(artifacts.model(), artifacts.folder, seed=1)
    sha256 = artifacts.put_arrays(**models.save(model))
    again = models.build(artifacts.model(checkpoint_sha256=sha256), artifacts.folder, seed=2)
    assert (flat(model) - flat(again)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights.pop("head.bias"), "missing head.bias"),
        (lambda weights: weights.update(extra=np.zeros(1)), "unknown extra"),
        (lambda weights: weights.update({"head.bias": np.zeros(4)}), r"head.bias is float64 \(4,\), not \(3,\)"),
        (lambda weights: weights.update({"head.bias": np.array(["a", "b", "c"])}), "head.bias is <U1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(artifacts, change, sentence):
    sha256 = artifacts.checkpoint(change=change)
    with pytest.raises(InputError, match=sentence):
        models.build(artifacts.model(checkpoint_sha256=sha256), artifacts.folder, seed=0)


def test_a_pickle_is_never_opened(artifacts):
    def smuggle(weights):
        weights["head.bias"] = np.array([{"any": "object"}], dtype=object)

    sha256 = artifacts.checkpoint(change=smuggle)
    with pytest.raises(InputError, match=r"not an \.npz of plain arrays"):
        models.build(artifacts.model(checkpoint_sha256=sha256), artifacts.folder, seed=0)


def test_a_missing_and_a_damaged_checkpoint_are_the_labs_to_mend(artifacts, tmp_path):
    sha256 = artifacts.checkpoint()
    with pytest.raises(LabError, match="not on this board"):
        models.build(artifacts.model(checkpoint_sha256="0" * 64), artifacts.folder, seed=0)
    (tmp_path / sha256).write_bytes((tmp_path / sha256).read_bytes()[:-1])
    with pytest.raises(LabError, match="damaged"):
        models.build(artifacts.model(checkpoint_sha256=sha256), artifacts.folder, seed=0)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"architecture": "no_such_vit"}, "knows no architecture 'no_such_vit'"),
        ({"architecture": "hf-hub:someone/something"}, "knows no architecture"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, "sets checkpoint_path, which a spec may not"),
        ({"arguments": {"depth": "three"}}, "cannot build 'VisionTransformer'"),
        ({"architecture": "resnet18", "arguments": {}}, "cannot be reduced"),
    ],
)
def test_what_timm_cannot_or_may_not_build_is_refused(artifacts, changed, sentence):
    with pytest.raises(InputError, match=sentence):
        models.build(artifacts.model(**changed), artifacts.folder, seed=0)


def test_a_geometry_that_is_not_the_models_is_refused(artifacts, tiny):
    spec = artifacts.model(geometry=dataclasses.replace(tiny.geometry, heads=3))
    with pytest.raises(InputError, match=r"heads=2.*but its spec says.*heads=3"):
        models.build(spec, artifacts.folder, seed=0)


def test_an_unknown_dtype_is_refused(artifacts):
    with pytest.raises(InputError, match="unknown dtype 'int8'"):
        models.build(artifacts.model(), artifacts.folder, seed=0, dtype="int8")


def test_timms_own_weights_out_of_reach_are_the_labs_to_mend(artifacts, monkeypatch):
    import urllib.error

    import timm

    spec = ModelSpec("hub", "deit_tiny_patch16_224", artifacts.model().geometry, pretrained=True)
    create = timm.create_model

    def unreachable(name, pretrained=False, **arguments):
        if pretrained:
            raise urllib.error.URLError("no route\nto host")
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(LabError, match="timm's weights for 'deit_tiny_patch16_224' cannot be fetched here") as caught:
        models.build(spec, artifacts.folder, seed=0)
    assert "huggingface.co" in caught.value.mend
    assert "\n" not in caught.value.sentence


def test_timms_own_weights_fill_the_model(artifacts, monkeypatch):
    import timm

    create = timm.create_model
    asked = []

    def fetched(name, pretrained=False, **arguments):
        model = create(name, **arguments)
        if pretrained:
            asked.append((name, arguments))
            torch.nn.init.constant_(model.head.bias, 7.0)
        return model

    monkeypatch.setattr(timm, "create_model", fetched)
    geometry = Geometry(
        depth=12,
        dim=192,
        heads=3,
        mlp_dim=768,
        tokens=5,
        prefix=1,
        image_size=32,
        patch_size=16,
        channels=3,
        classes=1000,
    )
    spec = ModelSpec("hub", "deit_tiny_patch16_224", geometry, {"img_size": 32}, pretrained=True)
    model = models.build(spec, artifacts.folder, seed=0)
    assert set(model.head.bias.tolist()) == {7.0}
    assert asked == [("deit_tiny_patch16_224", {"img_size": 32})]
    with pytest.raises(InputError, match="has no pretrained weights"):
        models.build(artifacts.model(pretrained=True), artifacts.folder, seed=0)
