"""The application: both sides' endpoints under ``/v1``, behind one door, refusing in one shape."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from tailfleet_coordinator.db.rows import Holder
from tailfleet_coordinator.web.access import Door, Gate
from tailfleet_coordinator.web.boards import board_routes
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.curves import curve_routes
from tailfleet_coordinator.web.jobs import job_routes
from tailfleet_coordinator.web.library import library_routes
from tailfleet_coordinator.web.openapi import Application
from tailfleet_coordinator.web.people import people_routes
from tailfleet_coordinator.web.schedules import schedule_routes
from tailfleet_coordinator.web.shipments import shipment_routes
from tailfleet_coordinator.web.tokens import token_routes
from tailfleet_coordinator.web.waiting import LOOK_SECONDS, Waiting
from tailfleet_coordinator.web.wire import refuse_in_one_shape
from tailfleet_schema import __version__


def create_app(context: Context, look_seconds: float = LOOK_SECONDS) -> FastAPI:
    """The coordinator's HTTP interface; ``app.state.let_go`` answers all who wait, when it is to end."""
    store = context.store
    waiting: Waiting[int] = Waiting(
        lambda boards: store.find_boards_with_work(boards) | store.find_boards_with_shipments(boards), look_seconds
    )
    holding: Waiting[Holder] = Waiting(lambda holders: store.find_called_off(holders), look_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watches = [asyncio.create_task(who.watch()) for who in (waiting, holding)]
        yield
        for watch in watches:
            watch.cancel()

    def let_go() -> None:
        waiting.close()
        holding.close()

    app = Application(
        title="tailfleet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.waiting, app.state.holding, app.state.let_go = waiting, holding, let_go
    app.add_middleware(Gate, store=store)
    door = Door()
    refuse_in_one_shape(app)
    app.include_router(board_routes(context, door, waiting, holding))
    app.include_router(people_routes(context, door, holding))
    app.include_router(curve_routes(context, door))
    app.include_router(job_routes(context, door, holding))
    app.include_router(token_routes(context, door))
    app.include_router(schedule_routes(context, door))
    app.include_router(shipment_routes(context, door))
    app.include_router(library_routes(context, door))
    return app
