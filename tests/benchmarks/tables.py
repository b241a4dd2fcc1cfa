"""Make the README's benchmark tables from ``build/bench/*.json``: ``python -m tests.benchmarks.tables [--check]``.

A table stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``; only those whose file exists are made anew.
"""

import json
import re
import sys

from tests.benchmarks.figure import OUT, ROOT

MARK = re.compile(r"(<!-- bench:(?P<name>[\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def table(figures: list[dict]) -> str:
    """A Markdown table of the figures of one benchmark, with how and where they were measured."""
    lines = ["| figure | value | goal |", "| --- | ---: | ---: |"]
    for one in figures:
        goal = "–"
        if one["goal"] is not None:
            goal = f"{'≤' if one['direction'] == 'min' else '≥'} {one['goal']:g} {one['unit']}"
        lines.append(f"| {one['name']} | {one['value']:.1f} {one['unit']} | {goal} |")
    first = figures[0]
    lines += ["", f"`{first['command']}`, {first['date']}, {first['machine']}."]
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """``text`` with every table made anew whose figures are there."""

    def one(match: re.Match[str]) -> str:
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
