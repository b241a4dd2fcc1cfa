"""Queries on curves: finished sweeps, found again by what they were measured on, and the pieces they consist of; and on
the verifications that later plans learn from."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Connection, ScalarSelect, case, distinct, func, insert, select

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.rows import Anatomy, Curve, CurveCliff, CurveCounts, CurveRound, CurveTread
from tailfleet_coordinator.db.tables import (
    BoardTable,
    CliffTable,
    CurveRoundTable,
    CurveTable,
    JobTable,
    ReadingTable,
    ResultTable,
    TreadTable,
)
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import Part
from tailfleet_schema.job import Job, JobKind, JobState

CURVES_PER_QUERY = 500

Row = TypeVar("Row", CurveRound, CurveTread, CurveCliff)


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

    def create_curve(
        self,
        job_id: str,
        stable: bool,
        unstable_reason: str,
        anatomy: Anatomy = Anatomy(),
        reading: tuple[int, str] | None = None,
    ) -> int:
        """File the finished sweep ``job_id`` as a curve, taken apart and as plans read it (version, text); its id.
        Filing it twice does nothing."""
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
            curve_id = connection.execute(
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
            _add_anatomy(connection, curve_id, anatomy)
            if reading is not None:
                connection.execute(
                    insert(ReadingTable).values(curve_id=curve_id, version=reading[0], reading=reading[1])
                )
            return curve_id

    def list_readings(self, curve_ids: Sequence[int], version: int) -> dict[int, str]:
        """By id, what plans of ``version`` read of these curves; without those of other releases."""
        found: dict[int, str] = {}
        with self.reading() as connection:
            for start in range(0, len(curve_ids), CURVES_PER_QUERY):
                chosen = ReadingTable.curve_id.in_(curve_ids[start : start + CURVES_PER_QUERY])
                query = select(ReadingTable.curve_id, ReadingTable.reading)
                query = query.where(chosen, ReadingTable.version == version)
                found.update((row.curve_id, row.reading) for row in connection.execute(query))
        return found

    def list_curves_in_one_piece(self) -> list[int]:
        """Ids of curves without treads: an earlier release filed them, or nothing of the whole model fitted in."""
        query = select(CurveTable.id).where(~select(TreadTable).where(TreadTable.curve_id == CurveTable.id).exists())
        with self.reading() as connection:
            return list(connection.execute(query.order_by(CurveTable.id)).scalars())

    def take_curve_apart(self, curve_id: int, anatomy: Anatomy) -> None:
        """Add what a curve that was filed in one piece consists of. Twice does nothing."""
        with self.writing() as connection:
            connection.execute(select(CurveTable.id).where(CurveTable.id == curve_id).with_for_update()).one()
            for table in (CurveRoundTable, TreadTable, CliffTable):
                if connection.execute(select(table.curve_id).where(table.curve_id == curve_id).limit(1)).first():
                    return
            _add_anatomy(connection, curve_id, anatomy)

    def list_rounds(self, model: str | None = None, board: str | None = None) -> list[tuple[int, CurveRound]]:
        """Judged rounds with the id of their curve, by curve and round; of one model or board where named."""
        with self.reading() as connection:
            return _pieces(connection, CurveRoundTable, CurveRoundTable.round, CurveRound, model, board)

    def list_treads(self, model: str | None = None, board: str | None = None) -> list[tuple[int, CurveTread]]:
        """Treads with the id of their curve, by curve and tokens; of one model or board where named."""
        with self.reading() as connection:
            return _pieces(connection, TreadTable, TreadTable.first_tokens, CurveTread, model, board)

    def list_cliffs(self, model: str | None = None, board: str | None = None) -> list[tuple[int, CurveCliff]]:
        """Steps with the id of their curve, by curve and tokens; of one model or board where named."""
        with self.reading() as connection:
            return _pieces(connection, CliffTable, CliffTable.from_tokens, CurveCliff, model, board)

    def count_curves(self, curve_ids: Sequence[int]) -> dict[int, CurveCounts]:
        """How much there is of each of these curves."""
        whole = case((ResultTable.part == Part.MODEL.value, ResultTable.tokens))
        found: dict[int, CurveCounts] = {}
        with self.reading() as connection:
            for start in range(0, len(curve_ids), CURVES_PER_QUERY):
                chosen = CurveTable.id.in_(curve_ids[start : start + CURVES_PER_QUERY])
                judged, steps = _disturbed_rounds(), _number_of_steps()
                query = (
                    select(CurveTable.id, JobTable.campaign_id, func.count(distinct(whole)), judged, steps)
                    .add_columns(func.coalesce(func.max(ResultTable.round) + 1, 0))
                    .join(JobTable, JobTable.id == CurveTable.job_id)
                    .outerjoin(ResultTable, ResultTable.job_id == CurveTable.job_id)
                    .where(chosen)
                    .group_by(CurveTable.id, JobTable.campaign_id)
                )
                for curve_id, campaign, measured, disturbed, cliffs, rounds in connection.execute(query):
                    found[curve_id] = CurveCounts(campaign, measured, cliffs, rounds, disturbed)
        return found

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
        """One curve. Raises ``UnknownName``."""
        with self.reading() as connection:
            row = connection.execute(_curves().where(CurveTable.id == curve_id)).first()
        if row is None:
            raise UnknownName(f"there is no curve {curve_id}", "tailfleet curve list")
        return _curve(row)

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

    def find_verifications(self, board_id: int, model: str, fingerprint: str, most: int) -> list[str]:
        """Ids of finished verifications of the model on the board as it is now, the newest first; up to ``most``."""
        query = (
            select(JobTable.id)
            .where(
                JobTable.board_id == board_id,
                JobTable.model == model,
                JobTable.kind == JobKind.VERIFY.value,
                JobTable.state == JobState.DONE.value,
                JobTable.fingerprint == fingerprint,
                ~JobTable.fingerprint_changed,
            )
            .order_by(JobTable.finished_at.desc(), JobTable.id)
            .limit(most)
        )
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def find_verified_boards(self, board_ids: Sequence[int], model: str) -> list[int]:
        """Which of these boards have finished a verification of the model, in whatever state they were."""
        found: list[int] = []
        query = select(JobTable.board_id).where(
            JobTable.model == model, JobTable.kind == JobKind.VERIFY.value, JobTable.state == JobState.DONE.value
        )
        with self.reading() as connection:
            for start in range(0, len(board_ids), CURVES_PER_QUERY):
                chosen = JobTable.board_id.in_(board_ids[start : start + CURVES_PER_QUERY])
                found += connection.execute(query.where(chosen).distinct()).scalars()
        return found


def _disturbed_rounds() -> ScalarSelect[int]:
    """In a query of curves: how many rounds of the curve were judged disturbed."""
    query = select(func.count()).select_from(CurveRoundTable)
    query = query.where(CurveRoundTable.curve_id == CurveTable.id, CurveRoundTable.disturbed)
    return query.correlate(CurveTable).scalar_subquery()


def _number_of_steps() -> ScalarSelect[int]:
    """In a query of curves: how many steps of the curve were found."""
    query = select(func.count()).select_from(CliffTable).where(CliffTable.curve_id == CurveTable.id)
    return query.correlate(CurveTable).scalar_subquery()


def _add_anatomy(connection: Connection, curve_id: int, anatomy: Anatomy) -> None:
    pieces: tuple[tuple[Any, Sequence[Any]], ...] = (
        (CurveRoundTable, anatomy.rounds),
        (TreadTable, anatomy.treads),
        (CliffTable, anatomy.cliffs),
    )
    for table, rows in pieces:
        if rows:
            connection.execute(insert(table), [{"curve_id": curve_id, **asdict(row)} for row in rows])


def _pieces(
    connection: Connection, table: Any, place: Any, kind: type[Row], model: str | None, board: str | None
) -> list[tuple[int, Row]]:
    query = select(table.__table__).join(CurveTable, CurveTable.id == table.curve_id)
    if model is not None:
        query = query.where(CurveTable.model == model)
    if board is not None:
        query = query.join(BoardTable, BoardTable.id == CurveTable.board_id).where(BoardTable.name == board)
    found = connection.execute(query.order_by(table.curve_id, place)).mappings()
    return [(row["curve_id"], kind(**{k: v for k, v in row.items() if k != "curve_id"})) for row in found]


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
