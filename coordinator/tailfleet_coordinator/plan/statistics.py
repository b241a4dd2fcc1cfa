"""From raw samples to figures: quiet and typical time of each unit, with an interval, and the verdict on a sweep.

*Quiet* is the 10th percentile of a unit's calls, pooled over rounds: the machine undisturbed. Two medians of one
workload differ by a tenth from run to run on an ordinary machine, two 10th percentiles by a hundredth. *Typical*
are p50, p90 and p99. Left to others: intervals of the typical ones (``quantiles``), steps of a curve (``treads``), and
what a schedule costs (``latency``).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from tailfleet_schema.curve import TIMED_PARTS, Part, Unit, UnitResult

QUIET_QUANTILE = 0.10

CONFIDENCE = 0.95
"""Of every interval in planning."""

PRIOR_ROUNDS = 8
"""Degrees of freedom that the usual scatter of a part's units lends to each of them; see :func:`summarise`."""

LEAST_UNITS = 8
"""Fewer cannot tell what they share from what each has of its own."""

SPREAD_LIMIT = 0.10
"""A sweep whose sentinel differs by more than this between two rounds is unstable: cliffs are this small."""

DRIFT_LIMIT = 0.05
"""The same for a sentinel that moves in one direction all the time: heat, or a clock that steps down."""


@dataclass(frozen=True)
class PointSummary:
    """What was measured of one unit. All figures are None, calls and rounds 0, where ``status`` is ``oom``."""

    unit: Unit
    quiet_ns: float | None
    quiet_low_ns: float | None
    quiet_high_ns: float | None
    p50_ns: float | None
    p90_ns: float | None
    p99_ns: float | None
    calls: int
    rounds: int
    status: str


@dataclass(frozen=True)
class Stability:
    """Whether a sweep can be trusted; ``reason`` is a sentence, empty where it is stable."""

    stable: bool
    reason: str


@dataclass(frozen=True)
class Measured:
    """A point with figures: the quiet time of ``unit`` and half of its interval."""

    unit: Unit
    ns: float
    half_ns: float


def summarise(results: Sequence[UnitResult]) -> list[PointSummary]:
    """One summary a timed unit, ordered by part, label, tokens and kept; judged units are left out.

    The interval comes from the rounds, since calls of one round share its disturbances. The scatter of a unit is
    that of its rounds' low quantiles, taken over the lower two thirds of the rounds (a disturbed round moves
    neither the quiet time nor its interval) and doubled in variance for what this leaves out. Three rounds tell
    little about scatter, so it is pooled with the median scatter of the units of the same part, which counts as
    ``PRIOR_ROUNDS`` degrees of freedom; the interval is Student's. With a single round, and so no scatter at all,
    it reaches from the fastest call to the median. A result that was sent twice counts once.

    What a round does to all units alike (heat, a slower clock) is taken out of the scatter where there are at least
    ``LEAST_UNITS``: it does not disturb comparisons within the sweep, and :func:`stability` judges it.
    """
    groups: dict[Unit, dict[int, UnitResult]] = {}
    for result in results:
        if result.unit.part in TIMED_PARTS:
            groups.setdefault(result.unit, {}).setdefault(result.round, result)
    ordered = sorted(groups, key=_place)
    complete = {u: rounds for u, rounds in groups.items() if all(r.status == "ok" for r in rounds.values())}
    lows = {u: {number: low_quantile(r.call_ns) for number, r in rounds.items()} for u, rounds in complete.items()}
    shared = _shared_by_all(lows)
    scatters = {
        unit: _scatter([low / shared.get(number, 1.0) for number, low in rounds.items()])
        for unit, rounds in lows.items()
    }
    return [_summary(unit, list(groups[unit].values()), scatters) for unit in ordered]


def stability(results: Iterable[UnitResult]) -> Stability:
    """The verdict on a sweep, from its sentinels: spread over rounds, and drift in one direction."""
    rounds = {r.round: low_quantile(r.call_ns) for r in results if r.unit.part is Part.SENTINEL and r.call_ns}
    if len(rounds) < 2:
        return Stability(False, "fewer than two rounds have a sentinel, so drift cannot be seen")
    lows = [rounds[number] for number in sorted(rounds)]
    spread = max(lows) / min(lows) - 1.0
    if spread > SPREAD_LIMIT:
        return Stability(False, f"the sentinel differed by {spread:.0%} between rounds (limit {SPREAD_LIMIT:.0%})")
    steps = np.sign(np.diff(lows))
    if len(lows) >= 3 and abs(int(steps.sum())) == len(steps) and spread > DRIFT_LIMIT:
        way = "slower" if steps[0] > 0 else "faster"
        limit = f"limit {DRIFT_LIMIT:.0%}"
        return Stability(False, f"the sentinel grew {way} from round to round, by {spread:.0%} in all ({limit})")
    return Stability(True, "")


def measured(points: Iterable[PointSummary], part: Part, label: str = "") -> list[Measured]:
    """The points of ``part`` (and method) that have figures, by tokens and kept."""
    chosen = [
        Measured(p.unit, p.quiet_ns, max(p.quiet_high_ns - p.quiet_ns, p.quiet_ns - p.quiet_low_ns))
        for p in points
        if p.unit.part is part
        and p.unit.label == label
        and p.quiet_ns is not None
        and p.quiet_low_ns is not None
        and p.quiet_high_ns is not None
    ]
    return sorted(chosen, key=lambda m: (m.unit.tokens, m.unit.kept))


def low_quantile(call_ns: Sequence[int] | NDArray[np.float64]) -> float:
    """The 10th percentile, linear between samples."""
    return float(np.quantile(np.asarray(call_ns, dtype=float), QUIET_QUANTILE))


def _place(unit: Unit) -> tuple[int, str, int, int]:
    return TIMED_PARTS.index(unit.part), unit.label, unit.tokens, unit.kept


@dataclass(frozen=True)
class _Scatter:
    """Relative variance of one round's low quantile, and its degrees of freedom."""

    variance: float
    freedom: int


def _shared_by_all(lows: dict[Unit, dict[int, float]]) -> dict[int, float]:
    """For each round the factor by which the typical unit was slower than in its median round."""
    if len(lows) < LEAST_UNITS:
        return {}
    ratios: dict[int, list[float]] = {}
    for rounds in lows.values():
        usual = float(np.median(list(rounds.values())))
        for number, low in rounds.items():
            ratios.setdefault(number, []).append(low / usual)
    return {number: float(np.median(values)) for number, values in ratios.items() if len(values) >= LEAST_UNITS}


def _scatter(rounds: Sequence[float]) -> _Scatter:
    """From the low quantile of each round."""
    if len(rounds) < 2:
        return _Scatter(0.0, 0)
    lows = np.sort(rounds)
    used = lows[: max(2, math.ceil(2 * len(lows) / 3))]
    # For normal scatter the lower two of three show 0.59 of the variance, the lower two thirds of many 0.47.
    factor = 1.0 if len(used) == len(lows) else 2.0
    variance = factor * float(np.var(used, ddof=1)) / float(np.mean(used)) ** 2
    return _Scatter(variance, len(used) - 1)


def _summary(unit: Unit, results: list[UnitResult], scatters: dict[Unit, _Scatter]) -> PointSummary:
    if unit not in scatters:
        return PointSummary(unit, None, None, None, None, None, None, 0, 0, "oom")
    samples = np.asarray([ns for result in results for ns in result.call_ns], dtype=float)
    quiet, p50, p90, p99 = (float(v) for v in np.quantile(samples, [QUIET_QUANTILE, 0.5, 0.9, 0.99]))
    low, high = _interval(unit, quiet, p50, samples, len(results), scatters)
    return PointSummary(unit, quiet, low, high, p50, p90, p99, len(samples), len(results), "ok")


def _interval(
    unit: Unit, quiet: float, p50: float, samples: NDArray[np.float64], rounds: int, scatters: dict[Unit, _Scatter]
) -> tuple[float, float]:
    own = scatters[unit]
    if not own.freedom:
        return float(samples.min()), max(quiet, p50)
    peers = [s for u, s in scatters.items() if s.freedom and (u.part, u.label) == (unit.part, unit.label)]
    if len(peers) < 4:
        peers = [s for s in scatters.values() if s.freedom]
    lent = min(PRIOR_ROUNDS, sum(s.freedom for s in peers) - own.freedom)
    usual = float(np.median([s.variance for s in peers])) if lent else 0.0
    freedom = own.freedom + lent
    variance = (own.freedom * own.variance + lent * usual) / freedom
    half = quiet * float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance / rounds)
    return max(quiet - half, 0.1 * quiet), quiet + half
