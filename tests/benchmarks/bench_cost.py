"""What a full-resolution curve costs, and how right it is: adaptive, against every count by POMT's protocol.

Ours is the whole life of the measured child, from its start to its end, importing torch and building the model
included: the curve of every count 2 … N, measured or inferred. Theirs is ``blocked_autorange(min_run_time=2.0)`` at
every count in order, without imports; a sample of counts is timed and the rest extrapolated. The errors are those of
quiet times against a reference that is measured in turns with ours, in a process of its own (``beside``): its 10th
percentile at every count (``--quick``: at a random sample of them).
"""

import random
import time

import numpy as np
from tests.benchmarks import beside
from tests.benchmarks.figure import Figure

from tailfleet_coordinator import bundled
from tailfleet_schema import quiet
from tailfleet_schema.campaign import SweepSettings
from tailfleet_schema.curve import Part

SEED = 4
TURNS = 5.0
"""The reference measures so many times as long as the sweep: some dozens of calls of every count."""
QUICK_TURNS = 3.0
QUICK_COUNTS = 60
SAMPLED_COUNTS = 8
QUICK_SAMPLED_COUNTS = 6


def measure(quick: bool = False) -> list[Figure]:
    """Sweep once beside the reference, then time the sampled counts in order."""
    order = beside.sweep_order(bundled.deit_small(), SweepSettings(), SEED, f"bench-cost-{time.time_ns()}")
    every = beside.every_count(order.job)
    counts = sorted(random.Random(SEED).sample(every, QUICK_COUNTS)) if quick else every
    sampled = every[:: (len(every) - 1) // ((QUICK_SAMPLED_COUNTS if quick else SAMPLED_COUNTS) - 1)]
    with beside.References(order) as references:
        swept = beside.sweep(order, references, counts, QUICK_TURNS if quick else TURNS)
        in_order = references.of(swept.runtime).in_order(sampled)
    theirs_seconds = float(np.interp(every, [one.tokens for one in in_order], [one.seconds for one in in_order]).sum())
    truth = {n: beside.quiet_ns(blocks) for n, blocks in swept.reference.items() if blocks}
    theirs = np.array([one.median_ns / truth[one.tokens] - 1 for one in in_order if one.tokens in truth])
    errors = beside.errors(swept)
    measured, inferred = errors.shares[errors.measured], errors.shares[~errors.measured]
    models = {result.unit for result in swept.results if result.unit.part is Part.MODEL}
    calls = [len(result.call_ns) for result in swept.results]
    judged = quiet.judge(swept.results)
    if not judged.stable:
        print(f"  unstable: {judged.reason}")
    return [
        Figure("adaptive: from start to end", swept.own_seconds, "s"),
        Figure("adaptive: of these until the model was built", swept.building_seconds, "s"),
        Figure("adaptive: counts measured", len(models), "counts"),
        Figure("adaptive: calls timed", sum(calls), "calls"),
        Figure("adaptive: ended stable (1: yes)", float(judged.stable), ""),
        Figure(f"in order: extrapolated from {len(in_order)} counts", theirs_seconds, "s"),
        Figure("adaptive, share of the time in order", swept.own_seconds / theirs_seconds * 100, "%", 10.0),
        Figure("error, 95th percentile of counts", beside.percentile(errors.shares, 95), "%", 3.0),
        Figure("error, median", beside.percentile(errors.shares, 50), "%"),
        Figure("error at measured counts, 95th percentile", beside.percentile(measured, 95), "%"),
        Figure("error at inferred counts, 95th percentile", beside.percentile(inferred, 95), "%"),
        Figure("error, largest", beside.percentile(errors.shares, 100), "%"),
        Figure("in order: error of medians, 95th percentile", beside.percentile(theirs, 95), "%"),
        *beside.reference_figures(swept, errors),
    ]
