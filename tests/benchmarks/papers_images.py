"""What schedules make of images, for ``bench_papers``: the two models, their images, profiles, and judgements.

A schedule is judged once a split, whatever boards and planners come to it: reduced models compute the same on all of
them but for rounding. Plans and papers' knobs are chosen on calibration images and judged on evaluation images; no
training saw either. Whole schedules are judged by a campaign on evaluation images alone, so the child is given the
calibration images a second time, as a dataset of their own. Left to others: latencies, and who wins.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from tests.benchmarks import mnist
from tests.benchmarks.bench_prediction import results_of
from tests.benchmarks.figure import ROOT

import tailfleet_agent
import tailfleet_reduce
import tailfleet_schema
from tailfleet_coordinator import bundled
from tailfleet_coordinator.bundled import labelled
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.wholes import whole_schedules, whole_units
from tailfleet_schema import codec
from tailfleet_schema.curve import Judgement, Part, UnitResult
from tailfleet_schema.job import Job, JobKind
from tailfleet_schema.schedule import Schedule, dense
from tailfleet_schema.workload import DatasetSpec, ModelSpec, Workload

CORES = len(os.sched_getaffinity(0))

KEPT = ROOT / "build" / "bench" / "profiles"
"""A profile takes minutes, and several benchmarks need it."""


@dataclass(frozen=True)
class Judged:
    """Judgements of one model on one split, by digest of the schedule."""

    model: ModelSpec
    dataset: DatasetSpec
    """Its evaluation images are the split."""
    images: int | None
    """None: all."""
    artifacts: str
    known: dict[str, Judgement] = field(default_factory=dict)

    def of(self, schedules: Iterable[Schedule]) -> None:
        """Judge those of ``schedules`` that are not yet, and the dense model."""
        whole = dense(self.model.name, self.model.geometry)
        new = {s.digest: s for s in [whole, *schedules] if s.digest not in self.known}
        if new:
            shares = [list(new.values())[core::CORES] for core in range(CORES)]
            jobs = [
                Job(
                    "papers-judge", JobKind.PROFILE, Workload(self.model), design.schedule_units(share, Part.ACCURACY),
                    1, 1, 1, schedules=share, dataset=self.dataset, images=self.images,
                )
                for share in shares
                if share
            ]  # fmt: skip
            for result in judged(jobs, self.artifacts):
                assert result.judgement is not None
                self.known[result.unit.label] = result.judgement

    def __getitem__(self, schedule: Schedule) -> Judgement:
        return self.known[schedule.digest]


@dataclass(frozen=True)
class Subject:
    """A trained model and its two splits."""

    model: ModelSpec
    dataset: DatasetSpec
    calibration: Judged
    evaluation: Judged
    profile: list[UnitResult]
    """LOSS and INPUT results, as a campaign has them."""


def right(judgement: Judgement) -> NDArray[np.float64]:
    """1 for each image that was named rightly, 0 for the others."""
    return np.array([bit == "1" for bit in judgement.correct_bits], dtype=float)


def subjects(
    artifacts: str, methods: Sequence[str], quick: bool, evaluated: int, names: Sequence[str] = ()
) -> Iterator[Subject]:
    """The bundled digits' model and MNIST's, or those of ``names``, profiled for ``methods``; artifacts go to the
    folder ``artifacts``. ``evaluated`` images are evaluated at most.
    """
    every = sources()
    for model, content, dataset, images in every[:1] if quick and not names else every:
        if names and model.name not in names:
            continue
        swapped, calibration = _calibrating(dataset, images)
        for blob in (content, images, calibration):
            Path(artifacts, hashlib.sha256(blob).hexdigest()).write_bytes(blob)
        few = 50 if quick else None
        yield Subject(
            model,
            dataset,
            Judged(model, swapped, few, artifacts),
            Judged(model, dataset, min(few or evaluated, dataset.evaluation_images), artifacts),
            profile(model, dataset, methods, artifacts, few),
        )


def sources() -> list[tuple[ModelSpec, bytes, DatasetSpec, bytes]]:
    """Both models with their weights and images."""
    digits = next(model for model in bundled.models() if model.dataset is not None)
    return [(digits, bundled.checkpoint_bytes(), *bundled.datasets()[0]), (*mnist.trained(), *mnist.dataset())]


def profile(
    model: ModelSpec, dataset: DatasetSpec, methods: Sequence[str], artifacts: str, images: int | None
) -> list[UnitResult]:
    """The accuracy profile of ``methods``, and of shortened inputs; one that was made before by the same code is taken
    from ``KEPT``, as campaigns take stored ones."""
    # By method, as a campaign's tasks have it: what the dense model computes is computed once for each.
    drawn = [whole_schedules(model, method) for method in methods]
    shares = [
        (design.profile_units(model.geometry, method) + whole_units(wholes), wholes)
        for method, wholes in zip(methods, drawn, strict=True)
    ]
    shares.append((design.input_units(model.geometry), []))
    workload = Workload(model)
    jobs = [
        Job(
            "papers-profile", JobKind.PROFILE, workload, units, 1, 1, 1,
            schedules=wholes, dataset=dataset, images=images,
        )
        for units, wholes in shares
    ]  # fmt: skip
    kept = KEPT / f"{_address(jobs)}.json"
    if kept.exists():
        return codec.loads(list[UnitResult], kept.read_text())
    results = judged(jobs, artifacts)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(codec.dumps(results))
    return results


def _address(jobs: Sequence[Job]) -> str:
    """Of what results of ``jobs`` follow from: what they ask, and all that answers."""
    packages = [Path(package.__file__).parent for package in (tailfleet_agent, tailfleet_reduce, tailfleet_schema)]
    sources = [path.read_bytes() for package in packages for path in sorted(package.rglob("*.py"))]
    told = [torch.__version__, timm.__version__, *map(codec.dumps, jobs)]
    return hashlib.sha256(b"\0".join([*sources, *(one.encode() for one in told)])).hexdigest()


def judged(jobs: Sequence[Job], artifacts: str) -> list[UnitResult]:
    """The results of ``jobs``, as many at a time as there are cores, on one thread each: several threads for so small
    models are no quicker."""
    with ThreadPoolExecutor(CORES) as pool:
        found = pool.map(lambda job: results_of(job, artifacts, judge_threads=1), jobs)
        return [result for results in found for result in results]


def _calibrating(dataset: DatasetSpec, content: bytes) -> tuple[DatasetSpec, bytes]:
    """The same images with the calibration images as those to evaluate."""
    arrays = np.load(io.BytesIO(content))
    parts = labelled.Split(arrays["train"], arrays["evaluation"], arrays["calibration"])
    return labelled.dataset(dataset.name, arrays["images"], arrays["labels"], parts, dataset.source)
