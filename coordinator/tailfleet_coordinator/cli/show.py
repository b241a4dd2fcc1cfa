"""How the command line prints: tables, times, and the one place that makes a ``Fleet``."""

import contextlib
import itertools
import math
import os
import sys
from typing import Any

import numpy
import pandas
from rich.console import Console
from rich.table import Table

from tailfleet_coordinator.client import Fleet
from tailfleet_schema import codec

PIPED_COLUMNS = 180
"""Width where there is no terminal to ask and no ``$COLUMNS``: a log or a file can hold a table's whole line."""

console = Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPED_COLUMNS)


connections = contextlib.ExitStack()
"""What a command has opened; who runs the command closes it."""


def fleet() -> Fleet:
    """The coordinator that the environment or this machine's state folder names."""
    return connections.enter_context(Fleet())


def table(title: str, frame: pandas.DataFrame, empty: str) -> None:
    """Print ``frame``, one line a row; ``empty`` where it has none. Columns in ns are shown in ms."""
    if frame.empty:
        console.print(empty)
        return
    drawn = Table(title=title, title_justify="left")
    for column in frame.columns:
        drawn.add_column(
            heading(str(column)),
            justify="right" if pandas.api.types.is_numeric_dtype(frame[column]) else "left",
            overflow="fold",
        )
    for row in frame.itertuples(index=False):
        drawn.add_row(*(cell(column, value) for column, value in zip(frame.columns, row, strict=True)))
    console.print(drawn)


def heading(column: str) -> str:
    """A column's name for people: ``quiet_ns`` is shown as ``quiet ms``."""
    return (column[:-3] + " ms" if column.endswith("_ns") else column).replace("_", " ")


def cell(column: str, value: Any) -> str:
    """One value for people; a missing one is an en dash."""
    if value is None or value is pandas.NaT or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if column.endswith("_ns"):
        return f"{value / 1e6:.3f}"
    if isinstance(value, (bool, numpy.bool_)):
        return "yes" if value else "no"
    if isinstance(value, pandas.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def say(text: str) -> None:
    """Print a line whole, however long: it may be copied or searched."""
    console.print(text, soft_wrap=True, highlight=False)


def runs(keep: list[int]) -> str:
    """Counts of a schedule for people: ``197×3 62×9``."""
    return " ".join(f"{count}×{len(list(group))}" for count, group in itertools.groupby(keep))


def json_text(value: object) -> None:
    """Print a schema dataclass as JSON."""
    sys.stdout.write(codec.dumps(value) + "\n")
