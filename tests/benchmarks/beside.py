"""A sweep of tailfleet's and its reference, interleaved: the truth about the machine in the very minutes of the sweep.

The measured child waits for ``go`` after each block. Once it has worked for ``SLICE_SECONDS``, the reference measures
for a multiple of that before it may go on: one process of torch runs at any time, and both see the same machine. A
slice leaves the child with cold caches, which tailfleet alone would not have: a disadvantage of at most one call in a
slice.
Left to others: the two processes, and what is asked of their figures.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tests.benchmarks.figure import OUT, Figure
from tests.benchmarks.reference import Passes, Reference, cpu_ns

from tailfleet_agent.runner import Child, worker_command
from tailfleet_coordinator.plan import design, inference, statistics
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import WorkerOrder
from tailfleet_schema.workload import ATTENTIONS, ModelSpec, Workload

SLICE_SECONDS = 0.5
"""The child's turn, so short that both see the same drift; a turn ends with a block."""

ASKED_AT_ONCE_SECONDS = 0.25
"""The reference is asked for so much work at once: a turn of its own ends about as exactly."""

PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Swept:
    """One sweep, and the calls of the reference beside it."""

    results: list[UnitResult]
    reference: Mapping[int, list[list[int]]]
    """Nanoseconds of every call of each block of each count."""
    own_seconds: float
    """From starting the child to its end, without the reference's turns."""
    building_seconds: float
    """Of these: until its model was built and warm."""
    runtime: Mapping[str, str]
    idle_cpu_share: float
    """Processor time that the child used while the reference had its turns, as a share of those."""


class References:
    """One reference for each way to compute attention, started when it is first needed; a context manager."""

    def __init__(self, order: WorkerOrder) -> None:
        self._order = order
        self._running: dict[str, Reference] = {}

    def __enter__(self) -> "References":
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._running.values():
            reference.__exit__()

    def of(self, runtime: Mapping[str, str]) -> Reference:
        """The reference that computes as a child on ``runtime`` does: which attention is faster may be a close call."""
        told = runtime.get("attention", "")
        attention = told if told in ATTENTIONS else "auto"
        if attention not in self._running:
            workload = dataclasses.replace(self._order.job.workload, attention=attention)
            job = dataclasses.replace(self._order.job, workload=workload)
            self._running[attention] = Reference(dataclasses.replace(self._order, job=job))
        return self._running[attention]


def sweep_order(model: ModelSpec, settings: SweepSettings, seed: int, name: str) -> WorkerOrder:
    """tailfleet's sweep of a whole model alone on this machine: what a board is told, but for the parts."""
    workload = Workload(dataclasses.replace(model, checkpoint_sha256=None, dataset=None, preprocessing=None))
    units = design.sweep_units(model.geometry, [], settings.counts, BoardKind.PHYSICAL)
    chosen = [unit for unit in units if unit.part in (Part.MODEL, Part.SENTINEL)]
    least = design.least_count(model.geometry) if settings.counts == "adaptive" else None
    job = Job(
        name, JobKind.SWEEP, workload, chosen, settings.rounds, settings.calls, seed, effort=settings.effort(least)
    )
    return WorkerOrder(job, handshake=True)


def every_count(job: Job) -> list[int]:
    """The counts of a full curve, 2 … N."""
    return design.curve_counts(job.workload.model.geometry, "all")


def sweep(
    order: WorkerOrder,
    references: References,
    counts: Sequence[int],
    turns: float,
    quiet: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Swept:
    """Run ``order`` with a reference of ``counts`` that measures ``turns`` times as long, within ``quiet()``."""
    blocks: dict[int, list[list[int]]] = {n: [] for n in counts}
    passes = Passes(counts, order.job.seed)
    results: list[UnitResult] = []
    runtime: dict[str, str] = {}
    own = building = unanswered = owed = 0.0
    idle_ns, reference_seconds = 0, 0.0
    slowest_block = 0.0
    mark = time.perf_counter()
    with Child(worker_command(sys.executable), order, str(OUT / "logs" / f"{order.job.id}.log")) as child:
        while True:
            event = child.next_event(PATIENCE_SECONDS)
            moment = time.perf_counter()
            own, unanswered, mark = own + moment - mark, unanswered + moment - mark, moment
            if event is None:
                raise RuntimeError(f"the measured child ended without a word: {child.log_tail(2000)}")
            if event.failure is not None:
                raise RuntimeError(event.failure.sentence)
            runtime.update(event.runtime or {})
            if event.done:
                break
            if event.result is None:
                if not results:
                    building = own
                continue
            results.append(event.result)
            if unanswered >= SLICE_SECONDS or len(results) == 1:
                owed, unanswered = owed + turns * min(unanswered, 2 * SLICE_SECONDS), 0.0
                reference = references.of(runtime)
                used = cpu_ns(child.pid)
                with quiet():
                    began = time.perf_counter()
                    while time.perf_counter() - began < owed:
                        share = ASKED_AT_ONCE_SECONDS / slowest_block if slowest_block else 1.0
                        asked = passes.following(max(1, math.floor(share)))
                        for n, ns in zip(asked, reference.blocks(asked)):
                            blocks[n].append(ns)
                            slowest_block = max(slowest_block, sum(ns) * 1e-9)
                    spent = time.perf_counter() - began
                owed -= spent
                idle_ns += cpu_ns(child.pid) - used
                reference_seconds += spent
                mark = time.perf_counter()
            child.go()
        child.wait(PATIENCE_SECONDS)
        own += time.perf_counter() - mark
    return Swept(results, blocks, own, building, runtime, idle_ns * 1e-9 / max(reference_seconds, 1e-9))


@dataclass(frozen=True)
class Errors:
    """How far a curve is from its reference, count by count, as shares of the reference."""

    counts: np.ndarray
    shares: np.ndarray
    measured: np.ndarray
    """Whether tailfleet measured the count, or inferred it."""
    own: np.ndarray
    """Half of what two halves of the reference's blocks differ by: what it cannot tell itself."""


def errors(swept: Swept) -> Errors:
    """Of the curve that tailfleet makes of ``swept``, at the counts that its reference knows."""
    counts = sorted(n for n, blocks in swept.reference.items() if blocks)
    truth = np.array([quiet_ns(swept.reference[n]) for n in counts])
    curve = inference.every_count(statistics.summarise(swept.results), counts[0], counts[-1])
    ours = {point.tokens: point for point in curve}
    halves = [(quiet_ns(swept.reference[n][::2]), quiet_ns(swept.reference[n][1::2])) for n in counts]
    own = np.array([abs(one / other - 1) / 2 for one, other in halves])
    shares = np.array([ours[n].ns for n in counts]) / truth - 1
    return Errors(np.array(counts), shares, np.array([ours[n].measured for n in counts]), own)


def quiet_ns(blocks: Sequence[Sequence[int]]) -> float:
    """tailfleet's quiet time of undisturbed calls: their 10th percentile. NaN of none."""
    calls = [ns for block in blocks for ns in block]
    return statistics.low_quantile(calls) if calls else math.nan


def percentile(shares: np.ndarray, q: float) -> float:
    """Of the sizes of ``shares``, in percent, the NaNs among them left out; NaN of none."""
    known = np.abs(shares[~np.isnan(shares)])
    return float(np.percentile(known, q)) * 100 if known.size else math.nan


def reference_figures(swept: Swept, error: Errors) -> list[Figure]:
    """What the reference rests on."""
    calls = [sum(map(len, blocks)) for blocks in swept.reference.values() if blocks]
    return [
        Figure("reference: counts", len(calls), "counts"),
        Figure("reference: least calls of a count", min(calls), "calls"),
        Figure("reference: its own error, 95th percentile", percentile(error.own, 95), "%"),
        Figure("processor time of ours in its turns", swept.idle_cpu_share * 100, "%"),
    ]
