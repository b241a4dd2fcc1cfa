"""Schedules as they are predicted from a sweep, held against what they then take on this machine.

For each model and backend one child times a sweep, as a campaign orders it, and a second one schedules that nobody
fitted anything to, in interleaved rounds with the dense model. Prediction and measurement are the coordinator's. What
the machine did between the two children shows in the dense model, which both time: errors are given as they are, and
relative to it. Errors alone, of one of them: ``python -m tests.benchmarks.bench_prediction --help``.
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
from tailfleet_coordinator.plan.quantiles import Percentile, timed
from tailfleet_coordinator.plan.statistics import summarise
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import Statistic
from tailfleet_schema.curve import Part, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Effort, Job, JobKind
from tailfleet_schema.messages import WorkerEvent, WorkerOrder
from tailfleet_schema.quiet import judge
from tailfleet_schema.schedule import Schedule, dense, smallest_reachable
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

SWEEP = Effort(precision=0.01, most_rounds=12, budget_seconds=75.0)
CHECK = Effort(precision=0.01, most_rounds=12, budget_seconds=75.0)
ROUNDS = 3
CALLS = 3


class Missing(Exception):
    """This machine lacks what a backend needs; the message says what."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One schedule, predicted and measured."""

    schedule: Schedule
    predicted: Prediction
    measured: Percentile

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted.ns / self.measured.value - 1.0

    @property
    def covered(self) -> bool:
        """Whether the interval of the prediction holds what was measured."""
        return self.predicted.low_ns <= self.measured.value <= self.predicted.high_ns


@dataclasses.dataclass(frozen=True)
class Run:
    """One model on one backend."""

    name: str
    outcomes: list[Outcome]
    drift: float
    """The dense model beside the schedules over the one in the sweep, as a share more."""
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
    """Sweep ``model``, predict ``count`` schedules, and measure them. Raises ``Missing``."""
    geometry, workload = model.geometry, Workload(model, backend=backend)
    anchored = anchors(model.name, geometry, METHODS)
    units = design.sweep_units(geometry, METHODS, "adaptive", BoardKind.PHYSICAL) + design.schedule_units(anchored)
    sweep = Job(
        f"prediction-sweep-{backend}", JobKind.SWEEP, workload, units, 1 if quick else ROUNDS, CALLS, 1,
        schedules=anchored,
        effort=None if quick else dataclasses.replace(SWEEP, least_tokens=design.least_count(geometry)),
    )  # fmt: skip
    swept = results_of(sweep, artifacts)
    judged = judge(swept)
    latency = LatencyModel.fit(geometry, summarise(swept, judged), anchors=anchored)
    unreduced = dense(model.name, geometry)
    fresh = [s for s in random_schedules(model.name, geometry, count) if s.digest not in {a.digest for a in anchored}]
    check = Job(
        f"prediction-check-{backend}", JobKind.VERIFY, workload, design.verify_units([unreduced, *fresh], judged=False),
        1 if quick else ROUNDS, CALLS, 2, schedules=[unreduced, *fresh], effort=None if quick else CHECK,
    )  # fmt: skip
    quiet = timed(results_of(check, artifacts), Part.SCHEDULE, Statistic.QUIET)
    outcomes = [Outcome(s, latency.predict(s), quiet[s.digest]) for s in fresh]
    drift = quiet[unreduced.digest].value / latency.dense.ns - 1.0
    return Run(f"{model.name} {backend}", outcomes, drift, "" if judged.stable else judged.reason)


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


def results_of(job: Job, artifacts: str) -> list[UnitResult]:
    """What a measured child makes of ``job``; this process is its supervisor. Raises ``Missing``."""
    with subprocess.Popen(
        [sys.executable, "-m", "tailfleet_agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        child.stdin.write(codec.dumps(WorkerOrder(job, artifacts=artifacts)) + "\n")
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
    relative = 100 * np.abs([(1 + one.error) * (1 + run.drift) - 1 for one in run.outcomes])
    return [
        Figure(f"{run.name}: median error", float(np.median(errors)), "%", MEDIAN_GOAL),
        Figure(f"{run.name}: 95th percentile of errors", float(np.quantile(errors, 0.95)), "%", TAIL_GOAL),
        Figure(f"{run.name}: the same relative to dense", float(np.quantile(relative, 0.95)), "%"),
        Figure(f"{run.name}: within the 95 % interval", 100 * float(np.mean([o.covered for o in run.outcomes])), "%"),
        Figure(f"{run.name}: dense, sweep to check", 100 * run.drift, "%"),
    ]


def table(run: Run, seconds: float) -> str:
    """Errors by method, for people."""
    head = f"  {run.name}, {len(run.outcomes)} schedules, {seconds:.0f} s"
    lines = [head + (f"; the sweep is unstable: {run.swept}" if run.swept else "")]
    lines.append(f"    {'':<16}{'n':>3}{'median':>9}{'95th':>8}{'worst':>8}{'mean':>8}{'relative':>10}{'covered':>9}")
    for method in METHODS:
        for name, once in (("once", True), ("often", False)):
            chosen = [
                one
                for one in run.outcomes
                if one.schedule.method == method and (len(one.schedule.reducing_blocks) == 1) == once
            ]
            if chosen:
                lines.append(f"    {method + ' ' + name:<16}" + _row(chosen, run.drift))
    return "\n".join([*lines, f"    {'all':<16}" + _row(run.outcomes, run.drift)])


def _row(outcomes: Iterable[Outcome], drift: float) -> str:
    chosen = list(outcomes)
    errors = np.array([one.error for one in chosen])
    size = np.abs(errors)
    relative = np.abs((1 + errors) * (1 + drift) - 1)
    shares = [np.median(size), np.quantile(size, 0.95), size.max(), errors.mean(), np.median(relative)]
    median, tail, worst, mean, beside = (f"{100 * share:.1f} %" for share in shares)
    covered = f"{100 * np.mean([one.covered for one in chosen]):.0f} %"
    return f"{len(chosen):>3}{median:>9}{tail:>8}{worst:>8}{mean:>8}{beside:>10}{covered:>9}"


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
