"""A board's latency against tokens as a picture: what was measured, what is inferred between it and how surely, treads
and cliffs with their heights, typical times beside the quiet ones, and where plans operate.

Where plans are on another statistic than quiet, operating points belong to the line of that one; cliffs are those of
quiet. A curve that is unstable, and rounds that were left out as disturbed, are said in the picture.

A schedule of several blocks has no single token count; it is drawn at its mean over blocks, and the legend says so.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tailfleet_coordinator.report.curve_tables import CurveTables
from tailfleet_coordinator.report.marks import BLUE, GREY, ORANGE, VERMILION, draw_measured
from tailfleet_coordinator.report.table import method, statistic
from tailfleet_schema.campaign import ReportRow, Statistic
from tailfleet_schema.curve import Part

MOST_CLIFF_LABELS = 6

MANY_POINTS = 60
"""More measured counts are drawn as smaller dots."""

HEADROOM = 1.6
"""A tail may be many times the quiet time; the picture ends here, as a multiple of its slowest quiet time."""

NOTE_WIDTH, NOTE_POINTS = 130, 8
"""Characters of a line of the note below the title, and the size of its letters."""


def draw(curve: CurveTables, rows: Sequence[ReportRow]) -> bytes:
    """A PNG of :func:`compose`."""
    sink = io.BytesIO()
    # Without the library's version in it, the same data gives the same file.
    compose(curve, rows).savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def compose(curve: CurveTables, rows: Sequence[ReportRow]) -> Figure:
    """The picture of one board × model. ``curve`` holds the rows of one curve, ``rows`` the plans for it, maybe none.

    No window system and no state outside the figure: it may be drawn in any thread.
    """
    whole = curve.points[(curve.points["part"] == Part.MODEL.value) & (curve.points["status"] == "ok")]
    whole = whole.sort_values("tokens")
    figure = Figure(figsize=(9.0, 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    on = statistic(rows)
    _draw_curve(axes, whole, on)
    _draw_treads(axes, curve.treads)
    _draw_cliffs(axes, curve.cliffs)
    _draw_plans(axes, rows)
    _label(axes, curve, on)
    _limit(axes, whole, rows, on)
    return figure


def _draw_curve(axes: Axes, whole: pandas.DataFrame, on: Statistic) -> None:
    times = whole[["quiet_ns", "quiet_low_ns", "quiet_high_ns"]] / 1e6
    axes.fill_between(
        whole["tokens"], times["quiet_low_ns"], times["quiet_high_ns"], color=BLUE, alpha=0.22, linewidth=0,
        label="its 95 % interval",
    )  # fmt: skip
    measured = whole[whole["source"] == "measured"]
    inferred = len(whole) - len(measured)
    line = "quiet, inferred between measured counts" if inferred else "quiet (10th percentile)"
    axes.plot(whole["tokens"], times["quiet_ns"], color=BLUE, linewidth=1.2, alpha=0.75, label=line)
    axes.plot(
        measured["tokens"],
        measured["quiet_ns"] / 1e6,
        color=BLUE,
        linestyle="none",
        marker="o",
        markersize=2.2 if len(measured) > MANY_POINTS else 4,
        label="quiet (10th percentile), measured" if inferred else None,
    )
    median = "p50 (planned on)" if on is Statistic.P50 else "p50"
    width = 1.6 if on is Statistic.P50 else 0.9
    axes.plot(
        measured["tokens"], measured["p50_ns"] / 1e6, color=BLUE, linewidth=width, linestyle=":", alpha=0.8,
        label=median,
    )  # fmt: skip
    planned = " (planned on)" if on is Statistic.P99 else ""
    axes.plot(
        measured["tokens"], measured["p99_ns"] / 1e6, color=VERMILION, linewidth=1.2 if planned else 0.7,
        linestyle=":", alpha=0.8, label=f"p99 of {measured['calls'].min()} calls a count or more{planned}",
    )  # fmt: skip


def _draw_treads(axes: Axes, treads: pandas.DataFrame) -> None:
    """Every second tread on a grey ground: where one ends and the next begins is seen without a line."""
    for place, (first, last) in enumerate(zip(treads["first_tokens"], treads["last_tokens"], strict=True)):
        if place % 2:
            label = "every second tread" if place == 1 else None
            axes.axvspan(first - 0.5, last + 0.5, color=GREY, alpha=0.07, linewidth=0, zorder=0, label=label)


def _draw_cliffs(axes: Axes, cliffs: pandas.DataFrame) -> None:
    labelled = set(cliffs.sort_values("height_percent").tail(MOST_CLIFF_LABELS)["from_tokens"])
    unplaced = "the step lies somewhere in here"
    for place, step in enumerate(cliffs.to_dict("records")):
        low, high = step["from_tokens"], step["to_tokens"]
        middle = (low + high) / 2
        label = "cliff (or step back)" if place == 0 else None
        axes.axvline(middle, color=GREY, linewidth=0.9, linestyle="--", alpha=0.7, label=label, zorder=0)
        if high - low > 1:
            axes.axvspan(low, high, color=ORANGE, alpha=0.18, linewidth=0, zorder=0, label=unplaced)
            unplaced = "_the same"
        if low in labelled:
            sign = "+" if step["upwards"] else "−"
            where = f"{low}" if high - low == 1 else f"{low}–{high}"
            axes.annotate(
                f"{where}: {sign}{step['height_percent']:.0f} %",
                (middle, 0.01),
                xycoords=("data", "axes fraction"),
                xytext=(-2, 0),
                textcoords="offset points",
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
        assert row.keep is not None
        assert row.measured_ns is not None
        mean = sum(row.keep) / len(row.keep)
        ring = f"recommended operating point, on {row.on.value}"
        draw_measured(axes, row, mean, row.measured_ns, across=False, label="", ring=ring)


def _label(axes: Axes, curve: CurveTables, on: Statistic) -> None:
    first = curve.points.iloc[0]
    virtual = " (virtual: modelled latency)" if first["board_kind"] == "virtual" else ""
    note = textwrap.wrap("; ".join(_notes(curve)), NOTE_WIDTH)
    title = f"{first['model']} on {first['board']}{virtual}"
    axes.set_title(title, loc="left", fontweight="bold", pad=6 + NOTE_POINTS * 1.4 * len(note))
    axes.annotate(
        "\n".join(note), (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", va="bottom",
        fontsize=NOTE_POINTS, color=GREY if bool(first["stable"]) else VERMILION,
    )  # fmt: skip
    axes.set_xlabel("tokens (curve: in every block; schedules: mean over blocks)")
    noun = "modelled latency" if virtual else "latency"
    planned = "" if on is Statistic.QUIET else f"; plans on {on.value}"
    axes.set_ylabel(f"{noun} of a batch of {first['batch']}, ms ({first['backend']}, {first['dtype']}{planned})")
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
        ncols=3,
        markerscale=0.7,
    )


def _notes(curve: CurveTables) -> list[str]:
    """What must not be hidden: the verdict, what was only inferred, which rounds were left out."""
    first = curve.points.iloc[0]
    whole = curve.points[curve.points["part"] == Part.MODEL.value]
    measured = int((whole["source"] == "measured").sum())
    notes = ["stable" if bool(first["stable"]) else f"UNSTABLE: {first['unstable_reason']}"]
    notes.append(f"{measured} of {len(whole)} counts measured" + (", the others inferred" * (measured < len(whole))))
    disturbed = curve.rounds[curve.rounds["disturbed"].astype(bool)]
    if len(curve.rounds):
        notes.append(f"{len(disturbed)} of {len(curve.rounds)} rounds disturbed and left out")
    return notes


def _limit(axes: Axes, whole: pandas.DataFrame, rows: Sequence[ReportRow], on: Statistic) -> None:
    """From nothing to what is of interest: a far tail does not flatten the curve, unless plans are on it."""
    line = "quiet_high_ns" if on is Statistic.QUIET else f"{on.value}_ns"
    slowest = max(float(whole["quiet_ns"].max()), float(whole[line].max()))
    points: list[Any] = [time for row in rows for time in (row.measured_high_ns, row.dense_ns) if time is not None]
    axes.set_xlim(left=0)
    axes.set_ylim(
        0, min(axes.get_ylim()[1], max(HEADROOM * float(whole["quiet_ns"].max()), 1.05 * max([slowest, *points])) / 1e6)
    )
