"""``tailfleet job``: what boards are ordered to measure: list, show, log, cancel."""

import time
from collections.abc import Callable
from typing import Annotated

import pandas
import typer

from tailfleet_coordinator.cli.show import fleet, runs, say, table
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.replies import JobDetails, JobOrder
from tailfleet_schema.job import Effort

app = typer.Typer(help="Jobs that boards are given: list, show, log, cancel.", no_args_is_help=True)

FOLLOW_SECONDS = 1.0
"""Between two looks at a log; a board sends what is new of it every ten seconds."""

ENDED = ("done", "failed", "cancelled")

RUNTIME_FIRST = ("device", "threads", "attention", "provider")
"""Of what a runtime tells, what people look for first."""

Id = Annotated[str, typer.Argument(help="A job's id, or its first characters.")]


@app.command("list")
def list_jobs(
    campaign: Annotated[str | None, typer.Option(help="Only of this campaign.")] = None,
    board: Annotated[str | None, typer.Option(help="Only on this board.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    state: Annotated[str | None, typer.Option(help="queued, leased, done, failed, or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
) -> None:
    """One line a job, the newest first; for a failed one, why, and who must act."""
    frame = fleet().jobs(campaign=campaign, board=board, model=model, state=state, limit=limit)
    marks = [" (virtual)" if kind == "virtual" else "" for kind in frame["board_kind"]]
    shown = pandas.DataFrame(
        {
            "job": frame["id"],
            "kind": frame["kind"],
            "board": [name + mark for name, mark in zip(frame["board"], marks, strict=True)],
            "model": frame["model"],
            "state": [
                _state(name, bool(asked)) for name, asked in zip(frame["state"], frame["cancel_requested"], strict=True)
            ],
            "done": [f"{done}/{total}" for done, total in zip(frame["done"], frame["total"], strict=True)],
            "round": [str(rounds) if rounds else None for rounds in frame["rounds_begun"]],
            "attempt": frame["attempt"],
            "created (UTC)": frame["created_at"],
            "why → who must act": [
                " → ".join(text for text in (why, who) if text)
                for why, who in zip(frame["failure"], frame["who_must_act"], strict=True)
            ],
        }
    )
    if not any(shown["why → who must act"]):
        shown = shown.drop(columns="why → who must act")
    table("jobs", shown, "no such job; tailfleet sweep run and tailfleet campaign run order some")


@app.command()
def show(job: Id) -> None:
    """All there is to know of one job."""
    found = fleet().job(job)
    virtual = " (VIRTUAL board: modelled latency)" if found.board_kind == "virtual" else ""
    say(f"job {found.id}: {found.kind} of {found.model} on {found.board}{virtual}")
    say(f"  state       {_state(found.state, found.cancel_requested)}, {progress(found)}")
    if found.failure:
        say(f"  why         {found.failure.sentence}")
    if found.who_must_act:
        say(f"  must act    {found.who_must_act}")
    say(f"  campaign    {found.campaign}")
    for line in order_words(found.order):
        say(f"  {line}")
    if found.runtime:
        say(f"  runtime     {runtime_words(found.runtime)}")
    say(f"  created     {_time(found.created_at)}, begun {_time(found.started_at)}, ended {_time(found.finished_at)}")
    if found.lease_expires_at:
        say(f"  lease       {_lease(found)}")
    say(f"  fingerprint {_fingerprint(found)}")
    for attempt in found.attempts:
        span = ""
        if attempt.results:
            span = f" from {_time(attempt.first_result_at)} to {_time(attempt.last_result_at)}"
        words = f"; its log ends: {attempt.last_words}" if attempt.last_words else ""
        say(f"  attempt {attempt.attempt:<3} {attempt.results} results{span}{words}")
    if found.failure and found.failure.detail:
        say("  detail")
        for line in found.failure.detail.rstrip().splitlines():
            say(f"    {line}")


@app.command()
def log(
    job: Id,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which time it was given; default: the last.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
) -> None:
    """The end of what the measured child said; of a running job, too."""
    if follow:
        follow_log(fleet(), job, attempt)
        return
    found = fleet().job_log(job, attempt)
    if found.log:
        typer.echo(found.log.rstrip("\n"))
    elif found.attempt == 0:
        say(f"job {found.job} is {found.state} and was never given to its board: there is no log")
    else:
        say(f"nothing is heard yet of the log of job {found.job}, attempt {found.attempt} (the job is {found.state})")


@app.command()
def cancel(job: Id) -> None:
    """Cancel a job: a waiting one is over at once, a running one stops before its next count. Results stay."""
    found = fleet().cancel_job(job)
    if found.state in ENDED:
        say(f"job {found.id} is cancelled; {found.done} of {found.total} results are stored")
        return
    say(f"job {found.id} is to stop before its next count; {found.done} of {found.total} results are stored so far")
    if found.lease_lapsed:
        say("its board has not been heard of for a while")


def follow_log(
    here: Fleet, job: str, attempt: int | None, pause: Callable[[], None] = lambda: time.sleep(FOLLOW_SECONDS)
) -> None:
    """Print the log as it grows, until the job has ended or, where ``attempt`` is named, is given again."""
    told, number = "", attempt or 0
    while True:
        # Asked before the log: what was said until the job ended is in the log then.
        found = here.job(job)
        said = here.job_log(job, attempt)
        if said.attempt != number:
            if number:
                typer.echo(f"--- attempt {said.attempt} ---")
            told, number = "", said.attempt
        typer.echo(news(told, said.log), nl=False)
        told = said.log
        if found.state in ENDED or (attempt is not None and found.attempt > attempt):
            return
        pause()


def news(told: str, text: str) -> str:
    """What of ``text``, the end of a growing log, comes after ``told``, an earlier end of it."""
    if text.startswith(told):
        return text[len(told) :]
    # Its beginning was cut off meanwhile. Lines carry times, so a few of them are found nowhere else.
    mark = told[-400:]
    place = text.rfind(mark)
    return text if place < 0 else text[place + len(mark) :]


def order_words(order: JobOrder) -> list[str]:
    """A job's order in words, a line each."""
    what = ", ".join(order.parts)
    least = "" if order.effort is None else "at least "
    lines = [
        f"runs        {order.backend} {order.dtype}, batch {order.batch}, attention {order.attention}",
        f"order       {least}{order.units} units ({what}) in {least}{order.rounds} rounds of {order.calls} calls, "
        f"seed {order.seed}",
    ]
    if order.effort is not None:
        lines.append(f"goes on     {effort_words(order.effort)}")
    if order.counts:
        lines.append(f"counts      {counts_words(order.counts)}")
    if order.methods:
        lines.append(f"methods     {', '.join(order.methods)}")
    lines += [f"schedule    {one.digest[:12]} {one.method}: {runs(one.keep)}" for one in order.schedules]
    if order.dataset:
        lines.append(f"images      {order.dataset}, {'all' if order.images is None else order.images} of its split")
    return lines


def effort_words(effort: Effort) -> str:
    """When an open-ended order ends."""
    refines = "" if effort.least_tokens is None else f", refining the curve from {effort.least_tokens} tokens on"
    return (
        f"until each is known to ±{100 * effort.precision:g} %{refines}; for at most {effort.budget_seconds:g} s and "
        f"{effort.most_rounds} rounds"
    )


def runtime_words(runtime: dict[str, str]) -> str:
    """``device cpu, 2 threads, attention fused, …``: what says itself what it is stands alone."""
    names = [name for name in RUNTIME_FIRST if name in runtime]
    names += sorted(set(runtime) - set(names))
    return (
        ", ".join(runtime[name] if name in runtime[name] else f"{name} {runtime[name]}" for name in names)
        or "– (the measured child did not tell)"
    )


def counts_words(counts: list[int]) -> str:
    """Ascending token counts for people: ``2–197`` or ``50 99 148–150``."""
    spans: list[list[int]] = []
    for count in counts:
        if spans and count == spans[-1][1] + 1:
            spans[-1][1] = count
        else:
            spans.append([count, count])
    words = [str(low) if low == high else f"{low}{'–' if high > low + 1 else ' '}{high}" for low, high in spans]
    return f"{' '.join(words)} ({len(counts)} counts)"


def progress(found: JobDetails) -> str:
    """How far a job is; of an open-ended one nobody knows how many results it will have until it ends."""
    if found.order.effort is None or found.state in ENDED:
        return f"{found.done} of {found.total} results stored"
    rounds = f", round {found.rounds_begun}" if found.rounds_begun else ""
    return f"{found.done} results stored so far, {found.total} at least in the end{rounds}"


def _state(name: str, cancel_requested: bool) -> str:
    return f"{name}, asked to stop" if cancel_requested and name not in ENDED else name


def _lease(found: JobDetails) -> str:
    if found.lease_lapsed:
        return f"ran out at {_time(found.lease_expires_at)}: the board was not heard of since; it may still deliver"
    return f"attempt {found.attempt} holds it until {_time(found.lease_expires_at)}, longer when it is heard of"


def _fingerprint(found: JobDetails) -> str:
    if found.fingerprint is None:
        return "– (it was not given yet)"
    changed = "CHANGED between attempts: the board was another" if found.fingerprint_changed else "unchanged"
    return f"{found.fingerprint[:12]}, {changed}"


def _time(moment: str | None) -> str:
    return "–" if moment is None else moment[:19].replace("T", " ") + " UTC"
