"""What an agent costs its board while it waits for work: private memory, processor time, and effect on a measurement.

A coordinator and one agent run as users start them (the line of ``tailfleet board enroll``, the zipapp). Memory is
Private_Clean + Private_Dirty of ``/proc/PID/smaps_rollup``, processor time that of all its threads by the scheduler's
own count. Then a fixed workload, ``digits_vit`` at all tokens, is timed in turns with the agent present and with the
agent stopped (SIGSTOP, so that not even its socket is read): the effect is the mean over pairs of turns of the
difference of their quiet times, with its interval. It is measurable where the whole interval lies above 0.
"""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from tests.benchmarks import beside
from tests.benchmarks.figure import Figure
from tests.benchmarks.reference import Reference, cpu_ns
from tests.e2e.conftest import Farm

from tailfleet_coordinator.bundled import digits
from tailfleet_schema.campaign import SweepSettings

BOARD = "idle"
SETTLING_SECONDS = 5.0
"""After it came online."""
IDLE_SECONDS = 65.0
"""At least a minute, and three of its long polls."""
QUICK_IDLE_SECONDS = 10.0
PAIRS = 100
QUICK_PAIRS = 3
BLOCKS = 14
"""Of a turn: about half a second."""
QUICK_BLOCKS = 2
WITHIN_PERCENT = 1.0
"""An effect that is larger would have been seen; else the turns scatter too much to say that there is none."""
CONFIDENCE = 0.99
"""Of the effect's interval: where there is no effect, one run in 200 still sees one."""


def measure(quick: bool = False) -> list[Figure]:
    """Start the farm, look at the idle agent, measure beside it."""
    with tempfile.TemporaryDirectory(prefix="tailfleet-bench-") as folder, _farm(Path(folder)) as farm:
        farm.start_coordinator()
        farm.enroll(BOARD)
        agent = farm.supervisor_pid(BOARD)
        time.sleep(SETTLING_SECONDS)
        share = _cpu_share(agent, QUICK_IDLE_SECONDS if quick else IDLE_SECONDS)
        memory, whole = private_bytes(agent), memory_bytes(agent, ["Rss"])
        effects = _effects(agent, QUICK_PAIRS, QUICK_BLOCKS) if quick else _effects(agent, PAIRS, BLOCKS)
        grown = private_bytes(agent) - memory
    half = float(stdtrit(len(effects) - 1, 0.5 + CONFIDENCE / 2)) * effects.std(ddof=1) / len(effects) ** 0.5
    return [
        Figure("idle agent: private memory", memory / 1e6, "MB", 20.0),
        Figure("idle agent: all memory, shared libraries included", whole / 1e6, "MB"),
        Figure("idle agent: private memory grown later", grown / 1e6, "MB"),
        Figure("idle agent: processor time, share of a core", share * 100, "%", 0.2),
        Figure("effect on a quiet time beside it", effects.mean() * 100, "%"),
        Figure(f"lower end of its {CONFIDENCE:.0%} interval", (effects.mean() - half) * 100, "%", 0.0),
        Figure(f"upper end of its {CONFIDENCE:.0%} interval", (effects.mean() + half) * 100, "%", WITHIN_PERCENT),
    ]


def private_bytes(pid: int) -> int:
    """What would be free if the process ended."""
    return memory_bytes(pid, ["Private_Clean", "Private_Dirty"])


def memory_bytes(pid: int, kinds: Sequence[str]) -> int:
    """The sum of these lines of its ``smaps_rollup``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds)


@contextlib.contextmanager
def _farm(folder: Path) -> Iterator[Farm]:
    farm = Farm(folder)
    try:
        yield farm
    finally:
        farm.end()


def _cpu_share(pid: int, seconds: float) -> float:
    used, began = cpu_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_ns(pid) - used) * 1e-9 / (time.monotonic() - began)


def _effects(agent: int, pairs: int, blocks: int) -> np.ndarray:
    """By how much each pair's turn with the agent was slower, as shares."""
    order = beside.sweep_order(digits.model(None), SweepSettings(calls=5), 1, "bench-footprint")
    full = order.job.workload.model.geometry.tokens
    which_first = random.Random(1)
    effects = []
    with Reference(order) as workload:
        for _ in range(pairs):
            quiet = {}
            for present in which_first.sample([True, False], 2):
                os.kill(agent, signal.SIGCONT if present else signal.SIGSTOP)
                try:
                    quiet[present] = beside.quiet_ns(workload.blocks([full] * blocks))
                finally:
                    os.kill(agent, signal.SIGCONT)
            effects.append(quiet[True] / quiet[False] - 1)
    return np.array(effects)
