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
from tailfleet_schema.campaign import Measure, ReportRow, Statistic

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
    "agreement dense": 9,
    "agreement pruned": 9,
    "KL nats": 7,
}
"""Columns of characters in the terminal: what is saved here, the verdict gets."""

TIMES = {
    Statistic.QUIET: "quiet times (10th percentile of calls)",
    Statistic.P50: "p50 (medians of calls)",
    Statistic.P99: "p99 (what one call in a hundred exceeds)",
}
"""What a time is, for people, on each statistic."""

TOP1 = ("top-1 dense", "top-1 pruned")
AGREEMENT = ("agreement dense", "agreement pruned", "KL nats")
"""What is judged, with and without labels."""

AGREES = (
    "agreement: how often the answer is that of the dense model in fp32, on evaluation images without labels; KL: the"
    " divergence from it"
)


def statistic(rows: Sequence[ReportRow]) -> Statistic:
    """What all times of a report are on: a campaign has one objective."""
    return rows[0].on if rows else Statistic.QUIET


def headings(rows: Sequence[ReportRow]) -> list[str]:
    """Of the columns that ``rows`` need: what was judged on images without labels is no top-1."""
    unlabelled = [row.measure is Measure.AGREEMENT for row in rows]
    judged = [*(() if unlabelled and all(unlabelled) else TOP1), *(AGREEMENT if any(unlabelled) else ())]
    times = ["dense ms", "predicted ms", "measured ms (95 %)"]
    return ["board", "model", "method", *times, "speed-up", *judged, "verdict"]


def legend(rows: Sequence[ReportRow]) -> str:
    """What the table's signs and times mean."""
    agrees = f"; {AGREES}" if AGREEMENT[0] in headings(rows) else ""
    return (
        f"★ recommended; times are {TIMES[statistic(rows)]} with a 95 % interval; "
        "virtual: the latency is modelled, not measured; ʰ: a real forward pass, but on the host of a virtual board"
        f"{agrees}"
    )


def cells(row: ReportRow, columns: Sequence[str]) -> list[str]:
    """One row for people, in the ``columns`` that ``headings`` gave."""
    virtual = f" ({VIRTUAL})" if row.board_kind == "virtual" else ""
    on_host = "ʰ" if row.agreement_computed_on == "host" or row.top1_computed_on == "host" else ""
    unlabelled = row.measure is Measure.AGREEMENT
    shown = {
        "board": row.board + virtual,
        "model": row.model,
        "method": method(row),
        "dense ms": _ms(row.dense_ns),
        "predicted ms": _predicted(row),
        "measured ms (95 %)": _measured(row),
        "speed-up": NONE if row.speedup is None else f"{row.speedup:.2f}×",
        "top-1 dense": _percent(row.top1_dense, on_host),
        "top-1 pruned": _percent(row.top1_pruned, on_host),
        "agreement dense": _percent(row.agreement_dense if unlabelled else None, on_host),
        "agreement pruned": _percent(row.agreement_pruned if unlabelled else None, on_host),
        "KL nats": NONE if row.kl_nats is None or not unlabelled else f"{row.kl_nats:.2g}",
        "verdict": ("★ " if row.recommended else "") + row.verdict,
    }
    return [shown[column] for column in columns]


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
    columns = headings(rows)
    for heading in columns:
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
        shown = cells(row, columns)
        if before == (row.board, row.model):
            shown[:2] = ["", ""]
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

    columns = headings(rows)
    rule = ["---:" if _is_number(heading) else "---" for heading in columns]
    shown = [line(columns), line(rule), *(line(cells(row, columns)) for row in rows)]
    return "\n".join([*shown, "", legend(rows)]) + "\n"


def _is_number(heading: str) -> bool:
    return heading.split()[0] in ("dense", "predicted", "measured", "speed-up", "top-1", "agreement", "KL")


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
