"""What people ask about jobs: list them, look into one, read what the measured child said, cancel one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from tailfleet_coordinator import jobs
from tailfleet_coordinator.db.rows import Caller, Holder
from tailfleet_coordinator.replies import Columns, JobDetails, JobLog
from tailfleet_coordinator.web.access import Door
from tailfleet_coordinator.web.context import Context
from tailfleet_coordinator.web.openapi import speaks
from tailfleet_coordinator.web.waiting import Waiting
from tailfleet_coordinator.web.wire import reply
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure

LISTED_JOBS = 50


def job_routes(context: Context, door: Door, holding: Waiting[Holder]) -> APIRouter:
    """The people's endpoints of jobs. A job may be named by the beginning of its id, where no other begins so."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    store = context.store
    reader = [Depends(door.reader)]

    @router.get("", dependencies=reader)
    @speaks(Columns)
    def list_jobs(
        campaign: str | None = None,
        board: str | None = None,
        model: str | None = None,
        state: str | None = None,
        limit: int = LISTED_JOBS,
    ) -> Response:
        return reply(Columns(jobs.job_columns(store, campaign, board, model, state, limit)))

    @router.get("/{job_id}", dependencies=reader)
    @speaks(JobDetails)
    def job(job_id: str) -> Response:
        return reply(jobs.job_details(store, job_id))

    @router.get("/{job_id}/log", dependencies=reader)
    @speaks(JobLog)
    def log(job_id: str, attempt: int | None = None) -> Response:
        return reply(jobs.job_log(store, job_id, attempt))

    @router.post("/{job_id}/cancel")
    @speaks(JobDetails)
    async def cancel(job_id: str, caller: Annotated[Caller, Depends(door.operator)]) -> Response:
        def call_off() -> str:
            found = store.find_job(job_id)
            store.cancel_job(found, Failure(f"the job was cancelled by operator {caller.name!r}", Blame.AUTHOR))
            return found

        found = await run_in_threadpool(call_off)
        await holding.look_now()
        return reply(await run_in_threadpool(jobs.job_details, store, found))

    return router
