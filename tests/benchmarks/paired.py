"""How sure a difference is that was seen on the same images: a paired bootstrap over images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
SEED = 5


@dataclass(frozen=True)
class Interval:
    """A difference in points, and where 95 % of its resamples lie."""

    value: float
    low: float
    high: float


def difference(
    first: NDArray[np.float64], second: NDArray[np.float64], score: Callable[[NDArray[np.float64]], float] | None = None
) -> Interval:
    """``score`` of ``first`` less that of ``second``, in points; both have a row (or number) for each image.

    ``score`` gives a share of what rows sum up to; without, it is the mean.
    """
    random = np.random.RandomState(SEED)
    count = len(first)

    def of(weights: NDArray[np.float64]) -> float:
        if score is None:
            return float(100 * weights @ (first - second) / count)
        return 100 * (score(np.tensordot(weights, first, 1)) - score(np.tensordot(weights, second, 1)))

    drawn = [of(random.multinomial(count, [1 / count] * count).astype(float)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(of(np.ones(count)), float(low), float(high))
