import dataclasses
import itertools
import random
import time

import numpy as np
import pytest
from plan_board import GEOMETRY, profile_results

from tailfleet_coordinator.plan.accuracy import AccuracyProfile, loss_of
from tailfleet_coordinator.plan.search import Problem, search
from tailfleet_schema.schedule import Schedule


def brute_force(problem):
    """Every way, one after the other; the front of all of them as {(ns, loss)}."""
    depth, size = len(problem.block_loss), len(problem.counts)
    costs = []
    for path in itertools.product(range(size), repeat=depth):
        state, ns, loss, reductions = 0, problem.fixed_ns, 0.0, 0
        for block, to in enumerate(path):
            ns += problem.block_ns[state, to]
            loss += problem.block_loss[block, state, to]
            reductions += state != to
            state = to
        if np.isfinite(ns + loss) and not (problem.once and reductions > 1):
            costs.append((ns, loss, path))
    costs.sort(key=lambda item: item[:2])
    front, least = [], np.inf
    for ns, loss, path in costs:
        if loss < least:
            front.append((ns, loss, [problem.counts[i] for i in path]))
            least = loss
    return front


def random_problem(seed, integers):
    rng = random.Random(seed)
    depth, size = rng.choice([(1, 4), (2, 5), (3, 4), (4, 4), (5, 3)])
    draw = (lambda top: float(rng.randrange(1, top))) if integers else (lambda top: rng.uniform(1, top))
    block_ns = np.full((size, size), np.inf)
    block_loss = np.full((depth, size, size), np.inf)
    for i in range(size):
        for j in range(i, size):
            if i != j and rng.random() < 0.25:
                continue
            block_ns[i, j] = draw(12)
            for block in range(depth):
                if i == j:
                    block_loss[block, i, j] = 0.0
                elif rng.random() < 0.8:
                    block_loss[block, i, j] = draw(9)
    counts = tuple(sorted(rng.sample(range(2, 60), size), reverse=True))
    return Problem(counts, rng.uniform(0, 5), block_ns, block_loss, once=rng.random() < 0.3)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_equal_to_brute_force(seed, integers):
    problem = random_problem(seed, integers)
    expected = brute_force(problem)
    front = search(problem)
    assert len(front) == len(expected)
    assert front.latency_ns == pytest.approx([ns for ns, _, _ in expected])
    assert front.loss == pytest.approx([loss for _, loss, _ in expected])
    for point, (ns, loss, _) in enumerate(expected):
        keep = front.keep(point)
        path = [0, *(problem.counts.index(count) for count in keep)]
        steps = list(itertools.pairwise(path))
        assert problem.fixed_ns + sum(problem.block_ns[i, j] for i, j in steps) == pytest.approx(ns)
        assert sum(problem.block_loss[b, i, j] for b, (i, j) in enumerate(steps)) == pytest.approx(loss)


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_cuts_the_front_and_nothing_else(seed):
    problem = random_problem(seed, integers=False)
    whole = search(problem)
    limit = float(np.median(whole.latency_ns))
    cut = search(problem, within_ns=limit)
    assert cut.latency_ns == pytest.approx(whole.latency_ns[whole.latency_ns <= limit])


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_brute_force_on_what_a_halving_method_loses(seed):
    """Few tokens at the first blocks are out of ToMe's reach, and its profile is ragged there."""
    geometry = dataclasses.replace(GEOMETRY, depth=5, tokens=33)
    profile = AccuracyProfile.fit(geometry, "tome", profile_results(geometry, "tome", hardness=0.2 + 0.3 * seed))
    counts = (33, 27, 17, 12, 9, 7)
    n = np.array(counts)
    halves = n[None, :] - 1 >= (n[:, None] - 1) / 2
    block_ns = np.where(halves, np.random.default_rng(seed).uniform(1, 3, (6, 6)) + n[:, None] + n[None, :], np.inf)
    problem = Problem(counts, 1.0, block_ns, profile.steps_units(5, counts))
    expected, front = brute_force(problem), search(problem)
    assert front.latency_ns == pytest.approx([ns for ns, _, _ in expected])
    assert front.loss == pytest.approx([loss for _, loss, _ in expected])
    keeps = [front.keep(point) for point in range(len(front))]
    assert keeps == [keep for _, _, keep in expected]
    assert min(keep[-1] for keep in keeps) == 7
    for keep, loss in zip(keeps, front.loss):
        found = Schedule("tome", "made-up", 33, 1, keep)
        assert profile.reaches(found)
        assert loss * profile.unit == pytest.approx(loss_of(profile, found))


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_of_loss_and_one_at_a_price_cut_the_front_and_nothing_else(seed):
    problem = random_problem(seed, integers=False)
    whole, price = search(problem), 0.7
    priced = whole.latency_ns + price * whole.loss
    most, most_loss = float(np.quantile(priced, 0.6)), float(np.median(whole.loss))
    cut = search(problem, most, price, most_loss)
    inside = (priced <= most) & (whole.loss <= most_loss)
    assert cut.latency_ns == pytest.approx(whole.latency_ns[inside])
    assert cut.loss == pytest.approx(whole.loss[inside])


def test_once_means_one_reducing_block():
    problem = random_problem(3, integers=False)
    once = Problem(problem.counts, problem.fixed_ns, problem.block_ns, problem.block_loss, once=True)
    front = search(once)
    for point in range(len(front)):
        keep = [problem.counts[0], *front.keep(point)]
        assert sum(a != b for a, b in itertools.pairwise(keep)) <= 1


def test_nothing_within_the_limit():
    assert len(search(random_problem(1, integers=True), within_ns=0.0)) == 0


def test_twelve_blocks_and_24_counts_take_a_second_or_two():
    rng = np.random.default_rng(5)
    counts = tuple(int(n) for n in np.linspace(197, 13, 24))
    n = np.array(counts, dtype=float)
    cost = 1e5 + 5e3 * n[:, None] + 7e3 * n[None, :] + rng.uniform(0, 3e4, (24, 24))
    block_ns = np.where(n[None, :] <= n[:, None], cost, np.inf)
    hardness = rng.uniform(0.5, 2, (12, 1))
    share = np.sort(rng.uniform(0, 1, (12, 24)) ** 2, axis=1)
    share[:, 0] = 0
    loss = np.round(hardness * share * 20000)
    block_loss = np.maximum(loss[:, None, :] - loss[:, :, None], 0)
    block_loss = np.where(n[None, None, :] <= n[None, :, None], block_loss, np.inf)
    problem = Problem(counts, 1e6, block_ns, block_loss)
    began = time.process_time()
    front = search(problem)
    assert time.process_time() - began < 6  # about 1 s on an idle core
    assert len(front) > 50
