import random

import pytest
from plan_board import curve, staircase, straight

from tailfleet_coordinator.plan.inference import every_count

SPARSE = (2, 13, 23, 32, 46, 56, 65, 75, 85, 97, 107, 117, 129, 140, 150, 161, 173, 184, 197)


def measured_at(counts, shape, share=0.003, seed=1):
    rng = random.Random(seed)
    return curve({n: shape(n) * (1 + share * rng.gauss(0, 1)) for n in counts}, half=1.96 * share)


def test_every_count_is_there_measured_or_inferred():
    points = every_count(measured_at(SPARSE, straight), 2, 197)
    assert [point.tokens for point in points] == list(range(2, 198))
    assert [point.tokens for point in points if point.measured] == list(SPARSE)
    assert all(0 <= point.low_ns <= point.ns <= point.high_ns for point in points)


@pytest.mark.parametrize("shape", [straight, lambda n: 1e6 + 1e4 * n + 40.0 * n * n, lambda n: 1e6 + 10.0 * n])
def test_smooth_curves_are_inferred_and_their_intervals_are_honest(shape):
    off, outside = [], 0
    for seed in range(20):
        for point in every_count(measured_at(SPARSE, shape, seed=seed), 2, 197):
            if not point.measured:
                off.append(abs(point.ns / shape(point.tokens) - 1))
                outside += not point.low_ns <= shape(point.tokens) <= point.high_ns
    assert sorted(off)[int(0.95 * len(off))] < 0.015
    assert outside <= 0.05 * len(off)


def test_a_located_step_is_not_smeared():
    counts = (*range(2, 65, 6), 63, 64, 65, 66, *range(72, 198, 8))
    truth = {n: 1e6 + 24 * staircase(n, width=64) for n in range(2, 198)}
    points = every_count(measured_at(sorted(counts), truth.get), 2, 128)
    assert all(abs(point.ns / truth[point.tokens] - 1) < 0.015 for point in points)


def test_across_a_step_that_lies_somewhere_the_interval_spans_both_sides():
    points = {p.tokens: p for p in every_count(measured_at(SPARSE, lambda n: 1e7 + 3e6 * (n > 90) + 1e3 * n), 2, 197)}
    for n in range(86, 97):
        assert points[n].low_ns < 1.015e7
        assert points[n].high_ns > 1.3e7
    assert points[80].high_ns < 1.05e7
    assert points[100].low_ns > 1.25e7


def test_counts_that_nothing_measured_encloses_continue_the_nearest_tread():
    points = {p.tokens: p for p in every_count(measured_at(range(100, 151, 5), straight), 90, 160)}
    assert points[90].ns == pytest.approx(straight(90), rel=0.02)
    assert points[160].ns == pytest.approx(straight(160), rel=0.02)
    assert points[160].high_ns - points[160].low_ns > points[148].high_ns - points[148].low_ns


def test_one_point_and_none():
    assert every_count([], 2, 197) == []
    alone = every_count(curve({197: 1e6}), 195, 197)
    assert [point.measured for point in alone] == [False, False, True]
