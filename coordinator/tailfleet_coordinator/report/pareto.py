"""Latency against loss as a picture: the fronts that planners saw, what boards measured of them, and what was chosen.

A front is a prediction, drawn as a line of the method's colour. A verified schedule is its method's marker, filled
where the plan is ours and hollow where it is another planner's, at the latency and the top-1 that were measured. Where
images have no labels, agreement with the dense model stands in place of top-1. Where a model has no images at all, loss
is how much of the dense computation is left out, which a schedule says by itself.
"""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tailfleet_coordinator.report.marks import draw_measured, of_method
from tailfleet_schema.campaign import Front, Measure, ReportRow

LOSSES = {
    Measure.TOP1: "loss of top-1, points",
    Measure.AGREEMENT: "loss of agreement with the dense model, points",
    Measure.WORK: "tokens × blocks left out, %",
}


def draw(fronts: Sequence[Front], rows: Sequence[ReportRow]) -> bytes:
    """A PNG of :func:`compose`."""
    sink = io.BytesIO()
    # Without the library's version in it, the same data gives the same file.
    compose(fronts, rows).savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def compose(fronts: Sequence[Front], rows: Sequence[ReportRow]) -> Figure:
    """The picture of one board × model: its ``fronts``, at least one, and its ``rows``.

    No window system and no state outside the figure: it may be drawn in any thread.
    """
    first = fronts[0]
    figure = Figure(figsize=(9.0, 5.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for front in fronts:
        _draw_front(axes, front)
    _draw_dense(axes, first, rows)
    for row in sorted(rows, key=lambda row: row.recommended):
        loss = _loss(row, fronts)
        if row.measured_ns is not None and loss is not None:
            draw_measured(axes, row, loss, row.measured_ns, across=True, label=": verified", ring="recommended")
    virtual = " (virtual: modelled latency)" if first.board_kind == "virtual" else ""
    axes.set_title(f"{first.model} on {first.board}{virtual}: what is gained, what is lost", loc="left")
    axes.set_xlabel(f"{'modelled latency' if virtual else 'latency'} of one call on {first.on.value}, ms")
    axes.set_ylabel(LOSSES[first.measure])
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, markerscale=0.7)
    return figure


def _draw_front(axes: Axes, front: Front) -> None:
    _, colour = of_method(front.method)
    label = front.method if front.planner == "optimal" else f"{front.method} by {front.planner}"
    count = len(front.points)
    kind = "" if front.measure is Measure.WORK else "cautious loss, "
    axes.plot(
        [point.latency_ns / 1e6 for point in front.points],
        [point.loss for point in front.points],
        color=colour,
        linewidth=1.2,
        marker=".",
        markersize=3,
        alpha=0.8,
        label=f"{label}: predicted front ({kind}{count} {'point' if count == 1 else 'points'})",
    )


def _draw_dense(axes: Axes, first: Front, rows: Sequence[ReportRow]) -> None:
    measured = next((row.dense_ns for row in rows if row.measured_ns is not None and row.dense_ns is not None), None)
    at = first.dense_ns if measured is None else measured
    label = "dense, predicted" if measured is None else "dense, measured beside the schedules"
    axes.plot([at / 1e6], [0.0], "*", color="black", markersize=11, zorder=4, label=label)


def _loss(row: ReportRow, fronts: Sequence[Front]) -> float | None:
    """What the board lost with the row's schedule; without images what the schedule leaves out."""
    dense, pruned = row.right
    if dense is not None and pruned is not None:
        return dense - pruned
    if fronts[0].measure is not Measure.WORK:
        return None
    return next((point.loss for front in fronts for point in front.points if point.keep == row.keep), None)
