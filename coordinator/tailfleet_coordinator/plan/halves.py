"""What the whole model and the two halves of its blocks cost on n tokens, from a sweep: measured, or inferred.

The whole model is known at every count (``inference``), attention and MLP at a few. Parts that run in turn cost other
than within a pass, by a factor that is known where both were measured and is linear in between. Between the counts of
parts, how the halves share a block is interpolated, and what they share follows the curve: its steps are theirs too.
So a pass that keeps n tokens in every block costs what the curve says, for any n. Left to others: reductions
(``overhead``), and what a schedule costs (``latency``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.inference import CurvePoint, every_count
from tailfleet_coordinator.plan.statistics import Measured, PointSummary, by_part
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import Geometry

SIZED_METHODS = frozenset({"tome"})
"""Methods whose tokens carry sizes once some were merged, which later attention weighs keys by."""

_Floats = NDArray[np.float64]

LEAST_SHARE = 1e-3
"""Blocks together take at least this share of a pass, whatever noise makes of their difference to the fixed part."""


@dataclass(frozen=True, eq=False)
class Whole:
    """Time of the whole model with n tokens in every block."""

    points: Sequence[CurvePoint]
    """Ascending, without gaps; some are measured."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The counts, ascending."""
        return tuple(point.tokens for point in self.points)

    def value_ns(self, n: int) -> float:
        """The time at n; at the nearest count where n lies outside."""
        return self._at(n).ns

    def half_ns(self, n: int) -> float:
        """Half of the interval at n."""
        point = self._at(n)
        return max(point.high_ns - point.ns, point.ns - point.low_ns)

    def covers(self, n: int) -> bool:
        """Whether n lies within the measured counts."""
        first, last = self._ends
        return first <= n <= last

    def knows(self, n: int) -> bool:
        """Whether n itself was measured."""
        return self.covers(n) and self._at(n).measured

    def times(self, factor: Callable[[int], float]) -> "Whole":
        """All times and intervals times ``factor`` of their count."""
        return Whole([_times(point, factor(point.tokens)) for point in self.points])

    @cached_property
    def values_ns(self) -> _Floats:
        """:meth:`value_ns` of 0 to all tokens."""
        ns = [point.ns for point in self.points]
        return np.array([ns[0]] * self.points[0].tokens + ns)

    @cached_property
    def _ends(self) -> tuple[int, int]:
        known = [point.tokens for point in self.points if point.measured]
        return known[0], known[-1]

    def _at(self, n: int) -> CurvePoint:
        return self.points[min(max(n - self.points[0].tokens, 0), len(self.points) - 1)]


def _times(point: CurvePoint, by: float) -> CurvePoint:
    return CurvePoint(point.tokens, by * point.ns, by * point.low_ns, by * point.high_ns, point.measured)


@dataclass(frozen=True)
class Line:
    """Times at measured counts, linear in between; outside of them along the nearest two."""

    tokens: tuple[int, ...]
    ns: tuple[float, ...]

    @classmethod
    def through(cls, points: Sequence[Measured]) -> "Line":
        """Through ``points``, ascending by tokens."""
        return cls(tuple(p.unit.tokens for p in points), tuple(p.ns for p in points))

    def value_ns(self, n: int) -> float:
        """The time at n, never below a tenth of the nearest."""
        if self.tokens[0] <= n <= self.tokens[-1] or len(self.tokens) == 1:
            return float(np.interp(n, self.tokens, self.ns))
        near, next_ = (0, 1) if n < self.tokens[0] else (-1, -2)
        return float(self._beyond_ns(np.array(n), near, next_))

    def values_ns(self, most: int) -> _Floats:
        """The times at 0 to ``most``: all at once, for who asks for many."""
        counts = np.arange(most + 1)
        found = np.interp(counts, self.tokens, self.ns)
        if len(self.tokens) > 1:
            first, last = self.tokens[0], self.tokens[-1] + 1
            found[:first] = self._beyond_ns(counts[:first], 0, 1)
            found[last:] = self._beyond_ns(counts[last:], -1, -2)
        return found

    def _beyond_ns(self, counts: NDArray[np.int64], near: int, next_: int) -> _Floats:
        """Along the points ``near`` and ``next_``, the one before it."""
        slope = (self.ns[near] - self.ns[next_]) / (self.tokens[near] - self.tokens[next_])
        beyond: _Floats = np.maximum(self.ns[near] + slope * (counts - self.tokens[near]), 0.1 * self.ns[near])
        return beyond


def with_all_tokens(geometry: Geometry, summaries: Sequence[PointSummary]) -> list[PointSummary]:
    """``summaries``, with the sentinel as the curve's full count where that has none."""
    full, known = geometry.tokens, list(summaries)
    if not any(p.unit.part is Part.MODEL and p.unit.tokens == full and p.quiet_ns is not None for p in known):
        sentinels = [p for p in known if p.unit.part is Part.SENTINEL and p.unit.tokens == full and not p.unit.label]
        known += [point._replace(unit=Unit(Part.MODEL, full, full)) for point in sentinels]
    return known


@dataclass(frozen=True, eq=False)
class Halves:
    """One block's attention and MLP within a pass, and what a pass costs outside its blocks."""

    depth: int
    whole: Whole
    fixed_ns: float
    attention: Line
    """All blocks in turn, as measured."""
    mlp: Line
    sized: Line | None
    """Attention that weighs keys by sizes over attention that does not; None: not measured."""
    scale: Line
    """What blocks cost within a pass over the same parts in turn."""

    @classmethod
    def fit(cls, geometry: Geometry, summaries: Sequence[PointSummary], every: Sequence[CurvePoint] = ()) -> "Halves":
        """From the summaries of one sweep; a curve without its full count takes it from the sentinel. ``every`` is that
        curve at every count, for who has it already.

        Points that ran out of memory are left out. Raises ``InputError`` where the sweep lacks a part.
        """
        full = geometry.tokens
        known = with_all_tokens(geometry, summaries)
        parts = Part.MODEL, Part.FIXED, Part.ATTENTION, Part.MLP
        of = by_part(known, parts)
        curve, fixed, attention, mlp = (of.get((part, ""), []) for part in parts)
        for name, points in (("curve", curve), ("fixed part", fixed), ("attention", attention), ("mlp", mlp)):
            if not points:
                raise InputError(f"the sweep has no point of its {name} to plan on")
        if curve[-1].unit.tokens != full:
            raise InputError(f"the sweep does not know the latency of all {full} tokens")
        least = min(geometry.prefix + 1, curve[0].unit.tokens)
        whole = Whole(every or every_count(known, least, full))
        fixed_ns = min(fixed[0].ns, curve[0].ns)
        lines = Line.through(attention), Line.through(mlp)
        attention_ns, mlp_ns = (line.values_ns(full) for line in lines)
        counts = sorted({p.unit.tokens for p in attention} & {p.unit.tokens for p in mlp}) or [full]
        factors = np.maximum((whole.values_ns - fixed_ns) / (attention_ns + mlp_ns), 1e-3)[counts]
        sized = of.get((Part.ATTENTION, SIZED), [])
        dearer = [(p.unit.tokens, float(p.ns / attention_ns[p.unit.tokens])) for p in sized]
        return cls(
            geometry.depth,
            whole,
            fixed_ns,
            *lines,
            Line(*zip(*dearer, strict=True)) if dearer else None,
            Line(tuple(counts), tuple(factors.tolist())),
        )

    def attention_ns(self, n: int) -> float:
        """One block's attention half on n tokens, at most all."""
        return float(self.attentions_ns[n])

    def mlp_ns(self, n: int) -> float:
        """One block's MLP half on n tokens, at most all."""
        return float(self.mlps_ns[n])

    def sized_share(self, n: int) -> float | None:
        """By what share attention that weighs keys by sizes is dearer on n tokens; None where it was not measured."""
        return None if self.sized is None else float(self._sized[n]) - 1.0

    @cached_property
    def attentions_ns(self) -> _Floats:
        """:meth:`attention_ns` of 0 to all tokens."""
        return self._blocks_ns * self._attention_shares

    @cached_property
    def in_turn_ns(self) -> _Floats:
        """:meth:`attention_ns` of 0 to all tokens as it would be timed in turn with the other blocks."""
        return self.attentions_ns / self.scales

    @cached_property
    def mlps_ns(self) -> _Floats:
        """:meth:`mlp_ns` of 0 to all tokens."""
        return self._blocks_ns * (1.0 - self._attention_shares)

    @cached_property
    def scales(self) -> _Floats:
        """``scale`` at 0 to all tokens."""
        return self.scale.values_ns(self._full)

    @property
    def _full(self) -> int:
        return self.whole.points[-1].tokens

    @cached_property
    def _sized(self) -> _Floats:
        assert self.sized is not None
        return self.sized.values_ns(self._full)

    @cached_property
    def _attention_shares(self) -> _Floats:
        attention, mlp = self.attention.values_ns(self._full), self.mlp.values_ns(self._full)
        return attention / (attention + mlp)

    @cached_property
    def _blocks_ns(self) -> _Floats:
        whole = self.whole.values_ns
        return np.maximum(whole - self.fixed_ns, LEAST_SHARE * whole) / self.depth
