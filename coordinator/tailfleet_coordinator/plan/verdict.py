"""Sentences about plans and their outcomes: figures with units, and the two words everybody looks for first.

Every sentence that compares latencies, or holds one against a budget, says which statistic it is on.
A verdict begins with ``prune:``, ``do not prune:`` or ``predicted only:``. What to decide is left to others.
"""

from collections.abc import Sequence

from tailfleet_schema.campaign import Measure, Statistic

DO_NOT_PRUNE = "do not prune: "
PRUNE = "prune: "
PREDICTED_ONLY = "predicted only: "


def on_statistic(on: Statistic) -> str:
    """`` on p99``: to be put behind a latency or a comparison."""
    return f" on {on.value}"


def in_ms(ns: float) -> str:
    """``8.06 ms``: three digits, but no more than microseconds."""
    ms = ns / 1e6
    digits = 1 if ms >= 100 else 2 if ms >= 10 else 3
    return f"{ms:.{digits}f} ms"


def against_dense(ns: float, dense_ns: float) -> str:
    """``12 % faster than dense``, or slower."""
    share = 100 * (1 - ns / dense_ns)
    digits = 0 if abs(share) >= 9.95 else 1
    return f"{abs(share):.{digits}f} % {'faster' if share >= 0 else 'slower'} than dense"


NAMES = {Measure.TOP1: "top-1", Measure.AGREEMENT: "agreement with the dense model"}
"""What points are of, where images are judged."""


def points(drop: float) -> str:
    """Percentage points of what is judged."""
    digits = 1 if abs(drop) >= 0.095 or drop == 0 else 2
    return f"{drop:.{digits}f} points"


def listed(names: Sequence[str], last: str) -> str:
    """``topk, pomt and tome``, where ``last`` is the word between the last two."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
