"""Queries on results: raw samples in, raw samples out, each key once."""

import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, ScalarSelect, func, select
from sqlalchemy.dialects import postgresql, sqlite

from tailfleet_coordinator.db.engine import Database, Now
from tailfleet_coordinator.db.tables import JobTable, ResultTable
from tailfleet_schema import codec
from tailfleet_schema.board import Telemetry
from tailfleet_schema.curve import TIMED_PARTS, Judgement, Part, Unit, UnitResult
from tailfleet_schema.job import Key

ROWS_PER_INSERT = 500
"""Fifteen values a row; SQLite takes 32766 in a statement."""


class ResultQueries(Database):
    """Results of jobs."""

    def list_known_keys(self, job_id: str) -> list[Key]:
        """Keys of the job that have a result."""
        table = ResultTable
        query = select(table.part, table.label, table.block, table.tokens, table.kept, table.round)
        with self.reading() as connection:
            rows = connection.execute(query.where(table.job_id == job_id).order_by(table.id)).all()
        return [Key(Part(row.part), row.label, row.block, row.tokens, row.kept, row.round) for row in rows]

    def list_earlier(self, job_id: str) -> list[UnitResult]:
        """The job's timed results in the order of their arrival, without telemetry: what its next holder decides by."""
        with self.reading() as connection:
            rows = connection.execute(
                select(ResultTable.__table__)
                .where(ResultTable.job_id == job_id, ResultTable.part.in_([part.value for part in TIMED_PARTS]))
                .order_by(ResultTable.id)
            ).all()
        return [replace(_result(row), telemetry=None) for row in rows]

    def list_units(self, job_id: str) -> set[Unit]:
        """What the job has results of."""
        table = ResultTable
        query = select(table.part, table.tokens, table.kept, table.label, table.block).distinct()
        with self.reading() as connection:
            rows = connection.execute(query.where(table.job_id == job_id)).all()
        return {Unit(Part(row.part), row.tokens, row.kept, row.label, row.block) for row in rows}

    def list_results(self, job_id: str) -> list[UnitResult]:
        """All results of the job in the order of their arrival."""
        with self.reading() as connection:
            rows = connection.execute(
                select(ResultTable.__table__).where(ResultTable.job_id == job_id).order_by(ResultTable.id)
            ).all()
        return [_result(row) for row in rows]

    def _insert_results(self, connection: Connection, job_id: str, attempt: int, results: list[UnitResult]) -> int:
        """Insert those whose key is new; how many."""
        dialect: Any = sqlite if self.is_sqlite else postgresql
        statement = (
            dialect.insert(ResultTable).values(stored_at=Now()).on_conflict_do_nothing().returning(ResultTable.id)
        )
        stored = 0
        for start in range(0, len(results), ROWS_PER_INSERT):
            rows = [_row(job_id, attempt, result) for result in results[start : start + ROWS_PER_INSERT]]
            stored += len(connection.execute(statement, rows).all())
        return stored


def count_results() -> ScalarSelect[int]:
    """In a query of jobs: how many results of the job are stored."""
    count = select(func.count()).select_from(ResultTable).where(ResultTable.job_id == JobTable.id)
    return count.correlate(JobTable).scalar_subquery()


def _row(job_id: str, attempt: int, result: UnitResult) -> dict[str, Any]:
    unit = result.unit
    return {
        "job_id": job_id,
        "part": unit.part.value,
        "label": unit.label,
        "block": unit.block,
        "tokens": unit.tokens,
        "kept": unit.kept,
        "round": result.round,
        "status": result.status,
        "call_ns_json": codec.dumps(result.call_ns),
        "judgement_json": None if result.judgement is None else codec.dumps(result.judgement),
        "telemetry_json": None if result.telemetry is None else codec.dumps(result.telemetry),
        "peak_memory_bytes": result.peak_memory_bytes,
        "energy_mj": result.energy_mj,
        "attempt": attempt,
    }


def _result(row: Any) -> UnitResult:
    return UnitResult(
        unit=Unit(Part(row.part), row.tokens, row.kept, row.label, row.block),
        round=row.round,
        call_ns=json.loads(row.call_ns_json),
        judgement=None if row.judgement_json is None else codec.loads(Judgement, row.judgement_json),
        status=row.status,
        telemetry=None if row.telemetry_json is None else codec.loads(Telemetry, row.telemetry_json),
        peak_memory_bytes=row.peak_memory_bytes,
        energy_mj=row.energy_mj,
    )
