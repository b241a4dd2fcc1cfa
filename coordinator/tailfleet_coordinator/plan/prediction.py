"""What one call of a model is expected to take, and when one prediction is below another beyond doubt."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """Time of one call of the whole model on the model's statistic, with a 95 % interval."""

    ns: float
    half_ns: float
    """Half of the interval that quiet times are the cause of."""
    extrapolated: bool
    """Some count lies outside what was measured; the figure is a guess."""
    inferred: bool
    """Some count lies between measured ones that are not adjacent."""
    fall_ns: tuple[float, ...] = ()
    """By how much ``ns`` falls if a source of the spread is at the low end of its interval, for each source."""
    rise_ns: tuple[float, ...] = ()

    @property
    def low_ns(self) -> float:
        """The lower end of the interval."""
        return max(self.ns - float(np.linalg.norm([self.half_ns, *self.fall_ns])), 0.0)

    @property
    def high_ns(self) -> float:
        """The upper end of the interval."""
        return self.ns + float(np.linalg.norm([self.half_ns, *self.rise_ns]))

    def margin_ns(self, other: "Prediction") -> float:
        """What ``other`` must be slower by than this one to be so beyond doubt: both intervals in quadrature.

        A factor that both have in common moves both alike: only what it moves of their difference counts. Both are
        of one model. (The interval of a difference from those of its terms: Zou and Donner, 2008.)
        """
        at_low = [own - others for own, others in zip(self.fall_ns, other.fall_ns, strict=True)]
        at_high = [others - own for own, others in zip(self.rise_ns, other.rise_ns, strict=True)]
        shared = [max(0.0, -low, -high) for low, high in zip(at_low, at_high, strict=True)]
        return float(np.linalg.norm([self.half_ns, other.half_ns, *shared]))
