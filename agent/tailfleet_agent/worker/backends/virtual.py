"""Virtual boards: latencies computed from a model of a named board, never timed.

:func:`true_ns` is the noiseless truth: the kernels that a unit launches (``vit_kernels``), each at its cost
(``wave_model``) on the board's figures (``named_boards``). :class:`VirtualBackend` adds seeded noise, so that a
sweep of a virtual board looks like a measured one with a known truth behind it. A sample depends on the job's seed
and its key alone, not on the order or the number of runs in which it is drawn; unless the board's profile asks for
disturbances (``surroundings``): drift, a ramp, bursts and throttling depend on virtual time, hence on the order of
the calls, and a job that is resumed starts that time anew.

Parts do not add up exactly, as on real boards: a pass through the whole model finds colder caches than a pass
through halves of blocks. With ``parts`` = FIXED + ATTENTION(n) + MLP(n),
``MODEL(n) = parts + 2 % of the blocks' time + 15 % of the time to read all blocks' weights once``: on the boards
listed, between 2 and 7 % more than the parts, for DeiT-S on 16 tokens or more.
"""

import random
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Dict, List, Optional, Tuple, Union

from tailfleet_agent.worker.backends import Backend, OutOfMemory, vit_kernels, wave_model
from tailfleet_agent.worker.backends.named_boards import PROFILES, Profile, profile
from tailfleet_agent.worker.backends.surroundings import Surroundings
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import SIZED, Part, Unit
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job
from tailfleet_schema.schedule import MID, PLACEMENT, Schedule, importance_passes
from tailfleet_schema.virtual_board import parse
from tailfleet_schema.workload import Geometry

__all__ = ["PROFILES", "Noise", "Profile", "VirtualBackend", "profile", "sample_ns", "true_ns"]

COLD_SHARE = 0.02
COLD_WEIGHTS = 0.15


@dataclass(frozen=True)
class Noise:
    """How samples scatter about the truth: a sharp lower edge and a long tail, as on quiet real boards."""

    share: float = 0.01
    """Standard deviation of the everyday part, relative to the truth; exponential, hence skewed to the right."""
    jitter: float = 0.15
    """Gaussian part, relative to ``share``: lets a few samples fall below the truth."""
    spike_probability: float = 0.004
    spike_share: float = 1.5
    """A spike adds up to this much of the truth."""


class VirtualBackend(Backend):
    """Draws samples about :func:`true_ns`. Raises ``InputError`` where no profile, or an unknown one, is named.

    ``virtual_profile`` is the text that asks for the board; ``noise`` replaces the everyday noise that it asks for.
    """

    def __init__(self, job: Job, virtual_profile: str, noise: Optional[Noise] = None) -> None:
        if not virtual_profile:
            raise InputError("backend virtual belongs to virtual boards alone; ask for eager on a real one")
        options = parse(virtual_profile)
        self._profile = profile(virtual_profile)
        self._hot = replace(self._profile, clock_mhz=self._profile.clock_mhz * (1.0 - options.throttle))
        self._job = job
        self._noise = noise or Noise(share=options.noise, spike_probability=options.spikes)
        self._schedules = {schedule.digest: schedule for schedule in job.schedules}
        self._truths: Dict[Tuple[Unit, bool], float] = {}
        self._peak_bytes: Optional[int] = None
        workload = job.workload
        # A dtype that the board lacks is refused before anything runs.
        wave_model.sm_flops_per_ns(self._profile, workload.dtype)
        named = [job.seed, self._profile.name, workload.model.name, workload.batch, workload.dtype]
        self._source = "|".join(str(part) for part in named + [options.seed] * bool(options.seed))
        timed = options.drift or options.ramp or options.bursts or options.throttle
        self._surroundings = Surroundings(options, self._source) if timed else None
        self._throttles = options.throttle > 0

    def describe(self) -> Dict[str, str]:
        """The modelled board, marked as such."""
        attention = "fused attention" if self._profile.fused_attention else "explicit attention"
        return {"device": "virtual " + self._profile.title, "attention": attention}

    def measure(self, unit: Unit, round_number: int, calls: int) -> List[int]:
        """Samples of ``unit``; without disturbances the same for the same seed, key and board."""
        workload = self._job.workload
        needed = memory_needed_bytes(self._profile, workload.model.geometry, unit, workload.batch, workload.dtype)
        if needed > self._profile.memory_bytes * wave_model.USABLE_MEMORY:
            raise OutOfMemory("{} has too little memory for it".format(self._profile.name))
        self._peak_bytes = needed
        source = "{}|{}".format(self._source, ":".join(str(field) for field in unit.key(round_number)))
        factors = noise_factors(calls, random.Random(source), self._noise)
        if self._surroundings is None:
            return [_whole(self._truth(unit, False) * factor) for factor in factors]
        around = self._surroundings
        return [_whole(around.pass_ns(self._truth(unit, around.throttled) * factor)) for factor in factors]

    def peak_memory_bytes(self) -> Optional[int]:
        """What the last unit holds by the model, at its widest moment."""
        return self._peak_bytes

    def telemetry(self) -> Optional[Telemetry]:
        """The clock of a board that throttles, marked as modelled; of any other nothing is known."""
        around = self._surroundings
        if around is None or not self._throttles:
            return None
        hot = around.throttled
        return Telemetry(
            taken_at=datetime.now(timezone.utc).isoformat(),
            governor="modelled",
            gpu_mhz=(self._hot if hot else self._profile).clock_mhz,
            throttled="modelled: hot" if hot else "",
        )

    def _truth(self, unit: Unit, hot: bool) -> float:
        if (unit, hot) not in self._truths:
            workload = self._job.workload
            self._truths[unit, hot] = true_ns(
                self._hot if hot else self._profile,
                workload.model.geometry,
                unit,
                workload.batch,
                workload.dtype,
                self._schedules.get(unit.label),
            )
        return self._truths[unit, hot]


def sample_ns(truth_ns: float, calls: int, rng: random.Random, noise: Noise) -> List[int]:
    """``calls`` noisy samples of ``truth_ns``, at least 1 ns each."""
    return [_whole(truth_ns * factor) for factor in noise_factors(calls, rng, noise)]


def noise_factors(calls: int, rng: random.Random, noise: Noise) -> List[float]:
    """How many times the truth each of ``calls`` calls takes."""
    factors = []
    for _ in range(calls):
        factor = 1.0 + noise.share * (rng.expovariate(1.0) + rng.gauss(0.0, noise.jitter))
        if rng.random() < noise.spike_probability:
            factor += rng.uniform(0.0, noise.spike_share)
        factors.append(factor)
    return factors


def _whole(ns: float) -> int:
    return max(1, round(ns))


def true_ns(
    board: Union[Profile, str],
    geometry: Geometry,
    unit: Unit,
    batch: int,
    dtype: str,
    schedule: Optional[Schedule] = None,
) -> float:
    """Noiseless nanoseconds of one call of a timed ``unit`` on ``board`` (a profile or its name).

    ``board`` may carry options; only its reversals are part of the truth. ``schedule`` is the one that a SCHEDULE unit
    names. Raises ``InputError`` for a judged unit, for more tokens
    than the model has, for a dtype that the board lacks, and for a method whose cost is unknown.
    """
    if isinstance(board, str):
        board = profile(board)
    if unit.tokens > geometry.tokens:
        raise InputError("{} tokens asked for, but the model has {}".format(unit.tokens, geometry.tokens))
    if unit.part is Part.FIXED:
        return _fixed_ns(board, geometry, batch, dtype)
    if unit.part is Part.ATTENTION:
        if unit.label not in ("", SIZED):
            raise InputError("attention is plain or {}, not {!r}".format(SIZED, unit.label))
        return geometry.depth * _attention_ns(board, geometry, batch, dtype, unit.tokens, unit.label == SIZED)
    if unit.part is Part.MLP:
        return geometry.depth * _mlp_ns(board, geometry, batch, dtype, unit.tokens)
    if unit.part is Part.REDUCE:
        return sum(
            _reduce_ns(board, geometry, batch, dtype, unit.label, unit.tokens, unit.kept, False, passes)
            for passes in (importance_passes(unit.label, block, geometry.depth) for block in range(geometry.depth))
        )
    if unit.part in (Part.MODEL, Part.SENTINEL):
        block_ns = _attention_ns(board, geometry, batch, dtype, unit.tokens, False) + _mlp_ns(
            board, geometry, batch, dtype, unit.tokens
        )
        return _whole_ns(board, geometry, batch, dtype, geometry.depth * block_ns)
    if unit.part is Part.SCHEDULE:
        if schedule is None:
            raise InputError("a schedule unit needs its schedule")
        return _whole_ns(board, geometry, batch, dtype, _schedule_blocks_ns(board, geometry, batch, dtype, schedule))
    raise InputError("{} is judged, not timed".format(unit.part.value))


def memory_needed_bytes(board: Profile, geometry: Geometry, unit: Unit, batch: int, dtype: str) -> int:
    """Weights and the widest moment of a block: normed input, q, k, v or the MLP's hidden layer, attention matrix."""
    rows = batch * unit.tokens
    widest = rows * max(5 * geometry.dim, 2 * geometry.dim + 2 * geometry.mlp_dim)
    if not board.fused_attention or unit.label in ("pomt", "zero-tprune"):
        widest = max(widest, rows * 5 * geometry.dim + 2 * batch * geometry.heads * unit.tokens**2)
    return wave_model.ELEMENT_BYTES[dtype] * (geometry.block_weights + widest)


def _schedule_blocks_ns(board: Profile, geometry: Geometry, batch: int, dtype: str, schedule: Schedule) -> float:
    blocks_ns = 0.0
    sized = False
    mid = PLACEMENT[schedule.method] == MID
    for block, (n, m) in enumerate(zip(schedule.entering, schedule.keep)):
        passes = importance_passes(schedule.method, block, geometry.depth)
        blocks_ns += _reduce_ns(board, geometry, batch, dtype, schedule.method, n, m, sized, passes)
        blocks_ns += _mlp_ns(board, geometry, batch, dtype, m if mid else n)
        blocks_ns += _restoring_ns(board, geometry, batch, dtype, schedule, block)
        # ToMe's tokens carry sizes from the first merge on, and attention weighs them by these.
        sized = sized or (schedule.method == "tome" and m < n)
    return blocks_ns


def _restoring_ns(board: Profile, geometry: Geometry, batch: int, dtype: str, schedule: Schedule, block: int) -> float:
    """What a schedule that puts dropped tokens back pays for that at ``block``; 0 for any other."""
    restoring = schedule.restore_before
    if restoring is None or block > restoring:
        return 0.0
    arriving = schedule.keep[block - 1] if block else schedule.tokens
    if block == restoring:
        return wave_model.total_ns(board, dtype, vit_kernels.restored(geometry, batch, arriving))
    kept = schedule.keep[block]
    if kept == arriving:
        return 0.0
    return wave_model.total_ns(board, dtype, vit_kernels.followed(geometry, batch, arriving, kept))


def _whole_ns(board: Profile, geometry: Geometry, batch: int, dtype: str, blocks_ns: float) -> float:
    weights_ns = wave_model.bytes_ns(board, geometry.block_weights * wave_model.ELEMENT_BYTES[dtype])
    return _fixed_ns(board, geometry, batch, dtype) + (1.0 + COLD_SHARE) * blocks_ns + COLD_WEIGHTS * weights_ns


@lru_cache(maxsize=4096)
def _fixed_ns(board: Profile, geometry: Geometry, batch: int, dtype: str) -> float:
    return wave_model.total_ns(board, dtype, vit_kernels.fixed(geometry, batch))


@lru_cache(maxsize=65536)
def _attention_ns(board: Profile, geometry: Geometry, batch: int, dtype: str, n: int, sized: bool) -> float:
    return wave_model.total_ns(board, dtype, vit_kernels.attention(geometry, batch, n, board.fused_attention, sized))


@lru_cache(maxsize=65536)
def _mlp_ns(board: Profile, geometry: Geometry, batch: int, dtype: str, n: int) -> float:
    return wave_model.total_ns(board, dtype, vit_kernels.mlp(geometry, batch, n))


@lru_cache(maxsize=65536)
def _reduce_ns(
    board: Profile, geometry: Geometry, batch: int, dtype: str, method: str, n: int, m: int, sized: bool, passes: int
) -> float:
    kernels = vit_kernels.attention_reduce(geometry, batch, method, n, m, board.fused_attention, sized, passes)
    return wave_model.total_ns(board, dtype, kernels)
