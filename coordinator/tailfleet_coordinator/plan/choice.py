"""Which point of a front to take for an objective, or in words with figures why none.

*Do not prune* is always a candidate: it wins wherever the best that the objective allows is not predicted to beat the
dense model by more than the two intervals together. Left to others: finding the front.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.prediction import Doubt, Prediction
from tailfleet_coordinator.plan.verdict import NAMES, against_dense, in_ms, on_statistic, points
from tailfleet_schema.campaign import Measure, Objective, Statistic

MISSED = 0.1
"""Of a latency budget: further points of a front are looked for down to so much below it."""


@dataclass(frozen=True)
class Options:
    """A front, by rising latency and falling loss, and what it is compared with."""

    method: str
    latency_ns: NDArray[np.float64]
    loss: NDArray[np.float64]
    """As ``measure`` has it."""
    dense: Prediction
    dense_top1: float | None
    """Percent of calibration images that the dense model is right on, all where they have no labels; None: the model
    has no images."""
    predict: Callable[[int], Prediction]
    """The prediction, with its interval, of a point of the front."""
    on: Statistic = Statistic.QUIET
    """What all latencies here are on; for the words alone."""
    measure: Measure = Measure.TOP1
    """What points lose; without ``dense_top1`` it is work."""


@dataclass(frozen=True)
class Choice:
    """A point of the front; with ``refusal`` the best that was considered (or None), and why it is not taken."""

    point: int | None
    refusal: str | None = None


def choose(options: Options, objective: Objective) -> Choice:
    """The point that ``objective`` (see there) asks for.

    A latency budget is kept beyond the prediction's uncertainty where any point does, else by the prediction itself.
    """
    judged = options.dense_top1 is not None
    budget = _budget(objective, options.dense)
    if objective.front:
        gentlest = _gentlest(options)
        if gentlest is not None:
            return Choice(gentlest)
        is_idle = not len(options.latency_ns) or options.latency_ns[0] >= options.dense.ns * (1 - 1e-9)
        return Choice(None, _idle(options)) if is_idle else _unless_dense(options, 0)
    if objective.utility_alpha is not None:
        if not judged:
            return Choice(None, "a utility weighs accuracy, and there are no labelled images: give a latency budget")
        return _unless_dense(options, _by_utility(options, objective.utility_alpha))
    if objective.deadline_ns is not None:
        return _most_throughput(options, objective)
    if objective.max_accuracy_drop is not None and _is_by_loss(options, objective):
        return _fastest(options, objective.max_accuracy_drop)
    if budget is None:
        return Choice(
            None, "an accuracy limit cannot be checked, as there are no labelled images: give a latency budget"
        )
    return _least_loss(options, budget)


def contenders(options: Options, objective: Objective, chosen: int, most: int) -> list[int]:
    """Up to ``most`` further points that are worth measuring beside the ``chosen`` one, each once.

    Of the whole front those spread evenly over its latencies from the chosen one on. Else what a tighter objective
    would choose: where the board takes or loses more than predicted, one of them may still do what was asked. From the
    second on, under a latency budget, also the point that loses least if predictions are right: the chosen one may have
    been taken for being sure, and the measurement will tell.
    """
    if objective.front:
        slowest, fastest = float(options.latency_ns[chosen]), float(options.latency_ns[0])
        wanted = np.linspace(slowest, fastest, most + 1, endpoint=False)[1:]
        points = [int(np.argmin(np.abs(options.latency_ns - ns))) for ns in wanted]
    else:
        chosen_too = [choose(options, _tightened(objective, step / (most + 1))) for step in range(1, most + 1)]
        points = [one.point for one in chosen_too if one.point is not None and one.refusal is None]
        budget = None if _is_by_loss(options, objective) else _budget(objective, options.dense)
        if budget is not None and objective.utility_alpha is None:
            points[1:1] = np.flatnonzero(options.latency_ns <= budget.ns)[-1:].tolist()
    return [point for point in dict.fromkeys(points) if point != chosen][:most]


def _is_by_loss(options: Options, objective: Objective) -> bool:
    """Whether ``objective`` asks for the fastest that loses no more than it says."""
    return options.dense_top1 is not None and objective.drop_limit(options.measure) is not None


def _tightened(objective: Objective, by: float) -> Objective:
    """``objective``, ``by`` a share (0 to 1) of the way to where nothing may be lost, or of the usual error in time."""
    drop, share, ns = objective.max_accuracy_drop, objective.latency_share, objective.latency_ns
    alpha = objective.utility_alpha
    return replace(
        objective,
        max_accuracy_drop=None if drop is None else drop * (1 - by),
        latency_share=None if share is None else share * (1 - MISSED * by),
        latency_ns=None if ns is None else max(1, round(ns * (1 - MISSED * by))),
        utility_alpha=None if alpha is None else alpha * (1 - by / 2),
    )


def _gentlest(options: Options) -> int | None:
    """The point of least loss that beats dense beyond the intervals."""
    faster = (int(i) for i in np.flatnonzero(options.latency_ns < options.dense.ns)[::-1])
    return next((point for point in faster if beats(options.predict(point), options.dense)), None)


def beats(prediction: Prediction, dense: Prediction) -> bool:
    """Whether ``prediction`` is below ``dense`` by more than both intervals together."""
    return bool(dense.ns - prediction.ns > prediction.margin_ns(dense))


def no_gain(prediction: Prediction, dense: Prediction, on: Statistic) -> str:
    """Why a prediction does not beat dense: "predicted at … against … dense on quiet: …"."""
    figures = f"predicted at {in_ms(prediction.ns)} against {in_ms(dense.ns)} dense{on_statistic(on)}"
    if prediction.ns >= dense.ns:
        return figures + ": scoring costs more than fewer tokens save"
    return figures + f": the gain is within the uncertainty of ±{in_ms(prediction.margin_ns(dense))}"


def _budget(objective: Objective, dense: Prediction) -> Prediction | None:
    """The budget as if it were a prediction: a share of dense is as uncertain as what it has in common with it."""
    if objective.latency_share is not None:
        share = objective.latency_share
        fall, rise = (tuple(share * ns for ns in ends) for ends in (dense.fall_ns, dense.rise_ns))
        return Prediction(share * dense.ns, dense.doubt.times(share), False, False, fall, rise)
    if objective.latency_ns is None:
        return None
    sure = tuple(0.0 for _ in dense.fall_ns)
    return Prediction(float(objective.latency_ns), Doubt(), False, False, sure, sure)


def _fastest(options: Options, most_drop: float) -> Choice:
    """The fastest point that loses at most ``most_drop``."""
    limit = f"{options.method} that keeps {NAMES[options.measure]} within {points(most_drop)}"
    is_faster = options.latency_ns < options.dense.ns * (1 - 1e-9)
    faster = np.flatnonzero(is_faster & (options.loss <= most_drop + 1e-9))
    if not len(faster):
        gentle = np.flatnonzero(is_faster)
        if not len(gentle):
            return Choice(None, _idle(options))
        best = int(gentle[np.argmin(options.loss[gentle])])
        figure = f"the gentlest faster one may lose {points(float(options.loss[best]))}"
        return Choice(
            best, f"no reduction by {limit} is predicted faster than dense{on_statistic(options.on)}; {figure}"
        )
    best = int(faster[0])
    prediction = options.predict(best)
    if not beats(prediction, options.dense):
        return Choice(best, f"the best of {limit} is {no_gain(prediction, options.dense, options.on)}")
    return Choice(best)


def _most_throughput(options: Options, objective: Objective) -> Choice:
    """At one batch size the fastest point is that of the highest throughput, if it meets the deadline."""
    assert objective.deadline_ns is not None
    if options.dense_top1 is None or objective.max_accuracy_drop is None:
        lacking = "labelled images" if options.dense_top1 is None else "an accuracy limit"
        return Choice(None, f"without {lacking} the most throughput would be that of no tokens at all: dense is timed")
    fastest = _fastest(options, objective.max_accuracy_drop)
    if fastest.refusal is not None or fastest.point is None:
        return fastest
    prediction, said = options.predict(fastest.point), f"the deadline of {in_ms(objective.deadline_ns)}"
    if prediction.ns > objective.deadline_ns:
        missed = f"{said}{on_statistic(options.on)} is missed by the fastest of {options.method} that loses no more"
        return Choice(fastest.point, f"{missed}: predicted at {in_ms(prediction.ns)}")
    return fastest


def _least_loss(options: Options, budget: Prediction) -> Choice:
    """The point that loses least within the budget."""
    said = f"the budget of {in_ms(budget.ns)}{on_statistic(options.on)}"
    if options.dense.ns <= budget.ns:
        return Choice(None, f"dense already meets {said}, with {in_ms(options.dense.ns)}")
    within = [int(i) for i in np.flatnonzero(options.latency_ns <= budget.ns)]
    if not within:
        if not len(options.latency_ns) or options.latency_ns[0] >= options.dense.ns * (1 - 1e-9):
            return Choice(None, _idle(options))
        closest = options.predict(0)
        figures = f"{in_ms(closest.ns)} ({against_dense(closest.ns, options.dense.ns)})"
        return Choice(0, f"{said} cannot be met by {options.method}: the closest is predicted at {figures}")

    def is_sure(point: int) -> bool:
        prediction = options.predict(point)
        return budget.ns - prediction.ns >= prediction.margin_ns(budget)

    # By rising loss, which is by falling latency.
    sure = next((i for i in reversed(within) if is_sure(i)), None)
    return _unless_dense(options, within[-1] if sure is None else sure)


def _by_utility(options: Options, alpha: float) -> int | None:
    """The point of the highest α·(1 − L/L_dense) + (1 − α)·A/A_dense; None where that is dense."""
    top1 = max(options.dense_top1 or 0.0, 1e-9)
    utility = alpha * (1 - options.latency_ns / options.dense.ns) + (1 - alpha) * (1 - options.loss / top1)
    if not len(utility) or utility.max() <= 1 - alpha:
        return None
    return int(np.argmax(utility))


def _unless_dense(options: Options, point: int | None) -> Choice:
    if point is None:
        return Choice(None, f"no reduction by {options.method} has a higher utility than dense")
    prediction = options.predict(point)
    if beats(prediction, options.dense):
        return Choice(point)
    return Choice(point, f"the best of {options.method} is {no_gain(prediction, options.dense, options.on)}")


def _idle(options: Options) -> str:
    faster = f"no reduction by {options.method} is predicted faster than dense at all{on_statistic(options.on)}"
    return f"{faster}: scoring costs more than fewer tokens save"
