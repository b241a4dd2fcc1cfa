"""What one call of a model is expected to take, how wrong that may be, and when one prediction is below another beyond
doubt.

Two predictions of one model share causes of error: a factor from quiet to another statistic, and the blocks that both
run on all tokens, whose time is the very same measurement. What is shared moves both alike, so that it cannot make one
slower than the other; only the difference of what it moves counts.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Doubt:
    """Halves of 95 % intervals, in ns, by cause."""

    full_ns: float = 0.0
    """The curve at all tokens: what a dense model and the blocks before a first reduction are known by."""
    fewer_ns: float = 0.0
    """The curve at fewer tokens."""
    rest_ns: float = 0.0
    """All else."""

    @property
    def half_ns(self) -> float:
        """Half of the interval of them all. The curve's errors at several counts may have one cause, so they add up."""
        return float(np.hypot(self.full_ns + self.fewer_ns, self.rest_ns))

    def times(self, by: float) -> "Doubt":
        """Of what takes ``by`` times as long."""
        return Doubt(by * self.full_ns, by * self.fewer_ns, by * self.rest_ns)

    def apart_ns(self, other: "Doubt") -> float:
        """Half of the interval of the difference of two predictions of one model. One cause of all the curve's errors
        would make it smaller, so those of fewer tokens are taken to have causes of their own."""
        apart = [self.full_ns - other.full_ns, self.fewer_ns, other.fewer_ns, self.rest_ns, other.rest_ns]
        return float(np.linalg.norm(apart))


@dataclass(frozen=True)
class Prediction:
    """Time of one call of the whole model on the model's statistic, with a 95 % interval."""

    ns: float
    doubt: Doubt
    """What quiet times are the cause of."""
    extrapolated: bool
    """Some count lies outside what was measured; the figure is a guess."""
    inferred: bool
    """Some count lies between measured ones that are not adjacent."""
    fall_ns: tuple[float, ...] = ()
    """By how much ``ns`` falls if a source of the spread is at the low end of its interval, for each source."""
    rise_ns: tuple[float, ...] = ()

    @property
    def half_ns(self) -> float:
        """Half of the interval that quiet times are the cause of."""
        return self.doubt.half_ns

    @property
    def low_ns(self) -> float:
        """The lower end of the interval."""
        return max(self.ns - float(np.linalg.norm([self.half_ns, *self.fall_ns])), 0.0)

    @property
    def high_ns(self) -> float:
        """The upper end of the interval."""
        return self.ns + float(np.linalg.norm([self.half_ns, *self.rise_ns]))

    def margin_ns(self, other: "Prediction") -> float:
        """What ``other`` must be slower by than this one to be so beyond doubt: both intervals in quadrature, less what
        both have in common.

        Both are of one model. (The interval of a difference from those of its terms: Zou and Donner, 2008.)
        """
        at_low = [own - others for own, others in zip(self.fall_ns, other.fall_ns, strict=True)]
        at_high = [others - own for own, others in zip(self.rise_ns, other.rise_ns, strict=True)]
        shared = [max(0.0, -low, -high) for low, high in zip(at_low, at_high, strict=True)]
        return float(np.linalg.norm([self.doubt.apart_ns(other.doubt), *shared]))
