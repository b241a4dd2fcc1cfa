"""Steps of a latency curve: treads (stretches without a step), cliffs between them, and places that go backwards.

A difference between neighbouring counts is a step when it stands out of what the slope nearby explains by more than
four standard deviations of the noise, and by more than ``LEAST_STEP`` of the latency, and when the points beside it
agree (so a single bad point is none). The noise is the larger of what the points' intervals say and what the curve
itself shows (median absolute deviation of all differences about the slope). Between counts that were measured far
apart only a coarse step can be told from a slope, and its place is known only to the gap.
Left to others: where to measure next, and what a schedule costs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.statistics import CONFIDENCE, Measured, PointSummary, measured
from tailfleet_schema.curve import Part

LEAST_STEP = 0.01
"""Smaller steps are not worth planning around."""

LEAST_COARSE_STEP = 0.05
"""The same between counts that are not adjacent: there curvature looks like a small step."""

DEVIATIONS = 4.0
"""One or two false steps in a hundred curves of two hundred points."""

AGREEMENT = 0.75
"""Of a step, this much must be seen in the points beside it."""

NEIGHBOURS = 8
"""Differences on each side that tell the slope nearby."""

MOST_CANDIDATES = 24

GRID = 16
"""Where a curve rises without a step, one candidate every 1/16 of all tokens."""

_Array = NDArray[np.float64]


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


def find_treads(points: Sequence[PointSummary], most: int = MOST_CANDIDATES) -> Treads:
    """Take the whole-model curve among ``points`` apart; at most ``most`` candidates. No points: no treads."""
    curve = measured(points, Part.MODEL)
    if not curve:
        return Treads([], [], [], [])
    steps = _steps(curve)
    cliffs = [step for step, upwards in steps if upwards]
    reversals = [step for step, upwards in steps if not upwards]
    treads = _treads(curve, [step for step, _ in steps])
    backwards = {step.from_tokens for step in reversals}
    # The count before a reversal is slower than a larger one.
    tops = [tread.last for tread in treads if tread.last not in backwards]
    heights = {step.from_tokens: step.height_percent for step in cliffs}
    return Treads(treads, cliffs, reversals, _candidates(curve, treads, tops, heights, most))


def _steps(curve: list[Measured]) -> list[tuple[Step, bool]]:
    if len(curve) < 3:
        return []
    tokens = np.array([point.unit.tokens for point in curve], dtype=float)
    ns = np.array([point.ns for point in curve])
    deviation = np.array([point.half_ns for point in curve]) / NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    gaps, rises = np.diff(tokens), np.diff(ns)
    slopes = _slopes_nearby(rises / gaps)
    excess = rises - slopes * gaps
    relative = excess / ns[:-1]
    shown = 1.4826 * float(np.median(np.abs(relative)))
    noise = np.maximum(np.hypot(deviation[:-1], deviation[1:]), shown * ns[:-1])
    adjacent = gaps <= 1
    least = np.where(adjacent, LEAST_STEP * ns[:-1], np.maximum(LEAST_COARSE_STEP * ns[:-1], np.abs(slopes) * gaps))
    found = np.abs(excess) > np.maximum(DEVIATIONS * noise, least)
    steps = []
    for i in np.flatnonzero(found):
        if adjacent[i] and not _neighbours_agree(tokens, ns, float(slopes[i]), int(i), float(excess[i])):
            continue
        confidence = 2 * NormalDist().cdf(abs(float(excess[i])) / max(float(noise[i]), 1e-9)) - 1
        height = abs(float(rises[i] if adjacent[i] else excess[i]))
        upwards = bool(excess[i] > 0)
        if not upwards and rises[i] >= 0:
            # Slower growth than nearby is no step backwards.
            continue
        percent = 100 * height / float(ns[i])
        steps.append((Step(int(tokens[i]), int(tokens[i + 1]), height, percent, confidence), upwards))
    return steps


def _slopes_nearby(slopes: _Array) -> _Array:
    """For each difference the median slope of up to ``NEIGHBOURS`` on each side, itself left out."""
    out = np.empty_like(slopes)
    for i in range(len(slopes)):
        # The same number on both sides where there is room, so that curvature cancels.
        reach = min(NEIGHBOURS, max(i, 1), max(len(slopes) - 1 - i, 1))
        reach = max(reach, NEIGHBOURS // 2)
        beside = np.concatenate([slopes[max(0, i - reach) : i], slopes[i + 1 : i + 1 + reach]])
        out[i] = np.median(beside)
    return out


def _neighbours_agree(tokens: _Array, ns: _Array, slope: float, i: int, excess: float) -> bool:
    """Whether medians of up to three points on each side, freed of the slope, differ by ``excess``, or nearly."""
    level = ns - slope * tokens
    contrast = float(np.median(level[i + 1 : i + 4]) - np.median(level[max(0, i - 2) : i + 1]))
    return contrast * math.copysign(1.0, excess) >= AGREEMENT * abs(excess)


def _treads(curve: list[Measured], steps: list[Step]) -> list[Tread]:
    ends = {step.from_tokens for step in steps}
    treads, run = [], []
    for point in curve:
        run.append(point)
        if point.unit.tokens in ends or point is curve[-1]:
            ns = float(np.median([p.ns for p in run]))
            treads.append(Tread(run[0].unit.tokens, run[-1].unit.tokens, ns))
            run = []
    return treads


def _candidates(
    curve: list[Measured], treads: list[Tread], tops: list[int], heights: dict[int, float], most: int
) -> list[int]:
    ns = {point.unit.tokens: point.ns for point in curve}
    largest = curve[-1].unit.tokens
    # The highest cliffs first, should there be more tops than candidates.
    ranked = sorted(tops, key=lambda top: (top != largest, -heights.get(top, 0.0)))
    chosen = set(ranked[:most]) | {largest}
    spacing = max(1.0, largest / GRID)
    grid = [round(largest - k * spacing) for k in range(1, GRID)]
    for wanted in grid:
        nearest = min(ns, key=lambda count: abs(count - wanted))
        tread = next((t for t in treads if t.first <= nearest <= t.last), None)
        rises = tread is not None and ns[tread.last] > ns[nearest] * (1 + LEAST_STEP)
        crowded = any(abs(nearest - other) < spacing / 2 for other in chosen)
        if rises and not crowded and len(chosen) < most:
            chosen.add(nearest)
    return sorted(chosen)
