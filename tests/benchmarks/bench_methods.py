"""All methods at equal tokens: top-1, latency beside dense, and what the reduction step itself costs.

Latencies are shares of the dense model's, timed in shuffled turns side by side, one process for each runtime; every
method leaves the same tokens at one block. POMT as its release computes it stands beside ours. On a GPU also compiled
and in a CUDA graph. Intervals are 95 %: a bootstrap over images, or over rounds.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
from tests.benchmarks import method_accuracy, method_gpu, mnist, turns
from tests.benchmarks.figure import ROOT, Figure
from tests.benchmarks.method_latency import METHODS, RELEASED, SHARES, named
from tests.benchmarks.paired import difference

from tailfleet_coordinator import bundled

MODEL = "deit_small_patch16_224"
BATCHES = [1, 8]

SECONDS = {"eager": {1: 30.0, 8: 80.0}, "onnxruntime": {1: 30.0, 8: 80.0}}
"""Of each runtime at each batch."""

STEP_SECONDS = 10.0

NOT_SLOWER = ["topk", "cropr", "pomt", "tome"]
"""Methods that dense must not be faster than."""

STEP_GOALS = {"topk": 2.0, "cropr": 2.0, "pomt": 4.0, "tome": 4.0}
"""Percent of a dense block of DeiT-S that the step may take."""

EXPLICIT = {"pomt", "zero-tprune"}
"""Methods whose step replaces fused attention by explicit."""

RELEASED_GOAL = 0.9
"""Ours at batch 1 in eager on a GPU, of the time that POMT as released takes."""


def measure(quick: bool = False) -> list[Figure]:
    """All of it, or shortened."""
    figures = [*accuracies(quick), *steps(quick), *latencies(quick)]
    lacking = method_gpu.lacking()
    if lacking:
        print(f"  GPU: left out, {lacking}", flush=True)
        return figures
    return [*figures, *on_gpu()]


def accuracies(quick: bool) -> Iterator[Figure]:
    """Top-1 of dense, and how far each method is from it on the same images."""
    results = method_accuracy.measure(200 if quick else None)
    dense = results[0].right
    yield Figure(f"{mnist.MODEL}: top-1 dense, {len(dense)} images", 100 * float(dense.mean()), "%")
    for one in results[1:]:
        apart = difference(one.right, dense)
        name = f"{one.method}, trained for it" if one.method == "cropr" else one.method
        head = f"{mnist.MODEL}: {name}, {one.share:g} of the patches kept three times"
        yield Figure(head, apart.value, f"points {_span(apart.low, apart.high)}")


def steps(quick: bool) -> Iterator[Figure]:
    """The reduction step in µs, and as a share of a dense block on the same tokens."""
    small = {model.name for model in bundled.models()} | {mnist.MODEL}
    for model in sorted(small):
        for batch in BATCHES:
            order = {"role": "step", "model": model, "batch": batch, "seconds": 1.0 if quick else STEP_SECONDS}
            samples = _asked(order)
            for label in samples:
                method = label.split(" ")[0]
                if method not in METHODS:
                    continue
                less = method in EXPLICIT

                def own(ns, label=label, less=less) -> float:
                    return ns(label) - (ns("fused") if less else 0.0)

                share, low, high = turns.estimated(samples, lambda ns, own=own: 100 * own(ns) / ns(turns.DENSE))
                us = turns.estimated(samples, own)[0] / 1e3
                head = f"{model}, batch {batch}: step of {label}"
                goal = STEP_GOALS.get(method) if model == MODEL else None
                yield Figure(head, us, "µs")
                yield Figure(f"{head} {_span(low, high)}, of a dense block", share, "%", goal)


def latencies(quick: bool) -> Iterator[Figure]:
    """Time of each reduced model as a share of dense."""
    with tempfile.TemporaryDirectory() as folder:
        model = "digits_vit" if quick else MODEL
        _asked({"role": "export", "model": model, "folder": folder})
        for runtime, seconds in SECONDS.items():
            for batch in BATCHES:
                samples = _asked(
                    {"role": runtime, "model": model, "batch": batch, "folder": folder}
                    | {"seconds": 1.0 if quick else seconds[batch]}
                )
                where = f"{model}, {runtime}, batch {batch}"
                yield Figure(f"{where}: dense", turns.quiet_ns(samples[turns.DENSE]) / 1e6, "ms")
                ratios = {name: turns.ratio(samples, name) for name in samples if name != turns.DENSE}
                for name, (ratio, low, high) in sorted(ratios.items()):
                    yield Figure(f"{where}: {name}", ratio, f"× dense {_span(low, high)}")
                slowest = max(ratios[named(method, share)][0] for method in NOT_SLOWER for share in SHARES)
                yield Figure(f"{where}: slowest of {', '.join(NOT_SLOWER)}", slowest, "× dense", 1.0)
                if named(RELEASED, SHARES[0]) in ratios:
                    own = [ratios[named("pomt", share)][0] / ratios[named(RELEASED, share)][0] for share in SHARES]
                    yield Figure(f"{where}: ours of pomt as released", float(np.max(own)), "× released")


def on_gpu() -> Iterator[Figure]:
    """POMT, ours and as released, on a GPU."""
    for one in method_gpu.measure():
        where = f"GPU, {one.model}, {one.mode}, batch {one.batch}"
        graph = one.mode == "graph" and one.batch == 1 and one.model.startswith("vit_large")
        yield Figure(f"{where}: dense", turns.quiet_ns(one.samples[turns.DENSE]) / 1e6, "ms")
        yield Figure(f"{where}: pomt", turns.ratio(one.samples, "pomt")[0], "× dense", 1.0 if graph else None)
        yield Figure(f"{where}: {RELEASED}", turns.ratio(one.samples, RELEASED)[0], "× dense")
        ours = turns.estimated(one.samples, lambda ns: ns("pomt") / ns(RELEASED))[0]
        goal = RELEASED_GOAL if one.mode == "eager" and one.batch == 1 else None
        yield Figure(f"{where}: ours of pomt as released", ours, "× released", goal)


def _asked(order: dict) -> turns.Samples:
    """What a process of its own answers to ``order``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.method_latency", json.dumps(order)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(f"{order}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _span(low: float, high: float) -> str:
    return f"({low:.2f} … {high:.2f})"
