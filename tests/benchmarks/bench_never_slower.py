"""Recommended schedules held against what 200 random virtual boards take without noise: never slower than dense?

Of each board × batch (``random_fleet``) the noisy sweep that a campaign would order is planned on, for each method with
two objectives: the fastest schedule that loses no more than half a point to five of top-1, drawn for the case (losses
of 500 images, made up), and the one that loses least within 60 to 95 % of dense. What a plan is held against is the
board's own noiseless latency and the same losses.
The *best feasible* schedule is found by exact search over true latencies, at every count where the board gets cheaper
by 0.4 % or more, every eighth and those of the plan. Speed-ups are those of plans with a limit of accuracy; who refuses
gets that of dense, 1, so that always refusing would score the mean of one over the best. A refusal is *false* where a
feasible schedule is truly faster by more than the noise: the standard deviation of single calls, and no less than 2 %.
POMT's rule gets the same sweep, its own profile and method, and of all α in steps of 0.05 the fastest (in truth)
that keeps the limit. It knows no refusal but keeping all tokens.
Then all is planned again, as a campaign that is run once more does: knowing what its points were verified to take.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tests.benchmarks.figure import Figure
from tests.benchmarks.random_fleet import METHODS, Case, Truth, judged, random_case, swept

from tailfleet_coordinator.plan.accuracy import AccuracyProfile
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.planner import Plan, PlanInput, make_plan
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_coordinator.plan.rules import input_accuracy, pomt_rule
from tailfleet_coordinator.plan.search import search
from tailfleet_schema.campaign import Objective
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.virtual_board import parse

BOARDS = 200

DROPS = (0.5, 1.0, 2.0, 5.0)
"""Points of top-1."""

SHARES = (0.95, 0.9, 0.8, 0.7, 0.6)
"""Latency budgets, of dense."""

LEAST_NOISE = 0.02

ALPHAS = np.linspace(0.0, 1.0, 21)

SAME = 1e-6

VERIFIED = 3
"""Points of a plan that are measured, as a campaign has it unless told otherwise."""

ERROR = 0.005
"""Standard deviation of a verified share, of itself."""


@dataclass(frozen=True)
class Outcome:
    """One plan beside the truth; times as shares of dense."""

    case: Case
    method: str
    limited: bool
    """By accuracy; else by latency."""
    took: float
    """1 where it refuses."""
    refused: bool
    best: float
    """The fastest that keeps the limit of accuracy; of those within a budget, the fastest of all."""
    allowed: float
    """The budget; 1 for a limit of accuracy."""
    lost: float | None
    """Points beyond the least that any schedule within the budget loses; None: refused, or a limit of accuracy."""
    rule: float | None
    """What POMT's rule takes; None: not asked."""
    again: bool
    """Planned a second time, knowing what was verified of the first plans."""

    @property
    def noise(self) -> float:
        """Share that a difference must exceed."""
        return max(parse(f"x:{self.case.options}").noise, LEAST_NOISE)

    @property
    def slower(self) -> bool:
        """Whether it recommends what is no faster than dense."""
        return not self.refused and self.took >= 1.0 - SAME

    @property
    def could(self) -> bool:
        """Whether a feasible schedule is faster beyond the noise, and within a budget by as much."""
        return self.best < min(1.0, self.allowed) - self.noise


def measure(quick: bool = False) -> list[Figure]:
    """All boards."""
    outcomes = []
    for number in range(12 if quick else BOARDS):
        case = random_case(random.Random(f"never slower {number}"), number, depths=(12,), sides=(14,))
        outcomes += outcomes_of(case)
    for one in outcomes:
        if one.slower or (one.refused and one.could):
            what = "refused" if one.refused else f"took {one.took:.3f}"
            print(f"  {one.case.name}, {one.method}: {what} of dense, the best {one.best:.3f}", flush=True)
    return figures_of(outcomes)


def outcomes_of(case: Case) -> list[Outcome]:
    """Of every method and both objectives."""
    rng = random.Random(f"objectives {case.seed}")
    drop, share = rng.choice(DROPS), rng.choice(SHARES)
    # All plans are of one reading, as all of a campaign are.
    reading, profile = Reading.of(case.model.geometry, swept(case)), judged(case)
    return [one for method in METHODS for one in _of_method(case, method, reading, profile, drop, share)]


def _of_method(
    case: Case, method: str, reading: Reading, results: list[UnitResult], drop: float, share: float
) -> list[Outcome]:
    mine = [r for r in results if r.unit.label in (method, "")]
    text = reading.dumps()

    def planned(seen: list[Verified]) -> list[Plan]:
        return [
            make_plan(
                PlanInput(
                    case.model, method, "optimal", objective, [], mine, case.batch, text,
                    verified=seen, verify=VERIFIED,
                )
            )
            for objective in (Objective(max_accuracy_drop=drop), Objective(latency_share=share))
        ]  # fmt: skip

    profile = AccuracyProfile.fit(case.model.geometry, method, mine)
    truth = Truth(case, method, profile)
    first = planned([])
    again = planned(_verified(first, truth, random.Random(f"verified {case.seed} {method}")))
    used = {n for plan in [*first, *again] if plan.schedule is not None for n in plan.schedule.keep}
    front = search(truth.problem([*truth.worthwhile(), *used]), truth.dense_ns * (1 + SAME))
    times, losses = front.latency_ns / truth.dense_ns, front.loss * profile.unit
    fastest = float(times[losses <= drop + 1e-9].min())
    within = losses[times <= share * (1 + SAME)]
    best = float(times.min())
    rule = _rule(case, method, reading, mine, truth, drop) if method == "pomt" else None
    found = []
    for later, (limited, budgeted) in ((False, first), (True, again)):
        took, lost = _took(budgeted, truth), None
        if budgeted.schedule is not None and took <= share and len(within):
            lost = truth.loss(budgeted.schedule) - float(within.min())
        found += [
            Outcome(
                case, method, True, _took(limited, truth), limited.schedule is None, fastest, 1.0, None, rule, later
            ),
            Outcome(case, method, False, took, budgeted.schedule is None, best, share, lost, None, later),
        ]
    return found


def _verified(plans: Sequence[Plan], truth: Truth, rng: random.Random) -> list[Verified]:
    """The points of ``plans`` as the board measures them."""
    found = []
    for plan in plans:
        for one in [*([plan.schedule] if plan.schedule else []), *(other.schedule for other in plan.contenders)]:
            share = truth.schedule_ns(one) / truth.dense_ns
            found.append(Verified(one, share * (1 + ERROR * rng.gauss(0, 1)), 2 * ERROR * share))
    return found


def _took(plan: Plan, truth: Truth) -> float:
    return 1.0 if plan.schedule is None else truth.schedule_ns(plan.schedule) / truth.dense_ns


def _rule(case: Case, method: str, reading: Reading, results: list[UnitResult], truth: Truth, drop: float) -> float:
    """The fastest that POMT's rule comes to by any α, within the limit."""
    timed = anchors(case.model.name, case.model.geometry, METHODS)
    curve = LatencyModel.fit(case.model.geometry, reading.points, anchors=timed, every=reading.whole).curve
    found = [pomt_rule(case.model, method, curve, input_accuracy(results), float(alpha)) for alpha in ALPHAS]
    kept = {schedule.digest: schedule for schedule in found if truth.loss(schedule) <= drop + 1e-9}
    # No α keeps the limit: nothing is pruned.
    return min((truth.schedule_ns(schedule) / truth.dense_ns for schedule in kept.values()), default=1.0)


@dataclass(frozen=True)
class Score:
    """What first plans and second ones are both judged by, in percent but for the first and the last."""

    made: int
    """Recommended ones."""
    slower: float
    """Than dense."""
    speedup: float
    """Of the best feasible one's, where one is faster beyond the noise."""
    refused: float
    """Of those that could gain."""
    over: float
    """The budget by more than 1 %."""
    lost: float
    """Points beyond the least possible."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Score":
        """Of plans of one kind."""
        made = [one for one in outcomes if not one.refused]
        return cls(
            len(made),
            100 * _mean([one.slower for one in made]),
            100 * _mean([one.best / one.took for one in outcomes if one.limited and one.could]),
            100 * _mean([one.refused for one in outcomes if one.could]),
            100 * _mean([one.took > one.allowed * 1.01 for one in made if not one.limited]),
            _mean([one.lost for one in outcomes if one.lost is not None]),
        )


def figures_of(outcomes: Sequence[Outcome]) -> list[Figure]:
    """What first plans are judged by, and what second ones are."""
    outcomes, later = ([one for one in outcomes if one.again is again] for again in (False, True))
    first, second = Score.of(outcomes), Score.of(later)
    limited = [one for one in outcomes if one.limited]
    gains = [one for one in limited if one.could]
    ruled = [one for one in limited if one.rule is not None]
    words = "planned again, knowing what was verified"
    return [
        Figure(
            f"{first.made} recommended of {len(outcomes)} plans, slower than dense in truth",
            first.slower, "%", 0.0,
        ),
        Figure(
            f"{len(limited)} plans with a limit of accuracy: true speed-up, of the best feasible one's",
            100 * _mean([one.best / one.took for one in limited]), "%", 95.0, "max",
        ),
        Figure(
            f"the same of the {len(gains)} where one is faster beyond the noise",
            first.speedup, "%", 95.0, "max",
        ),
        Figure(
            "the same, had nothing ever been pruned", 100 * _mean([one.best for one in gains]), "%"
        ),
        Figure(
            f"{len(outcomes) - first.made} refusals: false ones, of all plans that could gain",
            first.refused, "%", 2.0,
        ),
        Figure(
            f"{len(outcomes) - len(limited)} plans with a latency budget: over it in truth by more than 1 %",
            first.over, "%",
        ),
        Figure("points lost beyond the least possible within the budget, mean", first.lost, "points"),
        Figure(
            "latency saved over POMT's rule with its best α, mean",
            100 * _mean([1.0 - one.took / one.rule for one in ruled if one.rule is not None]), "%",
        ),
        Figure(
            "POMT's rule with its best α: slower than dense in truth",
            100 * _mean([one.rule > 1.0 + SAME for one in ruled if one.rule is not None]), "%",
        ),
        Figure(
            "POMT's rule with its best α: true speed-up, of the best feasible one's",
            100 * _mean([one.best / one.rule for one in ruled if one.rule is not None]), "%",
        ),
        Figure(f"{words}: {second.made} recommended, slower than dense in truth", second.slower, "%", 0.0),
        Figure(f"{words}: true speed-up, of the best feasible one's", second.speedup, "%"),
        Figure(f"{words}: false refusals", second.refused, "%", 2.0),
        Figure(f"{words}: over the budget in truth by more than 1 %", second.over, "%"),
        Figure(f"{words}: points lost beyond the least possible within the budget, mean", second.lost, "points"),
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
