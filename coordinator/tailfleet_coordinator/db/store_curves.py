"""Queries on curves: finished sweeps, found again by what they were measured on."""

from typing import Any

from sqlalchemy import insert, select

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.rows import Curve
from tailfleet_coordinator.db.tables import BoardTable, CurveTable, JobTable
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.job import Job, JobKind, JobState


class CurveQueries(Database):
    """Curves."""

    def list_unfiled_sweeps(self) -> list[str]:
        """Ids of finished sweeps that no curve stands for yet."""
        query = (
            select(JobTable.id)
            .outerjoin(CurveTable, CurveTable.job_id == JobTable.id)
            .where(JobTable.kind == JobKind.SWEEP.value, JobTable.state == JobState.DONE.value, CurveTable.id.is_(None))
        )
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def create_curve(self, job_id: str, stable: bool, unstable_reason: str) -> int:
        """File the finished sweep ``job_id`` as a curve; its id. Filing it twice does nothing."""
        with self.writing() as connection:
            row = connection.execute(
                select(
                    JobTable.board_id,
                    JobTable.model,
                    JobTable.job_json,
                    JobTable.fingerprint,
                    JobTable.fingerprint_changed,
                    JobTable.finished_at,
                )
                .where(JobTable.id == job_id, JobTable.state == JobState.DONE.value)
                .with_for_update()
            ).one()
            known = connection.execute(select(CurveTable.id).where(CurveTable.job_id == job_id)).scalar()
            if known is not None:
                return known
            workload = codec.loads(Job, row.job_json).workload
            if row.fingerprint_changed:
                changed = "the board's hardware, software or power mode changed in mid-sweep"
                unstable_reason = f"{unstable_reason}; {changed}" if unstable_reason else changed
                stable = False
            return connection.execute(
                insert(CurveTable)
                .values(
                    job_id=job_id,
                    board_id=row.board_id,
                    model=row.model,
                    model_digest=workload.model.digest,
                    backend=workload.backend,
                    dtype=workload.dtype,
                    batch=workload.batch,
                    fingerprint=row.fingerprint,
                    stable=stable,
                    unstable_reason=unstable_reason,
                    measured_at=row.finished_at or Now(),
                )
                .returning(CurveTable.id)
            ).scalar_one()

    def list_curves(self, model: str | None = None, board: str | None = None) -> list[Curve]:
        """Stored curves, the oldest first; of one model or board where named."""
        query = _curves().order_by(CurveTable.id)
        if model is not None:
            query = query.where(CurveTable.model == model)
        if board is not None:
            query = query.where(BoardTable.name == board)
        with self.reading() as connection:
            return [_curve(row) for row in connection.execute(query)]

    def get_curve(self, curve_id: int) -> Curve:
        """One curve."""
        with self.reading() as connection:
            return _curve(connection.execute(_curves().where(CurveTable.id == curve_id)).one())

    def find_curve_of_job(self, job_id: str) -> Curve | None:
        """The curve that the sweep was filed as, if it was."""
        with self.reading() as connection:
            row = connection.execute(_curves().where(CurveTable.job_id == job_id)).first()
        return None if row is None else _curve(row)

    def find_curves(
        self, board_id: int, digest: str, backend: str, dtype: str, batch: int, fingerprint: str
    ) -> list[Curve]:
        """Curves of that workload on the board as it is now, the newest first."""
        query = _curves().where(
            CurveTable.board_id == board_id,
            CurveTable.model_digest == digest,
            CurveTable.backend == backend,
            CurveTable.dtype == dtype,
            CurveTable.batch == batch,
            CurveTable.fingerprint == fingerprint,
        )
        with self.reading() as connection:
            return [_curve(row) for row in connection.execute(query.order_by(CurveTable.id.desc()))]


def _curves() -> Any:
    return select(CurveTable, BoardTable.name.label("board"), BoardTable.kind.label("board_kind")).join(
        BoardTable, BoardTable.id == CurveTable.board_id
    )


def _curve(row: Any) -> Curve:
    return Curve(
        id=row.id,
        job_id=row.job_id,
        board_id=row.board_id,
        board=row.board,
        board_kind=BoardKind(row.board_kind),
        model=row.model,
        model_digest=row.model_digest,
        backend=row.backend,
        dtype=row.dtype,
        batch=row.batch,
        fingerprint=row.fingerprint,
        stable=bool(row.stable),
        unstable_reason=row.unstable_reason,
        measured_at=row.measured_at,
    )
