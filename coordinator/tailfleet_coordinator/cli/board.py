"""``tailfleet board``: enrol boards and list them."""

from typing import Annotated

import typer

from tailfleet_coordinator.cli.show import console, fleet, table

app = typer.Typer(help="Enrol boards and list them.", no_args_is_help=True)


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="What the board will be called.")],
    virtual: Annotated[str | None, typer.Option(help="A modelled board of this name, such as jetson-tx2.")] = None,
    minutes: Annotated[int, typer.Option(min=1, help="How long the line stays good.")] = 60,
) -> None:
    """Print one line to paste on the board: it fetches the agent, enrols, and asks for work."""
    enrolment = fleet().enroll_board(name, virtual_profile=virtual, minutes=minutes)
    if enrolment.warning:
        typer.echo(f"warning: {enrolment.warning}", err=True)
    else:
        typer.echo(
            f"Paste this on the board, within {minutes} minutes, where torch and timm can be imported:", err=True
        )
    typer.echo(enrolment.line)


@app.command("list")
def list_boards() -> None:
    """Every board with its hardware and software."""
    table(
        "boards", fleet().boards(), "no board is enrolled yet; tailfleet board enroll NAME prints the line that does it"
    )


@app.command()
def show(name: Annotated[str, typer.Argument(help="A board's name.")]) -> None:
    """All facts of one board."""
    frame = fleet().boards()
    rows = frame[frame["name"] == name]
    if rows.empty:
        from tailfleet_schema.errors import InputError

        raise InputError(f"no board is called {name!r}", mend="tailfleet board list")
    for column, value in rows.iloc[0].items():
        console.print(f"{str(column).replace('_', ' ')}: {value}")
