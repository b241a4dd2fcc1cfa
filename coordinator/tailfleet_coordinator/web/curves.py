"""What people ask of curves: tables over many, one in full, its raw samples, a virtual board's true latencies."""

from fastapi import APIRouter, Depends, Response

from tailfleet_coordinator import curve_details
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_coordinator.replies import Columns, CurveDetails
from tailfleet_coordinator.web.access import Door
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.wire import reply
from tailfleet_schema.limits import COUNT_MAX


def curve_routes(context: Context, door: Door) -> APIRouter:
    """The endpoints of curves. A table is of all curves, or of those of a model, of a board, or of both."""
    router = APIRouter(prefix="/v1/curves", tags=["curves"], dependencies=[Depends(door.reader)])
    store, reader = context.store, context.curves

    @router.get("")
    @speaks(Columns)
    def curves(model: str | None = None, board: str | None = None) -> Response:
        return reply(Columns(reader.list_columns(model, board)))

    @router.get("/points")
    @speaks(Columns)
    def points(model: str | None = None, board: str | None = None) -> Response:
        return reply(Columns(reader.point_columns(model, board)))

    @router.get("/treads")
    @speaks(Columns)
    def treads(model: str | None = None, board: str | None = None) -> Response:
        return reply(Columns(reader.tread_columns(model, board)))

    @router.get("/cliffs")
    @speaks(Columns)
    def cliffs(model: str | None = None, board: str | None = None) -> Response:
        return reply(Columns(reader.cliff_columns(model, board)))

    @router.get("/rounds")
    @speaks(Columns)
    def rounds(model: str | None = None, board: str | None = None) -> Response:
        return reply(Columns(reader.round_columns(model, board)))

    @router.get("/{curve_id}")
    @speaks(CurveDetails)
    def curve(curve_id: int) -> Response:
        return reply(curve_details.curve_details(store, reader, _known(curve_id)))

    @router.get("/{curve_id}/samples")
    @speaks(Columns)
    def samples(curve_id: int) -> Response:
        return reply(Columns(curve_details.sample_columns(store, _known(curve_id))))

    @router.get("/{curve_id}/truth")
    @speaks(Columns)
    def truth(curve_id: int) -> Response:
        return reply(Columns(curve_details.true_columns(store, _known(curve_id))))

    return router


def _known(curve_id: int) -> int:
    """``curve_id``, unless no curve can have it: databases refuse larger numbers with words of their own."""
    if not 0 < curve_id <= COUNT_MAX:
        raise UnknownName(f"there is no curve {curve_id}", "tailfleet curve list")
    return curve_id
