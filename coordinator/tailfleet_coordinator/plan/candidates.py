"""The schedules that a plan takes one of, with what they are predicted to cost and to lose, none beaten in both.

They come from an exact search, or from all settings of a published knob (``baselines``); those of several methods are
put together, and compete. Left to others: predictions, losses, and the choice among them (``choice``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.accuracy import LossModel, loss_of
from tailfleet_coordinator.plan.baselines import Setting
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.search import Problem, search, undominated
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import ModelSpec

REDUCES_ONCE: frozenset[str] = frozenset()
"""Methods that may reduce at one block alone. POMT is published with one block; nothing in it forbids several."""

SLACK = 1 + 1e-9
"""Sums in another order differ in the last digits."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """A front: by rising latency, and so by falling loss."""

    schedules: list[Schedule]
    latency_ns: NDArray[np.float64]
    loss: NDArray[np.float64]
    """Points of top-1, or percent of token work left out."""
    knobs: dict[str, str]
    """The setting of a schedule that a knob gave, by its digest."""

    @classmethod
    def of(
        cls,
        schedules: Sequence[Schedule],
        latency_ns: NDArray[np.float64],
        loss: NDArray[np.float64],
        within_ns: float,
        knobs: dict[str, str],
    ) -> "Candidates":
        """Those that no other beats in both, and none slower than ``within_ns``."""
        best = undominated(latency_ns, loss)
        best = best[latency_ns[best] <= within_ns * SLACK]
        return cls([schedules[point] for point in best], latency_ns[best], loss[best], knobs)


def searched(
    model: ModelSpec, method: str, latency: LatencyModel, loss: LossModel, counts: Sequence[int]
) -> Candidates:
    """All that ``method`` can do at ``counts``, dense among it. Raises ``InputError`` where it was not timed."""
    within_ns = latency.dense.ns
    front = search(problem(model, method, latency, loss, counts), within_ns=within_ns * SLACK)
    geometry = model.geometry
    schedules = [
        Schedule(method, model.name, geometry.tokens, geometry.prefix, front.keep(point)) for point in range(len(front))
    ]
    losses = front.loss * loss.unit
    if latency.adds_up(method):
        return Candidates(schedules, front.latency_ns, losses, {})
    # The search added up; what tails or blocks that differ come to is another figure, and with it another front.
    mixed_ns = np.array([latency.predict(schedule).ns for schedule in schedules])
    return Candidates.of(schedules, mixed_ns, losses, within_ns, {})


def swept(settings: Sequence[Setting], latency: LatencyModel, loss: LossModel) -> Candidates:
    """The settings of one knob. Raises ``InputError`` where its method was not timed."""
    schedules = [setting.schedule for setting in settings]
    predicted_ns = np.array([latency.predict(schedule).ns for schedule in schedules])
    losses = np.array([loss_of(loss, schedule) for schedule in schedules])
    knobs = {setting.schedule.digest: setting.knob for setting in settings}
    return Candidates.of(schedules, predicted_ns, losses, latency.dense.ns, knobs)


def merged(several: Sequence[Candidates], within_ns: float) -> Candidates:
    """The best of all, whichever method they are of."""
    return Candidates.of(
        [schedule for one in several for schedule in one.schedules],
        np.concatenate([one.latency_ns for one in several]),
        np.concatenate([one.loss for one in several]),
        within_ns,
        {digest: knob for one in several for digest, knob in one.knobs.items()},
    )


def problem(model: ModelSpec, method: str, latency: LatencyModel, loss: LossModel, counts: Sequence[int]) -> Problem:
    """What is to be searched: the cost of each block that n tokens enter and m leave, and what that loses."""
    geometry = model.geometry
    known = sorted({n for n in counts if n > geometry.prefix} | {geometry.tokens}, reverse=True)
    block_ns = np.full((len(known), len(known)), np.inf)
    block_loss = np.full((geometry.depth, len(known), len(known)), np.inf)
    for i, n in enumerate(known):
        for j, m in enumerate(known[i:], start=i):
            if m < n and m < smallest_reachable(method, n, geometry.prefix):
                continue
            block_ns[i, j] = latency.block_ns(method, n, m)
            for block in range(geometry.depth):
                if m == n:
                    block_loss[block, i, j] = 0.0
                elif loss.allows(block, m):
                    block_loss[block, i, j] = loss.step_units(block, n, m)
    return Problem(tuple(known), latency.fixed_ns, block_ns, block_loss, method in REDUCES_ONCE)
