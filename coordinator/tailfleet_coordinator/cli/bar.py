"""A bar for files that are read or sent; silent where nobody looks."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
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
