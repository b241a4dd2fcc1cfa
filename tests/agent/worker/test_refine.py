import random

import pytest

from tailfleet_agent.worker import refine
from tailfleet_schema.quiet import Estimate

GRID = (
    2,
    13,
    23,
    32,
    33,
    46,
    56,
    64,
    65,
    73,
    83,
    96,
    97,
    106,
    117,
    128,
    129,
    140,
    150,
    160,
    161,
    173,
    184,
    192,
    193,
    197,
)
PRECISION = 0.02


def estimate(ns, share=0.004, rounds=3):
    return Estimate(ns, ns * (1 - 1.96 * share), ns * (1 + 1.96 * share), 3 * rounds, rounds)


class Board:
    """Estimates of a made-up curve: its deviation shrinks with the rounds that a count was seen in."""

    def __init__(self, shape, share=0.003, seed=1, counts=GRID):
        self.shape = shape
        self.share = share
        self.rng = random.Random(seed)
        self.rounds = {}
        self.sums = {}
        for n in counts:
            self.see(n, 3)

    def see(self, n, rounds=1):
        for _ in range(rounds):
            drawn = self.shape(n) * (1 + self.share * 3**0.5 * self.rng.gauss(0, 1))
            self.sums[n] = self.sums.get(n, 0.0) + drawn
            self.rounds[n] = self.rounds.get(n, 0) + 1

    @property
    def known(self):
        return {
            n: estimate(self.sums[n] / rounds, self.share * (3 / rounds) ** 0.5, rounds)
            for n, rounds in self.rounds.items()
        }

    def refined(self, batch=1):
        """Until nothing is left to do; the visits beyond the grid's."""
        visits = 0
        for _ in range(60):
            new = refine.next_counts(self.known, 2, 197, PRECISION, batch)
            again = refine.unsure(self.known, 2, 197, PRECISION)
            assert not set(new) & set(self.rounds)
            assert set(again) <= set(self.rounds)
            if not new and not again:
                return visits
            for n in new:
                self.see(n, 3)
            for n in again:
                self.see(n)
            visits += 3 * len(new) + len(again)
        raise AssertionError("it never ends")

    def has_both_sides(self, *tops):
        return all({top, top + 1} <= set(self.rounds) for top in tops)


def steps(heights, slope=2e4):
    def shape(n):
        ns = 1e7 + slope * n
        for top, height in heights.items():
            ns *= 1 + height if n > top else 1
        return ns

    return shape


def linear(n):
    return 3e6 + 1.6e5 * n


def test_a_curve_without_steps_needs_hardly_any_more_counts():
    for shape in (linear, lambda n: 1e7):
        assert sum(Board(shape, seed=seed).refined() for seed in range(10)) <= 30
    # Bent as attention is: three counts, the sum over ten boards.
    assert sum(Board(lambda n: 3e6 + 1e5 * n + 150.0 * n * n, seed=seed).refined() for seed in range(10)) <= 120


@pytest.mark.parametrize("seed", range(10))
def test_steps_anywhere_are_closed_in_on(seed):
    board = Board(steps({27: 0.12, 89: 0.035, 143: 0.3, 178: 0.06}), seed=seed)
    assert board.refined() <= 120
    assert board.has_both_sides(27, 89, 143, 178)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_backwards_is_closed_in_on(seed):
    board = Board(steps({52: 0.1, 110: -0.08}), seed=seed)
    board.refined()
    assert board.has_both_sides(52, 110)


@pytest.mark.parametrize("seed", range(5))
def test_two_steps_that_cancel_out_around_one_count_are_seen(seed):
    board = Board(steps({102: 0.15, 112: -0.13}), seed=seed)
    board.refined()
    assert board.has_both_sides(102, 112)


@pytest.mark.parametrize("seed", range(5))
def test_a_staircase_finer_than_the_grid_is_closed_in_on(seed):
    tops = list(range(24, 197, 24))
    board = Board(steps(dict.fromkeys(tops, 0.09), slope=1e3), seed=seed)
    board.refined()
    assert board.has_both_sides(*tops)


def test_a_step_is_seen_beside_another_one_that_looks_like_a_slope():
    shape = steps({20: 0.05, 41: 0.05, 117: 0.05})
    added = refine.next_counts({n: estimate(shape(n), 0.003) for n in GRID}, 2, 197, PRECISION)
    for low, high in ((13, 23), (33, 46), (117, 128)):
        assert any(low < n < high for n in added)
    assert not any(23 < n < 32 for n in added)


def test_a_gap_with_a_step_is_divided_where_the_largest_tile_ends():
    known = {n: estimate(1e7 * (1 + 0.2 * (n > 40))) for n in (2, 10, 20, 33, 47, 60, 80, 120, 160, 197)}
    assert refine.next_counts(known, 2, 197, PRECISION, batch=8) == [40, 41]
    # Without a tile that ends there, in four.
    assert refine.next_counts(known, 2, 197, PRECISION, batch=1) == [36, 40, 43]
    # 40 | 41 holds no step: the next smaller tile, then what is left.
    moved = {**{n: estimate(1e7 * (1 + 0.2 * (n > 45))) for n in known}, 40: estimate(1e7), 41: estimate(1e7)}
    assert refine.next_counts(moved, 2, 197, PRECISION, batch=8) == [44, 45]


def test_a_gap_waits_for_what_was_not_seen_twice():
    known = {n: estimate(1e7 * (1 + 0.2 * (n > 40))) for n in (2, 10, 20, 33, 47, 60, 80, 120, 160, 197)}
    assert refine.next_counts({**known, 39: estimate(5e7, rounds=1)}, 2, 197, PRECISION) == []
    assert refine.unsure({**known, 39: estimate(5e7, rounds=1)}, 2, 197, PRECISION) == []


def test_a_single_count_that_stands_out_is_seen_again_before_anything_is_divided():
    times = {n: 1e7 + 1e4 * n for n in GRID}
    known = {n: estimate(ns) for n, ns in times.items()}
    known[106] = estimate(1.2 * times[106], rounds=2)
    assert refine.unsure(known, 2, 197, PRECISION) == [106]
    assert refine.next_counts(known, 2, 197, PRECISION) == []
    # It stays where it is: then it is as it is.
    known[106] = estimate(1.2 * times[106], rounds=refine.SUSPECT_ROUNDS)
    assert refine.unsure(known, 2, 197, PRECISION) == []
    added = refine.next_counts(known, 2, 197, PRECISION)
    assert any(97 < n < 106 for n in added)
    assert any(106 < n < 117 for n in added)


def test_a_step_that_noise_may_have_made_is_measured_again_but_not_for_ever():
    def known(rounds):
        return {n: estimate(1e7 * (1 + 0.03 * (n > 64)), 0.012, rounds) for n in GRID}

    assert {64, 65} <= set(refine.unsure(known(3), 2, 197, PRECISION))
    assert refine.unsure(known(refine.MOST_ROUNDS), 2, 197, PRECISION) == []
    clear = {n: estimate(1e7 * (1 + 0.03 * (n > 64)), 0.002) for n in GRID}
    assert refine.unsure(clear, 2, 197, PRECISION) == []


def comb(n):
    """Odd counts are slower by a time of their own: 10 % at the lower end, 2 % at the upper one."""
    return 1e7 + 2e5 * n + (1e6 if n % 2 else 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_where_neighbours_foretell_nothing_every_count_is_measured_and_elsewhere_none_is(seed):
    board = Board(comb, seed=seed)
    board.refined()
    low = [n for n in range(10, 50) if n not in board.rounds]
    high = [n for n in range(120, 197) if n not in board.rounds]
    assert len(low) <= 4
    assert len(high) >= 45


def test_counts_about_a_cliff_are_not_rough():
    shape = steps({40: 0.2, 80: 0.2, 120: 0.2, 160: 0.2})
    known = {n: estimate(shape(n)) for top in (40, 80, 120, 160) for n in range(top - 1, top + 3)}
    known.update({n: estimate(shape(n)) for n in GRID})
    points, _ = refine._survey(known, 2, 197, PRECISION)
    assert all(point.variance == point.own for point in points)


def test_counts_below_the_least_are_left_alone():
    known = {n: estimate(1e7 * (1 + 0.2 * (n > 20))) for n in GRID}
    assert refine.next_counts(known, 2, 197, PRECISION) != []
    assert refine.next_counts(known, 23, 197, PRECISION) == []


def test_nothing_known_and_one_count():
    assert refine.next_counts({}, 2, 197, PRECISION) == []
    assert refine.unsure({}, 2, 197, PRECISION) == []
    assert refine.next_counts({197: estimate(1e7)}, 2, 197, PRECISION) == []


def test_a_staircase_of_which_every_count_is_known_needs_none():
    board = Board(steps(dict.fromkeys(range(8, 400, 8), 0.05)), counts=range(2, 401))
    assert refine.next_counts(board.known, 2, 400, PRECISION, 8) == []
