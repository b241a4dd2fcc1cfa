"""``tailfleet model``: list models, and train the bundled one again."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from tailfleet_coordinator import bundled
from tailfleet_coordinator.cli.show import fleet, table
from tailfleet_schema.errors import ConfigurationError

app = typer.Typer(help="List models; train the bundled one again.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Every model that can be swept."""
    table("models", fleet().models(), "no model is registered")


@app.command("train-digits")
def train_digits(
    out: Annotated[Path, typer.Option(help="Where to write the checkpoint (.npz).")] = Path("digits_vit.npz"),
) -> None:
    """Train the bundled 197-token ViT on scikit-learn's handwritten digits; prints its held-out top-1."""
    status = subprocess.run(bundled.training_command(out)).returncode
    if status != 0:
        raise ConfigurationError(f"training ended with status {status}")
