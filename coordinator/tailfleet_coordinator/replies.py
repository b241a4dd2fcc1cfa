"""What people's programs send to the coordinator and are told by it, beyond the campaign types of the schema.

Tables travel column by column, since a fleet's curves have many thousand rows. HTTP and DataFrames are left to others.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tailfleet_schema.campaign import BoardStatus, CampaignStatus
from tailfleet_schema.job import Failure
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
    """All sets of labelled images."""

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
    rounds: int
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


JOB_COLUMNS = (
    "id", "campaign", "kind", "board", "board_kind", "model", "state", "cancel_requested", "done", "total", "attempt",
    "created_at", "started_at", "finished_at", "failure", "who_must_act",
)  # fmt: skip
"""Columns of the list of jobs: one row a job."""

CURVE_COLUMNS = (
    "curve_id", "board", "board_kind", "model", "backend", "dtype", "batch", "stable", "unstable_reason",
    "fingerprint", "campaign", "measured_at",
)  # fmt: skip
"""Columns of the list of curves."""

POINT_COLUMNS = (
    "board", "board_kind", "model", "backend", "dtype", "batch", "part", "method", "tokens", "kept",
    "quiet_ns", "quiet_low_ns", "quiet_high_ns", "p50_ns", "p90_ns", "p99_ns", "calls", "rounds", "status",
    "stable", "unstable_reason", "curve_id", "measured_at",
)  # fmt: skip
"""Columns of the points of curves: one row for each measured unit."""

CURVE_POINT_COLUMNS = ("tokens", "quiet_ns", "quiet_low_ns", "quiet_high_ns", "measured")
"""Columns of one whole curve: one row for every count, whether it was measured or is inferred from those that were."""

ROUND_COLUMNS = (
    "curve_id", "board", "board_kind", "model", "backend", "dtype", "batch", "round", "factor", "disturbed", "reason",
)  # fmt: skip
"""Columns of the rounds of curves, as they were judged when the curve was filed."""

TREAD_COLUMNS = (
    "curve_id", "board", "board_kind", "model", "backend", "dtype", "batch", "first_tokens", "last_tokens", "quiet_ns",
)  # fmt: skip
"""Columns of the treads of curves: counts between which there is no step; ``quiet_ns`` is that of the last one."""

CLIFF_COLUMNS = (
    "curve_id", "board", "board_kind", "model", "backend", "dtype", "batch", "from_tokens", "to_tokens", "upwards",
    "height_ns", "height_percent", "confidence", "stable",
)  # fmt: skip
"""Columns of the steps of curves: one row a step. Not ``upwards``: more tokens are faster. Where ``to_tokens`` is not
``from_tokens`` + 1, the step lies somewhere between."""

SCHEDULE_COLUMNS = ("digest", "board", "model", "method", "planner", "keep", "campaign", "planned_at")
"""Columns of the list of schedules: one row a schedule, board and campaign; board, planner and campaign are empty for
one that a person added and no campaign has planned."""
