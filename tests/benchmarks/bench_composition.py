"""How far predicted losses of whole schedules are from judged ones: additive, and as fitted to whole schedules.

Both models with labelled images are profiled for topk and tome as a campaign does it, on calibration images: single
reductions, and the whole schedules that a composition is fitted to. Besides, other random schedules are judged, of
another drawing: nothing is fitted to them. On those the losses of single blocks as they add up are held against what
the product foretells. A few hundred images decide a drop in points by an image or two, which no prediction can know;
so errors are shown a second time against drops smoothed by divergence, and ranks are those of the divergence itself.
All errors and the caution's share are of held-out schedules.
"""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tests.benchmarks.figure import Figure
from tests.benchmarks.papers_images import judged, sources

from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.accuracy import AccuracyProfile, estimates, loss_of
from tailfleet_coordinator.plan.composition import Composition, composed
from tailfleet_coordinator.plan.wholes import whole_schedules, whole_units
from tailfleet_schema.curve import WHOLE, Judgement, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import ModelSpec, Workload

METHODS = ("topk", "tome")

HELD_OUT = 20
"""Schedules of each model and method."""

IMAGES = 250
"""Calibration images at most, so that all of it takes minutes."""


@dataclass(frozen=True)
class Outcome:
    """One model and method: losses of the held-out schedules in points, as foretold and as judged."""

    name: str
    fitted: bool
    """Whether the fitted composition was nearer than the additive one to what was left out of its fits."""
    additive: NDArray[np.float64]
    composed: NDArray[np.float64]
    cautious: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Of both: what limits are kept by."""
    drops: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    kl_nats: NDArray[np.float64]


def measure(quick: bool = False) -> list[Figure]:
    """Both models and methods."""
    outcomes = []
    with tempfile.TemporaryDirectory() as artifacts:
        for model, weights, dataset, images in sources()[: 1 if quick else 2]:
            for blob in (weights, images):
                Path(artifacts, hashlib.sha256(blob).hexdigest()).write_bytes(blob)
            began = time.monotonic()
            held = {method: whole_schedules(model, method, "held out", HELD_OUT) for method in METHODS}
            jobs = [
                Job(
                    "composition", JobKind.PROFILE, Workload(model),
                    design.profile_units(model.geometry, method) + whole_units(wholes), 1, 1, 1,
                    schedules=wholes, dataset=dataset, images=40 if quick else IMAGES,
                )
                for method in METHODS
                for wholes in [whole_schedules(model, method) + held[method]]
            ]  # fmt: skip
            results = judged(jobs, artifacts)
            outcomes += [outcome(model, method, held[method], results) for method in METHODS]
            print(f"  {model.name}: profiles and held-out schedules in {time.monotonic() - began:.0f} s", flush=True)
    return figures_of(outcomes)


def outcome(model: ModelSpec, method: str, held: Sequence[Schedule], results: Sequence[UnitResult]) -> Outcome:
    """What is foretold of ``held``, and what came of them, all judged in ``results``."""
    seen = {one.digest for one in held}
    known = [result for result in results if result.unit.label not in seen]
    profile = AccuracyProfile.fit(model.geometry, method, known)
    whole = composed(profile, model.geometry, whole_schedules(model, method), known)
    by_digest = {one.unit.label: one.judgement for one in results if one.unit.block == WHOLE and one.judgement}
    mine = [r for r in known if r.unit.label == method and r.judgement is not None]
    dense = next(r.judgement for r in mine if r.unit.kept == model.geometry.tokens)
    singles = [r.judgement for r in mine if r.unit.kept < model.geometry.tokens]
    came = [by_digest[one.digest] for one in held]
    return Outcome(
        f"{model.name}, {method}",
        isinstance(whole, Composition),
        np.array([profile.expected_drop(one) for one in held]),
        np.array([whole.expected_drop(one) for one in held]),
        (np.array([loss_of(profile, one) for one in held]), np.array([loss_of(whole, one) for one in held])),
        np.array([_drop(dense, one) for one in came]),
        estimates(dense, singles + came, model.geometry.classes)[0][len(singles) :],
        np.array([one.kl_nats for one in came]),
    )


def _drop(dense: Judgement, reduced: Judgement) -> float:
    return 100.0 * (dense.correct - reduced.correct) / dense.images


def figures_of(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Means over all, then a row for each model and method."""
    size = sum(len(one.drops) for one in outcomes)
    kinds = [("losses add", [one.additive for one in outcomes]), ("composed", [one.composed for one in outcomes])]
    figures = []
    for kind, (words, foretold) in enumerate(kinds):
        pairs = list(zip(foretold, outcomes, strict=True))
        exceeding = np.concatenate([one.drops > one.cautious[kind] + 1e-9 for one in outcomes])
        figures += [
            Figure(f"{words}: mean error, {size} held-out schedules", _mean_error(pairs, "drops"), "points"),
            Figure(f"{words}: the same, drops smoothed", _mean_error(pairs, "smoothed"), "points"),
            Figure(f"{words}: rank correlation with KL", float(np.mean([_rank(*pair) for pair in pairs])), ""),
            Figure(f"{words}: lose more than the cautious loss", 100 * float(exceeding.mean()), "%"),
        ]
    for one in outcomes:
        kept = "composed" if one.fitted else "additive stays"
        for words, foretold in (("add", one.additive), (kept, one.composed)):
            rank = f"points, smoothed {np.abs(foretold - one.smoothed).mean():.3f}, rank {_rank(foretold, one):.2f}"
            figures.append(Figure(f"{one.name}: {words}", float(np.abs(foretold - one.drops).mean()), rank))
    return figures


def _mean_error(pairs: Sequence[tuple[NDArray[np.float64], Outcome]], against: str) -> float:
    return float(np.concatenate([np.abs(foretold - getattr(one, against)) for foretold, one in pairs]).mean())


def _rank(foretold: NDArray[np.float64], one: Outcome) -> float:
    return float(spearmanr(foretold, one.kl_nats).statistic)
