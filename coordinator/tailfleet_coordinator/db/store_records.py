"""Queries for people who look at jobs: lists, one job with its attempts, logs. Nothing here changes anything."""

from dataclasses import replace
from typing import Any

from sqlalchemy import ScalarSelect, false, func, select

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.rows import Attempt, JobRecord
from tailfleet_coordinator.db.store_results import count_results
from tailfleet_coordinator.db.tables import BoardTable, JobLogTable, JobTable, ResultTable
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Failure, JobKind, JobState


class RecordQueries(Database):
    """Jobs as people see them."""

    def find_job(self, beginning: str) -> str:
        """The id of the job that is called so, or else the only one whose id begins so.

        Raises ``UnknownName``, or ``InputError`` where several do.
        """
        begins = JobTable.id.startswith(beginning, autoescape=True) if beginning else false()
        query = select(JobTable.id).where(begins).order_by(JobTable.id != beginning, JobTable.id).limit(2)
        with self.reading() as connection:
            found = list(connection.execute(query).scalars())
        if not found:
            raise UnknownName(f"there is no job {beginning!r}", "tailfleet job list")
        if len(found) > 1 and found[0] != beginning:
            raise InputError(f"several jobs begin with {beginning!r}", "give more of its characters")
        return found[0]

    def list_records(
        self,
        campaign_id: str | None = None,
        board: str | None = None,
        model: str | None = None,
        state: JobState | None = None,
        limit: int | None = None,
    ) -> list[JobRecord]:
        """The jobs that are asked for, the newest first, at most ``limit``."""
        wanted = select(JobTable.id).join(BoardTable, BoardTable.id == JobTable.board_id)
        for column, value in (
            (JobTable.campaign_id, campaign_id),
            (BoardTable.name, board),
            (JobTable.model, model),
            (JobTable.state, state and state.value),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        # Chosen before anything is counted: results are many.
        return self._records(wanted.order_by(JobTable.created_at.desc(), JobTable.id.desc()).limit(limit))

    def get_record(self, job_id: str) -> JobRecord:
        """One job. Raises ``UnknownName``."""
        found = self._records(select(JobTable.id).where(JobTable.id == job_id))
        if not found:
            raise UnknownName(f"there is no job {job_id!r}", "tailfleet job list")
        return found[0]

    def list_attempts(self, job_id: str) -> list[Attempt]:
        """The attempts of the job that left something, a result or a log, the first one first."""
        results = select(
            ResultTable.attempt,
            func.count().label("results"),
            func.min(ResultTable.stored_at).label("first_result_at"),
            func.max(ResultTable.stored_at).label("last_result_at"),
        )
        logs = select(JobLogTable.attempt, JobLogTable.log, JobLogTable.stored_at)
        with self.reading() as connection:
            counted = connection.execute(
                results.where(ResultTable.job_id == job_id).group_by(ResultTable.attempt)
            ).all()
            said = connection.execute(logs.where(JobLogTable.job_id == job_id)).all()
        attempts = {row.attempt: Attempt(*row, log=None, log_at=None) for row in counted}
        for row in said:
            silent = Attempt(row.attempt, 0, None, None, None, None)
            attempts[row.attempt] = replace(attempts.get(row.attempt, silent), log=row.log, log_at=row.stored_at)
        return [attempts[number] for number in sorted(attempts)]

    def _records(self, ids: Any) -> list[JobRecord]:
        lapsed = func.coalesce(JobTable.lease_expires_at < Now(), false())
        chosen = ids.subquery()
        query = (
            select(JobTable, BoardTable.name, BoardTable.kind.label("board_kind"), count_results().label("done"))
            .add_columns(lapsed.label("lapsed"), _rounds_begun().label("rounds_begun"))
            .join(chosen, chosen.c.id == JobTable.id)
            .join(BoardTable, BoardTable.id == JobTable.board_id)
            .order_by(JobTable.created_at.desc(), JobTable.id.desc())
        )
        with self.reading() as connection:
            return [_record(row) for row in connection.execute(query)]


def _rounds_begun() -> ScalarSelect[int]:
    """In a query of jobs: of how many rounds the job has a result."""
    count = func.coalesce(func.max(ResultTable.round) + 1, 0)
    return select(count).where(ResultTable.job_id == JobTable.id).correlate(JobTable).scalar_subquery()


def _record(row: Any) -> JobRecord:
    return JobRecord(
        id=row.id,
        campaign_id=row.campaign_id,
        board=row.name,
        board_kind=BoardKind(row.board_kind),
        model=row.model,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        attempt=row.attempt,
        done=row.done,
        total=row.total,
        rounds_begun=row.rounds_begun,
        cancel_requested=bool(row.cancel_requested),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        lease_expires_at=row.lease_expires_at,
        lease_lapsed=bool(row.lapsed),
        fingerprint=row.fingerprint,
        fingerprint_changed=bool(row.fingerprint_changed),
        runtime={} if row.runtime_json is None else codec.loads(dict[str, str], row.runtime_json),
        failure=None if row.failure_json is None else codec.loads(Failure, row.failure_json),
    )
