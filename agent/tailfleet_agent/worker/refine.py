"""Where a curve needs a closer look: counts to add, and counts to measure again.

A curve is first measured on a coarse grid. The known counts are split into runs wherever one is a step away from the
next. How high the step in a gap is says the level of the run's last counts before it against that of its first counts
behind it, with one slope for both sides (:func:`_height`, the analysis of covariance); the highest in terms of its
noise splits first, until none is left. A gap with a step is divided until the step lies between two counts that
differ by one token; so is a wide one across which the curve falls behind its slope, since a bend is there, or steps
that cancel out. Where a step worth knowing is surely absent, nothing is added. Where noise leaves it open, the counts
at the gap's ends are measured again, as are those of a step that is not beyond doubt, and a single count that both
neighbours disagree with: that may be a disturbed point, and no gap is divided around it before it has shown itself
again.

A curve may be *rough*: CPUs may take longer for odd counts than for even ones. That is no step, and no line between
neighbours foretells it. How rough a curve is say three close counts of which the middle one lies above or
below both others (:func:`_roughened`); it counts as noise that no repetition lessens, and where it is large every
count is measured.

GPUs work on tiles of 32 to 256 rows, and a batch of B has B rows a token: cliffs tend to stand where B·n crosses a
multiple of these. So a gap with a step is divided first on both sides of the highest such multiple in it. This costs
little where it does not hold, for the gap gets smaller all the same.

Steps are looked for from 1.5 times the asked precision on: 3 % for the usual 2 %. Left to others: the coarse grid and
what is a cliff in the end (both the coordinator's), and the precision of single counts (``agenda``).
"""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from tailfleet_schema.quiet import Estimate
from tailfleet_schema.speeds import quantile

STEP_SHARE = 1.5
"""Times the precision: a step, as a share, that is not to be overlooked."""

LEAST_SHARE = 0.8
"""Times the precision: what is less is no reason to divide a gap."""

DEVIATIONS = 3.5
"""A gap is divided from so many standard deviations on. With fewer, chance makes steps, and the counts that they cost
make more chances."""

BEYOND_DOUBT = 4.5
"""Standard deviations of a step that needs no further proof."""

POSSIBLE = 1.2
"""What may be a step after adding so many of its standard deviations is open."""

MOST_ROUNDS = 6
"""What so many undisturbed blocks leave open stays open."""

MOST_PROOF_ROUNDS = 12
"""The same for a step that was found, and is not beyond doubt."""

LEAST_ROUNDS = 2
"""Two undisturbed blocks are enough to look where: what turns out to be a burst has cost a count."""

SUSPECT_ROUNDS = 4
"""A single count that was seen so often is as it is, however much its neighbours disagree."""

BESIDE = 4
"""Counts of a run on each side that tell a step."""

NEAR = 2
"""The same for a step that another one hides."""

FEW = 2
"""As few gaps are divided in four, not in two: fewer rounds, each of which measures some known units beside them."""

LEAST_SPREAD = 0.1
"""Standard deviation of the treads' slopes, at least, as a share of the whole curve's slope."""

ROUGH_SHARE = 2.5
"""Times the precision: where a count can be so far off what its neighbours foretell, every count is measured."""

CLOSE = 3
"""Three neighbouring counts within so many tokens tell how rough the curve is: the middle one lies off what its
neighbours foretell. On a cliff it lies between them, on a comb (odd counts slower than even ones, say) above or below
both."""

WITNESSES = 9
"""So many such places, the nearest ones, are asked; what they say in ns holds for counts beyond them, too."""

OFTEN = 0.7
"""This quantile of what they say: of a comb every second place shows it, on a tread none does."""

ROWS = (256, 128, 64, 32)
"""Of tiles that libraries of GPUs work with."""

_HALF = 1.96
"""Of an interval, in standard deviations."""


class _Point(NamedTuple):
    """A known count."""

    tokens: int
    ns: float
    variance: float
    """Of its time, about what its neighbours foretell."""
    own: float
    """The part of it that more blocks would lessen."""
    rounds: int


class _Slope(NamedTuple):
    """What slopes within treads are expected to be, in ns a token: normal."""

    mean: float
    deviation: float


class _Gap(NamedTuple):
    """What is known of the curve between two neighbouring counts."""

    height: float
    """Of the step there, as a share of the time before it; negative where the curve falls."""
    noise: float
    """Standard deviation of ``height``."""
    own: float
    """The part of it that comes from the two counts' own noise."""
    rough: float
    """How far counts about here lie off what their neighbours foretell, mostly, as a share."""
    step: bool


def next_counts(known: Dict[int, Estimate], least: int, full: int, precision: float, batch: int = 1) -> List[int]:
    """Counts within ``least`` and ``full`` to measure next, ascending; none where nothing is left to refine.

    ``known`` are quiet times by count. A gap waits for counts in it that have not shown themselves twice.
    """
    points, gaps = _survey(known, least, full, precision)
    waiting = [n for n in known if known[n].rounds < LEAST_ROUNDS]
    suspects = _suspects(points, gaps)
    chosen = []
    for place in sorted(_wide(points, gaps, precision)):
        low, high = points[place].tokens, points[place + 1].tokens
        if not {low, high} & suspects and not any(low < n < high for n in waiting):
            chosen.append((low, high))
    parts = 4 if len(chosen) <= FEW else 2
    return sorted({n for low, high in chosen for n in _within(low, high, parts, batch)})


def unsure(known: Dict[int, Estimate], least: int, full: int, precision: float) -> List[int]:
    """Counts whose blocks should be repeated, ascending; ``known`` and the rest as for :func:`next_counts`."""
    points, gaps = _survey(known, least, full, precision)
    again = _suspects(points, gaps)
    for place, gap in enumerate(gaps):
        if gap.own < gap.rough or not _is_high(gap, precision):
            # What counts differ by from their neighbours is no noise.
            continue
        ends = points[place : place + 2]
        limit = 0
        if not gap.step and not _by_slope(gap):
            limit = MOST_ROUNDS
        elif gap.step and ends[1].tokens - ends[0].tokens == 1 and abs(gap.height) < BEYOND_DOUBT * gap.noise:
            limit = MOST_PROOF_ROUNDS
        again |= {point.tokens for point in ends if point.rounds < limit}
    return sorted(again)


def _is_open(gap: _Gap, precision: float) -> bool:
    return not gap.step and _is_high(gap, precision)


def _is_high(gap: _Gap, precision: float) -> bool:
    """Whether it may hold a step that is not to be overlooked."""
    return abs(gap.height) + POSSIBLE * gap.noise > STEP_SHARE * precision


def _by_slope(gap: _Gap) -> bool:
    """Whether it is the slope that is not known: measuring the ends again would not help."""
    return gap.own < 0.7 * gap.noise and not gap.rough


def _wide(points: Sequence[_Point], gaps: Sequence[_Gap], precision: float) -> Set[int]:
    """Places of gaps to be divided."""
    wide = set()
    for place, gap in enumerate(gaps):
        if gap.step or gap.rough > ROUGH_SHARE * precision or (_is_open(gap, precision) and _by_slope(gap)):
            wide.add(place)
    return {place for place in wide if points[place + 1].tokens - points[place].tokens > 1}


def _survey(known: Dict[int, Estimate], least: int, full: int, precision: float) -> Tuple[List[_Point], List[_Gap]]:
    """The known counts, and the gaps between them."""
    points = []
    for n in sorted(known):
        estimate = known[n]
        if least <= n <= full and estimate.rounds >= LEAST_ROUNDS:
            deviation = (estimate.high_ns - estimate.low_ns) / 2 / _HALF
            variance = max(deviation, 1e-4 * estimate.quiet_ns) ** 2
            points.append(_Point(n, estimate.quiet_ns, variance, variance, estimate.rounds))
    if len(points) < 2:
        return points, []
    points = _roughened(points)
    overall = (points[-1].ns - points[0].ns) / (points[-1].tokens - points[0].tokens)
    widest = max(abs(overall), 1e-4 * points[-1].ns)
    # Within a tread the curve may be flat, or rise as the whole does; and treads of one curve rise alike.
    gaps = _divided(points, _Slope(overall / 2, widest), precision)
    common = _common_slope(points, gaps, _Slope(overall / 2, widest))
    return points, _divided(points, _Slope(common, max(abs(common), LEAST_SPREAD * widest)), precision)


def _roughened(points: Sequence[_Point]) -> List[_Point]:
    """``points`` with what counts do that their neighbours do not foretell as a part of their variance."""
    seen = []
    for before, point, after in zip(points, points[1:], points[2:]):
        width = after.tokens - before.tokens
        if width <= CLOSE:
            share = (point.tokens - before.tokens) / width
            weights = ((before, 1 - share), (after, share))
            off = point.ns - sum(weight * other.ns for other, weight in weights)
            noise = point.own + sum(weight**2 * other.own for other, weight in weights)
            zigzag = (point.ns - before.ns) * (after.ns - point.ns) < 0
            excess = (off**2 if zigzag else 0.0) - noise
            seen.append((point.tokens, excess / (1 + sum(weight**2 for _, weight in weights))))
    if len(seen) < WITNESSES:
        return list(points)
    rough = []
    for point in points:
        near = sorted(seen, key=lambda one: abs(one[0] - point.tokens))[:WITNESSES]
        excess = quantile(sorted(excess for _, excess in near), OFTEN)
        rough.append(point._replace(variance=point.own + max(0.0, excess)))
    return rough


def _divided(points: Sequence[_Point], expected: _Slope, precision: float) -> List[_Gap]:
    """The gaps, those with steps first among them."""
    steps: Set[int] = set()
    joined: Set[int] = set()
    gaps = [_gap(points, steps, place, expected, precision) for place in range(len(points) - 1)]
    while True:
        found = [place for place, gap in enumerate(gaps) if gap.step and place not in steps | joined]
        if not found:
            return gaps
        changed = {max(found, key=lambda place: abs(gaps[place].height) / gaps[place].noise)}
        steps |= changed
        while changed:
            for place in range(len(gaps)):
                if any(abs(place - other) <= BESIDE for other in changed):
                    gaps[place] = _gap(points, steps, place, expected, precision)
            # One that was a step before its neighbour became one may be none any longer, and stays none.
            changed = {place for place in steps if not gaps[place].step}
            steps -= changed
            joined |= changed


def _common_slope(points: Sequence[_Point], gaps: Sequence[_Gap], expected: _Slope) -> float:
    """Of all runs, in ns a token."""
    moment, precision = expected.mean / expected.deviation**2, 1 / expected.deviation**2
    run = [points[0]]
    for place, gap in enumerate(gaps):
        if not gap.step:
            run.append(points[place + 1])
        if gap.step or place == len(gaps) - 1:
            _, _, own_moment, own_precision = _sums(run)
            moment, precision = moment + own_moment, precision + own_precision
            run = [points[place + 1]]
    return moment / precision


def _gap(points: Sequence[_Point], steps: Set[int], place: int, expected: _Slope, precision: float) -> _Gap:
    """By ``BESIDE`` counts on each side; or by the nearest alone, should they show a step: one further on in the run,
    not told from the slope yet, hides it."""
    wide = _gap_within(points, steps, place, expected, precision, BESIDE)
    near = _gap_within(points, steps, place, expected, precision, NEAR)
    return near if near.step and not wide.step else wide


def _gap_within(
    points: Sequence[_Point], steps: Set[int], place: int, expected: _Slope, precision: float, reach: int
) -> _Gap:
    first, last = place, place + 1
    while first > 0 and place - first + 1 < reach and first - 1 not in steps:
        first -= 1
    while last < len(points) - 1 and last - place < reach and last not in steps:
        last += 1
    height, noise = _height(points[first : place + 1], points[place + 1 : last + 1], expected)
    level = points[place].ns
    ends = points[place : place + 2]
    own = math.sqrt(sum(point.own for point in ends)) / level
    rough = _HALF * math.sqrt(max(point.variance - point.own for point in ends)) / level
    narrow = points[place + 1].tokens - points[place].tokens == 1
    if height < 0 and narrow and points[place + 1].ns >= level:
        # To grow more slowly than nearby is no step; to fall is one. In a wide gap it may hide one.
        height = 0.0
    height, noise = height / level, noise / level
    step = abs(height) > max(LEAST_SHARE * precision, DEVIATIONS * noise)
    return _Gap(height, noise, min(own, noise), rough, step)


def _height(before: Sequence[_Point], after: Sequence[_Point], expected: _Slope) -> Tuple[float, float]:
    """Height in ns of the step between two groups of counts on lines of one slope, and its standard deviation:
    weighted least squares, the slope normal as ``expected``."""
    left, low, left_moment, left_precision = _sums(before)
    right, high, right_moment, right_precision = _sums(after)
    precision = left_precision + right_precision + 1 / expected.deviation**2
    slope = (left_moment + right_moment + expected.mean / expected.deviation**2) / precision
    variance = sum(1 / sum(1 / point.variance for point in group) for group in (before, after))
    return high - low - slope * (right - left), math.sqrt(variance + (right - left) ** 2 / precision)


def _sums(points: Sequence[_Point]) -> Tuple[float, float, float, float]:
    """Weighted means of tokens and ns, and of the slope of a line through ``points`` its moment and precision."""
    weight = sum(1 / point.variance for point in points)
    tokens = sum(point.tokens / point.variance for point in points) / weight
    ns = sum(point.ns / point.variance for point in points) / weight
    moment = sum((point.tokens - tokens) * point.ns / point.variance for point in points)
    return tokens, ns, moment, sum((point.tokens - tokens) ** 2 / point.variance for point in points)


def _suspects(points: Sequence[_Point], gaps: Sequence[_Gap]) -> Set[int]:
    """Counts that a step leads up to and one leads down from, or the other way, and that were not seen often."""
    return {
        points[place + 1].tokens
        for place, (gap, after) in enumerate(zip(gaps, gaps[1:]))
        if gap.step and after.step and gap.height * after.height < 0 and points[place + 1].rounds < SUSPECT_ROUNDS
    }


def _within(low: int, high: int, parts: int, batch: int) -> List[int]:
    """Counts that divide the gap."""
    tile = _tile_boundary(low, high, batch)
    if tile is not None:
        return [n for n in (tile, tile + 1) if low < n < high]
    return sorted({low + (high - low) * k // parts for k in range(1, parts)} - {low})


def _tile_boundary(low: int, high: int, batch: int) -> Optional[int]:
    """The count in the gap after which the largest tile begins anew, unless both its sides are measured."""
    for rows in ROWS:
        first = -(-low * batch // rows)
        tops = [k * rows // batch for k in range(first, high * batch // rows + 1)]
        inside = [top for top in tops if low <= top < high and (top > low or top + 1 < high)]
        if inside:
            return min(inside, key=lambda top: abs(2 * top + 1 - low - high))
    return None
