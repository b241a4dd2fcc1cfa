"""The boards that the virtual backend can stand for, as figures: what is public, estimated, and calibrated.

*Public* (data sheets): streaming multiprocessors (SMs), FP32 lanes per SM, largest clock, memory and its
bandwidth, how much faster fp16 runs than fp32 (``fp16_speedup``: packed halves on Maxwell and Pascal of the
Jetsons, tensor cores with fp32 accumulation since Volta), and the software that the board's last release carries
(whether its torch has fused attention).

*Estimated* (``launch_ns``): what one more kernel costs in eager PyTorch, mostly Python and dispatch on the
board's own CPU; tens of microseconds on Jetson's small cores, several on a desktop.

*Calibrated* (``efficiency``): the share of peak arithmetic that the best GEMM tile reaches. One scalar a board. That
of the TX2 is set so that DeiT-S (fp32, batch 1, 197 tokens) takes the published 35.3 ms. Not fitted, for comparison:
DeiT-B on a TX2 between 128 and 129 tokens, published about 47 → 76 ms, modelled 55 → 79 ms; DINOv2-G on an AGX Orin
near 128 tokens, published about 57 → 82 ms, modelled 79 → 115 ms: the height of the step comes out (1.44 and 1.45),
the level does not. The other boards' figures are estimates near the TX2's, held by no published anchor.
"""

from dataclasses import dataclass
from typing import Dict, Tuple

from tailfleet_schema.errors import InputError

Tile = Tuple[int, int, float]
"""Rows (tokens), columns, and the share of an SM's best GEMM throughput that a tile of this shape reaches."""

SIMT_TILES: Tuple[Tile, ...] = (
    (128, 128, 1.00),
    (128, 64, 0.96),
    (64, 128, 0.93),
    (64, 64, 0.88),
    (32, 128, 0.78),
    (32, 64, 0.72),
    (32, 32, 0.58),
)
"""Tiles of GEMMs on plain FP32 lanes. A small tile reads more bytes for each product, hence its lower share."""

TENSOR_TILES: Tuple[Tile, ...] = (
    (256, 128, 1.00),
    (128, 256, 1.00),
    (128, 128, 0.95),
    (256, 64, 0.90),
    (64, 256, 0.90),
    (128, 64, 0.84),
    (64, 128, 0.84),
    (64, 64, 0.70),
    (32, 64, 0.50),
)
"""Tiles of GEMMs on tensor cores, which need larger tiles to be fed."""


@dataclass(frozen=True)
class Profile:
    """One modelled board."""

    name: str
    title: str
    gpu: str
    sms: int
    lanes_per_sm: int
    clock_mhz: float
    memory_gb_s: float
    memory_gib: float
    fp16_speedup: float
    tensor_cores: bool
    bf16: bool
    fused_attention: bool
    """Whether its torch has ``scaled_dot_product_attention``; JetPack 4 ends at torch 1.10, which has not."""
    launch_ns: float
    efficiency: float
    cpu: str
    cpu_cores: int
    architecture: str
    simt_tiles: Tuple[Tile, ...] = SIMT_TILES
    tensor_tiles: Tuple[Tile, ...] = TENSOR_TILES

    @property
    def memory_bytes(self) -> int:
        """Memory that the GPU can use; on a Jetson it is shared with the CPU."""
        return int(self.memory_gib * 2**30)


_ALL = (
    Profile(
        "jetson-nano",
        "NVIDIA Jetson Nano 4GB",
        "Tegra X1 (Maxwell)",
        1,
        128,
        921.6,
        25.6,
        4,
        2.0,
        False,
        False,
        False,
        60e3,
        0.92,
        "Cortex-A57",
        4,
        "aarch64",
    ),
    Profile(
        "jetson-tx2",
        "NVIDIA Jetson TX2",
        "Tegra X2 (Pascal)",
        2,
        128,
        1300.5,
        59.7,
        8,
        2.0,
        False,
        False,
        False,
        50e3,
        0.885,
        "Cortex-A57 and Denver 2",
        6,
        "aarch64",
    ),
    Profile(
        "xavier-nx",
        "NVIDIA Jetson Xavier NX 8GB",
        "Xavier (Volta)",
        6,
        64,
        1100.0,
        59.7,
        8,
        8.0,
        True,
        False,
        True,
        35e3,
        0.90,
        "Carmel",
        6,
        "aarch64",
    ),
    Profile(
        "orin-nano",
        "NVIDIA Jetson Orin Nano 8GB",
        "Orin (Ampere)",
        8,
        128,
        625.0,
        68.0,
        8,
        8.0,
        True,
        True,
        True,
        20e3,
        0.95,
        "Cortex-A78AE",
        6,
        "aarch64",
    ),
    Profile(
        "agx-orin",
        "NVIDIA Jetson AGX Orin 64GB",
        "Orin (Ampere)",
        16,
        128,
        1300.0,
        204.8,
        64,
        8.0,
        True,
        True,
        True,
        12e3,
        0.95,
        "Cortex-A78AE",
        12,
        "aarch64",
    ),
    Profile(
        "rtx-3060",
        "PC with NVIDIA GeForce RTX 3060",
        "GeForce RTX 3060 (Ampere)",
        28,
        128,
        1777.0,
        360.0,
        12,
        2.0,
        True,
        True,
        True,
        7e3,
        0.90,
        "desktop",
        8,
        "x86_64",
    ),
    Profile(
        "rtx-4090",
        "PC with NVIDIA GeForce RTX 4090",
        "GeForce RTX 4090 (Ada)",
        128,
        128,
        2520.0,
        1008.0,
        24,
        2.0,
        True,
        True,
        True,
        5e3,
        0.90,
        "desktop",
        16,
        "x86_64",
    ),
    Profile(
        "a100",
        "Server with NVIDIA A100 80GB",
        "A100-SXM4-80GB (Ampere)",
        108,
        64,
        1410.0,
        2039.0,
        80,
        16.0,
        True,
        True,
        True,
        7e3,
        0.90,
        "server",
        64,
        "x86_64",
    ),
)

PROFILES: Dict[str, Profile] = {profile.name: profile for profile in _ALL}


def profile(name: str) -> Profile:
    """The profile of this name. Raises ``InputError`` for an unknown one."""
    if name not in PROFILES:
        raise InputError("no virtual board is named {!r}; known: {}".format(name, ", ".join(PROFILES)))
    return PROFILES[name]
