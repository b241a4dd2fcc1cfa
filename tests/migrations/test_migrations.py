"""The form of the database: made, recognised, refused; and found in a wheel as well as here."""

import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect

from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.engine import open_engine
from tailfleet_coordinator.db.tables import Table
from tailfleet_schema.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'tailfleet.sqlite'}"


def stamp(url, revision):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()


def test_an_empty_database_is_made_and_then_accepted(url):
    assert migrate.current(url) is None
    migrate.prepare(url)
    assert migrate.current(url) == migrate.head()
    migrate.prepare(url)


def test_the_migrations_make_what_the_tables_say(url):
    migrate.prepare(url)
    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
        seen = inspect(connection)
        for name, table in Table.metadata.tables.items():
            made = {found["name"]: found["sqltext"] for found in seen.get_check_constraints(name)}
            said = {c.name: str(c.sqltext) for c in table.constraints if isinstance(c, CheckConstraint)}
            assert made == said, name
    engine.dispose()


def test_a_newer_database_is_refused_untouched(url):
    migrate.prepare(url)
    stamp(url, "9999")
    for act in (migrate.prepare, migrate.upgrade):
        with pytest.raises(ConfigurationError, match="newer release") as refusal:
            act(url)
        assert refusal.value.mend
    assert migrate.current(url) == "9999"


def test_an_older_database_is_refused_with_the_command_that_mends_it(url, monkeypatch):
    migrate.prepare(url)
    monkeypatch.setattr(migrate, "head", lambda: "0003")
    with pytest.raises(ConfigurationError, match="older release") as refusal:
        migrate.prepare(url)
    assert refusal.value.mend == "tailfleet db upgrade"


def test_somebody_else_s_tables_are_left_alone(url):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    with pytest.raises(ConfigurationError, match="not tailfleet's"):
        migrate.prepare(url)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        migrate.prepare(f"sqlite:///{path}")


def test_the_wheel_carries_the_migrations_where_they_are_looked_for(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "schema", "agent", "coordinator", "migrations"):
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
        else:
            shutil.copy(place, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = (
        "from tailfleet_coordinator.db import migrate; print(migrate.migrations_dir());"
        f" migrate.prepare('sqlite:///{tmp_path / 'x.sqlite'}'); print(migrate.head())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == [
        str(tmp_path / "installed" / "tailfleet_coordinator" / "db" / "migrations"),
        migrate.head(),
    ], told.stderr
