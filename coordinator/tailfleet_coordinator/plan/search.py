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
    _ends: _Ints
    _rows: _Ints
    _layers: tuple["_Layer", ...]
    _counts: tuple[int, ...]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.latency_ns)

    def keep(self, point: int) -> list[int]:
        """Tokens that leave each block, for a point of the front."""
        state, row = int(self._ends[point]), int(self._rows[point])
        kept = []
        for layer in reversed(self._layers):
            kept.append(self._counts[state])
            state, row = int(layer[state].from_state[row]), int(layer[state].from_row[row])
        return kept[::-1]


@dataclass(frozen=True, eq=False)
class _Partial:
    """The front of all ways to arrive at one state."""

    ns: _Floats
    loss: _Floats
    from_state: _Ints
    from_row: _Ints


@dataclass(frozen=True, eq=False)
class _Arrivals:
    """The fronts of all states, one behind the other: parallel arrays."""

    ns: _Floats
    loss: _Floats
    state: _Ints
    row: _Ints
    """Within the front of the state."""
    ends: _Ints
    """Behind the front of each state."""

    @classmethod
    def of(cls, layer: "_Layer") -> "_Arrivals":
        sizes = [len(partial.ns) for partial in layer]
        ends = np.cumsum(sizes, dtype=np.int64)
        state = np.repeat(np.arange(len(layer)), sizes)
        return cls(
            np.concatenate([partial.ns for partial in layer]),
            np.concatenate([partial.loss for partial in layer]),
            state,
            np.arange(len(state)) - (ends - np.array(sizes))[state],
            ends,
        )


_Layer = list[_Partial]


def search(problem: Problem, within_ns: float = np.inf) -> Front:
    """The Pareto front of ``problem``, without points slower than ``within_ns``.

    Of points equal in both costs one is kept. Runs in O(D · K² · F log F), F the size of a front on the way.
    """
    depth, size = len(problem.block_loss), len(problem.counts)
    allowed = np.isfinite(problem.block_loss) & np.isfinite(problem.block_ns)
    if problem.once:
        # Whoever has reduced arrives with fewer than all tokens, and may only keep them.
        allowed[:, 1:, :] &= np.eye(size, dtype=bool)[1:, :]
    rest_ns = _least_rest(problem.block_ns, allowed)
    nothing: _Ints = np.zeros(1, dtype=np.int64)
    start = _Partial(np.array([problem.fixed_ns]), np.zeros(1), nothing, nothing)
    arrived = _Arrivals.of([start] + [_empty()] * (size - 1))
    costs = np.where(allowed, problem.block_ns, np.inf), np.where(allowed, problem.block_loss, np.inf)
    layers: list[_Layer] = []
    for block in range(depth):
        ns, loss = (cost[block] for cost in costs)
        layer = [_merge(arrived, to, ns[:, to], loss[:, to], within_ns - rest_ns[block + 1, to]) for to in range(size)]
        layers.append(layer)
        arrived = _Arrivals.of(layer)
    best = undominated(arrived.ns, arrived.loss)
    return Front(
        arrived.ns[best], arrived.loss[best], arrived.state[best], arrived.row[best], tuple(layers), problem.counts
    )


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


def _merge(arrived: _Arrivals, to: int, ns_to: _Floats, loss_to: _Floats, within_ns: float) -> _Partial:
    """The front at state ``to`` behind a block that takes and loses so much from each state to there."""
    last = arrived.ends[to]
    state = arrived.state[:last]
    # A little slack: sums in another order differ in the last digits.
    ns = arrived.ns[:last] + ns_to[state]
    inside = (ns <= within_ns * (1 + 1e-12)).nonzero()[0]
    ns, state = ns[inside], state[inside]
    loss = arrived.loss[inside] + loss_to[state]
    best = undominated(ns, loss)
    return _Partial(ns[best], loss[best], state[best], arrived.row[inside[best]])


def _least_rest(block_ns: _Floats, allowed: NDArray[np.bool_]) -> _Floats:
    """Least latency of all blocks from b on, for each state that enters b: (D + 1, K)."""
    depth, size, _ = allowed.shape
    rest = np.zeros((depth + 1, size))
    for block in range(depth - 1, -1, -1):
        costs = np.where(allowed[block], block_ns + rest[block + 1][None, :], np.inf)
        rest[block] = costs.min(axis=1)
    return rest


def _empty() -> _Partial:
    none: _Floats = np.zeros(0)
    nobody: _Ints = np.zeros(0, dtype=np.int64)
    return _Partial(none, none, nobody, nobody)
