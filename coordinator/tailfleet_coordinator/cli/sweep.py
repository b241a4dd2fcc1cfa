"""``tailfleet sweep``: measure curves without planning anything. A sweep is a campaign with no objective."""

from typing import Annotated

import typer

from tailfleet_coordinator.cli.campaign import Batch, Calls, Counts, Fresh, Names, Rounds, Wait, start, sweep_request
from tailfleet_coordinator.cli.show import fleet
from tailfleet_schema.campaign import SweepSettings

app = typer.Typer(help="Measure curves.", no_args_is_help=True)


@app.command()
def run(
    models: Names = "all",
    boards: Names = "all",
    method: Annotated[
        str, typer.Option(help="Methods whose reduction cost is measured too: topk, pomt, tome, or all.")
    ] = "all",
    counts: Counts = "auto",
    rounds: Rounds = 3,
    calls: Calls = 3,
    fresh: Fresh = False,
    batch: Batch = 1,
    wait: Wait = True,
) -> None:
    """Measure the curve and the parts of every model on every board."""
    here = fleet()
    start(here, sweep_request(here, models, boards, method, SweepSettings(counts, rounds, calls, fresh), batch), wait)
