"""One plan: for one model, board, method and objective, which tokens to drop where, or why to drop none.

Puts the parts together: latency model, loss model, candidate counts, exact search or the published rule, and the choice
by objective. Left to others: measuring what goes in, and judging on the board what comes out (``outcome``).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from tailfleet_coordinator.plan import choice
from tailfleet_coordinator.plan.accuracy import AccuracyProfile, LossModel, TokenWork
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.prediction import Prediction
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_coordinator.plan.rules import ALPHA, input_accuracy, pomt_rule
from tailfleet_coordinator.plan.search import Problem, search, undominated
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.verdict import DO_NOT_PRUNE, PREDICTED_ONLY, against_dense, in_ms, on_statistic, points
from tailfleet_schema.campaign import FrontPoint, Objective, Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import ModelSpec

MOST_FRONT_POINTS = 32
"""Kept of a front for people to look at, both ends among them."""

REDUCES_ONCE: frozenset[str] = frozenset()
"""Methods that may reduce at one block alone. POMT is published with one block; nothing in it forbids several."""


_Floats = np.typing.NDArray[np.float64]


@dataclass(frozen=True)
class PlanInput:
    """Everything a plan follows from; the same input gives the same plan."""

    model: ModelSpec
    method: str
    planner: str
    """``optimal`` or ``pomt-rule``."""
    objective: Objective
    sweep: list[UnitResult]
    """All results of one sweep of this model on the board."""
    profile: list[UnitResult]
    """LOSS results of the method, for ``pomt-rule`` INPUT results besides; empty where there are no images."""
    batch: int = 1
    reading: str | None = None
    """The text of a ``Reading`` of the sweep, where one is stored; ``sweep`` is then looked at for a tail alone."""


@dataclass(frozen=True)
class Plan:
    """What to do, and what to expect of it. Times are those of one call, ``on`` the objective's statistic."""

    schedule: Schedule | None
    """None: do not prune."""
    dense_ns: float
    predicted_ns: float
    """Of ``schedule``; of the best that was considered, or of dense, where it is None."""
    predicted_low_ns: float
    predicted_high_ns: float
    expected_drop: float | None
    """Points of top-1 on calibration images, a best guess; None where there is no profile or no schedule."""
    verdict: str
    front: list[FrontPoint] = field(default_factory=list)
    on: Statistic = Statistic.QUIET


def make_plans(inputs: Iterable[PlanInput]) -> list[Plan]:
    """One plan for each. What boards have in common, the accuracy of a model, is fitted once where their inputs hold
    the very same ``profile``. Raises as :func:`make_plan` does."""
    profiles: dict[tuple[int, str, str], AccuracyProfile | None] = {}
    plans = []
    for given in inputs:
        key = id(given.profile), given.method, given.model.name
        if key not in profiles:
            profiles[key] = _profile(given)
        plans.append(make_plan(given, profiles[key]))
    return plans


def make_plan(given: PlanInput, profile: AccuracyProfile | None = None) -> Plan:
    """The plan for ``given``. ``profile`` is that of ``given.profile``, for who has it already.

    Raises ``InputError`` for a sweep that lacks a part, for a model with images but no profile, and for an
    unknown planner. A sweep of too few calls for the objective's statistic is a reason not to prune.
    """
    if given.planner not in ("optimal", "pomt-rule"):
        raise InputError(f"unknown planner {given.planner!r}; known: optimal, pomt-rule")
    if given.reading is None:
        reading = Reading.of(given.model.geometry, given.sweep)
    else:
        reading = Reading.loads(given.reading)
    on = given.objective.on
    few: str | None = None
    try:
        spread = Spread.fit(given.sweep, given.model.geometry.tokens, on)
    except InputError as error:
        spread, few = Spread.quiet(given.model.geometry.tokens), error.sentence
    methods = sorted({p.unit.label for p in reading.points if p.unit.part is Part.REDUCE})
    timed = anchors(given.model.name, given.model.geometry, methods)
    latency = LatencyModel.fit(given.model.geometry, reading.points, spread, timed, reading.whole)
    profile = _profile(given) if profile is None else profile
    if few is not None:
        # Its figures are quiet ones, and say so.
        plan = _refusal(latency.dense, few)
    elif given.method not in latency.overheads:
        plan = _refusal(latency.dense, f"the board could not time {given.method}, so what it would cost is not known")
    elif given.planner == "pomt-rule":
        plan = _by_rule(given, latency, profile)
    else:
        plan = _by_search(given, latency, profile, sorted({*reading.candidates, *spread.tops}))
    plan = replace(plan, on=spread.on)
    if not reading.unstable:
        return plan
    return replace(plan, verdict=f"{plan.verdict} (the sweep is unstable: {reading.unstable})")


def _profile(given: PlanInput) -> AccuracyProfile | None:
    if any(r.unit.part is Part.LOSS and r.unit.label == given.method for r in given.profile):
        return AccuracyProfile.fit(given.model.geometry, given.method, given.profile)
    if given.model.dataset is not None and given.planner == "optimal":
        raise InputError(f"{given.model.name} has labelled images, but no accuracy profile of {given.method} was given")
    return None


def _by_search(given: PlanInput, latency: LatencyModel, profile: AccuracyProfile | None, counts: list[int]) -> Plan:
    loss: LossModel = profile if profile is not None else TokenWork(given.model.geometry)
    dense = latency.dense
    front = search(_problem(given, latency, loss, counts), within_ns=dense.ns * (1 + 1e-9))
    geometry = given.model.geometry

    def kept(point: int) -> list[int]:
        return front.keep(int(on_front[point]))

    @cache
    def scheduled(point: int) -> Schedule:
        return Schedule(given.method, given.model.name, geometry.tokens, geometry.prefix, kept(point))

    @cache
    def predicted(point: int) -> Prediction:
        return latency.predict(scheduled(point))

    on_front = np.arange(len(front))
    latency_ns, losses = front.latency_ns, front.loss * loss.unit
    if not latency.adds_up(given.method):
        # The search added up; what tails or blocks that differ come to is another figure, and with it another front.
        mixed_ns = np.array([latency.predict(scheduled(point)).ns for point in range(len(front))])
        on_front = undominated(mixed_ns, losses)
        on_front = on_front[mixed_ns[on_front] <= dense.ns * (1 + 1e-9)]
        latency_ns, losses = mixed_ns[on_front], losses[on_front]
        scheduled.cache_clear()
    # Dense itself is on the front, at loss 0; only faster points are worth a look.
    options = choice.Options(
        method=given.method,
        latency_ns=latency_ns,
        loss=losses,
        dense=dense,
        dense_top1=profile.dense_top1 if profile is not None else None,
        predict=predicted,
        on=latency.spread.on,
    )
    chosen = choice.choose(options, given.objective)
    shown = _thinned(kept, latency_ns, losses, chosen.point)
    if chosen.refusal is not None:
        seen = dense if chosen.point is None else options.predict(chosen.point)
        return Plan(None, dense.ns, seen.ns, seen.low_ns, seen.high_ns, None, DO_NOT_PRUNE + chosen.refusal, shown)
    assert chosen.point is not None
    schedule = scheduled(chosen.point)
    prediction = options.predict(chosen.point)
    has_images = given.model.dataset is not None
    return _accepted(
        schedule, prediction, dense, profile, _figures(schedule, prediction, latency, profile, has_images), shown
    )


def _problem(given: PlanInput, latency: LatencyModel, loss: LossModel, counts: list[int]) -> Problem:
    geometry = given.model.geometry
    known = sorted({n for n in counts if n > geometry.prefix} | {geometry.tokens}, reverse=True)
    least = [smallest_reachable(given.method, n, geometry.prefix) for n in known]
    n = np.array(known)
    reachable = (n[None, :] >= np.array(least)[:, None]) | np.eye(len(known), dtype=bool)  # (K, K)
    block_ns = np.where(reachable, latency.blocks_ns(given.method, known), np.inf)
    block_loss = np.where(reachable, loss.steps_units(geometry.depth, known), np.inf)
    return Problem(tuple(known), latency.fixed_ns, block_ns, block_loss, given.method in REDUCES_ONCE)


def _by_rule(given: PlanInput, latency: LatencyModel, profile: AccuracyProfile | None) -> Plan:
    accuracy = input_accuracy(given.profile)
    if not accuracy:
        return _refusal(latency.dense, "POMT's rule needs labelled images, and there are none")
    alpha = ALPHA if given.objective.utility_alpha is None else given.objective.utility_alpha
    schedule = pomt_rule(given.model, given.method, latency.curve, accuracy, alpha)
    if schedule.is_dense:
        return _refusal(latency.dense, "POMT's rule finds the utility of all tokens the highest")
    prediction = latency.predict(schedule)
    if not choice.beats(prediction, latency.dense):
        wish = f"POMT's rule would keep {schedule.keep[-1]} tokens from block {schedule.reducing_blocks[0]} on"
        reason = f"{wish}, but that is {choice.no_gain(prediction, latency.dense, latency.spread.on)}"
        return _refusal(latency.dense, reason, prediction)
    words = (
        _figures(schedule, prediction, latency, profile, has_images=True)
        + "; the rule knows no limits, so none was kept"
    )
    return _accepted(schedule, prediction, latency.dense, profile, words, [])


def _accepted(
    schedule: Schedule,
    prediction: Prediction,
    dense: Prediction,
    profile: AccuracyProfile | None,
    words: str,
    front: list[FrontPoint],
) -> Plan:
    return Plan(
        schedule,
        dense.ns,
        prediction.ns,
        prediction.low_ns,
        prediction.high_ns,
        profile.expected_drop(schedule) if profile is not None else None,
        PREDICTED_ONLY + words,
        front,
    )


def _refusal(dense: Prediction, reason: str, considered: Prediction | None = None) -> Plan:
    seen = considered or dense
    return Plan(None, dense.ns, seen.ns, seen.low_ns, seen.high_ns, None, DO_NOT_PRUNE + reason)


def _figures(
    schedule: Schedule, prediction: Prediction, latency: LatencyModel, profile: AccuracyProfile | None, has_images: bool
) -> str:
    dense_ns = latency.dense.ns
    words = f"{in_ms(prediction.ns)} against {in_ms(dense_ns)}, {against_dense(prediction.ns, dense_ns)}"
    words += on_statistic(latency.spread.on)
    if profile is None:
        words += "; its loss of accuracy is not known without " + ("a profile" if has_images else "labelled images")
    else:
        words += f"; expected to lose {points(profile.expected_drop(schedule))} of top-1"
        words += f" on {profile.images} calibration images"
        if profile.is_interpolated(schedule):
            words += " (interpolated between profiled blocks and counts)"
    if prediction.extrapolated:
        words += "; beyond what was timed"
    elif prediction.inferred:
        words += "; between counts that were timed"
    return words


def _thinned(
    kept: Callable[[int], list[int]], latency_ns: _Floats, losses: _Floats, chosen: int | None
) -> list[FrontPoint]:
    """Up to ``MOST_FRONT_POINTS`` of the front, evenly spaced in latency, the chosen one and both ends among them."""
    size = len(latency_ns)
    if size > MOST_FRONT_POINTS:
        wanted = np.linspace(latency_ns[0], latency_ns[-1], MOST_FRONT_POINTS - 1)
        picked = {int(np.argmin(np.abs(latency_ns - ns))) for ns in wanted} | {0, size - 1}
    else:
        picked = set(range(size))
    if chosen is not None:
        picked.add(chosen)
    return [FrontPoint(float(latency_ns[i]), float(losses[i]), kept(i)) for i in sorted(picked)]
