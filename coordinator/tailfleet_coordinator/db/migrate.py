"""The form of the database: made on first start, brought up to date on request, refused where it is another one's.

The migrations lie beside this module in a wheel, at the repository's root in an editable install.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from tailfleet_coordinator.db.engine import Now, lock_name, open_engine, refusals_of_the_database
from tailfleet_coordinator.db.tables import LeadershipTable
from tailfleet_coordinator.refusals import AnotherWriter
from tailfleet_schema.errors import ConfigurationError, InternalError

UPGRADE = "tailfleet db upgrade"

OURS = frozenset(["boards", "campaigns", "jobs"])
"""Tables that every release's form has."""


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
    """The database's revision; None for an empty one, or a file of SQLite that is yet to be made.

    Raises ``ConfigurationError`` for tables of somebody else's, and where the database cannot be reached.
    """
    with _opened(url) as engine:
        if _is_to_be_made(engine):
            return None
        with engine.connect() as connection:
            return _revision(connection)


def require(url: str) -> str:
    """The revision of a database of this release's form; of any other, the refusal that names what mends it."""
    revision = current(url)
    if revision is None:
        raise ConfigurationError("the database is empty", "tailfleet up makes what it needs")
    if revision == head():
        return revision
    if _is_known(revision):
        raise ConfigurationError(f"the database is of an older release (revision {revision})", UPGRADE)
    raise _newer(revision)


def prepare(url: str) -> None:
    """Make an empty database; accept one of this release's form; refuse any other, naming what mends it."""
    if current(url) is None:
        upgrade(url)
    require(url)


def upgrade(url: str) -> None:
    """Bring the database to this release's form, in one transaction: one that fails leaves it as it was.

    Raises ``ConfigurationError`` for a newer one and for rows that this release's form does not allow, and
    ``AnotherWriter`` while a live coordinator holds the database.
    """
    with _opened(url) as engine, engine.connect() as connection:
        connection = connection.execution_options(tailfleet_writing=True)
        with _without_references(connection), connection.begin():
            # Two that start on an empty database at once: the second one finds nothing left to do.
            lock_name(connection, "migration")
            revision = _revision(connection)
            if revision is not None and not _is_known(revision):
                raise _newer(revision)
            _refuse_beside_a_coordinator(connection)
            try:
                command.upgrade(_config(connection), "head")
                _check_references(connection)
            except IntegrityError as error:
                said = str(error.orig).splitlines()[0]
                raise ConfigurationError(
                    f"a stored row is not of the form that this release wants: {said}",
                    "change or remove that row, then upgrade again; the database is as it was",
                ) from error


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        with refusals_of_the_database():
            yield engine
    finally:
        engine.dispose()


def _is_to_be_made(engine: Engine) -> bool:
    """Whether the URL names a file of SQLite that is not there; to look into it would make it."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or path == ":memory:":
        return False
    return not Path(path).exists() and Path(path).parent.is_dir()


def _revision(connection: Connection) -> str | None:
    foreign = ConfigurationError(
        "the database holds tables that are not tailfleet's", "give tailfleet a database of its own"
    )
    tables = set(sqlalchemy.inspect(connection).get_table_names()) - {"alembic_version"}
    try:
        revision = MigrationContext.configure(connection).get_current_revision()
    except CommandError as error:
        raise foreign from error
    # Other programs keep their revision in a table of that name too.
    if tables and (revision is None or not tables >= OURS):
        raise foreign
    return revision


def _refuse_beside_a_coordinator(connection: Connection) -> None:
    if not sqlalchemy.inspect(connection).has_table(LeadershipTable.__tablename__):
        return
    # Locked: nobody takes the lead until the form is the new one.
    held = connection.execute(
        select(LeadershipTable.holder, (LeadershipTable.expires_at > Now()).label("holds")).with_for_update()
    ).first()
    if held is not None and held.holds:
        raise AnotherWriter(
            f"a coordinator holds the database ({held.holder})", "stop that coordinator first, then upgrade"
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _without_references(connection: Connection) -> Iterator[None]:
    """SQLite cannot alter a constraint: the table is made anew, which must not look like the loss of all its rows."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _check_references(connection: Connection) -> None:
    """What SQLite was kept from checking row by row, before the transaction ends."""
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise InternalError(f"the migration left rows of {broken[0]} that refer to nothing")


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
