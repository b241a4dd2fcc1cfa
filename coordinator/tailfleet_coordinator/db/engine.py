"""The connection to the database: SQLite or PostgreSQL, its clock, and the two kinds of transaction.

A *reading* transaction sees one consistent state. A *writing* one has the whole database to itself on SQLite (BEGIN
IMMEDIATE), so what it reads is still true when it writes; on PostgreSQL rows that a decision rests on are locked by
the query that reads them. Queries are left to the store's modules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, DateTime, Dialect, Engine, Float, Integer, String, column, event, select, table
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement, bindparam
from sqlalchemy.types import TypeDecorator

from tailfleet_coordinator.refusals import Deposed
from tailfleet_schema.errors import ConfigurationError

BUSY_SECONDS = 30.0
"""How long a writer waits for another one on SQLite. Writes take milliseconds; this is for a machine under load."""


class UtcTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on the Python side, whatever the database keeps. Refuses naive ones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        return value.astimezone(timezone.utc).replace(tzinfo=None if dialect.name == "sqlite" else timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class Now(FunctionElement[datetime]):
    """The database's clock, ``seconds`` from now (negative: ago). The only source of "now" in any query."""

    type = UtcTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(bindparam(None, float(seconds), type_=Float()))


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: Any, **options: Any) -> str:
    # julianday would round; this text is what SQLAlchemy itself writes, so that moments compare as texts.
    seconds = compiler.process(element.clauses, **options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+.3f seconds', {seconds})) || '000')"


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: Any, **options: Any) -> str:
    return f"(clock_timestamp() + ({compiler.process(element.clauses, **options)}) * interval '1 second')"


def open_engine(url: str) -> Engine:
    """An engine for ``url``. Raises ``ConfigurationError`` for a URL that names no database we know."""
    try:
        engine = sqlalchemy.create_engine(url)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"the database URL cannot be used: {error}", "--database-url sqlite:///FILE or postgresql+psycopg://…"
        ) from error
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"{engine.dialect.name} is not supported", "use SQLite or PostgreSQL")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # We say BEGIN ourselves: sqlite3's own is always a deferred one.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # After a power cut the newest transactions may be gone, never a part of one; boards measure again what is missing.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("tailfleet_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def check_epoch(connection: Connection, epoch: int) -> None:
    """Raise ``Deposed`` unless ``epoch`` is the current one; it stays so until the transaction ends."""
    # Shared, so that writers do not queue up here; a take-over waits until they are through.
    found = connection.execute(_EPOCH).first()
    if found is None or found.epoch != epoch:
        holder = "another coordinator" if found is None else found.holder
        raise Deposed(f"this coordinator no longer writes to the database: {holder} has taken over", "ask that one")


_leadership = table("leadership", column("id", Integer), column("epoch", Integer), column("holder", String))
_EPOCH = select(_leadership.c.epoch, _leadership.c.holder).where(_leadership.c.id == 1).with_for_update(read=True)


class Database:
    """An open database; safe to share between threads, not between processes (each opens its own)."""

    def __init__(self, url: str, epoch: int | None = None) -> None:
        """Write as the coordinator of ``epoch``; None: as nobody in particular, until ``take_leadership``."""
        self._engine = open_engine(url)
        self._epoch = epoch

    @property
    def epoch(self) -> int | None:
        """The epoch whose coordinator this writes for."""
        return self._epoch

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of SQLite."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write; undone when the block raises.

        Raises ``Deposed`` where another coordinator has taken over since this one's epoch: the fence stands before
        every write, so that none can forget it.
        """
        with self._connect() as connection:
            connection = connection.execution_options(tailfleet_writing=True)
            with connection.begin():
                if self._epoch is not None:
                    check_epoch(connection, self._epoch)
                yield connection

    def _connect(self) -> Connection:
        try:
            return self._engine.connect()
        except OperationalError as error:
            raise ConfigurationError(
                f"the database does not open: {error.orig}", "check --database-url and the folder it names"
            ) from error
