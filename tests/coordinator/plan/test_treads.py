import itertools
import random

import pytest
from plan_board import curve, staircase, straight

from tailfleet_coordinator.plan.statistics import low_quantile
from tailfleet_coordinator.plan.treads import GRID, MOST_CANDIDATES, find_treads


def noisy(shape, seed, share=0.01, counts=range(2, 198)):
    """What nine calls with a tail of ``share`` leave of the truth: their low quantile."""
    rng = random.Random(seed)

    def quiet(n):
        calls = [rng.expovariate(1.0) + rng.gauss(0, 0.15) for _ in range(9)]
        return (1e6 + 24 * shape(n)) * (1 + share * low_quantile(calls))

    return curve({n: quiet(n) for n in counts}, half=0.4 * share)


@pytest.mark.parametrize("seed", range(10))
def test_every_cliff_is_found_where_it_is(seed):
    found = find_treads(noisy(staircase, seed))
    assert [(cliff.from_tokens, cliff.to_tokens) for cliff in found.cliffs] == [(64, 65), (128, 129), (192, 193)]
    assert found.reversals == []
    assert [(tread.first, tread.last) for tread in found.treads] == [(2, 64), (65, 128), (129, 192), (193, 197)]
    assert {64, 128, 192, 197} <= set(found.candidates)
    true_height = 24 * (staircase(65) - staircase(64))
    assert found.cliffs[0].height_ns == pytest.approx(true_height, rel=0.05)
    assert found.cliffs[0].height_percent == pytest.approx(100 * true_height / (1e6 + 24 * staircase(64)), rel=0.05)
    assert found.cliffs[0].confidence > 0.999


def test_a_straight_line_has_no_false_cliffs():
    false = [cliff for seed in range(60) for cliff in find_treads(noisy(straight, seed)).cliffs]
    assert len(false) <= 1
    assert find_treads(noisy(straight, 1, counts=range(5, 198, 12))).cliffs == []


def test_a_curve_bent_as_attention_is_has_no_false_cliffs_on_a_coarse_grid():
    found = find_treads(curve({n: 1e6 + 1e4 * n + 80.0 * n * n for n in (2, *range(12, 198, 12), 197)}))
    assert found.cliffs == []
    assert len(found.candidates) >= 12


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: 1e6 + 1e3 * n + 400.0 * n * n,
        lambda n: 1e6 * n**0.5,
        lambda n: 1e6 + 2e3 * n + 2e4 * max(0, n - 100),
    ],
)
@pytest.mark.parametrize("counts", [(2, *range(12, 198, 12), 197), (2, 32, 64, 96, 128, 160, 197)])
def test_however_a_curve_bends_it_has_hardly_any_false_cliffs_on_a_coarse_grid(shape, counts):
    assert len(find_treads(curve({n: shape(n) for n in counts})).cliffs) <= 1


def test_a_single_bad_point_is_no_cliff():
    times = {n: 1e6 + 24 * straight(n) for n in range(2, 198)}
    times[100] *= 1.3
    found = find_treads(curve(times))
    assert found.cliffs == []
    assert found.reversals == []


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_bad_point_beside_a_cliff_is_told_and_moves_nothing(factor):
    times = {n: 1e7 + 2e6 * (n > 64) + 5e3 * n for n in range(2, 198, 3)}
    times |= {n: 1e7 + 2e6 * (n > 64) + 5e3 * n for n in (63, 64, 65, 66)}
    times[71] *= factor
    found = find_treads(curve(times))
    assert [(cliff.from_tokens, cliff.to_tokens) for cliff in found.cliffs] == [(64, 65)]
    assert found.cliffs[0].height_percent == pytest.approx(100 * 2e6 / 1.032e7, rel=0.05)
    assert found.reversals == []
    assert found.bad == [71]


def test_a_slope_that_changes_is_no_step():
    found = find_treads(curve({n: 1e6 + 2e3 * n + 8e3 * max(0, n - 100) for n in range(2, 198)}))
    assert found.cliffs == []
    assert found.reversals == []


@pytest.mark.parametrize("seed", range(10))
def test_steps_between_unevenly_spaced_counts_are_found_to_one_token(seed):
    counts = [2, 9, 16, 17, 26, 40, 55, 60, 63, 64, 65, 66, 75, 90, 100, 109, 110, 119, 128, 129, 140, 160, 185, 197]
    found = find_treads(noisy(lambda n: 1e5 + 3e4 * (n > 64) - 1e4 * (n > 109) + 100.0 * n, seed, counts=counts))
    assert [(cliff.from_tokens, cliff.to_tokens) for cliff in found.cliffs] == [(64, 65)]
    assert [(step.from_tokens, step.to_tokens) for step in found.reversals] == [(109, 110)]


def test_a_staircase_of_which_only_both_sides_of_each_step_are_known():
    counts = sorted({n for top in range(16, 197, 16) for n in (top, top + 1)} | {2, 197})
    found = find_treads(noisy(lambda n: staircase(n, width=16), 3, counts=counts))
    assert [cliff.from_tokens for cliff in found.cliffs] == list(range(16, 197, 16))


def test_a_step_below_one_percent_is_none():
    assert find_treads(curve({n: 1e6 + 8e3 * (n > 90) + 10.0 * n for n in range(2, 198)})).cliffs == []
    assert len(find_treads(curve({n: 1e6 + 14e3 * (n > 90) + 10.0 * n for n in range(2, 198)})).cliffs) == 1


def test_a_curve_that_scatters_more_than_its_points_say_has_hardly_any_false_steps():
    false = []
    for seed in range(10):
        rng = random.Random(seed)
        times = {n: (1e6 + 2e4 * n) * (1 + 0.01 * rng.gauss(0, 1)) for n in range(2, 198)}
        found = find_treads(curve(times, half=0.008))
        false += found.cliffs + found.reversals
    assert len(false) <= 2


def test_a_step_back_is_a_reversal_and_its_near_side_no_candidate():
    times = {n: 1e7 + 1e6 * (n > 60) - 5e5 * (n > 120) + 10.0 * n for n in range(2, 198)}
    found = find_treads(curve(times))
    assert [(step.from_tokens, step.to_tokens) for step in found.reversals] == [(120, 121)]
    assert [cliff.from_tokens for cliff in found.cliffs] == [60]
    assert 120 not in found.candidates
    assert {60, 197} <= set(found.candidates)


def test_on_a_coarse_grid_a_cliff_is_known_to_its_gap():
    found = find_treads(noisy(staircase, 2, counts=[2, *range(12, 198, 12), 197]))
    gaps = [(cliff.from_tokens, cliff.to_tokens) for cliff in found.cliffs]
    assert (60, 72) in gaps
    assert (120, 132) in gaps


def test_candidates_are_bounded_and_hold_the_full_count():
    found = find_treads(noisy(lambda n: staircase(n, width=8), 4), most=10)
    assert len(found.candidates) <= 10
    assert found.candidates[-1] == 197


def test_nothing_measured_and_one_count():
    assert find_treads([]).candidates == []
    assert find_treads(curve({197: 1e6})).candidates == [197]


def test_steps_everywhere_leave_candidates_everywhere():
    """Of more tops than candidates none is left out for being low beside much: what counts is what it saves."""
    times = {n: 1e6 * -(-n // 4) for n in range(2, 198)}
    found = find_treads(curve(times)).candidates
    assert len(found) == MOST_CANDIDATES
    assert max(b - a for a, b in itertools.pairwise(found)) <= 2 * 197 / GRID
