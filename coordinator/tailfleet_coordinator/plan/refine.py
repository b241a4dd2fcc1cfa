"""A second search around a point of a front, at counts that the first one did not have.

A front over two dozen counts tells what a point more of loss is worth there: a price. With loss at that price, the
least that any schedule takes that leaves n tokens at block b is known for every n and b from two passes over the blocks
(shortest paths, there and back). Between a point's neighbours on the front nothing can lie but what at that price takes
no more than their corner (the slower one's latency, the faster one's loss). Of the counts of such schedules the most
promising are searched, exactly, and some that lie beside those of the point: where a limit of loss is what binds, a
count in between is often what uses it up, however it looks at a price. Where all of them are few enough, and so for
small models, what is found is the best of all. (Lagrangian bounds: Handler and Zang, Networks 10, 1980.)
Left to others: the first search, predictions, losses, and the choice (``choice``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.accuracy import LossModel
from tailfleet_coordinator.plan.candidates import REDUCES_ONCE, SLACK, Candidates, blocks_ns, merged, of_search
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.search import Problem, search
from tailfleet_schema.workload import ModelSpec

MOST_PROMISING = 8
MOST_BESIDE = 16
"""Counts that are searched around a point besides its own: so many take no longer than the first search."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Searched:
    """What a first search was made of."""

    model: ModelSpec
    method: str
    latency: LatencyModel
    loss: LossModel
    counts: Sequence[int]


def refined(own: Candidates, point: int, by: Searched) -> Candidates:
    """``own``, what a search found, and what a second one finds around a ``point`` of it; ``own`` itself where costs do
    not add up over blocks, so that no bound would hold."""
    if own.units is None or not by.latency.adds_up(by.method):
        return own
    return merged([own, _around(own, own.units, point, by)], by.latency.dense.ns)


def _around(own: Candidates, lost: _Floats, point: int, by: Searched) -> Candidates:
    """All that may lie between the neighbours of one point; ``lost`` are units."""
    ns = own.latency_ns
    # Beyond the fastest point there may be faster ones, whatever they lose.
    price_ns, most_loss = (_price_ns(ns, lost, point), float(lost[point - 1])) if point else (0.0, np.inf)
    most_ns = float(ns[min(point + 1, len(own) - 1)]) + (price_ns * most_loss if price_ns else 0.0)
    most_ns *= SLACK
    depth, fixed_ns = by.model.geometry.depth, by.latency.fixed_ns
    counts = np.arange(by.model.geometry.tokens, by.model.geometry.prefix, -1)
    allowed = by.loss.allowed(depth, counts.tolist())
    known = allowed.any(axis=0) | (counts == counts[0])
    counts, allowed = counts[known], allowed[:, known]
    costs = blocks_ns(by.model, by.method, by.latency, counts.tolist())
    alone_ns = price_ns * by.loss.alone_units(depth, counts.tolist())
    least_ns = _through(fixed_ns, costs, alone_ns, allowed)
    chosen = _chosen(counts, own.schedule(point).keep, by.counts, least_ns.min(axis=0), most_ns)
    some = counts[chosen].tolist()
    steps = np.where(least_ns[:, None, chosen] <= most_ns, by.loss.steps_units(depth, some), np.inf)
    finer = Problem(tuple(some), fixed_ns, costs[np.ix_(chosen, chosen)], steps, by.method in REDUCES_ONCE)
    return of_search(search(finer, most_ns, price_ns, most_loss), by.model, by.method, by.loss)


def _chosen(counts: _Ints, keep: Sequence[int], searched: Sequence[int], least_ns: _Floats, most_ns: float) -> _Ints:
    """Places in ``counts``, descending, of those to search: that of all tokens, those that a schedule keeps, and of the
    others that may do within ``most_ns`` the most promising and some beside what it keeps."""
    may = least_ns <= most_ns
    promising = least_ns.argsort(kind="stable")[:MOST_PROMISING]
    beside = np.zeros(len(counts), dtype=bool)
    for n in {*keep} - {int(counts[0])}:
        low = max((other for other in searched if other < n), default=0)
        high = min((other for other in searched if other > n), default=int(counts[0]))
        beside |= (low < counts) & (counts < high)
    spread = (beside & may).nonzero()[0]
    spread = spread[np.linspace(0, len(spread) - 1, min(len(spread), MOST_BESIDE)).round().astype(np.int64)]
    kept = np.isin(counts, [*keep, counts[0]]).nonzero()[0]
    return np.unique(np.concatenate([kept, promising[may[promising]], spread]))


def _price_ns(ns: _Floats, loss: _Floats, point: int) -> float:
    """What a unit of loss is worth at any but the first point of a front: between the most that a faster point gains by
    it and the least that a slower one gives for it."""
    gained = float(((ns[point] - ns[:point]) / (loss[:point] - loss[point])).max())
    if point == len(ns) - 1:
        return gained
    given = float(((ns[point + 1 :] - ns[point]) / (loss[point] - loss[point + 1 :])).min())
    return math.sqrt(gained * given)


def _through(fixed_ns: float, costs: _Floats, alone_ns: _Floats, allowed: NDArray[np.bool_]) -> _Floats:
    """The least that a pass takes in which so many tokens leave each block, loss at its price included: (D, K).

    ``costs`` (K, K) are of a block from state to state, ``alone_ns`` (D, K) the priced loss of reducing all tokens to
    each state at one block, ``allowed`` (D, K) whether that block may reduce to it.
    """
    stay, backwards = np.diagonal(costs), np.ascontiguousarray(costs.T)
    rest = [np.zeros(len(costs))]
    for at, may in zip(alone_ns[::-1], allowed[::-1], strict=True):
        further = rest[-1]
        arriving = np.where(may, at + further, np.inf)
        rest.append(np.minimum(stay + further, (backwards + arriving[:, None]).min(axis=0) - at))
    so_far, least = np.full(len(costs), np.inf), []
    so_far[0] = fixed_ns
    for at, may, further in zip(alone_ns, allowed, rest[-2::-1], strict=True):
        reduced = (costs + (so_far - at)[:, None]).min(axis=0) + at
        so_far = np.minimum(so_far + stay, np.where(may, reduced, np.inf))
        least.append(so_far + further)
    return np.array(least)
