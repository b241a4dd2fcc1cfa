"""How the losses of single blocks compose: fitted to the whole schedules that a profile judged besides.

Reducing n → m at block l adds ``w(l)·max(0, s(l, m) − s(l, n))``, where s is what the profile expects of that block,
before it levels off towards chance: ``s = −D·ln(1 − d/D)``, D the dense top-1 above it. The sum S of all steps loses
``D·(1 − exp(−S/D))`` points. With all weights 1 that is the additive composition but for the levelling. The weights,
one a block, say what single reductions at profiled blocks cannot: that blocks in between lose more or less than their
neighbours, and that what a block loses of tokens which earlier ones have chosen is more or less than of all. They are
fitted in logarithms, ridge on ridge: each towards the level that all have in common, which is drawn towards 1. Widths
and scatter are what whole schedules of topk and tome on two models showed; nothing hangs on their digits.

Since S adds and the rest only rises with it, the search is exact for this composition, too. Its own caution is one
standard deviation of what was left out of a fit: images are lost by counts, so that the variance grows with the loss.
Where losses of single blocks that simply add are no further from the held-out schedules, they stay as they are.

Left to others: which schedules are judged (``wholes``), and losses of single blocks (``accuracy``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.accuracy import RESOLUTION_POINTS, AccuracyProfile, HeldOut, ceiling_of, estimates
from tailfleet_schema.curve import WHOLE, Judgement, Part, UnitResult
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

LEAST_WHOLES = 8
"""Judged whole schedules: fewer say nothing of a composition."""

WEIGHT_SD = 0.6
"""Of the logarithm of a block's weight about the level of all."""

LEVEL_SD = 1.0
"""Of the logarithm of that level about 0."""

SCATTER = 0.35
"""Of the logarithm of a schedule's loss about its sum."""

STEPS = 8
"""Of Gauss and Newton; each moves a logarithm by 1 at most."""

LEVELLED = 0.999
"""Of D: more is taken for so much."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Composition:
    """A profile whose losses compose as was fitted. As a measure of loss and in what it says, like the profile."""

    profile: AccuracyProfile
    ceiling: float
    """D, in points."""
    weights: _Array  # (D,)
    floor: float
    """Points: what one standard deviation of no loss at all is."""
    spread: float
    """Points squared of variance for each point of loss."""
    held_out: HeldOut

    @property
    def images(self) -> int:
        """That were judged on."""
        return self.profile.images

    @property
    def dense_top1(self) -> float:
        """Percent."""
        return self.profile.dense_top1

    def allows(self, block: int, m: int) -> bool:
        """Whether the profile knows of such a reduction, at least by interpolation."""
        return self.profile.allows(block, m)

    def step_units(self, block: int, n: int, m: int) -> int:
        """What reducing n → m at ``block`` adds to S, rounded up."""
        return math.ceil(self._step(block, n, m) / RESOLUTION_POINTS - 1e-9)

    def steps_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """:meth:`step_units` of all blocks and counts."""
        return self.profile.steps_of(self._alone(depth, counts), counts)

    def allowed(self, depth: int, counts: Sequence[int]) -> NDArray[np.bool_]:
        """:meth:`allows` of all blocks and counts."""
        return self.profile.allowed(depth, counts)

    def alone_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """Before levelling, as the steps are."""
        return self._alone(depth, counts) / RESOLUTION_POINTS

    def _alone(self, depth: int, counts: Sequence[int]) -> _Array:
        sums = _before_levelling(self.profile.expected_losses(depth, counts), self.ceiling)
        return np.asarray(self.weights[:, None] * sums)

    def total(self, units: _Array) -> _Array:
        """Cautious loss in points."""
        lost = _levelled(units * RESOLUTION_POINTS, self.ceiling)
        return np.where(units > 0, lost + np.sqrt(self.floor**2 + self.spread * lost), 0.0)

    def expected_drop(self, schedule: Schedule) -> float:
        """Best guess of what ``schedule`` loses, in points; not cautious."""
        blocks = enumerate(zip(schedule.entering, schedule.keep, strict=True))
        sums = sum(self._step(block, n, m) for block, (n, m) in blocks if m < n)
        return float(_levelled(sums, self.ceiling))

    def reaches(self, schedule: Schedule) -> bool:
        """Whether the profile knows of all its reductions, at least by interpolation."""
        return self.profile.reaches(schedule)

    def is_interpolated(self, schedule: Schedule) -> bool:
        """Whether a reduction of ``schedule`` was not profiled itself."""
        return self.profile.is_interpolated(schedule)

    def _step(self, block: int, n: int, m: int) -> float:
        return float(self.weights[block]) * _steps(self.profile, block, n, m, self.ceiling)


def composed(
    profile: AccuracyProfile, geometry: Geometry, schedules: Sequence[Schedule], results: Sequence[UnitResult]
) -> AccuracyProfile | Composition:
    """``profile`` with the composition that is nearer to held-out schedules, and how near; as it is where fewer than
    ``LEAST_WHOLES`` were judged.

    ``schedules``, of the profile's method, are looked for in ``results``, which ``profile`` was fitted to.
    """
    by_digest = {one.digest: one for one in schedules}
    singles: list[Judgement] = []
    judged: list[tuple[Schedule, Judgement]] = []
    dense: Judgement | None = None
    methods = {one.method for one in schedules}
    for result in results:
        unit, judgement = result.unit, result.judgement
        if unit.part is not Part.LOSS or judgement is None:
            continue
        if unit.block == WHOLE:
            if unit.label in by_digest:
                judged.append((by_digest[unit.label], judgement))
        elif unit.label in methods and unit.kept == geometry.tokens:
            dense = judgement
        elif unit.label in methods:
            singles.append(judgement)
    if dense is None or len(judged) < LEAST_WHOLES:
        return profile
    ceiling = ceiling_of(dense, geometry.classes)
    drops = np.array([100.0 * (dense.correct - one.correct) / one.images for _, one in judged])
    # What they lost, smoothed by divergence as losses of single blocks are.
    smoothed = estimates(dense, singles + [one for _, one in judged], geometry.classes)[0][len(singles) :]
    added = np.zeros((len(judged), geometry.depth))
    for row, (schedule, _) in enumerate(judged):
        for block, (n, m) in enumerate(zip(schedule.entering, schedule.keep, strict=True)):
            if m < n:
                added[row, block] = _steps(profile, block, n, m, ceiling)
    floor = 25.0 / dense.images
    target = np.log(_before_levelling(smoothed, ceiling) + 0.1 * floor)
    weights = _weights(added, target, 0.1 * floor)
    foretold = _levelled((added * weights[1:]).sum(axis=1), ceiling)
    additive = np.array([profile.expected_drop(schedule) for schedule, _ in judged])
    errors = [float(np.abs(guess - drops).mean()) for guess in (foretold, additive)]
    # Images that come and go by chance hide which is nearer; divergence does not.
    if np.abs(foretold - smoothed).sum() >= np.abs(additive - smoothed).sum():
        return replace(profile, held_out=HeldOut(len(judged), errors[1], errors[1]))
    # Losing less than foretold is no risk: what exceeds is taken for one half of a normal distribution.
    exceeding = 2.0 * float((np.maximum(drops - foretold, 0.0) ** 2).sum()) - len(judged) * floor**2
    # Where hardly anything is lost, what exceeds is chance: it must not count as if it grew with a loss.
    spread = max(0.0, exceeding) / float((foretold + floor).sum())
    return Composition(profile, ceiling, weights[0], floor, spread, HeldOut(len(judged), *errors))


def _steps(profile: AccuracyProfile, block: int, n: int, m: int, ceiling: float) -> float:
    """What reducing n → m at ``block`` alone adds to S with a weight of 1."""
    before, after = (_before_levelling(profile.expected_loss(block, count), ceiling) for count in (n, m))
    return max(0.0, float(after - before))


def _levelled(sums: _Array | float, ceiling: float) -> _Array:
    """The points that S comes to."""
    return np.asarray(ceiling * -np.expm1(-sums / ceiling))


def _before_levelling(lost: _Array | float, ceiling: float) -> _Array:
    """S of so many points lost."""
    return np.asarray(-ceiling * np.log1p(-np.minimum(lost / ceiling, LEVELLED)))


def _weights(added: _Array, target: _Array, offset: float) -> _Array:
    """Weights of blocks, from all schedules in the first row and without one of them in each of the others: (1 + S, D).

    ``added`` (S, D) is what each block of each schedule adds to its sum with weights of 1; ``target`` (S,) is the
    logarithm of that sum plus ``offset``.
    """
    size, depth = added.shape
    used = np.vstack([np.ones((1, size)), 1.0 - np.eye(size)]) / SCATTER**2  # (1 + S, S)
    drawn = np.append(np.full(depth, WEIGHT_SD**-2), LEVEL_SD**-2)
    found = np.zeros((size + 1, depth + 1))  # logarithms: of each block about the level, then the level
    for _ in range(STEPS):
        parts = added * np.exp(found[:, None, :-1] + found[:, None, -1:])  # (1 + S, S, D)
        sums = parts.sum(axis=2) + offset
        slopes = np.concatenate([parts, parts.sum(axis=2, keepdims=True)], axis=2) / sums[:, :, None]
        weighed = slopes * used[:, :, None]
        normal = np.einsum("fsi,fsj->fij", weighed, slopes) + np.diag(drawn)
        right = np.einsum("fsi,fs->fi", weighed, target - np.log(sums)) - drawn * found
        found += np.clip(np.linalg.solve(normal, right[:, :, None])[:, :, 0], -1.0, 1.0)
    return np.asarray(np.exp(found[:, :-1] + found[:, -1:]))
