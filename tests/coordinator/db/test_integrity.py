"""What ``tailfleet db check`` finds: each kind of damage, done to a database that was sound."""

import contextlib
import sqlite3

import pytest

from tailfleet_coordinator.db.integrity import MOST_FINDINGS, NAMED_BY, READS, examine
from tailfleet_coordinator.db.tables import PlanTable, Table
from tailfleet_coordinator.plan.decision import Plan
from tailfleet_schema import codec
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import Judgement, Part, Unit, UnitResult
from tailfleet_schema.errors import Blame
from tailfleet_schema.job import Failure
from tailfleet_schema.messages import Outcome
from tailfleet_schema.schedule import dense
from tailfleet_schema.workload import DatasetSpec


@pytest.fixture
def lab(lab):
    """A lab with something in every column that holds a text."""
    store = lab.store
    store.put_dataset(DatasetSpec("digits", "d" * 64, 10, 10, 10, "made up"))
    nano, orin = lab.board("nano"), lab.board("orin", machine="machine-2")
    lab.campaign("c1", "nano", "orin")
    job = lab.sweep("c1", nano)
    lab.claim(nano)
    telemetry = Telemetry("2026-01-01T12:00:00Z")
    judged = Judgement(10, 9, 9, 0.1, "host")
    lab.add(nano, job, 1, [UnitResult(unit, r, [1], judged, "ok", telemetry) for unit in job.units for r in range(2)])
    store.finish_job(nano, job.id, 1, Outcome.DONE, None, "said", runtime={"device": "a chip"})
    store.create_curve(job.id, True, "")
    lab.sweep("c1", orin)
    schedule = dense("tiny", lab.model.geometry)
    plan = Plan(schedule, 2.0, 1.0, 1.0, 1.0, None, "prune")
    store.add_plan("c1", nano, "tiny", "optimal", "topk", codec.dumps(plan), schedule)
    store.add_profile("a" * 64, "d" * 64, [UnitResult(Unit(Part.LOSS, 17, 9, "topk", 1), 0, [], judged)])
    failure = codec.dumps(Failure("no torch", Blame.CONFIGURATION))
    for table in ("campaigns", "jobs", "steps"):
        lab.sql(f"UPDATE {table} SET failure_json = ?", failure)
    return lab


def findings(lab):
    return examine(lab.url, Plan).findings


def test_a_sound_database_has_no_findings_and_all_of_it_is_read(lab):
    found = examine(lab.url, Plan)
    assert found.findings == []
    held = 0
    for column in [*READS, PlanTable.plan_json]:
        ((count,),) = lab.sql(f"SELECT count(*) FROM {column.class_.__tablename__} WHERE {column.key} IS NOT NULL")
        assert count > 0, column
        held += count
    assert found.texts == held


def test_every_column_that_holds_a_text_for_the_codec_is_read():
    held = {f"{table}.{column.name}" for table in Table.metadata.tables.values() for column in table.columns}
    read = {f"{column.class_.__tablename__}.{column.key}" for column in [*READS, PlanTable.plan_json]}
    assert read == {name for name in held if name.endswith("_json")}


@pytest.mark.parametrize("text", ["not JSON", '{"unknown":1}', "NaN"])
def test_a_text_that_cannot_be_read_is_found(lab, text):
    columns = [(column.class_.__tablename__, column.key) for column in [*READS, PlanTable.plan_json]]
    for table, name in columns:
        lab.sql(f"UPDATE {table} SET {name} = ?", text)
    found = findings(lab)
    assert all(" cannot be read: " in line for line in found)
    assert {line.split(" of ")[0] for line in found} == {f"{table}.{name}" for table, name in columns}


def test_a_text_under_another_one_s_name_is_found(lab):
    lab.sql("UPDATE models SET digest = ? WHERE name = 'tiny'", "e" * 64)
    lab.sql("UPDATE datasets SET sha256 = ?", "e" * 64)
    lab.sql("UPDATE jobs SET job_json = (SELECT min(job_json) FROM jobs)")
    lab.sql("UPDATE schedules SET schedule_json = replace(schedule_json, 'tiny', 'tall')")
    found = findings(lab)
    assert len(found) == len(NAMED_BY) == 4
    for told, _ in NAMED_BY.values():
        assert any(f"belongs to another {told.key} than" in line for line in found), told


def test_many_findings_of_one_column_are_told_shortly(lab):
    for number in range(MOST_FINDINGS + 5):
        lab.store.put_dataset(DatasetSpec(f"images-{number}", "e" * 64, 10, 10, 10, "made up"))
    lab.sql("UPDATE datasets SET spec_json = '[]'")
    found = findings(lab)
    assert len(found) == MOST_FINDINGS + 1
    assert found[-1].endswith("and 6 more")


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["ALTER TABLE jobs ADD COLUMN note TEXT"], "remove column jobs note"),
        (["DROP INDEX uq_tokens_name_good"], "add index uq_tokens_name_good"),
        (["DROP TABLE verifications"], "add table verifications"),
    ],
)
def test_a_form_that_somebody_changed_by_hand_is_found(lab, statements, words):
    for statement in statements:
        lab.sql(statement)
    assert any(words in line for line in findings(lab)), findings(lab)


def test_a_condition_that_somebody_dropped_is_found(lab):
    if lab.url.startswith("sqlite"):
        text = "CONSTRAINT ck_models_digest_is_a_digest CHECK (length(digest) = 64)"
        lab.sql("PRAGMA writable_schema = ON")
        lab.sql("UPDATE sqlite_schema SET sql = replace(sql, ?, 'CHECK (true)') WHERE name = 'models'", text)
    else:
        lab.sql("ALTER TABLE models DROP CONSTRAINT ck_models_digest_is_a_digest")
    (line,) = findings(lab)
    assert line.endswith("models lacks the constraint ck_models_digest_is_a_digest")


def test_a_row_of_sqlite_that_refers_to_nothing_is_found(sqlite_lab):
    with contextlib.closing(sqlite3.connect(sqlite_lab.url.removeprefix("sqlite:///"))) as careless:
        careless.execute("INSERT INTO job_logs VALUES ('ghost', 1, 'log', '2026-01-01 12:00:00.000000')")
        careless.commit()
    assert findings(sqlite_lab) == ["job_logs: row 1 refers to a row of jobs that is not there"]


def test_a_damaged_file_of_sqlite_is_found_and_not_read_on(sqlite_lab):
    sqlite_lab.board("nano")
    sqlite_lab.sql("PRAGMA writable_schema = ON")
    sqlite_lab.sql("UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'uq_tokens_name_good'")
    found = examine(sqlite_lab.url, Plan)
    assert found.texts == 0
    assert found.findings
    assert all(line.startswith("SQLite: ") for line in found.findings)


def test_what_postgresql_was_kept_from_checking_is_found(postgresql_lab):
    postgresql_lab.sql("ALTER TABLE jobs ADD CONSTRAINT late CHECK (total < 5000) NOT VALID")
    postgresql_lab.sql("ALTER TABLE job_logs DISABLE TRIGGER ALL")
    assert findings(postgresql_lab) == [
        "PostgreSQL: a constraint was never checked: late",
        "PostgreSQL: a foreign key is switched off: job_logs",
    ]
