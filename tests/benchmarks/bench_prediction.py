"""Schedules as they are predicted from a sweep, held against what they take on this machine in the very same rounds.

For each model and backend one child times a sweep, as a campaign orders it, and beside it schedules that nobody fits
anything to: what the machine does meets both alike. Which blocks were disturbed is judged once, over everything;
prediction (from the sweep's part alone) and measurement are the coordinator's. Errors alone, of one of them:
``python -m tests.benchmarks.bench_prediction --help``.
"""

import argparse
import dataclasses
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tests.benchmarks.figure import Figure, line

from tailfleet_coordinator import bundled
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_coordinator.plan.latency import LatencyModel
from tailfleet_coordinator.plan.prediction import Prediction
from tailfleet_coordinator.plan.statistics import measured, summarise
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.curve import JUDGED_PARTS, Part, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.messages import WorkerEvent, WorkerOrder
from tailfleet_schema.quiet import judge
from tailfleet_schema.schedule import Schedule, smallest_reachable
from tailfleet_schema.workload import Geometry, ModelSpec, Workload

METHODS = ["topk", "pomt", "tome"]
BACKENDS = ["eager", "onnxruntime"]

SCHEDULES = 60

MEDIAN_GOAL = 3.0
"""Percent, of the errors of one model on one backend."""

TAIL_GOAL = 8.0
"""The same for their 95th percentile."""

LEAST_KEPT = 0.15
"""Share of all tokens that every schedule keeps."""

BUDGET_SECONDS = 100.0
"""Of each child; sweep and schedules are known to the usual precision before."""


class Missing(Exception):
    """This machine lacks what a backend needs; the message says what."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One schedule, predicted and measured."""

    schedule: Schedule
    predicted: Prediction
    measured_ns: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted.ns / self.measured_ns - 1.0

    @property
    def covered(self) -> bool:
        """Whether the interval of the prediction holds what was measured."""
        return self.predicted.low_ns <= self.measured_ns <= self.predicted.high_ns


@dataclasses.dataclass(frozen=True)
class Run:
    """One model on one backend."""

    name: str
    outcomes: list[Outcome]
    swept: str
    """What the coordinator says of the sweep, empty where it is stable."""


def measure(
    quick: bool = False,
    backends: Sequence[str] = tuple(BACKENDS),
    models: Sequence[str] = (),
    schedules: int = SCHEDULES,
) -> list[Figure]:
    """All bundled models (or ``models``) on ``backends``; those that this machine lacks are named and left out."""
    figures: list[Figure] = []
    if quick:
        models, schedules = models or (bundled.models()[-1].name,), min(schedules, 6)
    with tempfile.TemporaryDirectory() as artifacts:
        content = bundled.checkpoint_bytes()
        Path(artifacts, hashlib.sha256(content).hexdigest()).write_bytes(content)
        for model in bundled.models():
            for backend in backends:
                if models and model.name not in models:
                    continue
                began = time.monotonic()
                try:
                    run = one_run(model, backend, artifacts, schedules, quick)
                except Missing as error:
                    print(f"  {model.name} {backend}: left out, {error}", flush=True)
                    continue
                print(table(run, time.monotonic() - began), flush=True)
                figures += figures_of(run)
    return figures


def one_run(model: ModelSpec, backend: str, artifacts: str, count: int, quick: bool) -> Run:
    """Sweep ``model`` beside ``count`` schedules, and predict those. Raises ``Missing``."""
    geometry, workload = model.geometry, Workload(model, backend=backend)
    anchored = anchors(model.name, geometry, METHODS)
    known = {schedule.digest for schedule in anchored}
    fresh = [s for s in random_schedules(model.name, geometry, count) if s.digest not in known]
    units = design.sweep_units(geometry, METHODS, "adaptive", BoardKind.PHYSICAL, backend=backend)
    units = [unit for unit in units if unit.part not in JUDGED_PARTS] + design.schedule_units([*anchored, *fresh])
    settings = SweepSettings(budget_seconds=BUDGET_SECONDS)
    job = Job(
        f"prediction-{backend}", JobKind.SWEEP, workload, units, 1 if quick else settings.rounds, settings.calls, 1,
        schedules=[*anchored, *fresh],
        effort=None if quick else settings.effort(design.least_count(geometry)),
    )  # fmt: skip
    results = results_of(job, artifacts)
    judged = judge(results)
    unfitted = {schedule.digest for schedule in fresh}
    swept = [result for result in results if result.unit.label not in unfitted]
    latency = LatencyModel.fit(geometry, summarise(swept, judged), anchors=anchored)
    points = summarise(results, judged)
    quiet = {one.unit.label: one for digest in unfitted for one in measured(points, Part.SCHEDULE, digest)}
    outcomes = [Outcome(s, latency.predict(s), quiet[s.digest].ns) for s in fresh]
    return Run(f"{model.name} {backend}", outcomes, "" if judged.stable else judged.reason)


def random_schedules(model: str, geometry: Geometry, count: int) -> list[Schedule]:
    """As many of each method, half of them reducing once; all different."""
    rng = random.Random(f"{model}:{count}")
    found: dict[str, Schedule] = {}
    kinds = [(method, once) for method in METHODS for once in (True, False)]
    while len(found) < count:
        method, once = kinds[len(found) % len(kinds)]
        schedule = Schedule(method, model, geometry.tokens, geometry.prefix, random_keep(rng, geometry, method, once))
        if (len(schedule.reducing_blocks) == 1) == once and not schedule.is_dense:
            found[schedule.digest] = schedule
    return list(found.values())


def random_keep(rng: random.Random, geometry: Geometry, method: str, once: bool) -> list[int]:
    """Tokens that leave each block, with a reduction at one block, or at each with a chance drawn first."""
    n, depth = geometry.tokens, geometry.depth
    block = rng.randrange(depth - 1)
    chance = rng.choice([0.25, 0.5, 1.0])
    keep = []
    for place in range(depth):
        least = max(smallest_reachable(method, n, geometry.prefix), round(LEAST_KEPT * geometry.tokens))
        if (place == block if once else rng.random() < chance) and least < n:
            # The more blocks reduce, the less each does, or there is soon nothing left.
            least = max(least, n - (n if once else round(n * min(1.0, 2.0 / (chance * depth)))))
            n = rng.randrange(least, n)
        keep.append(n)
    return keep


def results_of(
    job: Job, artifacts: str, virtual_profile: str | None = None, judge_threads: int | None = None
) -> list[UnitResult]:
    """What a measured child makes of ``job``; this process is its supervisor. Raises ``Missing``."""
    with subprocess.Popen(
        [sys.executable, "-m", "tailfleet_agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        order = WorkerOrder(job, artifacts=artifacts, virtual_profile=virtual_profile, judge_threads=judge_threads)
        child.stdin.write(codec.dumps(order) + "\n")
        child.stdin.flush()
        events = [codec.loads(WorkerEvent, text, "event") for text in child.stdout]
    failure = next((event.failure for event in events if event.failure is not None), None)
    if failure is not None:
        if failure.blame is Blame.CONFIGURATION:
            raise Missing(failure.sentence)
        raise RuntimeError(failure.sentence)
    return [event.result for event in events if event.result is not None]


def figures_of(run: Run) -> list[Figure]:
    """What ``run`` is judged by."""
    errors = 100 * np.abs([one.error for one in run.outcomes])
    return [
        Figure(f"{run.name}: median error", float(np.median(errors)), "%", MEDIAN_GOAL),
        Figure(f"{run.name}: 95th percentile of errors", float(np.quantile(errors, 0.95)), "%", TAIL_GOAL),
        Figure(f"{run.name}: within the 95 % interval", 100 * float(np.mean([o.covered for o in run.outcomes])), "%"),
        Figure(f"{run.name}: sweep and schedules ended stable (1: yes)", float(not run.swept), ""),
    ]


def table(run: Run, seconds: float) -> str:
    """Errors by method, for people."""
    head = f"  {run.name}, {len(run.outcomes)} schedules, {seconds:.0f} s"
    lines = [head + (f"; the sweep is unstable: {run.swept}" if run.swept else "")]
    lines.append(f"    {'':<16}{'n':>3}{'median':>9}{'95th':>8}{'worst':>8}{'mean':>8}{'covered':>9}")
    for method in METHODS:
        for name, once in (("once", True), ("often", False)):
            chosen = [
                one
                for one in run.outcomes
                if one.schedule.method == method and (len(one.schedule.reducing_blocks) == 1) == once
            ]
            if chosen:
                lines.append(f"    {method + ' ' + name:<16}" + _row(chosen))
    return "\n".join([*lines, f"    {'all':<16}" + _row(run.outcomes)])


def _row(outcomes: Iterable[Outcome]) -> str:
    chosen = list(outcomes)
    errors = np.array([one.error for one in chosen])
    size = np.abs(errors)
    shares = [np.median(size), np.quantile(size, 0.95), size.max(), errors.mean()]
    median, tail, worst, mean = (f"{100 * share:.1f} %" for share in shares)
    covered = f"{100 * np.mean([one.covered for one in chosen]):.0f} %"
    return f"{len(chosen):>3}{median:>9}{tail:>8}{worst:>8}{mean:>8}{covered:>9}"


def main() -> int:
    """Some of the models and backends."""
    parser = argparse.ArgumentParser(description="Errors of predicted latencies; nothing is written.")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeatable; all by default")
    parser.add_argument("--model", action="append", help="name of a bundled model; repeatable; all by default")
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--quick", action="store_true", help="one round: no figures to be quoted")
    options = parser.parse_args()
    for figure in measure(options.quick, options.backend or BACKENDS, options.model or (), options.schedules):
        print(line(figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
