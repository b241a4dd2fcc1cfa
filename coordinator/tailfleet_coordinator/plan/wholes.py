"""Whole schedules that an accuracy profile judges besides reductions at one block: random ones, a few of each method.

What they lose tells how losses of single blocks compose (``composition``). They follow from the model and the method
alone, so all campaigns judge the same and each is judged once. They stay where the profile knows single reductions:
within its blocks, and above its smallest count. Left to others: the reductions at one block (``design``).
"""

import random
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from tailfleet_coordinator.plan.design import profile_units
from tailfleet_schema.curve import WHOLE, Part, Unit
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import Geometry, ModelSpec

WHOLES = 20
"""Of each method."""

MOST_REDUCING = 5
"""Blocks of a drawn schedule that reduce; from two on."""

GENTLEST = 0.2
"""Of all tokens: a drawn schedule drops so many at least."""


def whole_schedules(model: ModelSpec, method: str, drawing: str = "", count: int = WHOLES) -> list[Schedule]:
    """``count`` of them, fewer where there are not as many; none where a model has too few blocks or tokens.

    Evenly spread over the tokens that they drop in all and the number of blocks that reduce; blocks and how much each
    drops are drawn. Another ``drawing`` gives others. Raises ``ScheduleError`` for an unknown method.
    """
    return list(_drawn(model.name, model.geometry, method, f"{model.dataset} {drawing}", count))


def whole_units(schedules: Iterable[Schedule]) -> list[Unit]:
    """A LOSS unit for each."""
    return [Unit(Part.LOSS, one.tokens, one.keep[-1], one.digest, WHOLE) for one in schedules]


@lru_cache(maxsize=256)
def _drawn(name: str, geometry: Geometry, method: str, drawing: str, count: int) -> tuple[Schedule, ...]:
    floors = _floors(geometry, method)
    if len(floors) < 2:
        return ()
    full, least = geometry.tokens, min(floors.values())
    rng = random.Random(f"{name} {method} {drawing}")
    most = min(MOST_REDUCING, len(floors), full - least)
    if most < 2:
        return ()
    found: dict[str, Schedule] = {}
    for number in range(count):
        reducing = 2 + number % (most - 1)
        share = (number + rng.random()) / count
        dropped = max(reducing, round(GENTLEST * full + share * (full - least - GENTLEST * full)))
        blocks = sorted(rng.sample(list(floors), reducing))
        cuts = sorted(rng.sample(range(1, dropped), reducing - 1))
        left = dict(zip(blocks, [full - cut for cut in [*cuts, dropped]], strict=True))
        keep, arriving = [], full
        for block in range(geometry.depth):
            if block in left:
                at_least = max(left[block], floors[block], smallest_reachable(method, arriving, geometry.prefix))
                arriving = min(arriving, at_least)
            keep.append(arriving)
        one = Schedule(method, name, full, geometry.prefix, keep)
        if len(one.reducing_blocks) > 1:
            found[one.digest] = one
    return tuple(found.values())


def _floors(geometry: Geometry, method: str) -> dict[int, int]:
    """For each block within the profiled ones, the fewest tokens whose loss there is known, if by interpolation."""
    single = [unit for unit in profile_units(geometry, method) if unit.kept < unit.tokens]
    least = {block: min(unit.kept for unit in single if unit.block == block) for block in {u.block for u in single}}
    profiled = sorted(least)
    return {
        block: least[high] if block == high else max(least[low], least[high])
        for low, high in pairwise([*profiled[:1], *profiled])
        for block in range(low, high + 1)
        if block == high or low < block
    }
