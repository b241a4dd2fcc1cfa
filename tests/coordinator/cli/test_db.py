"""``tailfleet db``: what people read and what programs are told (exit codes), on a database in every state."""

import sys

import pytest
from alembic import command

from tailfleet_coordinator.cli import main
from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.engine import open_engine

UNREACHABLE = {
    "sqlite": ("sqlite:////nowhere/at/all/farm.sqlite", "unable to open database file"),
    "postgresql": ("postgresql://me:secret@127.0.0.1:1/farm", "Connection refused"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    return request.param


@pytest.fixture
def url(engine, new_url):
    return new_url(engine)


@pytest.fixture
def tailfleet(monkeypatch, capsys):
    """``tailfleet(url, …)``: run the command on that database; exit code, what it printed, what it complained."""

    def run(url, *arguments):
        monkeypatch.setenv("TAILFLEET_DATABASE_URL", url)
        monkeypatch.delenv("TAILFLEET_DEBUG", raising=False)
        monkeypatch.setattr(sys, "argv", ["tailfleet", "db", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return end.value.code or 0, told.out, told.err

    return run


def write(url, *statements):
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def refused(told, sentence, mend=None):
    code, out, complaint = told
    lines = complaint.splitlines()
    assert (code, out) == (1, "")
    assert len(lines) == 2
    assert sentence in lines[0]
    assert lines[1].startswith("  mend: ")
    assert mend is None or mend in lines[1]


def test_an_empty_database(tailfleet, url):
    assert tailfleet(url, "current") == (0, f"database: empty; this release: {migrate.head()}\n", "")
    refused(tailfleet(url, "check"), "the database is empty", "tailfleet up")
    assert tailfleet(url, "upgrade") == (0, f"the database is at revision {migrate.head()}\n", "")


def test_a_database_of_this_release(tailfleet, url):
    migrate.prepare(url)
    head = migrate.head()
    assert tailfleet(url, "current") == (0, f"database: {head}; this release: {head}\n", "")
    assert tailfleet(url, "upgrade") == (0, f"the database is at revision {head}\n", "")
    assert tailfleet(url, "check") == (0, f"the database is sound: revision {head}, 0 stored texts read\n", "")


def test_an_older_database(tailfleet, url):
    engine = open_engine(url)
    with engine.begin() as connection:
        command.upgrade(migrate._config(connection), "0001")
    engine.dispose()
    assert tailfleet(url, "current") == (0, f"database: 0001; this release: {migrate.head()}\n", "")
    refused(tailfleet(url, "check"), "older release (revision 0001)", "tailfleet db upgrade")
    assert tailfleet(url, "upgrade")[0] == 0
    assert tailfleet(url, "check")[0] == 0


def test_a_newer_database(tailfleet, url):
    migrate.prepare(url)
    write(url, "UPDATE alembic_version SET version_num = '9999'")
    assert tailfleet(url, "current") == (0, f"database: 9999; this release: {migrate.head()}\n", "")
    for name in ("check", "upgrade"):
        refused(tailfleet(url, name), "newer release (revision 9999", "install that release")


def test_somebody_else_s_database(tailfleet, url):
    write(url, "CREATE TABLE diary (day TEXT)")
    for name in ("current", "check", "upgrade"):
        refused(tailfleet(url, name), "not tailfleet's", "a database of its own")


def test_a_database_that_cannot_be_reached(tailfleet, engine):
    url, words = UNREACHABLE[engine]
    for name in ("current", "check", "upgrade"):
        told = tailfleet(url, name)
        refused(told, words, "--database-url")
        assert "secret" not in told[2]


def test_a_url_that_names_no_database(tailfleet):
    for name in ("current", "check", "upgrade"):
        refused(tailfleet("mysql://me:secret@host/farm", name), "mysql is not supported", "SQLite or PostgreSQL")


def test_no_upgrade_beside_a_coordinator(tailfleet, url, open_lab):
    migrate.prepare(url)
    lab = open_lab(url)
    lab.store.take_leadership("host-1, process 7", "host-1", 60)
    refused(tailfleet(url, "upgrade"), "host-1, process 7", "stop that coordinator first")
    # To look is allowed.
    assert tailfleet(url, "check")[0] == 0


def test_every_finding_is_a_line_and_the_exit_code_says_that_there_are_some(tailfleet, url, open_lab):
    migrate.prepare(url)
    lab = open_lab(url)
    lab.board("nano-7")
    assert "the database is sound" in tailfleet(url, "check")[1]
    write(url, "UPDATE boards SET facts_json = '{}'", "UPDATE models SET spec_json = 'not JSON'")
    code, out, complaint = tailfleet(url, "check")
    assert code == 1
    assert [line.split(" cannot be read")[0] for line in out.splitlines()] == [
        "boards.facts_json of 1",
        "models.spec_json of 'tiny'",
    ]
    assert complaint.splitlines()[0].endswith("the database is not sound: 2 findings, see above")
    assert "mend: " in complaint
