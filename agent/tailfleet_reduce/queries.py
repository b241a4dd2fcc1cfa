"""Cropr's folded queries beside a model's weights: in its checkpoint, and on the model in memory.

They belong to the weights that they were trained with, so both lie in one ``.npz``: the arrays of the model under its
own names, and for each block that can be scored ``cropr.<block>`` (C,) fp32. On a model they are a plain attribute: no
parameter, no module, nothing that timm or a state dict would see.
"""

import re
from typing import Any, Dict, Mapping, Optional, Tuple, TypeVar, cast

import torch
from torch import nn

from tailfleet_reduce.anatomy import Anatomy
from tailfleet_schema.errors import InputError

_ATTRIBUTE = "tailfleet_cropr_queries"
_NAME = re.compile(r"cropr\.(0|[1-9][0-9]{0,3})\Z")

Value = TypeVar("Value")


def array_name(block: int) -> str:
    """What a block's query is called in a checkpoint."""
    return "cropr.{}".format(block)


def separated(arrays: Mapping[str, Value]) -> Tuple[Dict[str, Value], Dict[int, Value]]:
    """The model's own arrays, and the queries by block."""
    own: Dict[str, Value] = {}
    queries: Dict[int, Value] = {}
    for name, array in arrays.items():
        match = _NAME.match(name)
        if match:
            queries[int(match.group(1))] = array
        else:
            own[name] = array
    return own, queries


def tensors(queries: Mapping[int, Any]) -> Dict[int, torch.Tensor]:
    """``queries`` {block: (C,)}, tensors or arrays, as fp32 tensors. Raises ``InputError`` for anything else."""
    try:
        return {int(block): torch.as_tensor(query).detach().float() for block, query in queries.items()}
    except (TypeError, ValueError, RuntimeError, AttributeError):
        raise InputError("Cropr queries are a dictionary of blocks, each with as many numbers as the model is wide")


def attach(model: nn.Module, queries: Mapping[int, Any]) -> None:
    """Let ``model`` carry ``queries`` {block: (C,)}, in fp32. Raises ``InputError`` for what are none."""
    cast(Any, model).__dict__[_ATTRIBUTE] = tensors(queries)


def attached(model: nn.Module) -> Optional[Dict[int, torch.Tensor]]:
    """What ``model`` carries; None where it carries none."""
    found: Optional[Dict[int, torch.Tensor]] = model.__dict__.get(_ATTRIBUTE)
    return found


def check(queries: Mapping[int, torch.Tensor], anatomy: Anatomy) -> None:
    """Raise ``InputError`` unless ``queries`` are of this model's blocks and width."""
    dim = anatomy.geometry().dim
    for block, query in sorted(queries.items()):
        if not 0 <= block < anatomy.depth:
            raise InputError("there is a Cropr query for block {}, but the model has {}".format(block, anatomy.depth))
        if tuple(query.shape) != (dim,) or not bool(torch.isfinite(query).all()):
            raise InputError(
                "the Cropr query of block {} is {}, not {} finite numbers".format(block, tuple(query.shape), dim)
            )


def untrained(depth: int, dim: int, seed: int = 0) -> Dict[int, torch.Tensor]:
    """Random queries of every block: enough to time the method, for its cost does not depend on their values."""
    drawn = torch.randn(depth, dim, generator=torch.Generator().manual_seed(seed)) * dim**-0.5
    return dict(enumerate(drawn))
