"""From finished sweeps to curves that people and planners read: filing them, and their points as a table.

Statistics are the plan room's; they are recomputed from the samples, and remembered while the coordinator runs,
since a filed curve never changes.
"""

import threading
from typing import Any

from tailfleet_coordinator.db.rows import Curve
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan import statistics
from tailfleet_coordinator.replies import CURVE_COLUMNS, POINT_COLUMNS
from tailfleet_schema.curve import JUDGED_PARTS
from tailfleet_schema.job import JobKind

CACHED_CURVES = 2000


def file_curve(store: Store, job_id: str) -> int | None:
    """File the finished job as a curve; its id, or None where the job is no sweep. Twice does no harm."""
    if store.get_job(job_id).kind is not JobKind.SWEEP:
        return None
    judged = statistics.stability(store.list_results(job_id))
    return store.create_curve(job_id, judged.stable, "" if judged.stable else judged.reason or "no reason was found")


class CurveReader:
    """Stored curves as columns. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._points: dict[int, list[tuple[Any, ...]]] = {}
        self._lock = threading.Lock()

    def list_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row a curve; the columns of ``CURVE_COLUMNS``."""
        rows = [
            (
                curve.id,
                curve.board,
                curve.board_kind.value,
                curve.model,
                curve.backend,
                curve.dtype,
                curve.batch,
                curve.stable,
                curve.unstable_reason,
                curve.fingerprint,
                self._store.get_job_campaign(curve.job_id),
                curve.measured_at.isoformat(),
            )
            for curve in self._store.list_curves(model, board)
        ]
        return columns(CURVE_COLUMNS, rows)

    def point_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each measured unit of each curve; the columns of ``POINT_COLUMNS``."""
        rows = [
            (
                curve.board,
                curve.board_kind.value,
                curve.model,
                curve.backend,
                curve.dtype,
                curve.batch,
                *point,
                curve.stable,
                curve.unstable_reason,
                curve.id,
                curve.measured_at.isoformat(),
            )
            for curve in self._store.list_curves(model, board)
            for point in self._summaries(curve)
        ]
        return columns(POINT_COLUMNS, rows)

    def _summaries(self, curve: Curve) -> list[tuple[Any, ...]]:
        with self._lock:
            known = self._points.get(curve.id)
        if known is not None:
            return known
        points = [
            (
                point.unit.part.value,
                point.unit.label,
                point.unit.tokens,
                point.unit.kept,
                point.quiet_ns,
                point.quiet_low_ns,
                point.quiet_high_ns,
                point.p50_ns,
                point.p90_ns,
                point.p99_ns,
                point.calls,
                point.rounds,
                point.status,
            )
            for point in statistics.summarise(self._store.list_results(curve.job_id))
            if point.unit.part not in JUDGED_PARTS
        ]
        with self._lock:
            if len(self._points) >= CACHED_CURVES:
                self._points.clear()
            self._points[curve.id] = points
        return points


def columns(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}
