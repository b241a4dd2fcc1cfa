"""The schedules that a plan takes one of, with what they are predicted to cost and to lose, none beaten in both.

They come from an exact search, or from all settings of a published knob (``baselines``); those of several methods are
put together, and compete. Left to others: predictions, losses, and the choice among them (``choice``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

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

    schedule: Callable[[int], Schedule]
    """Of a point: a front may have thousands, and few are looked at."""
    latency_ns: NDArray[np.float64]
    loss: NDArray[np.float64]
    """Points of top-1 or of agreement, or percent of token work left out."""
    knobs: dict[str, str]
    """The setting of a schedule that a knob gave, by its digest."""

    def __len__(self) -> int:
        """Number of points."""
        return len(self.latency_ns)

    @classmethod
    def of(
        cls,
        schedule: Callable[[int], Schedule],
        latency_ns: NDArray[np.float64],
        loss: NDArray[np.float64],
        within_ns: float,
        knobs: dict[str, str],
    ) -> "Candidates":
        """Those that no other beats in both, and none slower than ``within_ns``."""
        best = undominated(latency_ns, loss)
        best = best[latency_ns[best] <= within_ns * SLACK]
        return cls(lambda point: schedule(int(best[point])), latency_ns[best], loss[best], knobs)


def searched(
    model: ModelSpec, method: str, latency: LatencyModel, loss: LossModel, counts: Sequence[int]
) -> Candidates:
    """All that ``method`` can do at ``counts``, dense among it. Raises ``InputError`` where it was not timed."""
    within_ns = latency.dense.ns
    front = search(problem(model, method, latency, loss, counts), within_ns=within_ns * SLACK)
    geometry = model.geometry

    @cache
    def schedule(point: int) -> Schedule:
        return Schedule(method, model.name, geometry.tokens, geometry.prefix, front.keep(point))

    losses = loss.total(front.loss)
    if latency.adds_up(method):
        return Candidates(schedule, front.latency_ns, losses, {})
    # The search added up; what tails or blocks that differ come to is another figure, and with it another front.
    mixed_ns = np.array([latency.predict(schedule(point)).ns for point in range(len(front))])
    return Candidates.of(schedule, mixed_ns, losses, within_ns, {})


def swept(settings: Sequence[Setting], latency: LatencyModel, loss: LossModel) -> Candidates:
    """The settings of one knob. Raises ``InputError`` where its method was not timed."""
    schedules = [setting.schedule for setting in settings]
    predicted_ns = np.array([latency.predict(schedule).ns for schedule in schedules])
    losses = np.array([loss_of(loss, schedule) for schedule in schedules])
    knobs = {setting.schedule.digest: setting.knob for setting in settings}
    return Candidates.of(schedules.__getitem__, predicted_ns, losses, latency.dense.ns, knobs)


def merged(several: Sequence[Candidates], within_ns: float) -> Candidates:
    """The best of all, whichever method they are of."""
    places = [(one, point) for one in several for point in range(len(one))]
    return Candidates.of(
        lambda place: places[place][0].schedule(places[place][1]),
        np.concatenate([one.latency_ns for one in several]),
        np.concatenate([one.loss for one in several]),
        within_ns,
        {digest: knob for one in several for digest, knob in one.knobs.items()},
    )


def problem(model: ModelSpec, method: str, latency: LatencyModel, loss: LossModel, counts: Sequence[int]) -> Problem:
    """What is to be searched: the cost of each block that n tokens enter and m leave, and what that loses."""
    geometry = model.geometry
    known = sorted({n for n in counts if n > geometry.prefix} | {geometry.tokens}, reverse=True)
    least = [smallest_reachable(method, n, geometry.prefix) for n in known]
    n = np.array(known)
    reachable = (n[None, :] >= np.array(least)[:, None]) | np.eye(len(known), dtype=bool)  # (K, K)
    block_ns = np.where(reachable, latency.blocks_ns(method, known), np.inf)
    block_loss = np.where(reachable, loss.steps_units(geometry.depth, known), np.inf)
    return Problem(tuple(known), latency.fixed_ns, block_ns, block_loss, method in REDUCES_ONCE)
