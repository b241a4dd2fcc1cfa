"""What to measure: the units of a sweep, of an accuracy profile, and of a verification.

A sweep's rounds and calls are the user's (``SweepSettings``); those of a verification follow from what is asked of it.

Sizes are chosen so that a sweep of a 60–100 ms model with three methods stays well under a minute on a small CPU,
and a profile of a small model on 200 images under half a minute a method. Left to others: the order of units (the
worker).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tailfleet_coordinator.plan.halves import SIZED_METHODS
from tailfleet_coordinator.plan.quantiles import ENOUGH_CALLS, least_calls, shortage
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Objective, Statistic, SweepSettings
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import PLACEMENT, Schedule, fewest_leaving, smallest_reachable
from tailfleet_schema.workload import Geometry

TILE_ROWS = (32, 64, 128, 256)
"""Rows of tiles that libraries of GPUs work with; a batch of B has B rows a token, and cliffs tend to stand where
B·n crosses a multiple of these."""

PAIR_SHARE = 1 / 16
"""Of the smallest tile whose multiples are no more than this share of all counts, both sides of each are measured."""

WIDEST_SHARE = 1 / 18
"""Of all counts: no coarse gap is wider, but for those of no more than ``LEAST_GAP``."""

LEAST_GAP = 4

GOLDEN = (5**0.5 - 1) / 2

SHIFT = 0.6
"""Of a gap's part: how far what fills it is moved off even spacing, from one end of the range to the other."""

MOST_PART_COUNTS = 24
"""Counts at which ATTENTION and MLP are timed on a physical board: they are smoother than the whole, and scaled to
it."""

MOST_SIZED_COUNTS = 5
"""Counts at which attention that weighs keys by sizes is timed: held against the same without, it is smoother still."""

SENTINELS = 3
"""Visits of the sentinel in a round."""

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

PROFILE_BLOCKS = 7
PROFILE_SHARES = (0.85, 0.65, 0.5, 0.25, 0.1)
"""Kept tokens of an accuracy profile as a share of all; what a method cannot reach becomes what it can."""

INPUT_COUNTS = 8

VERIFY_ROUNDS = {Statistic.QUIET: 5, Statistic.P50: 10, Statistic.P99: 20}
"""At least so many: a handful of schedules is measured, and the gain may be small. A tail is made of what comes and
goes, so it takes more of them."""

VERIFY_SECONDS = 60.0
"""So long one schedule is timed for a tail, where that is enough for one at all."""


def sweep_units(
    geometry: Geometry,
    methods: Sequence[str],
    counts: str,
    kind: BoardKind,
    batch: int = 1,
    backend: str = "eager",
    dtype: str = "fp32",
) -> list[Unit]:
    """Units of a sweep: the curve, the sentinels, the parts that a latency model needs, and, where ``backend`` and
    ``dtype`` may change predictions, a look at whether they do.

    ``counts`` is that of ``SweepSettings``; the full count always belongs to the curve. Adaptive sweeps add counts to
    the curve, never to the parts. The schedules of ``anchors`` come besides; see :func:`schedule_units`. Raises
    ``InputError`` for counts that the model does not have, ``ScheduleError`` for an unknown method.
    """
    curve, full = curve_counts(geometry, counts, batch), geometry.tokens
    # Of both sides of a cliff the lower one is what plans work with.
    tops = [n for n in curve if n == full or n - 1 not in curve or n + 1 in curve]
    parts = tops if kind is BoardKind.VIRTUAL else _thinned(tops, MOST_PART_COUNTS)
    units = [Unit(Part.SENTINEL, full, full, str(k) if k else "") for k in range(SENTINELS)]
    units.append(Unit(Part.FIXED, full, full))
    units += [Unit(Part.MODEL, n, n) for n in curve]
    units += [Unit(part, n, n) for part in (Part.ATTENTION, Part.MLP) for n in parts]
    if SIZED_METHODS & set(methods):
        units += [Unit(Part.ATTENTION, n, n, SIZED) for n in _thinned(parts, MOST_SIZED_COUNTS)]
    shares = PHYSICAL_PAIRS if kind is BoardKind.PHYSICAL else VIRTUAL_PAIRS
    for method in methods:
        if method != "dense":
            units += [Unit(Part.REDUCE, n, m, method) for n, m in _pairs(geometry, method, shares, parts[0])]
    if backend != "virtual" and (backend, dtype) != ("eager", "fp32"):
        units.append(Unit(Part.FIDELITY, full, full))
    return units


def least_count(geometry: Geometry) -> int:
    """The smallest token count of a curve: two, or what there is besides the prefix."""
    return min(max(2, geometry.prefix + 1), geometry.tokens)


def curve_counts(geometry: Geometry, counts: str, batch: int = 1) -> list[int]:
    """The token counts that a curve begins with, ascending. Raises ``InputError`` for counts that the model does not
    have."""
    least, full = least_count(geometry), geometry.tokens
    if counts == "all":
        return list(range(least, full + 1))
    if counts in ("adaptive", "auto"):
        return _coarse(least, full, batch)
    chosen = sorted({int(text) for text in counts.split(",")} | {full})
    for n in (chosen[0], chosen[-1]):
        if not geometry.prefix < n <= full:
            raise InputError(f"cannot measure {n} tokens: the model has {full}, {geometry.prefix} of them prefix")
    return chosen


def _coarse(least: int, full: int, batch: int) -> list[int]:
    """The grid that an adaptive sweep begins with.

    Both sides of where tiles begin anew; what lies wide apart is filled in at places whose distances differ, so that no
    period of a curve hides behind that of the grid.
    """
    known = {least, full}
    for rows in TILE_ROWS:
        tops = {top * rows // batch for top in range(1, full * batch // rows + 1)}
        tops = {top for top in tops if least <= top < full}
        if len(tops) <= PAIR_SHARE * (full - least + 1):
            known |= tops | {top + 1 for top in tops}
            break
    widest = max(LEAST_GAP, round(full * WIDEST_SHARE))
    ends = sorted(known)
    for order, (low, high) in enumerate(pairwise(ends)):
        parts = math.ceil((high - low) / widest)
        # Multiples of the golden section, taken modulo one, are spread evenly and repeat nowhere.
        shift = (GOLDEN * (order + 1)) % 1.0 - 0.5
        known |= {low + round((high - low) * (k + SHIFT * shift) / parts) for k in range(1, parts)}
    return sorted(known)


def profile_units(geometry: Geometry, method: str) -> list[Unit]:
    """LOSS units of ``method``: seven blocks × five counts, and the dense model (N → N at the first of the blocks).

    A method whose blocks can each leave no fewer than half (ToMe) has the same counts as others: below half the blocks
    just before help (``schedule.lead``). At the first blocks, too few for that, the smallest count is what it can leave
    there. Losses of blocks and counts in between are interpolated by :mod:`~tailfleet_coordinator.plan.accuracy`.
    Raises ``ScheduleError`` for an unknown method.
    """
    full, prefix = geometry.tokens, geometry.prefix
    blocks, counts = profile_blocks(geometry), _profile_counts(geometry, method)
    units = [Unit(Part.LOSS, full, full, method, blocks[0])]
    for block in blocks:
        least = fewest_leaving(method, full, prefix, block)
        here = {max(least, m) for m in counts} - {full}
        units += [Unit(Part.LOSS, full, m, method, block) for m in sorted(here, reverse=True)]
    return units


def _profile_counts(geometry: Geometry, method: str) -> set[int]:
    full, prefix = geometry.tokens, geometry.prefix
    at_once = smallest_reachable(method, full, prefix)
    floor = fewest_leaving(method, full, prefix, geometry.depth - 1)
    if floor > full * PROFILE_SHARES[-1]:
        # The method stops early: spread the counts over what it can reach.
        parts = len(PROFILE_SHARES)
        return {full - round((full - floor) * k / parts) for k in range(1, parts + 1)}
    # A half of all tokens, to the token, would take two blocks of a method that halves all but the prefix.
    return {max(at_once if share >= 0.5 else floor, round(full * share)) for share in PROFILE_SHARES}


def profile_blocks(geometry: Geometry) -> list[int]:
    """Blocks whose loss is measured: the first, and others evenly spaced behind it without the last where there are
    enough: there only an MLP is left to gain from fewer tokens.

    Scores of the first block tell little, which the profile then says; but what is dropped there saves most, and some
    published schedules begin there.
    """
    first, last = (1, geometry.depth - 2) if geometry.depth >= 4 else (0, geometry.depth - 1)
    count = min(PROFILE_BLOCKS - 1, last - first + 1)
    if count == 1:
        return [first]
    return sorted({0} | {round(first + (last - first) * k / (count - 1)) for k in range(count)})


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
    return [
        unit
        for part in ((Part.SCHEDULE, Part.ACCURACY) if judged else (Part.SCHEDULE,))
        for unit in schedule_units(distinct.values(), part)
    ]


def schedule_units(schedules: Iterable[Schedule], part: Part = Part.SCHEDULE) -> list[Unit]:
    """One unit of ``part`` a schedule, which names it by digest."""
    return [Unit(part, s.tokens, s.keep[-1], s.digest) for s in schedules]


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
