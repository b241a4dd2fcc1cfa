"""Steps of a latency curve: treads (stretches without a step), cliffs between them, and places that go backwards.

Where the curve is best cut into straight pieces is found by a change-point analysis (``lines``: which, by what penalty,
and why that library). Not every cut is a step: slopes change too, and a single bad point is worth two cuts. So each
is tested, the weakest first, and those that fail are joined again until all hold. A cut holds when the lines through
the nearest points of both sides differ there by more than ``DEVIATIONS`` standard deviations and by more than
``LEAST_STEP`` of the latency. A single point that its two neighbours agree against is a bad point, and no tread.

The noise of a point is its interval's and ``FLOOR`` (below which real curves are not straight) together; where the
points of treads scatter about their lines more than that says, it is as much more. That, and how treads of this very
curve rise, a first pass tells the second. Between counts that were measured far apart a step is known only to the gap,
and only if neither side's slope explains it.
Left to others: where to measure next, counts that were not measured (``inference``), and what a schedule costs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from tailfleet_coordinator.plan.lines import Array, Line, Slopes, cut
from tailfleet_coordinator.plan.statistics import CONFIDENCE, Measured, PointSummary, measured
from tailfleet_schema.curve import Part

LEAST_STEP = 0.01
"""Smaller steps are not worth planning around."""

DEVIATIONS = 3.5
"""A false step in some hundred curves of two hundred points."""

FLOOR = 0.003
"""Standard deviation, as a share, that every point has at least."""

MOST_DOUBT = 4.0
"""The curve's own scatter multiplies the noise by no more: what looks like more is steps."""

ENOUGH = 8
"""Points that lie within treads; fewer do not tell how the curve scatters."""

NEAREST = 3
"""Points on each side that tell what a count between them should take: few, so that the line follows a bend."""

BESIDE = 8
"""Points on each side that tell the line there."""

MOST_CANDIDATES = 24

GRID = 16
"""Where a curve rises without a step, one candidate every 1/16 of all tokens."""

CENTRAL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Half of an interval in standard deviations."""


@dataclass(frozen=True)
class Step:
    """The latency changes by ``height_ns`` (always positive) between two neighbouring measured counts."""

    from_tokens: int
    to_tokens: int
    height_ns: float
    height_percent: float
    """Relative to the latency at ``from_tokens``."""
    confidence: float
    """Probability, for normal noise, that a difference this large is not noise alone."""


@dataclass(frozen=True)
class Tread:
    """Counts between two steps, both ends included; ``ns`` is the median quiet time."""

    first: int
    last: int
    ns: float
    last_ns: float
    """Quiet time at the last count."""
    points: "Points"
    """What was measured of it, bad points left out."""


@dataclass(frozen=True, eq=False)
class Points:
    """Measured points of a curve, ascending by tokens."""

    tokens: Array
    ns: Array
    deviation_ns: Array
    slopes: Slopes
    """What slopes of the whole curve are expected to be."""

    def __len__(self) -> int:
        return len(self.tokens)

    def chosen(self, indices: Sequence[int]) -> "Points":
        """Some of them."""
        chosen = np.asarray(indices, dtype=int)
        return Points(self.tokens[chosen], self.ns[chosen], self.deviation_ns[chosen], self.slopes)

    def rise_at(self, end: int) -> float:
        """From the first (0) or the last (-1) to the second next of them, in ns a token; of a single one -inf."""
        other = min(2, len(self) - 1) if end == 0 else max(-3, -len(self))
        if len(self) == 1:
            return -math.inf
        return float((self.ns[end] - self.ns[other]) / (self.tokens[end] - self.tokens[other]))

    def line(self) -> Line:
        """The line through all of them."""
        return Line.through(self.tokens, self.ns, self.deviation_ns, self.slopes)


def nearest(n: float, tokens: Array) -> list[int]:
    """Indices of up to ``NEAREST`` of ``tokens`` (ascending) on each side of n; near an end more on the other one."""
    place = int(np.searchsorted(tokens, n))
    begin = max(0, min(place - NEAREST, len(tokens) - 2 * NEAREST))
    return list(range(begin, min(len(tokens), max(place + NEAREST, 2 * NEAREST))))


def neighbours_lines(points: Points) -> Iterator[tuple[float, float, Line]]:
    """Each inner point's tokens and ns, and the line through the points nearest to it, itself left out."""
    for i in range(1, len(points) - 1):
        n, ns = float(points.tokens[i]), float(points.ns[i])
        others = points.chosen([k for k in range(len(points)) if k != i])
        yield n, ns, others.chosen(nearest(n, others.tokens)).line()


@dataclass(frozen=True)
class Treads:
    """A curve taken apart."""

    treads: list[Tread]
    cliffs: list[Step]
    """Places where one more token costs a step."""
    reversals: list[Step]
    """Places where more tokens are faster."""
    candidates: list[int]
    """Counts worth planning with, ascending: tops of treads, and a sparse grid where the curve rises smoothly."""
    bad: list[int] = field(default_factory=list)
    """Counts whose quiet time its neighbours on both sides agree against."""


def find_treads(points: Sequence[PointSummary], most: int = MOST_CANDIDATES) -> Treads:
    """Take the whole-model curve among ``points`` apart; at most ``most`` candidates. No points: no treads."""
    curve = measured(points, Part.MODEL)
    if not curve:
        return Treads([], [], [], [])
    known = _points(curve)
    runs, bad = _runs(known)
    known = _learned(known, runs)
    runs, bad = _runs(known)
    steps = [_Cut.between(known.chosen(left), known.chosen(right)) for left, right in pairwise(runs)]
    cliffs = [cut.step for cut in steps if cut.upwards]
    reversals = [cut.step for cut in steps if not cut.upwards]
    treads = [_tread(known.chosen(run)) for run in runs]
    backwards = {step.from_tokens for step in reversals}
    # The count before a reversal is slower than a larger one.
    tops = [tread.last for tread in treads if tread.last not in backwards]
    heights = {step.from_tokens: step.height_ns for step in cliffs}
    candidates = _candidates(curve, treads, tops, heights, most)
    return Treads(treads, cliffs, reversals, candidates, [int(known.tokens[i]) for i in bad])


def _points(curve: list[Measured]) -> Points:
    tokens = np.array([point.unit.tokens for point in curve], dtype=float)
    ns = np.array([point.ns for point in curve])
    told = np.array([point.half_ns for point in curve]) / CENTRAL
    return Points(tokens, ns, np.hypot(told, FLOOR * ns), Slopes.of(tokens, ns))


@dataclass(frozen=True)
class _Cut:
    """What the lines of both sides make of the place between them."""

    step: Step
    upwards: bool
    strength: float
    """Excess over what slopes explain, in standard deviations; negative where there is too little of it."""

    @classmethod
    def between(cls, left: Points, right: Points) -> "_Cut":
        before = left.chosen(range(max(0, len(left) - BESIDE), len(left)))
        after = right.chosen(range(min(BESIDE, len(right))))
        low, high = before.line(), after.line()
        a, b = float(left.tokens[-1]), float(right.tokens[0])
        middle = (a + b) / 2
        excess = high.at(middle) - low.at(middle)
        deviation = (low.variance_at(middle) + high.variance_at(middle)) ** 0.5
        level = max(low.at(a), 0.1 * float(left.ns[-1]))
        upwards = excess > 0
        rise = high.at(b) - low.at(a) if b - a <= 1 else excess
        least = LEAST_STEP * level
        # Slower growth than nearby is no step backwards; and a bend makes a wide gap's rise no higher than both beside.
        real = abs(excess) > least and (rise > 0) == upwards
        if b - a > 1 and upwards:
            told = float(right.ns[0] - left.ns[-1])
            real = real and told - least > max(left.rise_at(-1), right.rise_at(0)) * (b - a)
        strength = abs(excess) / deviation if real else -1.0
        height = abs(rise)
        confidence = 2 * NormalDist().cdf(abs(excess) / deviation) - 1
        return cls(Step(int(a), int(b), height, 100 * height / level, confidence), upwards, strength)


def _runs(known: Points) -> tuple[list[list[int]], list[int]]:
    """Indices of the points of each tread, and those of bad points."""
    ends = cut(known.tokens, known.ns, known.deviation_ns, known.slopes)
    runs = [list(range(begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
    bad: list[int] = []
    while len(runs) > 1:
        cuts = [_Cut.between(known.chosen(left), known.chosen(right)) for left, right in pairwise(runs)]
        lonely = _lonely(runs, cuts)
        if lonely is not None:
            bad += runs.pop(lonely)
            continue
        weakest = min(range(len(cuts)), key=lambda i: cuts[i].strength)
        if cuts[weakest].strength >= DEVIATIONS:
            break
        runs[weakest : weakest + 2] = [runs[weakest] + runs[weakest + 1]]
    return runs, sorted(bad)


def _learned(known: Points, runs: list[list[int]]) -> Points:
    """The points with slopes and noise as a first look at the whole curve shows them."""
    treads = [known.chosen(run) for run in runs]
    slopes = known.slopes.learned([(tread.tokens, tread.ns, tread.deviation_ns) for tread in treads])
    off = []
    for tread in treads:
        for n, ns, line in neighbours_lines(replace(tread, slopes=slopes)):
            own = float(tread.deviation_ns[tread.tokens == n][0])
            off.append(abs(ns - line.at(n)) / (own**2 + line.variance_at(n)) ** 0.5)
    # The median of a normal deviation's size is 0.674 of the deviation.
    doubt = float(np.clip(np.median(off) / 0.674, 1.0, MOST_DOUBT)) if len(off) >= ENOUGH else 1.0
    return replace(known, slopes=slopes, deviation_ns=doubt * known.deviation_ns)


def _lonely(runs: list[list[int]], cuts: list[_Cut]) -> int | None:
    """A run of one point between two cuts that undo each other."""
    for i in range(1, len(runs) - 1):
        before, after = cuts[i - 1], cuts[i]
        if len(runs[i]) == 1 and before.upwards != after.upwards and min(before.strength, after.strength) > 0:
            return i
    return None


def _tread(points: Points) -> Tread:
    first, last = int(points.tokens[0]), int(points.tokens[-1])
    return Tread(first, last, float(np.median(points.ns)), float(points.ns[-1]), points)


def _candidates(
    curve: list[Measured], treads: list[Tread], tops: list[int], heights: dict[int, float], most: int
) -> list[int]:
    """The full count; of each stretch of the grid the top of what saves most, or where there is none and the curve
    rises a count of the grid; and of the other tops those that save most."""
    ns = {point.unit.tokens: point.ns for point in curve}
    largest = curve[-1].unit.tokens
    spacing = max(1.0, largest / GRID)
    # By what is saved, not by its share: the steps of few tokens are high beside little.
    ranked = sorted(tops, key=lambda top: -heights.get(top, 0.0))
    chosen = {largest}
    stretches = set()
    for top in ranked:
        stretch = int((top - 1) / spacing)
        if len(chosen) < most and stretch not in stretches:
            stretches.add(stretch)
            chosen.add(top)
    for wanted in [round(largest - k * spacing) for k in range(1, GRID)]:
        nearest = min(ns, key=lambda count: abs(count - wanted))
        tread = next((t for t in treads if t.first <= nearest <= t.last), None)
        rises = tread is not None and ns[tread.last] > ns[nearest] * (1 + LEAST_STEP)
        crowded = any(abs(nearest - other) < spacing / 2 for other in chosen)
        if rises and not crowded and len(chosen) < most:
            chosen.add(nearest)
    for top in ranked:
        if len(chosen) < most:
            chosen.add(top)
    return sorted(chosen)
