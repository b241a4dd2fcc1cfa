"""Cropr's constant drop for a share of the tokens. The published schedules are in ``tailfleet_schema.published``."""

from typing import List, Optional

from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

LEAST_SHARE = 1 / 16
"""Of the patches: where a constant drop would leave fewer, it ends."""


def constant_drop(model: str, geometry: Geometry, per_block: int, fusion: bool = True) -> Schedule:
    """``per_block`` tokens leave after every block but the last, one more the first time, down to a sixteenth.

    With ``fusion`` none leave after the one before either, and the last block sees all tokens again. Where no block
    comes down to a sixteenth of the patches, this is Cropr's own schedule (arXiv 2412.00965).
    """
    if per_block < 1 or geometry.depth < (3 if fusion else 2):
        raise ScheduleError(
            "a drop of {} tokens in each of {} blocks{} leaves nothing to train".format(
                per_block, geometry.depth, " with last-layer fusion" if fusion else ""
            )
        )
    least = geometry.prefix + max(1, int((geometry.tokens - geometry.prefix) * LEAST_SHARE))
    last = geometry.depth - (2 if fusion else 1)
    keep: List[int] = []
    tokens = geometry.tokens
    for block in range(geometry.depth):
        if block < last:
            tokens = min(tokens, max(least, tokens - per_block - (1 if block == 0 else 0)))
        keep.append(tokens)
    restore: Optional[int] = None
    if fusion:
        keep[-1], restore = geometry.tokens, geometry.depth - 1
    return Schedule("cropr", model, geometry.tokens, geometry.prefix, keep, restore)


def for_share(model: str, geometry: Geometry, share: float, fusion: bool = True) -> Schedule:
    """The smallest constant drop whose blocks see at most ``share`` of the tokens on average.

    Raises ``ScheduleError`` for a share that is none, or that no drop reaches.
    """
    if not 0 < share < 1:
        raise ScheduleError("a share of tokens lies between 0 and 1, not {}".format(share))
    for per_block in range(1, geometry.tokens):
        schedule = constant_drop(model, geometry, per_block, fusion)
        if sum(schedule.entering) <= share * geometry.tokens * geometry.depth:
            return schedule
    raise ScheduleError(
        "no drop makes the blocks of {!r} see {:g} of their tokens on average; the least is {:.2f}".format(
            model, share, sum(schedule.entering) / (geometry.tokens * geometry.depth)
        )
    )
