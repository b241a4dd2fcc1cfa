"""``tailfleet schedule``: the schedules that campaigns planned, and those that people made."""

import json
import sys
from pathlib import Path
from typing import Annotated

import pandas
import typer

from tailfleet_coordinator.cli.show import fleet, json_text, runs, say, table
from tailfleet_coordinator.client import Fleet
from tailfleet_schema import codec
from tailfleet_schema.errors import InputError
from tailfleet_schema.schedule import Schedule

app = typer.Typer(help="Schedules: list, show, add, ship, pull.", no_args_is_help=True)

Digest = Annotated[str, typer.Argument(help="A schedule's digest, or its first characters.")]

LARGEST_BYTES = 1 << 20
"""A schedule has one number for each block of a model."""


@app.command("list")
def list_schedules(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    board: Annotated[str | None, typer.Option(help="Only this board.")] = None,
) -> None:
    """One line a schedule and board, and how far it has come there; one that was only added has no board."""
    here = fleet()
    shipments = here.shipments(board=board, model=model)
    frame = with_shipments(here, here.schedules(board=board, model=model), shipments)
    frame["digest"] = frame["digest"].str[:12]
    frame["keep"] = [runs(json.loads(keep)) for keep in frame["keep"]]
    table("schedules", frame, "no schedule is planned yet; tailfleet campaign run plans")
    tell_reasons(shipments)


def with_shipments(here: Fleet, schedules: pandas.DataFrame, shipments: pandas.DataFrame) -> pandas.DataFrame:
    """``schedules`` with their ``state`` on their board, empty where they were not shipped; and a row for each board
    that one was shipped to without having been planned for it."""
    planned = set(zip(schedules["digest"], schedules["board"], strict=True))
    more = []
    for digest, board in zip(shipments["digest"], shipments["board"], strict=True):
        if (digest, board) not in planned:
            schedule = here.schedule(digest)
            more.append(
                (digest, board, schedule.model, schedule.method, "", "", json.dumps(schedule.keep), "", pandas.NaT)
            )
    # Who added it needs no line without a board any more.
    kept = schedules[(schedules["board"] != "") | ~schedules["digest"].isin(shipments["digest"])]
    rows = [*kept.itertuples(index=False, name=None), *more]
    frame = pandas.DataFrame(rows, columns=list(schedules.columns))
    states = dict(zip(zip(shipments["digest"], shipments["board"], strict=True), shipments["state"], strict=True))
    frame["state"] = [states.get(place, "") for place in zip(frame["digest"], frame["board"], strict=True)]
    return frame


@app.command()
def show(
    digest: Digest,
    boards: Annotated[
        bool, typer.Option("--boards", help="Tell instead on which boards it is, and what it was planned on.")
    ] = False,
) -> None:
    """A schedule as the JSON that is shipped to boards."""
    here = fleet()
    schedule = here.schedule(digest)
    if not boards:
        json_text(schedule)
        return
    shipments = here.shipments(digest=schedule.digest)
    told = shipments[["board", "state", "queued_at", "delivered_at", "verified_at", "campaign", "curve_id"]].copy()
    for name in ("model_digest", "dataset_sha256", "fingerprint"):
        told[name] = [value and value[:12] for value in shipments[name]]
    table(f"schedule {schedule.digest[:12]} of {schedule.model}", told, "it was shipped to no board")
    tell_reasons(shipments)


@app.command()
def ship(
    digest: Digest,
    boards: Annotated[list[str], typer.Argument(help="Boards to ship it to.")],
) -> None:
    """Queue a schedule for boards; each fetches it when it next asks for work."""
    for row in fleet().ship_schedule(digest, boards).to_dict("records"):
        say(f"schedule {row['digest'][:12]} of {row['model']} is {row['state']} for {row['board']}")


@app.command()
def pull(
    digest: Digest,
    out: Annotated[Path | None, typer.Option(help="File to write; default: the model's name with .json.")] = None,
) -> None:
    """Download a schedule to a file, for a program of your own on this machine."""
    here = fleet()
    path = Path(f"{here.schedule(digest).model}.json") if out is None else out
    schedule = here.pull_schedule(digest, path)
    say(f"schedule {schedule.digest[:12]} of {schedule.model} is written to {path}")


def tell_reasons(shipments: pandas.DataFrame) -> None:
    """Print why a schedule is refused or stale, and what mends that, one line each."""
    for row in shipments[shipments["reason"] != ""].to_dict("records"):
        digest, board = row["digest"][:12], row["board"]
        say(f"schedule {digest} on {board} is {row['state']}: {row['reason']}")
        say(f"  mend: {row['renew'] or f'tailfleet schedule ship {digest} {board}, once that is no longer so'}")


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
