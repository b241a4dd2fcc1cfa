"""Rows that must not exist are refused by the database itself, on both engines: every constraint of the tables is met
by a row that is good but for what it forbids. The list is taken from the tables, so a new constraint needs its row.
"""

import shutil
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint, delete, insert
from sqlalchemy.exc import IntegrityError

from tailfleet_coordinator.db.engine import open_engine
from tailfleet_coordinator.db.tables import Table

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
LATER = NOON + timedelta(hours=1)
TABLES = Table.metadata.tables
UNIT = {"part": "model", "label": "", "block": -1, "tokens": 17, "kept": 17}


def digest(letter):
    return letter * 64


FIRST = {
    "boards": {"id": 1, "name": "nano", "kind": "physical", "virtual_profile": None, "facts_json": "{}",
               "machine_id": "m1", "fingerprint": digest("f"), "token_hash": digest("1"), "enrolled_at": NOON},
    "enrolments": {"id": 1, "board": "nano", "token_hash": digest("1"), "created_at": NOON, "expires_at": LATER},
    "tokens": {"id": 1, "name": "op", "role": "operator", "token_hash": digest("1"), "created_at": NOON},
    "models": {"name": "tiny", "digest": digest("a"), "spec_json": "{}", "registered_at": NOON},
    "datasets": {"name": "digits", "sha256": digest("d"), "spec_json": "{}", "registered_at": NOON},
    "campaigns": {"id": "c1", "request_json": "{}", "state": "running", "created_at": NOON},
    "schedules": {"digest": digest("1"), "model": "tiny", "method": "topk", "schedule_json": "{}", "created_at": NOON},
    "jobs": {"id": "j1", "campaign_id": "c1", "board_id": 1, "model": "tiny", "kind": "sweep", "job_json": "{}",
             "total": 4, "state": "queued", "created_at": NOON},
    "job_logs": {"job_id": "j1", "attempt": 1, "log": "", "stored_at": NOON},
    "results": {"id": 1, "job_id": "j1", **UNIT, "round": 0, "status": "ok", "call_ns_json": "[1]", "attempt": 1,
                "stored_at": NOON},
    "curves": {"id": 1, "job_id": "j1", "board_id": 1, "model": "tiny", "model_digest": digest("a"),
               "backend": "eager", "dtype": "fp32", "batch": 1, "fingerprint": digest("f"), "stable": True,
               "unstable_reason": "", "measured_at": NOON},
    "curve_rounds": {"curve_id": 1, "round": 0, "factor": 1.0, "disturbed": False, "reason": ""},
    "treads": {"curve_id": 1, "first_tokens": 2, "last_tokens": 17, "quiet_ns": 1e6},
    "cliffs": {"curve_id": 1, "from_tokens": 8, "to_tokens": 9, "upwards": True, "height_ns": 1e5,
               "height_percent": 10.0, "confidence": 0.99},
    "curve_readings": {"curve_id": 1, "version": 1, "reading": "{}"},
    "steps": {"id": 1, "campaign_id": "c1", "board_id": 1, "model": "tiny", "phase": "sweep", "curve_id": 1},
    "profiles": {"id": 1, "model_digest": digest("a"), "dataset_sha256": digest("d"), **UNIT, "part": "loss",
                 "judgement_json": "{}", "stored_at": NOON},
    "plans": {"id": 1, "campaign_id": "c1", "board_id": 1, "model": "tiny", "planner": "optimal", "method": "topk",
              "plan_json": "{}", "schedule_digest": digest("1"), "created_at": NOON},
    "contenders": {"plan_id": 1, "place": 1, "schedule_digest": digest("1")},
    "verifications": {"plan_id": 1, "job_id": "j1"},
    "shipments": {"id": 1, "board_id": 1, "schedule_digest": digest("1"), "model": "tiny", "state": "queued",
                  "queued_at": NOON, "model_digest": digest("a"), "campaign_id": "c1", "curve_id": 1},
    "machine_uses": {"id": 1, "machine_id": "m1", "holder": "task", "exclusive": False, "expires_at": LATER},
    "leadership": {"id": 1, "epoch": 1, "holder": "host-1", "holder_key": "host-1", "taken_at": NOON,
                   "expires_at": LATER},
}  # fmt: skip
"""One good row of every table."""

SECOND = {
    "boards": {"id": 2, "name": "orin", "token_hash": digest("2")},
    "enrolments": {"id": 2, "token_hash": digest("2")},
    "tokens": {"id": 2, "name": "other", "token_hash": digest("2")},
    "models": {"name": "other"},
    "datasets": {"name": "other"},
    "campaigns": {"id": "c2"},
    "schedules": {"digest": digest("2")},
    "jobs": {"id": "j2", "kind": "verify"},
    "job_logs": {"attempt": 2},
    "results": {"id": 2, "round": 1},
    "curves": {"id": 2, "job_id": "j0"},
    "curve_rounds": {"round": 1},
    "treads": {"first_tokens": 3},
    "cliffs": {"from_tokens": 7},
    "curve_readings": {"curve_id": 3},
    "steps": {"id": 2, "model": "spare"},
    "profiles": {"id": 2, "kept": 5},
    "plans": {"id": 2, "method": "pomt"},
    "contenders": {"place": 2},
    "verifications": {"plan_id": 3},
    "shipments": {"id": 2, "schedule_digest": digest("3")},
    "machine_uses": {"id": 2, "holder": "second task"},
    "leadership": {},
}
"""What makes a second good row of the first one; of leadership there is no second, it takes the first one's place."""

SPARE = [
    ("models", {"name": "spare"}),
    ("jobs", {"id": "j0", "model": "spare"}),
    ("plans", {"id": 3, "model": "spare"}),
    ("schedules", {"digest": digest("3")}),
    ("jobs", {"id": "j3", "model": "spare", "kind": "verify"}),
    ("curves", {"id": 3, "job_id": "j3"}),
]
"""Rows that the second ones refer to."""

FORBIDDEN = {
    "ck_boards_kind_known": {"kind": "imagined"},
    "ck_boards_profile_exactly_if_virtual": {"virtual_profile": "jetson-tx2"},
    "ck_boards_name_not_empty": {"name": ""},
    "ck_enrolments_board_not_empty": {"board": ""},
    "ck_enrolments_expires_after_its_creation": {"expires_at": NOON},
    "ck_tokens_role_known": {"role": "owner"},
    "ck_tokens_name_not_empty": {"name": ""},
    "ck_campaigns_state_known": {"state": "lost", "finished_at": NOON},
    "ck_campaigns_finished_exactly_if_ended": {"finished_at": NOON},
    "ck_jobs_kind_known": {"kind": "profile"},
    "ck_jobs_state_known": {"state": "lost"},
    "ck_jobs_expires_exactly_if_leased": {"lease_expires_at": NOON},
    "ck_jobs_finished_exactly_if_ended": {"finished_at": NOON},
    "ck_jobs_failed_has_reason": {"state": "failed", "finished_at": NOON},
    "ck_jobs_leased_was_given": {"state": "leased", "lease_expires_at": NOON, "attempt": 0},
    "ck_jobs_attempt_counts": {"attempt": -1},
    "ck_jobs_total_positive": {"total": 0},
    "ck_job_logs_attempt_counts": {"attempt": 0},
    "ck_results_part_known": {"part": "whole"},
    "ck_results_status_known": {"status": "lost"},
    "ck_results_kept_within_tokens": {"kept": 18},
    "ck_results_round_counts": {"round": -1},
    "ck_results_block_counts": {"block": -2},
    "ck_results_attempt_counts": {"attempt": 0},
    "ck_results_ok_has_samples_or_judgement": {"call_ns_json": "[]"},
    "ck_results_peak_memory_counts": {"peak_memory_bytes": -1},
    "ck_results_energy_counts": {"energy_mj": -1.0},
    "ck_curve_rounds_round_counts": {"round": -1},
    "ck_curve_rounds_factor_positive": {"factor": 0.0},
    "ck_curve_rounds_disturbed_has_reason": {"disturbed": True},
    "ck_contenders_place_counts": {"place": 0},
    "ck_treads_first_to_last": {"first_tokens": 18},
    "ck_treads_quiet_positive": {"quiet_ns": 0.0},
    "ck_cliffs_from_to": {"from_tokens": 9},
    "ck_cliffs_height_positive": {"height_ns": 0.0},
    "ck_cliffs_confidence_is_a_probability": {"confidence": 1.5},
    "ck_curves_unstable_has_reason": {"stable": False},
    "ck_curves_batch_positive": {"batch": 0},
    "ck_steps_phase_known": {"phase": "lost"},
    "ck_profiles_part_known": {"part": "model"},
    "ck_profiles_kept_within_tokens": {"kept": 0},
    "ck_shipments_state_known": {"state": "lost", "delivered_at": NOON},
    "ck_shipments_delivered_exactly_if_not_queued": {"delivered_at": NOON},
    "ck_shipments_verified_exactly_if_measured": {"state": "verified", "delivered_at": NOON},
    "ck_shipments_refused_only_while_queued": {"refusal": "no", "state": "delivered", "delivered_at": NOON},
    "ck_machine_uses_holder_named": {"holder": ""},
    "ck_leadership_one_row": {"id": 2},
    "ck_leadership_epoch_counts": {"epoch": 0},
    "ck_leadership_holder_named": {"holder": ""},
}
"""What each condition forbids, and no other does."""


def constraints(kind):
    found = [(str(item.name), table) for table in TABLES.values() for item in table.constraints if type(item) is kind]
    return dict(sorted(found))


def unique_keys():
    """Name → (table, columns): primary keys, unique constraints and unique indexes."""
    keys = {}
    for table in TABLES.values():
        for item in [*table.constraints, *(index for index in table.indexes if index.unique)]:
            if not isinstance(item, (CheckConstraint, ForeignKeyConstraint)):
                keys[str(item.name)] = (table, [column.name for column in item.columns])
    return dict(sorted(keys.items()))


def forbidden_by(name):
    column = name.removesuffix("_is_a_digest")
    if column == name:
        return FORBIDDEN[name]
    return {column.removeprefix(f"ck_{CHECKS[name].name}_"): "abc"}


CHECKS = constraints(CheckConstraint)
REFERENCES = constraints(ForeignKeyConstraint)
UNIQUE = unique_keys()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request, empty_database, tmp_path_factory):
    """An engine on a database with one good row in every table; tests leave it so."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("constraints") / "filled.sqlite"
        shutil.copy(empty_database, path)
        engine, drop = open_engine(f"sqlite:///{path}"), None
    else:
        server = request.getfixturevalue("postgresql")
        name = server.create(request.getfixturevalue("postgresql_template"))
        engine, drop = open_engine(server.url(name)), lambda: server.drop(name)
    with engine.begin() as connection:
        for table in Table.metadata.sorted_tables:
            connection.execute(insert(table).values(FIRST[table.name]))
        for name, changes in SPARE:
            connection.execute(insert(TABLES[name]).values(FIRST[name] | changes))
    yield engine
    engine.dispose()
    if drop is not None:
        drop()


@pytest.fixture
def put(filled):
    """``put(table, changes)``: insert the table's second row, so changed; nothing of it stays after the test."""
    with filled.connect() as connection:
        transaction = connection.begin()

        def put(table, changes=None):
            if table.name == "leadership":
                connection.execute(delete(table).where(table.c.epoch == 1))
            connection.execute(insert(table).values(FIRST[table.name] | SECOND[table.name] | (changes or {})))

        yield put
        transaction.rollback()


def named(error):
    """The constraint that the database says was broken; SQLite tells a unique key by its columns alone."""
    diagnosis = getattr(error.value.orig, "diag", None)
    if diagnosis is not None:
        return diagnosis.constraint_name
    kind, _, told = str(error.value.orig).partition(" constraint failed: ")
    if kind == "UNIQUE":
        columns = {text.split(".")[1] for text in told.split(", ")}
        table = TABLES[told.split(".")[0]]
        return next(name for name, (of, key) in UNIQUE.items() if of is table and set(key) == columns)
    return told if kind == "CHECK" else kind


@pytest.mark.parametrize("table", TABLES.values(), ids=str)
def test_a_second_good_row_is_accepted(put, table):
    put(table)


def test_every_condition_has_its_forbidden_row():
    told = {name for name in CHECKS if not name.endswith("_is_a_digest")}
    assert told == set(FORBIDDEN)


@pytest.mark.parametrize("name", CHECKS)
def test_a_row_against_a_condition_is_refused(put, name):
    with pytest.raises(IntegrityError) as refusal:
        put(CHECKS[name], forbidden_by(name))
    assert named(refusal) == name


@pytest.mark.parametrize("name", UNIQUE)
def test_a_row_with_a_key_that_is_there_is_refused(put, name):
    table, columns = UNIQUE[name]
    if table.name == "leadership":
        put(table, {"epoch": 2})
    with pytest.raises(IntegrityError) as refusal:
        put(table, {"epoch": 3} if table.name == "leadership" else {key: FIRST[table.name][key] for key in columns})
    assert named(refusal) == name


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_that_refers_to_nothing_is_refused(put, name):
    table = REFERENCES[name]
    (column,) = next(item for item in table.constraints if item.name == name).columns
    nothing = 999 if isinstance(FIRST[table.name][column.name], int) else digest("9")[: column.type.length]
    with pytest.raises(IntegrityError) as refusal:
        put(table, {column.name: nothing})
    assert named(refusal) in (name, "FOREIGN KEY constraint failed")


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_that_is_referred_to_cannot_go(filled, name):
    parent = next(item for item in REFERENCES[name].constraints if item.name == name).referred_table
    with pytest.raises(IntegrityError), filled.begin() as connection:
        connection.execute(delete(parent))


@pytest.mark.parametrize("table", TABLES.values(), ids=str)
def test_what_a_row_needs_cannot_be_left_out(filled, table):
    for column in table.columns:
        # A number that is the whole key is given by the database where it is left out.
        given = len(table.primary_key) == 1 and column.primary_key and isinstance(FIRST[table.name][column.name], int)
        if column.nullable or column.server_default or given:
            continue
        row = FIRST[table.name] | SECOND[table.name] | {column.name: None}
        with filled.connect() as connection, pytest.raises(IntegrityError, match=r"NOT NULL|not-null"):
            connection.execute(insert(table).values(row))


def test_of_revoked_tokens_a_name_may_have_many(put):
    table = TABLES["tokens"]
    put(table, {"name": "op", "revoked_at": NOON})
    put(table, {"name": "op", "revoked_at": NOON, "id": 3, "token_hash": digest("3")})


def test_every_constraint_is_of_a_kind_that_is_tested_here():
    kinds = {type(item) for table in TABLES.values() for item in table.constraints}
    assert kinds == {CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint}
    assert all(item.name for table in TABLES.values() for item in [*table.constraints, *table.indexes])
