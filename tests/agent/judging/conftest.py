"""A tiny model, a tiny labelled dataset, and the artifacts that a board would have of both."""

import hashlib
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from tailfleet_schema import codec
from tailfleet_schema.workload import NO_LABEL, DatasetIndex, DatasetSpec, Geometry, ImageFile, ModelSpec, Preprocessing

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

    def files(self, folder, count=18, damage=None, labelled=True):
        """A dataset of PNG files below ``folder``, of several shapes and modes, and packed; ``damage`` the index."""
        random = np.random.RandomState(5)
        files = []
        for number in range(count):
            shape = [(9, 12), (16, 16), (20, 7), (31, 33)][number % 4]
            colours = (3,) if number % 3 else ()
            path = "class {}/{:02}.png".format(number % 3, number)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, shape + colours).astype(np.uint8)).save(str(target))
            split = "calibration" if number < count // 3 else "evaluation"
            sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
            files.append(ImageFile(path, number % 3 if labelled else NO_LABEL, split, sha256))
        pack = io.BytesIO()
        with zipfile.ZipFile(pack, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(str(folder / file.path), file.path)
        content = codec.dumps(DatasetIndex(["a", "b", "c"] if labelled else [], files))
        return DatasetSpec(
            name="tiny",
            sha256=self.put((damage(content) if damage else content).encode()),
            classes=3 if labelled else 0,
            calibration_images=count // 3,
            evaluation_images=count - count // 3,
            source="random",
            form="files",
            pack_sha256=self.put(pack.getvalue()),
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
