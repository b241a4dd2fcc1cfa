"""From a ``ModelSpec`` to a model in memory: timm builds it, an ``.npz`` of plain arrays fills it.

Neither pickled checkpoints nor timm's own downloads are touched: a job can name an architecture and numbers
for it, never code. Reducing tokens is left to ``tailfleet_reduce``, running it to the backends.
"""

from typing import Any, Dict

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tailfleet_agent.worker.datasets import artifact, read_arrays
from tailfleet_reduce import dissect
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import ModelSpec

OWN_CLASS = "VisionTransformer"

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

ARGUMENTS = frozenset(
    [
        "img_size",
        "patch_size",
        "in_chans",
        "num_classes",
        "global_pool",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "qkv_bias",
        "qk_norm",
        "scale_attn_norm",
        "scale_mlp_norm",
        "proj_bias",
        "init_values",
        "class_token",
        "pos_embed",
        "no_embed_class",
        "reg_tokens",
        "pre_norm",
        "final_norm",
        "fc_norm",
        "pool_include_prefix",
        "distilled",
    ]
)
"""What a spec may set. timm's others name files, downloads or classes (``checkpoint_path`` unpickles)."""


def build(spec: ModelSpec, artifacts_dir: str, seed: int, device: str = "cpu", dtype: str = "fp32") -> nn.Module:
    """The model that ``spec`` describes, in eval mode, without gradients, on ``device`` in ``dtype``.

    With no checkpoint the weights are random ones that ``seed`` decides; the caller's random state is left
    as it was. Raises ``InputError`` for an architecture, arguments, geometry or weights that do not fit, and
    ``LabError`` for a checkpoint that is missing or damaged on this board.
    """
    if dtype not in TORCH_DTYPES:
        raise InputError("unknown dtype {!r}; known: {}".format(dtype, ", ".join(sorted(TORCH_DTYPES))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _architecture(spec)
    if spec.checkpoint_sha256 is not None:
        what = "the checkpoint of model {!r}".format(spec.name)
        _load(model, read_arrays(artifact(artifacts_dir, spec.checkpoint_sha256, what), what), what)
    geometry = dissect(model).geometry()
    if geometry != spec.geometry:
        raise InputError(
            "model {!r} has the geometry {}, but its spec says {}".format(spec.name, geometry, spec.geometry)
        )
    model.requires_grad_(False)
    return model.eval().to(device=device, dtype=TORCH_DTYPES[dtype])


def _architecture(spec: ModelSpec) -> nn.Module:
    unknown = sorted(set(spec.arguments) - ARGUMENTS)
    if unknown:
        raise InputError("model {!r} sets {}, which a spec may not".format(spec.name, ", ".join(unknown)))
    if spec.architecture != OWN_CLASS and not timm.is_model(spec.architecture):
        raise InputError(
            "timm {} knows no architecture {!r}".format(timm.__version__, spec.architecture),
            "install a newer timm on the board, or choose another model",
        )
    try:
        if spec.architecture == OWN_CLASS:
            return VisionTransformer(**spec.arguments)
        return timm.create_model(spec.architecture, pretrained=False, **spec.arguments)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise InputError(
            "timm {} cannot build {!r} with {}: {}".format(timm.__version__, spec.architecture, spec.arguments, error)
        )


def _load(model: nn.Module, arrays: Dict[str, "np.ndarray[Any, Any]"], what: str) -> None:
    """Fill every parameter and buffer; half-precision arrays are widened to the model's own precision."""
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(arrays)), sorted(set(arrays) - set(expected))
    if missing or unknown:
        raise InputError(
            "{} does not fit: {}".format(
                what,
                "; ".join(
                    "{} {}".format(word, ", ".join(names[:4]) + (" …" if len(names) > 4 else ""))
                    for word, names in (("missing", missing), ("unknown", unknown))
                    if names
                ),
            )
        )
    for name, target in expected.items():
        array = arrays[name]
        if array.shape != tuple(target.shape) or array.dtype.kind not in "fiub":
            raise InputError(
                "{} does not fit: {} is {} {}, not {}".format(what, name, array.dtype, array.shape, tuple(target.shape))
            )
    model.load_state_dict({name: torch.from_numpy(array).to(expected[name].dtype) for name, array in arrays.items()})


def save(model: nn.Module) -> Dict[str, "np.ndarray[Any, Any]"]:
    """The weights as arrays that ``build`` can load: half precision, half the bytes of what was trained."""
    return {name: value.detach().cpu().numpy().astype(np.float16) for name, value in model.state_dict().items()}
