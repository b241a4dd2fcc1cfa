"""Queries on what plans are made of and what comes of them: accuracy profiles, plans, schedules; and on the use of
the machine by the coordinator's own tasks."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CompoundSelect, Connection, func, insert, literal, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.machines import machine_is_free, release_machine, take_machine
from tailfleet_coordinator.db.rows import NewPlan, PlannedSchedule, StoredPlan
from tailfleet_coordinator.db.store_workloads import load_model
from tailfleet_coordinator.db.tables import BoardTable, ContenderTable, PlanTable, ProfileTable, ScheduleTable
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema import codec
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

_KEY = PlanTable.campaign_id, PlanTable.board_id, PlanTable.model, PlanTable.planner, PlanTable.method
"""What there is one plan of."""


def planned_schedules() -> CompoundSelect[tuple[int, str | None, int]]:
    """(plan_id, schedule_digest, place) of all points of plans that are to be measured, the chosen one at place 0; the
    digest is None where a plan has no schedule."""
    return union_all(
        select(PlanTable.id.label("plan_id"), PlanTable.schedule_digest, literal(0).label("place")),
        select(ContenderTable.plan_id, ContenderTable.schedule_digest, ContenderTable.place),
    )


class PlanQueries(Database):
    """Profiles, plans, schedules."""

    def add_profile(self, model_digest: str, dataset_sha256: str, results: list[UnitResult]) -> int:
        """Store judged units; how many were new."""
        rows = [
            {
                "model_digest": model_digest,
                "dataset_sha256": dataset_sha256,
                "part": result.unit.part.value,
                "label": result.unit.label,
                "block": result.unit.block,
                "tokens": result.unit.tokens,
                "kept": result.unit.kept,
                "judgement_json": codec.dumps(result.judgement),
            }
            for result in results
            if result.judgement is not None
        ]
        # In one order: two that store the same units would wait for each other's rows in a circle.
        rows.sort(key=lambda row: (row["part"], row["label"], row["block"], row["tokens"], row["kept"]))
        if not rows:
            return 0
        dialect: Any = sqlite if self.is_sqlite else postgresql
        statement = dialect.insert(ProfileTable).values(stored_at=Now()).on_conflict_do_nothing()
        with self.writing() as connection:
            return len(connection.execute(statement.returning(ProfileTable.id), rows).all())

    def list_profiled_units(self, model_digest: str, dataset_sha256: str) -> set[Unit]:
        """Units of the model's profile on that dataset that are judged already, without their judgements."""
        query = select(
            ProfileTable.part, ProfileTable.tokens, ProfileTable.kept, ProfileTable.label, ProfileTable.block
        ).where(ProfileTable.model_digest == model_digest, ProfileTable.dataset_sha256 == dataset_sha256)
        with self.reading() as connection:
            return {_unit(row) for row in connection.execute(query)}

    def list_profile(self, model_digest: str, dataset_sha256: str) -> list[UnitResult]:
        """All judged units of the model's profile on that dataset."""
        query = select(ProfileTable).where(
            ProfileTable.model_digest == model_digest, ProfileTable.dataset_sha256 == dataset_sha256
        )
        with self.reading() as connection:
            return [
                UnitResult(
                    _unit(row),
                    round=0,
                    judgement=codec.loads(Judgement, row.judgement_json),
                )
                for row in connection.execute(query.order_by(ProfileTable.id))
            ]

    def add_plan(
        self,
        campaign_id: str,
        board_id: int,
        model: str,
        planner: str,
        method: str,
        plan_json: str,
        schedule: Schedule | None,
        contenders: Sequence[Schedule] = (),
    ) -> None:
        """Store one planner's decision, as :meth:`add_plans` does."""
        self.add_plans([NewPlan(campaign_id, board_id, model, planner, method, plan_json, schedule, contenders)])

    def add_plans(self, plans: Sequence[NewPlan]) -> None:
        """Store planners' decisions, and all schedules of them under their digests, all or none. Storing one twice does
        nothing."""
        dialect: Any = sqlite if self.is_sqlite else postgresql
        digests = [None if plan.schedule is None else plan.schedule.digest for plan in plans]
        rows = [
            {
                "campaign_id": plan.campaign_id,
                "board_id": plan.board_id,
                "model": plan.model,
                "planner": plan.planner,
                "method": plan.method,
                "plan_json": plan.plan_json,
                "schedule_digest": digest,
            }
            for plan, digest in zip(plans, digests, strict=True)
        ]
        schedules = {d: p.schedule for p, d in zip(plans, digests, strict=True) if d and p.schedule is not None}
        contenders = [{one.digest: one for one in plan.contenders} for plan in plans]
        for further in contenders:
            schedules.update(further)
        if not rows:
            return
        statement = dialect.insert(PlanTable).values(created_at=Now()).on_conflict_do_nothing()
        with self.writing() as connection:
            # In one order: two that store the same schedules would wait for each other's rows in a circle.
            self._put_schedules(connection, sorted(schedules.items(), key=lambda item: item[0]))
            new = connection.execute(statement.returning(PlanTable.id, *_KEY), rows).all()
            ids = {tuple(key): plan_id for plan_id, *key in new}
            links = [
                {"plan_id": ids[key], "place": place, "schedule_digest": digest}
                for plan, further in zip(plans, contenders, strict=True)
                for key in [(plan.campaign_id, plan.board_id, plan.model, plan.planner, plan.method)]
                if key in ids
                for place, digest in enumerate(further, 1)
            ]
            if links:
                connection.execute(insert(ContenderTable), links)

    def add_schedule(self, schedule: Schedule) -> None:
        """Store a schedule that a person made, under its digest. Storing it twice does nothing.

        Raises ``UnknownName`` for its model, ``ScheduleError`` where it does not fit that.
        """
        with self.writing() as connection:
            schedule.check_fits(schedule.model, load_model(connection, schedule.model).geometry)
            self._put_schedules(connection, [(schedule.digest, schedule)])

    def _put_schedules(self, connection: Connection, schedules: Sequence[tuple[str, Schedule]]) -> None:
        """Those that are new, each with its digest."""
        dialect: Any = sqlite if self.is_sqlite else postgresql
        rows = [
            {
                "digest": digest,
                "model": schedule.model,
                "method": schedule.method,
                "schedule_json": codec.dumps(schedule),
            }
            for digest, schedule in schedules
        ]
        if rows:
            statement = dialect.insert(ScheduleTable).values(created_at=Now()).on_conflict_do_nothing()
            connection.execute(statement, rows)

    def list_plans(self, campaign_id: str, board_id: int | None = None, model: str | None = None) -> list[StoredPlan]:
        """All plans of the campaign, or those of one board or model."""
        query = select(PlanTable).where(PlanTable.campaign_id == campaign_id).order_by(PlanTable.id)
        if board_id is not None:
            query = query.where(PlanTable.board_id == board_id)
        if model is not None:
            query = query.where(PlanTable.model == model)
        with self.reading() as connection:
            return [
                StoredPlan(row.id, row.board_id, row.model, row.planner, row.method, row.plan_json, row.schedule_digest)
                for row in connection.execute(query)
            ]

    def list_planned(self, campaign_id: str) -> dict[tuple[int, str], set[tuple[str, str]]]:
        """By board and model, (planner, method) of the campaign's plans, without the plans."""
        query = select(PlanTable.board_id, PlanTable.model, PlanTable.planner, PlanTable.method)
        found: dict[tuple[int, str], set[tuple[str, str]]] = {}
        with self.reading() as connection:
            for row in connection.execute(query.where(PlanTable.campaign_id == campaign_id)):
                found.setdefault((row.board_id, row.model), set()).add((row.planner, row.method))
        return found

    def list_schedules(
        self, board: str | None = None, model: str | None = None, campaign: str | None = None
    ) -> list[PlannedSchedule]:
        """Schedules, the newest last: one that was planned, or is a contender of a plan, once for each plan, with its
        board, planner and campaign; one that was only added, once and without."""
        points = planned_schedules().subquery()
        since = func.coalesce(PlanTable.created_at, ScheduleTable.created_at)
        query = (
            select(
                ScheduleTable.digest,
                ScheduleTable.schedule_json,
                PlanTable.campaign_id,
                PlanTable.planner,
                points.c.place,
                BoardTable.name.label("board"),
                since.label("since"),
            )
            .outerjoin(points, points.c.schedule_digest == ScheduleTable.digest)
            .outerjoin(PlanTable, PlanTable.id == points.c.plan_id)
            .outerjoin(BoardTable, BoardTable.id == PlanTable.board_id)
            .order_by(since, PlanTable.id, points.c.place)
        )
        if board is not None:
            query = query.where(BoardTable.name == board)
        if model is not None:
            query = query.where(ScheduleTable.model == model)
        if campaign is not None:
            query = query.where(PlanTable.campaign_id == campaign)
        with self.reading() as connection:
            return [
                PlannedSchedule(
                    codec.loads(Schedule, row.schedule_json),
                    row.digest,
                    row.campaign_id or "",
                    row.board or "",
                    row.planner or "",
                    "" if row.place is None else "contender" if row.place else "chosen",
                    row.since,
                )
                for row in connection.execute(query)
            ]

    def get_schedule(self, digest: str) -> Schedule:
        """The schedule whose digest begins so. Raises ``UnknownName``, or ``InputError`` where several do."""
        query = select(ScheduleTable.schedule_json).where(ScheduleTable.digest.startswith(digest, autoescape=True))
        with self.reading() as connection:
            found = list(connection.execute(query.limit(2)).scalars())
        if not found or not digest:
            raise UnknownName(f"there is no schedule {digest!r}", "tailfleet schedule list")
        if len(found) > 1:
            raise InputError(f"several schedules begin with {digest!r}", "give more of its characters")
        return codec.loads(Schedule, found[0])

    def use_machine(self, machine_id: str, holder: str, seconds: float, claimable_seconds: float) -> bool:
        """Let a task of the coordinator compute on the machine beside others; False while it is being measured."""
        with self.writing() as connection:
            if not machine_is_free(connection, machine_id, False, claimable_seconds):
                return False
            take_machine(connection, machine_id, holder, False, seconds)
            return True

    def keep_machine(self, machine_id: str, holder: str, seconds: float) -> None:
        """The task still computes."""
        with self.writing() as connection:
            take_machine(connection, machine_id, holder, False, seconds)

    def leave_machine(self, holder: str) -> None:
        """The task is over."""
        with self.writing() as connection:
            release_machine(connection, holder)


def _unit(row: Any) -> Unit:
    return Unit(Part(row.part), row.tokens, row.kept, row.label, row.block)
