"""The jobs that a campaign orders, and which stored sweep serves instead of a new one. Pure: ``driver`` drives."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from tailfleet_coordinator.campaigns import workload_of
from tailfleet_coordinator.db.rows import Board, Step
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.anchors import anchors
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignRequest
from tailfleet_schema.curve import Part, Unit
from tailfleet_schema.job import LONGEST_BUDGET_SECONDS, Effort, Job, JobKind
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec, ModelSpec


def sweep(request: CampaignRequest, step: Step, board: Board, model: ModelSpec) -> Job:
    """The job that measures a curve and what a planner needs. Raises ``InputError`` for counts that there are not."""
    timed = anchors(model.name, model.geometry, request.reducing_methods)
    return Job(
        id=f"{step.campaign_id}-sweep-{step.id}",
        kind=JobKind.SWEEP,
        workload=workload_of(request, model, board.kind),
        units=sweep_units(request, model, board.kind) + design.schedule_units(timed),
        rounds=request.sweep.rounds,
        calls=request.sweep.calls,
        seed=_seed(step, "sweep"),
        schedules=timed,
        effort=wanted_effort(request, model),
    )


def sweep_units(request: CampaignRequest, model: ModelSpec, kind: BoardKind) -> list[Unit]:
    """What a sweep lists: the least that it measures. Raises ``InputError`` for counts that there are not."""
    runs = workload_of(request, model, kind)
    return design.sweep_units(
        model.geometry, request.reducing_methods, request.sweep.counts, kind, runs.batch, runs.backend, runs.dtype
    )


def wanted_effort(request: CampaignRequest, model: ModelSpec) -> Effort:
    """How far a sweep goes; an adaptive one adds counts from the smallest on that makes sense."""
    adaptive = request.sweep.counts in ("adaptive", "auto")
    least = max(2, model.geometry.prefix + 1)
    return request.sweep.effort(least if adaptive and least <= model.geometry.tokens else None)


def verification(
    request: CampaignRequest,
    step: Step,
    board: Board,
    model: ModelSpec,
    schedules: list[Schedule],
    dataset: DatasetSpec | None,
    pass_ns: float,
) -> Job:
    """The job that measures and, where there are images, judges ``schedules`` (the dense one first) on the board.

    ``pass_ns`` is what one pass takes at most; on a virtual board none takes any time.
    """
    assert request.objective is not None
    seconds = 0.0 if board.kind is BoardKind.VIRTUAL else pass_ns
    rounds, calls = design.verify_effort(request.objective, request.sweep, seconds)
    # What a tail takes is no less for a sweep's budget; beside a busy neighbour it may take twice as long.
    least = 2 * rounds * calls * len(schedules) * pass_ns * 1e-9
    budget = min(max(request.sweep.budget_seconds, least), LONGEST_BUDGET_SECONDS)
    return Job(
        id=f"{step.campaign_id}-verify-{step.id}",
        kind=JobKind.VERIFY,
        workload=workload_of(request, model, board.kind),
        units=design.verify_units(schedules, judged=dataset is not None),
        rounds=rounds,
        calls=calls,
        seed=_seed(step, "verify"),
        schedules=schedules,
        dataset=dataset,
        effort=replace(request.sweep.effort(None), budget_seconds=budget),
    )


def serves(job: Job, measured: set[Unit], request: CampaignRequest, model: ModelSpec, kind: BoardKind) -> bool:
    """Whether the finished sweep ``job``, which has results of ``measured``, serves who asks for ``request``.

    One that was to know its units better serves who wants less; an adaptive one serves an adaptive wish whatever
    counts it came to, any other wish if they are among them. A sweep of an earlier release, which has no ``Effort``,
    serves none.
    """
    wanted = wanted_effort(request, model)
    if job.effort is None or job.effort.precision > wanted.precision:
        return False
    if job.workload.attention != workload_of(request, model, kind).attention:
        return False
    if job.rounds < request.sweep.rounds or job.calls < request.sweep.calls:
        return False
    needed = sweep_units(request, model, kind)
    if wanted.least_tokens is not None:
        needed = [unit for unit in needed if unit.part is not Part.MODEL]
        if job.effort.least_tokens is None:
            # A grid that was never refined may hide a cliff; one without gaps cannot.
            needed += [Unit(Part.MODEL, n, n) for n in range(wanted.least_tokens, model.geometry.tokens + 1)]
    return covers(measured, needed)


def covers(measured: Iterable[Unit], wanted: Iterable[Unit]) -> bool:
    """Whether a sweep of the units ``measured`` serves who wants the units ``wanted``.

    Every count of the curve must be there. Of parts and reductions only the kinds: at which counts they are timed
    follows from the curve's, and any sensible set of them serves a planner.
    """
    have, want = set(measured), set(wanted)
    curve = {unit for unit in want if unit.part is Part.MODEL}
    kinds = {(unit.part, unit.label) for unit in have}
    return curve <= have and {(unit.part, unit.label) for unit in want} <= kinds


def _seed(step: Step, kind: str) -> int:
    text = f"{step.campaign_id}:{step.board}:{step.model}:{kind}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
