"""What a schedule will cost on a board, from the parts that the board measured.

A pass is: fixed + Σ over blocks of (attention half on the tokens that enter + MLP half on those that leave), with the
reducing attention half where fewer leave, and attention that weighs keys by sizes behind the first merge. What the
halves cost within a pass is ``halves``', what a reduction adds ``overhead``'s. Blocks that reduce, and blocks behind
them, cost a few percent more or less within a pass than that (their input is in no cache, a runtime may fuse what is
timed apart, a GPU may hide launches): by what share, the whole models under a few schedules tell that a sweep times
for each method (``anchors``), and schedules that the board verified (``residuals``). What remains unknown is in the
interval.

All of that is on quiet. Another statistic is quiet times the factor that the whole model shows at the tokens each half
works on (``spread``, and why there). Where that is one factor, costs still add over blocks and the search stays exact;
where a tail has a cliff, ``block_ns`` adds what each half costs at its own factor, and ``predict`` mixes the tails.
Left to others: measuring, and searching.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.anchors import Context, Seen, contexts
from tailfleet_coordinator.plan.halves import SIZED_METHODS, Halves, Whole
from tailfleet_coordinator.plan.inference import CurvePoint
from tailfleet_coordinator.plan.overhead import Overhead
from tailfleet_coordinator.plan.prediction import Prediction
from tailfleet_coordinator.plan.residuals import Correction, Residual, Verified, corrections, latest
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import PointSummary, measured
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import MID, PLACEMENT, SIMILAR_DROPPED, Schedule, importance_passes
from tailfleet_schema.workload import Geometry

_Floats = NDArray[np.float64]

MODEL_ERROR = 0.02
"""Half-width, as a share, of what mixing parts of several counts may be off by."""

SIZED_GUESS = 0.05
"""By what share that is dearer where no part timed it: virtual boards say 3–8 %, so half of the interval is taken as
wide as the share itself."""

STAGED_SHARE = 0.4
"""Of what a reduction adds to a block, so much is taken to grow with the passes over its graph where those differ from
block to block: a sweep times all blocks together. On virtual boards it is 0.3 to 0.6."""

STAGED_HALF = 0.3
"""That share may be so much more or less."""

RESTORING_SHARE = 0.06
"""Of a block on all tokens: what putting tokens back in their places takes, once; no part times it. On virtual boards
it is 0.03 to 0.1, so as much is what it may be off by."""


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts any schedule of the methods whose reduction was timed."""

    geometry: Geometry
    halves: Halves
    overheads: dict[str, Overhead]
    spread: Spread
    """Of the statistic that predictions are on."""
    contexts: dict[str, Context]
    """By method; those without are taken as their parts are."""
    corrections: dict[str, Correction] = field(default_factory=dict)
    """By method, from verified schedules of the board; see :meth:`corrected`."""

    @classmethod
    def fit(
        cls,
        geometry: Geometry,
        summaries: Sequence[PointSummary],
        spread: Spread | None = None,
        anchors: Iterable[Schedule] = (),
        every: Sequence[CurvePoint] = (),
    ) -> "LatencyModel":
        """From the summaries of one sweep; those of ``anchors`` that it timed are used too.

        Predictions are on the statistic of ``spread``; without one, on quiet. ``every`` is the curve at every count,
        for who has it already.

        Points that ran out of memory are left out. Raises ``InputError`` where the sweep lacks a part.
        """
        halves = Halves.fit(geometry, summaries, every)
        methods = {p.unit.label for p in summaries if p.unit.part is Part.REDUCE}
        pairs = {method: measured(summaries, Part.REDUCE, method) for method in sorted(methods)}
        overheads = {
            method: Overhead.fit(geometry.tokens, geometry.depth, halves.in_turn_ns, points)
            for method, points in pairs.items()
            if points
        }
        chosen = Spread.quiet(geometry.tokens) if spread is None else spread
        plain = cls(geometry, halves, overheads, chosen, {})
        return replace(plain, contexts=plain._contexts(summaries, anchors))

    def corrected(self, verified: Sequence[Verified]) -> "LatencyModel":
        """This model with what earlier verifications on the same board, in the same state, left between prediction and
        measurement; itself where they are too few."""
        quiet = replace(self, spread=Spread.quiet(self.geometry.tokens), corrections={})
        dense_ns, seen = quiet.dense.ns, []
        for one in latest(verified):
            if one.schedule.method in self.overheads:
                reducing_ns, behind_ns, _ = quiet._in_parts(one.schedule)
                excess_ns = one.share * dense_ns - quiet.predict(one.schedule).ns
                seen.append(
                    Residual(
                        one.schedule.method, reducing_ns + behind_ns, excess_ns, one.half_share * dense_ns, dense_ns
                    )
                )
        return replace(self, corrections=corrections(seen, sorted(self.overheads)))

    @property
    def fixed_ns(self) -> float:
        """What a pass costs outside its blocks, on quiet."""
        return self.halves.fixed_ns

    @property
    def dense(self) -> Prediction:
        """The unreduced model: measured, not predicted."""
        full = self.geometry.tokens
        ns = self.halves.whole.value_ns(full)
        return self._on_statistic([(full, ns)], self.halves.whole.half_ns(full) / ns, False, False)

    @property
    def additive(self) -> bool:
        """Whether ``fixed_ns`` and ``block_ns`` add up to what ``predict`` says: one factor holds for all counts."""
        return len(self.spread.sources) == 1

    @property
    def curve(self) -> Whole:
        """The whole model on the statistic, at every count."""
        return self.halves.whole.times(self.spread.factor)

    def adds_up(self, method: str) -> bool:
        """Whether that holds for schedules of ``method``: its reduction costs the same in all blocks."""
        return self.additive and not importance_passes(method, 0, self.geometry.depth)

    def block_ns(self, method: str, n: int, m: int) -> float:
        """One block that n tokens enter and m leave, such that ``fixed_ns`` and all blocks add up to a pass; what it
        costs on average, where that depends on the block.

        Raises ``InputError`` where ``method`` was not timed.
        """
        on_statistic = sum(
            self.spread.factor(tokens) * ns for tokens, ns in self._terms(method, n, m, self._stage(method, n, m))
        )
        return on_statistic - self.fixed_ns / self.geometry.depth

    def blocks_ns(self, method: str, counts: Sequence[int]) -> _Floats:
        """:meth:`block_ns` from each of ``counts``, descending, to each that is no more: (K, K), elsewhere ``inf``.

        Raises ``InputError`` where ``method`` was not timed.
        """
        size, n = len(counts), np.array(counts)
        reduced = np.triu(np.ones((size, size), dtype=bool), 1)
        plain = self.halves.attentions_ns[n][:, None]
        attention = self.halves.scales[n][:, None] * self._overhead(method).blocks_ns(counts)
        if importance_passes(method, 0, self.geometry.depth):
            few = n[:, None] - n[None, :] <= SIMILAR_DROPPED
            attention -= few * STAGED_SHARE * np.maximum(0.0, attention - plain)
        attention = np.where(reduced, attention, plain)
        if method in SIZED_METHODS:
            attention += np.array([self._weighed_ns(method, count) for count in counts])[:, None]
        mlp_tokens = np.broadcast_to(n[None, :] if PLACEMENT[method] == MID else n[:, None], (size, size))
        context, correction = self.contexts.get(method), self.corrections.get(method)
        factor = np.full((size, size), 1.0 if correction is None else 1.0 + correction.share)
        if context is not None:
            factor += np.where(reduced, context.reducing, context.behind)
        factor[:, n == self.geometry.tokens] = 1.0
        share_ns = self.fixed_ns / self.geometry.depth
        on = np.array([self.spread.factor(count) for count in counts])
        at_mlp = on[None, :] if PLACEMENT[method] == MID else on[:, None]
        costs = on[:, None] * (factor * attention + share_ns) + at_mlp * factor * self.halves.mlps_ns[mlp_tokens]
        return np.where(reduced | np.eye(size, dtype=bool), costs - share_ns, np.inf)

    def predict(self, schedule: Schedule) -> Prediction:
        """The cost of ``schedule``. Raises ``InputError`` where its method's reduction was not timed."""
        blocks = list(zip(schedule.entering, schedule.keep, strict=True))
        stages = self._stages(schedule)
        terms = [
            term
            for (n, m), stage in zip(blocks, stages, strict=True)
            for term in self._terms(schedule.method, n, m, stage)
        ]
        restoring_ns = self._restoring_ns(schedule)
        terms.append((self.geometry.tokens, restoring_ns))
        ns = sum(quiet for _, quiet in terms)
        counts = [*schedule.entering, *schedule.keep]
        whole = self.halves.whole
        # The curve's errors at several counts may have one cause, so they add up as shares of the whole.
        parts = [restoring_ns, ns * float(np.mean([whole.half_ns(n) / whole.value_ns(n) for n in counts]))]
        if schedule.method in SIZED_METHODS and self.halves.sized is None:
            weighed = sum(self._attention_ns(schedule.method, n, m) for n, m in blocks if n < self.geometry.tokens)
            parts.append(weighed * SIZED_GUESS / (1.0 + SIZED_GUESS))
        reducing = [(n, m) for n, m in blocks if m < n]
        if reducing:
            parts.append(MODEL_ERROR * ns)
            overhead = self._overhead(schedule.method)
            parts.append(sum(self.halves.scale.value_ns(n) * overhead.half_ns(n, m) for n, m in reducing))
            staged_ns = [
                self._staged_ns(schedule.method, n, m, stage) for (n, m), stage in zip(blocks, stages, strict=True)
            ]
            parts.append(sum(staged_ns) * STAGED_HALF / STAGED_SHARE)
            if schedule.method in self.contexts:
                parts.append(self.contexts[schedule.method].half_ns(*self._in_parts(schedule)[:2]))
            if schedule.method in self.corrections:
                parts.append(self.corrections[schedule.method].half_share * sum(self._in_parts(schedule)[:2]))
        half = float(np.linalg.norm(parts))
        extrapolated = any(not whole.covers(n) for n in counts) or any(
            not self._overhead(schedule.method).covers(n, m) for n, m in reducing
        )
        inferred = any(not whole.knows(n) for n in counts)
        return self._on_statistic(terms, half / ns, extrapolated, inferred)

    def _contexts(self, summaries: Sequence[PointSummary], anchors: Iterable[Schedule]) -> dict[str, Context]:
        """From the schedules that the sweep timed; of a model without contexts."""
        seen = []
        for schedule in anchors:
            timed = measured(summaries, Part.SCHEDULE, schedule.digest)
            if timed and schedule.method in self.overheads:
                reducing_ns, behind_ns, ns = self._in_parts(schedule)
                excess_ns = timed[0].ns - ns
                seen.append(Seen(schedule.method, reducing_ns, behind_ns, excess_ns, timed[0].half_ns, timed[0].ns))
        return contexts(seen)

    def _in_parts(self, schedule: Schedule) -> tuple[float, float, float]:
        """By its parts: blocks that reduce, those behind them, and the whole pass."""
        reducing = behind = before = 0.0
        for n, m, stage in zip(schedule.entering, schedule.keep, self._stages(schedule), strict=True):
            ns = self._attention_ns(schedule.method, n, m, stage) + self.halves.mlp_ns(
                self._mlp_tokens(schedule.method, n, m)
            )
            if m < n:
                reducing += ns
            elif n < self.geometry.tokens:
                behind += ns
            else:
                before += ns
        return reducing, behind, self.fixed_ns + before + reducing + behind

    def _factor(self, method: str, n: int, m: int) -> float:
        """What the place of a block within a pass makes of its parts."""
        if m == self.geometry.tokens:
            return 1.0
        factor = 1.0 + self.corrections[method].share if method in self.corrections else 1.0
        if method in self.contexts:
            context = self.contexts[method]
            factor += context.reducing if m < n else context.behind
        return factor

    def _terms(self, method: str, n: int, m: int, stage: float = 0.0) -> list[tuple[int, float]]:
        """What one block is the sum of, on quiet: (tokens that it works on, ns). Its share of the fixed part, too."""
        mlp_tokens = self._mlp_tokens(method, n, m)
        factor = self._factor(method, n, m)
        attention_ns = factor * self._attention_ns(method, n, m, stage) + self.fixed_ns / self.geometry.depth
        return [(n, attention_ns), (mlp_tokens, factor * self.halves.mlp_ns(mlp_tokens))]

    def _mlp_tokens(self, method: str, n: int, m: int) -> int:
        return m if PLACEMENT[method] == MID else n

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

    def _restoring_ns(self, schedule: Schedule) -> float:
        """What a schedule pays for putting dropped tokens back: once there, and at each reduction but the first, where
        those that were left are kept."""
        if schedule.restore_before is None:
            return 0.0
        times = sum(block < schedule.restore_before for block in schedule.reducing_blocks)
        full = self.geometry.tokens
        return times * RESTORING_SHARE * (self.halves.attention_ns(full) + self.halves.mlp_ns(full))

    def _stages(self, schedule: Schedule) -> list[float]:
        """By how much each block's passes over the graph exceed their mean over blocks, as a share of it."""
        blocks = zip(schedule.entering, schedule.keep, strict=True)
        similar = schedule.parameters.get("similar", SIMILAR_DROPPED)
        return [self._stage(schedule.method, n, m, block, similar) for block, (n, m) in enumerate(blocks)]

    def _stage(self, method: str, n: int, m: int, block: int | None = None, similar: int = SIMILAR_DROPPED) -> float:
        """The same of one block; None: of one like all together."""
        depth = self.geometry.depth
        passes = [importance_passes(method, number, depth) for number in range(depth)]
        if not any(passes) or m == n:
            return 0.0
        if n - m <= similar:
            # Those that are like others are enough, and nothing is passed on.
            return -1.0
        return 0.0 if block is None else passes[block] * depth / sum(passes) - 1.0

    def _staged_ns(self, method: str, n: int, m: int, stage: float) -> float:
        """What a reduction costs more at such a stage than on average."""
        if m == n or not stage:
            return 0.0
        added_ns = self.halves.scale.value_ns(n) * self._overhead(method).block_ns(n, m) - self.halves.attention_ns(n)
        return STAGED_SHARE * stage * max(0.0, added_ns)

    def _attention_ns(self, method: str, n: int, m: int, stage: float = 0.0) -> float:
        ns = self.halves.attention_ns(n)
        if m < n:
            ns = self.halves.scale.value_ns(n) * self._overhead(method).block_ns(n, m)
            ns += self._staged_ns(method, n, m, stage)
        return ns + self._weighed_ns(method, n)

    def _weighed_ns(self, method: str, n: int) -> float:
        """What attention on n tokens costs more for weighing keys by sizes."""
        if method not in SIZED_METHODS or n == self.geometry.tokens:
            return 0.0
        # Fewer than all tokens arrive exactly where some were merged before.
        share = self.halves.sized_share(n)
        return (SIZED_GUESS if share is None else share) * self.halves.attention_ns(n)

    def _overhead(self, method: str) -> Overhead:
        if method not in self.overheads:
            known = ", ".join(self.overheads) or "none"
            raise InputError(f"the sweep did not time the reduction of {method!r}; timed: {known}")
        return self.overheads[method]
