"""``tailfleet schedule``: the schedules that campaigns planned."""

import json
from typing import Annotated

import typer

from tailfleet_coordinator.cli.show import fleet, json_text, runs, table

app = typer.Typer(help="Planned schedules: list, show.", no_args_is_help=True)


@app.command("list")
def list_schedules(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    board: Annotated[str | None, typer.Option(help="Only this board.")] = None,
) -> None:
    """One line a schedule and board."""
    frame = fleet().schedules(board=board, model=model)
    frame["digest"] = frame["digest"].str[:12]
    frame["keep"] = [runs(json.loads(keep)) for keep in frame["keep"]]
    table("schedules", frame, "no schedule is planned yet; tailfleet campaign run plans")


@app.command()
def show(digest: Annotated[str, typer.Argument(help="A schedule's digest, or its first characters.")]) -> None:
    """A schedule as the JSON that is shipped to boards."""
    json_text(fleet().schedule(digest))
