"""What to measure: the units of a sweep, of an accuracy profile, and of a verification.

A sweep's rounds and calls are the user's (``SweepSettings``); those of a verification follow from what is asked of it.

Sizes are chosen so that a sweep of a 60–100 ms model with three methods stays well under a minute on a small CPU,
and a profile of a small model on 200 images under half a minute a method. Left to others: the order of units (the
worker).
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from tailfleet_coordinator.plan.quantiles import ENOUGH_CALLS, least_calls, shortage
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, Statistic, SweepSettings
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import PLACEMENT, Schedule, smallest_reachable
from tailfleet_schema.workload import Geometry

PHYSICAL_COUNTS = 16
"""Evenly spaced counts of a curve on a physical board, the smallest possible one besides."""

MOST_PART_COUNTS = 9
"""Counts at which ATTENTION and MLP are timed on a physical board: they are smoother than the whole."""

PHYSICAL_PAIRS: Mapping[float, Sequence[float]] = {
    1.0: (0.9, 0.7, 0.5, 0.3),
    0.75: (0.8, 0.5, 0.25),
    0.5: (0.8, 0.5),
    0.3: (0.5,),
}
"""Reductions n → m that are timed: n as a share of all tokens, m as a share of n."""

VIRTUAL_PAIRS: Mapping[float, Sequence[float]] = dict.fromkeys(
    (1.0, 0.88, 0.75, 0.62, 0.5, 0.37, 0.25), (0.93, 0.8, 0.65, 0.5, 0.35, 0.2)
)

PROFILE_BLOCKS = 6
PROFILE_SHARES = (0.85, 0.65, 0.5, 0.35, 0.2)
"""Kept tokens of an accuracy profile as a share of all; what a method cannot reach becomes what it can."""

INPUT_COUNTS = 8

VERIFY_ROUNDS = {Statistic.QUIET: 5, Statistic.P50: 10, Statistic.P99: 20}
"""At least so many: a handful of schedules is measured, and the gain may be small. A tail is made of what comes and
goes, so it takes more of them."""

VERIFY_SECONDS = 60.0
"""So long one schedule is timed for a tail, where that is enough for one at all."""


def sweep_units(geometry: Geometry, methods: Sequence[str], counts: str, kind: BoardKind) -> list[Unit]:
    """Units of a sweep: the curve, the sentinel, and the parts that a latency model needs.

    ``counts`` is that of ``SweepSettings``; the full count always belongs to the curve. On a physical board
    attention and MLP are timed at up to ``MOST_PART_COUNTS`` of the curve's counts. Raises ``InputError`` for
    counts that the model does not have, ``ScheduleError`` for an unknown method.
    """
    curve = curve_counts(geometry, counts, kind)
    parts = curve if kind is BoardKind.VIRTUAL else _thinned(curve, MOST_PART_COUNTS)
    full = geometry.tokens
    units = [Unit(Part.SENTINEL, full, full), Unit(Part.FIXED, full, full)]
    units += [Unit(Part.MODEL, n, n) for n in curve]
    units += [Unit(part, n, n) for part in (Part.ATTENTION, Part.MLP) for n in parts]
    shares = PHYSICAL_PAIRS if kind is BoardKind.PHYSICAL else VIRTUAL_PAIRS
    for method in methods:
        if method != "dense":
            units += [Unit(Part.REDUCE, n, m, method) for n, m in _pairs(geometry, method, shares, parts[0])]
    return units


def least_count(geometry: Geometry) -> int:
    """The smallest token count of a curve: two, or what there is besides the prefix."""
    return min(max(2, geometry.prefix + 1), geometry.tokens)


def curve_counts(geometry: Geometry, counts: str, kind: BoardKind) -> list[int]:
    """The token counts of a curve, ascending. Raises ``InputError`` for counts that the model does not have."""
    least, full = least_count(geometry), geometry.tokens
    if counts == "all" or (counts in ("adaptive", "auto") and kind is BoardKind.VIRTUAL):
        return list(range(least, full + 1))
    if counts in ("adaptive", "auto"):
        grid = {round(full * k / PHYSICAL_COUNTS) for k in range(1, PHYSICAL_COUNTS + 1)}
        return sorted({least, full} | {n for n in grid if n >= least})
    chosen = sorted({int(text) for text in counts.split(",")} | {full})
    for n in (chosen[0], chosen[-1]):
        if not geometry.prefix < n <= full:
            raise InputError(f"cannot measure {n} tokens: the model has {full}, {geometry.prefix} of them prefix")
    return chosen


def profile_units(geometry: Geometry, method: str) -> list[Unit]:
    """LOSS units of ``method``: six blocks × five counts, and the dense model (N → N at the first of the blocks).

    Losses of blocks and counts in between are interpolated by :mod:`~tailfleet_coordinator.plan.accuracy`.
    Raises ``ScheduleError`` for an unknown method.
    """
    full = geometry.tokens
    blocks = profile_blocks(geometry)
    floor = smallest_reachable(method, full, geometry.prefix)
    counts = sorted({max(floor, round(full * share)) for share in PROFILE_SHARES} - {full}, reverse=True)
    if floor > full * PROFILE_SHARES[-1]:
        # The method stops early: spread the counts over what it can reach.
        span = full - floor
        count = len(PROFILE_SHARES)
        counts = sorted({full - round(span * k / count) for k in range(1, count + 1)} - {full}, reverse=True)
    units = [Unit(Part.LOSS, full, full, method, blocks[0])]
    return units + [Unit(Part.LOSS, full, m, method, block) for block in blocks for m in counts]


def profile_blocks(geometry: Geometry) -> list[int]:
    """Blocks whose loss is measured: evenly spaced, without the first and the last where there are enough.

    Scores of the first block tell little, and in the last one only an MLP is left to gain from fewer tokens.
    """
    first, last = (1, geometry.depth - 2) if geometry.depth >= 4 else (0, geometry.depth - 1)
    count = min(PROFILE_BLOCKS, last - first + 1)
    if count == 1:
        return [first]
    return sorted({round(first + (last - first) * k / (count - 1)) for k in range(count)})


def input_units(geometry: Geometry) -> list[Unit]:
    """INPUT units, POMT's A(n): random n-token inputs at evenly spaced counts, all tokens among them."""
    full = geometry.tokens
    counts = {max(geometry.prefix + 1, round(full * k / INPUT_COUNTS)) for k in range(1, INPUT_COUNTS + 1)}
    return [Unit(Part.INPUT, n, n) for n in sorted(counts)]


def verify_units(schedules: Iterable[Schedule], judged: bool) -> list[Unit]:
    """SCHEDULE units, one a schedule, and with ``judged`` an ACCURACY unit each; a repeated schedule counts once.

    The dense schedule must be among them, so that gains are measured within the same rounds: else ``InputError``.
    """
    distinct = {schedule.digest: schedule for schedule in schedules}
    if not any(schedule.is_dense for schedule in distinct.values()):
        raise InputError("a verification needs the dense schedule to compare with")
    parts = (Part.SCHEDULE, Part.ACCURACY) if judged else (Part.SCHEDULE,)
    return [Unit(part, s.tokens, s.keep[-1], digest) for part in parts for digest, s in distinct.items()]


def verify_effort(objective: Objective, sweep: SweepSettings, pass_ns: float) -> tuple[int, int]:
    """Rounds, and calls a round, of a verification on the objective's statistic; never less than the sweep's.

    Enough to tell schedules apart (``ENOUGH_CALLS``); where a pass of ``pass_ns`` makes that longer than
    ``VERIFY_SECONDS``, as many as fit, but no fewer than the statistic means anything with. 0: a pass takes no time.
    """
    on = objective.on
    fitting = VERIFY_SECONDS * 1e9 / pass_ns if pass_ns > 0 else math.inf
    calls = max(least_calls(on), min(ENOUGH_CALLS[on], fitting))
    if on is Statistic.QUIET:
        calls = ENOUGH_CALLS[on]
    return max(sweep.rounds, VERIFY_ROUNDS[on]), max(sweep.calls, math.ceil(calls / VERIFY_ROUNDS[on]))


def check_effort(objective: Objective, sweep: SweepSettings, units: Iterable[Unit]) -> None:
    """Raise ``InputError`` where a sweep of ``units`` makes too few calls to plan on the objective's statistic."""
    whole = sum(unit.part in (Part.MODEL, Part.SENTINEL) for unit in units)
    few = shortage(objective.on, whole, sweep.rounds, sweep.calls)
    if few is not None:
        raise InputError(few)


def _pairs(
    geometry: Geometry, method: str, shares: Mapping[float, Sequence[float]], least: int
) -> list[tuple[int, int]]:
    """Reductions n → m of ``method``, none below the smallest count of the curve."""
    if method not in PLACEMENT:
        smallest_reachable(method, geometry.tokens, geometry.prefix)
    pairs = set()
    for share, kept_shares in shares.items():
        n = round(geometry.tokens * share)
        for kept_share in kept_shares:
            m = max(round(n * kept_share), smallest_reachable(method, n, geometry.prefix), min(least, n - 1))
            if m < n:
                pairs.add((n, m))
    return sorted(pairs)


def _thinned(counts: list[int], most: int) -> list[int]:
    """Up to ``most`` of ``counts``, evenly spaced among them, both ends included."""
    if len(counts) <= most:
        return counts
    last = len(counts) - 1
    return sorted({counts[round(last * k / (most - 1))] for k in range(most)})
