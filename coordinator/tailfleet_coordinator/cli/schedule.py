"""``tailfleet schedule``: the schedules that campaigns planned, and those that people made."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.cli.show import fleet, json_text, runs, say, table
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

app = typer.Typer(help="Schedules: list, show, add.", no_args_is_help=True)

LARGEST_BYTES = 1 << 20
"""A schedule has one number for each block of a model."""


@app.command("list")
def list_schedules(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    board: Annotated[str | None, typer.Option(help="Only this board.")] = None,
) -> None:
    """One line a schedule and board; one that was only added has no board."""
    frame = fleet().schedules(board=board, model=model)
    frame["digest"] = frame["digest"].str[:12]
    frame["keep"] = [runs(json.loads(keep)) for keep in frame["keep"]]
    table("schedules", frame, "no schedule is planned yet; tailfleet campaign run plans")


@app.command()
def show(digest: Annotated[str, typer.Argument(help="A schedule's digest, or its first characters.")]) -> None:
    """A schedule as the JSON that is shipped to boards."""
    json_text(fleet().schedule(digest))


@app.command()
def add(
    file: Annotated[str, typer.Argument(help="A schedule as JSON, as `show` prints it; - for standard input.")],
) -> None:
    """Keep a schedule of your own for a model that the coordinator knows; prints its digest."""
    say(fleet().add_schedule(from_file(file)))


def from_file(file: str) -> Schedule:
    """The schedule that ``file`` holds as JSON; ``-`` is standard input. Raises ``InputError``."""
    return codec.loads(Schedule, _content(file), "schedule")


def _content(file: str) -> bytes:
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
            content = source.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file!r}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{file!r} is larger than {LARGEST_BYTES} bytes: no schedule is")
    return content
