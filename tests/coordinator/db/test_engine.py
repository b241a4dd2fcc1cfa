"""How a database is opened and what its transactions promise; its refusals, each one sentence without a password."""

import contextlib
import os
import sqlite3
import sys
import threading
from datetime import datetime, timezone

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from tailfleet_coordinator.db import engine
from tailfleet_coordinator.db.engine import Now, open_engine
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import BoardTable
from tailfleet_coordinator.refusals import DatabaseAway, status_of
from tailfleet_schema.errors import ConfigurationError, InputError


def path_of(lab):
    return lab.url.removeprefix("sqlite:///")


def cut(lab):
    """End the connections of everybody else, as a server does that is restarted."""
    lab.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize("seconds", [0.0, 0.0001, -3600.0, 1e6])
def test_the_clock_is_the_database_s_and_in_utc(lab, seconds):
    with lab.store.reading() as connection:
        moment = connection.execute(select(Now(seconds))).scalar_one()
    assert moment.tzinfo is timezone.utc
    assert abs((moment - datetime.now(timezone.utc)).total_seconds() - seconds) < 5


def test_a_reader_sees_one_state_throughout(lab):
    lab.board("nano")
    boards = select(func.count()).select_from(BoardTable)
    with lab.store.reading() as connection:
        before = connection.execute(boards).scalar_one()
        lab.board("another")
        assert connection.execute(boards).scalar_one() == before == 1
    assert len(lab.store.list_boards(60)) == 2


def test_what_a_failed_writer_wrote_is_undone(lab):
    board = lab.board("nano")

    def fail():
        with lab.store.writing() as connection:
            connection.execute(update(BoardTable).values(name="other"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert lab.store.get_board(board).name == "nano"


def test_a_fault_of_the_statement_is_not_taken_for_the_database_s(lab):
    with pytest.raises(DBAPIError), lab.store.reading() as connection:
        connection.execute(text("SELECT nothing FROM nowhere"))
    lab.board("nano")
    with pytest.raises(IntegrityError), lab.store.writing() as connection:
        connection.execute(update(BoardTable).values(kind="imagined"))


def test_a_text_that_a_database_cannot_hold_is_the_author_s_fault(lab):
    with pytest.raises(InputError):
        lab.store.get_job("a job\0")
    with pytest.raises(InputError):
        lab.store.get_campaign("\0")


def test_sqlite_waits_for_writers_and_checks_references(sqlite_lab):
    with sqlite_lab.store.reading() as connection:
        told = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
        patience = connection.execute(text("PRAGMA busy_timeout")).scalar()
    assert told == ["wal", 1]
    assert patience >= 10_000


class Refusing:
    """A cursor that refuses the first statements."""

    def __init__(self, *words):
        self.words = list(words)
        self.done = []

    def execute(self, statement):
        if self.words:
            raise sqlite3.OperationalError(self.words.pop(0))
        self.done.append(statement)


def test_who_changes_the_journal_while_another_one_does_tries_again(monkeypatch):
    naps = []
    monkeypatch.setattr(engine.time, "sleep", naps.append)
    cursor = Refusing("database is locked", "database is locked")
    engine._use_wal(cursor)
    assert (cursor.done, len(naps)) == (["PRAGMA journal_mode = WAL"], 2)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        engine._use_wal(Refusing("disk I/O error"))
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        engine._use_wal(Refusing("database is locked"))


def test_a_writer_of_sqlite_has_the_database_from_its_first_moment(sqlite_lab):
    with sqlite_lab.store.writing(), contextlib.closing(sqlite3.connect(path_of(sqlite_lab), timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM boards").fetchall() == [(0,)]


def test_a_writer_of_sqlite_that_waits_in_vain_is_one_sentence(sqlite_lab):
    with contextlib.closing(sqlite3.connect(path_of(sqlite_lab), isolation_level=None)) as other:
        with sqlite_lab.store.reading() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseAway, match="database is locked") as refusal:
            sqlite_lab.store.replace_token("op", "operator", "a" * 64)
        assert status_of(refusal.value) == 503
        other.execute("ROLLBACK")
    sqlite_lab.store.replace_token("op", "operator", "a" * 64)


def test_a_reader_of_postgresql_cannot_write(postgresql_lab):
    with pytest.raises(DBAPIError, match="read-only"), postgresql_lab.store.reading() as connection:
        connection.execute(update(BoardTable).values(name="other"))


def test_a_server_that_was_restarted_between_two_requests_is_not_noticed(postgresql_lab):
    board = postgresql_lab.board("nano")
    cut(postgresql_lab)
    assert postgresql_lab.store.get_board(board).name == "nano"


def test_a_server_that_goes_in_mid_transaction_is_one_sentence_and_nothing_is_stored(postgresql_lab):
    board = postgresql_lab.board("nano")

    def rename():
        with postgresql_lab.store.writing() as connection:
            connection.execute(update(BoardTable).values(name="other"))
            cut(postgresql_lab)
            connection.execute(update(BoardTable).values(name="third"))

    with pytest.raises(DatabaseAway) as refusal:
        rename()
    assert "\n" not in refusal.value.sentence
    assert status_of(refusal.value) == 503
    assert postgresql_lab.store.get_board(board).name == "nano"


def test_of_two_writers_that_wait_for_each_other_one_is_refused_cleanly(postgresql_lab, together):
    lab = postgresql_lab
    boards = [lab.board("first"), lab.board("second")]
    ready = threading.Barrier(2)

    def writer(order):
        with lab.store.writing() as connection:
            for number, board in enumerate(order):
                connection.execute(update(BoardTable).where(BoardTable.id == board).values(last_seen_at=Now()))
                if number == 0:
                    ready.wait()

    outcomes = together(lambda: writer(boards), lambda: writer(boards[::-1]))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DatabaseAway", "NoneType"]
    (refused,) = (outcome for outcome in outcomes if outcome is not None)
    assert "deadlock" in refused.sentence


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_driver_of_postgresql_is_chosen_by_us(postgresql, scheme):
    engine = open_engine(postgresql.url("postgres").replace("postgresql+psycopg", scheme))
    with engine.connect() as connection:
        assert connection.execute(text("SHOW application_name")).scalar() == "tailfleet"
    engine.dispose()


def test_a_missing_driver_is_one_sentence_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match="needs its driver") as refusal:
        open_engine("postgresql://someone:secret@somewhere/farm")
    assert refusal.value.mend == "pip install 'tailfleet[postgresql]'"


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://me:secret@host:port/x", "mysql://me:secret@x/y", "oracle://x"]
)
def test_a_database_of_another_kind_is_refused(url):
    with pytest.raises(ConfigurationError) as refusal:
        open_engine(url)
    assert "secret" not in refusal.value.sentence + refusal.value.mend


@pytest.fixture
def locked(postgresql):
    """A role that is let in by its password alone."""
    rules = os.path.join(postgresql.folder, "pg_hba.conf")
    with open(rules) as file:
        before = file.read()
    postgresql.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    with open(rules, "w") as file:
        file.write("local all locked scram-sha-256\n" + before)
    postgresql.reload()
    yield lambda password: postgresql.url("postgres", "locked", password)
    with open(rules, "w") as file:
        file.write(before)
    postgresql.reload()
    postgresql.execute("DROP ROLE locked")


def test_a_wrong_password_is_one_sentence_that_does_not_tell_it(locked, caplog):
    right, wrong = Store(locked("right")), Store(locked("hunter2"))
    with right.reading() as connection:
        assert connection.execute(select(1)).scalar() == 1
    with caplog.at_level("DEBUG"), pytest.raises(ConfigurationError, match="password authentication failed") as refusal:
        wrong.list_boards(60)
    told = refusal.value.sentence + refusal.value.mend
    assert "\n" not in told
    assert "hunter2" not in told + caplog.text + repr(wrong)
    right.close()
    wrong.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:secret@127.0.0.1:1/farm", "Connection refused"),
        ("postgresql://me:secret@/farm?host=/nowhere", "No such file"),
        ("sqlite:////nowhere/at/all/farm.sqlite", "unable to open"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_sentence(url, words):
    store = Store(url)
    with pytest.raises(DatabaseAway, match=words) as refusal:
        store.list_boards(60)
    assert "--database-url" in refusal.value.mend
    assert "\n" not in refusal.value.sentence
    assert "secret" not in refusal.value.sentence
    store.close()


def test_a_database_that_does_not_exist_is_one_sentence(postgresql):
    store = Store(postgresql.url("absent"))
    with pytest.raises(DatabaseAway, match='database "absent" does not exist'):
        store.list_boards(60)
    store.close()
