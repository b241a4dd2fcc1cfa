"""Calls timed side by side: in every round each in a fresh random order, with the dense one in between.

What the machine does meets all alike, so what is compared are ratios within the same minutes. A ratio is that of low
quantiles, which a neighbour's burst does not reach; its interval is a bootstrap over rounds.
Left to others: what is called, and what the ratios are held against.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

DENSE = "dense"

BETWEEN = 4
"""Others between two calls of the dense one."""

LEAST_ROUNDS = 6
QUIET = 0.1
RESAMPLES = 500

Samples = Mapping[str, Sequence[Sequence[int]]]
"""Nanoseconds of each call of each round."""


def take(calls: Mapping[str, Callable[[], object]], seconds: float, seed: int = 0) -> dict[str, list[list[int]]]:
    """Time ``calls``, of which one is ``dense``, in rounds for about ``seconds``; each was run twice before."""
    order = random.Random(seed)
    samples: dict[str, list[list[int]]] = {name: [] for name in calls}
    others = [name for name in calls if name != DENSE]
    for call in calls.values():
        call()
        call()
    began = time.monotonic()
    while len(samples[DENSE]) < LEAST_ROUNDS or time.monotonic() - began < seconds:
        for ns in samples.values():
            ns.append([])
        shuffled = order.sample(others, len(others))
        for start in range(0, len(shuffled), BETWEEN):
            for name in [DENSE, *shuffled[start : start + BETWEEN]]:
                mark = time.perf_counter_ns()
                calls[name]()
                samples[name][-1].append(time.perf_counter_ns() - mark)
    return samples


def quiet_ns(rounds: Sequence[Sequence[int]]) -> float:
    """The low quantile of all calls."""
    return float(np.quantile(np.concatenate([np.asarray(one) for one in rounds]), QUIET))


def estimated(samples: Samples, of: Callable[[Callable[[str], float]], float]) -> tuple[float, float, float]:
    """A figure made ``of`` the quiet nanoseconds of each name, and its 95 % interval over rounds."""
    count = len(samples[DENSE])
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))

    def figure(chosen: Sequence[int] | np.ndarray) -> float:
        return of(lambda name: quiet_ns([samples[name][place] for place in chosen]))

    resampled = [figure(places) for places in drawn]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return figure(range(count)), float(low), float(high)


def ratio(samples: Samples, name: str) -> tuple[float, float, float]:
    """Time of ``name`` as a share of the dense one's, with its interval."""
    return estimated(samples, lambda ns: ns(name) / ns(DENSE))
