"""A percentile of single calls with an interval that needs no shape of their scatter, and how many calls it takes.

The interval is between order statistics: of n independent calls, the number below the true percentile is binomial,
whatever their distribution, so two ranks hold the percentile between them 95 times in 100. That is honest about tails
where a normal or a resampling interval is not: no resampling shows a call slower than the slowest one seen.
Calls of one round share its disturbances. How unevenly those above the percentile are spread over rounds says how
many independent calls they are worth, and the ranks are those of so many. Where the upper rank lies beyond the
slowest call, that call is the end: nothing is known of what is slower.

A p99 therefore takes 368 calls before the slowest lies above it (0.99³⁶⁸ < 2.5 %), and its upper end is then that one
call. With ``ENOUGH_CALLS`` the ends lie near what 0.5 % and 1.5 % of the calls exceed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from tailfleet_coordinator.plan.statistics import CONFIDENCE, QUIET_QUANTILE, measured, summarise
from tailfleet_schema.campaign import Statistic
from tailfleet_schema.curve import TIMED_PARTS, Part, Unit, UnitResult

LEVELS = {Statistic.QUIET: QUIET_QUANTILE, Statistic.P50: 0.5, Statistic.P99: 0.99}

ENOUGH_CALLS = {Statistic.QUIET: 25, Statistic.P50: 100, Statistic.P99: 1600}
"""Of one schedule, to compare it with another. A median of 100 calls is known to ±10 ranks in 100; a tail of 1 % to
half of itself. More help little: the interval shrinks by their root."""

_TAIL = (1.0 - CONFIDENCE) / 2

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Percentile:
    """An estimate and the ends of its interval, in the unit of what was given."""

    value: float
    low: float
    high: float


def least_calls(on: Statistic) -> int:
    """The fewest calls whose fastest and slowest hold the percentile between them; a low quantile takes any."""
    if on is Statistic.QUIET:
        return 1
    level = LEVELS[on]
    return math.ceil(math.log(_TAIL) / math.log(max(level, 1.0 - level)))


def shortage(on: Statistic, units: int, rounds: int, calls: int) -> str | None:
    """Why a sweep of so many whole-model units is too short for ``on``, and what is enough; None where it is not.

    ``calls`` are those of one unit in one round.
    """
    made, least = units * rounds * calls, least_calls(on)
    if made >= least:
        return None
    enough = math.ceil(least / (max(units, 1) * max(rounds, 1)))
    return (
        f"a {on.value} takes {least} calls of the whole model, and the sweep has {made}: "
        f"measure with --rounds {max(rounds, 1)} --calls {enough}"
    )


def percentile(values: _Floats, level: float, *groupings: _Ints) -> Percentile:
    """The percentile of ``values`` (at least one). Each of ``groupings`` says which values share disturbances."""
    at = float(np.quantile(values, level))
    effective = max(1, int(len(values) / clustering(values > at, groupings)))
    below = bdtr(np.arange(effective + 1), effective, level)
    low, high = int(np.searchsorted(below, _TAIL)), int(np.searchsorted(below, 1.0 - _TAIL)) + 1
    ordered = np.sort(values)
    stretch = len(values) / effective
    first = max(math.floor(low * stretch) - 1, 0)
    last = min(math.ceil(high * stretch) - 1, len(values) - 1)
    return Percentile(at, min(float(ordered[first]), at), max(float(ordered[last]), at))


def clustering(over: NDArray[np.bool_], groupings: Iterable[_Ints]) -> float:
    """By how much the number of hits per group varies more than if they were independent; at least 1."""
    share = float(np.mean(over))
    worst = 1.0
    if not 0.0 < share < 1.0:
        return worst
    for grouping in groupings:
        sizes = np.bincount(grouping).astype(float)
        hits = np.bincount(grouping, weights=over)[sizes > 0]
        sizes = sizes[sizes > 0]
        if len(sizes) > 1:
            excess = float(np.sum((hits - sizes * share) ** 2 / (sizes * share * (1.0 - share))))
            worst = max(worst, excess / (len(sizes) - 1))
    return worst


def timed(results: Sequence[UnitResult], part: Part, on: Statistic) -> dict[str, Percentile]:
    """By label, the time in ns of each unit of ``part`` on the statistic; without those that ran out of memory.

    Calls that are fewer than ``least_calls`` still give a figure, whose interval ends at the slowest of them.
    """
    if on is Statistic.QUIET:
        points = summarise(results)
        labels = {p.unit.label for p in points if p.unit.part is part}
        found = [one for label in labels for one in measured(points, part, label)]
        return {one.unit.label: Percentile(one.ns, one.ns - one.half_ns, one.ns + one.half_ns) for one in found}
    units = {unit: calls_of(rounds) for unit, rounds in complete(results).items() if unit.part is part}
    return {unit.label: percentile(calls, LEVELS[on], number) for unit, (calls, number) in units.items()}


def complete(results: Iterable[UnitResult]) -> dict[Unit, list[UnitResult]]:
    """The timed units that never ran out of memory, each with its rounds; what was sent twice counts once."""
    units: dict[Unit, dict[int, UnitResult]] = {}
    for result in results:
        if result.unit.part in TIMED_PARTS:
            units.setdefault(result.unit, {}).setdefault(result.round, result)
    return {
        unit: list(rounds.values())
        for unit, rounds in units.items()
        if all(r.status == "ok" and r.call_ns for r in rounds.values())
    }


def calls_of(rounds: Sequence[UnitResult]) -> tuple[_Floats, _Ints]:
    """All calls of one unit in ns, and for each the number of its round."""
    calls = np.array([ns for r in rounds for ns in r.call_ns], dtype=float)
    return calls, np.repeat([r.round for r in rounds], [len(r.call_ns) for r in rounds])
