"""Whole models under a few schedules, timed with a sweep: what parts cannot tell of blocks that reduce.

Parts are timed with one count in all blocks. Within a pass whose counts change, a block that reduces and those behind
it cost other than their parts: their input is in no cache and their buffers are new (2–4 % on a CPU), a runtime fuses
what was timed apart, a GPU hides launches behind work. Two schedules a method tell how much: one that reduces once, so
that most blocks lie behind a reduction, and one that reduces in every block. They follow from the model's shape alone,
so that whoever reads a sweep knows them by digest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

LEAST_NOISE = 0.01
"""Whole models are trusted to this share at best: no two schedules are off by quite the same."""


def anchors(model: str, geometry: Geometry, methods: Iterable[str]) -> list[Schedule]:
    """The schedules that a sweep of ``methods`` times; none for ``dense``, nor for a method that cannot reduce here.

    Raises ``ScheduleError`` for an unknown method.
    """
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
    return list(found.values())


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

    def half_ns(self, reducing_ns: float, behind_ns: float) -> float:
        """Half of the interval that the shares are the cause of."""
        blocks = np.array([reducing_ns, behind_ns])
        return _CENTRAL * float(np.sqrt(blocks @ self.covariance @ blocks))


def contexts(seen: Sequence[Seen]) -> dict[str, Context]:
    """By method. Bayesian least squares over all of them, so that few schedules, even one, are enough."""
    methods = sorted({one.method for one in seen})
    if not methods:
        return {}
    rows = np.zeros((len(seen), 2 * len(methods)))
    for row, one in zip(rows, seen, strict=True):
        place = 2 * methods.index(one.method)
        row[place : place + 2] = one.reducing_ns, one.behind_ns
    noise = np.array([np.hypot(one.half_ns / _CENTRAL, LEAST_NOISE * one.whole_ns) for one in seen])
    alike = np.kron(np.ones((len(methods), len(methods))), np.eye(2))
    prior = SHARED**2 + BY_PLACE**2 * alike + BY_METHOD**2 * np.eye(len(alike))
    scaled = rows / noise[:, None]
    covariance = np.linalg.inv(scaled.T @ scaled + np.linalg.inv(prior))
    shares = covariance @ scaled.T @ (np.array([one.excess_ns for one in seen]) / noise)
    found = {}
    for place, method in enumerate(methods):
        own = slice(2 * place, 2 * place + 2)
        found[method] = Context(float(shares[own][0]), float(shares[own][1]), covariance[own, own])
    return found
