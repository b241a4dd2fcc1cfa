"""What a schedule will cost on a board, from the parts that the board measured.

A pass is: fixed + Σ over blocks of (attention half on the tokens that enter + MLP half on those that leave), with the
reducing attention half where fewer leave. Parts run in turn cost a few percent less than the same parts within a
pass, so for each count n they are scaled until a schedule that keeps n tokens everywhere costs what the whole model
cost on n tokens. What remains unknown is in the interval.

All of that is on quiet. Another statistic is quiet times the factor that the whole model shows at the tokens each half
works on (``spread``, and why there). Where that is one factor, costs still add over blocks and the search stays exact;
where a tail has a cliff, ``block_ns`` adds what each half costs at its own factor, and ``predict`` mixes the tails.
Left to others: measuring, and searching.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tailfleet_coordinator.plan.overhead import Overhead
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import Measured, PointSummary, measured
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import MID, PLACEMENT, Schedule
from tailfleet_schema.workload import Geometry

MODEL_ERROR = 0.02
"""Half-width, as a share, of what mixing parts of several counts may be off by."""

STEP_SHARE = 0.25
"""Between measured counts, where a step may hide: half-width as a share of the rise from one to the next."""

WEIGHED_ATTENTION = {"tome": 0.05}
"""Methods whose tokens carry sizes once some were merged, and by what share attention that weighs keys by sizes is
dearer. No part times it: virtual boards say 3–8 %, so half of the interval is taken as wide as the share itself."""


@dataclass(frozen=True)
class Prediction:
    """Time of one call of the whole model on the model's statistic, with a 95 % interval."""

    ns: float
    half_ns: float
    """Half of the interval that quiet times are the cause of."""
    extrapolated: bool
    """Some count lies outside what was measured; the figure is a guess."""
    inferred: bool
    """Some count lies between measured ones that are not adjacent."""
    fall_ns: tuple[float, ...] = ()
    """By how much ``ns`` falls if a source of the spread is at the low end of its interval, for each source."""
    rise_ns: tuple[float, ...] = ()

    @property
    def low_ns(self) -> float:
        """The lower end of the interval."""
        return max(self.ns - float(np.linalg.norm([self.half_ns, *self.fall_ns])), 0.0)

    @property
    def high_ns(self) -> float:
        """The upper end of the interval."""
        return self.ns + float(np.linalg.norm([self.half_ns, *self.rise_ns]))

    def margin_ns(self, other: "Prediction") -> float:
        """What ``other`` must be slower by than this one to be so beyond doubt: both intervals in quadrature.

        A factor that both have in common moves both alike: only what it moves of their difference counts. Both are
        of one model. (The interval of a difference from those of its terms: Zou and Donner, 2008.)
        """
        at_low = [own - others for own, others in zip(self.fall_ns, other.fall_ns, strict=True)]
        at_high = [others - own for own, others in zip(self.rise_ns, other.rise_ns, strict=True)]
        shared = [max(0.0, -low, -high) for low, high in zip(at_low, at_high, strict=True)]
        return float(np.linalg.norm([self.half_ns, other.half_ns, *shared]))


@dataclass(frozen=True)
class Line:
    """Times at measured counts, linear in between: exact where every count was measured."""

    tokens: tuple[int, ...]
    ns: tuple[float, ...]
    half_ns: tuple[float, ...]

    @classmethod
    def through(cls, points: Sequence[Measured]) -> "Line":
        """Through ``points``, ascending by tokens."""
        return cls(tuple(p.unit.tokens for p in points), tuple(p.ns for p in points), tuple(p.half_ns for p in points))

    def value_ns(self, n: int) -> float:
        """The time at n; outside the measured counts along the nearest two, never below a tenth of the nearest."""
        if n in self or self.tokens[0] < n < self.tokens[-1] or len(self.tokens) == 1:
            return float(np.interp(n, self.tokens, self.ns))
        near, next_ = (0, 1) if n < self.tokens[0] else (-1, -2)
        slope = (self.ns[near] - self.ns[next_]) / (self.tokens[near] - self.tokens[next_])
        return max(self.ns[near] + slope * (n - self.tokens[near]), 0.1 * self.ns[near])

    def interval_ns(self, n: int) -> float:
        """Half of the interval at n; wider between measured counts, and outside of them."""
        half = float(np.interp(n, self.tokens, self.half_ns))
        if n in self:
            return half
        if not self.tokens[0] < n < self.tokens[-1]:
            nearest = self.ns[0] if n < self.tokens[0] else self.ns[-1]
            return half + abs(self.value_ns(n) - nearest)
        after = int(np.searchsorted(self.tokens, n))
        return half + STEP_SHARE * abs(self.ns[after] - self.ns[after - 1])

    def covers(self, n: int) -> bool:
        """Whether n lies within the measured counts."""
        return self.tokens[0] <= n <= self.tokens[-1]

    def __contains__(self, n: int) -> bool:
        """Whether n itself was measured."""
        return n in self.tokens


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts any schedule of the methods whose reduction was timed."""

    geometry: Geometry
    fixed_ns: float
    model: Line
    """The curve."""
    attention: Line
    """All blocks together, as measured."""
    mlp: Line
    scale: Line
    """By how much parts at n have to grow to add up to the whole."""
    overheads: dict[str, Overhead]
    spread: Spread
    """Of the statistic that predictions are on."""

    @classmethod
    def fit(cls, geometry: Geometry, summaries: Sequence[PointSummary], spread: Spread | None = None) -> "LatencyModel":
        """From the summaries of one sweep; a curve without its full count takes it from the sentinel.

        Predictions are on the statistic of ``spread``; without one, on quiet.

        Points that ran out of memory are left out. Raises ``InputError`` where the sweep lacks a part.
        """
        curve = measured(summaries, Part.MODEL)
        if not any(point.unit.tokens == geometry.tokens for point in curve):
            curve += measured(summaries, Part.SENTINEL)
        attention, mlp = measured(summaries, Part.ATTENTION), measured(summaries, Part.MLP)
        fixed = measured(summaries, Part.FIXED)
        for name, points in (("curve", curve), ("fixed part", fixed), ("attention", attention), ("mlp", mlp)):
            if not points:
                raise InputError(f"the sweep has no point of its {name} to plan on")
        if curve[-1].unit.tokens != geometry.tokens:
            raise InputError(f"the sweep does not know the latency of all {geometry.tokens} tokens")
        attention_line, mlp_line = Line.through(attention), Line.through(mlp)
        fixed_ns = min(fixed[0].ns, curve[0].ns)

        def scale_at(n: int, whole_ns: float) -> float:
            return max((whole_ns - fixed_ns) / (attention_line.value_ns(n) + mlp_line.value_ns(n)), 1e-3)

        scale = Line(
            tuple(p.unit.tokens for p in curve),
            tuple(scale_at(p.unit.tokens, p.ns) for p in curve),
            tuple(0.0 for _ in curve),
        )

        @cache
        def block_attention_ns(n: int) -> float:
            return attention_line.value_ns(n) / geometry.depth

        methods = {p.unit.label for p in summaries if p.unit.part is Part.REDUCE}
        pairs = {method: measured(summaries, Part.REDUCE, method) for method in sorted(methods)}
        overheads = {
            method: Overhead.fit(geometry.tokens, geometry.depth, block_attention_ns, points)
            for method, points in pairs.items()
            if points
        }
        chosen = Spread.quiet(geometry.tokens) if spread is None else spread
        return cls(geometry, fixed_ns, Line.through(curve), attention_line, mlp_line, scale, overheads, chosen)

    @property
    def dense(self) -> Prediction:
        """The unreduced model: measured, not predicted."""
        full = self.geometry.tokens
        ns = self.model.value_ns(full)
        return self._on_statistic([(full, ns)], self.model.interval_ns(full) / ns, False, False)

    @property
    def additive(self) -> bool:
        """Whether ``fixed_ns`` and ``block_ns`` add up to what ``predict`` says: one factor holds for all counts."""
        return len(self.spread.sources) == 1

    @property
    def curve(self) -> Line:
        """The whole model on the statistic, at the counts that were measured."""
        factors = [self.spread.factor(n) for n in self.model.tokens]
        ns = tuple(f * at for f, at in zip(factors, self.model.ns, strict=True))
        return Line(self.model.tokens, ns, tuple(f * h for f, h in zip(factors, self.model.half_ns, strict=True)))

    def block_ns(self, method: str, n: int, m: int) -> float:
        """One block that n tokens enter and m leave, such that ``fixed_ns`` and all blocks add up to a pass.

        Raises ``InputError`` where ``method`` was not timed.
        """
        on_statistic = sum(self.spread.factor(tokens) * ns for tokens, ns in self._terms(method, n, m))
        return on_statistic - self.fixed_ns / self.geometry.depth

    def predict(self, schedule: Schedule) -> Prediction:
        """The cost of ``schedule``. Raises ``InputError`` where its method's reduction was not timed."""
        blocks = list(zip(schedule.entering, schedule.keep, strict=True))
        terms = [term for n, m in blocks for term in self._terms(schedule.method, n, m)]
        ns = sum(quiet for _, quiet in terms)
        counts = [*schedule.entering, *schedule.keep]
        # The curve's errors at several counts may have one cause, so they add up as shares of the whole.
        share = float(np.mean([self.model.interval_ns(n) / self.model.value_ns(n) for n in counts]))
        parts = [share * ns]
        weighed = sum(self._attention_ns(schedule.method, n, m) for n, m in blocks if n < self.geometry.tokens)
        share_weighed = WEIGHED_ATTENTION.get(schedule.method, 0.0)
        parts.append(weighed * share_weighed / (1.0 + share_weighed))
        reducing = [(n, m) for n, m in blocks if m < n]
        if len(set(counts)) > 1:
            parts.append(MODEL_ERROR * ns)
        if reducing:
            overhead = self._overhead(schedule.method)
            parts.append(sum(self.scale.value_ns(n) * overhead.half_ns(n, m) for n, m in reducing))
        half = float(np.sqrt(np.sum(np.square(parts))))
        extrapolated = any(not self.model.covers(n) for n in counts) or any(
            not self._overhead(schedule.method).covers(n, m) for n, m in reducing
        )
        inferred = any(n not in self.model for n in counts)
        return self._on_statistic(terms, half / ns, extrapolated, inferred)

    def _terms(self, method: str, n: int, m: int) -> list[tuple[int, float]]:
        """What one block is the sum of, on quiet: (tokens that it works on, ns). Its share of the fixed part, too."""
        mlp_tokens = m if PLACEMENT[method] == MID else n
        attention_ns = self._attention_ns(method, n, m) + self.fixed_ns / self.geometry.depth
        return [(n, attention_ns), (mlp_tokens, self._at(self.mlp, mlp_tokens))]

    def _on_statistic(
        self, terms: Sequence[tuple[int, float]], half_share: float, extrapolated: bool, inferred: bool
    ) -> Prediction:
        quiet = [0.0] * len(self.spread.sources)
        for tokens, ns in terms:
            quiet[self.spread.source_at[tokens]] += ns
        whole = sum(quiet)
        mixed = self.spread.mixed(quiet)
        ns = whole * mixed.value
        sources = list(zip(quiet, self.spread.sources, strict=True))
        return Prediction(
            ns,
            half_share * ns,
            extrapolated,
            inferred,
            (*(share * (s.value - s.low) for share, s in sources), whole * (mixed.value - mixed.low)),
            (*(share * (s.high - s.value) for share, s in sources), whole * (mixed.high - mixed.value)),
        )

    def _attention_ns(self, method: str, n: int, m: int) -> float:
        # Fewer than all tokens arrive exactly where some were merged before.
        weighed = 1.0 + (WEIGHED_ATTENTION.get(method, 0.0) if n < self.geometry.tokens else 0.0)
        if m == n:
            return weighed * self._at(self.attention, n)
        return weighed * self.scale.value_ns(n) * self._overhead(method).block_ns(n, m)

    def _at(self, part: Line, n: int) -> float:
        """One block's share of ``part`` within a pass."""
        return self.scale.value_ns(n) * part.value_ns(n) / self.geometry.depth

    def _overhead(self, method: str) -> Overhead:
        if method not in self.overheads:
            known = ", ".join(self.overheads) or "none"
            raise InputError(f"the sweep did not time the reduction of {method!r}; timed: {known}")
        return self.overheads[method]
