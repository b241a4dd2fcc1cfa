"""A campaign's rows as a table for the terminal, as JSON, as CSV, and as Markdown.

Files carry nanoseconds under the schema's own field names, and in ``on`` the statistic that all of a row's times are
on; the terminal, Markdown and the page show milliseconds and name the statistic once.
"""

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from tailfleet_schema import codec
from tailfleet_schema.campaign import ReportRow, Statistic

NONE = "–"
VIRTUAL = "virtual"

WIDEST = {
    "board": 20,
    "model": 16,
    "method": 10,
    "predicted ms": 9,
    "measured ms (95 %)": 14,
    "top-1 dense": 7,
    "top-1 pruned": 7,
}
"""Columns of characters in the terminal: what is saved here, the verdict gets."""

TIMES = {
    Statistic.QUIET: "quiet times (10th percentile of calls)",
    Statistic.P50: "p50 (medians of calls)",
    Statistic.P99: "p99 (what one call in a hundred exceeds)",
}
"""What a time is, for people, on each statistic."""

HEADINGS = (
    "board",
    "model",
    "method",
    "dense ms",
    "predicted ms",
    "measured ms (95 %)",
    "speed-up",
    "top-1 dense",
    "top-1 pruned",
    "verdict",
)


def statistic(rows: Sequence[ReportRow]) -> Statistic:
    """What all times of a report are on: a campaign has one objective."""
    return rows[0].on if rows else Statistic.QUIET


def legend(rows: Sequence[ReportRow]) -> str:
    """What the table's signs and times mean."""
    return (
        f"★ recommended; times are {TIMES[statistic(rows)]} with a 95 % interval; "
        "virtual: the latency is modelled, not measured; ʰ: a real forward pass, but on the host of a virtual board"
    )


def cells(row: ReportRow) -> list[str]:
    """One row for people, in the order of ``HEADINGS``."""
    virtual = f" ({VIRTUAL})" if row.board_kind == "virtual" else ""
    on_host = "ʰ" if row.top1_computed_on == "host" else ""
    return [
        row.board + virtual,
        row.model,
        method(row),
        _ms(row.dense_ns),
        _predicted(row),
        _measured(row),
        NONE if row.speedup is None else f"{row.speedup:.2f}×",
        _percent(row.top1_dense, on_host),
        _percent(row.top1_pruned, on_host),
        ("★ " if row.recommended else "") + row.verdict,
    ]


def method(row: ReportRow) -> str:
    """The method, and the planner where it is not ours; where methods competed, the one that did best."""
    if row.reduces_by is not None:
        return f"{row.reduces_by} ({row.method})"
    return row.method if row.planner == "optimal" else f"{row.method} by {row.planner}"


def render(rows: Sequence[ReportRow]) -> Table:
    """The table for the terminal; a star marks what is recommended."""
    table = Table(
        title=f"plans on {statistic(rows).value}, and what the boards made of them",
        title_justify="left",
        caption=legend(rows),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in HEADINGS:
        # Names are folded where the terminal is narrow, never cut: two boards may differ in their last letter.
        table.add_column(
            heading,
            justify="right" if _is_number(heading) else "left",
            overflow="fold",
            max_width=WIDEST.get(heading),
        )
    before = None
    for row in rows:
        if before is not None and before != (row.board, row.model):
            table.add_section()
        # What stays the same is not said again.
        shown = cells(row) if before != (row.board, row.model) else ["", "", *cells(row)[2:]]
        before = (row.board, row.model)
        # Text, since a verdict may hold brackets that rich would take for markup.
        table.add_row(*(Text(cell) for cell in shown), style="bold green" if row.recommended else None)
    return table


def as_json(rows: Sequence[ReportRow]) -> str:
    """A JSON list of rows, one a line, with the schema's field names."""
    return "[\n" + ",\n".join(codec.dumps(row) for row in rows) + "\n]\n"


def as_csv(rows: Sequence[ReportRow]) -> str:
    """CSV with the schema's field names; ``keep`` as numbers separated by spaces; empty where nothing is known."""
    sink = io.StringIO()
    names = list(ReportRow.__dataclass_fields__)
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        encoded = codec.encode(row)
        keep = encoded["keep"]
        encoded["keep"] = None if keep is None else " ".join(str(count) for count in keep)
        writer.writerow(["" if encoded[name] is None else encoded[name] for name in names])
    return sink.getvalue()


def as_markdown(rows: Sequence[ReportRow]) -> str:
    """The table that people see, in Markdown, with what its signs mean below it."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts) + " |"

    rule = ["---:" if _is_number(heading) else "---" for heading in HEADINGS]
    return "\n".join([line(HEADINGS), line(rule), *(line(cells(row)) for row in rows), "", legend(rows)]) + "\n"


def _is_number(heading: str) -> bool:
    return heading.split()[0] in ("dense", "predicted", "measured", "speed-up", "top-1")


def _ms(ns: float | None) -> str:
    if ns is None:
        return NONE
    return f"{ns / 1e6:.3f}" if ns < 10e6 else f"{ns / 1e6:.2f}"


def _predicted(row: ReportRow) -> str:
    return _ms(row.predicted_ns) if row.schedule_digest is not None else NONE


def _measured(row: ReportRow) -> str:
    if row.measured_ns is None:
        return NONE
    if row.measured_low_ns is None or row.measured_high_ns is None:
        return _ms(row.measured_ns)
    if row.on is not Statistic.QUIET:
        # Between order statistics: a tail reaches further up than down.
        return f"{_ms(row.measured_ns)} ({_ms(row.measured_low_ns)} … {_ms(row.measured_high_ns)})"
    half = (row.measured_high_ns - row.measured_low_ns) / 2
    return f"{_ms(row.measured_ns)} ± {_ms(half)}"


def _percent(value: float | None, note: str) -> str:
    return NONE if value is None else f"{value:.1f} %{note}"
