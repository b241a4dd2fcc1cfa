"""From finished sweeps to curves that people and planners read: filing them, taken apart, and reading them as tables.

Statistics are the plan room's; they are recomputed from the samples, and remembered while the coordinator runs,
since a filed curve never changes. What people look for (rounds, treads, cliffs) is stored with the curve.
"""

import threading
from collections.abc import Sequence
from typing import Any

from tailfleet_coordinator.db.rows import Anatomy, Curve, CurveCliff, CurveRound, CurveTread
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan import design, statistics
from tailfleet_coordinator.plan.inference import every_count
from tailfleet_coordinator.plan.statistics import PointSummary
from tailfleet_coordinator.plan.treads import find_treads
from tailfleet_coordinator.replies import (
    CLIFF_COLUMNS,
    CURVE_COLUMNS,
    CURVE_POINT_COLUMNS,
    POINT_COLUMNS,
    ROUND_COLUMNS,
    TREAD_COLUMNS,
)
from tailfleet_schema import quiet
from tailfleet_schema.curve import JUDGED_PARTS, UnitResult
from tailfleet_schema.job import JobKind
from tailfleet_schema.quiet import Judged

CACHED_CURVES = 2000


def file_curve(store: Store, job_id: str) -> int | None:
    """File the finished job as a curve; its id, or None where the job is no sweep. Twice does no harm."""
    if store.get_job(job_id).kind is not JobKind.SWEEP:
        return None
    results = store.list_results(job_id)
    judged = quiet.judge(results)
    reason = "" if judged.stable else judged.reason or "no reason was found"
    return store.create_curve(job_id, judged.stable, reason, taken_apart(results, judged))


def taken_apart(results: Sequence[UnitResult], judged: Judged) -> Anatomy:
    """What a sweep's curve consists of, and what was said of its rounds."""
    rounds = tuple(CurveRound(mark.round, mark.factor, mark.disturbed, mark.reason) for mark in judged.rounds)
    found = find_treads(statistics.summarise(results))
    treads = tuple(CurveTread(tread.first, tread.last, tread.last_ns) for tread in found.treads)
    steps = [(step, True) for step in found.cliffs] + [(step, False) for step in found.reversals]
    cliffs = tuple(
        CurveCliff(
            step.from_tokens, step.to_tokens, upwards, step.height_ns, step.height_percent, min(step.confidence, 1.0)
        )
        for step, upwards in sorted(steps, key=lambda item: item[0].from_tokens)
    )
    return Anatomy(rounds, treads, cliffs)


class CurveReader:
    """Stored curves as columns. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._points: dict[int, list[PointSummary]] = {}
        self._without_treads: set[int] = set()
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
                *_whose(curve)[1:],
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
                curve.stable,
                curve.unstable_reason,
                curve.id,
                curve.measured_at.isoformat(),
            )
            for curve in self._store.list_curves(model, board)
            for point in self._summaries(curve)
            if point.unit.part not in JUDGED_PARTS
        ]
        return columns(POINT_COLUMNS, rows)

    def curve_columns(self, curve_id: int) -> dict[str, list[Any]]:
        """One row for every count of one curve, measured or inferred; the columns of ``CURVE_POINT_COLUMNS``.

        Raises ``UnknownName``.
        """
        curve = self._store.get_curve(curve_id)
        geometry = self._store.get_job(curve.job_id).workload.model.geometry
        points = every_count(self._summaries(curve), design.least_count(geometry), geometry.tokens)
        rows = [(point.tokens, point.ns, point.low_ns, point.high_ns, point.measured) for point in points]
        return columns(CURVE_POINT_COLUMNS, rows)

    def round_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each round of each curve; the columns of ``ROUND_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (*_whose(curves[curve_id]), one.round, one.factor, one.disturbed, one.reason)
            for curve_id, one in self._store.list_rounds(model, board)
            if curve_id in curves
        ]
        return columns(ROUND_COLUMNS, rows)

    def tread_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each tread of each curve; the columns of ``TREAD_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (*_whose(curves[curve_id]), tread.first_tokens, tread.last_tokens, tread.quiet_ns)
            for curve_id, tread in self._store.list_treads(model, board)
            if curve_id in curves
        ]
        return columns(TREAD_COLUMNS, rows)

    def cliff_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each step of each curve; the columns of ``CLIFF_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (
                *_whose(curves[curve_id]),
                cliff.from_tokens,
                cliff.to_tokens,
                cliff.upwards,
                cliff.height_ns,
                cliff.height_percent,
                cliff.confidence,
                curves[curve_id].stable,
            )
            for curve_id, cliff in self._store.list_cliffs(model, board)
            if curve_id in curves
        ]
        return columns(CLIFF_COLUMNS, rows)

    def _complete(self, model: str | None, board: str | None) -> dict[int, Curve]:
        """The curves by id, each of them taken apart: an earlier release filed its curves in one piece."""
        for curve_id in self._store.list_curves_in_one_piece():
            if curve_id not in self._without_treads:
                results = self._store.list_results(self._store.get_curve(curve_id).job_id)
                self._store.take_curve_apart(curve_id, taken_apart(results, quiet.judge(results)))
                # Should it have none at all, it is not looked at again.
                self._without_treads.add(curve_id)
        return {curve.id: curve for curve in self._store.list_curves(model, board)}

    def _summaries(self, curve: Curve) -> list[PointSummary]:
        with self._lock:
            known = self._points.get(curve.id)
        if known is not None:
            return known
        points = statistics.summarise(self._store.list_results(curve.job_id))
        with self._lock:
            if len(self._points) >= CACHED_CURVES:
                self._points.clear()
            self._points[curve.id] = points
        return points


def _whose(curve: Curve) -> tuple[Any, ...]:
    return curve.id, curve.board, curve.board_kind.value, curve.model, curve.backend, curve.dtype, curve.batch


def columns(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}
