"""One plan: for one model, board, method and objective, which tokens to drop where, or why to drop none.

Puts the parts together: latency model, loss models, the candidates of a search, of a published knob or of several
methods that compete, and the choice by objective. Left to others: measuring what goes in, and judging on the board what
comes out (``outcome``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tailfleet_coordinator.plan import choice
from tailfleet_coordinator.plan.accuracy import AccuracyProfile, LossModel, TokenWork
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.baselines import knob
from tailfleet_coordinator.plan.candidates import Candidates, drawn, merged, searched, swept
from tailfleet_coordinator.plan.composition import Composition, composed
from tailfleet_coordinator.plan.decision import Contender, Plan, PlanInput
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.prediction import Prediction
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_coordinator.plan.refine import Searched, refined
from tailfleet_coordinator.plan.rules import ALPHA, input_accuracy, pomt_rule
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.verdict import (
    DO_NOT_PRUNE,
    NAMES,
    PREDICTED_ONLY,
    against_dense,
    in_ms,
    listed,
    on_statistic,
    points,
)
from tailfleet_coordinator.plan.wholes import whole_schedules
from tailfleet_schema.campaign import AUTO, BASELINES, PLANNERS, FrontPoint, Measure
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

Losses = AccuracyProfile | Composition

__all__ = ["Plan", "PlanInput", "make_plan", "make_plans"]


@dataclass(frozen=True)
class _Frame:
    """What all methods are judged by."""

    given: PlanInput
    latency: LatencyModel
    profiles: Mapping[str, Losses]
    counts: list[int]
    predictions: dict[str, Prediction] = field(default_factory=dict)
    """So far."""

    @property
    def dense(self) -> Prediction:
        return self.latency.dense

    @property
    def measure(self) -> Measure:
        """What is lost."""
        if not self.profiles:
            return Measure.WORK
        return Measure.TOP1 if self.given.labelled else Measure.AGREEMENT

    def loss(self, method: str) -> LossModel:
        return self.profiles.get(method, TokenWork(self.given.model.geometry))

    def predict(self, schedule: Schedule) -> Prediction:
        """Of a schedule that may have been looked at before."""
        key = f"{schedule.method} {schedule.keep} {schedule.restore_before} {schedule.parameters}"
        if key not in self.predictions:
            self.predictions[key] = self.latency.predict(schedule)
        return self.predictions[key]

    def untimed(self, method: str) -> str | None:
        """Why the method cannot be planned; None where it can."""
        if method in self.latency.overheads:
            return None
        return f"the board could not time {method}, so what it would cost is not known"


def make_plans(inputs: Iterable[PlanInput]) -> list[Plan]:
    """One plan for each. What boards have in common, the accuracy of a model, is fitted once where their inputs hold
    the very same ``profile``. Raises as :func:`make_plan` does."""
    known: dict[tuple[int, str, str, str], dict[str, Losses]] = {}
    plans = []
    for given in inputs:
        key = id(given.profile), given.planner, given.model.name, " ".join([given.method, *given.competing])
        if key not in known:
            _check(given)
            known[key] = _profiles(given)
        plans.append(make_plan(given, known[key]))
    return plans


def make_plan(given: PlanInput, profiles: Mapping[str, Losses] | None = None) -> Plan:
    """The plan for ``given``. ``profiles`` are those of ``given.profile`` by method, for who has them already.

    Raises ``InputError`` for a sweep that lacks a part, for a model with images but no profile, for an unknown
    planner or one of another method, and for ``auto`` without methods. A sweep of too few calls for the objective's
    statistic is a reason not to prune.
    """
    _check(given)
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
    timed = sorted({p.unit.label for p in reading.points if p.unit.part is Part.REDUCE})
    anchored = anchors(given.model.name, given.model.geometry, timed)
    fitted = LatencyModel.fit(given.model.geometry, reading.points, spread, anchored, reading.whole)
    latency, counts = fitted.corrected(given.verified), sorted({*reading.candidates, *spread.tops})
    methods = _methods(given)
    frame = _Frame(given, latency, _profiles(given) if profiles is None else profiles, counts)
    untimed = [reason for reason in map(frame.untimed, methods) if reason is not None]
    if few is not None:
        # Its figures are quiet ones, and say so.
        plan = _refusal(latency.dense, few)
    elif len(untimed) == len(methods):
        plan = _refusal(latency.dense, untimed[0])
    elif given.planner == "pomt-rule":
        plan = _by_rule(frame)
    elif given.planner in BASELINES:
        plan = _by_knob(frame)
    elif given.method == AUTO:
        plan = _by_competition(frame, methods)
    else:
        plan = _chosen(frame, _searched(frame, given.method), given.method)
    plan = replace(plan, on=spread.on)
    if not reading.unstable:
        return plan
    return replace(plan, verdict=f"{plan.verdict} (the sweep is unstable: {reading.unstable})")


def _check(given: PlanInput) -> None:
    if given.planner not in PLANNERS:
        raise InputError(f"unknown planner {given.planner!r}; known: {', '.join(PLANNERS)}")
    if given.method == AUTO and (given.planner != "optimal" or not given.competing):
        raise InputError("methods compete under the planner optimal, and two or more must be named")


def _methods(given: PlanInput) -> list[str]:
    return given.competing if given.method == AUTO else [given.method]


def _profiles(given: PlanInput) -> dict[str, Losses]:
    found: dict[str, Losses] = {}
    for method in _methods(given):
        if any(r.unit.part is Part.LOSS and r.unit.label == method for r in given.profile):
            single = AccuracyProfile.fit(given.model.geometry, method, given.profile)
            found[method] = composed(single, given.model.geometry, whole_schedules(given.model, method), given.profile)
        elif given.model.dataset is not None and given.planner != "pomt-rule":
            raise InputError(f"{given.model.name} has images, but no accuracy profile of {method} was given")
    return found


def _by_knob(frame: _Frame) -> Plan:
    given = frame.given
    positions = knob(given.planner, given.model, frame.latency.curve, input_accuracy(given.profile))
    if positions.refusal is not None:
        return _refusal(frame.dense, positions.refusal)
    own = swept(positions.settings, frame.latency, frame.loss(given.method))
    return _chosen(frame, own, positions.words)


def _searched(frame: _Frame, method: str) -> Candidates:
    """The front of one method at the candidate counts, and at all counts around what the objective takes of it."""
    given, latency, loss = frame.given, frame.latency, frame.loss(method)
    own = searched(given.model, method, latency, loss, frame.counts)
    if given.objective.front:
        # All of it is wanted, and no point more than another.
        return own
    options = _options(frame, own, method)
    chosen = choice.choose(options, given.objective).point
    if chosen is None:
        return own
    return refined(own, chosen, Searched(given.model, method, latency, loss, frame.counts))


def _by_competition(frame: _Frame, methods: Sequence[str]) -> Plan:
    """The best of all methods; its verdict says what the others would have come to."""
    fronts = {method: _searched(frame, method) for method in methods if frame.untimed(method) is None}
    plan = _chosen(frame, merged(list(fronts.values()), frame.dense.ns), listed(list(fronts), "or"))
    others = [
        _beside(frame, method, fronts.get(method))
        for method in methods
        if plan.schedule is None or method != plan.schedule.method
    ]
    if plan.schedule is None:
        return replace(plan, verdict=f"{plan.verdict} (compared: {listed(methods, 'and')})")
    ahead = f"{plan.schedule.method} suits best" + (f" ({'; '.join(others)})" if others else "")
    second = _second(frame, {method: own for method, own in fronts.items() if method != plan.schedule.method})
    known = {plan.schedule.digest, *(one.schedule.digest for one in plan.contenders)}
    further = [one for one in second if one.schedule.digest not in known]
    return replace(plan, verdict=f"{plan.verdict}; {ahead}", contenders=[*plan.contenders, *further])


def _second(frame: _Frame, others: Mapping[str, Candidates]) -> list[Contender]:
    """What the objective takes of the methods that did not win: losses of two methods are seldom so far apart that
    calibration images tell which is less, and what the board measures of both does."""
    objective = frame.given.objective
    if objective.front or frame.given.verify < 2 or not others:
        return []
    own = merged(list(others.values()), frame.dense.ns)
    chosen = choice.choose(_options(frame, own, listed(list(others), "or")), objective)
    return [] if chosen.point is None or chosen.refusal is not None else [_contender(frame, own, chosen.point)]


def _beside(frame: _Frame, method: str, own: Candidates | None) -> str:
    """What a method that did not win would have come to."""
    if own is None:
        return f"{method}: not timed"
    options = _options(frame, own, method)
    chosen = choice.choose(options, frame.given.objective)
    if chosen.refusal is not None or chosen.point is None:
        return f"{method}: nothing that does"
    loss = float(own.loss[chosen.point])
    lost = f"may lose {points(loss)}" if frame.profiles else f"leaves out {loss:.0f} % of the work"
    return f"{method}: {in_ms(options.predict(chosen.point).ns)}, {lost}"


def _options(frame: _Frame, own: Candidates, words: str) -> choice.Options:
    # One data set judges all methods: their dense models are one.
    dense_top1 = next((profile.dense_top1 for profile in frame.profiles.values()), None)
    return choice.Options(
        method=words,
        latency_ns=own.latency_ns,
        loss=own.loss,
        dense=frame.dense,
        dense_top1=dense_top1,
        predict=lambda point: frame.predict(own.schedule(point)),
        on=frame.latency.spread.on,
        measure=frame.measure,
    )


def _chosen(frame: _Frame, own: Candidates, words: str) -> Plan:
    """What the objective takes of ``own``. Dense itself may be on the front, at loss 0; only faster points are worth a
    look."""
    dense, objective = frame.dense, frame.given.objective
    options = _options(frame, own, words)
    chosen = choice.choose(options, objective)
    shown = drawn(own, chosen.point)
    if chosen.refusal is not None:
        return _refusal(dense, chosen.refusal, None if chosen.point is None else options.predict(chosen.point), shown)
    assert chosen.point is not None
    further = choice.contenders(options, objective, chosen.point, frame.given.verify - 1)
    plan = _accepted(frame, own, chosen.point, shown)
    return replace(plan, contenders=[_contender(frame, own, point) for point in further])


def _contender(frame: _Frame, own: Candidates, point: int) -> Contender:
    plan = _accepted(frame, own, point, [])
    low_ns, high_ns = plan.predicted_low_ns, plan.predicted_high_ns
    return Contender(
        own.schedule(point), plan.predicted_ns, low_ns, high_ns, plan.expected_drop, plan.verdict, plan.drop_error
    )


def _by_rule(frame: _Frame) -> Plan:
    given, latency = frame.given, frame.latency
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
    alone = Candidates(lambda _: schedule, np.array([prediction.ns]), np.zeros(1), {})
    plan = _accepted(frame, alone, 0, [])
    return replace(plan, verdict=plan.verdict + "; the rule knows no limits, so none was kept")


def _accepted(frame: _Frame, own: Candidates, point: int, front: list[FrontPoint]) -> Plan:
    schedule = own.schedule(point)
    prediction, profile = frame.predict(schedule), frame.profiles.get(schedule.method)
    return Plan(
        schedule,
        frame.dense.ns,
        prediction.ns,
        prediction.low_ns,
        prediction.high_ns,
        profile.expected_drop(schedule) if profile is not None else None,
        PREDICTED_ONLY + _figures(frame, schedule, prediction, _setting(own, schedule)),
        front,
        drop_error=None if profile is None or profile.held_out is None else profile.held_out.error,
    )


def _setting(own: Candidates, schedule: Schedule) -> str | None:
    """Of the knob that gave ``schedule``; a search has none."""
    return own.knobs.get(schedule.digest) if own.knobs else None


def _refusal(
    dense: Prediction, reason: str, considered: Prediction | None = None, front: Sequence[FrontPoint] = ()
) -> Plan:
    seen = considered or dense
    return Plan(None, dense.ns, seen.ns, seen.low_ns, seen.high_ns, None, DO_NOT_PRUNE + reason, list(front))


def _figures(frame: _Frame, schedule: Schedule, prediction: Prediction, setting: str | None) -> str:
    dense_ns, profile = frame.dense.ns, frame.profiles.get(schedule.method)
    words = "" if setting is None else f"{setting}: "
    words += f"{in_ms(prediction.ns)} against {in_ms(dense_ns)}, {against_dense(prediction.ns, dense_ns)}"
    words += on_statistic(frame.latency.spread.on)
    if profile is None:
        needed = "a profile" if frame.given.model.dataset is not None else "labelled images"
        words += f"; its loss of accuracy is not known without {needed}"
    else:
        words += f"; expected to lose {points(profile.expected_drop(schedule))} of {NAMES[frame.measure]}"
        words += f" on {profile.images} calibration images" + ("" if frame.given.labelled else ", which have no labels")
        if not profile.reaches(schedule):
            words += " (beyond profiled blocks or counts)"
        elif profile.is_interpolated(schedule):
            words += " (interpolated between profiled blocks and counts)"
        if profile.held_out is not None:
            words += f" (such figures err by ±{points(profile.held_out.error)} on"
            words += f" {profile.held_out.schedules} random schedules that they were not fitted to)"
    if prediction.extrapolated:
        words += "; beyond what was timed"
    elif prediction.inferred:
        words += "; between counts that were timed"
    return words
