"""Cropr's queries in a checkpoint: registered, loaded onto the model, refused where they do not fit."""

import hashlib

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tailfleet_agent.worker import checkpoint, models
from tailfleet_agent.worker.register import register
from tailfleet_reduce import apply, dissect
from tailfleet_reduce.queries import attached
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.messages import RegisterOrder
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import ModelSpec

ARGUMENTS = {"img_size": 16, "patch_size": 4, "num_classes": 3, "embed_dim": 12, "depth": 3, "num_heads": 2}


@pytest.fixture
def arrays():
    torch.manual_seed(0)
    return {name: value.numpy() for name, value in VisionTransformer(**ARGUMENTS).state_dict().items()}


@pytest.fixture
def build(tmp_path):
    def from_arrays(arrays):
        path = tmp_path / "arrays"
        checkpoint.write(str(path), arrays)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(tmp_path / sha256)
        geometry = dissect(VisionTransformer(**ARGUMENTS)).geometry()
        spec = ModelSpec("own", "VisionTransformer", geometry, ARGUMENTS, checkpoint_sha256=sha256)
        return models.build(spec, str(tmp_path), 0, dtype="bf16")

    return from_arrays


def query(seed=0, dim=12):
    return np.random.RandomState(seed).randn(dim).astype(np.float32)


def test_queries_are_registered_with_the_weights_and_loaded_with_them(arrays, build, tmp_path):
    given = dict(arrays, **{"cropr.0": query(0), "cropr.2": query(2)})
    np.savez(str(tmp_path / "mine.npz"), **given)
    out = tmp_path / "out.npz"
    register(RegisterOrder("own", "VisionTransformer", ARGUMENTS, str(tmp_path / "mine.npz"), out=str(out)))
    with np.load(str(out), allow_pickle=False) as kept:
        kept = dict(kept)
    assert sorted(kept) == sorted(given)
    model = build(kept)
    assert all(torch.equal(attached(model)[block], torch.from_numpy(query(block))) for block in (0, 2))
    assert sorted(model.state_dict()) == sorted(arrays)
    images = torch.randn(2, 3, 16, 16, dtype=torch.bfloat16)
    reduced = apply(model, Schedule("cropr", "own", 17, 1, [9, 9, 5]))
    assert reduced(images).shape == (2, 3)
    with pytest.raises(ScheduleError, match="queries are known for block 1; known are those of 0, 2"):
        apply(model, Schedule("cropr", "own", 17, 1, [9, 7, 5]))


def test_a_checkpoint_without_queries_leaves_none(arrays, build):
    assert attached(build(arrays)) is None


def test_weights_of_another_origin_keep_their_queries(arrays, tmp_path):
    """timm converts such names, and knows nothing of queries."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["pos_embed"] = torch.zeros(1, 5, 12)
    tensors["cropr.1"] = torch.from_numpy(query())
    fitted = checkpoint.fit(VisionTransformer(**ARGUMENTS), "VisionTransformer", tensors, "a.npz")
    assert fitted["pos_embed"].shape == (1, 17, 12)
    assert np.array_equal(fitted["cropr.1"], query())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cropr.3", query(), "does not fit: there is a Cropr query for block 3, but the model has 3"),
        ("cropr.1", query(dim=11), r"the Cropr query of block 1 is \(11,\), not 12 finite numbers"),
        ("cropr.1", np.full(12, np.nan, dtype=np.float32), "not 12 finite numbers"),
        ("cropr.1", np.zeros(12, dtype=bool), "does not fit: cropr.1 holds bool"),
        ("cropr.x", query(), "unknown cropr.x"),
    ],
)
def test_queries_that_do_not_fit_are_refused(arrays, build, name, value, words):
    arrays[name] = value
    with pytest.raises(InputError, match=words):
        build(arrays)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    with pytest.raises(InputError, match=words):
        checkpoint.fit(VisionTransformer(**ARGUMENTS), "VisionTransformer", tensors, "a.npz")
