"""What people and their programs ask: boards and campaigns. Curves, jobs, models and images have rooms of their own.

Answers are the schema's campaign types and those of ``replies``. Viewers may look, operators may change things.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from tailfleet_coordinator import campaigns
from tailfleet_coordinator.db.rows import Board, Caller, Holder
from tailfleet_coordinator.replies import (
    Boards,
    Campaigns,
    Enrolment,
    EnrolmentRequest,
    Health,
    iso,
)
from tailfleet_coordinator.web.access import Door, hashed, new_token
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.enrolment import check_name, check_path, enrolment_line
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.waiting import Waiting
from tailfleet_coordinator.web.wire import read, reply
from tailfleet_schema import __version__, codec
from tailfleet_schema.campaign import BoardStatus, CampaignReport, CampaignRequest, CampaignState, CampaignStatus
from tailfleet_schema.errors import InputError
from tailfleet_schema.version import PROTOCOL

MOST_MINUTES = 7 * 24 * 60
"""An enrolment token may not be good for longer than a week."""


def people_routes(context: Context, door: Door, holding: Waiting[Holder]) -> APIRouter:
    """The people's endpoints of boards and campaigns. Boards whose job is called off wait in ``holding``."""
    router = APIRouter(prefix="/v1", tags=["people"])
    store, settings = context.store, context.settings
    reader = [Depends(door.reader)]
    operator = [Depends(door.operator)]

    @router.get("/openapi.json", dependencies=reader, include_in_schema=False)
    @speaks(dict)
    def openapi(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    @router.get("/health", dependencies=[Depends(door.anyone)])
    @speaks(Health)
    def health() -> Response:
        return reply(Health("ok", __version__, PROTOCOL))

    @router.get("/agent.pyz", dependencies=[Depends(door.installer)])
    @speaks(bytes)
    def agent() -> Response:
        headers = {"X-Sha256": context.agent.sha256, "ETag": f'"{context.agent.sha256}"'}
        return Response(context.agent.content, headers=headers, media_type="application/octet-stream")

    @router.get("/boards", dependencies=reader)
    @speaks(Boards)
    def boards() -> Response:
        return reply(Boards([_board_status(board) for board in store.list_boards(settings.online_seconds)]))

    @router.post("/boards/{name}/revoke", dependencies=operator)
    @speaks(BoardStatus)
    def revoke_board(name: str) -> Response:
        board_id = store.revoke_board(name)
        return reply(_board_status(store.get_board(board_id, settings.online_seconds)))

    @router.post("/enrolments", dependencies=operator)
    @speaks(Enrolment, body=EnrolmentRequest)
    async def enrolments(request: Request) -> Response:
        message = await read(request, EnrolmentRequest, settings.body_bytes)
        check_name("board", message.board)
        if not 1 <= message.minutes <= MOST_MINUTES:
            raise InputError(f"must lie between 1 and {MOST_MINUTES}", path="minutes")
        if message.ca is not None:
            check_path(message.ca)
        token = new_token("enrol")
        expires_at = await run_in_threadpool(
            store.create_enrolment, message.board, message.virtual_profile, hashed(token), 60.0 * message.minutes
        )
        line = enrolment_line(context.public_url, context.agent.sha256, token, message.virtual_profile, message.ca)
        return reply(Enrolment(message.board, token, line, expires_at.isoformat(), context.warning))

    @router.post("/campaigns")
    @speaks(CampaignStatus, body=CampaignRequest)
    async def open_campaign(request: Request, caller: Annotated[Caller, Depends(door.operator)]) -> Response:
        message = await read(request, CampaignRequest, settings.body_bytes)
        campaign_id = await run_in_threadpool(campaigns.open_campaign, store, message)
        return await run_in_threadpool(_status, campaign_id)

    @router.get("/campaigns", dependencies=reader)
    @speaks(Campaigns)
    def list_campaigns() -> Response:
        return reply(Campaigns([campaigns.status_of(store, campaign) for campaign in store.list_campaigns()]))

    @router.get("/campaigns/{campaign_id}", dependencies=reader)
    @speaks(CampaignStatus)
    def campaign(campaign_id: str) -> Response:
        return _status(campaign_id)

    @router.post("/campaigns/{campaign_id}/cancel", dependencies=operator)
    @speaks(CampaignStatus)
    async def cancel(campaign_id: str) -> Response:
        await run_in_threadpool(store.get_campaign, campaign_id)
        await run_in_threadpool(store.end_campaign, campaign_id, CampaignState.CANCELLED)
        await holding.look_now()
        return await run_in_threadpool(_status, campaign_id)

    @router.get("/campaigns/{campaign_id}/report", dependencies=reader)
    @speaks(CampaignReport)
    def report(campaign_id: str) -> Response:
        return reply(campaigns.report_of(store, store.get_campaign(campaign_id)))

    def _status(campaign_id: str) -> Response:
        return reply(campaigns.status_of(store, store.get_campaign(campaign_id)))

    return router


def _board_status(board: Board) -> BoardStatus:
    return BoardStatus(
        name=board.name,
        kind=board.kind.value,
        virtual_profile=board.virtual_profile,
        enrolled_at=board.enrolled_at.isoformat(),
        last_seen_at=iso(board.last_seen_at),
        online=board.online,
        facts_json=codec.dumps(board.facts),
        revoked_at=iso(board.revoked_at),
    )
