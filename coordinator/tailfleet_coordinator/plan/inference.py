"""Every count of a curve, whether it was measured or not, with an interval.

A count that was measured is what was measured. Between measured counts of one tread the time is that of the line
through the nearest of its points, and the interval is that line's, with the scatter of the tread's points about such
lines on top: what a single count does that its neighbours do not foretell. Between two treads, where a step lies
somewhere in the gap, it is the middle of both lines, and the interval spans both. Outside of all measured counts the
nearest tread's line is continued. Left to others: which places are steps (``treads``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tailfleet_coordinator.plan.statistics import PointSummary, measured
from tailfleet_coordinator.plan.treads import CENTRAL, Points, Tread, find_treads, nearest, neighbours_lines
from tailfleet_schema.curve import Part

LEAST_SHARE = 0.1
"""No inferred time is less than this share of the nearest measured one."""


class CurvePoint(NamedTuple):
    """The quiet time of the whole model at one count, with a 95 % interval. A tuple: each plan reads hundreds."""

    tokens: int
    ns: float
    low_ns: float
    high_ns: float
    measured: bool
    """Else it is inferred from counts that were measured."""


def every_count(
    points: Sequence[PointSummary], least: int, full: int, treads: Sequence[Tread] | None = None
) -> list[CurvePoint]:
    """Each count from ``least`` to ``full``, ascending. ``points`` are those of one sweep; none of the whole model with
    figures: an empty list. ``treads`` are those of ``find_treads(points)``, for who has them already."""
    known = {point.unit.tokens: point for point in measured(points, Part.MODEL)}
    if not known:
        return []
    treads = find_treads(points).treads if treads is None else treads
    scatter = _scatter(treads)
    inferred = [n for n in range(least, full + 1) if n not in known]
    curve = [_inferred(n, treads, scatter) for n in inferred]
    for point in known.values():
        if least <= point.unit.tokens <= full:
            low = max(point.ns - point.half_ns, 0.0)
            curve.append(CurvePoint(point.unit.tokens, point.ns, low, point.ns + point.half_ns, True))
    return sorted(curve, key=lambda point: point.tokens)


def _inferred(n: int, treads: Sequence[Tread], scatter: float) -> CurvePoint:
    after = next((i for i, tread in enumerate(treads) if n <= tread.last), len(treads) - 1)
    beside = [treads[after]]
    if n < treads[after].first and after > 0:
        beside.insert(0, treads[after - 1])
    spans = [_span(n, tread.points, scatter) for tread in beside]
    ns = sum(centre for centre, _ in spans) / len(spans)
    low = min(centre - half for centre, half in spans)
    high = max(centre + half for centre, half in spans)
    return CurvePoint(n, ns, max(low, 0.0), high, False)


def _span(n: int, points: Points, scatter: float) -> tuple[float, float]:
    """The time at n in ns that the tread of ``points`` foretells, and half of its interval."""
    near = nearest(n, points.tokens)
    line = points.chosen(near).line()
    ns = max(line.at(n), LEAST_SHARE * float(points.ns[near].min()))
    return ns, CENTRAL * float(np.hypot(line.variance_at(n) ** 0.5, scatter * ns))


def _scatter(treads: Sequence[Tread]) -> float:
    """Standard deviation, as a share, by which points lie off the lines through their nearest neighbours, beyond
    what those lines do not know themselves."""
    off = [
        ((ns - line.at(n)) ** 2 - line.variance_at(n)) / ns**2
        for tread in treads
        for n, ns, line in neighbours_lines(tread.points)
    ]
    # The median of a normal deviation's square is 0.455 of its mean; a mean would be at the mercy of one bad point.
    return float(max(0.0, np.median(off)) / 0.455) ** 0.5 if off else 0.0
