"""How plans came out: what the board measured of each schedule, beside dense in the same rounds, and which to take.

A verification runs every schedule and the dense model in interleaved rounds, so the speed-up compares like with like.
All times are on the statistic of the objective, each measured by its own calls: nothing here rests on a prediction.
Left to others: tables, pages and pictures (``report``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.plan.quantiles import Percentile, complete, least_calls, timed
from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_coordinator.plan.verdict import DO_NOT_PRUNE, NAMES, PRUNE, against_dense, in_ms, on_statistic, points
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import AUTO, Measure, Objective, ReportRow, Statistic
from tailfleet_schema.curve import Judgement, Part, UnitResult
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import ModelSpec


@dataclass(frozen=True)
class _Judged:
    """A row, and what it is ranked by."""

    row: ReportRow
    accepted: bool
    kept_share: float
    """Mean tokens that leave a block, over all tokens."""


@dataclass(frozen=True)
class Outcome:
    """What came of the plans for one board × model."""

    board: str
    kind: BoardKind
    model: ModelSpec
    plans: Sequence[tuple[str, str, Plan]]
    """(planner, method, plan)."""
    results: Sequence[UnitResult]
    """Of the verification: SCHEDULE and ACCURACY units by schedule digest, the dense one among them; empty where it did
    not run, and then every schedule is "predicted only", and none is found good."""
    objective: Objective
    measure: Measure = Measure.TOP1
    """Where images have no labels it is agreement with the dense model, which then stands for top-1, and a latency
    budget goes before an accuracy limit."""

    def rows(self) -> list[ReportRow]:
        """One row for each plan, in their order; at most one row is recommended.

        Plans that say not to prune have rows, too. Where further points of a plan's front were measured besides, its
        row is that of the best that does what was asked, else of the chosen one. Under the objective ``front`` each
        measured point has a row, the fastest last, and none is recommended: what to trade is not for us to say.

        A schedule is recommended only if it is found :meth:`good`. Among those: the fastest under an accuracy limit;
        the highest top-1 (without images: the most tokens kept) under a latency budget alone; the highest measured
        utility.
        """
        judged = [
            one for own in self._points() for one in (own if self.objective.front else [_taken(own, self.objective)])
        ]
        best = None if self.objective.front else _best(judged, self.objective)
        return [replace(j.row, recommended=index == best) for index, j in enumerate(judged)]

    def good(self) -> set[str]:
        """Digests of the schedules, chosen or contenders, that do what was asked: measured faster than dense by more
        than both intervals together, and within the accuracy limit on the evaluation images if there is one, else
        within the latency budget if there is one."""
        return {
            one.row.schedule_digest for own in self._points() for one in own if one.accepted and one.row.schedule_digest
        }

    def _points(self) -> list[list[_Judged]]:
        """Of each plan its points, the chosen one first."""
        verified = _Verified.of(self.results, dense(self.model.name, self.model.geometry).digest, self.objective.on)

        def judged(planner: str, method: str, plan: Plan) -> _Judged:
            row = _row(self.board, self.kind, self.model, (planner, method, plan), verified, self.measure)
            return _judged(row, plan, verified, self.objective)

        return [[judged(planner, method, one) for one in _alternatives(plan)] for planner, method, plan in self.plans]


def verified_of(schedules: Sequence[Schedule], results: Sequence[UnitResult]) -> list[Verified]:
    """What a verification measured of each of ``schedules`` (the dense one among them), on quiet; nothing where dense
    itself is not known."""
    times = timed([r for r in results if r.unit.part is Part.SCHEDULE], Part.SCHEDULE, Statistic.QUIET)
    beside = next((times[one.digest] for one in schedules if one.is_dense and one.digest in times), None)
    found = []
    for one in schedules:
        time = times.get(one.digest)
        if beside is not None and time is not None and not one.is_dense:
            share = time.value / beside.value
            errors = [(time.high - time.low) / (2 * time.value), (beside.high - beside.low) / (2 * beside.value)]
            found.append(Verified(one, share, share * float(np.linalg.norm(errors))))
    return found


def _alternatives(plan: Plan) -> list[Plan]:
    """The plan as if each of its points were the chosen one, the chosen one first."""
    further = [
        replace(
            plan,
            schedule=other.schedule,
            predicted_ns=other.predicted_ns,
            predicted_low_ns=other.predicted_low_ns,
            predicted_high_ns=other.predicted_high_ns,
            expected_drop=other.expected_drop,
            drop_error=other.drop_error,
            verdict=other.verdict,
        )
        for other in plan.contenders
    ]
    return [plan, *further]


def _taken(own: Sequence[_Judged], objective: Objective) -> _Judged:
    """Of one plan's points, as they were measured."""
    best = _best(own, objective)
    if not best:
        return own[0]
    row, first = own[best].row, own[0].row.verdict.removeprefix(DO_NOT_PRUNE).removeprefix(PRUNE)
    words = f"{row.verdict}; of {len(own)} points measured it is ahead of the one first chosen, which came to: {first}"
    return replace(own[best], row=replace(row, verdict=words))


@dataclass(frozen=True)
class _Verified:
    """What the board found, by schedule digest."""

    on: Statistic
    times: dict[str, Percentile]
    calls: int
    """Of each schedule; the fewest of any."""
    judgements: dict[str, Judgement]
    out_of_memory: set[str]
    dense: Percentile | None
    dense_judgement: Judgement | None

    @classmethod
    def of(cls, results: Sequence[UnitResult], dense_digest: str, on: Statistic) -> "_Verified":
        runs = [r for r in results if r.unit.part is Part.SCHEDULE]
        out_of_memory = {r.unit.label for r in runs if r.status == "oom"}
        times = timed(runs, Part.SCHEDULE, on)
        calls = {unit: sum(len(r.call_ns) for r in rounds) for unit, rounds in complete(runs).items()}
        judgements = {
            r.unit.label: r.judgement for r in results if r.unit.part is Part.ACCURACY and r.judgement is not None
        }
        return cls(
            on,
            times,
            min(calls.values(), default=0),
            judgements,
            out_of_memory,
            times.get(dense_digest),
            judgements.get(dense_digest),
        )


def _row(
    board: str,
    kind: BoardKind,
    model: ModelSpec,
    planned: tuple[str, str, Plan],
    verified: _Verified,
    measure: Measure,
) -> ReportRow:
    """The row with its figures, not yet recommended, its verdict that of the plan."""
    planner, method, plan = planned
    digest = plan.schedule.digest if plan.schedule is not None else None
    time = verified.times.get(digest) if digest is not None else None
    judgement = verified.judgements.get(digest) if digest is not None else None
    judged, labelled = judgement or verified.dense_judgement, measure is Measure.TOP1
    # A plan that could not be made on the objective's statistic has figures on another: they are not for this row.
    expected = plan if plan.on is verified.on else None
    expected_dense_ns = expected.dense_ns if expected is not None else None
    return ReportRow(
        board=board,
        board_kind=kind.value,
        model=model.name,
        planner=planner,
        method=method,
        schedule_digest=digest,
        keep=list(plan.schedule.keep) if plan.schedule is not None else None,
        dense_ns=verified.dense.value if verified.dense is not None else expected_dense_ns,
        predicted_ns=expected.predicted_ns if expected is not None else None,
        predicted_low_ns=expected.predicted_low_ns if expected is not None else None,
        predicted_high_ns=expected.predicted_high_ns if expected is not None else None,
        measured_ns=time.value if time is not None else None,
        measured_low_ns=time.low if time is not None else None,
        measured_high_ns=time.high if time is not None else None,
        speedup=verified.dense.value / time.value if time is not None and verified.dense is not None else None,
        top1_dense=_top1(verified.dense_judgement) if labelled else None,
        top1_pruned=_top1(judgement) if labelled else None,
        top1_computed_on=judged.computed_on if judged is not None and labelled else None,
        recommended=False,
        verdict=plan.verdict,
        on=verified.on,
        reduces_by=plan.schedule.method if plan.schedule is not None and method == AUTO else None,
        measure=measure,
        agreement_dense=_agreement(verified.dense_judgement),
        agreement_pruned=_agreement(judgement),
        kl_nats=judgement.kl_nats if judgement is not None else None,
        agreement_computed_on=judged.computed_on if judged is not None else None,
    )


def _judged(row: ReportRow, plan: Plan, verified: _Verified, objective: Objective) -> _Judged:
    accepted, verdict = False, row.verdict
    time = verified.times.get(row.schedule_digest or "")
    if row.schedule_digest in verified.out_of_memory:
        verdict = f"{DO_NOT_PRUNE}the board ran out of memory with this schedule"
    elif time is not None and verified.calls < least_calls(objective.on):
        needed = f"a {objective.on.value} takes {least_calls(objective.on)} calls of each schedule"
        verdict = f"{DO_NOT_PRUNE}{needed}, and the verification made {verified.calls}"
    elif time is not None and verified.dense is not None:
        accepted, verdict = _after_measuring(plan, time, verified.dense, row, objective)
    kept_share = float(np.mean(row.keep)) / plan.schedule.tokens if row.keep and plan.schedule else 1.0
    return _Judged(replace(row, verdict=verdict), accepted, kept_share)


def _after_measuring(
    plan: Plan,
    time: Percentile,
    dense_time: Percentile,
    row: ReportRow,
    objective: Objective,
) -> tuple[bool, str]:
    """Whether the schedule does what was asked, and the verdict."""
    predicted = against_dense(plan.predicted_ns, plan.dense_ns).removesuffix(" than dense")
    on = on_statistic(objective.on)
    figures = f"measured {against_dense(time.value, dense_time.value)}{on} (predicted {predicted})"
    # The interval of a difference, from those of its terms: the ends that face each other.
    gain_half = float(np.hypot(time.high - time.value, dense_time.value - dense_time.low))
    loss_half = float(np.hypot(time.value - time.low, dense_time.high - dense_time.value))
    if time.value - dense_time.value > loss_half:
        return False, f"{DO_NOT_PRUNE}{figures}"
    if dense_time.value - time.value <= gain_half:
        share = 100 * gain_half / dense_time.value
        return False, f"{DO_NOT_PRUNE}no gain beyond the uncertainty of ±{share:.1f} %: {figures}"
    dense_right, right = row.right
    drop = dense_right - right if dense_right is not None and right is not None else None
    if drop is not None:
        name = NAMES[row.measure]
        figures += f"; loses {points(drop)} of {name}" if drop > 0 else f"; {name} {_kept_words(drop)}"
        figures += _expected_words(plan)
        if row.measure is Measure.AGREEMENT and row.kl_nats is not None:
            figures += f" (on images without labels; KL {row.kl_nats:.2g} nats)"
    limit = objective.drop_limit(row.measure)
    if drop is not None and limit is not None and drop > limit + 1e-9:
        return False, f"{DO_NOT_PRUNE}more than the {points(limit)} of {NAMES[row.measure]} that may be lost: {figures}"
    budget_ns = objective.latency_ns if objective.deadline_ns is None else objective.deadline_ns
    if objective.latency_share is not None:
        budget_ns = round(objective.latency_share * dense_time.value)
    # An accuracy limit decides alone where there is one; a deadline holds beside it.
    limited = drop is not None and limit is not None and objective.deadline_ns is None
    # Quiet times repeat to a hundredth, and a hundredth is forgiven; a budget on what calls really take is a promise.
    taken_ns = time.low if objective.on is Statistic.QUIET else time.value
    if not limited and budget_ns is not None and taken_ns > budget_ns:
        over = f"{in_ms(time.value)} measured against a budget of {in_ms(budget_ns)}{on}"
        return False, f"{DO_NOT_PRUNE}it does not meet the budget, {over}: {figures}"
    return True, f"{PRUNE}{figures}"


def _expected_words(plan: Plan) -> str:
    if plan.expected_drop is None:
        return ""
    error = "" if plan.drop_error is None else f" ± {plan.drop_error:.1f}"
    return f", expected to lose {plan.expected_drop:.1f}{error}"


def _kept_words(drop: float) -> str:
    return "unchanged" if drop == 0 else f"{points(-drop)} higher"


def _best(judged: Sequence[_Judged], objective: Objective) -> int | None:
    accepted = [index for index, j in enumerate(judged) if j.accepted]
    if not accepted:
        return None

    def rank(index: int) -> tuple[float, float]:
        row = judged[index].row
        speedup, (top1_dense, top1) = row.speedup or 0.0, row.right
        if objective.utility_alpha is not None and top1 is not None and top1_dense:
            alpha = objective.utility_alpha
            return alpha * (1 - 1 / max(speedup, 1e-9)) + (1 - alpha) * top1 / top1_dense, speedup
        if objective.drop_limit(row.measure) is not None and top1 is not None:
            return speedup, top1
        return (top1 if top1 is not None else judged[index].kept_share), speedup

    return max(accepted, key=rank)


def _top1(judgement: Judgement | None) -> float | None:
    return None if judgement is None else 100.0 * judgement.correct / judgement.images


def _agreement(judgement: Judgement | None) -> float | None:
    return None if judgement is None else 100.0 * judgement.agreeing / judgement.images
