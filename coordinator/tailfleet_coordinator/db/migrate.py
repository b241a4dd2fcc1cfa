"""The form of the database: made on first start, brought up to date on request, refused where it is another one's.

The migrations lie beside this module in a wheel, at the repository's root in an editable install.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, OperationalError

from tailfleet_coordinator.db.engine import open_engine
from tailfleet_schema.errors import ConfigurationError, InternalError

UPGRADE = "tailfleet db upgrade"


def migrations_dir() -> Path:
    """The folder of the migrations. Raises ``ConfigurationError`` where the installation lacks it."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "migrations", here.parents[3] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError("this installation lacks its migrations", "install tailfleet again")


def head() -> str:
    """The revision that this release wants."""
    revision = ScriptDirectory(str(migrations_dir())).get_current_head()
    assert revision is not None
    return revision


def current(url: str) -> str | None:
    """The database's revision; None for an empty one."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
            if revision is None and sqlalchemy.inspect(connection).get_table_names():
                raise ConfigurationError(
                    "the database holds tables that are not tailfleet's", "give tailfleet a database of its own"
                )
            return revision
    except (OperationalError, DatabaseError) as error:
        raise ConfigurationError(
            f"the database does not open: {error.orig}", "check --database-url and the folder it names"
        ) from error
    finally:
        engine.dispose()


def prepare(url: str) -> None:
    """Make an empty database; accept one of this release's form; refuse any other, naming what mends it."""
    revision = current(url)
    if revision is None:
        upgrade(url)
        return
    if revision == head():
        return
    if _is_known(revision):
        raise ConfigurationError(f"the database is of an older release (revision {revision})", UPGRADE)
    raise _newer(revision)


def upgrade(url: str) -> None:
    """Bring the database to this release's form. Raises ``ConfigurationError`` for a newer one."""
    revision = current(url)
    if revision is not None and not _is_known(revision):
        raise _newer(revision)
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                _without_references(connection, lambda: _run(config, connection))
            else:
                _run(config, connection)
    finally:
        engine.dispose()


def _run(config: Config, connection: Connection) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _without_references(connection: Connection, change: Callable[[], None]) -> None:
    """SQLite cannot alter a constraint: the table is made anew, which must not look like the loss of all its rows."""
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        change()
        broken = driver.execute("PRAGMA foreign_key_check").fetchall()
    finally:
        driver.execute("PRAGMA foreign_keys = ON")
    if broken:
        raise InternalError(f"the migration left rows of {broken[0][0]} that refer to nothing")


def _is_known(revision: str) -> bool:
    try:
        return ScriptDirectory(str(migrations_dir())).get_revision(revision) is not None
    except CommandError:
        return False


def _newer(revision: str) -> ConfigurationError:
    return ConfigurationError(
        f"the database is of a newer release (revision {revision}; this one knows {head()})",
        "install that release of tailfleet",
    )
