"""``tailfleet db``: bring the database to this release's form, tell which form it has, and whether it is sound.

What speaks to a database is imported late: no other command does.
"""

from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator.settings import Settings
from tailfleet_schema.errors import ConfigurationError

app = typer.Typer(help="The database: upgrade, current, check.", no_args_is_help=True)

State = Annotated[Path, typer.Option(envvar="TAILFLEET_STATE", help="Folder of the database.")]
Url = Annotated[
    str | None, typer.Option(envvar="TAILFLEET_DATABASE_URL", help="SQL database; default: SQLite in the state folder.")
]


@app.command()
def upgrade(state: State = Path("~/.tailfleet"), database_url: Url = None) -> None:
    """Bring the database to this release's form; the coordinator must not be running."""
    from tailfleet_coordinator.db import migrate

    url = _url(state, database_url)
    migrate.upgrade(url)
    typer.echo(f"the database is at revision {migrate.current(url)}")


@app.command()
def current(state: State = Path("~/.tailfleet"), database_url: Url = None) -> None:
    """Print the database's revision and the one that this release wants."""
    from tailfleet_coordinator.db import migrate

    revision = migrate.current(_url(state, database_url))
    typer.echo(f"database: {revision or 'empty'}; this release: {migrate.head()}")


@app.command()
def check(state: State = Path("~/.tailfleet"), database_url: Url = None) -> None:
    """Read the whole database and tell what is wrong with it; changes nothing."""
    # Imported late: a plan brings numpy, which nothing else here needs.
    from tailfleet_coordinator.db.integrity import examine
    from tailfleet_coordinator.plan.decision import Plan

    found = examine(_url(state, database_url), Plan)
    for finding in found.findings:
        typer.echo(finding)
    if found.findings:
        count = len(found.findings)
        raise ConfigurationError(
            f"the database is not sound: {count} finding{'s' if count > 1 else ''}, see above",
            "stop the coordinator and put back a copy of the database from before; without one, mend those rows by SQL",
        )
    typer.echo(f"the database is sound: revision {found.revision}, {found.texts} stored texts read")


def _url(state: Path, database_url: str | None) -> str:
    return Settings(state_dir=state.expanduser(), database_url=database_url).url
