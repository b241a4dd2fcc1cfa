"""Random virtual boards whose every cost is known, for ``bench_never_slower`` and ``bench_optimality``.

A :class:`Case` is a board near one of the shipped ones (each of its figures drawn anew within a factor of two or less),
its noise, a ViT and a batch. :func:`swept` is the noisy sweep that a campaign would order of it; the agent's own engine
and backend make it. :func:`judged` are accuracies of every method on 500 made-up images: losses that grow as blocks
come earlier and tokens fewer, of a hardness and a shape drawn for each model, each image with a limit of its own.
:class:`Truth` is what the board takes without noise, block by block, from the backend and never from a fitted model.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tailfleet_agent.worker import run
from tailfleet_agent.worker.backends import virtual
from tailfleet_agent.worker.backends.named_boards import PROFILES, Profile
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.accuracy import AccuracyProfile
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.search import Problem
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import MID, PLACEMENT, Schedule, dense, smallest_reachable
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing, Workload

METHODS = ("topk", "pomt", "tome")

IMAGES = 500

FRAGILITY = {"topk": 1.0, "pomt": 0.9, "tome": 0.6}
"""How much one method loses beside another, all else being equal: merging loses least."""

WIDTHS = ((192, 3), (384, 6), (768, 12))
"""Width and heads of ViT-Ti, -S and -B."""


@dataclass(frozen=True)
class Case:
    """One model at one batch on one board."""

    board: Profile
    options: str
    """Noise and drift, as a virtual board is asked for them."""
    model: ModelSpec
    batch: int
    dtype: str
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.board.name} × {self.model.name}, batch {self.batch}, {self.dtype}"


def vit(depth: int, dim: int, heads: int, side: int, name: str = "vit") -> ModelSpec:
    """A ViT with a class token and ``side``² patches, and with labelled images."""
    geometry = Geometry(depth, dim, heads, 4 * dim, side * side + 1, 1, 16 * side, 16, 3, 1000)
    wanted = Preprocessing([0.5] * 3, [0.5] * 3)
    return ModelSpec(name, "VisionTransformer", geometry, dataset="made-up", preprocessing=wanted)


def random_case(rng: random.Random, seed: int, depths: Sequence[int], sides: Sequence[int]) -> Case:
    """A board, a model and a batch, all drawn."""
    like = rng.choice(list(PROFILES.values()))
    board = replace(
        like,
        name=f"random-{seed}",
        sms=max(1, round(like.sms * _about(rng, 1.4))),
        clock_mhz=like.clock_mhz * _about(rng, 1.4),
        memory_gb_s=like.memory_gb_s * _about(rng, 1.5),
        memory_gib=max(like.memory_gib, 16),
        launch_ns=like.launch_ns * _about(rng, 2.0),
        efficiency=rng.uniform(0.75, 0.95),
        fused_attention=rng.random() < (0.9 if like.fused_attention else 0.1),
        ramp=rng.uniform(0.0, 0.2),
        seed=seed,
    )
    options = f"noise={math.exp(rng.uniform(math.log(0.003), math.log(0.03))):.4f},seed={seed}"
    if rng.random() < 0.3:
        options += f",drift={rng.uniform(0.01, 0.04):.3f}"
    if rng.random() < 0.3:
        options += f",bursts={rng.uniform(0.01, 0.1):.3f}"
    dim, heads = rng.choice(WIDTHS)
    model = vit(rng.choice(depths), dim, heads, rng.choice(sides))
    dtype = "fp16" if like.tensor_cores and rng.random() < 0.5 else "fp32"
    return Case(board, options, model, rng.choice((1, 1, 2, 4, 8, 16, 32)), dtype, seed)


def swept(case: Case, methods: Sequence[str] = METHODS) -> list[UnitResult]:
    """What a campaign's adaptive sweep of ``methods`` measures, noise and all."""
    geometry, settings = case.model.geometry, SweepSettings()
    timed = anchors(case.model.name, geometry, methods)
    units = design.sweep_units(
        geometry, methods, settings.counts, BoardKind.VIRTUAL, case.batch, "virtual", case.dtype
    ) + design.schedule_units(timed)
    job = Job(
        id=case.board.name,
        kind=JobKind.SWEEP,
        workload=Workload(case.model, case.batch, "virtual", case.dtype),
        units=units,
        rounds=settings.rounds,
        calls=settings.calls,
        seed=case.seed,
        schedules=timed,
        effort=settings.effort(design.least_count(geometry)),
    )
    with _known(case.board):
        backend = virtual.VirtualBackend(job, f"{case.board.name}:{case.options}")
    measuring = run.Measuring(job, lambda: backend, _nothing_to_judge, lambda: None, now=lambda: 0.0)
    return list(run.run(job, measuring))


def judged(case: Case, methods: Sequence[str] = METHODS) -> list[UnitResult]:
    """LOSS results of ``methods``, and INPUT results."""
    rng = random.Random(f"images {case.seed}")
    geometry = case.model.geometry
    hardness, power, slope = math.exp(rng.uniform(-1.5, 0.5)), rng.uniform(1.5, 3.0), rng.uniform(0.5, 1.5)
    right = [rng.random() < 0.8 for _ in range(IMAGES)]
    limits = [rng.expovariate(1.0) for _ in range(IMAGES)]

    def judgement(strain: float) -> Judgement:
        bits = "".join("1" if ok and strain <= limit else "0" for ok, limit in zip(right, limits))
        agreeing = sum(strain <= limit for limit in limits)
        return Judgement(IMAGES, bits.count("1"), agreeing, strain / 2, "host", bits)

    made = []
    for method in methods:
        for unit in design.profile_units(geometry, method):
            place = 1.0 + slope * (0.5 - unit.block / geometry.depth)
            strain = FRAGILITY[method] * hardness * place * (1 - unit.kept / unit.tokens) ** power
            made.append(UnitResult(unit, 0, judgement=judgement(strain)))
    for unit in design.input_units(geometry):
        strain = 1.3 * hardness * (1 - unit.tokens / geometry.tokens) ** power
        made.append(UnitResult(unit, 0, judgement=judgement(strain)))
    return made


class Truth:
    """What a case's schedules of one method take without noise, and what they lose by the profile."""

    def __init__(self, case: Case, method: str, profile: AccuracyProfile) -> None:
        self._case, self._method, self._profile = case, method, profile
        geometry = case.model.geometry
        self.dense_ns = self.schedule_ns(dense(case.model.name, geometry))
        full = geometry.tokens
        # What a pass takes outside its blocks: the cold weights' share among it.
        self._fixed_ns = self.dense_ns - geometry.depth * self._block_ns(full, full)

    def schedule_ns(self, schedule: Schedule) -> float:
        """Of the whole model under ``schedule``."""
        unit = Unit(Part.SCHEDULE, schedule.tokens, schedule.keep[-1], schedule.digest)
        case = self._case
        return virtual.true_ns(case.board, case.model.geometry, unit, case.batch, case.dtype, schedule)

    def loss(self, schedule: Schedule) -> float:
        """Points that a plan holds ``schedule`` to lose."""
        steps = enumerate(zip(schedule.entering, schedule.keep))
        return self._profile.unit * sum(self._profile.step_units(b, n, m) for b, (n, m) in steps if m < n)

    def problem(self, counts: Sequence[int]) -> Problem:
        """All ways to reduce to ``counts``, at their true cost; losses in units of the profile."""
        geometry, profile = self._case.model.geometry, self._profile
        known = sorted({n for n in counts if n > geometry.prefix} | {geometry.tokens}, reverse=True)
        block_ns = np.full((len(known), len(known)), np.inf)
        block_loss = np.full((geometry.depth, len(known), len(known)), np.inf)
        for i, n in enumerate(known):
            for j, m in enumerate(known[i:], start=i):
                if m < n and m < max(smallest_reachable(self._method, n, geometry.prefix), profile.counts[0]):
                    continue
                block_ns[i, j] = self._block_ns(n, m)
        at = self.losses(known)  # (D, K)
        for block in range(geometry.depth):
            allowed = np.array([profile.allows(block, m) for m in known])
            added = np.maximum(at[block][None, :] - at[block][:, None], 0.0)  # (K, K)
            block_loss[block][:, allowed] = np.ceil(added / profile.unit - 1e-9)[:, allowed]
            np.fill_diagonal(block_loss[block], 0.0)
        return Problem(tuple(known), self._fixed_ns, block_ns, block_loss)

    def losses(self, counts: Sequence[int]) -> NDArray[np.float64]:
        """Points that reducing from all tokens to each count loses at each block: (D, K)."""
        profile = self._profile
        by_count = np.array([np.interp(counts, profile.counts, row) for row in profile.cautious])
        blocks = range(self._case.model.geometry.depth)
        return np.array([np.interp(blocks, profile.blocks, column) for column in by_count.T]).T

    def worthwhile(self) -> list[int]:
        """Counts that may pay: those that the dense curve makes cheaper than the next one by more than it rises
        elsewhere, and every eighth of a few."""
        geometry = self._case.model.geometry
        least, full = geometry.prefix + 1, geometry.tokens
        curve = {n: self._block_ns(n, n) for n in range(least, full + 1)}
        tops = [n for n in range(least, full) if curve[n + 1] > 1.004 * curve[n]]
        if len(tops) > 40:
            tops = sorted(tops, key=lambda n: curve[n + 1] / curve[n])[-40:]
        return sorted({*tops, *range(full, least, -8), full})

    def _block_ns(self, n: int, m: int) -> float:
        """One block that n tokens enter and m leave."""
        case, method = self._case, self._method
        of = (case.board, case.model.geometry, case.batch, case.dtype)
        sized = method == "tome" and n < case.model.geometry.tokens
        half_ns = virtual._reduce_ns(*of, method, n, m, sized, 0)
        return (1.0 + virtual.COLD_SHARE) * (half_ns + virtual._mlp_ns(*of, m if PLACEMENT[method] == MID else n))


def _about(rng: random.Random, factor: float) -> float:
    """From one over ``factor`` to ``factor``, its logarithm uniform."""
    return math.exp(rng.uniform(-math.log(factor), math.log(factor)))


@contextmanager
def _known(board: Profile) -> Iterator[None]:
    """Let the agent's backend find the board by its name."""
    PROFILES[board.name] = board
    try:
        yield
    finally:
        del PROFILES[board.name]


def _nothing_to_judge():
    raise AssertionError("a sweep has nothing to judge")
