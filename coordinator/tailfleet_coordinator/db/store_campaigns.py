"""Queries on campaigns and their steps (one step: one board × model)."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.rows import Campaign, Step
from tailfleet_coordinator.db.store_jobs import cancel_jobs
from tailfleet_coordinator.db.tables import BoardTable, CampaignTable, StepTable
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_schema import codec
from tailfleet_schema.campaign import CampaignRequest, CampaignState
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure


class CampaignQueries(Database):
    """Campaigns and steps."""

    def create_campaign(self, campaign_id: str, request: CampaignRequest, board_ids: list[int]) -> None:
        """Store what was asked, and one waiting step for each board × model."""
        with self.writing() as connection:
            connection.execute(
                insert(CampaignTable).values(
                    id=campaign_id,
                    request_json=codec.dumps(request),
                    state=CampaignState.RUNNING.value,
                    created_at=Now(),
                )
            )
            steps = [
                {"campaign_id": campaign_id, "board_id": board_id, "model": model, "phase": "waiting"}
                for board_id in board_ids
                for model in request.models
            ]
            connection.execute(insert(StepTable), steps)

    def list_campaigns(self) -> list[Campaign]:
        """All campaigns, the newest first."""
        with self.reading() as connection:
            rows = connection.execute(select(CampaignTable).order_by(CampaignTable.created_at.desc()))
            return [_campaign(row) for row in rows]

    def list_running_campaigns(self) -> list[str]:
        """Ids of the campaigns that an actor must drive, the oldest first."""
        query = select(CampaignTable.id).where(CampaignTable.state == CampaignState.RUNNING.value)
        with self.reading() as connection:
            return list(connection.execute(query.order_by(CampaignTable.created_at)).scalars())

    def get_campaign(self, campaign_id: str) -> Campaign:
        """One campaign. Raises ``UnknownName``."""
        with self.reading() as connection:
            row = connection.execute(select(CampaignTable).where(CampaignTable.id == campaign_id)).first()
        if row is None:
            raise UnknownName(f"there is no campaign {campaign_id!r}", "tailfleet campaign status")
        return _campaign(row)

    def list_steps(self, campaign_id: str) -> list[Step]:
        """The campaign's steps, in the order of its boards and models."""
        with self.reading() as connection:
            rows = connection.execute(
                select(StepTable, BoardTable.name.label("board"))
                .join(BoardTable, BoardTable.id == StepTable.board_id)
                .where(StepTable.campaign_id == campaign_id)
                .order_by(StepTable.id)
            )
            return [_step(row) for row in rows]

    def update_step(
        self, step_id: int, phase: str, note: str, curve_id: int | None = None, failure: Failure | None = None
    ) -> None:
        """Note where the step is; a ``curve_id`` once noted stays."""
        values: dict[str, Any] = {"phase": phase, "note": note}
        if curve_id is not None:
            values["curve_id"] = curve_id
        if failure is not None:
            values["failure_json"] = codec.dumps(failure)
        with self.writing() as connection:
            # Shared, and until the end: a campaign that ends meanwhile has the last word on its steps.
            running = connection.execute(
                select(CampaignTable.id)
                .join(StepTable, StepTable.campaign_id == CampaignTable.id)
                .where(StepTable.id == step_id, CampaignTable.state == CampaignState.RUNNING.value)
                .with_for_update(read=True, of=CampaignTable)
            ).first()
            if running is not None:
                connection.execute(update(StepTable).where(StepTable.id == step_id).values(**values))

    def end_campaign(self, campaign_id: str, state: CampaignState, failure: Failure | None = None) -> bool:
        """The running campaign ends as ``state``; False where it had ended before.

        What its boards still do for it is cancelled; what they have measured stays.
        """
        with self.writing() as connection:
            ended = connection.execute(
                update(CampaignTable)
                .where(CampaignTable.id == campaign_id, CampaignTable.state == CampaignState.RUNNING.value)
                .values(
                    state=state.value,
                    finished_at=Now(),
                    failure_json=None if failure is None else codec.dumps(failure),
                )
                .returning(CampaignTable.id)
            ).first()
            if ended is None:
                return False
            cancel_jobs(connection, campaign_id, Failure(f"its campaign {campaign_id} was {state.value}", Blame.AUTHOR))
            _stop_steps(connection, campaign_id, state)
            return True


def _stop_steps(connection: Connection, campaign_id: str, state: CampaignState) -> None:
    phase = "cancelled" if state is CampaignState.CANCELLED else "failed"
    connection.execute(
        update(StepTable)
        .where(StepTable.campaign_id == campaign_id, StepTable.phase.not_in(("done", "failed", "cancelled")))
        .values(phase=phase)
    )


def _campaign(row: Any) -> Campaign:
    return Campaign(
        id=row.id,
        request=codec.loads(CampaignRequest, row.request_json),
        state=CampaignState(row.state),
        created_at=row.created_at,
        finished_at=row.finished_at,
        failure=None if row.failure_json is None else codec.loads(Failure, row.failure_json),
    )


def _step(row: Any) -> Step:
    return Step(
        id=row.id,
        campaign_id=row.campaign_id,
        board_id=row.board_id,
        board=row.board,
        model=row.model,
        phase=row.phase,
        note=row.note,
        curve_id=row.curve_id,
        failure=None if row.failure_json is None else codec.loads(Failure, row.failure_json),
    )
