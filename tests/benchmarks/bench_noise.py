"""Sweeps beside a process that burns one core half of the time, in bursts of mean 0.05, 0.5 and 5 s.

Each run is tailfleet's default adaptive sweep of a whole model, from the start of the measured child on beside a
burner of its own seed, within a budget far below the default of ten minutes; half of the runs are of ``digits_vit``
(with random weights), whose calls are an order of magnitude shorter than ``deit_small_patch16_224``'s. The errors are
those of quiet times, inferred counts included, against a reference that is measured in turns with ours and while the
burner is paused (``beside``). Beside it stands POMT's protocol: a sample of counts in order, the median of 2 s of calls
at each while the burner burns, against the reference's own medians.
"""

import time
from dataclasses import dataclass

import numpy as np
from tests.benchmarks import beside
from tests.benchmarks.burner import Burner
from tests.benchmarks.figure import Figure

from tailfleet_coordinator import bundled
from tailfleet_schema import quiet
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.workload import ModelSpec

BURSTS_SECONDS = (0.05, 0.5, 5.0)
WITHIN_PERCENT = 5.0
WRONG_PERCENT = 8.0
"""No curve that calls itself stable may be off by more."""


@dataclass(frozen=True)
class Plan:
    """How one model is measured beside each length of bursts."""

    runs: int
    budget_seconds: float
    """Of each sweep, the reference's turns not counted."""
    turns: float
    """The reference measures so many times as long as the sweep."""
    counts: int
    """Of the reference, evenly spaced."""
    in_order: int
    """Counts of POMT's protocol, evenly spaced."""


PLANS = {bundled.DEIT: Plan(1, 60.0, 0.4, 50, 4), "digits_vit": Plan(1, 40.0, 0.4, 60, 3)}
QUICK_PLANS = {"digits_vit": Plan(1, 30.0, 0.3, 50, 3)}


@dataclass(frozen=True)
class Run:
    """One sweep beside a burner."""

    burst_seconds: float
    stable: bool
    error_percent: float
    """95th percentile over the counts."""
    seconds: float


def measure(quick: bool = False) -> list[Figure]:
    """All runs, a line for each, then the figures."""
    runs: list[Run] = []
    in_order: dict[float, list[float]] = {mean: [] for mean in BURSTS_SECONDS}
    idle: list[float] = []
    own: list[float] = []
    specs = {spec.name: spec for spec in bundled.models()}
    for model, plan in (QUICK_PLANS if quick else PLANS).items():
        with beside.References(_order(specs[model], plan, 0)) as references:
            for mean in BURSTS_SECONDS:
                for number in range(plan.runs):
                    swept, run = _run(specs[model], plan, mean, number, references)
                    runs.append(run)
                    idle.append(swept.idle_cpu_share)
                    own.append(beside.percentile(beside.errors(swept).own, 95))
                in_order[mean] += _in_order(swept, plan, mean, references)
    return [
        *_figures(runs, in_order),
        Figure("reference: its own error, 95th percentile, worst", float(np.max(own)), "%"),
        Figure("processor time of ours in its turns, most", max(idle) * 100, "%"),
    ]


def _order(spec: ModelSpec, plan: Plan, seed: int):
    settings = SweepSettings(budget_seconds=plan.budget_seconds)
    return beside.sweep_order(spec, settings, seed, f"bench-noise-{time.time_ns()}")


def _run(spec: ModelSpec, plan: Plan, mean: float, number: int, references) -> tuple[beside.Swept, Run]:
    order = _order(spec, plan, number)
    with Burner(number, mean) as burner:
        swept = beside.sweep(order, references, _spread(order, plan.counts), plan.turns, burner.paused)
    errors = beside.errors(swept)
    judged = quiet.judge(swept.results)
    run = Run(mean, judged.stable, beside.percentile(errors.shares, 95), swept.own_seconds)
    calls = sum(len(result.call_ns) for result in swept.results)
    print(
        f"  {spec.name}, bursts of {mean:g} s, run {number + 1}: {run.error_percent:.1f} % at the 95th percentile,"
        f" {beside.percentile(errors.shares, 50):.1f} % median, {run.seconds:.0f} s, {calls} calls,"
        f" {'stable' if run.stable else 'unstable: ' + judged.reason}",
        flush=True,
    )
    return swept, run


def _in_order(swept: beside.Swept, plan: Plan, mean: float, references) -> list[float]:
    """Errors in percent of medians in order beside the burner."""
    known = [n for n in sorted(swept.reference) if swept.reference[n]]
    chosen = [known[round(k * (len(known) - 1) / (plan.in_order - 1))] for k in range(plan.in_order)]
    with Burner(plan.runs, mean):
        timed = references.of(swept.runtime).in_order(chosen)
    truth = {n: float(np.median([ns for block in swept.reference[n] for ns in block])) for n in chosen}
    return [abs(one.median_ns / truth[one.tokens] - 1) * 100 for one in timed]


def _spread(order, counts: int) -> list[int]:
    every = beside.every_count(order.job)
    return sorted({every[round(k * (len(every) - 1) / (counts - 1))] for k in range(counts)})


def _figures(runs: list[Run], in_order: dict[float, list[float]]) -> list[Figure]:
    good = [run.stable and run.error_percent <= WITHIN_PERCENT for run in runs]
    wrong = [run.stable and run.error_percent > WRONG_PERCENT for run in runs]
    figures = [
        Figure(f"runs stable and within {WITHIN_PERCENT:g} %", float(np.mean(good)) * 100, "%", 80.0, "max"),
        Figure(f"runs stable and off by more than {WRONG_PERCENT:g} %", float(sum(wrong)), "runs", 0.0),
        Figure("runs", float(len(runs)), "runs"),
    ]
    for mean in BURSTS_SECONDS:
        ours = [run for run in runs if run.burst_seconds == mean]
        name = f"bursts of {mean:g} s: "
        figures += [
            Figure(name + "runs stable", float(np.mean([run.stable for run in ours])) * 100, "%"),
            Figure(name + "error, median of runs", float(np.median([run.error_percent for run in ours])), "%"),
            Figure(name + "error, worst run", max(run.error_percent for run in ours), "%"),
            Figure(name + "seconds, median of runs", float(np.median([run.seconds for run in ours])), "s"),
            Figure(name + "in order, error", float(np.percentile(in_order[mean], 95)), "%"),
        ]
    return figures
