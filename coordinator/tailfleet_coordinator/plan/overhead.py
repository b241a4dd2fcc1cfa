"""What a method's reduction adds to the attention half of one block, as a smooth function of n and m.

Timed at a few pairs n → m, wanted at all of them. With u = n/N, r = (n − m)/N and the board's own attention curve,
the model is linear in ``1, u, u², r, u·r`` and ``(attention(m) − attention(n)) / attention(N)``: launches, work per
token, work per pair of tokens, work saved on tokens that leave, and the steps of what runs on the m kept tokens.
The fit is Bayesian least squares, so it is defined for few pairs and says how sure it is at each.

The addition may be negative: a method that computes only the kept tokens' queries and projection can make the
reducing block cheaper than plain attention. It never makes it cheaper than attention on m tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.statistics import CONFIDENCE, Measured

LEAST_NOISE = 0.01
"""Pairs are trusted to this share of the attention at all tokens, at best: the form is an approximation."""

_CENTRAL = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

_Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Overhead:
    """The fitted addition of one method to one block; times in ns."""

    full_tokens: int
    attention_ns: _Array  # (N + 1,)
    """One block's attention half on 0 to N tokens."""
    weights: _Array  # (6,)
    covariance: _Array  # (6, 6)
    least_kept_share: float
    """Smallest m/n that was timed."""
    least_tokens: int
    """Smallest n that was timed."""

    @classmethod
    def fit(cls, full_tokens: int, depth: int, attention_ns: _Array, pairs: Sequence[Measured]) -> "Overhead":
        """From REDUCE points (at least one), whose times are of all ``depth`` blocks together."""
        scale = attention_ns[full_tokens]
        n, m = np.array([(p.unit.tokens, p.unit.kept) for p in pairs]).T
        before, after = attention_ns[n], attention_ns[m]
        u, r = n / full_tokens, (n - m) / full_tokens
        rows = np.column_stack([np.ones(len(pairs)), u, u * u, r, u * r, (after - before) / scale])
        added = np.array([p.ns for p in pairs]) / depth - before
        deviation = np.array([p.half_ns for p in pairs]) / depth / _CENTRAL
        noise = np.maximum(deviation, LEAST_NOISE * scale)
        # Coefficients are of the order of a block's whole attention, hardly more: the prior.
        precision = (rows / noise[:, None]).T @ (rows / noise[:, None]) + np.eye(rows.shape[1]) / scale**2
        covariance: _Array = np.asarray(np.linalg.inv(precision), dtype=float)
        weights = covariance @ (rows.T @ (added / noise**2))
        left = added - rows @ weights
        # Where the form does not fit, it is not as sure as it thinks.
        inflation = max(1.0, float(np.mean((left / noise) ** 2)))
        least_share = min(p.unit.kept / p.unit.tokens for p in pairs)
        least_tokens = min(p.unit.tokens for p in pairs)
        return cls(full_tokens, attention_ns, weights, covariance * inflation, least_share, least_tokens)

    def block_ns(self, n: int, m: int) -> float:
        """One block's attention half that leaves m of n tokens."""
        features = _features(self.full_tokens, self.attention_ns, n, m)
        return float(max(self.attention_ns[n] + features @ self.weights, self.attention_ns[m]))

    def blocks_ns(self, counts: Sequence[int]) -> _Array:
        """:meth:`block_ns` from each of ``counts`` to each: (K, K)."""
        n, full = np.array(counts), self.full_tokens
        attention = self.attention_ns[n]
        u, r = n[:, None] / full, (n[:, None] - n[None, :]) / full
        saved = (attention[None, :] - attention[:, None]) / self.attention_ns[full]
        constant, linear, square, dropped, both, steps = self.weights
        # In place: for hundreds of counts these are the largest arrays of a plan.
        added = constant + linear * u + square * u * u + dropped * r
        added += both * u * r
        saved *= steps
        added += saved
        added += attention[:, None]
        least: _Array = np.maximum(added, attention[None, :], out=added)
        return least

    def half_ns(self, n: int, m: int) -> float:
        """Half of the interval of :meth:`block_ns` that the fit is the cause of."""
        features = _features(self.full_tokens, self.attention_ns, n, m)
        deviation = float(np.sqrt(features @ self.covariance @ features))
        return deviation * _CENTRAL

    def covers(self, n: int, m: int) -> bool:
        """Whether reductions about as deep, from about as few tokens, were timed."""
        return m / n >= 0.8 * self.least_kept_share and n >= 0.8 * self.least_tokens


def _features(full_tokens: int, attention_ns: _Array, n: int, m: int) -> _Array:
    u, r = n / full_tokens, (n - m) / full_tokens
    saved = (attention_ns[m] - attention_ns[n]) / attention_ns[full_tokens]
    return np.array([1.0, u, u * u, r, u * r, saved])
