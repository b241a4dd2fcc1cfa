"""The entry point: puts the nouns together and turns every failure into one sentence and its mend."""

import os
import sys
from typing import Annotated

import typer

from tailfleet_coordinator.cli import (
    board,
    campaign,
    curve,
    dataset,
    db,
    demo,
    job,
    model,
    model_export,
    model_train,
    schedule,
    sweep,
    token,
    up,
)
from tailfleet_coordinator.cli.show import connections
from tailfleet_schema import __version__
from tailfleet_schema.errors import Blame, TailfleetError

app = typer.Typer(
    name="tailfleet",
    help="Latency against tokens on every board, and token-pruning schedules planned from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.add_typer(board.app, name="board")
model.app.command("export")(model_export.export)
model.app.command("train-cropr")(model_train.train_cropr)
app.add_typer(model.app, name="model")
app.add_typer(dataset.app, name="dataset")
app.add_typer(sweep.app, name="sweep")
app.add_typer(curve.app, name="curve")
app.add_typer(campaign.app, name="campaign")
app.add_typer(job.app, name="job")
app.add_typer(schedule.app, name="schedule")
app.add_typer(token.app, name="token")
app.add_typer(db.app, name="db")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tailfleet {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Options that stand before every command."""
    if debug:
        os.environ["TAILFLEET_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit."""
    try:
        with connections:
            app()
    except TailfleetError as error:
        if os.environ.get("TAILFLEET_DEBUG"):
            raise
        typer.echo(f"tailfleet: {error.sentence}", err=True)
        if error.mend:
            typer.echo(f"  mend: {error.mend}", err=True)
        sys.exit(2 if error.blame is Blame.AUTHOR else 1)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("TAILFLEET_DEBUG"):
            raise
        typer.echo(f"tailfleet: this is a bug in tailfleet: {type(error).__name__}: {error}", err=True)
        typer.echo("  mend: run it again as `tailfleet --debug …` and report what that prints", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
