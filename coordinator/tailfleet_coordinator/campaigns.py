"""Campaigns as people see them: opening one, its progress, its report. Read from rows; driving one is left to the
cluster room.
"""

import secrets
from collections.abc import Iterable
from dataclasses import replace

from tailfleet_coordinator.db.rows import Board, Campaign, JobRecord, Step, StoredPlan
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.plan.outcome import Outcome, verified_of
from tailfleet_coordinator.plan.residuals import Verified
from tailfleet_coordinator.plan.wholes import whole_schedules, whole_units
from tailfleet_coordinator.replies import iso
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import (
    BY_INPUT,
    CampaignReport,
    CampaignRequest,
    CampaignStatus,
    Front,
    Measure,
    ReportRow,
    StepStatus,
)
from tailfleet_schema.curve import Unit, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import JobKind
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec, ModelSpec, Workload

MOST_VERIFICATIONS = 20
"""So many earlier ones, the newest, teach a plan."""


def open_campaign(store: Store, request: CampaignRequest) -> str:
    """Store the campaign for an actor to drive; its id.

    Raises ``UnknownName`` for a board or model that does not exist, ``InputError`` for what cannot be measured on
    one of them, and for a sweep too short for the statistic that plans are to be on.
    """
    board_ids = store.find_boards(request.boards)
    models = [store.get_model(name) for name in request.models]
    kinds = {board.kind for board in store.list_boards(0.0) if board.id in set(board_ids)}
    for model in models:
        for kind in kinds:
            runs = workload_of(request, model, kind)
            try:
                units = design.sweep_units(
                    model.geometry,
                    request.reducing_methods,
                    request.sweep.counts,
                    kind,
                    runs.batch,
                    runs.backend,
                    runs.dtype,
                )
            except InputError as error:
                raise error.inside("sweep.counts") from error
            if request.objective is not None:
                design.check_effort(request.objective, request.sweep, units)
    campaign_id = f"c{secrets.token_hex(4)}"
    store.create_campaign(campaign_id, request, board_ids)
    return campaign_id


def workload_of(request: CampaignRequest, model: ModelSpec, kind: BoardKind) -> Workload:
    """What runs on a board of that kind. A virtual board's latencies are never mixed with measured ones."""
    if kind is BoardKind.VIRTUAL:
        return Workload(model, request.batch, "virtual", request.dtype)
    return Workload(model, request.batch, request.backend, request.dtype, request.attention)


def wanted_profile(request: CampaignRequest, model: ModelSpec) -> list[Unit]:
    """The judged units that plans of ``model`` rest on; none without an objective or without images."""
    if request.objective is None or model.dataset is None:
        return []
    units = [unit for method in _planned(request) for unit in design.profile_units(model.geometry, method)]
    units += whole_units(profile_schedules(request, model))
    if BY_INPUT & set(request.planners):
        units += design.input_units(model.geometry)
    return units


def profile_schedules(request: CampaignRequest, model: ModelSpec) -> list[Schedule]:
    """The whole schedules that the model's profile judges, too."""
    return [one for method in _planned(request) for one in whole_schedules(model, method)]


def _planned(request: CampaignRequest) -> list[str]:
    """Methods that plans may take, each once."""
    return list(dict.fromkeys(method for _, planned in request.plans() for method in request.competing(planned)))


def profiled_units(store: Store, model: ModelSpec) -> set[Unit]:
    """Which units of the model's accuracy profile are known: all that progress and decisions ask."""
    if model.dataset is None:
        return set()
    return store.list_profiled_units(model.digest, store.get_dataset(model.dataset).sha256)


def stored_profile(store: Store, model: ModelSpec) -> list[UnitResult]:
    """What is known of the model's accuracy profile."""
    if model.dataset is None:
        return []
    return store.list_profile(model.digest, store.get_dataset(model.dataset).sha256)


def stored_verifications(store: Store, request: CampaignRequest, board: Board, model: ModelSpec) -> list[Verified]:
    """What the board, as it is now, measured of earlier schedules in the same workload, the newest last."""
    workload = workload_of(request, model, board.kind)
    found: list[Verified] = []
    for job_id in store.find_verifications(board.id, model.name, board.fingerprint, MOST_VERIFICATIONS):
        job = store.get_job(job_id)
        if job.workload == workload:
            found = verified_of(job.schedules, store.list_results(job_id)) + found
    return found


def status_of(store: Store, campaign: Campaign) -> CampaignStatus:
    """Where the campaign stands."""
    jobs = {(job.board, job.model, job.kind): job for job in store.list_records(campaign.id)}
    return CampaignStatus(
        id=campaign.id,
        state=campaign.state,
        created_at=campaign.created_at.isoformat(),
        steps=[_step(store, campaign, step, jobs) for step in store.list_steps(campaign.id)],
        finished_at=iso(campaign.finished_at),
        failure=campaign.failure,
    )


def _step(store: Store, campaign: Campaign, step: Step, jobs: dict[tuple[str, str, JobKind], JobRecord]) -> StepStatus:
    done = total = rounds = 0
    kind = {"sweep": JobKind.SWEEP, "verify": JobKind.VERIFY}.get(step.phase)
    job = jobs.get((step.board, step.model, kind)) if kind is not None else None
    if job is not None:
        done, total, rounds = job.done, job.total, job.rounds_begun
    elif step.phase == "profile":
        model = store.get_model(step.model)
        wanted = set(wanted_profile(campaign.request, model))
        done, total = len(wanted & profiled_units(store, model)), len(wanted)
    return StepStatus(step.board, step.model, step.phase, done, total, step.note, step.failure, rounds)


def report_of(store: Store, campaign: Campaign) -> CampaignReport:
    """The plans of the campaign so far, with what their boards measured of them."""
    if campaign.request.objective is None:
        return CampaignReport(campaign.id, [])
    plans = store.list_plans(campaign.id)
    verifying = {
        (job.board_id, job.model): job.id for job in store.list_jobs(campaign.id) if job.kind is JobKind.VERIFY
    }
    rows: list[ReportRow] = []
    fronts: list[Front] = []
    for step in store.list_steps(campaign.id):
        told = step_report(store, campaign, step, plans, verifying.get((step.board_id, step.model)))
        rows += told.rows
        fronts += told.fronts
    return CampaignReport(campaign.id, rows, fronts)


def step_report(
    store: Store, campaign: Campaign, step: Step, plans: Iterable[StoredPlan], verify_id: str | None
) -> CampaignReport:
    """What the report of the campaign, whose ``plans`` are given, says of one step; ``verify_id`` is the job that
    measures its plans, if it was ordered."""
    found = _outcome(store, campaign, step, plans, verify_id)
    if found is None:
        return CampaignReport(campaign.id, [])
    seen = (found.board, found.kind.value, found.model.name)
    fronts = [
        Front(*seen, planner, method, plan.dense_ns, found.measure, plan.front, plan.on)
        for planner, method, plan in found.plans
        if plan.front
    ]
    return CampaignReport(campaign.id, [replace(row, curve_id=step.curve_id) for row in found.rows()], fronts)


def found_good(
    store: Store, campaign: Campaign, step: Step, plans: Iterable[StoredPlan], verify_id: str | None
) -> set[str]:
    """Digests of the schedules, recommended or not, that the step's board measured to do what was asked."""
    found = _outcome(store, campaign, step, plans, verify_id)
    return set() if found is None else found.good()


def _outcome(
    store: Store, campaign: Campaign, step: Step, plans: Iterable[StoredPlan], verify_id: str | None
) -> Outcome | None:
    mine = _in_order(
        campaign.request,
        (
            (plan.planner, plan.method, codec.loads(Plan, plan.plan_json))
            for plan in plans
            if (plan.board_id, plan.model) == (step.board_id, step.model)
        ),
    )
    objective = campaign.request.objective
    if not mine or objective is None:
        return None
    board = store.get_board(step.board_id)
    results = store.list_results(verify_id) if verify_id is not None else []
    # The job knows which model it measured; by now the name may stand for another.
    model = store.get_model(step.model) if verify_id is None else store.get_job(verify_id).workload.model
    measure = measure_of(_dataset(store, model, verify_id))
    return Outcome(board.name, board.kind, model, mine, results, objective, measure)


def measure_of(dataset: DatasetSpec | None) -> Measure:
    """What plans of a model that is judged on ``dataset`` lose."""
    if dataset is None:
        return Measure.WORK
    return Measure.TOP1 if dataset.labelled else Measure.AGREEMENT


def _dataset(store: Store, model: ModelSpec, verify_id: str | None) -> DatasetSpec | None:
    if verify_id is not None:
        return store.get_job(verify_id).dataset
    return None if model.dataset is None else store.get_dataset(model.dataset)


def _in_order(request: CampaignRequest, plans: Iterable[tuple[str, str, Plan]]) -> list[tuple[str, str, Plan]]:
    """By planner and method as they were asked for, whichever was planned first."""
    order = request.plans()
    return sorted(plans, key=lambda plan: order.index((plan[0], plan[1])))
