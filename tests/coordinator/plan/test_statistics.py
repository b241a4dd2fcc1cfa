import random

import pytest

from tailfleet_coordinator.plan.inference import every_count
from tailfleet_coordinator.plan.statistics import measured, summarise
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.quiet import judge

UNIT = Unit(Part.MODEL, 50, 50)
SENTINEL = Unit(Part.SENTINEL, 197, 197)


def rounds_of(unit, *rounds):
    return [UnitResult(unit, number, list(calls)) for number, calls in enumerate(rounds)]


def test_quiet_is_the_low_quantile_and_typical_is_beside_it():
    (point,) = summarise(rounds_of(UNIT, range(10000, 10100, 2), range(10001, 10101, 2)))
    assert point.quiet_ns == pytest.approx(10009.9)
    assert (point.p50_ns, point.p90_ns, point.p99_ns) == pytest.approx((10049.5, 10089.1, 10098.01))
    assert (point.calls, point.rounds, point.status) == (100, 2, "ok")


def test_a_burst_moves_neither_quiet_nor_its_interval():
    calm = rounds_of(UNIT, [1000, 1010, 1020], [1002, 1011, 1030], [1001, 1012, 1022])
    burst = [*calm[:2], UnitResult(UNIT, 2, [2500, 2600, 3000])]
    (a,), (b,) = summarise(calm), summarise(burst)
    assert b.quiet_ns == pytest.approx(a.quiet_ns, rel=0.005)
    assert b.quiet_high_ns - b.quiet_low_ns < 0.05 * b.quiet_ns


def test_typical_times_are_over_all_calls_disturbed_or_not():
    (point,) = summarise(rounds_of(UNIT, [1000] * 5, [1001] * 5, [1002] * 5, [3000] * 5))
    assert point.quiet_ns == pytest.approx(1000, rel=0.002)
    assert (point.p90_ns, point.calls, point.rounds) == (3000, 20, 4)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = random.Random(3)
    units = [Unit(Part.MODEL, n, n) for n in range(2, 402)]
    results = [
        UnitResult(unit, number, [round(1e6 * (1 + rng.gauss(0, 0.01))) for _ in range(20)])
        for unit in units
        for number in range(3)
    ]
    truth = 1e6 * (1 - 1.2816 * 0.01)
    inside = sum(p.quiet_low_ns <= truth <= p.quiet_high_ns for p in summarise(results))
    assert 0.90 <= inside / len(units) <= 1.0
    widths = [(p.quiet_high_ns - p.quiet_low_ns) / p.quiet_ns for p in summarise(results)]
    assert max(widths) < 0.05


def test_a_round_that_is_slower_for_all_units_widens_no_interval():
    rng = random.Random(4)

    def calm(truth):
        return round(truth * (1 + 0.003 * rng.expovariate(1)))

    def sweep(factors):
        return [
            UnitResult(
                Unit(Part.MODEL, n, n), r, [round(1e5 * n * f * (1 + 0.003 * rng.expovariate(1))) for _ in range(5)]
            )
            for n in range(2, 60)
            for r, f in enumerate(factors)
        ]

    widths = [
        max((p.quiet_high_ns - p.quiet_low_ns) / p.quiet_ns for p in summarise(sweep(factors)))
        for factors in ((1, 1, 1), (1, 1.04, 1.02))
    ]
    assert widths[1] < 1.5 * widths[0]


def test_a_result_sent_twice_counts_once():
    results = rounds_of(UNIT, [1000, 1010], [1003, 1020])
    assert summarise(results + results) == summarise(results)


def test_one_round_alone_has_an_interval_from_its_calls():
    (point,) = summarise(rounds_of(UNIT, [1000, 1100, 1200]))
    assert (point.quiet_low_ns, point.quiet_high_ns) == (1000, 1100)


def test_out_of_memory_is_a_result_without_figures():
    oom = UnitResult(UNIT, 0, status="oom")
    (point,) = summarise([oom])
    assert point.status == "oom"
    assert point.quiet_ns is None
    assert measured([point], Part.MODEL) == []


def test_judged_units_are_left_out():
    judged = UnitResult(Unit(Part.ACCURACY, 197, 197, "d"), 0, judgement=Judgement(10, 9, 9, 0.0, "host"))
    assert summarise([judged]) == []


@pytest.mark.parametrize(
    ("lows", "stable", "word"),
    [
        ((1000, 1010, 1005), True, ""),
        ((1000, 1150, 1005), True, ""),
        ((1000, 1100, 1100), False, "from round 2 on everything took 1.10 times as long"),
        ((1000,), False, "fewer than two rounds"),
    ],
)
def test_stability_says_why(lows, stable, word):
    verdict = judge(rounds_of(SENTINEL, *[[low, low, low] for low in lows]))
    assert verdict.stable is stable
    assert word in verdict.reason


def test_a_count_that_stayed_unknown_is_inferred_and_no_point_without_memory():
    results = [
        UnitResult(
            Unit(Part.MODEL, n, n), number, [round((1000 + 10 * n) * (1.2 + number / 9 if n == 30 and number else 1))]
        )
        for number in range(3)
        for n in range(5, 198, 5)
    ]
    assert judge(results).stable
    points = summarise(results)
    assert Unit(Part.MODEL, 30, 30) not in [point.unit for point in points]
    assert {point.status for point in points} == {"ok"}
    (at,) = [point for point in every_count(points, 5, 195) if point.tokens == 30]
    assert not at.measured
    assert at.ns == pytest.approx(1300, rel=0.01)
