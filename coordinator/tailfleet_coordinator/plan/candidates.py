"""The schedules that a plan takes one of, with what they are predicted to cost and to lose, none beaten in both.

They come from an exact search (``refine`` adds what a second one finds around some of them), or from all settings of a
published knob (``baselines``); those of several methods are put together, and compete. Left to others: predictions,
losses, and the choice among them (``choice``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.accuracy import LossModel, loss_of
from tailfleet_coordinator.plan.baselines import Setting
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.search import Front, Problem, search, undominated
from tailfleet_schema.campaign import FrontPoint
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import ModelSpec

REDUCES_ONCE: frozenset[str] = frozenset()
"""Methods that may reduce at one block alone. POMT is published with one block; nothing in it forbids several."""

MOST_FRONT_POINTS = 32
"""Kept of a front for people to look at, both ends among them."""

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
    units: NDArray[np.float64] | None = None
    """Of a search's own front: the sums of units that ``loss`` is made of."""

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
    own = of_search(search(problem(model, method, latency, loss, counts), within_ns * SLACK), model, method, loss)
    if latency.adds_up(method):
        return own
    # The search added up; what tails or blocks that differ come to is another figure, and with it another front.
    mixed_ns = np.array([latency.predict(own.schedule(point)).ns for point in range(len(own))])
    return Candidates.of(own.schedule, mixed_ns, own.loss, within_ns, {})


def of_search(front: Front, model: ModelSpec, method: str, loss: LossModel) -> Candidates:
    """What a search found; its losses were in units of ``loss``."""
    geometry = model.geometry

    @cache
    def schedule(point: int) -> Schedule:
        return Schedule(method, model.name, geometry.tokens, geometry.prefix, front.keep(point))

    return Candidates(schedule, front.latency_ns, loss.total(front.loss), {}, front.loss)


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


def drawn(own: Candidates, chosen: int | None) -> list[FrontPoint]:
    """Up to ``MOST_FRONT_POINTS`` of the front, evenly spaced in latency, the chosen one and both ends among them."""
    size, latency_ns = len(own), own.latency_ns
    if size > MOST_FRONT_POINTS:
        wanted = np.linspace(latency_ns[0], latency_ns[-1], MOST_FRONT_POINTS - 1)
        picked = {0, size - 1, *np.abs(latency_ns - wanted[:, None]).argmin(axis=1).tolist()}
    else:
        picked = set(range(size))
    if chosen is not None:
        picked.add(chosen)
    schedules = {i: own.schedule(i) for i in sorted(picked)}
    return [
        FrontPoint(float(latency_ns[i]), float(own.loss[i]), list(one.keep), one.method) for i, one in schedules.items()
    ]


def problem(model: ModelSpec, method: str, latency: LatencyModel, loss: LossModel, counts: Sequence[int]) -> Problem:
    """What is to be searched: the cost of each block that n tokens enter and m leave, and what that loses."""
    geometry = model.geometry
    known = sorted({n for n in counts if n > geometry.prefix} | {geometry.tokens}, reverse=True)
    costs, losses = blocks_ns(model, method, latency, known), loss.steps_units(geometry.depth, known)
    return Problem(tuple(known), latency.fixed_ns, costs, losses, method in REDUCES_ONCE)


def blocks_ns(model: ModelSpec, method: str, latency: LatencyModel, counts: Sequence[int]) -> NDArray[np.float64]:
    """What a block takes from each of ``counts``, descending, to each: (K, K); ``inf`` where ``method`` cannot."""
    costs = latency.blocks_ns(method, counts)
    costs[_out_of_reach(method, model.geometry.prefix, tuple(counts))] = np.inf
    return costs


@lru_cache(maxsize=256)
def _out_of_reach(method: str, prefix: int, counts: tuple[int, ...]) -> NDArray[np.bool_]:
    """From which of ``counts`` to which ``method`` cannot: (K, K)."""
    least = np.array([smallest_reachable(method, count, prefix) for count in counts])
    return np.asarray(np.array(counts)[None, :] < least[:, None])
