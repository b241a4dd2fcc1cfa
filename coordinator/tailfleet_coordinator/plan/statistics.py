"""From raw samples to figures: quiet and typical time of each unit, with an interval.

*Quiet* is the 10th percentile of a unit's undisturbed calls. Two medians of one workload differ by a tenth from run to
run on an ordinary machine, two 10th percentiles by a hundredth. *Typical* are p50, p90 and p99. Left to others: which
calls were disturbed, and whether a sweep is stable (the schema's ``quiet``), intervals of the typical ones
(``quantiles``), steps of a curve (``treads``), and what a schedule costs (``latency``).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailfleet_schema import quiet
from tailfleet_schema.curve import TIMED_PARTS, Part, Unit, UnitResult
from tailfleet_schema.speeds import LOW_SHARE, quantile

QUIET_QUANTILE = LOW_SHARE

CONFIDENCE = 0.95
"""Of every interval in planning."""


class PointSummary(NamedTuple):
    """What was measured of one unit. All figures are None, calls and rounds 0, where ``status`` is ``oom``. A tuple:
    each plan reads hundreds."""

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


class Measured(NamedTuple):
    """A point with figures: the quiet time of ``unit`` and half of its interval."""

    unit: Unit
    ns: float
    half_ns: float


def summarise(results: Sequence[UnitResult], judged: quiet.Judged | None = None) -> list[PointSummary]:
    """One summary a timed unit, ordered by part, label, tokens and kept; judged units are left out, and the few counts
    that stayed unknown (``verdict.spare``), which are inferred like those that were never measured.

    Quiet times and intervals are those that the board decided by: :mod:`tailfleet_schema.quiet`. The typical ones are
    over all calls, disturbed or not. A result that was sent twice counts once. ``judged`` is ``quiet.judge(results)``,
    for who has it already: judging is the larger part of the work.
    """
    groups: dict[Unit, dict[int, UnitResult]] = {}
    for result in results:
        if result.unit.part in TIMED_PARTS:
            groups.setdefault(result.unit, {}).setdefault(result.round, result)
    found = quiet.estimates(results, judged)
    told = [unit for unit in groups if unit in found or any(r.status != "ok" for r in groups[unit].values())]
    return [_summary(unit, list(groups[unit].values()), found.get(unit)) for unit in sorted(told, key=_place)]


def measured(points: Iterable[PointSummary], part: Part, label: str = "") -> list[Measured]:
    """The points of ``part`` (and method) that have figures, by tokens and kept."""
    return by_part((p for p in points if p.unit.label == label), (part,)).get((part, label), [])


def by_part(points: Iterable[PointSummary], parts: Sequence[Part]) -> dict[tuple[Part, str], list[Measured]]:
    """:func:`measured` of each of ``parts``, and each label, that has such points."""
    found: dict[tuple[Part, str], list[Measured]] = {}
    for p in points:
        if p.unit.part not in parts:
            continue
        if p.quiet_ns is not None and p.quiet_low_ns is not None and p.quiet_high_ns is not None:
            one = Measured(p.unit, p.quiet_ns, max(p.quiet_high_ns - p.quiet_ns, p.quiet_ns - p.quiet_low_ns))
            found.setdefault((p.unit.part, p.unit.label), []).append(one)
    return {key: sorted(own, key=lambda m: (m.unit.tokens, m.unit.kept)) for key, own in found.items()}


def low_quantile(call_ns: Sequence[int] | NDArray[np.float64]) -> float:
    """The 10th percentile, linear between samples."""
    return float(np.quantile(np.asarray(call_ns, dtype=float), QUIET_QUANTILE))


def _place(unit: Unit) -> tuple[int, str, int, int]:
    return TIMED_PARTS.index(unit.part), unit.label, unit.tokens, unit.kept


def _summary(unit: Unit, results: list[UnitResult], estimate: quiet.Estimate | None) -> PointSummary:
    if estimate is None:
        return PointSummary(unit, None, None, None, None, None, None, 0, 0, "oom")
    samples = sorted(ns for result in results for ns in result.call_ns)
    p50, p90, p99 = (quantile(samples, level) for level in (0.5, 0.9, 0.99))
    return PointSummary(
        unit,
        estimate.quiet_ns,
        estimate.low_ns,
        estimate.high_ns,
        p50,
        p90,
        p99,
        len(samples),
        len(results),
        "ok",
    )
