"""Follow a campaign with progress bars until it ends, and tell how long each phase lasted."""

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tailfleet_coordinator.cli.show import console, say
from tailfleet_coordinator.client import Fleet
from tailfleet_schema.campaign import CampaignState, CampaignStatus, StepStatus

POLL_SECONDS = 1.0
"""Not oftener: this machine may be the one that is measured."""

ENDED = ("done", "failed", "cancelled")


def follow(
    fleet: Fleet, campaign: str, check: Callable[[], None] = lambda: None
) -> tuple[CampaignStatus, dict[str, float]]:
    """Wait until ``campaign`` ends; its last status, and for each phase the seconds in which some step was in it.

    ``check`` is called between two looks and may raise to give up. On a terminal the bars move; elsewhere each
    change of phase is one line.
    """
    seconds: dict[str, float] = {}
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    bars: dict[tuple[str, str], TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        before = time.monotonic()
        while True:
            status = fleet.campaign(campaign)
            now = time.monotonic()
            for phase in {step.phase for step in status.steps} - set(ENDED):
                seconds[phase] = seconds.get(phase, 0.0) + now - before
            before = now
            for step in status.steps:
                key = (step.board, step.model)
                if console.is_terminal:
                    if key not in bars:
                        bars[key] = progress.add_task("", total=None, note="")
                    _draw(progress, bars[key], step)
                elif seen.get(key) != (step.phase, step.note):
                    seen[key] = (step.phase, step.note)
                    note = f"  ({step.note})" if step.note else ""
                    say(f"  {step.board:<22} {step.model:<24} {step.phase}{note}")
            if status.state is not CampaignState.RUNNING:
                return status, seconds
            check()
            time.sleep(POLL_SECONDS)


def _draw(progress: Progress, bar: TaskID, step: StepStatus) -> None:
    ended = step.phase in ENDED
    progress.update(
        bar,
        description=f"{step.board:<22} {step.model:<24} {step.phase:<8}",
        note=", ".join(text for text in (f"round {step.rounds_begun}" * bool(step.rounds_begun), step.note) if text),
        completed=(step.total or 1) if ended else step.done,
        total=step.total or (1 if ended else None),
    )
    if ended:
        progress.stop_task(bar)
