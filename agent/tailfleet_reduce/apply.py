"""A timm model and a schedule become a model that reduces tokens as the schedule says.

The reduced model shares the model's modules and weights and leaves the model itself as it was: no forward is replaced,
nothing is patched. Blocks that do not reduce are timm's own blocks, called whole, but for two cases: behind ToMe's
merging attention follows sizes, and BEiT's biases know no other places than all in order. How a method chooses is left
to its own file, how a block is taken apart to :mod:`tailfleet_reduce.block`.
"""

from typing import Callable, Mapping, Optional

import torch
from torch import nn

from tailfleet_reduce.anatomy import Anatomy
from tailfleet_reduce.dissect import dissect
from tailfleet_reduce.methods import method_for
from tailfleet_schema.errors import InputError, ScheduleError
from tailfleet_schema.schedule import Schedule


class ReducedModel(nn.Module):
    """A vision transformer under a schedule: images (B, channels, size, size) → logits (B, K)."""

    def __init__(
        self, model: nn.Module, schedule: Schedule, queries: Optional[Mapping[int, torch.Tensor]] = None
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        anatomy = dissect(model)
        geometry = anatomy.geometry()
        schedule.check_fits(schedule.model, geometry)
        # Where a model takes images of many sizes, the number of tokens decides.
        dynamic = bool(getattr(model, "dynamic_img_size", False))
        self._image_shape = None if dynamic else (geometry.channels, geometry.image_size, geometry.image_size)
        self._anatomy = anatomy
        self.method = None if schedule.is_dense else method_for(schedule.method, anatomy, schedule.parameters, queries)
        if self.method is not None:
            self.method.check(schedule)
            self.method.to(next(model.parameters()).device)
        reducing = schedule.reducing_blocks
        # The last block whose attention or method reads sizes; up to the one before, they are kept.
        self._last_reader = -1
        if self.method is not None and self.method.reads_sizes:
            self._last_reader = anatomy.depth - 1 if self.method.proportional else reducing[-1]
        self._restore_before = None if schedule.is_dense else schedule.restore_before
        self.watch: Optional[Callable[[int, torch.Tensor], None]] = None
        """Told the number of each block that drops nothing, and what it leaves, (B, N, C); for training."""
        self.training = model.training  # not train(), which would thaw what the user froze within the model

    @property
    def anatomy(self) -> Anatomy:
        """The model taken apart."""
        return self._anatomy

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits. Raises ``ScheduleError`` for images of another shape, or that become another number of tokens."""
        return self._anatomy.head(self.forward_tokens(images))

    def forward_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """What the last block leaves, (B, keep[-1], C), not normed: prefix tokens first, the others in no order, unless
        the schedule restores them and none leaves behind that: then all are in their places.

        Raises ``ScheduleError`` for images of another shape, or that become another number of tokens.
        """
        if self._image_shape is not None and tuple(images.shape[1:]) != self._image_shape:
            raise ScheduleError(
                "the model takes images (B, {}, {}, {}), not {}".format(*self._image_shape, tuple(images.shape))
            )
        x = self._anatomy.embed(images)  # (B, N, C)
        if x.shape[1] != self.schedule.tokens:
            raise ScheduleError(
                "the schedule expects {} tokens, these images become {}".format(self.schedule.tokens, x.shape[1])
            )
        return self.onward(x)

    def onward(self, x: torch.Tensor, first: int = 0) -> torch.Tensor:
        """As ``forward_tokens``, of the tokens (B, N, C) that enter block ``first``; none before it may reduce."""
        state = self._anatomy.state(self.method, self._restore_before is not None)
        for number in range(first, self._anatomy.depth):
            block, kept = self._anatomy.blocks[number], self.schedule.keep[number]
            if number == self._restore_before:
                x = state.restore(x)  # (B, N, C)
            if self.method is None or kept == x.shape[1]:
                x = block.whole(x, state)
                if self.watch is not None:
                    self.watch(number, x)
                continue
            state.wants_sizes = number < self._last_reader
            x = block.reduce(x, self.method, kept, state)  # (B, kept, C)
        return x


def apply(
    model: nn.Module,
    schedule: Schedule,
    name: Optional[str] = None,
    queries: Optional[Mapping[int, torch.Tensor]] = None,
) -> ReducedModel:
    """``model`` under ``schedule``, in the model's mode (train or eval), on its device and in its dtype.

    With ``name``, the model's name, a schedule made for another model is refused; without, only what can be seen is
    compared: depth, tokens, prefix. ``queries`` are those of method ``cropr``, folded, ``{block: (C,)}``; without, the
    model's own (:mod:`tailfleet_reduce.queries`). Raises ``ScheduleError`` for a schedule that does not fit,
    ``InputError`` for queries that do not, and ``ModelRefused`` for a model that is not understood; all before anything
    runs.
    """
    if not isinstance(schedule, Schedule):
        raise InputError("{!r} is no schedule".format(schedule), "load_schedule(path) reads one from a file")
    if name is not None and name != schedule.model:
        raise ScheduleError("the schedule was made for model {!r}, not for {!r}".format(schedule.model, name))
    return ReducedModel(model, schedule, queries)
