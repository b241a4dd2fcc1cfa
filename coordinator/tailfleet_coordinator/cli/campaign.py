"""``tailfleet campaign``: fleet-wide schedule generation, its progress, its report."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.cli import objective as objectives
from tailfleet_coordinator.cli.follow import follow
from tailfleet_coordinator.cli.show import console, fleet, json_text, say, table
from tailfleet_coordinator.client import Fleet
from tailfleet_schema.campaign import METHODS, CampaignRequest, CampaignState, CampaignStatus, StepStatus, SweepSettings
from tailfleet_schema.errors import InputError, LabError

app = typer.Typer(help="Fleet-wide schedule generation: run, status, report, cancel.", no_args_is_help=True)

Names = Annotated[str, typer.Option(help="Names separated by commas, or all.")]
Counts = Annotated[str, typer.Option(help="Token counts to measure: all, auto, or a list such as 50,99,197.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds in which every count is measured, each in a fresh order.")]
Calls = Annotated[int, typer.Option(min=1, help="Timed calls of a count in a round.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again even where a fitting curve is stored.")]
Batch = Annotated[int, typer.Option(min=1, help="Images a pass.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until it ends.")]


@app.command()
def run(
    models: Names = "all",
    boards: Names = "all",
    method: Annotated[str, typer.Option(help="Reduction methods: topk, pomt, tome, or all.")] = "all",
    planner: Annotated[str, typer.Option(help="optimal, pomt-rule, or both separated by a comma.")] = "optimal",
    objective: Annotated[str, typer.Option(help=f"What a plan is to achieve: {objectives.FORMS}; or several.")] = (
        "max-accuracy-drop=1.0,latency-budget=0.8x"
    ),
    on: Annotated[
        str,
        typer.Option(
            metavar="quiet|p50|p99",
            help="Statistic of every latency in the objective: quiet (10th percentile of calls), p50 or p99.",
        ),
    ] = "quiet",
    counts: Counts = "auto",
    rounds: Rounds = 3,
    calls: Calls = 3,
    fresh: Fresh = False,
    batch: Batch = 1,
    wait: Wait = True,
) -> None:
    """Measure what is missing, plan for every board and model, ship, and measure the schedules on the boards."""
    wanted = objectives.parse(objective, on)
    here = fleet()
    asked = sweep_request(here, models, boards, method, SweepSettings(counts, rounds, calls, fresh), batch)
    start(here, replace(asked, planners=split(planner), objective=wanted), wait)


@app.command()
def status(
    campaign: Annotated[str | None, typer.Argument(help="A campaign's id; default: list them all.")] = None,
) -> None:
    """Progress of one campaign, or a list of all."""
    if campaign is None:
        table("campaigns", fleet().campaigns(), "no campaign was run yet")
        return
    answer = fleet().campaign(campaign)
    say(f"campaign {answer.id}: {answer.state.value}, created {answer.created_at}")
    for step in answer.steps:
        note = f"  ({step.note})" if step.note else ""
        say(f"  {step.board:<22} {step.model:<24} {step.phase:<9} {step.done}/{step.total}{note}{must_act(step)}")


@app.command()
def report(
    campaign: Annotated[str, typer.Argument(help="A campaign's id.")],
    out: Annotated[Path | None, typer.Option(help="Folder for table.json, table.csv, pictures and a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What was planned and what the boards measured."""
    here = fleet()
    if as_json:
        json_text(here.report(campaign))
        return
    print_report(here, campaign, out)


@app.command()
def cancel(campaign: Annotated[str, typer.Argument(help="A campaign's id.")]) -> None:
    """Stop a campaign; what was measured stays."""
    fleet().cancel(campaign)
    say(f"campaign {campaign} is cancelled")


def sweep_request(
    here: Fleet, models: str, boards: str, method: str, sweep: SweepSettings, batch: int
) -> CampaignRequest:
    """A campaign that measures and plans nothing, of what the options name. Raises ``InputError``."""
    enrolled = here.boards()
    known = enrolled[enrolled["revoked_at"].isna()] if boards.strip() == "all" else enrolled
    return CampaignRequest(
        models=names(models, here.models()["name"].tolist(), "model"),
        boards=names(boards, known["name"].tolist(), "board"),
        methods=list(METHODS) if method == "all" else split(method),
        objective=None,
        sweep=sweep,
        batch=batch,
    )


def start(here: Fleet, request: CampaignRequest, wait: bool) -> None:
    """Hand ``request`` in, and follow it to its end where ``wait`` says so."""
    campaign = here.run_campaign(request)
    say(f"campaign {campaign}: {len(request.boards)} boards × {len(request.models)} models")
    if request.objective is not None:
        say(f"objective: {objectives.words(request.objective)}")
    if not wait:
        say(f"tailfleet campaign status {campaign} tells its progress")
        return
    answer, _ = follow(here, campaign)
    if request.objective is not None:
        print_report(here, campaign, None)
    raise_unless_done(answer)


def raise_unless_done(answer: CampaignStatus) -> None:
    """Raise ``LabError`` when a campaign or one of its steps did not come through; it says who must act."""
    lost = [step for step in answer.steps if step.phase == "failed" or step.failure is not None]
    if answer.state is CampaignState.DONE and not lost:
        return
    causes = [f"{step.board} × {step.model}: {step.note or step.phase}{must_act(step)}" for step in lost]
    if answer.failure and not lost:
        causes = [answer.failure.sentence]
    cause = "; ".join(causes)
    raise LabError(
        f"campaign {answer.id} ended {answer.state.value}" + (f": {cause}" if cause else ""),
        f"tailfleet job list --campaign {answer.id} tells more",
    )


def must_act(step: StepStatus) -> str:
    """Who must act for a failed step, as the end of a sentence; empty where nobody must."""
    if step.phase != "failed" or step.failure is None:
        return ""
    return f" → {step.failure.blame.who_must_act}"


def print_report(here: Fleet, campaign: str, out: Path | None) -> None:
    """Print the table of ``campaign``, and write files and pictures where ``out`` names a folder."""
    from tailfleet_coordinator.report import table as report_table
    from tailfleet_coordinator.report.write import write_report

    answer = here.report(campaign)
    if not answer.rows:
        say(
            "nothing is planned in this campaign"
            if not here.campaign(campaign).finished_at
            else "this campaign was a sweep alone: tailfleet curve list shows what it measured"
        )
        return
    console.print(report_table.render(answer.rows))
    if out is not None:
        files = write_report(answer, here.curves(), out)
        say(f"written to {files.page}, {files.table_json} and {files.table_csv}")


def split(text: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names(text: str, known: list[str], noun: str) -> list[str]:
    """The names that an option means; ``all`` is all known ones. Raises ``InputError`` for an unknown one."""
    chosen = known if text.strip() == "all" else split(text)
    if not chosen:
        raise InputError(f"no {noun} is known yet", mend="tailfleet board enroll NAME" if noun == "board" else None)
    for name in chosen:
        if name not in known:
            raise InputError(
                f"unknown {noun} {name!r}; known: {', '.join(known) or 'none'}", mend=f"tailfleet {noun} list"
            )
    return chosen
