"""What each block of a schedule costs on quiet, by what a sweep timed of it alone.

A block is an attention half on the tokens that enter and an MLP half on those that its MLP sees; where fewer leave,
the attention half is a reducing one (``overhead``), and behind the first merge attention weighs keys by sizes. Some
parts no sweep times, or only of all blocks together: what they are taken for, and how wrong that may be, stands here.
Left to others: what the place of a block within a pass makes of its cost, other statistics, intervals (``latency``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tailfleet_coordinator.plan.halves import SIZED_METHODS, Halves
from tailfleet_coordinator.plan.overhead import Overhead
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import MID, PLACEMENT, SIMILAR_DROPPED, Schedule, importance_passes
from tailfleet_schema.workload import Geometry

_Floats = NDArray[np.float64]

SIZED_GUESS = 0.05
"""By what share that is dearer where no part timed it: virtual boards say 3–8 %, so half of the interval is taken as
wide as the share itself."""

STAGED_SHARE = 0.4
"""Of what a reduction adds to a block, so much is taken to grow with the passes over its graph where those differ from
block to block: a sweep times all blocks together. On virtual boards it is 0.3 to 0.6."""

STAGED_HALF = 0.3
"""That share may be so much more or less."""

RESTORING_SHARE = 0.06
"""Of a block on all tokens: what putting tokens back in their places takes, once; no part times it. On virtual boards
it is 0.03 to 0.1, so as much is what it may be off by."""


@lru_cache(maxsize=256)
def falling(size: int) -> NDArray[np.bool_]:
    """Of ``size`` descending counts, from which to which tokens leave: (K, K)."""
    return np.triu(np.ones((size, size), dtype=bool), 1)


@dataclass(frozen=True)
class Block:
    """One block of a schedule on quiet: n tokens enter, m leave."""

    n: int
    m: int
    mlp_tokens: int
    """That its MLP works on."""
    attention_ns: float
    mlp_ns: float
    staged_ns: float
    """Of the attention half: what it costs more for its stage than the same reduction elsewhere."""

    @property
    def ns(self) -> float:
        """Both halves."""
        return self.attention_ns + self.mlp_ns


@dataclass(frozen=True, eq=False)
class Costs:
    """Of the methods whose reduction was timed."""

    geometry: Geometry
    halves: Halves
    overheads: dict[str, Overhead]
    _known: dict[tuple[str, int, int, int | None, int], Block] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Blocks that were asked for: schedules of one board have most in common."""

    def of(self, schedule: Schedule) -> list[Block]:
        """Each block of ``schedule``. Raises ``InputError`` where its method's reduction was not timed."""
        similar = schedule.parameters.get("similar", SIMILAR_DROPPED)
        return [
            self.block(schedule.method, n, m, number, similar)
            for number, (n, m) in enumerate(zip(schedule.entering, schedule.keep, strict=True))
        ]

    def block(self, method: str, n: int, m: int, number: int | None = None, similar: int = SIMILAR_DROPPED) -> Block:
        """The block ``number`` (None: one like all together); ``similar`` is how many tokens a method that looks for
        such drops at most by that alone.

        Raises ``InputError`` where ``method`` was not timed.
        """
        key = method, n, m, None if m == n else number, similar
        if key not in self._known:
            self._known[key] = self._block(method, n, m, number, similar)
        return self._known[key]

    def _block(self, method: str, n: int, m: int, number: int | None, similar: int) -> Block:
        attention_ns, staged_ns = self.halves.attention_ns(n), 0.0
        if m < n:
            reducing_ns = float(self.halves.scales[n]) * self.overhead(method).block_ns(n, m)
            stage = self._stage(method, n, m, number, similar)
            staged_ns = STAGED_SHARE * stage * max(0.0, reducing_ns - attention_ns)
            attention_ns = reducing_ns + staged_ns
        mlp_tokens = m if PLACEMENT[method] == MID else n
        attention_ns += self.weighed_ns(method, n)
        return Block(n, m, mlp_tokens, attention_ns, self.halves.mlp_ns(mlp_tokens), staged_ns)

    def attentions_ns(self, method: str, counts: Sequence[int]) -> _Floats:
        """The attention half of :meth:`block` from each of ``counts``, descending, to each: (K, K), of use where no
        more leave than enter."""
        n = np.array(counts)
        plain = self.halves.attentions_ns[n][:, None]
        reducing = self.overhead(method).blocks_ns(counts)
        reducing *= self.halves.scales[n][:, None]
        if importance_passes(method, 0, self.geometry.depth):
            few = n[:, None] - n[None, :] <= SIMILAR_DROPPED
            reducing -= few * STAGED_SHARE * np.maximum(0.0, reducing - plain)
        attention: _Floats = np.where(falling(len(counts)), reducing, plain)
        if method in SIZED_METHODS:
            attention += np.array([self.weighed_ns(method, count) for count in counts])[:, None]
        return attention

    def weighed_ns(self, method: str, n: int) -> float:
        """What attention on n tokens costs more for weighing keys by sizes."""
        if method not in SIZED_METHODS or n == self.geometry.tokens:
            return 0.0
        # Fewer than all tokens arrive exactly where some were merged before.
        share = self.halves.sized_share(n)
        return (SIZED_GUESS if share is None else share) * self.halves.attention_ns(n)

    def restoring_ns(self, schedule: Schedule) -> float:
        """What a schedule pays for putting dropped tokens back: once there, and at each reduction but the first, where
        those that were left are kept."""
        if schedule.restore_before is None:
            return 0.0
        times = sum(block < schedule.restore_before for block in schedule.reducing_blocks)
        full = self.geometry.tokens
        return times * RESTORING_SHARE * (self.halves.attention_ns(full) + self.halves.mlp_ns(full))

    def overhead(self, method: str) -> Overhead:
        """Of ``method``. Raises ``InputError`` where that was not timed."""
        if method not in self.overheads:
            known = ", ".join(self.overheads) or "none"
            raise InputError(f"the sweep did not time the reduction of {method!r}; timed: {known}")
        return self.overheads[method]

    def _stage(self, method: str, n: int, m: int, number: int | None, similar: int) -> float:
        """By how much a block's passes over the graph exceed their mean over blocks, as a share of it."""
        depth = self.geometry.depth
        if not importance_passes(method, 0, depth):
            return 0.0
        passes = [importance_passes(method, block, depth) for block in range(depth)]
        if n - m <= similar:
            # Those that are like others are enough, and nothing is passed on.
            return -1.0
        return 0.0 if number is None else passes[number] * depth / sum(passes) - 1.0
