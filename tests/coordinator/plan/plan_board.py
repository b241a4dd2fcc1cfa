"""A made-up board whose truth is known, and what sweeps and profiles of it look like. No clock, no network."""

import math
import random
from dataclasses import dataclass, field

from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.statistics import PointSummary
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import SIZED, Judgement, Part, Unit, UnitResult
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import Geometry, ModelSpec, Preprocessing

GEOMETRY = Geometry(12, 96, 3, 384, 197, 1, 224, 16, 1, 10)


def staircase(n, width=64, height=150e3, slope=600.0):
    """One half of one block: flat but for a slope, one step every ``width`` tokens."""
    return 100e3 + height * math.ceil(n / width) + slope * n


def stalls_beyond(limit, probability=0.06, longest=0.8):
    """A tail that quiet times show nothing of: a pass may stall, in proportion to its blocks beyond ``limit``."""

    def stall(rng, blocks):
        share = sum(n > limit for n in blocks) / len(blocks)
        return rng.uniform(0.5 * longest, longest) if rng.random() < probability * share else 0.0

    return stall


def straight(n):
    return 50e3 + 3000.0 * n


@dataclass
class MadeUpBoard:
    """Parts add up to 4 % less than the whole; a reduction adds ``launch_ns`` and work per token to its block.

    A block that reduces costs ``context`` more than its parts, and one behind it ``behind``, or as much where that is
    None; ToMe's later attention costs ``sized`` more.
    """

    half_ns: object = staircase
    launch_ns: float = 40e3
    fixed: float = 500e3
    context: float = 0.0
    behind: float | None = None
    sized: float = 0.0
    noise: float = 0.01
    geometry: Geometry = GEOMETRY
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    stall: object = None
    """From (rng, tokens that enter each block) to what a call takes longer, as a share."""

    def reduce_ns(self, n, m):
        return self.half_ns(n) + self.launch_ns + 100.0 * n + 30.0 * m

    def schedule_ns(self, schedule):
        blocks = 0.0
        for n, m in zip(schedule.entering, schedule.keep):
            block = (self.reduce_ns(n, m) if m < n else self.half_ns(n)) + self.half_ns(m)
            if schedule.method == "tome" and n < self.geometry.tokens:
                block += self.sized * self.half_ns(n)
            share = self.context if m < n or self.behind is None else self.behind
            blocks += block * (1 + share * (m < self.geometry.tokens))
        return self.fixed + 1.04 * blocks

    def unit_ns(self, unit, schedules=None):
        depth = self.geometry.depth
        if unit.part is Part.FIXED:
            return self.fixed
        if unit.part in (Part.ATTENTION, Part.MLP):
            return depth * self.half_ns(unit.tokens) * (1 + self.sized * (unit.label == SIZED))
        if unit.part is Part.REDUCE:
            return depth * self.reduce_ns(unit.tokens, unit.kept)
        if unit.part is Part.SCHEDULE:
            return self.schedule_ns(schedules[unit.label])
        return self.fixed + 1.04 * depth * 2 * self.half_ns(unit.tokens)

    def calls_ns(self, truth, blocks, calls):
        stalled = (self.stall(self.rng, blocks) if self.stall else 0.0 for _ in range(calls))
        return [round(truth * (1 + self.noise * self.rng.expovariate(1.0) + share)) for share in stalled]

    def true_ns(self, schedule, level, calls=20_000):
        """The percentile of ``schedule``, from very many calls."""
        made = sorted(self.calls_ns(self.schedule_ns(schedule), schedule.entering, calls))
        return made[int(level * calls)]

    def results(self, units, rounds=3, calls=3, schedules=None):
        made = []
        for unit in units:
            truth = self.unit_ns(unit, schedules)
            blocks = schedules[unit.label].entering if unit.part is Part.SCHEDULE else [unit.tokens]
            made += [UnitResult(unit, number, self.calls_ns(truth, blocks, calls)) for number in range(rounds)]
        return made

    def sweep(self, methods=("topk", "pomt", "tome"), counts="all", kind=BoardKind.VIRTUAL, timed=(), **often):
        """``timed``: schedules that are timed besides."""
        units = design.sweep_units(self.geometry, list(methods), counts, kind) + design.schedule_units(timed)
        return self.results(units, schedules={s.digest: s for s in timed}, **often)

    def verification(self, schedules, judged=False, top1=None, **often):
        """``top1`` maps a digest to the images of 400 that are right."""
        chosen = [dense("made-up", self.geometry), *schedules]
        units = design.verify_units(chosen, judged)
        timed = self.results(
            [u for u in units if u.part is Part.SCHEDULE], schedules={s.digest: s for s in chosen}, **often
        )
        seen = [
            UnitResult(u, 0, judgement=Judgement(400, (top1 or {}).get(u.label, 390), 380, 0.01, "board"))
            for u in units
            if u.part is Part.ACCURACY
        ]
        return timed + seen


def profile_results(geometry=GEOMETRY, method="topk", hardness=0.5, images=200):
    """Losses that grow as blocks come earlier and tokens fewer, with the answers of every single image."""
    right = [k % 50 != 0 for k in range(images)]
    made = []
    for unit in design.profile_units(geometry, method):
        share = 1 - unit.kept / geometry.tokens
        kl = hardness * share**2 * (1.5 - unit.block / geometry.depth)
        lost = images * 0.8 * (1 - math.exp(-kl / 2))
        bits = "".join("1" if ok and k >= lost else "0" for k, ok in enumerate(right))
        made.append(UnitResult(unit, 0, judgement=Judgement(images, bits.count("1"), images, kl, "host", bits)))
    return made


def input_results(geometry=GEOMETRY, images=200, knee=40.0):
    made = []
    for unit in design.input_units(geometry):
        correct = round(images * 0.98 * (1 - math.exp(-unit.tokens / knee)))
        made.append(UnitResult(unit, 0, judgement=Judgement(images, correct, 0, 1.0, "host")))
    return made


def model(dataset=None):
    return ModelSpec(
        "made-up",
        "VisionTransformer",
        GEOMETRY,
        dataset=dataset,
        preprocessing=Preprocessing([0.5], [0.5]) if dataset else None,
    )


def schedule(keep, method="topk"):
    return Schedule(method, "made-up", GEOMETRY.tokens, GEOMETRY.prefix, keep)


def curve(times, half=0.002):
    """A whole-model curve from {tokens: ns}."""
    return [
        PointSummary(Unit(Part.MODEL, n, n), ns, ns * (1 - half), ns * (1 + half), ns, ns, ns, 9, 3, "ok")
        for n, ns in times.items()
    ]
