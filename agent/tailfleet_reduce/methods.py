"""All methods by the name that schedules use, and how each is made ready for a model."""

from typing import Any, Callable, Dict, Mapping, Optional

import torch

from tailfleet_reduce import queries as cropr_queries
from tailfleet_reduce.anatomy import Anatomy
from tailfleet_reduce.cropr import Cropr
from tailfleet_reduce.evit import EViT
from tailfleet_reduce.method import Method
from tailfleet_reduce.pomt import Pomt
from tailfleet_reduce.random import Random
from tailfleet_reduce.tome import ToMe
from tailfleet_reduce.topk import TopK
from tailfleet_reduce.zero_tprune import ZeroTPrune
from tailfleet_schema.errors import ScheduleError

Queries = Optional[Mapping[int, torch.Tensor]]

METHODS: Dict[str, Callable[[Anatomy, Mapping[str, Any], Queries], Method]] = {
    "random": lambda anatomy, parameters, queries: Random(anatomy.tokens, **parameters),
    "topk": lambda anatomy, parameters, queries: TopK(),
    "evit": lambda anatomy, parameters, queries: EViT(),
    "pomt": lambda anatomy, parameters, queries: Pomt(),
    "tome": lambda anatomy, parameters, queries: ToMe(**parameters),
    "zero-tprune": lambda anatomy, parameters, queries: ZeroTPrune(**parameters),
    "cropr": lambda anatomy, parameters, queries: _cropr(anatomy, queries),
}
"""The methods that reduce, each with what makes one ready."""


def method_for(
    name: str, anatomy: Anatomy, parameters: Optional[Mapping[str, Any]] = None, queries: Queries = None
) -> Method:
    """Method ``name`` with ``parameters`` (as a schedule has them, checked there), ready for the model of ``anatomy``.

    ``queries`` are those of ``cropr``; without, what the model carries. Raises ``ScheduleError`` for a method that is
    not known here, and for ``cropr`` without queries.
    """
    if name == "dense":
        raise ScheduleError("method 'dense' reduces nothing: there is nothing to make ready")
    if name not in METHODS:
        raise ScheduleError("this tailfleet cannot reduce by method {!r}".format(name), "install the newest tailfleet")
    return METHODS[name](anatomy, parameters or {}, queries).eval()


def _cropr(anatomy: Anatomy, queries: Queries) -> Cropr:
    found = cropr_queries.attached(anatomy.model) if queries is None else cropr_queries.tensors(queries)
    if found is None:
        raise ScheduleError("method 'cropr' needs trained queries, and the model carries none")
    cropr_queries.check(found, anatomy)
    return Cropr(found)
