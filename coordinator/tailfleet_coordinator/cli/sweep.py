"""``tailfleet sweep``: measure curves without planning anything. A sweep is a campaign with no objective."""

import typer

from tailfleet_coordinator.cli.campaign import Wait, start
from tailfleet_coordinator.cli.grouped import grouped
from tailfleet_coordinator.cli.show import fleet
from tailfleet_coordinator.cli.sweeping import Sweeping

app = typer.Typer(help="Measure curves.", no_args_is_help=True)


@app.command()
@grouped
def run(sweep: Sweeping, wait: Wait = True) -> None:
    """Measure the curve and the parts of every model on every board."""
    here = fleet()
    start(here, sweep.request(here), wait)
