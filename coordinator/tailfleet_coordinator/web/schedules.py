"""What people ask of schedules: those that campaigns planned, and those that they made themselves."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator.curves import columns
from tailfleet_coordinator.replies import SCHEDULE_COLUMNS, AddedSchedule, AddSchedule, Columns
from tailfleet_coordinator.web.access import Door
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.wire import read, reply
from tailfleet_schema import codec
from tailfleet_schema.errors import ScheduleError
from tailfleet_schema.schedule import Schedule


def schedule_routes(context: Context, door: Door) -> APIRouter:
    """The endpoints of schedules."""
    router = APIRouter(prefix="/v1", tags=["people"])
    store, settings = context.store, context.settings
    reader = [Depends(door.reader)]

    @router.get("/schedules", dependencies=reader)
    @speaks(Columns)
    def schedules(board: str | None = None, model: str | None = None, campaign: str | None = None) -> Response:
        rows = [
            (
                found.digest,
                found.board,
                found.schedule.model,
                found.schedule.method,
                found.planner,
                found.choice,
                codec.dumps(found.schedule.keep),
                found.campaign_id,
                found.created_at.isoformat(),
            )
            for found in store.list_schedules(board, model, campaign)
        ]
        return reply(Columns(columns(SCHEDULE_COLUMNS, rows)))

    @router.post("/schedules", dependencies=[Depends(door.operator)])
    @speaks(AddedSchedule, body=AddSchedule)
    async def add(request: Request) -> Response:
        message = await read(request, AddSchedule, settings.body_bytes)
        try:
            await run_in_threadpool(store.add_schedule, message.schedule)
        except ScheduleError as error:
            raise error.inside("schedule") from error
        return reply(AddedSchedule(message.schedule.digest))

    @router.get("/schedules/{digest}", dependencies=reader)
    @speaks(Schedule)
    def schedule(digest: str) -> Response:
        return reply(store.get_schedule(digest))

    return router
