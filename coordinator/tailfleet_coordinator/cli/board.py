"""``tailfleet board``: enrol boards, list them, revoke them."""

from typing import Annotated, Any

import pandas
import typer

from tailfleet_coordinator.cli.show import console, fleet, say, table
from tailfleet_schema.errors import InputError
from tailfleet_schema.virtual_board import OPTIONS

VIRTUAL = (
    "A modelled board, such as jetson-tx2; disturbed, if asked for, as in jetson-tx2:noise=0.03,bursts=0.3 (options:"
    f" {', '.join(OPTIONS)})."
)

app = typer.Typer(help="Enrol boards, list them, revoke them.", no_args_is_help=True)


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="What the board will be called.")],
    virtual: Annotated[str | None, typer.Option(metavar="BOARD[:OPTION=NUMBER,...]", help=VIRTUAL)] = None,
    minutes: Annotated[int, typer.Option(min=1, help="How long the line stays good.")] = 60,
    ca: Annotated[
        str | None, typer.Option(help="File on the board with the certificates to trust; copy it there first.")
    ] = None,
) -> None:
    """Print one line to paste on the board: it fetches the agent, enrols, and asks for work.

    Also for a revoked board, which keeps its curves.
    """
    enrolment = fleet().enroll_board(name, virtual_profile=virtual, minutes=minutes, ca=ca)
    if enrolment.warning:
        typer.echo(f"warning: {enrolment.warning}", err=True)
    typer.echo(f"Paste this on the board, within {minutes} minutes, where torch and timm can be imported:", err=True)
    typer.echo(enrolment.line)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="A board's name.")]) -> None:
    """Make a board's token void at once. Its curves stay; enrolling it again gives it another token."""
    fleet().revoke_board(name)
    say(f"board {name} may not speak any more; tailfleet board enroll {name} lets it in again")


@app.command("list")
def list_boards() -> None:
    """Every board with its hardware and software."""
    frame = fleet().boards()
    # What a board does not have is None among its facts, and NaN once pandas has had it.
    rows = [
        {name: None if pandas.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]
    shown = pandas.DataFrame(
        {
            "board": frame["name"],
            "kind": frame["kind"] + [f" ({row['virtual_profile']})" if row["virtual_profile"] else "" for row in rows],
            "online": ["revoked" if row["revoked_at"] else row["online"] for row in rows],
            "hardware": [_hardware(row) for row in rows],
            "software": [_software(row) for row in rows],
            "last seen (UTC)": frame["last_seen_at"],
        }
    )
    table("boards", shown, "no board is enrolled yet; tailfleet board enroll NAME prints the line that does it")


def _hardware(row: dict[Any, Any]) -> str:
    parts = [row["soc"] or row["cpu"], f"{row['cpu_cores']} cores", f"{row['memory_bytes'] / 2**30:.0f} GiB"]
    if row["gpu"]:
        parts.append(f"{row['gpu']}, {int(row['gpu_sms'])} SMs" if row["gpu_sms"] else row["gpu"])
    return ", ".join([*parts, row["architecture"]])


def _software(row: dict[Any, Any]) -> str:
    named = [(name, row[name]) for name in ("l4t", "cuda", "torch", "timm", "python") if row[name]]
    return ", ".join([row["os"], *(f"{name} {version}" for name, version in named)])


@app.command()
def show(name: Annotated[str, typer.Argument(help="A board's name.")]) -> None:
    """All facts of one board."""
    frame = fleet().boards()
    rows = frame[frame["name"] == name]
    if rows.empty:
        raise InputError(f"no board is called {name!r}", mend="tailfleet board list")
    for column, value in rows.iloc[0].items():
        console.print(f"{str(column).replace('_', ' ')}: {value}")
