"""Jobs as people see them: lists, one in full, logs. Read from rows; what boards and campaigns do is left to others."""

from typing import Any

from tailfleet_coordinator.curves import columns
from tailfleet_coordinator.db.rows import Attempt, JobRecord
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.refusals import UnknownName
from tailfleet_coordinator.replies import JOB_COLUMNS, JobAttempt, JobDetails, JobLog, JobOrder, PlannedFor, iso
from tailfleet_schema.curve import Part
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Job, JobState

MOST_JOBS = 1000


def job_columns(
    store: Store, campaign: str | None, board: str | None, model: str | None, state: str | None, limit: int
) -> dict[str, list[Any]]:
    """The jobs asked for, the newest first, as the columns of ``JOB_COLUMNS``. Raises ``InputError``."""
    if not 1 <= limit <= MOST_JOBS:
        raise InputError(f"limit must lie between 1 and {MOST_JOBS}")
    found = store.list_records(campaign, board, model, None if state is None else job_state(state), limit)
    rows = [
        (
            job.id, job.campaign_id, job.kind.value, job.board, job.board_kind.value, job.model, job.state.value,
            job.cancel_requested, job.done, job.total, job.rounds_begun, job.attempt, iso(job.created_at),
            iso(job.started_at), iso(job.finished_at), job.failure.sentence if job.failure else None, who_must_act(job),
        )
        for job in found
    ]  # fmt: skip
    return columns(JOB_COLUMNS, rows)


def job_state(name: str) -> JobState:
    """The state that is called so. Raises ``InputError``."""
    try:
        return JobState(name)
    except ValueError:
        known = ", ".join(state.value for state in JobState)
        raise InputError(f"there is no state {name!r} of a job; known: {known}") from None


def job_details(store: Store, beginning: str) -> JobDetails:
    """The job whose id begins so, in full. Raises ``UnknownName``, ``InputError`` where several do."""
    job_id = store.find_job(beginning)
    job = store.get_record(job_id)
    return JobDetails(
        id=job.id,
        campaign=job.campaign_id,
        kind=job.kind.value,
        board=job.board,
        board_kind=job.board_kind.value,
        model=job.model,
        state=job.state.value,
        cancel_requested=job.cancel_requested,
        done=job.done,
        total=job.total,
        rounds_begun=job.rounds_begun,
        attempt=job.attempt,
        created_at=job.created_at.isoformat(),
        started_at=iso(job.started_at),
        finished_at=iso(job.finished_at),
        lease_expires_at=iso(job.lease_expires_at),
        lease_lapsed=job.lease_lapsed,
        fingerprint=job.fingerprint,
        fingerprint_changed=job.fingerprint_changed,
        order=order_of(store.get_job(job_id)),
        runtime=job.runtime,
        attempts=[_attempt(attempt) for attempt in store.list_attempts(job_id)],
        failure=job.failure,
        who_must_act=who_must_act(job),
    )


def job_log(store: Store, beginning: str, attempt: int | None) -> JobLog:
    """The log of one attempt, by default the last one. Raises ``UnknownName``, ``InputError``."""
    job = store.get_record(store.find_job(beginning))
    wanted = job.attempt if attempt is None else attempt
    if attempt is not None and not 1 <= attempt <= job.attempt:
        raise UnknownName(f"job {job.id} has no attempt {attempt}: it was given {job.attempt} times")
    for known in store.list_attempts(job.id):
        if known.attempt == wanted and known.log is not None:
            return JobLog(job.id, wanted, job.state.value, known.log, iso(known.log_at))
    return JobLog(job.id, wanted, job.state.value, "")


def who_must_act(job: JobRecord) -> str | None:
    """Who must act for the job's failure to go away; None where it has not failed."""
    if job.state is not JobState.FAILED or job.failure is None:
        return None
    return job.failure.blame.who_must_act


def order_of(job: Job) -> JobOrder:
    """What ``job`` measures, in short."""
    parts = {unit.part for unit in job.units}
    workload = job.workload
    return JobOrder(
        backend=workload.backend,
        dtype=workload.dtype,
        batch=workload.batch,
        attention=workload.attention,
        rounds=job.rounds,
        calls=job.calls,
        units=len(job.units),
        parts=[part.value for part in Part if part in parts],
        counts=sorted({unit.tokens for unit in job.units if unit.part is Part.MODEL}),
        methods=sorted({unit.label for unit in job.units if unit.part is Part.REDUCE}),
        schedules=[PlannedFor(schedule.digest, schedule.method, schedule.keep) for schedule in job.schedules],
        dataset=None if job.dataset is None else job.dataset.name,
        images=job.images,
        seed=job.seed,
        effort=job.effort,
    )


def _attempt(attempt: Attempt) -> JobAttempt:
    return JobAttempt(
        attempt.attempt,
        attempt.results,
        iso(attempt.first_result_at),
        iso(attempt.last_result_at),
        iso(attempt.log_at),
        last_words=(attempt.log or "").rstrip().rpartition("\n")[2],
    )
