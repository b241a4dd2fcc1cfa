"""How far planned schedules are from the true optimum: brute force over all counts at all blocks, true latencies.

Small ViTs on random virtual boards (``random_fleet``): 3 blocks and 197 tokens, 4 and 65, 6 and 37. Each is swept as a
campaign would, noise and all, and planned on for each method, with limits of accuracy from one point to ten.
Brute force goes through every sequence of counts that the method can leave and the profile knows of, at the latency
that the board truly takes, with the very losses that the plan had; sequences are dropped only for losing more than the
limit, which none can make good. The gap is what the planned schedule (dense, where it refuses) takes longer in truth
than the best of all. It is that of cases where the best is faster than dense by 2 % at least: the others have nothing
to plan, and are only counted.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.figure import Figure
from tests.benchmarks.random_fleet import METHODS, Case, Truth, judged, random_case, swept

from tailfleet_coordinator.plan.accuracy import AccuracyProfile
from tailfleet_coordinator.plan.planner import PlanInput, make_plan
from tailfleet_coordinator.plan.reading import Reading
from tailfleet_coordinator.plan.search import Problem
from tailfleet_schema.campaign import Objective

SHAPES = ((3, 14), (4, 8), (6, 6))
"""Blocks, and patches along a side."""

BOARDS = 60
"""Of each shape."""

DROPS = (1.0, 2.0, 5.0, 10.0)

GOAL = 1.0

WORTH = 0.02


@dataclass(frozen=True)
class Outcome:
    """One plan; times as shares of dense."""

    case: Case
    method: str
    took: float
    refused: bool
    best: float
    sequences: int
    """That brute force came to the end of."""

    @property
    def gap(self) -> float:
        """What the plan takes longer than the best, as a share of that."""
        return self.took / self.best - 1.0


def measure(quick: bool = False) -> list[Figure]:
    """All boards of all shapes."""
    outcomes = []
    for depth, side in SHAPES:
        for number in range(4 if quick else BOARDS):
            rng = random.Random(f"optimality {depth} {side} {number}")
            outcomes += outcomes_of(random_case(rng, number, (depth,), (side,)), rng.choice(DROPS))
    worth = [one for one in outcomes if one.best < 1.0 - WORTH]
    for one in sorted(worth, key=lambda one: -one.gap)[:5]:
        words = f"{one.took:.3f} of dense{' (refused)' if one.refused else ''}, the best {one.best:.3f}"
        print(f"  {one.case.name}, {one.case.model.geometry.depth} blocks, {one.method}: {words}", flush=True)
    return figures_of(outcomes, worth)


def outcomes_of(case: Case, drop: float) -> list[Outcome]:
    """Of every method."""
    reading, results = Reading.of(case.model.geometry, swept(case)).dumps(), judged(case)
    found = []
    for method in METHODS:
        mine = [r for r in results if r.unit.label in (method, "")]
        objective = Objective(max_accuracy_drop=drop)
        plan = make_plan(PlanInput(case.model, method, "optimal", objective, [], mine, case.batch, reading))
        profile = AccuracyProfile.fit(case.model.geometry, method, mine)
        truth = Truth(case, method, profile)
        least, full = profile.counts[0], case.model.geometry.tokens
        best_ns, sequences = brute_force(truth.problem(range(least, full + 1)), round(drop / profile.unit))
        took_ns = truth.dense_ns if plan.schedule is None else truth.schedule_ns(plan.schedule)
        took, best = took_ns / truth.dense_ns, best_ns / truth.dense_ns
        found.append(Outcome(case, method, took, plan.schedule is None, best, sequences))
    return found


def brute_force(problem: Problem, most_loss: int) -> tuple[float, int]:
    """The least latency of all sequences of counts that lose no more than ``most_loss``, and how many there are."""
    state: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    ns, loss = np.array([problem.fixed_ns]), np.zeros(1)
    for block_loss in problem.block_loss:
        grown = [
            (np.full(here.sum(), to), ns[here] + problem.block_ns[state[here], to], added[here])
            for to in range(len(problem.counts))
            for added in [loss + block_loss[state, to]]
            for here in [(added <= most_loss) & np.isfinite(problem.block_ns[state, to])]
        ]
        state, ns, loss = (np.concatenate(parts) for parts in zip(*grown))
    return float(ns.min()), len(ns)


def figures_of(outcomes: Sequence[Outcome], worth: Sequence[Outcome]) -> list[Figure]:
    """The gaps."""
    gaps = 100 * np.array([one.gap for one in worth])
    refused = [one for one in worth if one.refused]
    figures = [
        Figure(f"{len(worth)} of {len(outcomes)} plans have something to gain: mean gap", gaps.mean(), "%", GOAL),
        Figure("median gap", float(np.median(gaps)), "%"),
        Figure("95th percentile of gaps", float(np.quantile(gaps, 0.95)), "%"),
        Figure("worst gap", float(gaps.max()), "%"),
        Figure("refused among them", 100 * len(refused) / len(worth), "%"),
        Figure("mean gap, had nothing been pruned", 100 * float(np.mean([1 / one.best - 1 for one in worth])), "%"),
        Figure("sequences gone through for a plan, at most", max(one.sequences for one in outcomes) / 1e6, "million"),
    ]
    for depth, side in SHAPES:
        own = [100 * one.gap for one in worth if one.case.model.geometry.depth == depth]
        if own:
            figures.append(Figure(f"{depth} blocks, {side * side + 1} tokens: mean gap", float(np.mean(own)), "%"))
    return figures
