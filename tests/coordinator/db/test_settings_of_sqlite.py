"""How SQLite is opened: what the claims and the durability of the store rest on."""

import contextlib
import sqlite3
from datetime import datetime, timezone

import pytest
from sqlalchemy import select, text

from tailfleet_coordinator.db.engine import Now, open_engine
from tailfleet_schema.errors import ConfigurationError


def test_a_connection_waits_for_writers_and_checks_references(lab):
    with lab.store.reading() as connection:
        told = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
        patience = connection.execute(text("PRAGMA busy_timeout")).scalar()
    assert told == ["wal", 1]
    assert patience >= 10_000


def test_a_writer_has_the_database_from_its_first_moment(lab):
    with lab.store.writing(), contextlib.closing(sqlite3.connect(lab.path, timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM boards").fetchall() == [(0,)]


@pytest.mark.parametrize("seconds", [0.0, 0.0001, -3600.0, 1e6])
def test_the_clock_is_the_database_s_and_in_utc(lab, seconds):
    with lab.store.reading() as connection:
        moment = connection.execute(select(Now(seconds))).scalar_one()
    assert moment.tzinfo is timezone.utc
    assert abs((moment - datetime.now(timezone.utc)).total_seconds() - seconds) < 5


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "oracle://x"])
def test_a_database_of_another_kind_is_refused(url):
    with pytest.raises(ConfigurationError):
        open_engine(url)
