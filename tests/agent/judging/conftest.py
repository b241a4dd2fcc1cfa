"""A tiny model, a tiny labelled dataset, and the artifacts that a board would have of both."""

import hashlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from timm.models.vision_transformer import VisionTransformer

from tailfleet_schema.workload import DatasetSpec, Geometry, ModelSpec, Preprocessing

ARGUMENTS = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 3,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2,
}

GEOMETRY = Geometry(
    depth=3, dim=12, heads=2, mlp_dim=24, tokens=17, prefix=1, image_size=16, patch_size=4, channels=1, classes=3
)


class Artifacts:
    """A folder of artifacts, and specs of what lies in it."""

    def __init__(self, folder):
        self.folder = str(folder)
        self._path = folder

    def put(self, content):
        sha256 = hashlib.sha256(content).hexdigest()
        (self._path / sha256).write_bytes(content)
        return sha256

    def put_arrays(self, **arrays):
        out = io.BytesIO()
        np.savez(out, **arrays)
        return self.put(out.getvalue())

    def arrays(self, **changed):
        random = np.random.RandomState(3)
        arrays = {
            "images": random.randint(0, 256, (30, 8, 8)).astype(np.uint8),
            "labels": np.arange(30, dtype=np.int64) % 3,
            "train": np.arange(0, 12, dtype=np.int64),
            "calibration": np.arange(12, 20, dtype=np.int64),
            "evaluation": np.arange(20, 30, dtype=np.int64),
        }
        arrays.update(changed)
        return arrays

    def dataset(self, **changed):
        sha256 = self.put_arrays(**self.arrays(**changed))
        return DatasetSpec(
            name="tiny",
            sha256=sha256,
            classes=3,
            calibration_images=8,
            evaluation_images=10,
            source="random",
        )

    def checkpoint(self, seed=0, change=None):
        """Weights large enough for attention and predictions to be uneven."""
        random = np.random.RandomState(seed)
        weights = {
            name: random.normal(
                1 if "norm" in name and name.endswith("weight") else 0,
                0.5 if value.dim() > 1 else 0.1,
                tuple(value.shape),
            ).astype(np.float16)
            for name, value in VisionTransformer(**ARGUMENTS).state_dict().items()
        }
        if change:
            change(weights)
        return self.put_arrays(**weights)

    def model(self, **changed):
        settings = {
            "name": "tiny_vit",
            "architecture": "VisionTransformer",
            "geometry": GEOMETRY,
            "arguments": ARGUMENTS,
            "dataset": "tiny",
            "preprocessing": Preprocessing([0.5], [0.25], "bilinear"),
        }
        settings.update(changed)
        return ModelSpec(**settings)


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path)


@pytest.fixture
def tiny(artifacts):
    return SimpleNamespace(arguments=ARGUMENTS, geometry=GEOMETRY, model=artifacts.model())
