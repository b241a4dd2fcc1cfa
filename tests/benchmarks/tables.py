"""Make the README's benchmark tables from ``build/bench/*.json``: ``python -m tests.benchmarks.tables [--check]``.

The demo's result, one row for each board and model, is made from the report that ``bench_demo`` leaves. A table
stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``; only those whose file exists are made anew.
"""

import json
import re
import sys

from tests.benchmarks.figure import OUT, ROOT

from tailfleet_coordinator.cli.show import runs

MARK = re.compile(r"(<!-- bench:(?P<name>[\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def table(figures: list[dict]) -> str:
    """A Markdown table of the figures of one benchmark, with how and where they were measured."""
    lines = ["| figure | value | goal |", "| --- | ---: | ---: |"]
    for one in figures:
        goal = "–"
        if one["goal"] is not None:
            goal = f"{'≤' if one['direction'] == 'min' else '≥'} {one['goal']:g} {one['unit']}"
        digits = 1 if abs(one["value"]) >= 1 or not one["value"] else 2
        lines.append(f"| {one['name']} | {one['value']:.{digits}f} {one['unit']} | {goal} |")
    first = figures[0]
    lines += ["", f"`{first['command']}`, {first['date']}, {first['machine']}."]
    return "\n".join(lines) + "\n"


def demo_table(rows: list[dict]) -> str:
    """The recommended row of each board and model, or the first where none is recommended."""
    lines = [
        "| board | model | method: tokens kept × blocks | dense ms | predicted ms | measured ms (95 %) | speed-up"
        " | top-1 dense | top-1 pruned | verdict |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    chosen: dict[tuple[str, str], dict] = {}
    for row in rows:
        key = (row["board"], row["model"])
        if key not in chosen or row["recommended"]:
            chosen[key] = row
    for row in chosen.values():
        half = (row["measured_high_ns"] - row["measured_low_ns"]) / 2 if row["measured_ns"] is not None else None
        keep = "–" if row["keep"] is None else f"{row['method']}: {runs(row['keep'])}"
        host = "ʰ" if row["top1_computed_on"] == "host" else ""
        cells = [
            row["board"] + (" (virtual)" if row["board_kind"] == "virtual" else ""),
            row["model"],
            keep,
            f"{row['dense_ns'] / 1e6:.2f}",
            "–" if row["keep"] is None else f"{row['predicted_ns'] / 1e6:.2f}",
            "–" if half is None else f"{row['measured_ns'] / 1e6:.2f} ± {half / 1e6:.2f}",
            "–" if row["speedup"] is None else f"{row['speedup']:.2f}×",
            "–" if row["top1_dense"] is None else f"{row['top1_dense']:.1f} %{host}",
            "–" if row["top1_pruned"] is None else f"{row['top1_pruned']:.1f} %{host}",
            row["verdict"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """``text`` with every table made anew whose figures are there."""

    def one(match: re.Match[str]) -> str:
        if match["name"] == "demo-result":
            report = OUT / "demo" / "report" / "table.json"
            return match[1] + demo_table(json.loads(report.read_text())) + match[3] if report.exists() else match[0]
        path = OUT / f"{match['name']}.json"
        if not path.exists():
            return match[0]
        return match[1] + table(json.loads(path.read_text())) + match[3]

    return MARK.sub(one, text)


def main() -> int:
    """Rewrite README.md; with ``--check`` only tell whether it would change."""
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = renewed(old)
    if "--check" in sys.argv[1:]:
        return int(new != old)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
