"""What a schedule will lose, from a profile: predictions with one block alone reducing N → m, or with it and as many
just before as the method needs to get to m (ToMe below half).

The loss of one reduction is estimated in percentage points of top-1 in three steps, since on a few hundred images
one image is half a point and most gentle reductions change none:

1. *KL-smoothed.* Over the whole profile the drop of top-1 follows the mean KL divergence from the dense model as
   ``D·(1 − exp(−KL/τ))``, D the dense top-1 above chance; τ is fitted, discordant images deciding the weights.
   The estimate of one (block, count) is the mean of its own drop and of this curve, weighed by their variances. So
   reductions that lose no image are still told apart, by how far they move the predictions.
2. *Cautious.* One standard deviation is added: a loss that is exceeded once in six times. This one is searched on.
3. *Monotone.* Fewer tokens at a block never lose less: isotonic regression over m.

Losses of several blocks add, telescoping: reducing n → m at block l costs ``max(0, d(l, m) − d(l, n))``, so splitting
one reduction over two places never looks cheaper by itself. So d(l, m) is what it costs to have m tokens from block l
on, however many blocks took part. Between profiled blocks and counts d is linear. Blocks outside the profiled ones, and
counts below the smallest that both profiled blocks around know of, are no candidates of a search: at the first blocks
ToMe cannot leave as few as later, so the table is ragged there. Published schedules reduce there, too: a block outside
is taken to lose as much as the nearest, and below a block's smallest count d goes on as the power of the dropped share
that its last two counts lie on, up to losing everything.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from tailfleet_schema.curve import Judgement, Part, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule, fewest_leaving
from tailfleet_schema.workload import Geometry

RESOLUTION_POINTS = 0.001
"""Losses are rounded up to this, far below what a profile can tell: it bounds the size of a Pareto front."""

STEEPEST = 4.0
"""Of the power that losses go on by below the smallest profiled count; at least they go on in proportion."""

LARGEST_TAU_NATS = 5.0
"""Where a profile shows no loss at all, a divergence of 0.05 nats is still held to cost about a point."""

_Array = NDArray[np.float64]


class LossModel(Protocol):
    """What the search asks of a measure of loss. Losses of steps are whole units, so that sums are exact."""

    def total(self, units: _Array) -> _Array:
        """What sums of steps in units lose in all, in percentage points (or percent); rises with them."""

    def allows(self, block: int, m: int) -> bool:
        """Whether ``block`` may reduce to m tokens."""

    def step_units(self, block: int, n: int, m: int) -> int:
        """The loss that reducing n → m at ``block`` adds; never negative, 0 for m = n."""

    def steps_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """That at each of ``depth`` blocks, from each of ``counts``, descending, to each: (D, K, K); ``inf`` where
        that is not allowed."""

    def allowed(self, depth: int, counts: Sequence[int]) -> NDArray[np.bool_]:
        """:meth:`allows` of each of ``depth`` blocks and each of ``counts``: (D, K)."""

    def alone_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """The loss of reducing all tokens to each of ``counts`` at each of ``depth`` blocks alone, not rounded: (D, K);
        a guess where that is not allowed. A step n → m adds no less than the difference of these."""

    def reaches(self, schedule: Schedule) -> bool:
        """Whether all that ``schedule`` does is allowed; else its loss is a guess."""


def loss_of(model: LossModel, schedule: Schedule) -> float:
    """The loss of a whole schedule in the model's points or percent: the sum of its steps, as a search adds them."""
    blocks = enumerate(zip(schedule.entering, schedule.keep, strict=True))
    units = sum(model.step_units(block, n, m) for block, (n, m) in blocks if m < n)
    return float(model.total(np.array(units, dtype=float)))


@dataclass(frozen=True)
class HeldOut:
    """How predictions of whole schedules compare with what was judged, on schedules that nothing was fitted to."""

    schedules: int
    error: float
    """Mean absolute error in points."""
    additive_error: float
    """The same where losses of single blocks add."""


@dataclass(frozen=True, eq=False)
class AccuracyProfile:
    """Losses in percentage points of top-1 on the calibration images."""

    tokens: int
    images: int
    dense_top1: float
    """Percent."""
    blocks: tuple[int, ...]
    """Profiled blocks, ascending; others in between are interpolated."""
    counts: tuple[int, ...]
    """Counts that any of them was profiled at, ascending, the full count (loss 0) last."""
    expected: _Array  # (blocks, counts)
    cautious: _Array  # (blocks, counts)
    seen: NDArray[np.bool_]  # (blocks, counts)
    """What was profiled itself; the rest of both tables is interpolated, or continued below a block's smallest."""
    held_out: HeldOut | None = None
    """How far ``expected_drop`` was from whole schedules, where any were judged."""

    @classmethod
    def fit(cls, geometry: Geometry, method: str, results: Sequence[UnitResult]) -> "AccuracyProfile":
        """From the LOSS results of ``method``; others are ignored.

        The dense model is the unit N → N. Raises ``InputError`` where it is missing, or a block × count that the method
        can reach.
        """
        judged = {
            (r.unit.block, r.unit.kept): r.judgement
            for r in results
            if r.unit.part is Part.LOSS
            and r.unit.label == method
            and r.unit.tokens == geometry.tokens
            and r.judgement is not None
        }
        dense = next((j for (_, kept), j in judged.items() if kept == geometry.tokens), None)
        places = [place for place in judged if place[1] < geometry.tokens]
        if dense is None or not places:
            raise InputError(f"the profile of {method!r} lacks the dense model or any reduction")
        blocks = sorted({block for block, _ in places})
        counts = sorted({kept for _, kept in places})
        least = [fewest_leaving(method, geometry.tokens, geometry.prefix, block) for block in blocks]
        for block, floor in zip(blocks, least, strict=True):
            # What is the smallest count of one block alone need not be known of the others.
            wanted = [max(floor, counts[0]), *(m for m in counts if m > floor and m not in least)]
            missing = next((m for m in wanted if (block, m) not in judged), None)
            if missing is not None:
                raise InputError(f"the profile of {method!r} lacks block {block} with {missing} tokens")
        seen = np.array([[(block, m) in judged for m in counts] for block in blocks])
        expected, deviation = estimates(dense, [judged[place] for place in sorted(places)], geometry.classes)
        dense_top1 = 100.0 * dense.correct / dense.images
        whole = np.zeros((len(blocks), 1))

        def table(values: _Array) -> _Array:
            rows = zip(np.split(values, np.cumsum(seen.sum(axis=1))[:-1]), seen, strict=True)
            filled = [_row(_falling(row), known, counts, geometry.tokens, dense_top1) for row, known in rows]
            return np.hstack([filled, whole])

        return cls(
            geometry.tokens,
            dense.images,
            dense_top1,
            tuple(blocks),
            (*counts, geometry.tokens),
            table(expected),
            table(expected + deviation),
            np.hstack([seen, whole == 0]),
        )

    def allows(self, block: int, m: int) -> bool:
        """Whether the profile knows of such a reduction, at least by interpolation."""
        return m >= self._least(block)

    @property
    def unit(self) -> float:
        """A thousandth of a point."""
        return RESOLUTION_POINTS

    def step_units(self, block: int, n: int, m: int) -> int:
        """Cautious loss of reducing n → m at ``block``, rounded up."""
        added = self._loss(self.cautious, block, m) - self._loss(self.cautious, block, n)
        return math.ceil(max(0.0, added) / RESOLUTION_POINTS - 1e-9)

    def steps_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """:meth:`step_units` of all blocks and counts."""
        return self.steps_of(self._losses(self.cautious, depth, counts), counts)

    def steps_of(self, lost: _Array, counts: Sequence[int]) -> _Array:
        """:meth:`steps_units` where blocks lose so many points with all ``counts``: (D, K)."""
        added = np.maximum(lost[:, None, :] - lost[:, :, None], 0.0)
        units = np.ceil(added / RESOLUTION_POINTS - 1e-9)
        return _steps(np.where(self.allowed(len(lost), counts)[:, None, :], units, np.inf))

    def allowed(self, depth: int, counts: Sequence[int]) -> NDArray[np.bool_]:
        """:meth:`allows` of all blocks and counts."""
        least = np.array([self._least(block) for block in range(depth)])
        return np.asarray(np.array(counts) >= least[:, None])

    def alone_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """By the cautious table."""
        return self._losses(self.cautious, depth, counts) / RESOLUTION_POINTS

    def total(self, units: _Array) -> _Array:
        """Losses add."""
        return units * RESOLUTION_POINTS

    def expected_loss(self, block: int, m: int) -> float:
        """Best guess of what it costs to have m tokens from ``block`` on; not cautious."""
        return self._loss(self.expected, block, m)

    def expected_losses(self, depth: int, counts: Sequence[int]) -> _Array:
        """:meth:`expected_loss` of all blocks and profiled ``counts``, or counts between such: (D, K)."""
        return self._losses(self.expected, depth, counts)

    def expected_drop(self, schedule: Schedule) -> float:
        """Best guess of what ``schedule`` loses, in points; not cautious."""
        return sum(
            max(0.0, self._loss(self.expected, block, m) - self._loss(self.expected, block, n))
            for block, (n, m) in enumerate(zip(schedule.entering, schedule.keep, strict=True))
            if m < n
        )

    def reaches(self, schedule: Schedule) -> bool:
        """Whether the profile knows of all its reductions, at least by interpolation."""
        return all(self.allows(block, schedule.keep[block]) for block in schedule.reducing_blocks)

    def is_interpolated(self, schedule: Schedule) -> bool:
        """Whether a reduction of ``schedule`` was not profiled itself."""
        return not all(self._saw(block, schedule.keep[block]) for block in schedule.reducing_blocks)

    def _saw(self, block: int, m: int) -> bool:
        if block not in self.blocks or m not in self.counts:
            return False
        return bool(self.seen[self.blocks.index(block), self.counts.index(m)])

    def _least(self, block: int) -> float:
        """The fewest tokens whose loss at ``block`` is known, at least by interpolation; ``inf``: none."""
        if not self.blocks[0] <= block <= self.blocks[-1]:
            return math.inf
        behind = bisect_left(self.blocks, block)
        around = {behind if self.blocks[behind] == block else behind - 1, behind}
        return max(self.counts[int(self.seen[row].argmax())] for row in around)

    def _losses(self, table: _Array, depth: int, counts: Sequence[int]) -> _Array:
        at_count = np.array([np.interp(counts, self.counts, row) for row in table])  # (blocks, K)
        lost: _Array = _between(self.blocks, depth) @ at_count  # (D, K)
        return lost

    def _loss(self, table: _Array, block: int, m: int) -> float:
        if block in self.blocks:
            return _at(m, self.counts, table[self.blocks.index(block)], self.tokens, self.dense_top1)
        at_count = [_at(m, self.counts, row, self.tokens, self.dense_top1) for row in table]
        return float(np.interp(block, self.blocks, at_count))


@dataclass(frozen=True)
class TokenWork:
    """Stands in where a model has no labelled images: the percentage of token × block that is not computed.

    It says how much of the dense computation is left out, and nothing of accuracy.
    """

    geometry: Geometry

    def allows(self, block: int, m: int) -> bool:
        """Anything but the last block, whose tokens nothing but its own MLP still sees."""
        return block < self.geometry.depth - 1 or self.geometry.depth == 1

    @property
    def unit(self) -> float:
        """One token in one block, in percent of all tokens × blocks."""
        return 100.0 / (self.geometry.depth * self.geometry.tokens)

    def total(self, units: _Array) -> _Array:
        """Work adds."""
        return units * self.unit

    def reaches(self, schedule: Schedule) -> bool:
        """What is left out is known of any schedule."""
        return True

    def step_units(self, block: int, n: int, m: int) -> int:
        """Tokens dropped × blocks from here on."""
        return (n - m) * (self.geometry.depth - block)

    def steps_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """:meth:`step_units` of all blocks and counts."""
        n = np.array(counts, dtype=float)
        behind = depth - np.arange(depth, dtype=float)
        behind[[not self.allows(block, 1) for block in range(depth)]] = np.inf
        with np.errstate(invalid="ignore"):
            return _steps((n[:, None] - n[None, :]) * behind[:, None, None])

    def allowed(self, depth: int, counts: Sequence[int]) -> NDArray[np.bool_]:
        """:meth:`allows` of all blocks and counts."""
        return np.array([[self.allows(block, 1)] * len(counts) for block in range(depth)])

    def alone_units(self, depth: int, counts: Sequence[int]) -> _Array:
        """Tokens dropped × blocks from each on."""
        dropped = self.geometry.tokens - np.array(counts, dtype=float)
        return dropped[None, :] * np.arange(depth, 0, -1)[:, None]


@lru_cache(maxsize=64)
def _between(blocks: tuple[int, ...], depth: int) -> _Array:
    """What makes of figures at ``blocks`` those at all of ``depth``, linear in between: (D, blocks)."""
    return np.array([np.interp(range(depth), blocks, one) for one in np.eye(len(blocks))]).T


def _steps(units: _Array) -> _Array:
    """``units`` (D, K, K) where counts fall, 0 where they stay, ``inf`` where they rise."""
    size = units.shape[1]
    found = np.where(np.triu(np.ones((size, size), dtype=bool), 1), units, np.inf)
    found[:, range(size), range(size)] = 0.0
    return found


def _row(losses: _Array, known: NDArray[np.bool_], counts: Sequence[int], tokens: int, most: float) -> list[float]:
    """The losses of one block at all ``counts``, from those where it is ``known``."""
    own = [m for m, here in zip(counts, known, strict=True) if here]
    return [_at(m, (*own, tokens), np.append(losses, 0.0), tokens, most) for m in counts]


def _at(m: int, counts: Sequence[int], losses: _Array, tokens: int, most: float) -> float:
    """What a block of such ``losses`` at ``counts``, the full one of ``tokens`` last, loses with m; ``most`` of all.

    Below the smallest count, fewer tokens than were profiled, it goes on as a power.
    """
    if m >= counts[0]:
        return float(np.interp(m, counts, losses))
    power = 1.0
    if len(counts) > 2 and losses[1] > 0:
        dropped = (tokens - counts[0]) / (tokens - counts[1])
        power = min(max(math.log(losses[0] / losses[1]) / math.log(dropped), 1.0), STEEPEST)
    further = math.pow((tokens - m) / (tokens - counts[0]), power)
    return min(float(losses[0]) * further, max(most, float(losses[0])))


def ceiling_of(dense: Judgement, classes: int) -> float:
    """The most points that can be lost: the dense model's top-1 above chance."""
    return max(100.0 * (dense.correct / dense.images - 1.0 / max(classes, 1)), 100.0 / dense.images)


def estimates(dense: Judgement, cells: Sequence[Judgement], classes: int) -> tuple[_Array, _Array]:
    """Expected drop in points, and its standard deviation, for each of ``cells``."""
    images = dense.images
    kl = np.array([max(0.0, j.kl_nats) for j in cells])
    drop = np.array([dense.correct - j.correct for j in cells]) * 100.0 / images
    discordant = np.array([_discordant(dense, j) for j in cells])
    # One more than was seen: that no image changed is no proof that none ever does.
    own_variance = (discordant + 1.0) * (100.0 / images) ** 2
    curve = _drop_of_kl(kl, drop, own_variance, ceiling_of(dense, classes))
    usual = curve(kl)
    usual_variance = (0.5 * usual) ** 2 + (25.0 / images) ** 2
    precision = 1.0 / own_variance + 1.0 / usual_variance
    expected = np.maximum((drop / own_variance + usual / usual_variance) / precision, 0.0)
    return expected, np.sqrt(1.0 / precision)


def _discordant(dense: Judgement, reduced: Judgement) -> int:
    """Images that exactly one of the two gets right; without the single answers as many as must be."""
    if len(dense.correct_bits) == len(reduced.correct_bits) == dense.images:
        return (int(dense.correct_bits, 2) ^ int(reduced.correct_bits, 2)).bit_count()
    return abs(dense.correct - reduced.correct)


def _drop_of_kl(kl: _Array, drop: _Array, variance: _Array, ceiling: float) -> Callable[[_Array], _Array]:
    """``D·(1 − exp(−KL/τ))`` with the τ of least weighted squares, on a grid a tenth of an octave fine."""
    positive = kl[kl > 0]
    if not positive.size:
        return np.zeros_like
    least = min(0.1 * float(positive.min()), LARGEST_TAU_NATS)
    steps = math.ceil(10 * math.log2(LARGEST_TAU_NATS / least)) + 1
    grid = LARGEST_TAU_NATS * 2.0 ** (-np.arange(steps) / 10)
    errors = [float((((drop - ceiling * -np.expm1(-kl / tau)) ** 2) / variance).sum()) for tau in grid]
    best = float(grid[int(np.argmin(errors))])
    return lambda at: np.asarray(ceiling * -np.expm1(-at / best))


def _falling(values: _Array) -> _Array:
    """The nearest sequence (least squares) that never rises."""
    return np.asarray(isotonic_regression(values, increasing=False).x)
