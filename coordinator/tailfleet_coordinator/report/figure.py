"""A board's latency against tokens as a picture: the curve with its interval, its cliffs, and where plans operate.

Where plans are on another statistic than quiet, the curve on that one is drawn, too, and operating points belong to it;
cliffs are those of quiet.

A schedule of several blocks has no single token count; it is drawn at its mean over blocks, and the legend says so.
Colours are those of Okabe and Ito, told apart by colour-blind readers, and every method has a marker of its own.
"""

import io
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tailfleet_coordinator.plan.statistics import PointSummary
from tailfleet_coordinator.plan.treads import find_treads
from tailfleet_coordinator.report.table import method, statistic
from tailfleet_schema.campaign import ReportRow, Statistic
from tailfleet_schema.curve import Part, Unit

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)

MARKS = {"topk": ("s", GREEN), "pomt": ("^", PURPLE), "tome": ("D", ORANGE)}
OTHER = ("v", SKY)

MOST_CLIFF_LABELS = 6

_TIMES = ("quiet", "quiet_low", "quiet_high", "p50", "p90", "p99")


def curve_points(curve: pandas.DataFrame) -> list[PointSummary]:
    """The whole-model points of one curve (rows as ``Fleet.curves`` gives them), by tokens."""
    rows = curve[(curve["part"] == Part.MODEL.value) & (curve["status"] == "ok")].sort_values("tokens")
    return [_point(record) for record in rows.to_dict("records")]


def draw(curve: pandas.DataFrame, rows: Sequence[ReportRow]) -> bytes:
    """A PNG of :func:`compose`."""
    sink = io.BytesIO()
    # Without the library's version in it, the same data gives the same file.
    compose(curve, rows).savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def compose(curve: pandas.DataFrame, rows: Sequence[ReportRow]) -> Figure:
    """The picture of one board × model. ``curve`` holds the rows of one curve, ``rows`` the plans for it, maybe none.

    No window system and no state outside the figure: it may be drawn in any thread.
    """
    points = curve_points(curve)
    figure = Figure(figsize=(9.0, 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    on = statistic(rows)
    _draw_curve(axes, points, on)
    _draw_cliffs(axes, points)
    _draw_plans(axes, rows)
    _label(axes, curve, on)
    return figure


def _point(record: Mapping[Hashable, Any]) -> PointSummary:
    tokens = int(record["tokens"])
    quiet, low, high, p50, p90, p99 = (float(record[f"{name}_ns"]) for name in _TIMES)
    calls, rounds = int(record["calls"]), int(record["rounds"])
    return PointSummary(Unit(Part.MODEL, tokens, tokens), quiet, low, high, p50, p90, p99, calls, rounds, "ok")


def _draw_curve(axes: Axes, points: Sequence[PointSummary], on: Statistic) -> None:
    tokens = [p.unit.tokens for p in points]
    quiet, low, high, p50, p99 = (
        [(value or 0.0) / 1e6 for value in values]
        for values in zip(
            *((p.quiet_ns, p.quiet_low_ns, p.quiet_high_ns, p.p50_ns, p.p99_ns) for p in points), strict=True
        )
    )
    axes.fill_between(tokens, low, high, color=BLUE, alpha=0.22, linewidth=0, label="its 95 % interval")
    dense_grid = len(tokens) > 60
    axes.plot(
        tokens,
        quiet,
        color=BLUE,
        linewidth=1.6,
        marker=None if dense_grid else "o",
        markersize=4,
        label="quiet (10th percentile)",
    )
    median = "p50 (planned on)" if on is Statistic.P50 else "median"
    width = 1.6 if on is Statistic.P50 else 0.9
    axes.plot(tokens, p50, color=BLUE, linewidth=width, linestyle=":", alpha=0.8, label=median)
    if on is Statistic.P99:
        calls = min((p.calls for p in points), default=0)
        tail = f"p99 of {calls} calls a count (planned on)"
        axes.plot(tokens, p99, color=VERMILION, linewidth=1.2, linestyle=":", alpha=0.8, label=tail)


def _draw_cliffs(axes: Axes, points: Sequence[PointSummary]) -> None:
    found = find_treads(points)
    steps = [(step, True) for step in found.cliffs] + [(step, False) for step in found.reversals]
    labelled = sorted(steps, key=lambda item: -item[0].height_percent)[:MOST_CLIFF_LABELS]
    for index, (step, upwards) in enumerate(steps):
        place = (step.from_tokens + step.to_tokens) / 2
        label = "cliff (or step back)" if index == 0 else None
        axes.axvline(place, color=GREY, linewidth=0.9, linestyle="--", alpha=0.7, label=label, zorder=0)
        if step.to_tokens - step.from_tokens > 1:
            # Somewhere in between: nothing was measured there.
            axes.axvspan(step.from_tokens, step.to_tokens, color=GREY, alpha=0.08, linewidth=0, zorder=0)
        if (step, upwards) in labelled:
            sign = "+" if upwards else "−"
            where = (
                f"{step.from_tokens}"
                if step.to_tokens - step.from_tokens == 1
                else (f"{step.from_tokens}–{step.to_tokens}")
            )
            axes.annotate(
                f"{where}: {sign}{step.height_percent:.0f} %",
                (place, 0.01),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=8,
                color=GREY,
                ha="right",
                va="bottom",
            )


def _draw_plans(axes: Axes, rows: Sequence[ReportRow]) -> None:
    measured = [row for row in rows if row.keep and row.measured_ns is not None]
    dense = next((row.dense_ns for row in rows if row.dense_ns is not None), None)
    if dense is not None:
        axes.axhline(
            dense / 1e6,
            color="black",
            linewidth=0.9,
            linestyle="-.",
            label=f"dense on {statistic(rows).value}, beside the schedules",
        )
    drawn: set[tuple[str, str | None]] = set()
    for row in sorted(measured, key=lambda row: row.recommended):
        if (method(row), row.schedule_digest) in drawn:
            continue
        drawn.add((method(row), row.schedule_digest))
        _draw_plan(axes, row)


def _draw_plan(axes: Axes, row: ReportRow) -> None:
    assert row.keep is not None
    assert row.measured_ns is not None
    at = sum(row.keep) / len(row.keep)
    marker, colour = MARKS.get(row.method, OTHER)
    low = row.measured_low_ns if row.measured_low_ns is not None else row.measured_ns
    high = row.measured_high_ns if row.measured_high_ns is not None else row.measured_ns
    filled = row.planner == "optimal"
    axes.errorbar(
        [at],
        [row.measured_ns / 1e6],
        yerr=[[(row.measured_ns - low) / 1e6], [(high - row.measured_ns) / 1e6]],
        fmt=marker,
        markersize=8,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markeredgecolor="black" if filled else colour,
        capsize=3,
        zorder=4,
        label=method(row),
    )
    if row.recommended:
        axes.plot(
            [at],
            [row.measured_ns / 1e6],
            "o",
            markersize=19,
            markerfacecolor="none",
            color=VERMILION,
            markeredgewidth=2.2,
            zorder=5,
            label=f"recommended operating point, on {row.on.value}",
        )


def _label(axes: Axes, curve: pandas.DataFrame, on: Statistic) -> None:
    first = curve.iloc[0]
    virtual = " (virtual: modelled latency)" if first["board_kind"] == "virtual" else ""
    axes.set_title(f"{first['model']} on {first['board']}{virtual}", loc="left", fontweight="bold")
    axes.set_xlabel("tokens (curve: in every block; schedules: mean over blocks)")
    noun = "modelled latency" if virtual else "latency"
    planned = "" if on is Statistic.QUIET else f"; plans on {on.value}"
    axes.set_ylabel(f"{noun} of a batch of {first['batch']}, ms ({first['backend']}, {first['dtype']}{planned})")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        fontsize=8,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=4,
        markerscale=0.7,
    )
    if not bool(first["stable"]):
        reason = f"unstable sweep: {first['unstable_reason']}"
        axes.annotate(reason, (0.01, 0.99), xycoords="axes fraction", va="top", fontsize=8, color=VERMILION)
