"""Schedules: which method leaves how many tokens after each block. Parsing, checking, and arithmetic.

One meaning of *keep*: ``keep[l] = n`` says that ``n`` tokens leave block ``l``, prefix tokens and any pooled
token included. Every method obeys it exactly, so methods are compared at equal token counts.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

from tailfleet_schema import codec
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.limits import COUNT_MAX, NAME_LENGTH
from tailfleet_schema.workload import Geometry

MID = "mid"
"""Reduction between the attention residual and the MLP of a block: its MLP already sees fewer tokens."""
AFTER = "after"
"""Reduction between blocks."""

PLACEMENT = {
    "dense": MID,
    "random": MID,
    "topk": MID,
    "evit": MID,
    "pomt": MID,
    "tome": MID,
    "zero-tprune": AFTER,
    "cropr": AFTER,
}
"""Where in a block each known method reduces."""

SELECTING = frozenset(["random", "topk", "zero-tprune", "cropr"])
"""Methods whose tokens all stand for themselves, so that dropped ones can be put back beside them."""

SIMILAR_DROPPED = 10
"""Tokens that Zero-TPrune's similarity stage drops, unless its parameter ``similar`` says otherwise."""

IMPORTANCE_PASSES = (30, 5, 1)
EDGE_BLOCKS = 3
"""How often Zero-TPrune passes importance on over a block's attention graph: in so many first blocks, between, and in
so many last ones."""


def importance_passes(method: str, block: int, depth: int) -> int:
    """Those of ``method`` where it reduces at ``block`` of ``depth``; 0: it costs the same in all blocks."""
    if method != "zero-tprune":
        return 0
    first, between, last = IMPORTANCE_PASSES
    if block < EDGE_BLOCKS:
        return first
    return last if block >= depth - EDGE_BLOCKS else between


def _check_whole(path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise ScheduleError("must be a whole number from 0 to {}, not {!r}".format(COUNT_MAX, value), path=path)


def _check_flag(path: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ScheduleError("must be true or false, not {!r}".format(value), path=path)


PARAMETERS: Dict[str, Dict[str, Callable[[str, Any], None]]] = {
    "random": {"seed": _check_whole},
    "tome": {"proportional": _check_flag},
    "zero-tprune": {"similar": _check_whole, "uniform": _check_flag},
}
"""Settings that a schedule of a method may have, each with its check: ``random``'s seed; whether attention follows
sizes after merging (``tome``; not for models that were not trained on labels); how many tokens the similarity stage
drops, and whether the class token starts with the weight of any other (``zero-tprune``)."""


def smallest_reachable(method: str, tokens: int, prefix: int) -> int:
    """The fewest tokens that ``method`` can leave, in one block, of ``tokens`` (prefix included).

    One patch, for methods that join what they drop also the joined token; ``tome`` merges at most half of the
    unprotected tokens. (So does Zero-TPrune's similarity stage, but its importance stage drops the others.) Raises
    ``ScheduleError`` for an unknown method.
    """
    if method not in PLACEMENT:
        raise ScheduleError("unknown method {!r}; known: {}".format(method, ", ".join(sorted(PLACEMENT))))
    if method == "dense":
        return tokens
    if method == "tome":
        return tokens - max(0, tokens - prefix) // 2
    return min(tokens, prefix + (1 if method in SELECTING else 2))


def fewest_leaving(method: str, tokens: int, prefix: int, block: int) -> int:
    """The fewest of ``tokens`` that can leave ``block`` where the blocks before it may reduce, too: one block of
    ``tome`` halves, so two quarter. Raises ``ScheduleError`` for an unknown method."""
    least = tokens
    for _ in range(block + 1):
        fewer = smallest_reachable(method, least, prefix)
        if fewer == least:
            break
        least = fewer
    return least


def lead(method: str, tokens: int, prefix: int, block: int, kept: int) -> List[int]:
    """The tokens that leave blocks 0 … ``block`` where ``kept`` leave the last of them and the others reduce as late
    and as little as the method lets them.

    That is not at all where one block can leave so few. Where it cannot (``tome`` below half), ``block`` merges all
    that it can, and so does the one before, up to one that merges just what is still to be merged; so that a little
    less than what one block can leave takes a little more than one block. Raises ``ScheduleError`` where the method
    cannot, with all blocks up to there.
    """
    leaving = [kept]
    for _ in range(block):
        leaving.insert(0, _most_entering(method, tokens, prefix, leaving[0]))
    if kept > tokens or _most_entering(method, tokens, prefix, leaving[0]) < tokens:
        raise ScheduleError(
            "{} cannot leave {} of {} tokens{}".format(
                method, kept, tokens, " behind block {}".format(block) if method == "tome" else ""
            ),
            path="keep",
        )
    return leaving


def first_reducing(method: str, tokens: int, prefix: int, block: int, kept: int) -> int:
    """The first block that reduces where ``lead`` does; ``block`` where none does. Raises as it does."""
    leaving = lead(method, tokens, prefix, block, kept)
    return next((place for place, count in enumerate(leaving) if count < tokens), block)


def _most_entering(method: str, tokens: int, prefix: int, kept: int) -> int:
    """The most of ``tokens`` that may enter a block that ``kept`` are to leave."""
    if smallest_reachable(method, tokens, prefix) <= kept:
        return tokens
    return max(kept, 2 * kept - prefix) if method == "tome" else kept


@dataclass(frozen=True)
class Schedule:
    """What a reduced model does: ``method`` leaves ``keep[l]`` tokens after block ``l``."""

    method: str
    model: str
    """Name of the model it was made for."""
    tokens: int
    """Tokens entering block 0, prefix included."""
    prefix: int
    keep: List[int]
    restore_before: Optional[int] = None
    """Block before which all dropped tokens are put back in their places (last-layer fusion); None: never."""
    parameters: Dict[str, Any] = field(default_factory=dict)
    """Further settings of the method: plain JSON values."""

    def __post_init__(self) -> None:
        if self.method not in PLACEMENT:
            known = ", ".join(sorted(PLACEMENT))
            raise ScheduleError("unknown method {!r}; known: {}".format(self.method[:60], known), path="method")
        if not 0 < len(self.model) <= NAME_LENGTH:
            raise ScheduleError("must have between 1 and {} characters".format(NAME_LENGTH), path="model")
        if not 0 < self.tokens <= COUNT_MAX:
            raise ScheduleError("must lie between 1 and {}, not {}".format(COUNT_MAX, self.tokens), path="tokens")
        if not 0 <= self.prefix < self.tokens:
            raise ScheduleError("must be at least 0 and below tokens, not {}".format(self.prefix), path="prefix")
        if not self.keep:
            raise ScheduleError("is empty: one count for each block is needed", path="keep")
        self._check_restoring()
        checks = PARAMETERS.get(self.method, {})
        for name in sorted(self.parameters):
            if name not in checks:
                raise ScheduleError(
                    "method {!r} has no parameter {!r}".format(self.method, name[:60]), path="parameters"
                )
            checks[name]("parameters.{}".format(name), self.parameters[name])
        self._check_keep()

    def _check_restoring(self) -> None:
        block = self.restore_before
        if block is None:
            return
        if self.method not in SELECTING:
            raise ScheduleError(
                "is not known to method {!r}, which joins tokens or drops none".format(self.method),
                path="restore_before",
            )
        if len(self.keep) == 1:
            raise ScheduleError(
                "a model of 1 block has none before which tokens could be put back", path="restore_before"
            )
        if not 0 < block < len(self.keep):
            raise ScheduleError(
                "must be a block from 1 to {}, not {}".format(len(self.keep) - 1, block), path="restore_before"
            )

    def _check_keep(self) -> None:
        arriving = self.tokens
        for block, kept in enumerate(self.keep):
            if block == self.restore_before:
                arriving = self.tokens
            if kept == arriving:
                continue
            path = "keep[{}]".format(block)
            if kept > arriving:
                raise ScheduleError("{}, but only {} tokens arrive".format(kept, arriving), path=path)
            least = smallest_reachable(self.method, arriving, self.prefix)
            if kept < least:
                raise ScheduleError(
                    "{}, but {} can leave no fewer than {} of {} tokens in one block".format(
                        kept, self.method, least, arriving
                    ),
                    path=path,
                )
            self._check_similar(path, arriving, kept)
            arriving = kept

    def _check_similar(self, path: str, arriving: int, kept: int) -> None:
        """Zero-TPrune's similarity stage drops from the less important half alone."""
        asked, half = self.parameters.get("similar", 0), (arriving - self.prefix) // 2
        if min(asked, arriving - kept) > half:
            raise ScheduleError(
                "{}, but at most {} of {} tokens can leave as similar ones, not {}".format(kept, half, arriving, asked),
                path=path,
            )

    @property
    def entering(self) -> List[int]:
        """Tokens that enter each block."""
        entering = [self.tokens, *self.keep[:-1]]
        if self.restore_before is not None:
            entering[self.restore_before] = self.tokens
        return entering

    @property
    def reducing_blocks(self) -> List[int]:
        """Blocks that leave fewer tokens than enter them."""
        return [block for block, (n, m) in enumerate(zip(self.entering, self.keep)) if m < n]

    @property
    def is_dense(self) -> bool:
        """Whether it reduces nothing."""
        return not self.reducing_blocks

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON: the schedule's content address."""
        return hashlib.sha256(codec.dumps(self).encode("utf-8")).hexdigest()

    def check_fits(self, model: str, geometry: Geometry) -> None:
        """Raise ``ScheduleError`` unless it was made for this model, depth and token count."""
        if self.model != model:
            raise ScheduleError("was made for model {!r}, not for {!r}".format(self.model, model), path="model")
        if len(self.keep) != geometry.depth:
            raise ScheduleError(
                "has {} blocks, model {!r} has {}".format(len(self.keep), model, geometry.depth), path="keep"
            )
        for name, mine, its in (
            ("tokens", self.tokens, geometry.tokens),
            ("prefix", self.prefix, geometry.prefix),
        ):
            if mine != its:
                raise ScheduleError("expects {} tokens, but model {!r} has {}".format(mine, model, its), path=name)


def dense(model: str, geometry: Geometry) -> Schedule:
    """The schedule that reduces nothing."""
    return Schedule("dense", model, geometry.tokens, geometry.prefix, [geometry.tokens] * geometry.depth)


def block_flops(dim: int, mlp_dim: int, tokens: int, mlp_tokens: int) -> int:
    """Multiply-adds of one block: 4NC² + 2N²C for attention, 2N′CM for the MLP on ``mlp_tokens`` = N′."""
    attention = 4 * tokens * dim * dim + 2 * tokens * tokens * dim
    return attention + 2 * mlp_tokens * dim * mlp_dim


def flops_per_block(schedule: Schedule, geometry: Geometry) -> List[int]:
    """Multiply-adds of each block under ``schedule``, for one image; scoring and reduction are left out."""
    mid = PLACEMENT[schedule.method] == MID
    return [
        block_flops(geometry.dim, geometry.mlp_dim, n, m if mid else n)
        for n, m in zip(schedule.entering, schedule.keep)
    ]


def flops(schedule: Schedule, geometry: Geometry) -> int:
    """Multiply-adds of the whole model for one image: blocks, patch embedding and classification head."""
    patches = geometry.tokens - geometry.prefix
    embed = patches * geometry.channels * geometry.patch_size**2 * geometry.dim
    return sum(flops_per_block(schedule, geometry)) + embed + geometry.dim * geometry.classes
