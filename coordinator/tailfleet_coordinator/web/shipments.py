"""Shipments: people ship schedules to boards and see how far they have come; boards say what they did with them.

What a board is told of its shipments goes with the answer to its request for work (``boards``).
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator import shipping
from tailfleet_coordinator.curves import columns
from tailfleet_coordinator.db.rows import Caller
from tailfleet_coordinator.replies import SHIPMENT_COLUMNS, Columns, ShipRequest, iso
from tailfleet_coordinator.web.access import Door
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.wire import read, reply
from tailfleet_schema.messages import ReceiptsReply, ReceiptsUpload


def shipment_routes(context: Context, door: Door) -> APIRouter:
    """The endpoints of shipments."""
    router = APIRouter(prefix="/v1")
    store, settings = context.store, context.settings

    @router.get("/shipments", tags=["people"], dependencies=[Depends(door.reader)])
    @speaks(Columns)
    def shipments(board: str | None = None, model: str | None = None, digest: str | None = None) -> Response:
        return reply(_table(shipping.shipped(store, board, model, digest)))

    @router.post("/shipments", tags=["people"], dependencies=[Depends(door.operator)])
    @speaks(Columns, body=ShipRequest)
    async def ship(request: Request) -> Response:
        message = await read(request, ShipRequest, settings.body_bytes)
        return reply(_table(await run_in_threadpool(shipping.ship, store, message.digest, message.boards)))

    @router.post("/receipts", tags=["boards"])
    @speaks(ReceiptsReply, body=ReceiptsUpload)
    async def receipts(request: Request, caller: Annotated[Caller, Depends(door.board)]) -> Response:
        message = await read(request, ReceiptsUpload, settings.body_bytes)
        assert caller.board_id is not None
        return reply(ReceiptsReply(await run_in_threadpool(store.note_receipts, caller.board_id, message.receipts)))

    return router


def _table(shipped: Sequence[shipping.Shipped]) -> Columns:
    rows = [
        (
            one.row.digest,
            one.row.board,
            one.row.model,
            one.state,
            one.reason,
            one.renew,
            iso(one.row.queued_at),
            iso(one.row.delivered_at),
            iso(one.row.verified_at),
            one.row.planned_on.campaign,
            one.row.planned_on.curve_id,
            one.row.planned_on.model_digest,
            one.row.planned_on.dataset_sha256,
            one.row.planned_on.fingerprint,
        )
        for one in shipped
    ]
    return Columns(columns(SHIPMENT_COLUMNS, rows))
