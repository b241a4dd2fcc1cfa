"""What boards ask: enrol, work, deliver, be heard, finish. The messages are the schema's. What they say of shipped
schedules is read in ``shipments``."""

import asyncio
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator.curves import file_curve
from tailfleet_coordinator.db.rows import Caller, Claim, Holder
from tailfleet_coordinator.refusals import ProtocolRefused
from tailfleet_coordinator.web.access import Door, hashed, new_token, token_of
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.waiting import Waiting, listening
from tailfleet_coordinator.web.wire import read, reply
from tailfleet_schema.curve import JUDGED_PARTS, UnitResult
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job, JobState
from tailfleet_schema.messages import (
    EnrolReply,
    EnrolRequest,
    FinishReply,
    FinishRequest,
    HeartbeatReply,
    HeartbeatRequest,
    Lease,
    LeaseReply,
    LeaseRequest,
    ResultsReply,
    ResultsUpload,
)
from tailfleet_schema.version import PROTOCOL


def board_routes(context: Context, door: Door, waiting: Waiting[int], holding: Waiting[Holder]) -> APIRouter:
    """The boards' endpoints. Boards wait for work in ``waiting``, and with their held heartbeats in ``holding``."""
    router = APIRouter(prefix="/v1", tags=["boards"])
    store, settings = context.store, context.settings
    limit = settings.body_bytes
    board = Depends(door.board)

    @lru_cache(maxsize=256)
    def ordered(job_id: str) -> Ordered:
        return Ordered(store.get_job(job_id))

    @router.post("/enroll", dependencies=[Depends(door.enrolment)])
    @speaks(EnrolReply, body=EnrolRequest)
    async def enroll(request: Request) -> Response:
        message = await read(request, EnrolRequest, limit)
        refuse_other_protocol(message.protocol)
        token = new_token("board")
        name = await run_in_threadpool(store.enroll, hashed(token_of(request)), message.facts, hashed(token))
        return reply(EnrolReply(name, token))

    @router.post("/lease")
    @speaks(LeaseReply, body=LeaseRequest)
    async def lease(request: Request, caller: Annotated[Caller, board]) -> Response:
        message = await read(request, LeaseRequest, limit)
        refuse_other_protocol(message.protocol)
        board_id = caller.board_id
        assert board_id is not None
        power_mode = message.telemetry.power_mode if message.telemetry else None
        clock = asyncio.get_running_loop().time
        deadline = clock() + min(max(message.wait_seconds, 0.0), settings.poll_seconds)
        with waiting.ticket(board_id) as ticket:
            await run_in_threadpool(store.see_board, board_id, message.facts, power_mode)
            await run_in_threadpool(store.take_back_jobs, board_id)
            while not ticket.void and not await request.is_disconnected():
                claim = await run_in_threadpool(
                    store.claim_job, board_id, settings.lease_seconds, settings.claimable_seconds
                )
                shipments = await run_in_threadpool(store.list_due_shipments, board_id)
                if claim is not None or shipments:
                    lease = None if claim is None else await run_in_threadpool(given, claim)
                    return reply(LeaseReply(lease, shipments))
                left = deadline - clock()
                if left <= 0:
                    break
                await ticket.wait(left)
        return reply(LeaseReply())

    def given(claim: Claim) -> Lease:
        job = claim.job
        earlier = [] if job.effort is None or claim.attempt == 1 else store.list_earlier(job.id)
        known = store.list_known_keys(job.id)
        return Lease(job, claim.attempt, settings.lease_seconds, known, earlier, claim.runtime)

    @router.post("/jobs/{job_id}/results")
    @speaks(ResultsReply, body=ResultsUpload)
    async def results(request: Request, job_id: str, caller: Annotated[Caller, board]) -> Response:
        message = await read(request, ResultsUpload, limit)

        def store_them() -> ResultsReply:
            assert caller.board_id is not None
            order = ordered(job_id)
            for number, result in enumerate(message.results):
                if not order.asks_for(result):
                    raise InputError("the job has no such unit and round", path=f"results[{number}]")
            return ResultsReply(
                *store.add_results(
                    caller.board_id,
                    job_id,
                    message.attempt,
                    message.results,
                    settings.lease_seconds,
                    message.log,
                    message.runtime,
                )
            )

        return reply(await run_in_threadpool(store_them))

    @router.post("/jobs/{job_id}/heartbeat")
    @speaks(HeartbeatReply, body=HeartbeatRequest)
    async def heartbeat(request: Request, job_id: str, caller: Annotated[Caller, board]) -> Response:
        message = await read(request, HeartbeatRequest, limit)
        board_id = caller.board_id
        assert board_id is not None

        async def renew() -> bool:
            return await run_in_threadpool(
                store.renew_lease, board_id, job_id, message.attempt, settings.lease_seconds, message.log
            )

        # Held for less than a lease lasts, since only asking again renews it.
        seconds = min(message.wait_seconds, settings.poll_seconds, settings.lease_seconds / 3)
        if seconds <= 0:
            return reply(HeartbeatReply(await renew()))
        # The ticket comes first: who cancels the job after the lease was renewed must find somebody to wake.
        with holding.ticket(Holder(board_id, job_id, message.attempt)) as ticket:
            cancel = await renew()
            if not cancel:
                async with listening(request, ticket):
                    woken = await ticket.wait(seconds)
                if woken and not ticket.void:
                    cancel = await renew()
        return reply(HeartbeatReply(cancel))

    @router.post("/jobs/{job_id}/finish")
    @speaks(FinishReply, body=FinishRequest)
    async def finish(request: Request, job_id: str, caller: Annotated[Caller, board]) -> Response:
        message = await read(request, FinishRequest, limit)

        def finish_it() -> FinishReply:
            assert caller.board_id is not None
            state, missing = store.finish_job(
                caller.board_id,
                job_id,
                message.attempt,
                message.outcome,
                message.failure,
                message.log,
                message.results,
                message.runtime,
            )
            if state is JobState.DONE:
                file_curve(store, job_id)
            return FinishReply(state.value, missing)

        return reply(await run_in_threadpool(finish_it))

    return router


class Ordered:
    """What results a job may have."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._listed = frozenset(job.units)

    def asks_for(self, result: UnitResult) -> bool:
        """Whether ``result`` is one of them: judged units are in round 0 alone, an open-ended job may add counts."""
        rounds = 1 if result.unit.part in JUDGED_PARTS else self._job.most_rounds
        return result.round < rounds and (result.unit in self._listed or self._job.may_add(result.unit))


def refuse_other_protocol(protocol: int) -> None:
    """Raise ``ProtocolRefused`` unless the agent speaks ours."""
    if protocol != PROTOCOL:
        raise ProtocolRefused(
            f"this agent speaks protocol {protocol}, the coordinator {PROTOCOL}",
            "fetch the agent from this coordinator again: tailfleet board enroll NAME prints the line",
        )
