"""``tailfleet campaign``: fleet-wide schedule generation, its progress, its report."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator import objectives
from tailfleet_coordinator.cli import throughput
from tailfleet_coordinator.cli.follow import follow
from tailfleet_coordinator.cli.grouped import grouped
from tailfleet_coordinator.cli.show import console, fleet, json_text, say, table
from tailfleet_coordinator.cli.sweeping import Sweeping, split
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.report.curve_tables import CurveTables
from tailfleet_schema.campaign import (
    BASELINES,
    OFFLINE,
    CampaignRequest,
    CampaignState,
    CampaignStatus,
    Objective,
    StepStatus,
)
from tailfleet_schema.errors import InputError, LabError

app = typer.Typer(help="Fleet-wide schedule generation: run, status, report, cancel.", no_args_is_help=True)

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until it ends.")]


@app.command()
@grouped
def run(
    sweep: Sweeping,
    planner: Annotated[
        str,
        typer.Option(
            metavar="LIST|all",
            help=f"optimal, and to compare with it the published {', '.join(BASELINES)}. all: optimal and those whose"
            " method is among the methods.",
        ),
    ] = "optimal",
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="FORMS",
            help=f"What a plan is to achieve: {objectives.FORMS}; several separated by commas. Default:"
            f" {objectives.DEFAULT}.",
        ),
    ] = None,
    latency_budget: Annotated[
        str | None, typer.Option(metavar="12ms|0.8x", help="The least loss within a time, or a share of dense.")
    ] = None,
    max_accuracy_drop: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS", help="The fastest that loses no more points of top-1 (without labels: of agreement)."
        ),
    ] = None,
    utility: Annotated[
        str | None, typer.Option(metavar="alpha=0.5", help="The best weighed sum of latency and top-1.")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="The whole front, points of it measured, and none recommended.")
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="30ms", help="Of a call of the whole batch; with --max-throughput, and --on p99 for tails."
        ),
    ] = None,
    max_throughput: Annotated[
        bool,
        typer.Option("--max-throughput", help="The batch size and schedule that serve the most within the deadline."),
    ] = False,
    batches: Annotated[
        str | None, typer.Option(metavar="1,2,4,…", help="Batch sizes to choose among, a campaign each.")
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            metavar="K", help="Points of each plan's front that the board measures at most; of --method auto one more."
        ),
    ] = CampaignRequest.verify,
    on: Annotated[
        str,
        typer.Option(
            metavar="quiet|p50|p99",
            help="Statistic of every latency in the objective: quiet (10th percentile of calls), p50 or p99.",
        ),
    ] = "quiet",
    offline: Annotated[
        str, typer.Option(metavar="|".join(OFFLINE), help="A board that is offline when its turn comes: wait, or skip.")
    ] = CampaignRequest.offline,
    wait: Wait = True,
) -> None:
    """Measure what is missing, plan for every board and model, ship, and measure the schedules on the boards."""
    throughput.check(deadline, max_throughput, batches, wait)
    text = objectives.gathered(objective, latency_budget, max_accuracy_drop, utility, front, deadline)
    wanted = objectives.parse(text, on)
    here = fleet()
    request = replace(planned(sweep.request(here), planner, wanted, verify), offline=offline)
    if batches is None:
        start(here, request, wait)
        return
    reports, lost = {}, []
    for size in throughput.sizes(batches):
        say(f"batches of {size}:")
        try:
            reports[size] = here.report(start(here, replace(request, batch=size), wait)).rows
        except LabError as error:
            # Most likely a batch too large for a board: the others are compared all the same.
            lost.append(error)
    throughput.say_best(reports, wanted)
    if lost:
        raise lost[0]


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
        done = f"{step.done}/{step.total}" + (f" round {step.rounds_begun}" if step.rounds_begun else "")
        say(f"  {step.board:<22} {step.model:<24} {step.phase:<9} {done}{note}{must_act(step)}")


@app.command()
def report(
    campaign: Annotated[str, typer.Argument(help="A campaign's id.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for table.json, table.csv, table.md, pictures and a page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")] = False,
) -> None:
    """What was planned and what the boards measured."""
    from tailfleet_coordinator.report import table as report_table

    if sum((as_json, as_csv, as_markdown)) > 1:
        raise InputError("say at most one of --json, --csv and --markdown")
    here = fleet()
    if as_json:
        json_text(here.report(campaign))
    elif as_csv:
        sys.stdout.write(report_table.as_csv(here.report(campaign).rows))
    elif as_markdown:
        sys.stdout.write(report_table.as_markdown(here.report(campaign).rows))
    else:
        print_report(here, campaign, out)


@app.command()
def cancel(campaign: Annotated[str, typer.Argument(help="A campaign's id.")]) -> None:
    """Stop a campaign; what was measured stays."""
    fleet().cancel(campaign)
    say(f"campaign {campaign} is cancelled")


def planned(request: CampaignRequest, planner: str, objective: Objective, verify: int) -> CampaignRequest:
    """``request`` with what is to be planned. Raises ``InputError``, which names the option."""
    planners = split(planner)
    if planners == ["all"]:
        planners = ["optimal", *(name for name, method in BASELINES.items() if method in request.reducing_methods)]
    try:
        return replace(request, planners=planners, objective=objective, verify=verify)
    except InputError as error:
        option = {"planners": "--planner", "verify": "--verify"}.get(error.path.partition("[")[0], error.path)
        raise InputError(error.problem, error.mend, option) from error


def start(here: Fleet, request: CampaignRequest, wait: bool) -> str:
    """Hand ``request`` in, and follow it to its end where ``wait`` says so; the campaign's id."""
    campaign = here.run_campaign(request)
    say(f"campaign {campaign}: {len(request.boards)} boards × {len(request.models)} models")
    if request.objective is not None:
        say(f"objective: {objectives.words(request.objective)}")
    if not wait:
        say(f"tailfleet campaign status {campaign} tells its progress")
        return campaign
    answer, _ = follow(here, campaign)
    if request.objective is not None:
        print_report(here, campaign, None)
    raise_unless_done(answer)
    return campaign


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
        files = write_report(answer, curve_tables(here), out)
        say(f"written to {files.page}, {files.table_json}, {files.table_csv} and {files.table_markdown}")


def curve_tables(here: Fleet) -> CurveTables:
    """All that pictures of curves are drawn from."""
    return CurveTables(here.curves(), here.treads(), here.cliffs(), here.rounds())
