"""Writes a campaign's report to a folder: table as JSON and CSV, one picture a board × model, and the page."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas

from tailfleet_coordinator.report import figure, html, table
from tailfleet_schema.campaign import CampaignReport
from tailfleet_schema.errors import InputError


@dataclass(frozen=True)
class ReportFiles:
    """Where everything was written."""

    table_json: Path
    table_csv: Path
    page: Path
    pictures: list[Path]


def write_report(report: CampaignReport, curves: pandas.DataFrame, out: Path) -> ReportFiles:
    """Write ``report`` into the folder ``out``, made if missing; what is there under the same names is replaced.

    ``curves`` has the columns of ``Fleet.curves`` and may hold more than the report's boards and models; of several
    curves of one board × model the newest is drawn. A board × model without a curve gets no picture. Raises
    ``InputError`` where the folder cannot be written.
    """
    pictures = _pictures(report, curves)
    files = ReportFiles(
        out / "table.json",
        out / "table.csv",
        out / "index.html",
        [out / name for name in _names(list(pictures))],
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.table_json.write_text(table.as_json(report.rows), encoding="utf-8")
        files.table_csv.write_text(table.as_csv(report.rows), encoding="utf-8")
        for path, content in zip(files.pictures, pictures.values(), strict=True):
            path.write_bytes(content)
        files.page.write_text(html.page(report, pictures), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report to {out}: {error.strerror or error}", mend="--out FOLDER") from error
    return files


def _pictures(report: CampaignReport, curves: pandas.DataFrame) -> dict[tuple[str, str], bytes]:
    pictures = {}
    for board, model in dict.fromkeys((row.board, row.model) for row in report.rows):
        rows = [row for row in report.rows if (row.board, row.model) == (board, model)]
        curve = _newest(curves, board, model)
        if curve is not None:
            pictures[board, model] = figure.draw(curve, rows)
    return pictures


def _newest(curves: pandas.DataFrame, board: str, model: str) -> pandas.DataFrame | None:
    if curves.empty:
        return None
    here = curves[(curves["board"] == board) & (curves["model"] == model) & (curves["status"] == "ok")]
    here = here[here["curve_id"].isin(here[here["part"] == "model"]["curve_id"])]
    if here.empty:
        return None
    newest = here.sort_values("measured_at", kind="stable")["curve_id"].iloc[-1]
    chosen: pandas.DataFrame = here[here["curve_id"] == newest]
    return chosen


def _names(pairs: list[tuple[str, str]]) -> list[str]:
    """A file name for each board × model, made of harmless characters, and no two the same."""
    names: list[str] = []
    for board, model in pairs:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{board}--{model}").lstrip(".") or "curve"
        name, number = f"{stem}.png", 2
        while name in names or name.lower() in (other.lower() for other in names):
            name, number = f"{stem}-{number}.png", number + 1
        names.append(name)
    return names
