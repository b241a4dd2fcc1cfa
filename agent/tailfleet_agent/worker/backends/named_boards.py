"""The boards that the virtual backend can stand for, as figures: what is public, estimated, and calibrated.

*Public*: streaming multiprocessors (SMs), largest GPU clock, memory and its bandwidth, and CPU are those of NVIDIA's
data sheets: of the Jetson modules (Nano, TX2, Xavier NX in its later revision with LPDDR4x at 1866 MHz, Orin Nano,
Orin NX, AGX Orin; ``-super`` is the Orin Nano's MAXN SUPER mode of JetPack 6.1), of the GeForce cards, and of V100
SXM2, T4, L4, A100 SXM and H200 SXM. So are FP32 lanes per SM and ``fp16_speedup``, how much faster half precision
runs: packed halves on Maxwell and Pascal of the Jetsons, tensor cores with fp32 accumulation since Volta, at half
rate on GeForce, without sparsity. ``fused_attention`` follows from the software of the board's last release.
fp32 means fp32: tensor cores' TF32 is off in torch unless asked for.

*Estimated*: ``launch_ns``, what one more kernel costs in eager PyTorch, mostly Python and dispatch on the board's own
CPU (tens of microseconds on Jetson's small cores, several on a desktop); ``ramp``; and ``splits``: published profiles
find split-K in 0–4 % of the kernels of A100 and H100, but in 37 % on V100, 43 % on T4, 55 % on L4 and 96 % on P4.

*Calibrated*: ``efficiency``, the share of peak arithmetic that the best GEMM tile reaches, one scalar a board. That of
the TX2 is set so that DeiT-S (fp32, batch 1, 197 tokens) takes the published 35.3 ms; the others' are estimates near
it, held by no published anchor. How far off the model is where nothing was fitted (``test_anchors.py``):

- DeiT-B on a TX2 jumps after 32, 64 and 128 tokens (published: near 16, 33 and 65 % of 197) and, at batch 8, mostly
  every 16 tokens (published: treads about 8 % wide). At 65 % it is published at 47 → 76 ms, modelled at 55 → 78 ms.
- DINOv2-G on an AGX Orin near 128 tokens, published at 57 → 82 ms: modelled in fp32 at 81 → 117 ms. The height of the
  step comes out (1.44 both), the level does not; 57 ms would be 97 % of the peak in fp32, so TF32 is likely.
- DINOv2-G on an A100 at batch 2, published at 23.7 → 26.4 ms at 75 %: modelled in fp32 at 76 → 86 ms. Not comparable:
  fp32 lanes need 45 ms at their peak.
"""

from dataclasses import dataclass, replace
from typing import Any, Dict, Tuple

from tailfleet_schema.errors import InputError
from tailfleet_schema.virtual_board import parse

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
    ramp: float = 0.0
    """Share of its throughput that a GEMM of a single wave loses while the SMs fill and drain."""
    splits: Tuple[int, ...] = (1,)
    """Into how many pieces its BLAS may cut a product's depth (split-K); 1: not at all."""
    reversals: float = 0.0
    """Share of the ranges of rows, of each product, for which its BLAS chooses badly."""
    seed: int = 0
    """Decides which ranges those are."""

    @property
    def memory_bytes(self) -> int:
        """Memory that the GPU can use; on a Jetson it is shared with the CPU."""
        return int(self.memory_gib * 2**30)


def _generation(name: str, lanes: int, speedup: float, splits: Tuple[int, ...], **more: Any) -> Dict[str, Any]:
    facts = {
        "generation": name,
        "lanes_per_sm": lanes,
        "fp16_speedup": speedup,
        "splits": splits,
        "tensor_cores": True,
        "bf16": True,
        "fused_attention": True,
    }
    return {**facts, **more}


_BEFORE_VOLTA = {"tensor_cores": False, "bf16": False, "fused_attention": False}
_MAXWELL = _generation("Maxwell", 128, 2.0, (1, 2), **_BEFORE_VOLTA)
_PASCAL = _generation("Pascal", 128, 2.0, (1, 2), **_BEFORE_VOLTA)
_VOLTA = _generation("Volta", 64, 8.0, (1, 2, 4), bf16=False)
_TURING = _generation("Turing", 64, 8.0, (1, 2, 4), bf16=False)
_ORIN = _generation("Ampere", 128, 8.0, (1, 2, 4))
_GEFORCE_AMPERE = _generation("Ampere", 128, 2.0, (1, 2, 4))
_GEFORCE_ADA = _generation("Ada", 128, 2.0, (1, 2, 4))
_ADA = _generation("Ada", 128, 4.0, (1, 2, 4))
_A100 = _generation("Ampere", 64, 16.0, (1,))
_HOPPER = _generation("Hopper", 128, 14.8, (1,))

_RAMP = 0.1

_Row = Tuple[str, str, str, Dict[str, Any], int, float, float, float, float, float, str, int]

# Name, title, GPU, its generation, SMs, MHz, GB/s, GiB, launch in microseconds, efficiency, CPU and its cores.
_JETSONS: Tuple[_Row, ...] = (
    ("jetson-nano", "Nano 4GB", "Tegra X1", _MAXWELL, 1, 921.6, 25.6, 4, 60, 0.92, "Cortex-A57", 4),
    ("jetson-tx2", "TX2", "Tegra X2", _PASCAL, 2, 1300.5, 59.7, 8, 50, 0.899, "Cortex-A57 and Denver 2", 6),
    ("xavier-nx", "Xavier NX 8GB", "Xavier", _VOLTA, 6, 1100.0, 59.7, 8, 35, 0.90, "Carmel", 6),
    ("orin-nano", "Orin Nano 8GB", "Orin", _ORIN, 8, 625.0, 68.0, 8, 20, 0.95, "Cortex-A78AE", 6),
    ("orin-nano-super", "Orin Nano 8GB Super", "Orin", _ORIN, 8, 1020.0, 102.0, 8, 18, 0.95, "Cortex-A78AE", 6),
    ("orin-nx", "Orin NX 16GB", "Orin", _ORIN, 8, 918.0, 102.4, 16, 16, 0.95, "Cortex-A78AE", 8),
    ("agx-orin-32gb", "AGX Orin 32GB", "Orin", _ORIN, 14, 930.0, 204.8, 32, 13, 0.95, "Cortex-A78AE", 8),
    ("agx-orin", "AGX Orin 64GB", "Orin", _ORIN, 16, 1300.0, 204.8, 64, 12, 0.95, "Cortex-A78AE", 12),
)
_PCS: Tuple[_Row, ...] = (
    ("rtx-3060", "PC", "GeForce RTX 3060", _GEFORCE_AMPERE, 28, 1777.0, 360.0, 12, 7, 0.90, "desktop", 8),
    ("rtx-4090", "PC", "GeForce RTX 4090", _GEFORCE_ADA, 128, 2520.0, 1008.0, 24, 5, 0.90, "desktop", 16),
    ("v100", "Server", "V100-SXM2-16GB", _VOLTA, 80, 1530.0, 900.0, 16, 8, 0.90, "server", 40),
    ("t4", "Server", "T4", _TURING, 40, 1590.0, 320.0, 16, 8, 0.90, "server", 32),
    ("l4", "Server", "L4", _ADA, 58, 2040.0, 300.0, 24, 7, 0.90, "server", 48),
    ("a100", "Server", "A100-SXM4-80GB", _A100, 108, 1410.0, 2039.0, 80, 7, 0.90, "server", 64),
    ("h200", "Server", "H200-SXM5-141GB", _HOPPER, 132, 1980.0, 4800.0, 140, 5, 0.90, "server", 96),
)


def _board(row: _Row, jetson: bool) -> Profile:
    name, title, gpu, generation, sms, mhz, gb_s, gib, launch_us, efficiency, cpu, cores = row
    facts = dict(generation)
    made = facts.pop("generation")
    return Profile(
        name=name,
        title="NVIDIA Jetson {}".format(title) if jetson else "{} with NVIDIA {}".format(title, gpu),
        gpu="{} ({})".format(gpu, made),
        sms=sms,
        clock_mhz=mhz,
        memory_gb_s=gb_s,
        memory_gib=gib,
        launch_ns=1e3 * launch_us,
        efficiency=efficiency,
        cpu=cpu,
        cpu_cores=cores,
        architecture="aarch64" if jetson else "x86_64",
        ramp=_RAMP,
        **facts,
    )


PROFILES: Dict[str, Profile] = {
    board.name: board
    for board in [_board(row, jetson=True) for row in _JETSONS] + [_board(row, jetson=False) for row in _PCS]
}

ALIASES = {
    "orin-nano-8gb": "orin-nano",
    "orin-nx-16gb": "orin-nx",
    "agx-orin-64gb": "agx-orin",
    "a100-80gb": "a100",
}
"""Other names of boards, by which they are often called."""


def profile(text: str) -> Profile:
    """The board that ``text`` asks for (``tailfleet_schema.virtual_board``), without its disturbances.

    Raises ``InputError`` for an unknown board or a bad option.
    """
    wanted = parse(text)
    board = PROFILES.get(ALIASES.get(wanted.board, wanted.board))
    if board is None:
        raise InputError("no virtual board is named {!r}; known: {}".format(wanted.board, ", ".join(PROFILES)))
    return replace(board, reversals=wanted.reversals, seed=wanted.seed)
