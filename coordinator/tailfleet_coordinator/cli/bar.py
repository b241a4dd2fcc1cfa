"""Bars: for files that are read or sent, silent where nobody looks; and for epochs of a training."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from tailfleet_coordinator.library.progress import Progress


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """What is told within the block moves a bar on standard error, one for each kind of work."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as drawn:
        known: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = drawn.add_task(what)
            drawn.update(known[what], completed=done, total=total)

        yield tell


@contextlib.contextmanager
def epochs(total: int) -> Iterator[Callable[[float, str], None]]:
    """Epochs done and a few words move a bar on standard error; where that is no terminal, whole ones are lines."""
    console = Console(stderr=True)
    columns = (
        TextColumn("epoch {task.fields[done]}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Bars(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as drawn:
        bar, last = drawn.add_task("", total=total, done=0, words=""), ""

        def tell(done: float, words: str) -> None:
            nonlocal last
            last = words or last
            drawn.update(bar, completed=done, done=int(done), words=last)
            if words and not console.is_terminal:
                print(f"epoch {int(done)}/{total}  {words}", file=sys.stderr, flush=True)

        yield tell
