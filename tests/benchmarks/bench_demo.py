"""The demo's time by phase, from an empty folder, and that of a second run that reuses the stored curves."""

import json
import shutil
import subprocess
import sys

from tests.benchmarks.figure import OUT, Figure

GOAL_SECONDS = 300.0
"""What a newcomer waits after the installation."""


def measure() -> list[Figure]:
    """Run the demo twice in a folder of its own."""
    folder = OUT / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "tailfleet_coordinator.cli.main", "demo", "--dir", str(folder)]
    first, second = (_phases(command, folder) for _ in range(2))
    figures = [Figure(f"first run: {phase}", seconds, "s") for phase, seconds in first.items() if phase != "total"]
    figures.append(Figure("first run: total", first["total"], "s", GOAL_SECONDS))
    figures.append(Figure("second run: total", second["total"], "s", GOAL_SECONDS))
    figures.append(Figure("second run: sweep", second.get("sweep", 0.0), "s"))
    return figures


def _phases(command, folder) -> dict[str, float]:
    subprocess.run(command, check=True)
    return json.loads((folder / "report" / "phases.json").read_text())
