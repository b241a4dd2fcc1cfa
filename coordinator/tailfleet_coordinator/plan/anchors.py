"""Whole models under a few schedules, timed with a sweep: what parts cannot tell of blocks that reduce.

Parts are timed with one count in all blocks. Within a pass whose counts change, a block that reduces and those behind
it cost other than their parts: their input is in no cache and their buffers are new (2–4 % on a CPU), a runtime fuses
what was timed apart, a GPU hides launches behind work. Two schedules a method tell how much: one that reduces once, so
that most blocks lie behind a reduction, and one that reduces in every block. How well shares that they have in common
explain them tells how far a further schedule may be off. They follow from the model's shape alone, so that whoever
reads a sweep knows them by digest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.statistics import CONFIDENCE
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import Geometry

KEPT_ONCE = 0.55
"""Share of all tokens that the schedule that reduces once leaves, a third into the depth; no less, for merging halves
at most."""

KEPT_AT_LAST = 0.3
"""Share of all tokens that leave the last block of the one that reduces everywhere, by the same ratio in each."""

SHARED = 0.1
BY_PLACE = 0.03
BY_METHOD = 0.02
"""Standard deviations of the shares that are looked for, before anything is seen: of what all methods and places have
in common, of what reducing blocks have that those behind them have not, and of what each method has of its own."""

SCATTER = 0.015
"""Standard deviation, as a share of the blocks that reduce and those behind them, that a schedule is usually off by on
its own, whatever it shares with others: no two are off by quite the same."""

SCATTERS = SCATTER * 2.0 ** np.linspace(-2.0, 1.0, 7)
"""What it may be on a board; before anything is seen, its logarithm is normal about the usual one, by a factor of two.
How well the parts of a board foretell its anchors tells which. No more than twice the usual one: else two anchors whose
shares differ as a GPU's may would rather be held to be scattered."""


def anchors(model: str, geometry: Geometry, methods: Iterable[str]) -> list[Schedule]:
    """The schedules that a sweep of ``methods`` times; none for ``dense``, nor for a method that cannot reduce here.

    Raises ``ScheduleError`` for an unknown method.
    """
    return list(_anchors(model, geometry, tuple(methods)))


@lru_cache(maxsize=64)
def _anchors(model: str, geometry: Geometry, methods: tuple[str, ...]) -> tuple[Schedule, ...]:
    full, depth = geometry.tokens, geometry.depth
    first = depth // 3
    keeps = [
        [full if block < first else full * KEPT_ONCE for block in range(depth)],
        [full * KEPT_AT_LAST ** ((block + 1) / depth) for block in range(depth)],
    ]
    found: dict[str, Schedule] = {}
    for method in methods:
        for wanted in keeps:
            keep: list[int] = []
            for count in wanted:
                entering = keep[-1] if keep else full
                least = max(smallest_reachable(method, entering, geometry.prefix), geometry.prefix + 1)
                keep.append(min(entering, max(round(count), least)))
            schedule = Schedule(method, model, full, geometry.prefix, keep)
            if not schedule.is_dense:
                found[schedule.digest] = schedule
    return tuple(found.values())


_CENTRAL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Seen:
    """One schedule as its parts and as it was timed, in ns."""

    method: str
    reducing_ns: float
    """Blocks that reduce, by their parts."""
    behind_ns: float
    """Other blocks that fewer than all tokens enter."""
    excess_ns: float
    """What it took longer than its parts say."""
    half_ns: float
    """Half of the interval of the time that it took."""
    whole_ns: float


@dataclass(frozen=True, eq=False)
class Context:
    """By what share blocks of one method cost more within a pass than their parts."""

    reducing: float
    behind: float
    covariance: NDArray[np.float64]  # (2, 2)
    scatter: float
    """Standard deviation of what a schedule is off by besides, as a share of those blocks."""

    def half_ns(self, reducing_ns: float, behind_ns: float) -> float:
        """Half of the interval of a further schedule that shares and scatter are the cause of."""
        blocks = np.array([reducing_ns, behind_ns])
        return _CENTRAL * float(np.sqrt(blocks @ self.covariance @ blocks + (self.scatter * blocks.sum()) ** 2))


def contexts(seen: Sequence[Seen]) -> dict[str, Context]:
    """By method. Bayesian least squares over all of them, so that few schedules, even one, are enough; the scatter is
    weighed by how likely it makes what was seen."""
    methods = sorted({one.method for one in seen})
    if not methods:
        return {}
    rows = np.zeros((len(seen), 2 * len(methods)))
    for row, one in zip(rows, seen, strict=True):
        place = 2 * methods.index(one.method)
        row[place : place + 2] = one.reducing_ns, one.behind_ns
    alike = np.kron(np.ones((len(methods), len(methods))), np.eye(2))
    prior = SHARED**2 + BY_PLACE**2 * alike + BY_METHOD**2 * np.eye(len(alike))
    excess, affected = np.array([one.excess_ns for one in seen]), rows.sum(axis=1)
    timing = np.array([one.half_ns / _CENTRAL for one in seen])
    noise = np.hypot(timing, SCATTERS[:, None] * affected)  # (scatters, seen)
    likely = _likely(excess, (rows @ prior @ rows.T)[None] + noise[:, :, None] ** 2 * np.eye(len(seen)))
    likely *= np.exp(-0.5 * np.log2(SCATTERS / SCATTER) ** 2)
    scatter = float(np.sqrt((likely * SCATTERS**2).sum() / likely.sum()))
    noise = np.hypot(timing, scatter * affected)
    scaled = rows / noise[:, None]
    covariance = np.linalg.inv(scaled.T @ scaled + np.linalg.inv(prior))
    shares = covariance @ scaled.T @ (excess / noise)
    found = {}
    for place, method in enumerate(methods):
        own = slice(2 * place, 2 * place + 2)
        found[method] = Context(float(shares[own][0]), float(shares[own][1]), covariance[own, own], scatter)
    return found


def _likely(values: NDArray[np.float64], covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """How likely normal ``values`` about zero are by each of ``covariances``, beside the likeliest."""
    _, determinants = np.linalg.slogdet(covariances)
    squares = (
        values * np.linalg.solve(covariances, np.broadcast_to(values[:, None], (*covariances.shape[:2], 1)))[..., 0]
    ).sum(axis=1)
    logarithms = -0.5 * (determinants + squares)
    likely: NDArray[np.float64] = np.exp(logarithms - logarithms.max())
    return likely
