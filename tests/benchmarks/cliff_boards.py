"""Boards whose every cliff is known, for ``bench_cliffs``: two generators that share nothing, and their noise.

:func:`modelled` draws the figures of a board at random and computes its curve by the wave model of virtual boards.
:func:`irregular` knows no kernels: a smooth base, steps anywhere and of any height, steps backwards among them. Both
get noise of some shape and size; the second kind also drifts, within a round and from one to the next, and has bursts.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from tailfleet_agent.worker.backends import virtual
from tailfleet_agent.worker.backends.named_boards import Profile
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.workload import Geometry

TOKENS = 197

WIDTHS = ((192, 3), (384, 6), (768, 12))
"""Width and heads of ViT-Ti, -S and -B."""


@dataclass(frozen=True)
class Board:
    """One board: the noiseless time of each count, and how its calls scatter about it."""

    kind: str
    truth_ns: dict[int, float]
    share: float
    """Standard deviation of the noise of calls, as a share."""
    shape: Callable[[random.Random], float]
    """A draw of noise whose standard deviation is 1."""
    between: float = 0.0
    """Standard deviation of what rounds differ by, as a share."""
    within: float = 0.0
    """What everything gets slower by from the begin of a round to its end, as a share."""
    bursts: float = 0.0
    """Share of blocks beside a busy neighbour."""


def modelled(rng: random.Random, batch: int) -> Board:
    """A board of the wave model: from a Nano's to a big desktop's figures."""
    width, heads = rng.choice(WIDTHS)
    geometry = Geometry(12, width, heads, 4 * width, TOKENS, 1, 224, 16, 3, 1000)
    profile = Profile(
        name="made-up",
        title="made up",
        gpu="made up",
        sms=round(_log_uniform(rng, 1, 64)),
        lanes_per_sm=rng.choice((64, 128)),
        clock_mhz=rng.uniform(600, 2000),
        memory_gb_s=_log_uniform(rng, 25, 1000),
        memory_gib=64,
        fp16_speedup=2.0,
        tensor_cores=rng.random() < 0.5,
        bf16=False,
        fused_attention=rng.random() < 0.5,
        launch_ns=_log_uniform(rng, 3e3, 60e3),
        efficiency=rng.uniform(0.7, 0.95),
        cpu="made up",
        cpu_cores=4,
        architecture="aarch64",
    )
    dtype = rng.choice(("fp32", "fp16"))
    truth = {n: virtual.true_ns(profile, geometry, Unit(Part.MODEL, n, n), batch, dtype) for n in range(2, TOKENS + 1)}
    return Board("modelled", truth, _share(rng), rng.choice((_skewed, _normal)))


def irregular(rng: random.Random, batch: int) -> Board:
    """A board that nobody has a model of; a larger batch has more steps."""
    full_ns = _log_uniform(rng, 1e6, 3e8)
    fixed = rng.uniform(0.3, 0.9)
    power = rng.uniform(1.0, 1.5)
    places = _apart(rng, rng.randint(2, 6) if batch == 1 else rng.randint(6, 14), least=5)
    steps = {}
    for place in places:
        height = _log_uniform(rng, 0.03, 0.4)
        if rng.random() < 0.2:
            # Slower kernels for fewer tokens, as real boards have some.
            height = -min(height, 0.15)
        elif rng.random() < 0.15:
            # Too low to be asked for; neither finding nor missing it counts.
            height = rng.uniform(0.01, 0.03)
        steps[place] = height
    truth = {}
    for n in range(2, TOKENS + 1):
        base = full_ns * (fixed + (1 - fixed) * (n / TOKENS) ** power)
        truth[n] = base * math.prod(1 + height for place, height in steps.items() if n > place)
    return Board(
        "irregular",
        truth,
        _share(rng),
        rng.choice((_skewed, _normal)),
        between=rng.uniform(0, 0.02),
        within=rng.uniform(0, 0.02),
        bursts=rng.uniform(0, 0.02),
    )


def steps(board: Board, least: float) -> dict[int, float]:
    """By the count before it, every change from one count to the next of at least ``least``, as a share of the time
    before it, beyond what the curve rises nearby."""
    truth = board.truth_ns
    rises = {n: truth[n + 1] / truth[n] - 1 for n in truth if n + 1 in truth}
    found = {}
    for n, rise in rises.items():
        nearby = sorted(rises[m] for m in range(n - 4, n + 5) if m in rises and m != n)
        usual = min(nearby, key=abs)
        if abs(rise - usual) >= least:
            found[n] = rise
    return found


def _share(rng: random.Random) -> float:
    return _log_uniform(rng, 0.003, 0.03)


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _normal(rng: random.Random) -> float:
    return rng.gauss(0.0, 1.0)


def _skewed(rng: random.Random) -> float:
    """A sharp lower edge and a tail, as quiet machines have."""
    return rng.expovariate(1.0) + 0.15 * rng.gauss(0.0, 1.0)


def _apart(rng: random.Random, count: int, least: int) -> list[int]:
    """Places of steps, none within ``least`` tokens of another or of an end."""
    free = list(range(2 + least, TOKENS - least))
    chosen: list[int] = []
    while free and len(chosen) < count:
        place = rng.choice(free)
        chosen.append(place)
        free = [n for n in free if abs(n - place) >= least]
    return sorted(chosen)
