"""The schedules that papers use, expanded for a model: baselines to compare with, and known figures to check by.

Each function names its source. What the methods compute is left to ``tailfleet_reduce``, what a schedule is to
``schedule``; which one is best on a board is for planners to say. All raise ``ScheduleError`` where the model is too
small for it.
"""

import math
from typing import List, Optional, Sequence

from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import Geometry

EVIT_BLOCKS = (3, 6, 9)

POMT_BLOCK = 3

ZERO_TPRUNE_BEFORE = (1, 3, 6, 9, 11)
ZERO_TPRUNE_SHARES = (1.0, 0.9, 0.8, 0.7, 1.0)
ZERO_TPRUNE_SIMILAR = 10


def tome_merged(per_block: int, inflect: float, depth: int) -> List[int]:
    """Tokens to merge in each of ``depth`` blocks, ``per_block`` (r) on average.

    They fall where ``inflect`` (-1 to 1) is negative, and rise where it is positive:
    linearly from int(r · (1 - inflect)) in the first block to 2r minus that in the last, each truncated, as ToMe
    (arXiv 2210.09461) was measured: (16, -1) over 12 blocks is 32 29 26 23 20 17 14 11 8 5 2 0.
    """
    if per_block < 0 or not -1 <= inflect <= 1 or depth < 1:
        raise ScheduleError(
            "ToMe merges r ≥ 0 tokens with an inflection from -1 to 1, not {} and {}".format(per_block, inflect)
        )
    first = int(per_block * (1.0 - inflect))
    step = (2 * per_block - 2 * first) / (depth - 1) if depth > 1 else 0.0
    return [int(first + step * block) for block in range(depth)]


def tome(model: str, geometry: Geometry, per_block: int, inflect: float = 0.0) -> Schedule:
    """ToMe's (r, inflect): no block merges more than half of its unprotected tokens, whatever r asks for."""
    return tome_list(model, geometry, tome_merged(per_block, inflect, geometry.depth))


def tome_list(model: str, geometry: Geometry, merged: Sequence[int]) -> Schedule:
    """ToMe with a count of merged tokens for each block."""
    if len(merged) != geometry.depth:
        raise ScheduleError("{} counts for {} blocks".format(len(merged), geometry.depth))
    keep, tokens = [], geometry.tokens
    for count in merged:
        tokens -= min(count, (tokens - geometry.prefix) // 2)
        keep.append(tokens)
    return Schedule("tome", model, geometry.tokens, geometry.prefix, keep)


def evit(
    model: str, geometry: Geometry, kept_share: float, blocks: Sequence[int] = EVIT_BLOCKS, fused: bool = True
) -> Schedule:
    """EViT's ρ (arXiv 2202.07800): ⌈ρ · (N - P)⌉ patches and, if ``fused``, the fused token leave each of ``blocks``.

    The fused token of an earlier block is a patch like any other. Without it the method is ``topk``; the paper's
    printed GFLOPs are those.
    """
    _check_share(kept_share)
    _check_blocks(blocks, geometry, 0)
    keep, tokens = [], geometry.tokens
    for block in range(geometry.depth):
        if block in blocks:
            chosen = math.ceil(kept_share * (tokens - geometry.prefix))
            tokens = min(tokens, geometry.prefix + chosen + (1 if fused else 0))
        keep.append(tokens)
    return Schedule("evit" if fused else "topk", model, geometry.tokens, geometry.prefix, keep)


def one_block(method: str, model: str, geometry: Geometry, kept: int, block: int = POMT_BLOCK) -> Schedule:
    """``kept`` tokens leave ``block`` and all after it: the shape of POMT's schedules (arXiv 2407.05941)."""
    if not 0 <= block < geometry.depth:
        raise ScheduleError("there is no block {}; the model has {}".format(block, geometry.depth))
    keep = [geometry.tokens] * block + [kept] * (geometry.depth - block)
    return Schedule(method, model, geometry.tokens, geometry.prefix, keep)


def zero_tprune(
    model: str,
    geometry: Geometry,
    shares: Sequence[float] = ZERO_TPRUNE_SHARES,
    before: Sequence[int] = ZERO_TPRUNE_BEFORE,
    similar: int = ZERO_TPRUNE_SIMILAR,
) -> Schedule:
    """Zero-TPrune's reported configuration (arXiv 2305.17328; unconfirmed, but its FLOPs agree: 3.12 G on DeiT-S).

    ``before`` each of these blocks ``similar`` tokens go, and of the patches that are left this share stays.
    """
    if len(shares) != len(before):
        raise ScheduleError("{} shares for {} blocks".format(len(shares), len(before)))
    _check_blocks(before, geometry, 1)
    keep, tokens = [], geometry.tokens
    for block in range(geometry.depth):
        if block + 1 in before:
            share = shares[list(before).index(block + 1)]
            _check_share(share)
            tokens = geometry.prefix + int((tokens - geometry.prefix - similar) * share)
        keep.append(tokens)
    return Schedule("zero-tprune", model, geometry.tokens, geometry.prefix, keep, parameters={"similar": similar})


def cropr(model: str, geometry: Geometry, per_block: int, fusion: bool = True) -> Schedule:
    """Cropr's constant R (arXiv 2412.00965): R tokens leave after every block except the last, one more the first time.

    With last-layer ``fusion`` also not after the one before, and the last block sees all tokens again.
    """
    pruned = geometry.depth - (2 if fusion else 1)
    keep, tokens = [], geometry.tokens
    for block in range(geometry.depth):
        if block < pruned:
            tokens -= per_block + (1 if block == 0 and per_block else 0)
        keep.append(tokens)
    restore: Optional[int] = None
    if fusion and pruned > 0 and per_block:
        keep[-1], restore = geometry.tokens, geometry.depth - 1
    return Schedule("cropr", model, geometry.tokens, geometry.prefix, keep, restore)


def _check_blocks(blocks: Sequence[int], geometry: Geometry, least: int) -> None:
    wrong = [block for block in blocks if not least <= block < geometry.depth]
    if wrong:
        raise ScheduleError("there is no block {} to reduce at; the model has {}".format(wrong[0], geometry.depth))


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ScheduleError("a share must lie above 0 and be at most 1, not {}".format(share))
