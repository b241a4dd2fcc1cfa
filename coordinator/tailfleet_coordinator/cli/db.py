"""``tailfleet db``: bring the database to this release's form, or tell which form it has."""

from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.settings import Settings

app = typer.Typer(help="The database: upgrade, current.", no_args_is_help=True)

State = Annotated[Path, typer.Option(envvar="TAILFLEET_STATE", help="Folder of the database.")]
Url = Annotated[
    str | None, typer.Option(envvar="TAILFLEET_DATABASE_URL", help="SQL database; default: SQLite in the state folder.")
]


@app.command()
def upgrade(state: State = Path("~/.tailfleet"), database_url: Url = None) -> None:
    """Bring the database to this release's form; the coordinator must not be running."""
    url = Settings(state_dir=state.expanduser(), database_url=database_url).url
    migrate.upgrade(url)
    typer.echo(f"the database is at revision {migrate.current(url)}")


@app.command()
def current(state: State = Path("~/.tailfleet"), database_url: Url = None) -> None:
    """Print the database's revision and the one that this release wants."""
    url = Settings(state_dir=state.expanduser(), database_url=database_url).url
    typer.echo(f"database: {migrate.current(url) or 'empty'}; this release: {migrate.head()}")
