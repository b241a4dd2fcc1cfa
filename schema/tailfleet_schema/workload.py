"""What is run on a board: a model, its geometry, the images it is judged on, and how it is run."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from tailfleet_schema.errors import InputError

BACKENDS = ("eager", "virtual")
"""Ways to run a model. ``virtual`` computes latencies and belongs to virtual boards alone."""

DTYPES = ("fp32", "fp16", "bf16")


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
        for name in ("depth", "dim", "heads", "mlp_dim", "tokens", "image_size", "patch_size", "channels"):
            if getattr(self, name) < 1:
                raise InputError("{} must be at least 1".format(name))
        if not 0 <= self.prefix < self.tokens:
            raise InputError("prefix must be at least 0 and below tokens")
        if self.dim % self.heads:
            raise InputError("dim must be a multiple of heads")


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
    """Name of the dataset whose images it is judged on; None means there are none."""


@dataclass(frozen=True)
class DatasetSpec:
    """Labelled images in one content-addressed ``.npz``.

    The file holds ``images`` uint8 (n, h, w) or (n, h, w, 3), ``labels`` int64 (n,), and int64 index arrays
    ``train``, ``calibration``, ``evaluation`` that share no image.
    """

    name: str
    sha256: str
    classes: int
    mean: float
    std: float
    """Pixels become ``(image / 255 - mean) / std`` after bilinear resizing to the model's image size."""
    calibration_images: int
    evaluation_images: int
    source: str
    """Where the images come from, in words."""


@dataclass(frozen=True)
class Workload:
    """A model and how it is run; a curve is one board × one workload."""

    model: ModelSpec
    batch: int = 1
    backend: str = "eager"
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError("batch must be at least 1")
        if self.backend not in BACKENDS:
            raise InputError("unknown backend {!r}; known: {}".format(self.backend, ", ".join(BACKENDS)))
        if self.dtype not in DTYPES:
            raise InputError("unknown dtype {!r}; known: {}".format(self.dtype, ", ".join(DTYPES)))
