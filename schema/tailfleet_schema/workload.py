"""What is run on a board: a model, its geometry, the images it is judged on, and how it is run."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.limits import check_count, check_digest, check_known, check_name

BACKENDS = (
    "eager",
    "compile",
    "cudagraph",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "virtual",
)
"""Ways to run a model: torch as it is, torch.compile, a captured CUDA graph, ONNX Runtime on the CPU or with its CUDA
or TensorRT provider. ``virtual`` computes latencies and belongs to virtual boards alone."""

ATTENTIONS = ("auto", "fused", "explicit")
"""How attention is computed: by torch's fused operator, step by step, or by whichever of the two this board is faster
with at all tokens (what it was is recorded with the curve)."""

DTYPES = ("fp32", "fp16", "bf16")


DEEPEST = 1000
LARGEST = 10**6
"""Bounds of a geometry, far above any model's: what is made of it (a count for each block, a table of token counts)
must fit into memory."""


@dataclass(frozen=True)
class Geometry:
    """The shape of a vision transformer, all that arithmetic needs to know of it."""

    depth: int
    """Blocks, numbered from 0."""
    dim: int
    """Embedding width C."""
    heads: int
    mlp_dim: int
    """Hidden width of the MLP."""
    tokens: int
    """N: tokens that enter block 0, prefix included."""
    prefix: int
    """P: CLS, distillation and register tokens; they come first and are never scored away."""
    image_size: int
    patch_size: int
    channels: int
    classes: int

    def __post_init__(self) -> None:
        for name in ("dim", "heads", "mlp_dim", "tokens", "image_size", "patch_size", "channels"):
            check_count(name, getattr(self, name), 1, LARGEST)
        check_count("depth", self.depth, 1, DEEPEST)
        check_count("classes", self.classes, 0, LARGEST)
        check_count("prefix", self.prefix, 0, self.tokens - 1)
        if self.dim % self.heads:
            raise InputError("{} is no multiple of {} heads".format(self.dim, self.heads), path="dim")

    @property
    def block_weights(self) -> int:
        """Weights of all blocks, without biases and norms."""
        return self.depth * (4 * self.dim**2 + 2 * self.dim * self.mlp_dim)


INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

CROP_MODES = ("center", "squash", "border")
"""How an image of another shape becomes a square, in timm's words: cut, distorted, or padded."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input, as timm's data config has it; part of the model, hence of every curve's
    and every judgement's identity."""

    mean: List[float]
    """Of each channel, in units of 0 … 1; one value serves all channels."""
    std: List[float]
    interpolation: str = "bicubic"
    crop_share: float = 1.0
    """The image is resized to image size / ``crop_share`` and cut to the image size (timm's ``crop_pct``)."""
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if not self.mean:
            raise InputError("needs a value for every channel", path="mean")
        if len(self.mean) != len(self.std):
            raise InputError("has {} values, mean has {}".format(len(self.std), len(self.mean)), path="std")
        for channel, value in enumerate(self.std):
            if not value > 0:
                raise InputError("must be positive, not {}".format(value), path="std[{}]".format(channel))
        check_known("interpolation", self.interpolation, INTERPOLATIONS)
        check_known("crop_mode", self.crop_mode, CROP_MODES)
        if not 0 < self.crop_share <= 1:
            raise InputError("must lie above 0 and be at most 1", path="crop_share")


@dataclass(frozen=True)
class ModelSpec:
    """A model by name: how timm builds it, and the weights it is given."""

    name: str
    architecture: str
    """A timm model name, or ``VisionTransformer`` for timm's class with ``arguments`` alone."""
    geometry: Geometry
    arguments: Dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for timm: plain JSON values."""
    checkpoint_sha256: Optional[str] = None
    """Content address of an ``.npz`` of weights; None means random weights, seeded: latency only."""
    dataset: Optional[str] = None
    """Name of the dataset whose images it is judged on, with labels or without; None means there are none."""
    preprocessing: Optional[Preprocessing] = None
    """Needed where there is a dataset."""
    pretrained: bool = False
    """The weights are timm's own for that architecture, and every board that runs it fetches them itself."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("architecture", self.architecture)
        if self.checkpoint_sha256 is not None:
            check_digest("checkpoint_sha256", self.checkpoint_sha256)
        if self.pretrained and self.checkpoint_sha256 is not None:
            raise InputError("a model has a checkpoint or timm's pretrained weights, not both", path="pretrained")
        if self.dataset is not None:
            check_name("dataset", self.dataset)
            if self.preprocessing is None:
                raise InputError("is missing, but a model with a dataset needs it", path="preprocessing")

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON: curves and profiles of another one are of another model."""
        return hashlib.sha256(codec.dumps(self).encode("utf-8")).hexdigest()


ARRAYS = "arrays"
FILES = "files"


@dataclass(frozen=True)
class DatasetSpec:
    """Images, split once and for all into parts that share none; ``sha256`` names images, labels and splits.

    Images of a dataset without ``classes`` have no labels: what the dense model says of them stands for these.

    ``arrays``: one ``.npz`` of ``images`` uint8 (n, h, w) or (n, h, w, 3), ``labels`` int64 (n,), and int64 index
    arrays ``train``, ``calibration``, ``evaluation``. ``files``: a JSON index of image files (path, class, split and
    sha256 of each); the files themselves come from the pack, or lie in a folder that the board names.
    """

    name: str
    sha256: str
    classes: int
    """0: the images have no labels."""
    calibration_images: int
    evaluation_images: int
    source: str
    """Where the images come from, in words."""
    form: str = ARRAYS
    pack_sha256: Optional[str] = None
    """Content address of the zip of the image files; None for ``arrays``, and where boards must have them already."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_digest("sha256", self.sha256)
        check_count("classes", self.classes, 0, LARGEST)
        check_count("calibration_images", self.calibration_images, 0)
        check_count("evaluation_images", self.evaluation_images, 0)
        check_known("form", self.form, (ARRAYS, FILES))
        if self.pack_sha256 is not None:
            check_digest("pack_sha256", self.pack_sha256)
            if self.form == ARRAYS:
                raise InputError("only a dataset of files has a pack", path="pack_sha256")
        if self.form == ARRAYS and not self.labelled:
            raise InputError("must be at least 1: only a dataset of files may have no labels", path="classes")

    @property
    def labelled(self) -> bool:
        """Whether each image has a label."""
        return self.classes > 0


NO_LABEL = -1

_SHA256 = re.compile(r"[0-9a-f]{64}")

JUDGED_SPLITS = ("calibration", "evaluation")
"""Plans look at the first; what they are worth is judged on the second."""


@dataclass(frozen=True)
class ImageFile:
    """One image of a dataset of files."""

    path: str
    """Below the dataset's folder, and within its pack: relative, with forward slashes."""
    label: int
    """``NO_LABEL`` in a dataset without classes, and nowhere else."""
    split: str
    sha256: str

    def __post_init__(self) -> None:
        outside = any(part in ("", ".", "..") for part in self.path.split("/"))
        if outside or "\\" in self.path or "\0" in self.path:
            raise InputError("{!r} is not the path of a file below the dataset's folder".format(self.path))
        if self.label < NO_LABEL:
            raise InputError("label must be at least 0, or {} where there is none".format(NO_LABEL))
        if self.split not in JUDGED_SPLITS:
            raise InputError("unknown split {!r}; known: {}".format(self.split, ", ".join(JUDGED_SPLITS)))
        if not _SHA256.fullmatch(self.sha256):
            raise InputError("{!r} is not a sha256 in hexadecimal".format(self.sha256))


@dataclass(frozen=True)
class DatasetIndex:
    """What a dataset of files holds: the artifact that ``DatasetSpec.sha256`` names, as canonical JSON."""

    classes: List[str]
    """Names, in the order of the labels; none where the images have no labels."""
    files: List[ImageFile]
    """In the order in which they are judged: the first so many of a split are a fair sample of it."""

    def __post_init__(self) -> None:
        paths = set()
        splits: Dict[str, str] = {}
        for file in self.files:
            if (file.label == NO_LABEL) == bool(self.classes):
                has, wants = ("no label", "classes") if self.classes else ("a label", "no classes")
                raise InputError("{} has {}, but there are {}".format(file.path, has, wants))
            if file.label >= len(self.classes):
                raise InputError(
                    "{} has the label {}, but there are {} classes".format(file.path, file.label, len(self.classes))
                )
            if file.path in paths:
                raise InputError("{} occurs twice".format(file.path))
            paths.add(file.path)
            if splits.setdefault(file.sha256, file.split) != file.split:
                raise InputError("{} lies in both splits, bit for bit".format(file.path))


@dataclass(frozen=True)
class Workload:
    """A model and how it is run; a curve is one board × one workload."""

    model: ModelSpec
    batch: int = 1
    backend: str = "eager"
    dtype: str = "fp32"
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_count("batch", self.batch, 1)
        check_known("backend", self.backend, BACKENDS)
        check_known("attention", self.attention, ATTENTIONS)
        check_known("dtype", self.dtype, DTYPES)
