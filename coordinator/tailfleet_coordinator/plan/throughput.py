"""Which batch size and schedule serve the most images a second within a deadline, from what boards measured.

A larger batch costs less an image and takes longer: each size has its own curve, plans and verification. What is
compared is what the verifications measured, dense beside every schedule (where none came to an end, dense as its sweep
measured it); nothing here rests on a prediction. Left to others: planning at one size (``choice``), and measuring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailfleet_coordinator.plan.verdict import in_ms, on_statistic
from tailfleet_schema.campaign import ReportRow


@dataclass(frozen=True)
class Serving:
    """What to run on one board for one model; or, in ``refusal``, why nothing meets the deadline."""

    board: str
    model: str
    batch: int | None = None
    row: ReportRow | None = None
    """The schedule's; None: dense."""
    ns: float | None = None
    """Measured, of one call of the batch."""
    refusal: str | None = None

    @property
    def images_per_second(self) -> float:
        """0 where nothing meets the deadline."""
        return 0.0 if self.batch is None or not self.ns else self.batch / (self.ns * 1e-9)


def best_batches(rows: Mapping[int, Sequence[ReportRow]], deadline_ns: int) -> list[Serving]:
    """One for each board × model of ``rows`` (by batch size), in the order that they come in.

    Dense competes at each size, and a schedule where it was recommended: only then it was measured to gain, and to
    lose no more than allowed. Of two that serve as many, the smaller batch; of one size, dense.
    """
    pairs = dict.fromkeys((row.board, row.model) for size in sorted(rows) for row in rows[size])
    found = []
    for board, model in pairs:
        candidates: list[tuple[int, ReportRow | None, float]] = []
        for size in sorted(rows):
            own = [row for row in rows[size] if (row.board, row.model) == (board, model)]
            candidates += [(size, None, row.dense_ns) for row in own if row.dense_ns is not None][:1]
            candidates += [
                (size, row, row.measured_ns) for row in own if row.recommended and row.measured_ns is not None
            ]
        found.append(_best(board, model, candidates, deadline_ns, rows))
    return found


def _best(
    board: str,
    model: str,
    candidates: Sequence[tuple[int, ReportRow | None, float]],
    deadline_ns: int,
    rows: Mapping[int, Sequence[ReportRow]],
) -> Serving:
    on = next((row.on for own in rows.values() for row in own), None)
    said = f"the deadline of {in_ms(deadline_ns)}{on_statistic(on) if on is not None else ''}"
    if not candidates:
        return Serving(board, model, refusal=f"nothing was measured that could meet {said}")
    within = [one for one in candidates if one[2] <= deadline_ns]
    if not within:
        size, row, ns = min(candidates, key=lambda one: one[2])
        what = "dense" if row is None else row.method
        return Serving(board, model, refusal=f"no batch meets {said}: the closest is {what} at {size}, {in_ms(ns)}")
    # The first of equals: candidates come by size, dense first.
    size, row, ns = max(within, key=lambda one: one[0] / one[2])
    return Serving(board, model, size, row, ns)
