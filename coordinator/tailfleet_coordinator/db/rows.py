"""What the store hands out: frozen facts, free of SQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tailfleet_schema.board import BoardFacts, BoardKind
from tailfleet_schema.campaign import CampaignRequest, CampaignState
from tailfleet_schema.job import Failure, Job, JobKind, JobState
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.shipment import PlannedOn


@dataclass(frozen=True)
class Board:
    """An enrolled board; ``online`` by the database's clock."""

    id: int
    name: str
    kind: BoardKind
    virtual_profile: str | None
    facts: BoardFacts
    machine_id: str
    fingerprint: str
    enrolled_at: datetime
    last_seen_at: datetime | None
    online: bool
    revoked_at: datetime | None
    """Since when its token opens nothing; None while it may speak."""


@dataclass(frozen=True)
class Caller:
    """Whose token a request brought. ``board_id`` is set exactly for role ``board``; ``name`` is the board's for that
    role and for ``enrolment``."""

    role: str
    name: str
    board_id: int | None = None


@dataclass(frozen=True)
class Token:
    """A person's or a program's token, but for the token itself."""

    name: str
    role: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class Campaign:
    """A campaign without its steps."""

    id: str
    request: CampaignRequest
    state: CampaignState
    created_at: datetime
    finished_at: datetime | None
    failure: Failure | None


@dataclass(frozen=True)
class Step:
    """One board × model of a campaign."""

    id: int
    campaign_id: str
    board_id: int
    board: str
    model: str
    phase: str
    note: str
    curve_id: int | None
    failure: Failure | None


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands: ``done`` of ``total`` keys are stored; of an open-ended job, ``total`` are the least, and
    grow with what is stored beyond them."""

    id: str
    campaign_id: str
    board_id: int
    model: str
    kind: JobKind
    state: JobState
    attempt: int
    done: int
    total: int
    failure: Failure | None
    fingerprint: str | None
    fingerprint_changed: bool
    finished_at: datetime | None


@dataclass(frozen=True)
class Claim:
    """A job just given to its board."""

    job: Job
    attempt: int
    runtime: dict[str, str] = field(default_factory=dict)
    """What an earlier attempt told that it ran on."""


@dataclass(frozen=True)
class Holder:
    """Who speaks for a job: the board that it was given to, at that attempt."""

    board_id: int
    job_id: str
    attempt: int


@dataclass(frozen=True)
class JobRecord:
    """A job as people see it."""

    id: str
    campaign_id: str
    board: str
    board_kind: BoardKind
    model: str
    kind: JobKind
    state: JobState
    attempt: int
    done: int
    total: int
    rounds_begun: int
    """Rounds of which a result is stored."""
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    lease_expires_at: datetime | None
    lease_lapsed: bool
    """Whether the lease of a given job has run out, by the database's clock."""
    fingerprint: str | None
    fingerprint_changed: bool
    runtime: dict[str, str]
    """What the measured child ran on, as it told it; empty until it did."""
    failure: Failure | None


@dataclass(frozen=True)
class Attempt:
    """What is known of one time that a job was given."""

    attempt: int
    results: int
    first_result_at: datetime | None
    last_result_at: datetime | None
    log: str | None
    """None: the board sent none."""
    log_at: datetime | None


@dataclass(frozen=True)
class Curve:
    """A finished sweep."""

    id: int
    job_id: str
    board_id: int
    board: str
    board_kind: BoardKind
    model: str
    model_digest: str
    backend: str
    dtype: str
    batch: int
    fingerprint: str
    stable: bool
    unstable_reason: str
    measured_at: datetime


@dataclass(frozen=True)
class CurveCounts:
    """How much there is of a curve."""

    campaign: str
    """That ordered its sweep."""
    measured: int
    """Token counts of the whole model that have a result."""
    cliffs: int
    """Steps found, either way."""
    rounds: int
    rounds_disturbed: int


@dataclass(frozen=True)
class CurveRound:
    """One round of a curve's sweep as it was judged when the curve was filed."""

    round: int
    factor: float
    """How much slower its typical block was than in the quietest rounds; 1: as quiet."""
    disturbed: bool
    """Its blocks are not part of any quiet time."""
    reason: str


@dataclass(frozen=True)
class CurveTread:
    """Counts of a curve between which there is no step, both ends included."""

    first_tokens: int
    last_tokens: int
    quiet_ns: float
    """At its last count."""


@dataclass(frozen=True)
class CurveCliff:
    """A step of a curve: one more token costs a step, or (not ``upwards``) gains one."""

    from_tokens: int
    to_tokens: int
    """The next count that was measured; where it is not ``from_tokens`` + 1, the step lies somewhere between."""
    upwards: bool
    height_ns: float
    height_percent: float
    """Of the latency before the step."""
    confidence: float


@dataclass(frozen=True)
class Anatomy:
    """A curve taken apart."""

    rounds: tuple[CurveRound, ...] = ()
    treads: tuple[CurveTread, ...] = ()
    cliffs: tuple[CurveCliff, ...] = ()


@dataclass(frozen=True)
class NewPlan:
    """A planner's decision to be stored."""

    campaign_id: str
    board_id: int
    model: str
    planner: str
    method: str
    plan_json: str
    schedule: Schedule | None
    contenders: Sequence[Schedule] = ()
    """Further points of its front that are worth measuring."""


@dataclass(frozen=True)
class StoredPlan:
    """A planner's decision; ``plan_json`` is left for the room that knows plans to read."""

    id: int
    board_id: int
    model: str
    planner: str
    method: str
    plan_json: str
    schedule_digest: str | None


@dataclass(frozen=True)
class PlannedSchedule:
    """A schedule and for what it was planned; campaign, board, planner and choice are empty where it was only added."""

    schedule: Schedule
    digest: str
    campaign_id: str
    board: str
    planner: str
    choice: str
    """chosen, contender."""
    created_at: datetime


@dataclass(frozen=True)
class ShippedSchedule:
    """A shipment as it is stored, beside what its board and its model are now."""

    digest: str
    board: str
    model: str
    state: str
    refusal: str | None
    queued_at: datetime
    delivered_at: datetime | None
    verified_at: datetime | None
    planned_on: PlannedOn
    board_fingerprint: str
    present_model_digest: str
