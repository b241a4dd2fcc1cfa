"""One measured figure, and the file that holds a benchmark's figures: ``build/bench/NAME.json``."""

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Figure:
    """``goal`` None: reported, nothing is asked of it. ``direction`` says which way is better."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    direction: str = "min"

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.direction == "min" else self.value >= self.goal


def machine() -> str:
    """The machine in words: processor, cores, memory."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def write(benchmark: str, figures: Sequence[Figure]) -> Path:
    """Write the figures of one benchmark with command, date and machine; the file's path."""
    OUT.mkdir(parents=True, exist_ok=True)
    context = {
        "command": f"make bench ONLY={benchmark}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
    }
    path = OUT / f"{benchmark}.json"
    path.write_text(json.dumps([{**dataclasses.asdict(figure), **context} for figure in figures], indent=2) + "\n")
    return path


def line(figure: Figure) -> str:
    """The figure as one line for people."""
    text = f"  {figure.name:<48} {figure.value:10.2f} {figure.unit}"
    if figure.goal is None:
        return text
    sign = "≤" if figure.direction == "min" else "≥"
    return f"{text}   goal {sign} {figure.goal:g}: {'met' if figure.met else 'MISSED'}"
