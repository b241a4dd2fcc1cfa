"""What one kernel costs on a modelled board: tiles, waves over SMs, memory bandwidth, and launch overhead.

A matrix product ``(rows, depth) · (depth, columns)``, repeated ``batch`` times, is cut into
``tiles = batch · ⌈rows/t_r⌉ · ⌈columns/t_c⌉``; an SM computes one tile at a time, so the product takes
``waves = ⌈tiles/SMs⌉`` times the time of one tile, ``2 · t_r · t_c · depth / (R · share · u)``, where ``R`` is the
FLOP/s of an SM times the board's efficiency and ``u = 1 - ramp/waves``: utilisation grows with waves, since filling
and draining the SMs is paid for once. One tile over a full wave costs a whole wave: that is the cliff. Where the
board's BLAS does *split-K*, the depth may be cut into pieces as well: more tiles of less work, whose partial sums are
written and read once more. Of all tile shapes and splits the fastest is taken, as a BLAS' heuristics mean to. No
kernel is faster than its bytes over the bandwidth, and every kernel pays one launch.

More tokens then never cost less. Real boards have exceptions, where heuristics choose badly: ``Profile.reversals`` is
the share of ranges of rows (an eighth of an octave wide) for which a product takes its third-best shape instead.

Left out on purpose: several tiles resident on an SM, caches between kernels, and clocks that move within a call.
"""

import random
from functools import lru_cache
from typing import Iterable, NamedTuple, Tuple, Union

from tailfleet_agent.worker.backends.named_boards import Profile, Tile
from tailfleet_schema.errors import InputError

BANDWIDTH_SHARE = 0.75
"""Share of the memory's nominal bandwidth that plain streaming kernels reach; a common figure of all boards."""

FUSED_SHARE = 0.6
"""Share of a GEMM's throughput that fused attention reaches: softmax runs between its two products."""

FUSED_ROWS = 64
"""Query rows, and key columns, of one tile of fused attention."""

SPLIT_SHARE = 0.95
"""Share of a product's throughput that is left when its depth is cut: its pieces must be put together."""

LEAST_SPLIT_DEPTH = 128
"""No piece of a product is less deep."""

USABLE_MEMORY = 0.75
"""Share of a board's memory that a model can have; the rest is the system's and CUDA's."""

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


class Gemm(NamedTuple):
    """``batch`` independent products of ``(rows, depth)`` and ``(depth, columns)``."""

    batch: int
    rows: int
    columns: int
    depth: int


class Stream(NamedTuple):
    """Kernels that only move and combine ``elements`` (read and written together), in ``launches`` launches."""

    elements: int
    launches: int = 1


class FusedAttention(NamedTuple):
    """``softmax(q kᵀ) v`` in one kernel, for ``heads`` (batch × heads) heads of ``width``."""

    heads: int
    queries: int
    keys: int
    width: int


Kernel = Union[Gemm, Stream, FusedAttention]


def total_ns(profile: Profile, dtype: str, kernels: Iterable[Kernel]) -> float:
    """Nanoseconds of ``kernels`` run one after the other."""
    return sum(kernel_ns(profile, dtype, kernel) for kernel in kernels)


def kernel_ns(profile: Profile, dtype: str, kernel: Kernel) -> float:
    """Nanoseconds of one kernel, its launch included."""
    if isinstance(kernel, Gemm):
        work_ns = max(gemm_arithmetic_ns(profile, dtype, kernel), bytes_ns(profile, _gemm_bytes(kernel, dtype)))
    elif isinstance(kernel, FusedAttention):
        work_ns = _fused_ns(profile, dtype, kernel)
    else:
        work_ns = bytes_ns(profile, kernel.elements * ELEMENT_BYTES[dtype])
        return work_ns + kernel.launches * profile.launch_ns
    return work_ns + profile.launch_ns


@lru_cache(maxsize=65536)
def gemm_arithmetic_ns(profile: Profile, dtype: str, gemm: Gemm) -> float:
    """Nanoseconds of the arithmetic of ``gemm`` in the shape that the board's BLAS chooses for it."""
    pieces = [split for split in profile.splits if split == 1 or gemm.depth >= split * LEAST_SPLIT_DEPTH]
    times = [_tiled_ns(profile, dtype, gemm, tile, split) for tile in tiles_of(profile, dtype) for split in pieces]
    if profile.reversals > 0 and _chosen_badly(profile, dtype, gemm):
        return sorted(times)[min(2, len(times) - 1)]
    return min(times)


def tiles_of(profile: Profile, dtype: str) -> Tuple[Tile, ...]:
    """The tile shapes that this board has for ``dtype``."""
    return profile.tensor_tiles if dtype != "fp32" and profile.tensor_cores else profile.simt_tiles


def sm_flops_per_ns(profile: Profile, dtype: str) -> float:
    """What one SM's best GEMM tile reaches; a multiply-add counts two. Raises ``InputError`` for a dtype it lacks."""
    if dtype not in ELEMENT_BYTES or (dtype == "bf16" and not profile.bf16):
        raise InputError("{} cannot compute in {}".format(profile.name, dtype))
    speedup = 1.0 if dtype == "fp32" else profile.fp16_speedup
    return 2.0 * profile.lanes_per_sm * profile.clock_mhz * 1e-3 * speedup * profile.efficiency


def bytes_ns(profile: Profile, count: float) -> float:
    """Nanoseconds in which the memory moves ``count`` bytes (a GB/s is a byte per nanosecond)."""
    return count / (profile.memory_gb_s * BANDWIDTH_SHARE)


def _tiled_ns(profile: Profile, dtype: str, gemm: Gemm, tile: Tile, split: int) -> float:
    rows, columns, share = tile
    tiles = split * gemm.batch * _ceil(gemm.rows, rows) * _ceil(gemm.columns, columns)
    waves = _ceil(tiles, profile.sms)
    tile_flops = 2.0 * rows * columns * gemm.depth / split
    # waves / u, with u = 1 - ramp / waves.
    times = waves * waves / (waves - profile.ramp)
    arithmetic_ns = times * tile_flops / (sm_flops_per_ns(profile, dtype) * share)
    if split == 1:
        return arithmetic_ns
    sums = 2 * split * gemm.batch * gemm.rows * gemm.columns
    return arithmetic_ns / SPLIT_SHARE + bytes_ns(profile, sums * ELEMENT_BYTES["fp32"])


def _chosen_badly(profile: Profile, dtype: str, gemm: Gemm) -> bool:
    rows = gemm.batch * gemm.rows
    octave = max(rows.bit_length() - 4, 0)
    product = (profile.seed, dtype, gemm.columns, gemm.depth, octave, rows >> octave)
    return random.Random(":".join(str(field) for field in product)).random() < profile.reversals


def _fused_ns(profile: Profile, dtype: str, kernel: FusedAttention) -> float:
    waves = _ceil(kernel.heads * _ceil(kernel.queries, FUSED_ROWS), profile.sms)
    tile_flops = 4.0 * FUSED_ROWS * _ceil(kernel.keys, FUSED_ROWS) * FUSED_ROWS * kernel.width
    arithmetic_ns = waves * tile_flops / (sm_flops_per_ns(profile, dtype) * FUSED_SHARE)
    moved = 2 * kernel.heads * (kernel.queries + kernel.keys) * kernel.width * ELEMENT_BYTES[dtype]
    return max(arithmetic_ns, bytes_ns(profile, moved))


def _gemm_bytes(gemm: Gemm, dtype: str) -> int:
    elements = gemm.rows * gemm.depth + gemm.depth * gemm.columns + gemm.rows * gemm.columns
    return gemm.batch * elements * ELEMENT_BYTES[dtype]


def _ceil(amount: int, size: int) -> int:
    return -(-amount // size)
