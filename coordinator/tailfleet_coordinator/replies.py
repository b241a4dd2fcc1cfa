"""What people's programs send to the coordinator and are told by it, beyond the campaign types of the schema.

Tables travel column by column, since a fleet's curves have many thousand rows. HTTP and DataFrames are left to others.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tailfleet_schema.campaign import BoardStatus, CampaignStatus
from tailfleet_schema.job import Effort, Failure
from tailfleet_schema.limits import LABEL_LENGTH, check_names
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.virtual_board import check_profile
from tailfleet_schema.workload import DatasetSpec, ModelSpec


def iso(moment: datetime | None) -> str | None:
    """A moment as replies tell it: UTC, ISO 8601; None where there is none."""
    return None if moment is None else moment.isoformat()


@dataclass(frozen=True)
class EnrolmentRequest:
    """Promise ``board`` to whoever brings the token within ``minutes``."""

    board: str
    virtual_profile: str | None = None
    minutes: int = 60
    ca: str | None = None
    """File on the board with the certificates to trust for https; None: the board's system's."""

    def __post_init__(self) -> None:
        if self.virtual_profile is not None:
            check_profile("virtual_profile", self.virtual_profile)


@dataclass(frozen=True)
class Enrolment:
    """A promise: ``line`` is for the board's shell; ``warning`` says why it may not work there, where that is known."""

    board: str
    token: str
    line: str
    expires_at: str
    """UTC, ISO 8601."""
    warning: str | None = None


@dataclass(frozen=True)
class TokenRequest:
    """A token for a person or a program, to speak as ``role`` (operator or viewer)."""

    name: str
    role: str


@dataclass(frozen=True)
class NewToken:
    """The token itself, shown this once."""

    name: str
    role: str
    token: str
    created_at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class TokenStatus:
    """What is told of a token later on."""

    name: str
    role: str
    created_at: str
    """UTC, ISO 8601."""
    revoked_at: str | None
    """Since when it opens nothing; None while it is good."""


@dataclass(frozen=True)
class Tokens:
    """All tokens of people and programs that ever were."""

    tokens: list[TokenStatus]


@dataclass(frozen=True)
class Health:
    """That the coordinator answers, and in which version."""

    status: str
    version: str
    protocol: int


@dataclass(frozen=True)
class Boards:
    """All enrolled boards."""

    boards: list[BoardStatus]


@dataclass(frozen=True)
class Models:
    """All models that can be swept."""

    models: list[ModelSpec]


@dataclass(frozen=True)
class Datasets:
    """All sets of images."""

    datasets: list[DatasetSpec]


@dataclass(frozen=True)
class ModelRequest:
    """Register ``model``; ``replace`` whatever its name means now."""

    model: ModelSpec
    replace: bool = False


@dataclass(frozen=True)
class ModelAdded:
    """The model is registered; not ``new`` where the very same was already."""

    model: ModelSpec
    digest: str
    """sha256 of the specification: curves and profiles belong to it, not to the name."""
    new: bool


@dataclass(frozen=True)
class DatasetRequest:
    """Register ``dataset``, whose index and pack have been sent; ``replace`` whatever its name means now."""

    dataset: DatasetSpec
    replace: bool = False


@dataclass(frozen=True)
class DatasetAdded:
    """The dataset is registered; not ``new`` where the very same images were already."""

    dataset: DatasetSpec
    new: bool


@dataclass(frozen=True)
class StoredArtifact:
    """The coordinator has the artifact, ``size`` bytes of it."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Campaigns:
    """All campaigns, the newest first, each with its steps."""

    campaigns: list[CampaignStatus]


@dataclass(frozen=True)
class AddSchedule:
    """Keep a schedule that a person made."""

    schedule: Schedule


@dataclass(frozen=True)
class AddedSchedule:
    """The content address that it is found by."""

    digest: str


@dataclass(frozen=True)
class ShipRequest:
    """Ship a schedule to boards by name."""

    digest: str
    """Or the beginning of it."""
    boards: list[str]

    def __post_init__(self) -> None:
        check_names("boards", self.boards, LABEL_LENGTH)


@dataclass(frozen=True)
class Columns:
    """A table: every column a list, all equally long."""

    columns: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedFor:
    """A schedule that a job measures."""

    digest: str
    method: str
    keep: list[int]


@dataclass(frozen=True)
class JobOrder:
    """What a job measures, without its thousands of units."""

    backend: str
    dtype: str
    batch: int
    attention: str
    """As it was asked for: ``auto`` leaves it to the board."""
    rounds: int
    """Of an open-ended order the least."""
    calls: int
    """Timed calls of a unit in a round."""
    units: int
    """Things that are timed or judged, each once a round."""
    parts: list[str]
    """What is timed or judged of the model; the values of the schema's ``Part``."""
    counts: list[int]
    """Token counts at which the whole model is timed, ascending."""
    methods: list[str]
    """Whose reduction is timed."""
    schedules: list[PlannedFor]
    dataset: str | None
    images: int | None
    """Judged on the first so many images; None: on all of the split."""
    seed: int
    effort: Effort | None = None
    """How far an open-ended order goes beyond this; None: it is all there is to measure."""


@dataclass(frozen=True)
class JobAttempt:
    """What is known of one time that a job was given to its board."""

    attempt: int
    results: int
    """Stored of this attempt."""
    first_result_at: str | None
    last_result_at: str | None
    log_at: str | None
    """When its log was last heard of; None: it sent none."""
    last_words: str
    """The last line of its log."""


@dataclass(frozen=True)
class JobDetails:
    """All there is to know of one job. Times are UTC, ISO 8601."""

    id: str
    campaign: str
    kind: str
    board: str
    board_kind: str
    model: str
    state: str
    cancel_requested: bool
    """Whether its holder is asked to stop."""
    done: int
    total: int
    """Of an open-ended order no more than what is known to be needed so far."""
    rounds_begun: int
    """Rounds of which a result is stored."""
    attempt: int
    """How often it was given; the last holder alone may speak for it."""
    created_at: str
    started_at: str | None
    finished_at: str | None
    lease_expires_at: str | None
    lease_lapsed: bool
    """Whether its holder was not heard of for as long as a lease lasts."""
    fingerprint: str | None
    """The board's, when the job was last given."""
    fingerprint_changed: bool
    """Whether the board was another at an earlier attempt."""
    order: JobOrder
    runtime: dict[str, str]
    """What it runs on, as the measured child told it; empty until it did."""
    attempts: list[JobAttempt]
    failure: Failure | None = None
    """Why it failed, or that and by whom it was cancelled."""
    who_must_act: str | None = None
    """In words; None where nobody must."""


@dataclass(frozen=True)
class JobLog:
    """The end of what the measured child has said in one attempt of a job."""

    job: str
    attempt: int
    """0: the job was not given to its board yet."""
    state: str
    """Of the job."""
    log: str
    stored_at: str | None = None
    """None: nothing was heard of this attempt's log yet."""


@dataclass(frozen=True)
class CurveDetails:
    """One curve without its points. Times are UTC, ISO 8601."""

    id: int
    board: str
    board_kind: str
    model: str
    stable: bool
    unstable_reason: str
    """Empty for a stable one."""
    counts_measured: int
    counts_all: int
    """Those that the model can be given; each is measured or inferred."""
    cliffs: int
    """Steps found, either way."""
    rounds: int
    rounds_disturbed: int
    """Rounds whose blocks are part of no quiet time."""
    calls: int
    """Timed calls of all its units, in all rounds."""
    order: JobOrder
    runtime: dict[str, str]
    """What it ran on, as the measured child told it: device, threads, versions, kind of attention."""
    fingerprint: str
    campaign: str
    job: str
    started_at: str | None
    measured_at: str


JOB_COLUMNS = (
    "id", "campaign", "kind", "board", "board_kind", "model", "state", "cancel_requested", "done", "total",
    "rounds_begun", "attempt", "created_at", "started_at", "finished_at", "failure", "who_must_act",
)  # fmt: skip
"""Columns of the list of jobs: one row a job."""

_CURVE = ("curve_id", "board", "board_kind", "model", "backend", "dtype", "batch")
"""Which curve a row is of; the first columns of every table of curves."""

CURVE_COLUMNS = (
    *_CURVE, "stable", "unstable_reason", "counts_measured", "counts_all", "cliffs", "rounds", "rounds_disturbed",
    "fingerprint", "campaign", "measured_at",
)  # fmt: skip
"""Columns of the list of curves."""

POINT_COLUMNS = (
    *_CURVE, "part", "method", "tokens", "kept", "source", "quiet_ns", "quiet_low_ns", "quiet_high_ns", "p50_ns",
    "p90_ns", "p99_ns", "calls", "rounds", "status", "peak_memory_bytes", "energy_mj", "stable", "unstable_reason",
    "measured_at",
)  # fmt: skip
"""Columns of the points of curves: one row for each measured unit, and for each count of the curve in between, whose
``source`` is ``inferred``."""

TREAD_COLUMNS = (*_CURVE, "first_tokens", "last_tokens", "quiet_ns")
"""Columns of treads: one row for each stretch of counts without a step, both ends included; ``quiet_ns`` is that of
the last one."""

CLIFF_COLUMNS = (
    *_CURVE, "from_tokens", "to_tokens", "upwards", "height_ns", "height_percent", "confidence", "stable",
)  # fmt: skip
"""Columns of cliffs: one row for each step; not ``upwards``: more tokens are faster there. Where ``to_tokens`` is not
``from_tokens`` + 1, the step lies somewhere between."""

ROUND_COLUMNS = (*_CURVE, "round", "factor", "disturbed", "reason")
"""Columns of judged rounds: one row for each round of each curve."""

SAMPLE_COLUMNS = (
    *_CURVE, "part", "method", "tokens", "kept", "round", "status", "call_ns", "peak_memory_bytes", "energy_mj",
    "telemetry",
)  # fmt: skip
"""Columns of raw samples: one row for each block, in the order of arrival; ``call_ns`` lists its calls, ``telemetry``
is the state of the board just after it, as an object, where it was read."""

TRUE_COLUMNS = (*_CURVE, "tokens", "true_ns")
"""Columns of a virtual board's true curve: one row for each count."""

SCHEDULE_COLUMNS = ("digest", "board", "model", "method", "planner", "choice", "keep", "campaign", "planned_at")
"""Columns of the list of schedules: one row a schedule, board and campaign. ``choice``: what the planner has *chosen*,
or a *contender*, another point of its front that the board measures beside it. Board, planner, choice and campaign are
empty for one that a person added and no campaign has planned."""

SHIPMENT_COLUMNS = (
    "digest", "board", "model", "state", "reason", "renew", "queued_at", "delivered_at", "verified_at", "campaign",
    "curve_id", "model_digest", "dataset_sha256", "fingerprint",
)  # fmt: skip
"""Columns of the list of shipments: one row a schedule and board. ``state``: *queued* until the board has it, *refused*
where it did not take it, then *delivered*, or *verified* where the board itself has measured it and found it good;
*replaced* by a later one of the same model; *stale* where the board or the model is another since. ``reason`` tells
why it is refused or stale, ``renew`` the command that mends a stale one. From ``campaign`` on: what it was planned on;
of one that a person made, the model alone."""
