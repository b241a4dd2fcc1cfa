"""Whether a database is sound: of this release's form, whole by the database's own account, and readable to the last
stored text. Reads everything and changes nothing; what to do about a finding is left to people.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, select
from sqlalchemy.orm import InstrumentedAttribute

from tailfleet_coordinator.db import migrate
from tailfleet_coordinator.db.engine import Database
from tailfleet_coordinator.db.tables import (
    BoardTable,
    CampaignTable,
    DatasetTable,
    JobTable,
    ModelTable,
    PlanTable,
    ProfileTable,
    ResultTable,
    ScheduleTable,
    StepTable,
    Table,
)
from tailfleet_schema import codec
from tailfleet_schema.board import BoardFacts, Telemetry
from tailfleet_schema.campaign import CampaignRequest
from tailfleet_schema.curve import Judgement
from tailfleet_schema.errors import InputError
from tailfleet_schema.job import Failure, Job
from tailfleet_schema.schedule import Schedule
from tailfleet_schema.workload import DatasetSpec, ModelSpec

ROWS_AT_ONCE = 500
"""Results of a big farm do not fit into memory."""

MOST_FINDINGS = 20
"""Of one column: a thousand lines of the same fault hide the next one."""

Column = InstrumentedAttribute[Any]

READS: Mapping[Column, Any] = {
    BoardTable.facts_json: BoardFacts,
    ModelTable.spec_json: ModelSpec,
    DatasetTable.spec_json: DatasetSpec,
    CampaignTable.request_json: CampaignRequest,
    CampaignTable.failure_json: Failure,
    JobTable.job_json: Job,
    JobTable.failure_json: Failure,
    JobTable.runtime_json: dict[str, str],
    ResultTable.call_ns_json: list[int],
    ResultTable.judgement_json: Judgement,
    ResultTable.telemetry_json: Telemetry,
    StepTable.failure_json: Failure,
    ProfileTable.judgement_json: Judgement,
    ScheduleTable.schedule_json: Schedule,
}
"""What each stored text is read as; a plan is known to the room that makes plans."""

NAMED_BY: Mapping[Column, tuple[Column, Callable[[Any], str]]] = {
    ModelTable.spec_json: (ModelTable.digest, lambda spec: spec.digest),
    DatasetTable.spec_json: (DatasetTable.sha256, lambda spec: spec.sha256),
    JobTable.job_json: (JobTable.id, lambda job: job.id),
    ScheduleTable.schedule_json: (ScheduleTable.digest, lambda schedule: schedule.digest),
}
"""Columns that must say what the text beside them says."""


@dataclass(frozen=True)
class Examination:
    """What was read and what was found wrong, each finding one line for people."""

    revision: str
    texts: int
    findings: list[str]


def examine(url: str, plan_kind: type) -> Examination:
    """Read the whole database; ``plan_kind`` is what a stored plan is read as.

    Raises ``ConfigurationError`` where it is empty, of another release or somebody else's, or cannot be reached.
    """
    revision = migrate.require(url)
    database = Database(url)
    try:
        with database.reading() as connection:
            broken = list(_broken(connection))
            if broken:
                # What the database itself calls broken is not worth reading.
                return Examination(revision, 0, broken)
            findings = list(_differences(connection))
            texts = 0
            for column, kind in {**READS, PlanTable.plan_json: plan_kind}.items():
                read, found = _read_all(connection, column, kind)
                texts += read
                findings += _shortened(column, found)
            return Examination(revision, texts, findings)
    finally:
        database.close()


def _broken(connection: Connection) -> Iterator[str]:
    """What the database says of itself."""
    if connection.dialect.name == "sqlite":
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if said != "ok":
                yield f"SQLite: {said}"
        for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"{table}: row {row} refers to a row of {parent} that is not there"
        return
    for kind, query in _POSTGRESQL.items():
        for (name,) in connection.exec_driver_sql(query):
            yield f"PostgreSQL: {kind}: {name}"


_POSTGRESQL = {
    "an index is not valid": "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid",
    "a constraint was never checked": "SELECT conname FROM pg_constraint WHERE NOT convalidated",
    "a foreign key is switched off": (
        "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger"
        " JOIN pg_class ON pg_class.oid = tgrelid WHERE tgconstraint <> 0 AND tgenabled = 'D'"
    ),
    "pages whose checksum is wrong": (
        "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database() AND checksum_failures > 0"
    ),
}
"""It checks references and values itself; what is asked is whether somebody has kept it from doing so."""


def _differences(connection: Connection) -> Iterator[str]:
    """Where the form is not what the tables say, though the revision is."""
    for difference in compare_metadata(MigrationContext.configure(connection), Table.metadata):
        for change in difference if isinstance(difference, list) else [difference]:
            yield f"the form is not this release's: {_change_in_words(change)}"
    inspector = sqlalchemy.inspect(connection)
    for name, table in Table.metadata.tables.items():
        if not inspector.has_table(name):
            continue
        made = {found["name"] for found in inspector.get_check_constraints(name)}
        said = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        for lacking in sorted(said - made):
            yield f"the form is not this release's: {name} lacks the constraint {lacking}"


def _change_in_words(change: tuple[Any, ...]) -> str:
    """Alembic's: ``("add_column", schema, table, Column)``, ``("remove_index", Index)``, … , as to what mends it."""
    names = [getattr(part, "name", None) or part for part in change[1:5]]
    return f"{change[0].replace('_', ' ')} {' '.join(str(name) for name in names if isinstance(name, str))}"


def _read_all(connection: Connection, column: Column, kind: Any) -> tuple[int, list[str]]:
    """How many texts the column holds, and those that are not what they should be."""
    key = column.class_.__table__.primary_key.columns[0]
    told, tell = NAMED_BY.get(column, (key, None))
    query = select(key.label("key"), column.label("text"), told.label("told")).where(column.is_not(None)).order_by(key)
    read, findings = 0, []
    for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query):
        read += 1
        where = f"{_name(column)} of {row.key!r}"
        try:
            value: Any = codec.loads(kind, row.text)
        except InputError as error:
            findings.append(f"{where} cannot be read: {error.sentence}")
            continue
        if tell is not None and tell(value) != row.told:
            findings.append(f"{where} belongs to another {told.key} than the one it is stored under")
    return read, findings


def _shortened(column: Column, findings: list[str]) -> list[str]:
    more = len(findings) - MOST_FINDINGS
    return findings if more <= 0 else [*findings[:MOST_FINDINGS], f"{_name(column)}: and {more} more"]


def _name(column: Column) -> str:
    return f"{column.class_.__tablename__}.{column.key}"
