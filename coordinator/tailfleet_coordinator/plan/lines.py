"""Straight lines through pieces of a latency curve, and where a curve is best cut into such pieces.

The cut is a change-point analysis: the segmentation that minimises ``Σ χ²(stretch) + penalty · stretches``, found
exactly by PELT (Killick, Fearnhead and Eckley, JASA 107, 2012) as the library ``ruptures`` has it, over every place
(``jump=1``, stretches of a single point allowed). The cost of a stretch is the χ² of the best straight line through
it, each point weighed by its own noise, at its own count, however unevenly they are spaced; it comes from prefix sums
for all stretches at once. The penalty is ``2 ln(points)``, Schwarz' criterion for what a further stretch adds: a level
and a place (its slope is no free parameter, see below).

A line through two points has no misfit at all, so a slope alone could explain any step. Slopes therefore have a prior.
At first it is normal about half of the curve's overall slope, with that overall slope as deviation: within a tread a
curve may be flat or rise as the whole does, but hardly much faster. Then it is about what its own pieces share.

Why ``ruptures``: it takes a cost of one's own, which weights, uneven spacing and the prior need; it is exact; and it
is kept up. Its ready ``CostLinear`` weighs all points alike and calls every pair of points perfect, and its
``KernelCPD``, in C, finds changes of a mean. asv's step finder (a Potts fit under L1) knows flat pieces alone, and a
rising curve has none. It takes 4 to 30 ms for 200 points, 1 ms for 50.
Left to others: which of the cuts are steps (``treads``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruptures
from numpy.typing import NDArray
from ruptures.base import BaseCost

Array = NDArray[np.float64]

PENALTY = 2.0
"""Times ln(points): parameters that a further stretch adds."""

LEAST_SPREAD = 0.1
"""Deviation of the slopes of one curve's treads, at least, as a share of that of any curve's."""

STEEPEST = 1e-4
"""The prior of slopes is never narrower than this share of the typical time, for a token: a flat curve has no overall
slope to go by."""


@dataclass(frozen=True)
class Slopes:
    """What slopes are expected to be, in ns a token: normal."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, tokens: Array, ns: Array) -> "Slopes":
        """Those of a curve of at least one point, ascending by tokens."""
        overall = float(ns[-1] - ns[0]) / max(float(tokens[-1] - tokens[0]), 1.0)
        return cls(overall / 2, max(abs(overall), STEEPEST * float(np.median(ns))))

    def learned(self, pieces: Sequence[tuple[Array, Array, Array]]) -> "Slopes":
        """From these, which hold for any curve, to those of one whose pieces (tokens, ns, deviation of each) are known.
        Treads of one curve rise alike."""
        lines = [Line.through(*piece, self) for piece in pieces]
        own = [1 / line.slope_variance - self.deviation**-2 for line in lines]
        mean = sum(line.slope_ns * weight for line, weight in zip(lines, own, strict=True))
        # As if one more piece had the slope that is expected of any curve.
        mean = (mean + self.mean * self.deviation**-2) / (sum(own) + self.deviation**-2)
        return Slopes(mean, max(abs(mean), LEAST_SPREAD * self.deviation))


@dataclass(frozen=True)
class Line:
    """A line through points, and how well they tell it."""

    centre: float
    level_ns: float
    """At ``centre``."""
    slope_ns: float
    level_variance: float
    slope_variance: float
    """Independent of that of the level, which ``centre`` is chosen for."""

    @classmethod
    def through(cls, tokens: Array, ns: Array, deviation: Array, slopes: Slopes) -> "Line":
        """The most likely line through at least one point, each with its standard deviation."""
        weights = deviation**-2
        total = float(weights.sum())
        centre = float((weights * tokens).sum()) / total
        level = float((weights * ns).sum()) / total
        offset = tokens - centre
        # Normal prior, normal noise: precisions add up.
        precision = float((weights * offset**2).sum()) + slopes.deviation**-2
        slope = (float((weights * offset * ns).sum()) + slopes.mean * slopes.deviation**-2) / precision
        return cls(centre, level, slope, 1 / total, 1 / precision)

    def at(self, tokens: float) -> float:
        """Its time in ns."""
        return self.level_ns + self.slope_ns * (tokens - self.centre)

    def variance_at(self, tokens: float) -> float:
        """Variance of :meth:`at`, in ns²."""
        return self.level_variance + self.slope_variance * (tokens - self.centre) ** 2


def cut(tokens: Array, ns: Array, deviation: Array, slopes: Slopes) -> list[int]:
    """Where a curve of at least one point is cut: the index behind each stretch's last point, ascending, the number of
    points the last of them. ``deviation`` is each point's standard deviation, in ns."""
    if len(tokens) < 2:
        return [len(tokens)]
    search = ruptures.Pelt(custom_cost=_ChiSquare(slopes), min_size=1, jump=1)
    found = search.fit_predict(np.column_stack([tokens, ns, deviation]), PENALTY * math.log(len(tokens)))
    return [int(end) for end in found]


class _ChiSquare(BaseCost):  # type: ignore[misc]
    """χ² of the best line through each stretch; the columns of the signal are tokens, ns and standard deviation."""

    model = "weighted lines"
    min_size = 1

    def __init__(self, slopes: Slopes) -> None:
        self._slopes = slopes
        self.signal: Array | None = None

    def fit(self, signal: Array) -> "_ChiSquare":
        """Prepare the cost of all stretches."""
        self.signal = signal
        tokens, ns, deviation = signal.T
        # About a common line, so that the sums below do not cancel.
        centre, level, mean = float(tokens.mean()), float(np.median(ns)), self._slopes.mean
        x = tokens - centre
        y = (ns - level - mean * x) / self._slopes.deviation
        weights = (self._slopes.deviation / deviation) ** 2
        sums = [np.concatenate([[0.0], np.cumsum(weights * term)]) for term in (1.0, x, y, x * x, x * y, y * y)]
        w, wx, wy, wxx, wxy, wyy = (total[None, :] - total[:, None] for total in sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = wxx - wx * wx / w + 1.0
            self._cost = (wyy - wy * wy / w - (wxy - wx * wy / w) ** 2 / spread).tolist()
        return self

    def error(self, start: int, end: int) -> float:
        """χ² of the stretch from ``start`` to before ``end``."""
        return float(self._cost[start][end])
