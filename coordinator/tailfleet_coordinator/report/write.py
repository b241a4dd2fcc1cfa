"""Writes a campaign's report to a folder: the table as JSON, CSV and Markdown, pictures, and the page."""

import re
from dataclasses import dataclass
from pathlib import Path

from tailfleet_coordinator.report import figure, html, pareto, table
from tailfleet_coordinator.report.curve_tables import CurveTables
from tailfleet_schema.campaign import CampaignReport
from tailfleet_schema.errors import InputError


@dataclass(frozen=True)
class ReportFiles:
    """Where everything was written."""

    table_json: Path
    table_csv: Path
    table_markdown: Path
    page: Path
    pictures: list[Path]


def write_report(report: CampaignReport, curves: CurveTables, out: Path) -> ReportFiles:
    """Write ``report`` into the folder ``out``, made if missing; what is there under the same names is replaced.

    ``curves`` may hold more than those that the report's plans rest on, which are drawn; for a row that names none,
    the newest of its board × model. A board × model without a curve gets no picture. Raises ``InputError`` where the
    folder cannot be written.
    """
    pictures, fronts = _pictures(report, curves), _fronts(report)
    files = ReportFiles(
        out / "table.json",
        out / "table.csv",
        out / "table.md",
        out / "index.html",
        [out / name for name in _names([("front", *pair) for pair in fronts] + list(pictures))],
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.table_json.write_text(table.as_json(report.rows), encoding="utf-8")
        files.table_csv.write_text(table.as_csv(report.rows), encoding="utf-8")
        files.table_markdown.write_text(table.as_markdown(report.rows), encoding="utf-8")
        for path, content in zip(files.pictures, [*fronts.values(), *pictures.values()], strict=True):
            path.write_bytes(content)
        files.page.write_text(html.page(report, pictures, fronts), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report to {out}: {error.strerror or error}", mend="--out FOLDER") from error
    return files


def _pictures(report: CampaignReport, curves: CurveTables) -> dict[tuple[str, str], bytes]:
    pictures = {}
    for board, model in dict.fromkeys((row.board, row.model) for row in report.rows):
        rows = [row for row in report.rows if (row.board, row.model) == (board, model)]
        curve_id: object | None = rows[0].curve_id
        if curve_id is None or not curves.drawable(curve_id):
            curve_id = curves.newest(board, model)
        if curve_id is not None:
            pictures[board, model] = figure.draw(curves.of(curve_id), rows)
    return pictures


def _fronts(report: CampaignReport) -> dict[tuple[str, str], bytes]:
    drawn = {}
    for board, model in dict.fromkeys((front.board, front.model) for front in report.fronts):
        seen = [front for front in report.fronts if (front.board, front.model) == (board, model)]
        rows = [row for row in report.rows if (row.board, row.model) == (board, model)]
        drawn[board, model] = pareto.draw(seen, rows)
    return drawn


def _names(parts: list[tuple[str, ...]]) -> list[str]:
    """A file name for each board × model (× what is drawn), made of harmless characters, and no two the same."""
    names: list[str] = []
    for part in parts:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", "--".join(part)).lstrip(".") or "curve"
        name, number = f"{stem}.png", 2
        while name in names or name.lower() in (other.lower() for other in names):
            name, number = f"{stem}-{number}.png", number + 1
        names.append(name)
    return names
