"""Queries on shipments: schedules that are queued for boards, what a board is told of them, and what it answers.

A shipment is queued until its board has said what it did with it. A campaign that verified a schedule queues it anew,
so that the board moves it to where verified ones lie. A refused one stays queued, but its board is not told again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.machines import is_measured
from tailfleet_coordinator.db.rows import ShippedSchedule
from tailfleet_coordinator.db.store_plans import planned_schedules
from tailfleet_coordinator.db.store_workloads import load_model
from tailfleet_coordinator.db.tables import (
    BoardTable,
    CurveTable,
    DatasetTable,
    JobTable,
    ModelTable,
    PlanTable,
    ProfileTable,
    ScheduleTable,
    ShipmentTable,
    StepTable,
)
from tailfleet_schema import codec
from tailfleet_schema.job import JobKind
from tailfleet_schema.shipment import PlannedOn, Receipt, Shipment
from tailfleet_schema.workload import ModelSpec

MOST_AT_ONCE = 50
"""So many shipments a board is told of in one answer; the others follow with the next."""


class ShipmentQueries(Database):
    """Shipments."""

    def ship_schedule(self, digest: str, model: str, verified_in: Mapping[int, str | None]) -> None:
        """Queue a schedule of ``model``, by hand, for these boards; anew where it was shipped before. With each board
        the campaign in which it measured the schedule and found it good, if there was one."""
        with self.writing() as connection:
            # In one order: two that ship to the same boards would wait for each other's rows in a circle.
            for board_id in sorted(verified_in):
                self._queue(connection, board_id, digest, model, verified_in[board_id], again=True)

    def ship_verified(self, board_id: int, digest: str, model: str, campaign_id: str) -> None:
        """Queue what the board has measured for the campaign and found good. Twice does nothing."""
        with self.writing() as connection:
            self._queue(connection, board_id, digest, model, campaign_id, again=False)

    def _queue(
        self, connection: Connection, board_id: int, digest: str, model: str, verified_in: str | None, again: bool
    ) -> None:
        grounds = _planned_on(connection, board_id, digest, model, verified_in)
        values: dict[str, Any] = {
            "model": model,
            "state": "queued",
            "refusal": None,
            "queued_at": Now(),
            "delivered_at": None,
            "model_digest": grounds.model_digest,
            "campaign_id": grounds.campaign,
            "curve_id": grounds.curve_id,
            "dataset_sha256": grounds.dataset_sha256,
            "fingerprint": grounds.fingerprint,
        }
        if verified_in is not None:
            values["verified_at"] = Now()
        dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
        known = ShipmentTable.campaign_id.is_not_distinct_from(verified_in) & ShipmentTable.verified_at.is_not(None)
        connection.execute(
            dialect.insert(ShipmentTable)
            .values(board_id=board_id, schedule_digest=digest, **values)
            .on_conflict_do_update(
                index_elements=["board_id", "schedule_digest"], set_=values, where=None if again else ~known
            )
        )

    def find_boards_with_shipments(self, board_ids: Iterable[int]) -> set[int]:
        """Those of the boards that are to be told of a shipment; not while their machine is being measured."""
        with self.reading() as connection:
            rows = connection.execute(
                select(ShipmentTable.board_id)
                .join(BoardTable, ShipmentTable.board_id == BoardTable.id)
                .where(_due(), ShipmentTable.board_id.in_(list(board_ids)), ~is_measured(BoardTable.machine_id))
                .distinct()
            )
            return set(rows.scalars())

    def list_due_shipments(self, board_id: int) -> list[Shipment]:
        """What the board is to be told of, in the order in which it was queued."""
        query = (
            select(ShipmentTable, ScheduleTable.schedule_json, ModelTable.spec_json)
            .join(ScheduleTable, ScheduleTable.digest == ShipmentTable.schedule_digest)
            .join(ModelTable, ModelTable.name == ShipmentTable.model)
            .where(_due(), ShipmentTable.board_id == board_id)
            .order_by(ShipmentTable.queued_at, ShipmentTable.id)
            .limit(MOST_AT_ONCE)
        )
        with self.reading() as connection:
            return [
                Shipment(
                    digest=row.schedule_digest,
                    model=row.model,
                    geometry=codec.loads(ModelSpec, row.spec_json).geometry,
                    schedule_json=row.schedule_json,
                    verified=row.verified_at is not None,
                    planned_on=_grounds(row),
                )
                for row in connection.execute(query)
            ]

    def note_receipts(self, board_id: int, receipts: Sequence[Receipt]) -> int:
        """Note what the board did with its shipments; how many were still queued so. Twice does no harm."""
        noted = 0
        with self.writing() as connection:
            for receipt in receipts:
                values: dict[str, Any] = {"refusal": receipt.refusal}
                if receipt.refusal is None:
                    values["state"] = "verified" if receipt.verified else "delivered"
                    values["delivered_at"] = Now()
                noted += connection.execute(
                    update(ShipmentTable)
                    .where(
                        ShipmentTable.board_id == board_id,
                        ShipmentTable.schedule_digest == receipt.digest,
                        ShipmentTable.state == "queued",
                        # What was queued anew since, as a verified one, is to be told yet.
                        ShipmentTable.verified_at.is_not(None) == receipt.verified,
                    )
                    .values(**values)
                ).rowcount
        return noted

    def list_shipments(self, board: str | None = None, model: str | None = None) -> list[ShippedSchedule]:
        """Shipments, by when they were queued, beside what their boards and models are now."""
        query = (
            select(
                ShipmentTable,
                BoardTable.name.label("board"),
                BoardTable.fingerprint.label("board_fingerprint"),
                ModelTable.digest.label("present_model"),
            )
            .join(BoardTable, BoardTable.id == ShipmentTable.board_id)
            .join(ModelTable, ModelTable.name == ShipmentTable.model)
            .order_by(ShipmentTable.queued_at, ShipmentTable.id)
        )
        if board is not None:
            query = query.where(BoardTable.name == board)
        if model is not None:
            query = query.where(ShipmentTable.model == model)
        with self.reading() as connection:
            return [
                ShippedSchedule(
                    digest=row.schedule_digest,
                    board=row.board,
                    model=row.model,
                    state=row.state,
                    refusal=row.refusal,
                    queued_at=row.queued_at,
                    delivered_at=row.delivered_at,
                    verified_at=row.verified_at,
                    planned_on=_grounds(row),
                    board_fingerprint=row.board_fingerprint,
                    present_model_digest=row.present_model,
                )
                for row in connection.execute(query)
            ]

    def list_campaigns_with_schedule(self, board_id: int, digest: str) -> list[str]:
        """Campaigns whose plans for the board have the schedule, chosen or as a contender, the newest first."""
        points = planned_schedules().subquery()
        query = (
            select(PlanTable.campaign_id)
            .join(points, points.c.plan_id == PlanTable.id)
            .where(PlanTable.board_id == board_id, points.c.schedule_digest == digest)
            .group_by(PlanTable.campaign_id)
            .order_by(func.max(PlanTable.id).desc())
        )
        with self.reading() as connection:
            return list(connection.execute(query).scalars())


def queue_shipments_again(connection: Connection, board_id: int) -> None:
    """The board has enrolled anew, perhaps from another disk: what it had it may have no longer."""
    connection.execute(
        update(ShipmentTable)
        .where(ShipmentTable.board_id == board_id)
        .values(state="queued", delivered_at=None, refusal=None)
    )


def _due() -> Any:
    return (ShipmentTable.state == "queued") & ShipmentTable.refusal.is_(None)


def _planned_on(connection: Connection, board_id: int, digest: str, model: str, verified_in: str | None) -> PlannedOn:
    """What the schedule was verified on in that campaign; else what it was planned on: for this board where it was,
    otherwise for the board that it was last planned for."""
    spec = load_model(connection, model)
    campaign_id = verified_in
    if campaign_id is None:
        points = planned_schedules().subquery()
        planned = connection.execute(
            select(PlanTable.campaign_id, PlanTable.board_id)
            .join(points, points.c.plan_id == PlanTable.id)
            .where(points.c.schedule_digest == digest, PlanTable.model == model)
            .order_by((PlanTable.board_id == board_id).desc(), PlanTable.id.desc())
            .limit(1)
        ).first()
        if planned is None:
            return PlannedOn(spec.digest)
        campaign_id, board_id = planned.campaign_id, planned.board_id
    mine = (StepTable.campaign_id == campaign_id, StepTable.board_id == board_id, StepTable.model == model)
    curve = connection.execute(
        select(CurveTable.id, CurveTable.fingerprint, CurveTable.model_digest)
        .join(StepTable, StepTable.curve_id == CurveTable.id)
        .where(*mine)
    ).first()
    if curve is None:
        return PlannedOn(spec.digest, campaign_id)
    measured = connection.execute(
        select(JobTable.fingerprint).where(
            JobTable.campaign_id == campaign_id,
            JobTable.board_id == board_id,
            JobTable.model == model,
            JobTable.kind == JobKind.VERIFY.value,
        )
    ).scalar()
    return PlannedOn(
        model_digest=curve.model_digest,
        campaign=campaign_id,
        curve_id=curve.id,
        dataset_sha256=_profiled_on(connection, curve.model_digest, spec.dataset),
        fingerprint=curve.fingerprint if verified_in is None or measured is None else measured,
    )


def _profiled_on(connection: Connection, model_digest: str, dataset: str | None) -> str | None:
    """The images of the model's accuracy profile, if it has one."""
    return connection.execute(
        select(DatasetTable.sha256)
        .join(ProfileTable, ProfileTable.dataset_sha256 == DatasetTable.sha256)
        .where(DatasetTable.name == dataset, ProfileTable.model_digest == model_digest)
        .limit(1)
    ).scalar()


def _grounds(row: Any) -> PlannedOn:
    return PlannedOn(row.model_digest, row.campaign_id, row.curve_id, row.dataset_sha256, row.fingerprint)
