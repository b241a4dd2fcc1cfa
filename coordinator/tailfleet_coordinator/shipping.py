"""Shipping: which schedule goes to which board, and how far each has come, in words for people.

How a schedule travels is the business of the boards' protocol; that it is planned and measured, of campaigns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tailfleet_coordinator import objectives
from tailfleet_coordinator.campaigns import found_good, step_report
from tailfleet_coordinator.db.rows import Campaign, ShippedSchedule, Step, StoredPlan
from tailfleet_coordinator.db.store import Store
from tailfleet_schema.campaign import CampaignRequest, Statistic
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.job import JobKind, JobState
from tailfleet_schema.schedule import dense

ANOTHER_BOARD = "the board's hardware, software or power mode is not what it was measured on"
ANOTHER_MODEL = "the model is not the one that it was planned for"


@dataclass(frozen=True)
class Shipped:
    """A shipment as people see it."""

    row: ShippedSchedule
    state: str
    """queued, refused, delivered, verified, replaced, stale."""
    reason: str = ""
    renew: str = ""
    """The command that mends a stale one."""


def ship(store: Store, digest: str, boards: Sequence[str]) -> list[Shipped]:
    """Queue the schedule whose digest begins so for the boards; how it stands there.

    Raises ``UnknownName``, ``InputError`` for a revoked board, ``ScheduleError`` where it does not fit its model as
    that is now; nothing is queued then.
    """
    schedule = store.get_schedule(digest)
    board_ids = store.find_boards(list(boards))
    try:
        schedule.check_fits(schedule.model, store.get_model(schedule.model).geometry)
    except ScheduleError as error:
        raise ScheduleError(f"schedule {schedule.digest[:12]} cannot be shipped: {error.sentence}") from error
    store.ship_schedule(
        schedule.digest, schedule.model, {board: verified_in(store, board, schedule.digest) for board in board_ids}
    )
    return [one for one in shipped(store, model=schedule.model, digest=schedule.digest) if one.row.board in boards]


def ship_recommended(store: Store, campaign: Campaign, step: Step, plans: Iterable[StoredPlan], verify_id: str) -> None:
    """Queue, as verified, what the campaign recommends for the step's board and model, of whose ``plans`` the job
    ``verify_id`` has measured the schedules. Twice does nothing.

    Where it recommends not to prune, and what lies on the board is stale, the dense schedule takes its place: what was
    measured last on this very board counts.
    """
    rows = step_report(store, campaign, step, plans, verify_id).rows
    best = next((row.schedule_digest for row in rows if row.recommended), None)
    if best is None and rows and any(one.state == "stale" for one in shipped(store, step.board, step.model)):
        nothing = dense(step.model, store.get_model(step.model).geometry)
        store.add_schedule(nothing)
        best = nothing.digest
    if best is not None:
        store.ship_verified(step.board_id, best, step.model, campaign.id)


def verified_in(store: Store, board_id: int, digest: str) -> str | None:
    """The newest campaign in which the board measured the schedule and found that it does what was asked."""
    for campaign_id in store.list_campaigns_with_schedule(board_id, digest):
        campaign, plans = store.get_campaign(campaign_id), store.list_plans(campaign_id)
        measured = {
            job.model: job.id
            for job in store.list_jobs(campaign_id)
            if (job.board_id, job.kind, job.state) == (board_id, JobKind.VERIFY, JobState.DONE)
        }
        for step in store.list_steps(campaign_id):
            if step.board_id != board_id or step.model not in measured:
                continue
            if digest in found_good(store, campaign, step, plans, measured[step.model]):
                return campaign_id
    return None


def shipped(
    store: Store, board: str | None = None, model: str | None = None, digest: str | None = None
) -> list[Shipped]:
    """Shipments and their states, the oldest first; of one board, model or schedule where named."""

    @lru_cache
    def request_of(campaign_id: str) -> CampaignRequest:
        return store.get_campaign(campaign_id).request

    told = []
    rows = store.list_shipments(board, model)
    in_place = set(_in_place(rows))
    for row in rows:
        if digest is not None and not row.digest.startswith(digest):
            continue
        state, reason = state_of(row, row in in_place)
        campaign = row.planned_on.campaign
        request = request_of(campaign) if state == "stale" and campaign is not None else None
        told.append(Shipped(row, state, reason, renewal(row, request) if state == "stale" else ""))
    return told


def state_of(row: ShippedSchedule, in_place: bool) -> tuple[str, str]:
    """How far the shipment has come, and why it is refused or stale; ``in_place``: no later one has taken its place."""
    if row.refusal is not None:
        return "refused", row.refusal
    if row.state == "queued":
        return "queued", ""
    if not in_place:
        return "replaced", ""
    if row.planned_on.fingerprint not in (None, row.board_fingerprint):
        return "stale", ANOTHER_BOARD
    if row.planned_on.model_digest != row.present_model_digest:
        return "stale", ANOTHER_MODEL
    return row.state, ""


def renewal(row: ShippedSchedule, request: CampaignRequest | None) -> str:
    """The command that measures, plans and ships anew for the shipment's board and model: as ``request`` did, or, for
    one that no campaign planned, as campaigns do by default."""
    words = ["tailfleet campaign run", f"--models {row.model}", f"--boards {row.board}"]
    if request is None:
        return " ".join(words)
    usual = CampaignRequest([row.model], [row.board])
    words.append(f"--method {','.join(request.methods)}")
    if request.planners != usual.planners:
        words.append(f"--planner {','.join(request.planners)}")
    options = {name: getattr(request, name) for name in ("batch", "dtype", "backend", "attention", "verify", "offline")}
    words += [f"--{name} {value}" for name, value in options.items() if value != getattr(usual, name)]
    if request.objective is not None:
        words.append(f"--objective {objectives.written(request.objective)}")
        if request.objective.on is not Statistic.QUIET:
            words.append(f"--on {request.objective.on.value}")
    return " ".join(words)


def _in_place(rows: Sequence[ShippedSchedule]) -> Iterator[ShippedSchedule]:
    """Those that came last of all that went to the same place: one verified and one other a board and model."""
    last: dict[tuple[str, str, str], ShippedSchedule] = {}
    arrived = [(row.delivered_at, number, row) for number, row in enumerate(rows) if row.delivered_at is not None]
    for _, _, row in sorted(arrived, key=lambda one: one[:2]):
        last[row.board, row.model, row.state] = row
    return iter(last.values())
