"""A timm model and a schedule become a model that reduces tokens as the schedule says.

The reduced model shares the model's modules and weights and leaves the model itself as it was: no forward is replaced,
nothing is patched. Blocks that do not reduce are timm's own blocks, called whole. How a method chooses is left to its
own file, how a block is taken apart to :mod:`tailfleet_reduce.anatomy`.
"""

from typing import Dict, Optional

import torch
from torch import nn

from tailfleet_reduce.anatomy import dissect
from tailfleet_reduce.method import Method, TokenState
from tailfleet_reduce.pomt import Pomt
from tailfleet_reduce.tome import ToMe
from tailfleet_reduce.topk import TopK
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import MID, Schedule

METHODS: Dict[str, Method] = {method.name: method for method in (TopK(), Pomt(), ToMe())}
"""The methods that reduce, by the name that schedules use."""


class ReducedModel(nn.Module):
    """A vision transformer under a schedule: images (B, channels, size, size) → logits (B, K)."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        anatomy = dissect(model)
        schedule.check_fits(schedule.model, anatomy.geometry())
        self._anatomy = anatomy
        self._method = None if schedule.is_dense else _method(schedule)
        reducing = schedule.reducing_blocks
        proportional = self._method is not None and self._method.proportional
        # The last block whose attention or method reads sizes; up to the one before, they are kept.
        self._last_reader = -1 if not reducing else anatomy.depth - 1 if proportional else reducing[-1]
        self.train(model.training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits. Raises ``ScheduleError`` for images that become another number of tokens."""
        x = self._anatomy.embed(images)  # (B, N, C)
        if x.shape[1] != self.schedule.tokens:
            raise ScheduleError(
                "the schedule expects {} tokens, these images become {}".format(self.schedule.tokens, x.shape[1])
            )
        state = TokenState()
        for number, (block, kept) in enumerate(zip(self._anatomy.blocks, self.schedule.keep)):
            if self._method is not None and kept < x.shape[1]:
                state.wanted = number < self._last_reader
                x = block.mlp(block.attention_reduce(x, self._method, kept, state))  # (B, kept, C)
            elif state.proportional:
                x = block.mlp(block.attention(x, state))
            else:
                x = block.module(x)
        return self._anatomy.head(x)


def apply(model: nn.Module, schedule: Schedule, name: Optional[str] = None) -> ReducedModel:
    """``model`` under ``schedule``, in the model's mode (train or eval), on its device and in its dtype.

    With ``name``, the model's name, a schedule made for another model is refused; without, only what can be seen is
    compared: depth, tokens, prefix. Raises ``ScheduleError`` for a schedule that does not fit and ``ModelRefused`` for
    a model that is not understood; both before anything runs.
    """
    if name is not None and name != schedule.model:
        raise ScheduleError("the schedule was made for model {!r}, not for {!r}".format(schedule.model, name))
    return ReducedModel(model, schedule)


def _method(schedule: Schedule) -> Method:
    method = METHODS.get(schedule.method)
    if method is None or method.placement != MID:
        raise ScheduleError(
            "this tailfleet cannot reduce by method {!r}".format(schedule.method), "install the newest tailfleet"
        )
    if schedule.parameters:
        raise ScheduleError("method {!r} has no parameter {!r}".format(schedule.method, sorted(schedule.parameters)[0]))
    return method
