import random

import numpy as np
import pytest

from tailfleet_coordinator.plan.quantiles import LEVELS, least_calls, percentile, shortage, timed
from tailfleet_coordinator.plan.statistics import measured, summarise
from tailfleet_schema.campaign import Statistic
from tailfleet_schema.curve import Part, Unit, UnitResult

UNIT = Unit(Part.SCHEDULE, 197, 100, "d" * 8)


def rounds_of(*rounds):
    return [UnitResult(UNIT, number, list(calls)) for number, calls in enumerate(rounds)]


@pytest.mark.parametrize(("on", "least"), [(Statistic.QUIET, 1), (Statistic.P50, 6), (Statistic.P99, 368)])
def test_so_many_calls_bound_a_percentile_from_both_sides(on, least):
    assert least_calls(on) == least
    if least > 1:
        level = LEVELS[on]
        assert level**least <= 0.025 < level ** (least - 1)


@pytest.mark.parametrize(("on", "calls"), [(Statistic.P50, 25), (Statistic.P50, 100), (Statistic.P99, 400)])
@pytest.mark.parametrize("shape", ["exponential", "pareto"])
def test_an_interval_holds_the_truth_as_often_as_it_says(on, calls, shape):
    rng = np.random.default_rng(5)
    level = LEVELS[on]
    truth = -np.log(1 - level) if shape == "exponential" else (1 - level) ** (-1 / 1.5) - 1

    def draw():
        return rng.exponential(size=calls) if shape == "exponential" else rng.pareto(1.5, size=calls)

    found = [percentile(draw(), level, np.arange(calls) % 5) for _ in range(600)]
    assert 0.94 <= np.mean([p.low <= truth <= p.high for p in found]) <= 0.995
    assert all(p.low <= p.value <= p.high for p in found)


def test_a_burst_in_one_round_is_worth_fewer_calls():
    rng = np.random.default_rng(2)
    calm = rng.normal(1.0, 0.01, (20, 80))
    burst = np.sort(calm.ravel())
    spread, clumped = calm.copy(), calm.copy()
    spread[:, 0] = clumped[7, :20] = np.linspace(2.0, 3.0, 20)
    number = np.repeat(np.arange(20), 80)
    even, uneven = (percentile(calls.ravel(), 0.99, number) for calls in (spread, clumped))
    assert even.value == uneven.value
    assert uneven.low < even.low
    assert uneven.high > even.high
    assert burst[-1] < 1.1


def test_nothing_is_said_of_what_is_slower_than_the_slowest_call():
    found = percentile(np.arange(100.0), 0.99)
    assert found.high == 99.0


@pytest.mark.parametrize("on", list(Statistic))
def test_a_unit_on_each_statistic(on):
    rng = random.Random(1)
    results = rounds_of(*([round(1e6 * (1 + 0.01 * rng.expovariate(1))) for _ in range(80)] for _ in range(10)))
    found = timed(results, Part.SCHEDULE, on)[UNIT.label]
    calls = [ns for r in results for ns in r.call_ns]
    assert found.value == pytest.approx(np.quantile(calls, LEVELS[on]), abs=1)
    assert found.low < found.value < found.high
    # What was sent twice counts once.
    assert timed(results + results, Part.SCHEDULE, on) == {UNIT.label: found}


def test_quiet_is_what_it_always_was():
    results = rounds_of([1000, 1010, 1030], [1003, 1020, 1040], [1001, 1007, 1400])
    (point,) = measured(summarise(results), Part.SCHEDULE, UNIT.label)
    found = timed(results, Part.SCHEDULE, Statistic.QUIET)[UNIT.label]
    assert (found.low, found.value, found.high) == (point.ns - point.half_ns, point.ns, point.ns + point.half_ns)


@pytest.mark.parametrize("on", list(Statistic))
def test_what_ran_out_of_memory_has_no_time(on):
    results = [*rounds_of([1000] * 9), UnitResult(UNIT, 1, status="oom")]
    assert timed(results, Part.SCHEDULE, on) == {}


def test_too_few_calls_name_what_is_enough():
    assert shortage(Statistic.P99, 18, 3, 3) == (
        "a p99 takes 368 calls of the whole model, and the sweep has 162: measure with --rounds 3 --calls 7"
    )
    assert shortage(Statistic.P99, 18, 3, 7) is None
    assert shortage(Statistic.P50, 18, 3, 3) is shortage(Statistic.QUIET, 1, 1, 1) is None
