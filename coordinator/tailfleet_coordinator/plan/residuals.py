"""What verified schedules teach about a board: by what share its blocks cost other than predicted, and how surely.

A verification times schedules beside the dense model, so each tells the share of dense that it takes. What is left
between that and a prediction from the parts of a later sweep is a residual: put down to the blocks that reduce and
those behind them, as ``anchors`` puts down theirs, for a dense model is measured and needs no correction. Residuals of
all methods have a part in common (the board's) and one of their own; both are shrunk towards none by what they are
usually (a normal prior), so that few schedules correct little. What is left then of each schedule, as the others
foretell it, is held against what the intervals of its parts claim: where it is less, they claimed too much, and shrink;
what it scatters by beyond them no part explains, and widens the interval. Left to others: predictions (``latency``),
and verifying.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tailfleet_coordinator.plan.statistics import CONFIDENCE
from tailfleet_schema.schedule import Schedule

LEAST_SCHEDULES = 3
"""Nothing is learned from fewer different schedules that reduce: what is verified again teaches of itself alone."""

COMMON = 0.03
OWN = 0.02
"""Standard deviations of the shares that are looked for, before anything is seen: the board's, and each method's."""

CLAIMED = 4.0
"""What the parts claim counts as so many schedules that were found to be off by just that."""

LEAST_NOISE = 0.005
"""Of dense: no verification is trusted further, as states of a board differ from day to day."""

_CENTRAL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Verified:
    """A schedule as its board measured it beside dense, on quiet."""

    schedule: Schedule
    share: float
    """Its time over that of dense in the same rounds."""
    half_share: float
    """Half of the interval of that."""


@dataclass(frozen=True)
class Residual:
    """A verified schedule as it was and as it is predicted, in ns of the sweep's dense model."""

    method: str
    affected_ns: float
    """Blocks that reduce, and those behind them, as predicted."""
    excess_ns: float
    """By what it took longer than predicted."""
    half_ns: float
    """Half of the interval of its measurement."""
    dense_ns: float
    claimed_ns: float = 0.0
    """Half of the interval of its prediction that counts below all are the cause of."""


@dataclass(frozen=True)
class Correction:
    """By what share affected blocks cost more than predicted."""

    share: float = 0.0
    half_share: float = 0.0
    """Half of the interval of that, and of what neither share nor claim explains."""
    trusted: float = 1.0
    """What the claimed half of an interval is to be multiplied by; at most 1."""


def latest(verified: Sequence[Verified]) -> list[Verified]:
    """One of each schedule that reduces, the last."""
    return list({one.schedule.digest: one for one in verified if not one.schedule.is_dense}.values())


def corrections(residuals: Sequence[Residual], methods: Sequence[str]) -> dict[str, Correction]:
    """For each of ``methods``, whether it has residuals or not; none where the residuals are too few.

    ``residuals`` are of different schedules.
    """
    if len(residuals) < LEAST_SCHEDULES:
        return {}
    names = sorted({*methods, *(one.method for one in residuals)})
    rows = np.zeros((len(residuals), len(names)))
    for row, one in zip(rows, residuals, strict=True):
        row[names.index(one.method)] = one.affected_ns
    excess = np.array([one.excess_ns for one in residuals])
    noise = np.array([np.hypot(one.half_ns / _CENTRAL, LEAST_NOISE * one.dense_ns) for one in residuals])
    prior = COMMON**2 + OWN**2 * np.eye(len(names))
    shares, _ = _shrunk(rows, excess, noise, prior)
    # What is left then is more than the measurements' error wherever schedules differ in what no share holds.
    affected = rows.sum(axis=1)
    scatter = _beyond(excess - rows @ shares, noise, affected)
    off = np.hypot(noise, scatter * affected)
    shares, covariance = _shrunk(rows, excess, off, prior)
    left = excess - rows @ shares
    claimed = np.array([one.claimed_ns for one in residuals]) / _CENTRAL
    foretold = left / (1.0 - np.einsum("ij,jk,ik->i", rows, covariance, rows) / off**2)
    squares = foretold**2 / (claimed**2 + noise**2)
    trusted = float(np.sqrt(min(1.0, (CLAIMED + squares.sum()) / (CLAIMED + len(squares)))))
    scatter = _beyond(left, np.hypot(noise, trusted * claimed), affected)
    halves = _CENTRAL * np.hypot(np.sqrt(np.diag(covariance)), scatter)
    return {
        name: Correction(float(shares[place]), float(halves[place]), trusted)
        for place, name in enumerate(names)
        if name in methods
    }


_Floats = np.typing.NDArray[np.float64]


def _shrunk(rows: _Floats, excess: _Floats, noise: _Floats, prior: _Floats) -> tuple[_Floats, _Floats]:
    """Bayesian least squares: the shares and their covariance."""
    scaled = rows / noise[:, None]
    covariance = np.asarray(np.linalg.inv(scaled.T @ scaled + np.linalg.inv(prior)), dtype=float)
    return covariance @ scaled.T @ (excess / noise), covariance


def _beyond(left: _Floats, known: _Floats, affected: _Floats) -> float:
    """The standard deviation, as a share of ``affected``, of what is ``left`` beyond ``known`` standard deviations."""
    return float(np.sqrt(max(0.0, float(np.mean((left**2 - known**2) / affected**2)))))
