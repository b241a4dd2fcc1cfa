"""From a ``ModelSpec`` to a model in memory: timm builds it, an ``.npz`` of plain arrays fills it.

No checkpoint is ever unpickled here: a job can name an architecture and numbers for it, never code. Where a spec asks
for timm's own weights, timm fetches them itself, in its own way. Other formats of checkpoints are left to
``checkpoint``, reducing tokens to ``tailfleet_reduce``, running a model to the backends.
"""

import difflib
from typing import Any, Dict, Optional

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tailfleet_agent.worker.datasets import artifact, read_arrays
from tailfleet_reduce import dissect, queries
from tailfleet_schema.errors import InputError, LabError
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
    ``LabError`` for a checkpoint that is missing or damaged on this board, or timm's weights out of its reach.
    """
    if dtype not in TORCH_DTYPES:
        raise InputError("unknown dtype {!r}; known: {}".format(dtype, ", ".join(sorted(TORCH_DTYPES))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = assemble(spec.name, spec.architecture, spec.arguments)
        if spec.pretrained:
            model = fetch_pretrained(spec.name, model, spec.architecture, spec.arguments)
    if spec.checkpoint_sha256 is not None:
        what = "the checkpoint of model {!r}".format(spec.name)
        fill(model, read_arrays(artifact(artifacts_dir, spec.checkpoint_sha256, what), what), what)
    geometry = dissect(model).geometry()
    if geometry != spec.geometry:
        raise InputError(
            "model {!r} has the geometry {}, but its spec says {}".format(spec.name, geometry, spec.geometry)
        )
    model.requires_grad_(False)
    return model.eval().to(device=device, dtype=TORCH_DTYPES[dtype])


def assemble(name: str, architecture: str, arguments: Dict[str, Any]) -> nn.Module:
    """What timm builds of ``architecture`` and ``arguments``, with random weights. Raises ``InputError``."""
    unknown = sorted(set(arguments) - ARGUMENTS)
    if unknown:
        raise InputError("model {!r} sets {}, which a spec may not".format(name, ", ".join(unknown)))
    if architecture != OWN_CLASS and not timm.is_model(architecture):
        similar = difflib.get_close_matches(architecture, timm.list_models())
        raise InputError(
            "timm {} knows no architecture {!r}".format(timm.__version__, architecture),
            "install a newer timm, or choose {}".format(" or ".join(similar) or "another model"),
        )
    try:
        if architecture == OWN_CLASS:
            return VisionTransformer(**arguments)
        return timm.create_model(architecture, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise InputError(
            "timm {} cannot build {!r} with {}: {}".format(timm.__version__, architecture, arguments, error)
        )


def check_pretrained(name: str, model: nn.Module, architecture: str) -> None:
    """Raise ``InputError`` unless timm has weights for ``model``, as ``assemble`` built it, and for all of it.

    timm leaves what its weights lack at random, and some releases build the whole model so, without a word.
    """
    # A dictionary, of other contents in each release of timm.
    config: Dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if not any(config.get(source) for source in ("url", "file", "hf_hub_id")):
        raise InputError(
            "timm {} has no pretrained weights for {!r}".format(timm.__version__, architecture),
            "give a checkpoint instead",
        )
    classes, asked = config.get("num_classes"), getattr(model, "num_classes", None)
    if asked not in (0, classes):
        raise InputError(
            "timm's weights for {!r} tell {} classes apart, not the {} of model {!r}: its head would be random".format(
                architecture, classes, asked, name
            ),
            "leave the number of classes out, or give a checkpoint that was trained for them",
        )


def fetch_pretrained(
    name: str, model: nn.Module, architecture: str, arguments: Dict[str, Any], mend: Optional[str] = None
) -> nn.Module:
    """``model``, as ``assemble`` built it, anew with timm's own weights, which timm fetches or finds in its cache.

    Raises ``InputError`` where timm has none or they do not fit, and ``LabError`` where they are out of reach;
    ``mend`` says what helps then.
    """
    check_pretrained(name, model, architecture)
    try:
        return timm.create_model(architecture, pretrained=True, **arguments)
    # Whoever timm asks (urllib, requests, httpx, the hub's client) has exceptions of its own; many are no OSError.
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise InputError("timm's weights for {!r} do not fit model {!r}: {}".format(architecture, name, error))
    except Exception as error:
        raise LabError(
            "timm's weights for {!r} cannot be fetched here: {}".format(architecture, _first_line(error)),
            mend
            or "let this board reach huggingface.co, or copy a hub's cache ($HF_HOME) there that has them, or register"
            " the model with its weights, so that they come from the coordinator",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def fill(model: nn.Module, arrays: Dict[str, "np.ndarray[Any, Any]"], what: str) -> None:
    """Fill every parameter and buffer; half-precision arrays are widened to the model's own precision. Cropr's queries
    among the arrays are attached to the model.

    Raises ``InputError``, which names what is missing, unknown or of another shape, and says whose arrays they are.
    """
    expected = model.state_dict()
    arrays, found = queries.separated(arrays)
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
    if found:
        attach(model, found, what)
    model.load_state_dict({name: torch.from_numpy(array).to(expected[name].dtype) for name, array in arrays.items()})


def attach(model: nn.Module, found: Dict[int, "np.ndarray[Any, Any]"], what: str) -> None:
    """Let ``model`` carry the queries of ``what``. Raises ``InputError``, which says whose they are, where they do not
    fit."""
    for block, array in sorted(found.items()):
        if array.dtype.kind not in "fiu":
            raise InputError("{} does not fit: {} holds {}".format(what, queries.array_name(block), array.dtype))
    tensors = {block: torch.from_numpy(array) for block, array in found.items()}
    try:
        queries.check(tensors, dissect(model))
    except InputError as error:
        raise InputError("{} does not fit: {}".format(what, error.sentence))
    queries.attach(model, tensors)


def save(model: nn.Module) -> Dict[str, "np.ndarray[Any, Any]"]:
    """The weights as arrays that ``build`` can load: half precision, half the bytes of what was trained."""
    return {name: value.detach().cpu().numpy().astype(np.float16) for name, value in model.state_dict().items()}
