"""How fast a fleet is planned for: 1,000 boards × 10 models, reading and storing included, on 1 and 2 cores.

Ten ViTs of 50 to 257 tokens. Of each, eight random boards (``random_fleet``) are swept as a campaign would, noise and
all, and their curves filed as it files them: judged and read once. The other boards of the fleet are these with a speed
of their own and every single part and count moved by its own 2 %, so that no two plans share a figure. All that is
before the clock starts; what filing one takes is told. Samples are not stored: plans on quiet do not look at them.
Timed is what a campaign then does, by the code of its driver (``cluster.planning``): curves, profiles and whether
anything was verified from the SQLite store, plans with the whole front and what is to be measured of it as Ray tasks,
every plan and schedule into the store. Ray is up before. Fewer cores are a process affinity that Ray's workers inherit.
The swept boards are planned for again from their samples, and must come to the same plans.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

import numpy as np
from sqlalchemy import func, insert, select
from tests.benchmarks.figure import Figure
from tests.benchmarks.random_fleet import IMAGES, METHODS, judged, random_case, swept, vit

from tailfleet_agent.probes import read_facts
from tailfleet_coordinator.cluster import own_ray, ray_runtime
from tailfleet_coordinator.cluster.artifact_api import ArtifactApi
from tailfleet_coordinator.cluster.planning import Planning, Wanted
from tailfleet_coordinator.cluster.tasks import RayTasks
from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import BoardTable, ContenderTable, CurveTable, JobTable, PlanTable, ReadingTable
from tailfleet_coordinator.plan.inference import CurvePoint
from tailfleet_coordinator.plan.planner import PlanInput, make_plan
from tailfleet_coordinator.plan.reading import VERSION, Reading
from tailfleet_coordinator.plan.statistics import PointSummary
from tailfleet_coordinator.settings import Settings
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest, Objective
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.workload import DatasetSpec, ModelSpec

BOARDS = 1000

MODELS = {
    "vit-ti-160": (12, 192, 3, 10),
    "vit-s-160": (12, 384, 6, 10),
    "vit-s-192": (12, 384, 6, 12),
    "vit-ti-224": (12, 192, 3, 14),
    "vit-s-224": (12, 384, 6, 14),
    "vit-b-224": (12, 768, 12, 14),
    "vit-l-224": (24, 1024, 16, 14),
    "vit-s-256": (12, 384, 6, 16),
    "vit-b-256": (12, 768, 12, 16),
    "vit-b-112": (12, 768, 12, 7),
}
"""Blocks, width, heads, and patches along a side."""

BASES = 8
CHECKED = 20

GOAL_SECONDS = 60.0
OF_PLANS = 10_000

OBJECTIVE = Objective(max_accuracy_drop=2.0)
CAMPAIGN = "c1"
VERIFY = 3
"""Points of each front that are chosen to be measured: a campaign's default."""


@dataclass(frozen=True)
class Base:
    """A swept board."""

    model: ModelSpec
    method: str
    results: list[UnitResult]


@dataclass(frozen=True)
class Fleet:
    """What lies in the store: boards by number and model, each with its curve."""

    url: str
    bases: dict[str, list[Base]]
    readings: dict[str, list[Reading]]
    profiles: dict[str, list[UnitResult]]
    boards: int
    filing_seconds: float
    """Of one curve, on one core."""

    def reading_of(self, number: int, model: str) -> Reading:
        """Of a base's curve, as it is for the first boards, moved for the others."""
        reading = self.readings[model][number % BASES]
        if number < BASES:
            return reading
        rng = random.Random(f"{number} {model}")
        speed = rng.uniform(0.5, 2.0)
        return replace(
            reading,
            points=tuple(_moved(point, speed * rng.uniform(0.99, 1.01)) for point in reading.points),
            whole=tuple(
                CurvePoint(one.tokens, by * one.ns, by * one.low_ns, by * one.high_ns, one.measured)
                for one in reading.whole
                for by in [speed * rng.uniform(0.99, 1.01)]
            ),
        )


def _moved(point: PointSummary, by: float) -> PointSummary:
    if point.quiet_ns is None:
        return point
    ends = point.quiet_ns, point.quiet_low_ns, point.quiet_high_ns
    return PointSummary(point.unit, *(by * ns for ns in ends), None, None, None, 0, 0, point.status)


def measure(quick: bool = False) -> list[Figure]:
    """Both numbers of cores."""
    boards = 40 if quick else BOARDS
    with tempfile.TemporaryDirectory(prefix="tailfleet-speed-") as folder:
        fleet = made(Path(folder), boards)
        plans = boards * len(MODELS)
        print(f"  {plans} curves stand, {1e3 * fleet.filing_seconds:.1f} ms each to file", flush=True)
        cores = sorted(os.sched_getaffinity(0))[:2]
        times = {count: timed(fleet, Path(folder, f"ray-{count}"), cores[:count]) for count in (1, len(cores))}
        seconds = {count: taken for count, (taken, _) in times.items()}
        same = 100 * float(np.mean([as_stored(fleet, number % BASES, number) for number in range(CHECKED)]))
    most = max(seconds)
    figures = [
        Figure(f"{plans} plans on {count} core{'s' * (count > 1)}", taken, "s", *goal(count, most, plans))
        for count, taken in seconds.items()
    ]
    figures += [Figure(f"plans a second on {count} cores", plans / taken, "") for count, taken in seconds.items()]
    return [
        *figures,
        Figure(f"speed on {most} cores, of that on 1", seconds[1] / seconds[most], "times"),
        Figure("core seconds of them all, for a plan", 1e3 * times[most][1] / plans, "ms"),
        Figure("to file one curve, before that", 1e3 * fleet.filing_seconds, "ms"),
        Figure(f"the same plan from samples, of {CHECKED}", same, "%", 100.0, "max"),
    ]


def goal(count: int, most: int, plans: int) -> tuple[float, ...]:
    """That of so many cores, for so many plans."""
    return (GOAL_SECONDS * plans / OF_PLANS,) if count == most else ()


def made(folder: Path, boards: int) -> Fleet:
    """A database with boards, models, profiles and filed curves."""
    url = f"sqlite:///{folder / 'tailfleet.db'}"
    migrate.upgrade(url)
    bases: dict[str, list[Base]] = {}
    profiles: dict[str, list[UnitResult]] = {}
    for place, (name, (depth, dim, heads, side)) in enumerate(MODELS.items()):
        bases[name] = []
        for number in range(BASES):
            seed = 100 * place + number
            case = random_case(random.Random(f"speed {seed}"), seed, (depth,), (side,))
            case = replace(case, model=vit(depth, dim, heads, side, name), batch=min(case.batch, 8))
            method = METHODS[number % len(METHODS)]
            bases[name].append(Base(case.model, method, swept(case, [method])))
            profiles.setdefault(name, judged(case))
    began = time.process_time()
    readings = {name: [Reading.of(one.model.geometry, one.results) for one in some] for name, some in bases.items()}
    filing_seconds = (time.process_time() - began) / (BASES * len(MODELS))
    fleet = Fleet(url, bases, readings, profiles, boards, filing_seconds)
    store = Store(url)
    try:
        _fill(store, fleet)
    finally:
        store.close()
    return fleet


def _fill(store: Store, fleet: Fleet) -> None:
    images = DatasetSpec("made-up", _sha256("images"), 1000, IMAGES, IMAGES, "of random_fleet")
    store.put_dataset(images)
    for name, results in fleet.profiles.items():
        model = fleet.bases[name][0].model
        store.put_model(model)
        store.add_profile(model.digest, images.sha256, results)
    facts = read_facts(BoardKind.VIRTUAL, "jetson-tx2", {})
    with store.writing() as connection:
        connection.execute(
            insert(BoardTable),
            [
                {
                    "id": number + 1, "name": f"board-{number}", "kind": "virtual", "virtual_profile": "jetson-tx2",
                    "facts_json": codec.dumps(facts), "machine_id": f"m{number}", "fingerprint": _sha256("f"),
                    "token_hash": _sha256(f"board {number}"), "enrolled_at": _NOON,
                }
                for number in range(fleet.boards)
            ],
        )  # fmt: skip
    request = CampaignRequest(
        list(MODELS), [f"board-{n}" for n in range(fleet.boards)], objective=OBJECTIVE, verify=VERIFY
    )
    store.create_campaign(CAMPAIGN, request, list(range(1, fleet.boards + 1)))
    curve = 0
    for number in range(fleet.boards):
        jobs, curves, readings = [], [], []
        for name in MODELS:
            curve += 1
            base = _base(fleet, number, name)
            job = f"j{curve}"
            jobs.append(
                {
                    "id": job, "campaign_id": CAMPAIGN, "board_id": number + 1, "model": name, "kind": "sweep",
                    "job_json": "{}", "total": len(base.results), "state": "done", "attempt": 1, "created_at": _NOON,
                    "finished_at": _NOON,
                }
            )  # fmt: skip
            curves.append(
                {
                    "id": curve, "job_id": job, "board_id": number + 1, "model": name, "batch": 1,
                    "model_digest": base.model.digest, "backend": "virtual", "dtype": "fp32",
                    "fingerprint": _sha256("f"), "stable": True, "unstable_reason": "", "measured_at": _NOON,
                }
            )  # fmt: skip
            text = fleet.reading_of(number, name).dumps()
            readings.append({"curve_id": curve, "version": VERSION, "reading": text})
        with store.writing() as connection:
            for table, rows in ((JobTable, jobs), (CurveTable, curves), (ReadingTable, readings)):
                connection.execute(insert(table), rows)


def timed(fleet: Fleet, state: Path, cores: Sequence[int]) -> tuple[float, float]:
    """Seconds of all plans on ``cores``, and core seconds of all processes.

    The store holds no plans afterwards but those of this run.
    """
    state.mkdir()
    with _only(cores), ray_runtime.connected(Settings(state_dir=state, ray_cpus=len(cores))):
        store, tasks = Store(fleet.url), RayTasks(ArtifactApi("http://127.0.0.1:9", "none"))
        try:
            # Workers are up before the clock starts: a campaign has them.
            for one in _wanted(store, fleet, ["vit-b-112"])[: 2 * len(cores)]:
                _plan(store, tasks, [one])
            with store.writing() as connection:
                connection.execute(ContenderTable.__table__.delete())
                connection.execute(PlanTable.__table__.delete())
            wanted = _wanted(store, fleet, list(MODELS))
            began, before = time.perf_counter(), _core_seconds()
            _plan(store, tasks, wanted)
            seconds, used = time.perf_counter() - began, _core_seconds() - before
            with store.reading() as connection:
                stored = connection.execute(select(func.count()).select_from(PlanTable)).scalar_one()
        finally:
            tasks.stop()
            store.close()
    if stored != fleet.boards * len(MODELS):
        raise RuntimeError(f"{stored} plans were stored of {fleet.boards * len(MODELS)}")
    return seconds, used


def _plan(store: Store, tasks: RayTasks, wanted: Sequence[Wanted]) -> None:
    """Plan for all of ``wanted`` as the driver of a campaign does, which looks whenever something is new."""
    planning = Planning(store, tasks, store.get_campaign(CAMPAIGN), OBJECTIVE, 1)
    left, begun = {one.step_id: one for one in wanted}, {}
    while left:
        begun.update({name: batch for name, batch in planning.batches([*left.values()]) if planning.begin(name, batch)})
        while not (ended := tasks.news()):
            time.sleep(0.05)
        for news in ended:
            planning.take(news)
            for one in begun.pop(news.name):
                del left[one.step_id]
        for failure in planning.failures.values():
            raise RuntimeError(failure.sentence)


def _wanted(store: Store, fleet: Fleet, names: Sequence[str]) -> list[Wanted]:
    """All boards × the models ``names``, as steps of the campaign."""
    boards, places = {board.name: board for board in store.list_boards(0.0)}, list(MODELS)
    return [
        Wanted(curve, boards[f"board-{number}"], base.model, curve, [("optimal", base.method)])
        for name in names
        for number in range(fleet.boards)
        for base, curve in [(_base(fleet, number, name), number * len(MODELS) + places.index(name) + 1)]
    ]


def _base(fleet: Fleet, number: int, name: str) -> Base:
    return fleet.bases[name][number % BASES]


def as_stored(fleet: Fleet, number: int, place: int) -> bool:
    """Whether the plan that lies in the store for a swept board is the one that is made of the samples."""
    name = list(MODELS)[place % len(MODELS)]
    base = _base(fleet, number, name)
    plan = make_plan(
        PlanInput(base.model, base.method, "optimal", OBJECTIVE, base.results, fleet.profiles[name], verify=VERIFY)
    )
    store = Store(fleet.url)
    try:
        with store.reading() as connection:
            found = connection.execute(
                select(PlanTable.plan_json).where(PlanTable.board_id == number + 1, PlanTable.model == name)
            ).scalar_one()
    finally:
        store.close()
    return bool(found == codec.dumps(plan))


def _core_seconds() -> float:
    """Of this process and all that it started and that still run."""
    ticks = 0
    for pid in (os.getpid(), *own_ray.descendants(os.getpid())):
        with suppress(OSError):
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(told[11]) + int(told[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _only(cores: Sequence[int]) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


_NOON = datetime(2026, 1, 1, tzinfo=timezone.utc)
