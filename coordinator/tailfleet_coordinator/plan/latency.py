"""What a schedule will cost on a board, from the parts that the board measured.

A pass is: fixed + Σ over blocks of (attention half on the tokens that enter + MLP half on those that leave), with the
reducing attention half where fewer leave, and attention that weighs keys by sizes behind the first merge. What the
halves cost within a pass is ``halves``', what a reduction adds ``overhead``'s. Blocks that reduce, and blocks behind
them, cost a few percent more or less within a pass than that (their input is in no cache, a runtime may fuse what is
timed apart, a GPU may hide launches): by what share, the whole models under a few schedules tell that a sweep times
for each method (``anchors``), and schedules that the board verified (``residuals``). What remains unknown is in the
interval: little of the blocks before the first reduction, which are the measured dense model's, and which a schedule
and dense have in common (``prediction``); of the others as much as the board's anchors were off by.

All of that is on quiet. Another statistic is quiet times the factor that the whole model shows at the tokens each half
works on (``spread``, and why there). Where that is one factor, costs still add over blocks and the search stays exact;
where a tail has a cliff, ``block_ns`` adds what each half costs at its own factor, and ``predict`` mixes the tails.
Left to others: measuring, and searching.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.anchors import Context, Seen, contexts
from tailfleet_coordinator.plan.costs import SIZED_GUESS, STAGED_HALF, STAGED_SHARE, Block, Costs, falling
from tailfleet_coordinator.plan.halves import SIZED_METHODS, Halves, Whole
from tailfleet_coordinator.plan.inference import CurvePoint
from tailfleet_coordinator.plan.overhead import Overhead
from tailfleet_coordinator.plan.prediction import Doubt, Prediction
from tailfleet_coordinator.plan.residuals import Correction, Residual, Verified, corrections, latest
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import Measured, PointSummary, by_part
from tailfleet_schema.curve import Part
from tailfleet_schema.schedule import MID, PLACEMENT, Schedule, importance_passes
from tailfleet_schema.workload import Geometry

_Floats = NDArray[np.float64]

MODEL_ERROR = 0.03
"""Half-width, as a share of the blocks that reduce and those behind them, of what mixing parts of several counts may be
off by where no anchor tells. The blocks before them are the measured dense model's."""


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
        known = by_part(summaries, (Part.REDUCE, Part.SCHEDULE))
        overheads = {
            method: Overhead.fit(geometry.tokens, geometry.depth, halves.in_turn_ns, known[Part.REDUCE, method])
            for method in sorted(label for part, label in known if part is Part.REDUCE)
        }
        chosen = Spread.quiet(geometry.tokens) if spread is None else spread
        plain = cls(geometry, halves, overheads, chosen, {})
        return replace(plain, contexts=plain._contexts(known, anchors))

    def corrected(self, verified: Sequence[Verified]) -> "LatencyModel":
        """This model with what earlier verifications on the same board, in the same state, left between prediction and
        measurement; itself where they are too few."""
        if not verified:
            return self
        quiet = replace(self, spread=Spread.quiet(self.geometry.tokens), corrections={})
        dense_ns, seen = quiet.dense.ns, []
        for one in latest(verified):
            if one.schedule.method in self.overheads:
                reducing_ns, behind_ns, _ = quiet._in_parts(self.costs.of(one.schedule))
                predicted = quiet.predict(one.schedule)
                excess_ns, half_ns = one.share * dense_ns - predicted.ns, one.half_share * dense_ns
                claimed_ns = float(np.hypot(predicted.doubt.fewer_ns, predicted.doubt.rest_ns))
                affected_ns = reducing_ns + behind_ns
                seen.append(Residual(one.schedule.method, affected_ns, excess_ns, half_ns, dense_ns, claimed_ns))
        return replace(self, corrections=corrections(seen, sorted(self.overheads)))

    @cached_property
    def costs(self) -> Costs:
        """Of single blocks, by their parts."""
        return Costs(self.geometry, self.halves, self.overheads)

    @property
    def fixed_ns(self) -> float:
        """What a pass costs outside its blocks, on quiet."""
        return self.halves.fixed_ns

    @cached_property
    def dense(self) -> Prediction:
        """The unreduced model: measured, not predicted."""
        full = self.geometry.tokens
        whole = self.halves.whole
        return self._on_statistic([(full, whole.value_ns(full))], Doubt(whole.half_ns(full)), False, False)

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
        terms = self._terms(method, self.costs.block(method, n, m))
        return sum(self.spread.factor(tokens) * ns for tokens, ns in terms) - self.fixed_ns / self.geometry.depth

    def blocks_ns(self, method: str, counts: Sequence[int]) -> _Floats:
        """:meth:`block_ns` from each of ``counts``, descending, to each that is no more: (K, K), elsewhere ``inf``.

        Raises ``InputError`` where ``method`` was not timed.
        """
        n, reduced = np.array(counts), falling(len(counts))
        attention = self.costs.attentions_ns(method, counts)
        context, correction = self.contexts.get(method), self.corrections.get(method)
        alike = 1.0 if correction is None else 1.0 + correction.share
        of_reducing, of_behind = (0.0, 0.0) if context is None else (context.reducing, context.behind)
        factor = np.where(reduced, alike + of_reducing, alike + of_behind)
        factor[:, n == self.geometry.tokens] = 1.0
        share_ns = self.fixed_ns / self.geometry.depth
        on, mlp_ns = np.array([self.spread.factor(count) for count in counts]), self.halves.mlps_ns[n]
        at_mlp = np.s_[None, :] if PLACEMENT[method] == MID else np.s_[:, None]
        # In place: for hundreds of counts these are the largest arrays of a plan.
        costs = np.multiply(factor, attention, out=attention)
        costs += share_ns
        costs *= on[:, None]
        factor *= on[at_mlp]
        factor *= mlp_ns[at_mlp]
        costs += factor
        costs -= share_ns
        costs[falling(len(counts)).T] = np.inf
        return costs

    def predict(self, schedule: Schedule) -> Prediction:
        """The cost of ``schedule``. Raises ``InputError`` where its method's reduction was not timed."""
        blocks, restoring_ns = self.costs.of(schedule), self.costs.restoring_ns(schedule)
        terms = [term for block in blocks for term in self._terms(schedule.method, block)]
        terms.append((self.geometry.tokens, restoring_ns))
        whole = self.halves.whole
        rest_ns = self._rest_ns(schedule.method, blocks, restoring_ns)
        claimed = replace(self._of_curve(schedule.method, blocks), rest_ns=rest_ns)
        doubt = self._taught(schedule.method, blocks, claimed)
        reducing = [(block.n, block.m) for block in blocks if block.m < block.n]
        counts = {*schedule.entering, *schedule.keep}
        extrapolated = any(not whole.covers(n) for n in counts) or any(
            not self.costs.overhead(schedule.method).covers(n, m) for n, m in reducing
        )
        inferred = any(not whole.knows(n) for n in counts)
        return self._on_statistic(terms, doubt, extrapolated, inferred)

    def _of_curve(self, method: str, blocks: Sequence[Block]) -> Doubt:
        """What the curve's errors make of a pass: those of each count, by the share of blocks that work on it."""
        whole, full = self.halves.whole, self.geometry.tokens
        at: dict[int, float] = {}
        for block in blocks:
            factor = self._factor(method, block.n, block.m)
            for tokens, ns in ((block.n, factor * block.attention_ns), (block.mlp_tokens, factor * block.mlp_ns)):
                at[tokens] = at.get(tokens, 0.0) + ns
        halves_ns = {
            n: ns / len(blocks) * whole.half_ns(n) / (self.halves.attention_ns(n) + self.halves.mlp_ns(n))
            for n, ns in at.items()
        }
        return Doubt(halves_ns.pop(full, 0.0), sum(halves_ns.values()))

    def _rest_ns(self, method: str, blocks: Sequence[Block], restoring_ns: float) -> float:
        """Half of the interval that all else is the cause of: parts that no sweep times, reductions between those that
        were timed, and what blocks behind a first reduction cost within a pass."""
        parts = [restoring_ns]
        if method in SIZED_METHODS and self.halves.sized is None:
            weighed = sum(block.attention_ns for block in blocks if block.n < self.geometry.tokens)
            parts.append(weighed * SIZED_GUESS / (1.0 + SIZED_GUESS))
        reducing = [block for block in blocks if block.m < block.n]
        if reducing:
            overhead, (reducing_ns, behind_ns, _) = self.costs.overhead(method), self._in_parts(blocks)
            parts.append(sum(float(self.halves.scales[one.n]) * overhead.half_ns(one.n, one.m) for one in reducing))
            parts.append(sum(one.staged_ns for one in reducing) * STAGED_HALF / STAGED_SHARE)
            unseen_ns = MODEL_ERROR * (reducing_ns + behind_ns)
            parts.append(
                self.contexts[method].half_ns(reducing_ns, behind_ns) if method in self.contexts else unseen_ns
            )
        return float(np.linalg.norm(parts))

    def _taught(self, method: str, blocks: Sequence[Block], claimed: Doubt) -> Doubt:
        """What verified schedules left of what the parts claim, and what they are not sure of themselves. What is
        shared with a dense model stays: it is no matter of blocks that reduce."""
        correction = self.corrections.get(method)
        if correction is None:
            return claimed
        reducing_ns, behind_ns, _ = self._in_parts(blocks)
        own_ns = correction.half_share * (reducing_ns + behind_ns)
        fewer_ns, rest_ns = correction.trusted * claimed.fewer_ns, correction.trusted * claimed.rest_ns
        return replace(claimed, fewer_ns=fewer_ns, rest_ns=float(np.hypot(rest_ns, own_ns)))

    def _contexts(
        self, known: Mapping[tuple[Part, str], Sequence[Measured]], anchors: Iterable[Schedule]
    ) -> dict[str, Context]:
        """From the schedules that the sweep timed; of a model without contexts."""
        seen = []
        for schedule in anchors:
            timed = known.get((Part.SCHEDULE, schedule.digest))
            if timed and schedule.method in self.overheads:
                reducing_ns, behind_ns, ns = self._in_parts(self.costs.of(schedule))
                excess_ns = timed[0].ns - ns
                seen.append(Seen(schedule.method, reducing_ns, behind_ns, excess_ns, timed[0].half_ns, timed[0].ns))
        return contexts(seen)

    def _in_parts(self, blocks: Sequence[Block]) -> tuple[float, float, float]:
        """A schedule's blocks by their parts alone: those that reduce, those behind them, and the whole pass."""
        reducing = sum(block.ns for block in blocks if block.m < block.n)
        behind = sum(block.ns for block in blocks if block.m == block.n < self.geometry.tokens)
        return reducing, behind, self.fixed_ns + sum(block.ns for block in blocks)

    def _factor(self, method: str, n: int, m: int) -> float:
        """What the place of a block within a pass makes of its parts."""
        if m == self.geometry.tokens:
            return 1.0
        factor = 1.0 + self.corrections[method].share if method in self.corrections else 1.0
        if method in self.contexts:
            context = self.contexts[method]
            factor += context.reducing if m < n else context.behind
        return factor

    def _terms(self, method: str, block: Block) -> list[tuple[int, float]]:
        """What one block is the sum of, on quiet: (tokens that it works on, ns). Its share of the fixed part, too."""
        factor = self._factor(method, block.n, block.m)
        attention_ns = factor * block.attention_ns + self.fixed_ns / self.geometry.depth
        return [(block.n, attention_ns), (block.mlp_tokens, factor * block.mlp_ns)]

    def _on_statistic(
        self, terms: Sequence[tuple[int, float]], doubt: Doubt, extrapolated: bool, inferred: bool
    ) -> Prediction:
        quiet = [0.0] * len(self.spread.sources)
        for tokens, ns in terms:
            quiet[self.spread.source_at[tokens]] += ns
        whole = sum(quiet)
        mixed = self.spread.mixed(quiet)
        sources = list(zip(quiet, self.spread.sources, strict=True))
        return Prediction(
            whole * mixed.value,
            doubt.times(mixed.value),
            extrapolated,
            inferred,
            (*(share * (s.value - s.low) for share, s in sources), whole * (mixed.value - mixed.low)),
            (*(share * (s.high - s.value) for share, s in sources), whole * (mixed.high - mixed.value)),
        )
