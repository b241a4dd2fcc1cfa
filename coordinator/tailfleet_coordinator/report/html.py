"""One self-contained page of a campaign: the table and every picture, nothing loaded from anywhere."""

import base64
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from tailfleet_coordinator.report.table import AGREEMENT, AGREES, TIMES, TOP1, cells, headings, statistic
from tailfleet_schema import __version__
from tailfleet_schema.campaign import CampaignReport, ReportRow

TOP1_WORDS = "top-1 is on evaluation images"

_Pictures = Mapping[tuple[str, str], bytes]


def page(report: CampaignReport, pictures: _Pictures, fronts: _Pictures | None = None) -> str:
    """The page. ``pictures`` of curves and ``fronts`` are PNGs by (board, model), shown in the order of the first."""
    fronts = {} if fronts is None else fronts
    columns = headings(report.rows)
    kinds = {(row.board, row.model): row.board_kind for row in report.rows}
    environment = Environment(
        loader=PackageLoader("tailfleet_coordinator.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = [
        {
            "board": board,
            "model": model,
            "virtual": kinds.get((board, model)) == "virtual",
            "drawn": [
                {"what": what, "data": base64.b64encode(drawn[board, model]).decode("ascii")}
                for what, drawn in (("Loss against latency", fronts), ("Latency against tokens", pictures))
                if (board, model) in drawn
            ],
            "recommended": _recommended(report.rows, board, model),
        }
        for board, model in dict.fromkeys([*pictures, *fronts])
    ]
    return environment.get_template("report.html.j2").render(
        campaign=report.campaign,
        version=__version__,
        headings=columns,
        number_columns=len(columns) - 4,
        judged=[words for words, column in ((TOP1_WORDS, TOP1[0]), (AGREES, AGREEMENT[0])) if column in columns],
        times=TIMES[statistic(report.rows)],
        rows=[
            {"cells": cells(row, columns), "recommended": row.recommended, "virtual": row.board_kind == "virtual"}
            for row in report.rows
        ],
        figures=figures,
        any_virtual=any(row.board_kind == "virtual" for row in report.rows),
    )


def _recommended(rows: Sequence[ReportRow], board: str, model: str) -> str:
    """What to do with this model on this board, in a sentence."""
    here = [row for row in rows if (row.board, row.model) == (board, model)]
    if not here:
        return "measured only; nothing was planned for it"
    chosen = next((row for row in here if row.recommended), None)
    if chosen is None:
        return "recommended: dense, no schedule came out better"
    keep = ", ".join(str(count) for count in chosen.keep or [])
    return f"recommended: {chosen.method}, tokens after each block {keep}; {chosen.verdict}"
