"""The tables: what is stored, and which rows cannot exist. Queries are left to the store, changes of the form to
the migrations.

Texts named ``…_json`` hold what the schema's codec writes, and are only ever read with it. Times are UTC.
"""

from datetime import datetime
from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tailfleet_coordinator.db.engine import UtcTime
from tailfleet_schema.board import BoardKind
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.curve import Part
from tailfleet_schema.job import JobKind, JobState

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

ROLES = ("operator", "viewer")

SHIPMENT_STATES = ("queued", "delivered", "verified")

PHASES = ("waiting", "sweep", "profile", "plan", "verify", "done", "failed", "cancelled")


def digest_of(column: str) -> CheckConstraint:
    """A constraint that ``column`` holds a sha256 in hexadecimal (64 characters)."""
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_is_a_digest")


def one_of(column: str, values: tuple[str, ...] | list[str]) -> CheckConstraint:
    """A constraint that ``column`` holds one of ``values``."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=f"{column}_known")


class Table(DeclarativeBase):
    """What all tables share."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {datetime: UtcTime, str: Text, float: Double}


class BoardTable(Table):
    """A board that has enrolled."""

    __tablename__ = "boards"
    __table_args__ = (
        one_of("kind", [kind.value for kind in BoardKind]),
        CheckConstraint("(kind = 'virtual') = (virtual_profile IS NOT NULL)", name="profile_exactly_if_virtual"),
        CheckConstraint("name <> ''", name="name_not_empty"),
        digest_of("fingerprint"),
        digest_of("token_hash"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    virtual_profile: Mapped[str | None]
    facts_json: Mapped[str]
    machine_id: Mapped[str] = mapped_column(String(128), index=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    enrolled_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]
    """None until it first asks for work."""
    revoked_at: Mapped[datetime | None]
    """Since when its token opens nothing; None while it may speak. Enrolling it again gives it another token."""


class EnrolmentTable(Table):
    """A promise that whoever brings the token may enrol as ``board``, once, until it expires."""

    __tablename__ = "enrolments"
    __table_args__ = (
        CheckConstraint("board <> ''", name="board_not_empty"),
        CheckConstraint("expires_at > created_at", name="expires_after_its_creation"),
        digest_of("token_hash"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    board: Mapped[str] = mapped_column(String(64), index=True)
    virtual_profile: Mapped[str | None]
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class TokenTable(Table):
    """A person's or a program's token."""

    __tablename__ = "tokens"
    __table_args__ = (
        one_of("role", ROLES),
        CheckConstraint("name <> ''", name="name_not_empty"),
        digest_of("token_hash"),
        # One good token a name; of the revoked ones there may be many.
        Index(
            "uq_tokens_name_good",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ModelTable(Table):
    """A model that can be swept; ``digest`` is the sha256 of its specification."""

    __tablename__ = "models"
    __table_args__ = (digest_of("digest"),)

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    spec_json: Mapped[str]
    registered_at: Mapped[datetime]


class DatasetTable(Table):
    """Images, most of them labelled; ``sha256`` names their artifact."""

    __tablename__ = "datasets"
    __table_args__ = (digest_of("sha256"),)

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    spec_json: Mapped[str]
    registered_at: Mapped[datetime]


class CampaignTable(Table):
    """What was asked of the fleet."""

    __tablename__ = "campaigns"
    __table_args__ = (
        one_of("state", [state.value for state in CampaignState]),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_exactly_if_ended"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    request_json: Mapped[str]
    state: Mapped[str] = mapped_column(String(16), index=True)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    failure_json: Mapped[str | None]


class JobTable(Table):
    """An order to one board. ``attempt`` counts how often it was given; only the last holder may speak for it."""

    __tablename__ = "jobs"
    __table_args__ = (
        # One sweep and one verification a board × model of a campaign: an actor that is rebuilt cannot order twice.
        UniqueConstraint("campaign_id", "board_id", "model", "kind"),
        Index(None, "board_id", "state"),
        one_of("kind", [JobKind.SWEEP.value, JobKind.VERIFY.value]),
        one_of("state", [state.value for state in JobState]),
        CheckConstraint("(state = 'leased') = (lease_expires_at IS NOT NULL)", name="expires_exactly_if_leased"),
        CheckConstraint(
            "(state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_exactly_if_ended"
        ),
        CheckConstraint("state <> 'failed' OR failure_json IS NOT NULL", name="failed_has_reason"),
        CheckConstraint("state <> 'leased' OR attempt >= 1", name="leased_was_given"),
        CheckConstraint("attempt >= 0", name="attempt_counts"),
        CheckConstraint("total > 0", name="total_positive"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    kind: Mapped[str] = mapped_column(String(16))
    job_json: Mapped[str]
    total: Mapped[int]
    """Keys that a complete job has."""
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    """The board's when the job was last given."""
    fingerprint_changed: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the board was another at an earlier attempt."""
    runtime_json: Mapped[str | None]
    """What the measured child ran on, as it told it; None until it did."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    failure_json: Mapped[str | None]


class JobLogTable(Table):
    """The end of what the measured child said in one attempt."""

    __tablename__ = "job_logs"
    __table_args__ = (CheckConstraint("attempt >= 1", name="attempt_counts"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    log: Mapped[str]
    stored_at: Mapped[datetime]


class ResultTable(Table):
    """What came of one unit in one round; statistics are recomputed from it."""

    __tablename__ = "results"
    __table_args__ = (
        # A key counts once, however often it is sent.
        UniqueConstraint("job_id", "part", "label", "block", "tokens", "kept", "round", name="uq_results_key"),
        one_of("part", [part.value for part in Part]),
        one_of("status", ["ok", "oom"]),
        CheckConstraint("kept >= 1 AND kept <= tokens", name="kept_within_tokens"),
        CheckConstraint("round >= 0", name="round_counts"),
        CheckConstraint("block >= -1", name="block_counts"),
        CheckConstraint("attempt >= 1", name="attempt_counts"),
        CheckConstraint(
            "status <> 'ok' OR call_ns_json <> '[]' OR judgement_json IS NOT NULL", name="ok_has_samples_or_judgement"
        ),
        CheckConstraint("peak_memory_bytes >= 0", name="peak_memory_counts"),
        CheckConstraint("energy_mj >= 0", name="energy_counts"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    part: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(64))
    block: Mapped[int]
    tokens: Mapped[int]
    kept: Mapped[int]
    round: Mapped[int]
    status: Mapped[str] = mapped_column(String(8))
    call_ns_json: Mapped[str]
    judgement_json: Mapped[str | None]
    telemetry_json: Mapped[str | None]
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    energy_mj: Mapped[float | None]
    """Of one call."""
    attempt: Mapped[int]
    stored_at: Mapped[datetime]


class CurveTable(Table):
    """A finished sweep, and whether its figures may be trusted; the samples are the job's results."""

    __tablename__ = "curves"
    __table_args__ = (
        Index(None, "board_id", "model"),
        CheckConstraint("stable OR unstable_reason <> ''", name="unstable_has_reason"),
        CheckConstraint("batch >= 1", name="batch_positive"),
        digest_of("model_digest"),
        digest_of("fingerprint"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    model_digest: Mapped[str] = mapped_column(String(64))
    backend: Mapped[str] = mapped_column(String(32))
    dtype: Mapped[str] = mapped_column(String(8))
    batch: Mapped[int]
    fingerprint: Mapped[str] = mapped_column(String(64))
    stable: Mapped[bool]
    unstable_reason: Mapped[str]
    measured_at: Mapped[datetime]


class CurveRoundTable(Table):
    """One round of a curve's sweep, as it was judged when the curve was filed."""

    __tablename__ = "curve_rounds"
    __table_args__ = (
        CheckConstraint("round >= 0", name="round_counts"),
        CheckConstraint("factor > 0", name="factor_positive"),
        CheckConstraint("NOT disturbed OR reason <> ''", name="disturbed_has_reason"),
    )

    curve_id: Mapped[int] = mapped_column(ForeignKey("curves.id"), primary_key=True, autoincrement=False)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    factor: Mapped[float]
    """How much slower its typical block was than in the quietest rounds; 1: as quiet."""
    disturbed: Mapped[bool]
    """Its blocks are not part of any quiet time."""
    reason: Mapped[str]


class TreadTable(Table):
    """Token counts of a curve between which there is no step, both ends included."""

    __tablename__ = "treads"
    __table_args__ = (
        CheckConstraint("first_tokens >= 1 AND first_tokens <= last_tokens", name="first_to_last"),
        CheckConstraint("quiet_ns > 0", name="quiet_positive"),
    )

    curve_id: Mapped[int] = mapped_column(ForeignKey("curves.id"), primary_key=True, autoincrement=False)
    first_tokens: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_tokens: Mapped[int]
    quiet_ns: Mapped[float]
    """At its last count."""


class CliffTable(Table):
    """A step of a curve between two counts: one more token costs a step, or (not ``upwards``) gains one."""

    __tablename__ = "cliffs"
    __table_args__ = (
        CheckConstraint("from_tokens >= 1 AND from_tokens < to_tokens", name="from_to"),
        CheckConstraint("height_ns > 0", name="height_positive"),
        CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence_is_a_probability"),
    )

    curve_id: Mapped[int] = mapped_column(ForeignKey("curves.id"), primary_key=True, autoincrement=False)
    from_tokens: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    to_tokens: Mapped[int]
    """The next count that was measured; where it is not ``from_tokens`` + 1, the step lies somewhere between."""
    upwards: Mapped[bool]
    height_ns: Mapped[float]
    height_percent: Mapped[float]
    """Of the latency before the step."""
    confidence: Mapped[float]
    """Probability that a difference this large is not noise alone."""


class ReadingTable(Table):
    """A curve as plans read it, made of its samples when it was filed: the plan room's own text. Curves of an earlier
    release have none, and are read from their samples."""

    __tablename__ = "curve_readings"

    curve_id: Mapped[int] = mapped_column(ForeignKey("curves.id"), primary_key=True, autoincrement=False)
    version: Mapped[int]
    """Of the plan room's way to read; what an earlier one wrote is passed over."""
    reading: Mapped[str]


class StepTable(Table):
    """One board × model of a campaign: which curve it stands on, where it is, and what there is to say about it."""

    __tablename__ = "steps"
    __table_args__ = (UniqueConstraint("campaign_id", "board_id", "model"), one_of("phase", PHASES))

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    phase: Mapped[str] = mapped_column(String(16))
    note: Mapped[str] = mapped_column(server_default=text("''"))
    curve_id: Mapped[int | None] = mapped_column(ForeignKey("curves.id"))
    failure_json: Mapped[str | None]


class ProfileTable(Table):
    """How one judged unit of a model's accuracy profile came out; shared by all boards and campaigns."""

    __tablename__ = "profiles"
    __table_args__ = (
        UniqueConstraint(
            "model_digest", "dataset_sha256", "part", "label", "block", "tokens", "kept", name="uq_profiles_unit"
        ),
        one_of("part", [Part.LOSS.value, Part.INPUT.value]),
        CheckConstraint("kept >= 1 AND kept <= tokens", name="kept_within_tokens"),
        digest_of("model_digest"),
        digest_of("dataset_sha256"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_digest: Mapped[str] = mapped_column(String(64))
    dataset_sha256: Mapped[str] = mapped_column(String(64))
    part: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(64))
    """The method for LOSS, empty for INPUT."""
    block: Mapped[int]
    tokens: Mapped[int]
    kept: Mapped[int]
    judgement_json: Mapped[str]
    stored_at: Mapped[datetime]


class ScheduleTable(Table):
    """A schedule under its content address."""

    __tablename__ = "schedules"
    __table_args__ = (digest_of("digest"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(128))
    method: Mapped[str] = mapped_column(String(32))
    schedule_json: Mapped[str]
    created_at: Mapped[datetime]


class PlanTable(Table):
    """What a planner decided for one board × model × method; no schedule means: do not prune."""

    __tablename__ = "plans"
    __table_args__ = (UniqueConstraint("campaign_id", "board_id", "model", "planner", "method"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    planner: Mapped[str] = mapped_column(String(32))
    method: Mapped[str] = mapped_column(String(32))
    plan_json: Mapped[str]
    schedule_digest: Mapped[str | None] = mapped_column(ForeignKey("schedules.digest"))
    created_at: Mapped[datetime]


class ContenderTable(Table):
    """A further point of a plan's front that is worth measuring beside the chosen one."""

    __tablename__ = "contenders"
    __table_args__ = (CheckConstraint("place >= 1", name="place_counts"),)

    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"), primary_key=True, autoincrement=False)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1 on, as the plan has them."""
    schedule_digest: Mapped[str] = mapped_column(ForeignKey("schedules.digest"), index=True)


class VerificationTable(Table):
    """Which job measures a plan's schedule on the board itself."""

    __tablename__ = "verifications"

    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)


class ShipmentTable(Table):
    """A schedule for a board: how far it has come, and what it was planned on. Whether it is stale follows from what
    the board and the model are now, and is not stored."""

    __tablename__ = "shipments"
    __table_args__ = (
        UniqueConstraint("board_id", "schedule_digest"),
        Index(None, "board_id", "state"),
        one_of("state", SHIPMENT_STATES),
        CheckConstraint("(state = 'queued') = (delivered_at IS NULL)", name="delivered_exactly_if_not_queued"),
        CheckConstraint(
            "state = 'queued' OR (state = 'verified') = (verified_at IS NOT NULL)", name="verified_exactly_if_measured"
        ),
        CheckConstraint("refusal IS NULL OR (state = 'queued' AND refusal <> '')", name="refused_only_while_queued"),
        digest_of("model_digest"),
        digest_of("dataset_sha256"),
        digest_of("fingerprint"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"))
    schedule_digest: Mapped[str] = mapped_column(ForeignKey("schedules.digest"))
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    state: Mapped[str] = mapped_column(String(16))
    """What the board is known to have. Queued: it is to be told, for the first time or anew."""
    refusal: Mapped[str | None]
    """Why the board did not take it. It is not told again until somebody ships it again."""
    queued_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    verified_at: Mapped[datetime | None]
    """Since when it is known that the board has measured it and found it good; None: it has not."""
    model_digest: Mapped[str] = mapped_column(String(64))
    """This and what follows: what it was planned on."""
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    curve_id: Mapped[int | None] = mapped_column(ForeignKey("curves.id"))
    dataset_sha256: Mapped[str | None] = mapped_column(String(64))
    fingerprint: Mapped[str | None] = mapped_column(String(64))


class MachineUseTable(Table):
    """Something computes on a machine: alone (a physical board that is measured) or beside others of its kind."""

    __tablename__ = "machine_uses"
    __table_args__ = (CheckConstraint("holder <> ''", name="holder_named"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    machine_id: Mapped[str] = mapped_column(String(128), index=True)
    holder: Mapped[str] = mapped_column(String(255), unique=True)
    exclusive: Mapped[bool]
    expires_at: Mapped[datetime]


class LeadershipTable(Table):
    """Which coordinator may write, at most one row. ``epoch`` is the fence: it grows with each take-over, and a writer
    of an earlier one is refused."""

    __tablename__ = "leadership"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("epoch >= 1", name="epoch_counts"),
        CheckConstraint("holder <> ''", name="holder_named"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    holder: Mapped[str]
    """In words, for people: machine, process, state folder."""
    holder_key: Mapped[str] = mapped_column(String(255))
    """Names the place that one coordinator at a time can hold; who holds it now knows that the earlier one is dead."""
    taken_at: Mapped[datetime]
    expires_at: Mapped[datetime]
