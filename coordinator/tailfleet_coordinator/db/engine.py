"""The connection to the database: SQLite or PostgreSQL, its clock, and the two kinds of transaction.

A *reading* transaction sees one consistent state. A *writing* one has the whole database to itself on SQLite (BEGIN
IMMEDIATE), so what it reads is still true when it writes; on PostgreSQL (READ COMMITTED) rows that a decision rests on
are locked by the query that reads them, and what may not exist yet by ``lock_table`` or ``lock_name``. Locks are taken
in one order, so that nobody waits in a circle: leadership, campaign, jobs by id, machine by name, board, uses of
machines. Queries are left to the store's modules.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import sqlalchemy
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Integer,
    String,
    column,
    event,
    func,
    make_url,
    select,
    table,
)
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement, bindparam
from sqlalchemy.types import TypeDecorator

from tailfleet_coordinator.refusals import DatabaseAway, Deposed
from tailfleet_schema.errors import ConfigurationError, InputError

BUSY_SECONDS = 30.0
"""How long a writer waits for another one on SQLite. Writes take milliseconds; this is for a machine under load."""

RETRY_SECONDS = 0.01

CONNECT_SECONDS = 10
"""How long a PostgreSQL server may take to let us in; a host that swallows packets would hold us for minutes."""

USUAL_URL = "--database-url sqlite:////path/to/FILE or postgresql://USER@HOST/DATABASE"


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
    """An engine for ``url``; it connects when it is first used. Raises ``ConfigurationError`` for a URL that names no
    database we know, or one whose driver is not installed.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # Not the URL itself: it may hold a password.
        raise ConfigurationError("the database URL cannot be read", USUAL_URL) from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return _open_sqlite(parsed)
    if kind in ("postgresql", "postgres"):
        return _open_postgresql(parsed)
    raise ConfigurationError(f"{kind} is not supported", f"use SQLite or PostgreSQL: {USUAL_URL}")


def _open_sqlite(url: URL) -> Engine:
    engine = sqlalchemy.create_engine(url.set(drivername="sqlite"))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_postgresql(url: URL) -> Engine:
    patience = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
    try:
        return sqlalchemy.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"application_name": "tailfleet", **patience},
            # A server that was restarted has cut the idle connections: they are made anew, and nobody is told.
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError("PostgreSQL needs its driver", "pip install 'tailfleet[postgresql]'") from error


def _prepare_sqlite(connection: Any, _: object) -> None:
    # We say BEGIN ourselves: sqlite3's own is always a deferred one.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    _use_wal(cursor)
    # After a power cut the newest transactions may be gone, never a part of one; boards measure again what is missing.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Of several that open a new file at once, each changes its journal; SQLite then gives up at once, whatever its
    timeout, where two might wait for each other."""
    latest = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= latest:
                raise
        time.sleep(RETRY_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("tailfleet_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def refusals_of_the_database() -> Iterator[None]:
    """Turn what the database itself refuses into one sentence: ``DatabaseAway`` for a server that cannot be reached
    or gave up the transaction, ``InputError`` for a value that no column can hold. What is our own fault passes."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseAway("the database has no free connection", "ask again") from error
    except DataError as error:
        raise InputError(f"the database cannot hold a value: {_in_words(error)}") from error
    except DBAPIError as error:
        if not error.connection_invalidated and not _is_outer(error):
            raise
        raise DatabaseAway(
            f"the database cannot be used: {_in_words(error)}",
            "see that --database-url names it and that it runs; nothing of this was stored",
        ) from error


PASSING = ("08", "28", "3D", "40", "53", "55", "57", "58")
"""Classes of PostgreSQL's SQLSTATE for what is not the statement's fault: the connection, the login, the database's
name, a deadlock or serialization, resources, locks, an operator, the system."""


SQLITE_PASSING = frozenset([5, 6, 8, 10, 11, 13, 14, 26])
"""Result codes of SQLite for the same: BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB."""


def _is_outer(error: DBAPIError) -> bool:
    """Whether the fault lies outside of the statement: the same one may succeed when that is mended."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in PASSING
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in SQLITE_PASSING
    # A server that was not reached, which has told no state; and SQLite on Python 3.10, which tells no code.
    return isinstance(error, OperationalError) and "no such" not in str(error.orig)


def _in_words(error: DBAPIError) -> str:
    """The driver's first line: the following ones repeat it for each address, or show the statement."""
    lines = str(error.orig).strip().splitlines()
    return lines[0].strip() if lines else type(error.orig).__name__


def lock_table(connection: Connection, name: str) -> None:
    """Let nobody else write to the table until this transaction ends; for rows that may not exist yet, and are rare.

    On SQLite a writer is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")


def lock_name(connection: Connection, name: str) -> None:
    """Queue up behind whoever else locked ``name``, until this transaction ends. On SQLite a writer is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def check_epoch(connection: Connection, epoch: int) -> None:
    """Raise ``Deposed`` unless ``epoch`` is the current one; it stays so until the transaction ends."""
    # Shared, so that writers do not queue up here; a take-over waits until they are through.
    found = connection.execute(_EPOCH.with_for_update(read=True)).first()
    if found is None or found.epoch != epoch:
        raise deposed_by(None if found is None else found.holder)


def deposed_by(holder: str | None) -> Deposed:
    """The refusal of a writer whom ``holder`` has followed."""
    name = holder or "another coordinator"
    return Deposed(f"this coordinator no longer writes to the database: {name} has taken over", "ask that one")


_leadership = table("leadership", column("id", Integer), column("epoch", Integer), column("holder", String))
_EPOCH = select(_leadership.c.epoch, _leadership.c.holder).where(_leadership.c.id == 1)


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
        """A transaction that only reads, one state of the database throughout. Raises ``DatabaseAway``."""
        with self._transaction(**({} if self.is_sqlite else READ_ONLY)) as connection:
            yield connection

    @contextmanager
    def writing(self, fenced: bool = True) -> Iterator[Connection]:
        """A transaction that may write; undone when the block raises.

        Raises ``Deposed`` where another coordinator has taken over since this one's epoch: the fence stands before
        every write, so that none can forget it (``fenced=False`` is for what changes the fence itself). Raises
        ``DatabaseAway``, and ``InputError`` for a value that the database cannot hold.
        """
        with self._transaction(tailfleet_writing=True) as connection:
            if fenced and self._epoch is not None:
                check_epoch(connection, self._epoch)
            yield connection

    @contextmanager
    def _transaction(self, **options: Any) -> Iterator[Connection]:
        with refusals_of_the_database(), self._engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection


READ_ONLY = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
