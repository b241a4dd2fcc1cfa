import random

import numpy as np
import pytest
from plan_board import GEOMETRY, MadeUpBoard, schedule, stalls_beyond, straight

from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.spread import Spread
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Statistic
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError

LEVEL = {Statistic.P50: 0.5, Statistic.P99: 0.99}


def whole(results):
    return [r for r in results if r.unit.part in (Part.MODEL, Part.SENTINEL)]


def board(stall=None, seed=7, **settings):
    return MadeUpBoard(stall=stall, rng=random.Random(seed), **settings)


def anywhere(probability, longest):
    return lambda rng, blocks: rng.uniform(0.0, longest) if rng.random() < probability else 0.0


@pytest.mark.parametrize("on", list(LEVEL))
@pytest.mark.parametrize(
    ("noise", "stall", "within"), [(0.01, None, 0.01), (0.05, None, 0.03), (0.02, anywhere(0.03, 1.0), 0.08)]
)
def test_parts_on_quiet_and_the_tail_of_the_whole_give_a_schedules_percentile(on, noise, stall, within):
    """From 1773 calls, nine a count."""
    made = board(stall, noise=noise)
    results = made.sweep(["topk"])
    spread = Spread.fit(results, 197, on)
    model = LatencyModel.fit(GEOMETRY, summarise(results), spread)
    assert model.additive
    for keep in ([197] * 12, [197] * 2 + [100] * 10, [150] * 6 + [64] * 6):
        predicted = model.predict(schedule(keep))
        truth = made.true_ns(schedule(keep), LEVEL[on])
        assert predicted.ns == pytest.approx(truth, rel=within)
        assert predicted.low_ns <= truth <= predicted.high_ns


def test_calls_are_held_against_the_quiet_time_of_their_count():
    """Which a tenth of its calls is quicker than, whatever else a sweep timed."""
    spread = Spread.fit(board(noise=0.05).sweep(["topk"], calls=10), 197, Statistic.P50)
    assert np.mean(np.concatenate(spread.ratios) < 1.0) == pytest.approx(0.1, abs=0.02)


def test_quiet_is_left_as_it_is():
    results = board().sweep(["topk"])
    spread = Spread.fit(results, 197, Statistic.QUIET)
    plain, on_quiet = (LatencyModel.fit(GEOMETRY, summarise(results), given) for given in (None, spread))
    chosen = schedule([197] * 4 + [90] * 8)
    assert plain.predict(chosen) == on_quiet.predict(chosen)
    assert spread.tops == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_cliff_of_the_tail_is_found_where_quiet_has_none(seed):
    spread = Spread.fit(whole(board(stalls_beyond(100), seed).sweep([], rounds=3, calls=20)), 197, Statistic.P99)
    assert spread.factor(60) == pytest.approx(1.047, abs=0.02)
    assert spread.factor(197) == pytest.approx(1.74, abs=0.06)
    (top,) = spread.tops
    assert 92 <= top <= 100
    # Just beyond what is sure, the longer tail is reckoned with.
    assert spread.factor(top) < 1.1 < spread.factor(101)


@pytest.mark.parametrize("on", list(LEVEL))
def test_chance_makes_no_steps(on):
    steps = [
        Spread.fit(whole(board(anywhere(0.02, 1.0), seed, noise=0.03).sweep([])), 197, on).tops for seed in range(20)
    ]
    assert sum(map(bool, steps)) <= 1


def test_a_busy_minute_is_no_cliff():
    """One round all slow: its order was random, so no count has more of it than another."""
    results = [
        type(r)(r.unit, r.round, [round(ns * (1.3 if r.round == 1 else 1.0)) for ns in r.call_ns])
        for r in whole(board().sweep([]))
    ]
    spread = Spread.fit(results, 197, Statistic.P99)
    assert spread.tops == ()
    assert spread.factor(100) > 1.29


@pytest.mark.parametrize("deep", [2, 6, 10])
def test_a_pass_that_mixes_tails_draws_from_each_by_its_time(deep):
    made = board(stalls_beyond(100), half_ns=lambda n: 400e3, launch_ns=0.0)
    results = made.sweep(["topk"], rounds=3, calls=40)
    model = LatencyModel.fit(GEOMETRY, summarise(results), Spread.fit(results, 197, Statistic.P99))
    assert not model.additive
    chosen = schedule([197] * deep + [60] * (12 - deep))
    truth, predicted = made.true_ns(chosen, 0.99), model.predict(chosen)
    assert predicted.low_ns <= truth <= predicted.high_ns
    assert predicted.ns == pytest.approx(truth, rel=0.1)


def test_a_tail_that_both_have_is_no_doubt_about_which_is_faster():
    """Its interval is wide, and yet who saves a tenth of the time saves a tenth of the tail."""
    results = board(anywhere(0.011, 3.0)).sweep(["topk"])
    model = LatencyModel.fit(GEOMETRY, summarise(results), Spread.fit(results, 197, Statistic.P99))
    pruned = model.predict(schedule([197] * 4 + [128] * 8))
    gain = model.dense.ns - pruned.ns
    assert pruned.high_ns - pruned.ns > gain
    assert pruned.margin_ns(model.dense) < gain


def test_a_curve_on_the_statistic_has_every_count():
    results = board(half_ns=straight, noise=0.1).sweep(["topk"], kind=BoardKind.PHYSICAL, calls=10)
    model = LatencyModel.fit(GEOMETRY, summarise(results), Spread.fit(results, 197, Statistic.P50))
    whole = model.halves.whole
    assert model.curve.tokens == whole.tokens == tuple(range(2, 198))
    ratios = [model.curve.value_ns(n) / whole.value_ns(n) for n in whole.tokens]
    assert [model.curve.half_ns(n) / whole.half_ns(n) for n in whole.tokens] == pytest.approx(ratios)
    assert np.allclose(np.array(ratios), 1 + 0.1 * (np.log(2) + np.log(0.9)), atol=0.006)


def test_percentiles_of_parts_do_not_add_up_to_those_of_the_whole():
    made = board(anywhere(0.03, 1.0), noise=0.02)
    results = made.sweep(["topk"])
    points = {(p.unit.part, p.unit.tokens): p for p in summarise(results)}
    parts = sum(points[part, 197].p99_ns for part in (Part.FIXED, Part.ATTENTION, Part.MLP))
    truth = made.true_ns(schedule([197] * 12), 0.99)
    model = LatencyModel.fit(GEOMETRY, summarise(results), Spread.fit(results, 197, Statistic.P99))
    assert abs(model.dense.ns / truth - 1) < 0.5 * abs(parts / truth - 1)


def test_too_few_calls_are_refused():
    with pytest.raises(InputError, match=r"takes 368 calls of the whole model, and the sweep has 261: .*--calls 5"):
        Spread.fit(board().sweep(["topk"], "adaptive", kind=BoardKind.PHYSICAL), 197, Statistic.P99)
    with pytest.raises(InputError, match="and the sweep has 0"):
        Spread.fit([], 197, Statistic.P99)
