import random

import numpy as np
import pytest
from plan_board import GEOMETRY, MadeUpBoard, schedule, straight

from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import dense, smallest_reachable


def fitted(board, **settings):
    return LatencyModel.fit(GEOMETRY, summarise(board.sweep(**settings)))


def random_schedules(count, method="topk", seed=1, least=40):
    rng = random.Random(seed)
    made = []
    while len(made) < count:
        keep, n = [], 197
        for _ in range(12):
            if rng.random() < 0.3 and n > least:
                n = rng.randrange(max(smallest_reachable(method, n, 1), least), n)
            keep.append(n)
        made.append(schedule(keep, method))
    return made


@pytest.mark.parametrize("kind", list(BoardKind))
def test_uniform_schedules_cost_what_the_curve_says(board, kind):
    results = board.sweep(kind=kind)
    points = {p.unit.tokens: p for p in summarise(results) if p.unit.part is Part.MODEL}
    model = LatencyModel.fit(GEOMETRY, summarise(results))
    assert len(points) >= 14
    for n, point in points.items():
        alike = model.fixed_ns + 12 * model.block_ns("topk", n, n)
        assert alike == pytest.approx(point.quiet_ns, rel=1e-9)
    assert model.predict(dense("made-up", GEOMETRY)).ns == pytest.approx(model.dense.ns)


@pytest.mark.parametrize("method", ["topk", "pomt"])
def test_predictions_are_right_on_a_stepped_board_measured_densely(board, method):
    model = fitted(board)
    schedules = random_schedules(60, method)
    truths = np.array([board.schedule_ns(s) for s in schedules])
    predictions = [model.predict(s) for s in schedules]
    errors = np.abs([p.ns for p in predictions] / truths - 1)
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.95) < 0.02
    inside = [p.low_ns <= truth <= p.high_ns for p, truth in zip(predictions, truths)]
    assert np.mean(inside) >= 0.95
    assert not any(p.extrapolated or p.inferred for p in predictions)


def test_predictions_are_right_on_a_smooth_board_measured_coarsely():
    board = MadeUpBoard(half_ns=straight)
    model = fitted(board, kind=BoardKind.PHYSICAL)
    schedules = random_schedules(60)
    errors = [abs(model.predict(s).ns / board.schedule_ns(s) - 1) for s in schedules]
    assert np.median(errors) < 0.015
    assert max(errors) < 0.05
    assert all(model.predict(s).inferred for s in schedules if set(s.keep) - set(model.model.tokens))


def test_between_far_counts_the_interval_widens_by_what_may_hide_there(board):
    model = fitted(board, counts="40,120,197", kind=BoardKind.PHYSICAL)
    known, between = (model.predict(schedule([197] * 4 + [n] * 8)) for n in (120, 90))
    assert between.inferred
    assert not known.inferred
    assert (between.high_ns - between.low_ns) / between.ns > 1.5 * (known.high_ns - known.low_ns) / known.ns
    assert between.low_ns <= board.schedule_ns(schedule([197] * 4 + [90] * 8)) <= between.high_ns


def test_outside_of_what_was_measured_it_says_so(board):
    model = fitted(board, counts="100,150", kind=BoardKind.PHYSICAL)
    assert model.predict(schedule([197] * 4 + [30] * 8)).extrapolated
    assert not model.predict(schedule([197] * 4 + [150] * 8)).extrapolated


def test_a_method_that_was_not_timed_is_refused(board):
    model = fitted(board, methods=["topk"])
    with pytest.raises(InputError, match="'pomt'; timed: topk"):
        model.predict(schedule([197] * 4 + [150] * 8, "pomt"))


@pytest.mark.parametrize("part", [Part.FIXED, Part.ATTENTION, Part.MLP])
def test_a_sweep_without_a_part_is_refused(board, part):
    results = [r for r in board.sweep(kind=BoardKind.PHYSICAL) if r.unit.part is not part]
    with pytest.raises(InputError, match="has no point of its"):
        LatencyModel.fit(GEOMETRY, summarise(results))


def test_the_sentinel_stands_in_for_a_missing_full_count(board):
    results = [
        r for r in board.sweep(kind=BoardKind.PHYSICAL) if not (r.unit.part is Part.MODEL and r.unit.tokens == 197)
    ]
    truth = board.schedule_ns(dense("m", GEOMETRY))
    assert LatencyModel.fit(GEOMETRY, summarise(results)).dense.ns == pytest.approx(truth, rel=0.02)


def test_reductions_cost_what_was_measured_also_where_it_was_not():
    board = MadeUpBoard(half_ns=straight, noise=0.002)
    model = fitted(board)
    scale = model.scale.value_ns(197)
    for n, m in ((197, 100), (150, 60), (120, 119)):
        overhead = model.overheads["topk"].block_ns(n, m)
        assert overhead == pytest.approx(board.reduce_ns(n, m), rel=0.03)
    assert scale == pytest.approx(1.04, rel=0.01)


def test_a_reduction_that_saves_is_not_held_to_be_free():
    """A method may compute queries of kept tokens only: its block is then cheaper than plain attention."""

    class Sparing(MadeUpBoard):
        def reduce_ns(self, n, m):
            return 0.4 * self.half_ns(n) + 0.6 * self.half_ns(m) + 5e3

    board = Sparing(half_ns=straight, noise=0.002)
    model = fitted(board)
    assert model.overheads["topk"].block_ns(197, 60) == pytest.approx(board.reduce_ns(197, 60), rel=0.03)
    assert model.overheads["topk"].block_ns(197, 60) < model.overheads["topk"].attention_ns(197)
    assert model.overheads["topk"].block_ns(197, 2) >= model.overheads["topk"].attention_ns(2)
