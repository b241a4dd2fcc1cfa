"""Where a curve needs more counts: a stand-in that halves the gaps between counts that differ."""

from typing import Dict, List

from tailfleet_schema.quiet import Estimate


def next_counts(known: Dict[int, Estimate], least: int, full: int, precision: float, batch: int = 1) -> List[int]:
    """Counts to measure next, ascending; none where neighbours agree."""
    counts = sorted(known)
    return [
        (low + high) // 2
        for low, high in zip(counts, counts[1:])
        if high - low > 1 and abs(known[high].quiet_ns / known[low].quiet_ns - 1.0) > 2.0 * precision
    ]


def unsure(known: Dict[int, Estimate], least: int, full: int, precision: float) -> List[int]:
    """Counts whose blocks should be repeated, since a step rests on them."""
    return []
