"""One curve as people look into it: what it was measured with and on, its raw samples, and, of a virtual board, what
its latencies are without noise. Tables over many curves are left to ``curves``.
"""

from collections.abc import Callable
from typing import Any

from tailfleet_coordinator.curves import CurveReader, columns, whose
from tailfleet_coordinator.db.store import Store
from tailfleet_coordinator.jobs import order_of
from tailfleet_coordinator.library import truth
from tailfleet_coordinator.plan import design
from tailfleet_coordinator.replies import SAMPLE_COLUMNS, TRUE_COLUMNS, CurveDetails, iso
from tailfleet_schema import codec
from tailfleet_schema.board import BoardKind
from tailfleet_schema.curve import JUDGED_PARTS, Part, Unit
from tailfleet_schema.errors import InputError


def curve_details(store: Store, reader: CurveReader, curve_id: int) -> CurveDetails:
    """The curve without its points. Raises ``UnknownName``."""
    curve = store.get_curve(curve_id)
    job = store.get_record(curve.job_id)
    listed = reader.list_columns(curve.model, curve.board)
    row = {name: values[listed["curve_id"].index(curve_id)] for name, values in listed.items()}
    return CurveDetails(
        id=curve_id,
        board=curve.board,
        board_kind=curve.board_kind.value,
        model=curve.model,
        stable=curve.stable,
        unstable_reason=curve.unstable_reason,
        counts_measured=row["counts_measured"],
        counts_all=row["counts_all"],
        cliffs=row["cliffs"],
        rounds=row["rounds"],
        rounds_disturbed=row["rounds_disturbed"],
        calls=sum(len(result.call_ns) for result in store.list_results(curve.job_id)),
        order=order_of(store.get_job(curve.job_id)),
        runtime=job.runtime,
        fingerprint=curve.fingerprint,
        campaign=job.campaign_id,
        job=curve.job_id,
        started_at=iso(job.started_at),
        measured_at=curve.measured_at.isoformat(),
    )


def sample_columns(store: Store, curve_id: int) -> dict[str, list[Any]]:
    """Every timed block of the curve's sweep in the order of arrival; the columns of ``SAMPLE_COLUMNS``.

    Raises ``UnknownName``.
    """
    curve = store.get_curve(curve_id)
    rows = [
        (
            *whose(curve),
            result.unit.part.value,
            result.unit.label,
            result.unit.tokens,
            result.unit.kept,
            result.round,
            result.status,
            result.call_ns,
            result.peak_memory_bytes,
            result.energy_mj,
            None if result.telemetry is None else codec.encode(result.telemetry),
        )
        for result in store.list_results(curve.job_id)
        if result.unit.part not in JUDGED_PARTS
    ]
    return columns(SAMPLE_COLUMNS, rows)


def true_columns(
    store: Store, curve_id: int, true_ns: Callable[..., list[float]] = truth.true_ns
) -> dict[str, list[Any]]:
    """The latencies without noise of a virtual board's curve, at every count; the columns of ``TRUE_COLUMNS``.

    Raises ``UnknownName``, ``InputError`` where nobody knows them, and what ``true_ns`` raises.
    """
    curve = store.get_curve(curve_id)
    if curve.board_kind is not BoardKind.VIRTUAL:
        raise InputError(f"{curve.board} is a real board: only of virtual ones the true latencies are known")
    board = store.get_board(curve.board_id)
    if board.virtual_profile is None or board.fingerprint != curve.fingerprint:
        raise InputError(
            f"{curve.board} is modelled on another board now than when curve {curve_id} was measured",
            mend=f"tailfleet sweep run --models {curve.model} --boards {curve.board}",
        )
    workload = store.get_job(curve.job_id).workload
    counts = design.curve_counts(workload.model.geometry, "all")
    true = true_ns(board.virtual_profile, workload, [Unit(Part.MODEL, count, count) for count in counts])
    return columns(TRUE_COLUMNS, [(*whose(curve), count, ns) for count, ns in zip(counts, true, strict=True)])
