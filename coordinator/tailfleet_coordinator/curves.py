"""From finished sweeps to curves that people and planners read: filing them, taken apart, and reading them as tables.

Statistics are the plan room's; they are recomputed from the samples, and remembered while the coordinator runs,
since a filed curve never changes. What people look for (rounds, treads, cliffs) is stored with the curve.
"""

import threading
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from tailfleet_coordinator.db.rows import Anatomy, Curve, CurveCliff, CurveCounts, CurveRound, CurveTread
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.plan import design, statistics
from tailfleet_coordinator.plan.inference import every_count
from tailfleet_coordinator.plan.reading import VERSION, Reading
from tailfleet_coordinator.plan.treads import find_treads
from tailfleet_coordinator.replies import (
    CLIFF_COLUMNS,
    CURVE_COLUMNS,
    POINT_COLUMNS,
    ROUND_COLUMNS,
    TREAD_COLUMNS,
)
from tailfleet_schema import quiet
from tailfleet_schema.curve import JUDGED_PARTS, Part, Unit, UnitResult
from tailfleet_schema.job import JobKind
from tailfleet_schema.quiet import Judged

CACHED_CURVES = 2000

MEASURED, INFERRED = "measured", "inferred"
"""Sources of a point."""


def file_curve(store: Store, job_id: str) -> int | None:
    """File the finished job as a curve; its id, or None where the job is no sweep. Twice does no harm."""
    job = store.get_job(job_id)
    if job.kind is not JobKind.SWEEP:
        return None
    results = store.list_results(job_id)
    judged = quiet.judge(results)
    reason = "" if judged.stable else judged.reason or "no reason was found"
    reading = VERSION, Reading.of(job.workload.model.geometry, results, judged).dumps()
    return store.create_curve(job_id, judged.stable, reason, taken_apart(results, judged), reading)


def taken_apart(results: Sequence[UnitResult], judged: Judged) -> Anatomy:
    """What a sweep's curve consists of, and what was said of its rounds."""
    rounds = tuple(CurveRound(mark.round, mark.factor, mark.disturbed, mark.reason) for mark in judged.rounds)
    found = find_treads(statistics.summarise(results, judged))
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
        self._points: dict[int, list[tuple[Any, ...]]] = {}
        self._counted: dict[int, tuple[CurveCounts, int]] = {}
        self._without_treads: set[int] = set()
        self._lock = threading.Lock()

    def list_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row a curve; the columns of ``CURVE_COLUMNS``."""
        curves = self._complete(model, board)
        known = self._counts(curves.values())
        rows = [
            (
                *whose(curve),
                curve.stable,
                curve.unstable_reason,
                counts.measured,
                every,
                counts.cliffs,
                counts.rounds,
                counts.rounds_disturbed,
                curve.fingerprint,
                counts.campaign,
                curve.measured_at.isoformat(),
            )
            for curve in curves.values()
            for counts, every in [known[curve.id]]
        ]
        return columns(CURVE_COLUMNS, rows)

    def point_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each measured unit of each curve, and for each of its counts in between; the columns of
        ``POINT_COLUMNS``."""
        rows = [
            (*whose(curve), *point, curve.stable, curve.unstable_reason, curve.measured_at.isoformat())
            for curve in self._store.list_curves(model, board)
            for point in self._rows(curve)
        ]
        return columns(POINT_COLUMNS, rows)

    def round_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each round of each curve; the columns of ``ROUND_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (*whose(curves[curve_id]), one.round, one.factor, one.disturbed, one.reason)
            for curve_id, one in self._store.list_rounds(model, board)
            if curve_id in curves
        ]
        return columns(ROUND_COLUMNS, rows)

    def tread_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each tread of each curve; the columns of ``TREAD_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (*whose(curves[curve_id]), tread.first_tokens, tread.last_tokens, tread.quiet_ns)
            for curve_id, tread in self._store.list_treads(model, board)
            if curve_id in curves
        ]
        return columns(TREAD_COLUMNS, rows)

    def cliff_columns(self, model: str | None, board: str | None) -> dict[str, list[Any]]:
        """One row for each step of each curve; the columns of ``CLIFF_COLUMNS``."""
        curves = self._complete(model, board)
        rows = [
            (
                *whose(curves[curve_id]),
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

    def _rows(self, curve: Curve) -> list[tuple[Any, ...]]:
        with self._lock:
            known = self._points.get(curve.id)
        if known is not None:
            return known
        geometry = self._store.get_job(curve.job_id).workload.model.geometry
        rows = point_rows(self._store.list_results(curve.job_id), design.least_count(geometry), geometry.tokens)
        with self._lock:
            if len(self._points) >= CACHED_CURVES:
                self._points.clear()
            self._points[curve.id] = rows
        return rows

    def _counts(self, curves: Iterable[Curve]) -> dict[int, tuple[CurveCounts, int]]:
        """By id of the curve how much there is of it, of how many counts in all. A filed curve does not change."""
        asked = {curve.id: curve for curve in curves}
        with self._lock:
            known = {curve_id: self._counted[curve_id] for curve_id in asked if curve_id in self._counted}
        new = [curve for curve_id, curve in asked.items() if curve_id not in known]
        geometries = {model.digest: model.geometry for model in self._store.list_models()} if new else {}
        for curve_id, counts in self._store.count_curves([curve.id for curve in new]).items():
            # The name may stand for another model by now; the job knows which one it measured.
            geometry = geometries.get(asked[curve_id].model_digest)
            geometry = geometry or self._store.get_job(asked[curve_id].job_id).workload.model.geometry
            known[curve_id] = counts, geometry.tokens - design.least_count(geometry) + 1
        with self._lock:
            self._counted.update(known)
        return known


def point_rows(results: Sequence[UnitResult], least: int, full: int) -> list[tuple[Any, ...]]:
    """Of one sweep's curve with counts from ``least`` to ``full``: what ``POINT_COLUMNS`` tell of each of its points.

    Above a count that the board has too little memory for, no time is inferred.
    """
    points = [point for point in statistics.summarise(results) if point.unit.part not in JUDGED_PARTS]
    burdens = _burdens(results)
    rows: list[tuple[Any, ...]] = [
        (
            point.unit.part.value,
            point.unit.label,
            point.unit.tokens,
            point.unit.kept,
            MEASURED,
            point.quiet_ns,
            point.quiet_low_ns,
            point.quiet_high_ns,
            point.p50_ns,
            point.p90_ns,
            point.p99_ns,
            point.calls,
            point.rounds,
            point.status,
            *burdens[point.unit],
        )
        for point in points
    ]
    known = {point.unit.tokens: point.status for point in points if point.unit.part is Part.MODEL}
    fits = min((count for count, status in known.items() if status == "oom"), default=full + 1)
    for point in every_count(points, least, full):
        if point.tokens in known:
            continue
        runs = point.tokens < fits
        figures = (point.ns, point.low_ns, point.high_ns) if runs else (None, None, None)
        place = (Part.MODEL.value, "", point.tokens, point.tokens, INFERRED)
        rows.append((*place, *figures, None, None, None, 0, 0, "ok" if runs else "oom", None, None))
    return rows


def _burdens(results: Iterable[UnitResult]) -> dict[Unit, tuple[int | None, float | None]]:
    """By unit the most memory that any block took, and the median energy of a call; None where nothing told."""
    memory: dict[Unit, list[int]] = {}
    energy: dict[Unit, list[float]] = {}
    for result in results:
        told = memory.setdefault(result.unit, []), energy.setdefault(result.unit, [])
        if result.peak_memory_bytes is not None:
            told[0].append(result.peak_memory_bytes)
        if result.energy_mj is not None:
            told[1].append(result.energy_mj)
    return {
        unit: (max(values, default=None), median(energy[unit]) if energy[unit] else None)
        for unit, values in memory.items()
    }


def whose(curve: Curve) -> tuple[Any, ...]:
    """Which curve a row is of: what every table of curves begins with."""
    return curve.id, curve.board, curve.board_kind.value, curve.model, curve.backend, curve.dtype, curve.batch


def columns(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}
