"""Exact search over all ways to reduce tokens at one or more blocks: the whole Pareto front of latency and loss.

Dynamic programming over (block, tokens): both costs add over blocks, and what a block costs depends on the tokens that
enter and leave it alone, so of all ways to arrive at a state only those matter that no other beats in both.
What counts, costs and losses are is left to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """What to search. ``counts`` are descending; the first one enters block 0. ``inf`` marks what is not allowed."""

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
    arrived = [start] + [_empty() for _ in range(size - 1)]
    layers: list[_Layer] = []
    for block in range(depth):
        arrived = [
            _merge(arrived, to, block, problem, allowed, within_ns - rest_ns[block + 1, to]) for to in range(size)
        ]
        layers.append(arrived)
    ns = np.concatenate([p.ns for p in arrived])
    loss = np.concatenate([p.loss for p in arrived])
    ends = np.concatenate([np.full(len(p.ns), state, dtype=np.int64) for state, p in enumerate(arrived)])
    rows = np.concatenate([np.arange(len(p.ns), dtype=np.int64) for p in arrived])
    best = undominated(ns, loss)
    return Front(ns[best], loss[best], ends[best], rows[best], tuple(layers), problem.counts)


def undominated(ns: _Floats, loss: _Floats) -> _Ints:
    """Positions of the points that no other beats or equals in both costs, by rising latency."""
    if not len(ns):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((loss, ns))
    ordered = loss[order]
    least_before = np.concatenate([[np.inf], np.minimum.accumulate(ordered)[:-1]])
    return order[ordered < least_before].astype(np.int64)


def _merge(
    arrived: Sequence[_Partial], to: int, block: int, problem: Problem, allowed: NDArray[np.bool_], within_ns: float
) -> _Partial:
    """The front at state ``to`` after ``block``."""
    sources = [i for i in range(len(arrived)) if allowed[block, i, to] and len(arrived[i].ns)]
    if not sources:
        return _empty()
    ns = np.concatenate([arrived[i].ns + problem.block_ns[i, to] for i in sources])
    loss = np.concatenate([arrived[i].loss + problem.block_loss[block, i, to] for i in sources])
    state = np.concatenate([np.full(len(arrived[i].ns), i, dtype=np.int64) for i in sources])
    row = np.concatenate([np.arange(len(arrived[i].ns), dtype=np.int64) for i in sources])
    # A little slack: sums in another order differ in the last digits.
    inside = np.flatnonzero(ns <= within_ns * (1 + 1e-12))
    best = inside[undominated(ns[inside], loss[inside])]
    return _Partial(ns[best], loss[best], state[best], row[best])


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
