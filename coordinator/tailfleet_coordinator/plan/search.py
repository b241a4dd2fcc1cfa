"""Exact search over all ways to reduce tokens at one or more blocks: the whole Pareto front of latency and loss.

Dynamic programming over (block, tokens): both costs add over blocks, and what a block costs depends on the tokens that
enter and leave it alone, so of all ways to arrive at a state only those matter that no other beats in both.
What counts, costs and losses are is left to others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """What to search. ``counts`` are descending; the first one enters block 0. ``inf`` marks what is not allowed; more
    tokens never leave a block than enter it, whatever stands there."""

    counts: tuple[int, ...]
    fixed_ns: float
    """Latency of a pass outside its blocks."""
    block_ns: _Floats  # (K, K): of a block that counts[i] enter and counts[j] leave
    block_loss: _Floats  # (D, K, K): what that adds to the loss at each block
    once: bool = False
    """Whether only one block may reduce."""


@dataclass(frozen=True, eq=False)
class Front:
    """Points that no other beats in latency and loss, by rising latency and so by falling loss."""

    latency_ns: _Floats
    loss: _Floats
    _last: _Ints
    """Which of the ways to arrive behind the last block each point is."""
    _layers: tuple["_Layer", ...]
    _counts: tuple[int, ...]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.latency_ns)

    def keep(self, point: int) -> list[int]:
        """Tokens that leave each block, for a point of the front."""
        way, kept = int(self._last[point]), []
        for layer in reversed(self._layers):
            kept.append(self._counts[layer.state[way]])
            way = int(layer.before[way])
        return kept[::-1]


@dataclass(frozen=True, eq=False)
class _Layer:
    """Ways to arrive behind one block: parallel arrays, the front of one state behind that of another."""

    state: _Ints
    before: _Ints
    """The way that it goes on from."""
    ns: _Floats
    loss: _Floats


def search(problem: Problem, within_ns: float = np.inf, price_ns: float = 0.0, within_loss: float = np.inf) -> Front:
    """The Pareto front of ``problem``, without points that take more than ``within_ns``, a unit of loss being held to
    cost ``price_ns`` besides, and without those that lose more than ``within_loss``.

    Of points equal in both costs one is kept. Runs in O(D · K · F log F), F the ways to arrive behind a block.
    """
    depth, size = len(problem.block_loss), len(problem.counts)
    allowed = np.isfinite(problem.block_loss) & np.isfinite(problem.block_ns)
    allowed &= np.triu(np.ones((size, size), dtype=bool))
    if problem.once:
        # Whoever has reduced arrives with fewer than all tokens, and may only keep them.
        allowed[:, 1:, :] &= np.eye(size, dtype=bool)[1:, :]
    loss = np.where(allowed, problem.block_loss, 0.0)
    priced = np.where(allowed, problem.block_ns + price_ns * loss, np.inf)
    # A little slack: sums in another order differ in the last digits.
    most = min(within_ns * (1 + 1e-12), float(np.finfo(float).max)) - _least_rest(priced)
    # By where they lead to: all ways on are looked at state by state.
    ns_to, loss_to, priced_to = (np.ascontiguousarray(one.swapaxes(-1, -2)) for one in (problem.block_ns, loss, priced))
    nothing: _Ints = np.zeros(1, dtype=np.int64)
    layers = [_Layer(nothing, nothing, np.array([problem.fixed_ns]), np.zeros(1))]
    for block in range(depth):
        before = layers[-1]
        lost = before.loss + loss_to[block].take(before.state, axis=1)  # (K, F)
        so_far = before.ns + price_ns * before.loss
        inside = so_far + priced_to[block].take(before.state, axis=1) <= most[block + 1][:, None]
        if within_loss < np.inf:
            inside &= lost <= within_loss
        ways = inside.ravel().nonzero()[0]
        to, way = np.divmod(ways, len(so_far))
        ns = before.ns + ns_to.take(before.state, axis=1)
        layers.append(_best(to, way, ns.ravel()[ways], lost.ravel()[ways]))
    last = layers[-1]
    best = undominated(last.ns, last.loss)
    return Front(last.ns[best], last.loss[best], best, tuple(layers[1:]), problem.counts)


def undominated(ns: _Floats, loss: _Floats) -> _Ints:
    """Positions of the points that no other beats or equals in both costs, by rising latency."""
    if not len(ns):
        return np.zeros(0, dtype=np.int64)
    order = ns.argsort(kind="stable")
    ordered = ns[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((loss, ns))
    ordered = loss[order]
    least = np.minimum.accumulate(ordered)
    better = np.empty(len(order), dtype=bool)
    better[0], better[1:] = ordered[0] < np.inf, ordered[1:] < least[:-1]
    return order[better]


def _best(to: _Ints, before: _Ints, ns: _Floats, loss: _Floats) -> _Layer:
    """Of ways that go on from ``before`` to the states ``to``, ascending, the front at each state."""
    # Shifted so far apart that none of one state beats one of another, the fronts of all are found as one.
    down = to.max(initial=0) - to
    best = undominated(ns + to * (2.0 * ns.max(initial=1.0)), loss + down * (2.0 * loss.max(initial=1.0)))
    return _Layer(to[best], before[best], ns[best], loss[best])


def _least_rest(costs: _Floats) -> _Floats:
    """Least cost of all blocks from b on, for each state that enters b: (D + 1, K)."""
    depth, size, _ = costs.shape
    rest = np.zeros((depth + 1, size))
    for block in range(depth - 1, -1, -1):
        rest[block] = (costs[block] + rest[block + 1][None, :]).min(axis=1)
    return rest
