"""The form of the database: made, recognised, refused, upgraded with all its rows; and found in a wheel as well as
here. ``first_release.json`` holds the rows of every table as the first release's own store wrote them.
"""

import json
import shutil
import site
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, DateTime, MetaData, inspect, text

from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.engine import open_engine
from tailfleet_coordinator.db.integrity import examine
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.db.tables import Table
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_coordinator.refusals import AnotherWriter
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.errors import Blame, ConfigurationError
from tailfleet_schema.job import JobState
from tailfleet_schema.messages import Outcome
from tailfleet_schema.workload import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
FIRST_RELEASE = Path(__file__).with_name("first_release.json")
TOLD = json.loads(FIRST_RELEASE.read_text())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, new_url):
    return new_url(request.param)


@contextmanager
def opened(url):
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def sql(url, statement, **arguments):
    with opened(url) as engine, engine.begin() as connection:
        found = connection.execute(text(statement), arguments)
        return [tuple(row) for row in found] if found.returns_rows else []


def migrated(url, act):
    """``act(config)`` with alembic's configuration on the database, in a transaction."""
    with opened(url) as engine, engine.begin() as connection:
        act(migrate._config(connection))


@pytest.fixture
def first_release(url):
    """A database that the first release has worked with."""
    migrated(url, lambda config: command.upgrade(config, "0001"))
    form = MetaData()
    with opened(url) as engine, engine.begin() as connection:
        form.reflect(connection)
        for table in form.sorted_tables:
            rows = TOLD.get(table.name, [])
            for row in rows:
                values = {column.name: _value(engine, column, row[column.name]) for column in table.columns}
                connection.execute(table.insert().values(values))
            if engine.dialect.name == "postgresql" and rows and isinstance(rows[0].get("id"), int):
                newest = max(row["id"] for row in rows)
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {newest})"))
    return url


def _value(engine, column, stored):
    """As SQLite kept it in the file → as this database's driver takes it."""
    if stored is None or (engine.dialect.name == "sqlite" and not isinstance(column.type, DateTime)):
        return stored
    if isinstance(column.type, DateTime):
        moment = datetime.fromisoformat(stored)
        return moment if engine.dialect.name == "sqlite" else moment.replace(tzinfo=timezone.utc)
    return bool(stored) if isinstance(column.type, sqlalchemy.Boolean) else stored


def form_of(url):
    """Every table's columns, constraints and indexes, to compare."""
    with opened(url) as engine, engine.connect() as connection:
        seen = inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in seen.get_columns(name)],
                sorted(check["name"] for check in seen.get_check_constraints(name)),
                sorted(index["name"] for index in seen.get_indexes(name)),
            )
            for name in seen.get_table_names()
        }


def test_an_empty_database_is_made_and_then_accepted(url):
    assert migrate.current(url) is None
    migrate.prepare(url)
    assert migrate.current(url) == migrate.require(url) == migrate.head()
    migrate.prepare(url)


def test_to_look_for_a_file_of_sqlite_does_not_make_it(tmp_path):
    path = tmp_path / "tailfleet.sqlite"
    assert migrate.current(f"sqlite:///{path}") is None
    assert not path.exists()


def test_two_that_start_on_an_empty_database_at_once_make_it_once(url):
    failed, ready = [], threading.Barrier(4)

    def start():
        ready.wait()
        try:
            migrate.prepare(url)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert migrate.current(url) == migrate.head()


def test_the_migrations_make_what_the_tables_say(url):
    migrate.prepare(url)
    with opened(url) as engine, engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
        seen = inspect(connection)
        for name, table in Table.metadata.tables.items():
            made = {found["name"]: found["sqltext"] for found in seen.get_check_constraints(name)}
            said = {c.name: str(c.sqltext) for c in table.constraints if isinstance(c, CheckConstraint)}
            # PostgreSQL writes conditions anew; SQLite keeps what it was told.
            assert made.keys() == said.keys(), name
            assert engine.dialect.name != "sqlite" or made == said, name
            keys = {found["name"] for found in seen.get_foreign_keys(name)}
            assert keys == {str(key.name) for key in table.foreign_key_constraints}, name
        (good,) = (index for index in seen.get_indexes("tokens") if index["name"] == "uq_tokens_name_good")
        condition = good["dialect_options"][f"{engine.dialect.name}_where"]
        assert good["unique"]
        assert "revoked_at IS NULL" in str(condition)


def test_a_newer_database_is_refused_untouched(url):
    migrate.prepare(url)
    sql(url, "UPDATE alembic_version SET version_num = '9999'")
    for act in (migrate.prepare, migrate.upgrade):
        with pytest.raises(ConfigurationError, match="newer release") as refusal:
            act(url)
        assert refusal.value.mend
    assert migrate.current(url) == "9999"


def test_an_older_database_is_refused_with_the_command_that_mends_it(first_release):
    with pytest.raises(ConfigurationError, match=r"older release \(revision 0001\)") as refusal:
        migrate.prepare(first_release)
    assert refusal.value.mend == "tailfleet db upgrade"
    assert migrate.current(first_release) == "0001"


@pytest.mark.parametrize("version", [None, "1975ea83b712", "0001"])
def test_somebody_else_s_tables_are_left_alone(url, version):
    sql(url, "CREATE TABLE diary (day TEXT)")
    if version is not None:
        sql(url, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        sql(url, "INSERT INTO alembic_version VALUES (:version)", version=version)
    before = form_of(url)
    for act in (migrate.current, migrate.prepare, migrate.upgrade):
        with pytest.raises(ConfigurationError, match="not tailfleet's"):
            act(url)
    assert form_of(url) == before


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match="file is not a database"):
        migrate.prepare(f"sqlite:///{path}")


def test_every_table_of_the_first_release_has_rows_to_upgrade(first_release):
    made = set(form_of(first_release)) - {"alembic_version"}
    assert {name for name in made if TOLD[name]} == made


def test_what_the_first_release_stored_is_readable_after_the_upgrade(first_release):
    migrate.upgrade(first_release)
    assert examine(first_release, Plan).findings == []
    store = Store(first_release)
    boards = {board.name: board for board in store.list_boards(60)}
    assert {name: board.kind for name, board in boards.items()} == {
        "nano-7": BoardKind.PHYSICAL,
        "modelled": BoardKind.VIRTUAL,
    }
    assert sql(first_release, "SELECT count(*) FROM boards WHERE revoked_at IS NOT NULL") == [(0,)]

    normal = Preprocessing([0.3063], [0.3761], "bilinear")
    assert store.get_model("digits_vit").preprocessing == normal
    assert store.get_model("tiny").preprocessing is None
    for spec in store.list_models():
        assert sql(first_release, "SELECT digest FROM models WHERE name = :n", n=spec.name) == [(spec.digest,)]
    assert store.get_dataset("digits").classes == 10

    jobs = {job.id: job for job in store.list_records("c1") + store.list_records("c2")}
    assert {name: (job.state.value, job.attempt, job.done) for name, job in jobs.items()} == {
        "sweep-nano": ("done", 1, 4),
        "verify-nano": ("leased", 1, 0),
        "sweep-modelled": ("failed", 1, 0),
        "sweep-tiny": ("queued", 0, 0),
    }
    assert jobs["sweep-modelled"].failure.blame is Blame.CONFIGURATION
    assert store.get_job("sweep-nano").workload.model.preprocessing == normal
    assert store.get_job("sweep-nano").dataset == store.get_dataset("digits")
    assert sorted(sql(first_release, "SELECT job_id, attempt, log FROM job_logs")) == [
        ("sweep-modelled", 1, "ModuleNotFoundError: torch"),
        ("sweep-nano", 1, "17 tokens, 1001 ns"),
    ]

    (curve,) = store.list_curves()
    assert (curve.board, curve.model, curve.job_id) == ("nano-7", "digits_vit", "sweep-nano")
    results = store.list_results("sweep-nano")
    assert [result.call_ns for result in results] == [[1000], [1000], [1001], [1001]]
    assert results[0].telemetry.power_mode == "MAXN"
    assert [campaign.id for campaign in store.list_campaigns()] == ["c2", "c1"]
    assert {step.board: step.curve_id for step in store.list_steps("c1")} == {"nano-7": curve.id, "modelled": None}
    (plan,) = store.list_plans("c1")
    assert store.get_schedule(codec.loads(Plan, plan.plan_json).schedule.digest).model == "digits_vit"
    assert store.list_verify_jobs("c1") == {plan.id: "verify-nano"}
    assert len(store.list_profile("ab" * 32, "d1" * 32)) == 1

    # And the farm goes on with it.
    (waiting,) = (job for job in jobs.values() if job.state is JobState.LEASED)
    nano = boards["nano-7"].id
    assert store.renew_lease(nano, waiting.id, 1, 60) is False
    assert store.finish_job(nano, waiting.id, 1, Outcome.INTERRUPTED, None, "again")[0] is JobState.QUEUED
    store.replace_token("new", "viewer", "e" * 64)
    store.close()


def test_of_several_good_tokens_of_a_name_the_newest_stays_good(first_release):
    before = sql(first_release, "SELECT token_hash FROM tokens WHERE name = 'twice' ORDER BY id")
    assert len(before) == 2
    migrate.upgrade(first_release)
    good = "SELECT token_hash FROM tokens WHERE revoked_at IS NULL AND name = :name"
    assert sql(first_release, good, name="twice") == before[1:]
    assert len(sql(first_release, good, name="local")) == 1


@pytest.mark.parametrize(
    ("bad", "constraint"),
    [
        ("UPDATE results SET call_ns_json = '[]'", "ck_results_ok_has_samples_or_judgement"),
        ("UPDATE jobs SET finished_at = NULL WHERE state = 'done'", "ck_jobs_finished_exactly_if_ended"),
    ],
)
def test_a_row_that_the_new_form_forbids_stops_the_upgrade_and_all_is_as_before(first_release, bad, constraint):
    sql(first_release, bad)
    form, logs = form_of(first_release), sql(first_release, "SELECT id, log, job_json FROM jobs ORDER BY id")
    with pytest.raises(ConfigurationError, match=f"not of the form that this release wants: .*{constraint}") as refusal:
        migrate.upgrade(first_release)
    assert "\n" not in refusal.value.sentence
    assert migrate.current(first_release) == "0001"
    assert form_of(first_release) == form
    assert sql(first_release, "SELECT id, log, job_json FROM jobs ORDER BY id") == logs


def test_a_row_that_refers_to_nothing_stops_the_upgrade_of_sqlite(new_url, monkeypatch):
    """Its references are not checked while its tables are made anew."""
    url = new_url("sqlite")
    migrate.prepare(url)
    before = form_of(url)

    def careless(config, revision):
        connection = config.attributes["connection"]
        connection.exec_driver_sql("INSERT INTO job_logs VALUES ('ghost', 1, 'log', '2026-01-01')")
        connection.exec_driver_sql("CREATE TABLE more (id INTEGER)")

    monkeypatch.setattr(command, "upgrade", careless)
    with pytest.raises(Exception, match="rows of job_logs that refer to nothing"):
        migrate.upgrade(url)
    assert form_of(url) == before
    assert sql(url, "SELECT count(*) FROM job_logs") == [(0,)]


def test_the_second_form_cannot_be_undone_and_says_what_helps(url):
    migrate.prepare(url)
    before = form_of(url)
    with pytest.raises(ConfigurationError, match="cannot be undone") as refusal:
        migrated(url, lambda config: command.downgrade(config, "0001"))
    assert "copy of the database" in refusal.value.mend
    assert form_of(url) == before


def rows_of(url, tables):
    return {name: sorted(map(repr, sql(url, f"SELECT * FROM {name}"))) for name in sorted(tables)}


def test_shipments_and_readings_come_and_go_and_leave_all_other_rows_as_they_were(first_release):
    migrate.upgrade(first_release)
    later = {"shipments", "curve_readings", "contenders"}
    before = {name: form for name, form in form_of(first_release).items() if name not in later}
    stored = rows_of(first_release, set(before) - {"alembic_version"})
    store = Store(first_release)
    (nano,) = store.find_boards(["nano-7"])
    (plan,) = store.list_plans("c1")
    store.ship_verified(nano, plan.schedule_digest, "digits_vit", "c1")
    (shipment,) = store.list_due_shipments(nano)
    (curve,) = store.list_curves()
    assert (shipment.verified, shipment.planned_on.curve_id) == (True, curve.id)
    assert shipment.schedule().digest == plan.schedule_digest
    store.close()
    migrated(first_release, lambda config: command.downgrade(config, "0003"))
    assert migrate.current(first_release) == "0003"
    assert form_of(first_release) == before
    assert rows_of(first_release, stored) == stored


def test_no_upgrade_beside_a_coordinator(url):
    migrate.prepare(url)
    leader = Store(url)
    leader.take_leadership("host-1, process 7", "host-1", 60)
    with pytest.raises(AnotherWriter, match="host-1, process 7"):
        migrate.upgrade(url)
    leader.end_leadership()
    leader.close()
    migrate.upgrade(url)


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


def test_an_editable_install_finds_the_migrations_at_the_repository_s_root(tmp_path):
    """A real one, by pip, into an environment of its own that borrows this one's libraries."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    # Not --system-site-packages: this Python may itself be that of an environment, whose libraries those are not.
    (own,) = place.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    built = subprocess.run(
        [python, "-m", "pip", "install", *options, "--editable", ROOT],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    program = (
        "from tailfleet_coordinator.db import migrate as m; print(m.__file__); print(m.migrations_dir(), m.head())"
    )
    told = subprocess.run([python, "-c", program], env={"PATH": ""}, cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout.splitlines() == [
        str(ROOT / "coordinator" / "tailfleet_coordinator" / "db" / "migrate.py"),
        f"{ROOT / 'migrations'} {migrate.head()}",
    ], told.stderr
