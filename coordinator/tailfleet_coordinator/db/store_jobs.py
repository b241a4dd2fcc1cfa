"""Queries on jobs: ordering them, giving them to boards, and what their holders may say. The lease is the fence.

A job belongs to its board. It is given by one statement, each time under a new attempt number, and only who brings
the current number may speak for it. A lease that has run out stays with its holder until the board asks again, so a
board that was cut off for an hour still delivers; what runs out is its claim on the machine.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, literal, select, update

from tailfleet_coordinator.db.engine import Now
from tailfleet_coordinator.db.machines import is_measured, job_holder, machine_is_free, release_machine, take_machine
from tailfleet_coordinator.db.rows import Claim, Holder, JobStatus
from tailfleet_coordinator.db.store_results import ResultQueries
from tailfleet_coordinator.db.tables import (
    BoardTable,
    CampaignTable,
    JobLogTable,
    JobTable,
    PlanTable,
    ResultTable,
    VerificationTable,
)
from tailfleet_coordinator.refusals import JobEnded, LeaseGone, RoleRefused, UnknownName
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import ENDED, Failure, Job, JobKind, JobState
from tailfleet_schema.messages import LOG_BYTES, Outcome

NOTHING_TOLD: Mapping[str, str] = MappingProxyType({})

MAX_ATTEMPTS = 20
"""A job that was given so often without an end is failed: something ends it that giving it again does not mend."""

LOG_CHARACTERS = LOG_BYTES
"""No more bytes than that where the log is plain English."""


class JobQueries(ResultQueries):
    """Jobs and leases."""

    def create_job(self, campaign_id: str, board_id: int, model: str, job: Job, plan_ids: Iterable[int] = ()) -> bool:
        """Order ``job`` and link the plans it verifies; False where the campaign has ended or it is ordered already."""
        with self.writing() as connection:
            state = connection.execute(
                select(CampaignTable.state).where(CampaignTable.id == campaign_id).with_for_update()
            ).scalar()
            ordered = select(JobTable.id).where(
                JobTable.campaign_id == campaign_id,
                JobTable.board_id == board_id,
                JobTable.model == model,
                JobTable.kind == job.kind.value,
            )
            if state != "running" or connection.execute(ordered).first() is not None:
                return False
            connection.execute(
                insert(JobTable).values(
                    id=job.id,
                    campaign_id=campaign_id,
                    board_id=board_id,
                    model=model,
                    kind=job.kind.value,
                    job_json=codec.dumps(job),
                    total=len(job.keys()),
                    state=JobState.QUEUED.value,
                    created_at=Now(),
                )
            )
            links = [{"plan_id": plan_id, "job_id": job.id} for plan_id in plan_ids]
            if links:
                connection.execute(insert(VerificationTable), links)
            return True

    def find_boards_with_work(self, board_ids: Iterable[int]) -> set[int]:
        """Those of the boards for which a job waits and whose machine is not being measured.

        Whether a board may have its job is judged when it claims. Boards beside a measured one are left out here, so
        that they do not claim in vain, four times a second, on the machine that is measured.
        """
        with self.reading() as connection:
            rows = connection.execute(
                select(JobTable.board_id)
                .join(BoardTable, BoardTable.id == JobTable.board_id)
                .where(
                    JobTable.board_id.in_(list(board_ids)),
                    JobTable.state == JobState.QUEUED.value,
                    ~is_measured(BoardTable.machine_id),
                )
                .distinct()
            )
            return set(rows.scalars())

    def take_back_jobs(self, board_id: int) -> None:
        """The board runs nothing any more: what it held waits again (or is over, if that was asked for)."""
        with self.writing() as connection:
            give_back_jobs(connection, board_id)

    def claim_job(self, board_id: int, lease_seconds: float, claimable_seconds: float) -> Claim | None:
        """Give the board its oldest waiting job; None where there is none or its machine is in use.

        A physical board gets its machine for itself; a virtual one shares it, but lets waiting physical ones pass. A
        board that was revoked while it waited gets nothing.
        """
        with self.writing() as connection:
            board = connection.execute(
                select(BoardTable.kind, BoardTable.machine_id, BoardTable.fingerprint).where(BoardTable.id == board_id)
            ).one()
            exclusive = board.kind == BoardKind.PHYSICAL.value
            waiting = (
                select(JobTable.id)
                .where(JobTable.board_id == board_id, JobTable.state == JobState.QUEUED.value)
                .order_by(JobTable.created_at, JobTable.id)
                .limit(1)
            )
            if connection.execute(waiting).first() is None:
                return None
            if not machine_is_free(connection, board.machine_id, exclusive, claimable_seconds):
                return None
            if not _may_speak(connection, board_id):
                return None
            # Who lost the race for a row gets the next one, instead of waiting for it and then going without.
            free = waiting.with_for_update(skip_locked=True)
            changed = JobTable.fingerprint_changed | (
                func.coalesce(JobTable.fingerprint, board.fingerprint) != board.fingerprint
            )
            given = connection.execute(
                update(JobTable)
                .where(JobTable.id == free.scalar_subquery(), JobTable.state == JobState.QUEUED.value)
                .values(
                    state=JobState.LEASED.value,
                    attempt=JobTable.attempt + 1,
                    lease_expires_at=Now(lease_seconds),
                    started_at=func.coalesce(JobTable.started_at, Now()),
                    fingerprint=board.fingerprint,
                    fingerprint_changed=changed,
                )
                .returning(JobTable.id, JobTable.attempt, JobTable.job_json, JobTable.runtime_json)
            ).first()
            if given is None:
                return None
            take_machine(connection, board.machine_id, job_holder(given.id), exclusive, lease_seconds)
            runtime = {} if given.runtime_json is None else codec.loads(dict[str, str], given.runtime_json)
            return Claim(codec.loads(Job, given.job_json), given.attempt, runtime)

    def renew_lease(
        self, board_id: int, job_id: str, attempt: int, lease_seconds: float, log: str | None = None
    ) -> bool:
        """The holder lives; whether it is asked to stop. Keeps the end of its ``log`` so far, where it sends one.

        Raises ``LeaseGone``, ``RoleRefused``, ``UnknownName``.
        """
        with self.writing() as connection:
            cancel = _renew(connection, board_id, job_id, attempt, lease_seconds)
            _keep_log(connection, job_id, attempt, log)
            return cancel

    def add_results(
        self,
        board_id: int,
        job_id: str,
        attempt: int,
        results: list[UnitResult],
        lease_seconds: float,
        log: str | None = None,
        runtime: Mapping[str, str] = NOTHING_TOLD,
    ) -> tuple[int, bool]:
        """Store the results whose keys are new; how many, and whether the holder is asked to stop.

        Renews the lease. Raises as ``renew_lease`` does, and then stores nothing.
        """
        with self.writing() as connection:
            cancel = _renew(connection, board_id, job_id, attempt, lease_seconds)
            _keep_log(connection, job_id, attempt, log)
            _keep_runtime(connection, job_id, runtime)
            stored = self._insert_results(connection, job_id, attempt, results)
            if stored:
                # An open-ended job grows beyond what it lists.
                have = _stored(connection, job_id)
                connection.execute(
                    update(JobTable).where(JobTable.id == job_id, JobTable.total < have).values(total=have)
                )
            return stored, cancel

    def finish_job(
        self,
        board_id: int,
        job_id: str,
        attempt: int,
        outcome: Outcome,
        failure: Failure | None,
        log: str,
        results: int | None = None,
        runtime: Mapping[str, str] = NOTHING_TOLD,
    ) -> tuple[JobState, int]:
        """The holder is through; the job's state now, and how many keys have no result: of an open-ended job, how many
        of the ``results`` that its holder claims.

        A job that lacks results is not done, whatever its holder says: it waits again. Saying it twice does no harm.
        Raises ``LeaseGone``, ``RoleRefused``, ``UnknownName``.
        """
        with self.writing() as connection:
            job = _fenced(connection, board_id, job_id, attempt)
            stored = _stored(connection, job_id)
            total = job.total
            if results is not None and codec.loads(Job, job.job_json).effort is not None:
                # One result at least: a job of which nothing is known cannot be done.
                total = max(results, 1)
            missing = max(0, total - stored)
            if job.state != JobState.LEASED.value:
                return JobState(job.state), missing
            _keep_log(connection, job_id, attempt, log)
            _keep_runtime(connection, job_id, runtime)
            if outcome is Outcome.DONE and missing == 0:
                connection.execute(update(JobTable).where(JobTable.id == job_id).values(total=stored))
                return _end(connection, job_id, JobState.DONE, None), 0
            if outcome is Outcome.FAILED:
                cause = failure or Failure("the board gave no reason", Blame.BUG)
                return _end(connection, job_id, JobState.FAILED, cause), missing
            return _give_back(connection, job_id, attempt, job.cancel_requested, failure), missing

    def cancel_job(self, job_id: str, reason: Failure) -> JobState:
        """Call the job off; its state now. A waiting one is over at once, and so is one whose lease has run out; any
        other when its holder next hears or speaks. Raises ``UnknownName``, ``JobEnded``.
        """
        with self.writing() as connection:
            row = connection.execute(select(JobTable.state).where(JobTable.id == job_id).with_for_update()).first()
            if row is None:
                raise UnknownName(f"there is no job {job_id!r}", "tailfleet job list")
            if JobState(row.state) in ENDED:
                raise JobEnded(f"job {job_id} is {row.state} already: there is nothing to cancel")
            _call_off(connection, JobTable.id == job_id, reason)
            return JobState(connection.execute(select(JobTable.state).where(JobTable.id == job_id)).scalar_one())

    def find_called_off(self, holders: Iterable[Holder]) -> set[Holder]:
        """Those of the holders that must hear something: that their job is cancelled, or no longer theirs."""
        asked = list(holders)
        with self.reading() as connection:
            rows = connection.execute(
                select(JobTable.id, JobTable.board_id, JobTable.attempt).where(
                    JobTable.id.in_({holder.job_id for holder in asked}),
                    JobTable.state == JobState.LEASED.value,
                    ~JobTable.cancel_requested,
                )
            )
            undisturbed = {Holder(row.board_id, row.id, row.attempt) for row in rows}
        return set(asked) - undisturbed

    def get_job(self, job_id: str) -> Job:
        """The order itself. Raises ``UnknownName``."""
        with self.reading() as connection:
            text = connection.execute(select(JobTable.job_json).where(JobTable.id == job_id)).scalar()
        if text is None:
            raise UnknownName(f"there is no job {job_id!r}")
        return codec.loads(Job, text)

    def get_job_campaign(self, job_id: str) -> str:
        """The campaign that ordered the job. Raises ``UnknownName``."""
        with self.reading() as connection:
            found = connection.execute(select(JobTable.campaign_id).where(JobTable.id == job_id)).scalar()
        if found is None:
            raise UnknownName(f"there is no job {job_id!r}")
        return found

    def list_jobs(self, campaign_id: str) -> list[JobStatus]:
        """Where each job of the campaign stands, but for the results it has (``done`` is 0)."""
        query = select(JobTable, literal(0).label("done")).where(JobTable.campaign_id == campaign_id)
        with self.reading() as connection:
            return [_status(row) for row in connection.execute(query.order_by(JobTable.created_at, JobTable.id))]

    def list_verify_jobs(self, campaign_id: str) -> dict[int, str]:
        """For each verified plan of the campaign, the job that measures it."""
        with self.reading() as connection:
            rows = connection.execute(
                select(VerificationTable.plan_id, VerificationTable.job_id)
                .join(PlanTable, PlanTable.id == VerificationTable.plan_id)
                .where(PlanTable.campaign_id == campaign_id)
            )
            return {row.plan_id: row.job_id for row in rows}


def give_back_jobs(connection: Connection, board_id: int) -> None:
    """What the board holds waits again, or is over if that was asked for."""
    held = connection.execute(
        select(JobTable.id, JobTable.attempt, JobTable.cancel_requested)
        .where(JobTable.board_id == board_id, JobTable.state == JobState.LEASED.value)
        .order_by(JobTable.id)
        .with_for_update()
    ).all()
    for row in held:
        _give_back(connection, row.id, row.attempt, row.cancel_requested, None)


def cancel_jobs(connection: Connection, campaign_id: str, reason: Failure) -> None:
    """Call off what is still to be done for the campaign; see ``JobQueries.cancel_job``."""
    _call_off(connection, JobTable.campaign_id == campaign_id, reason)


def _call_off(connection: Connection, which: ColumnElement[bool], reason: Failure) -> None:
    connection.execute(select(JobTable.id).where(which).order_by(JobTable.id).with_for_update())
    # A holder whose lease has run out may never speak again; if it does, nobody wants what it has.
    lapsed = (JobTable.state == JobState.LEASED.value) & (JobTable.lease_expires_at < Now())
    ended = connection.execute(
        update(JobTable)
        .where(which, (JobTable.state == JobState.QUEUED.value) | lapsed)
        .values(
            state=JobState.CANCELLED.value,
            lease_expires_at=None,
            finished_at=Now(),
            failure_json=codec.dumps(reason),
        )
        .returning(JobTable.id)
    ).scalars()
    for job_id in ended.all():
        release_machine(connection, job_holder(job_id))
    connection.execute(
        update(JobTable)
        .where(which, JobTable.state == JobState.LEASED.value, ~JobTable.cancel_requested)
        .values(cancel_requested=True, failure_json=codec.dumps(reason))
    )


def _may_speak(connection: Connection, board_id: int) -> bool:
    """Whether the board is not revoked; whoever revokes it waits until this transaction ends."""
    good = select(BoardTable.id).where(BoardTable.id == board_id, BoardTable.revoked_at.is_(None))
    return connection.execute(good.with_for_update(read=True)).first() is not None


def _fenced(connection: Connection, board_id: int, job_id: str, attempt: int) -> Any:
    """The job's row, if the board spoke with its current attempt."""
    row = connection.execute(
        select(
            JobTable.board_id,
            JobTable.attempt,
            JobTable.state,
            JobTable.total,
            JobTable.cancel_requested,
            JobTable.job_json,
        )
        .where(JobTable.id == job_id)
        .with_for_update()
    ).first()
    if row is None:
        raise UnknownName(f"there is no job {job_id!r}")
    if row.board_id != board_id:
        raise RoleRefused("the job belongs to another board")
    if row.attempt != attempt:
        raise LeaseGone(f"the job was given again; attempt {attempt} is over", "ask for work")
    return row


def _renew(connection: Connection, board_id: int, job_id: str, attempt: int, lease_seconds: float) -> bool:
    job = _fenced(connection, board_id, job_id, attempt)
    if job.state != JobState.LEASED.value:
        raise LeaseGone(f"the job is {job.state}, not leased", "ask for work")
    connection.execute(update(JobTable).where(JobTable.id == job_id).values(lease_expires_at=Now(lease_seconds)))
    board = connection.execute(
        update(BoardTable)
        .where(BoardTable.id == board_id)
        .values(last_seen_at=Now())
        .returning(BoardTable.machine_id, BoardTable.kind)
    ).one()
    exclusive = board.kind == BoardKind.PHYSICAL.value
    take_machine(connection, board.machine_id, job_holder(job_id), exclusive, lease_seconds)
    return bool(job.cancel_requested)


def _give_back(
    connection: Connection, job_id: str, attempt: int, cancel_requested: bool, failure: Failure | None
) -> JobState:
    if cancel_requested:
        return _end(connection, job_id, JobState.CANCELLED, None)
    if attempt >= MAX_ATTEMPTS:
        last = f"; the last time: {failure.sentence}" if failure else ""
        cause = Failure(
            f"the job was given {attempt} times and never came to an end{last}",
            Blame.LAB,
            failure.detail if failure else "",
        )
        return _end(connection, job_id, JobState.FAILED, cause)
    connection.execute(
        update(JobTable).where(JobTable.id == job_id).values(state=JobState.QUEUED.value, lease_expires_at=None)
    )
    release_machine(connection, job_holder(job_id))
    return JobState.QUEUED


def _keep_log(connection: Connection, job_id: str, attempt: int, log: str | None) -> None:
    """Note the end of what the child has said in this attempt so far; None or an empty text says nothing new."""
    if not log:
        return
    # PostgreSQL's texts hold no NUL, and UTF-8 no half of a pair; a child may have printed either.
    text = log[-LOG_CHARACTERS:].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    values = {"log": text, "stored_at": Now()}
    known = (JobLogTable.job_id == job_id, JobLogTable.attempt == attempt)
    if connection.execute(update(JobLogTable).where(*known).values(**values)).rowcount == 0:
        connection.execute(insert(JobLogTable).values(job_id=job_id, attempt=attempt, **values))


def _stored(connection: Connection, job_id: str) -> int:
    """How many results of the job are stored."""
    count = select(func.count()).select_from(ResultTable).where(ResultTable.job_id == job_id)
    return connection.execute(count).scalar_one()


def _keep_runtime(connection: Connection, job_id: str, runtime: Mapping[str, str]) -> None:
    """Note what the job runs on. The first account stays; results of another one are of another board, as it were."""
    if not runtime:
        return
    text = codec.dumps(runtime)
    connection.execute(
        update(JobTable)
        .where(JobTable.id == job_id)
        .values(
            runtime_json=func.coalesce(JobTable.runtime_json, text),
            fingerprint_changed=JobTable.fingerprint_changed | (func.coalesce(JobTable.runtime_json, text) != text),
        )
    )


def _end(connection: Connection, job_id: str, state: JobState, failure: Failure | None) -> JobState:
    assert state in ENDED
    values: dict[str, Any] = {"state": state.value, "lease_expires_at": None, "finished_at": Now()}
    # Who cancelled a job has said why.
    if state is not JobState.CANCELLED:
        values["failure_json"] = None if failure is None else codec.dumps(failure)
    connection.execute(update(JobTable).where(JobTable.id == job_id).values(**values))
    release_machine(connection, job_holder(job_id))
    return state


def _status(row: Any) -> JobStatus:
    return JobStatus(
        id=row.id,
        campaign_id=row.campaign_id,
        board_id=row.board_id,
        model=row.model,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        attempt=row.attempt,
        done=row.done,
        total=row.total,
        failure=None if row.failure_json is None else codec.loads(Failure, row.failure_json),
        fingerprint=row.fingerprint,
        fingerprint_changed=bool(row.fingerprint_changed),
        finished_at=row.finished_at,
    )
