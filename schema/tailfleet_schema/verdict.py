"""What people are told of a sweep's rounds: which were disturbed and why, and whether the curve can be trusted.

The times decide, sensors explain: a sensor that says nothing certifies no round. Left to others: which blocks are
disturbed (``rounds``), and figures (``quiet``).
"""

from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from tailfleet_schema.board import Telemetry
from tailfleet_schema.rounds import Findings, Sweep, quantile

WIDEST_SHARE = 0.08
"""A unit that is known no better than this makes a curve unstable."""

CLOCK_FELL = 0.97
HEATED_C = 5.0

_PER_CENT = "{:.0f} %"


@dataclass(frozen=True)
class RoundMark:
    """One round of a sweep as it is to be read."""

    round: int
    factor: float
    """How much slower its undisturbed part was than in the quietest rounds; 1: as quiet."""
    disturbed: bool
    """As a whole: its blocks are part of no quiet time."""
    reason: str


def mark_rounds(sweep: Sweep, findings: Findings) -> List[RoundMark]:
    """One mark a round, in order."""
    quiet = [one for number in findings.divided for one in sweep.telemetry.get(number, [])]
    marks = []
    for number in sorted(sweep.order):
        factor = findings.factors[number]
        disturbed = number not in findings.divided
        reason = ""
        if disturbed:
            reason = "everything took {:.2f} times as long as in the quietest rounds".format(factor)
            reason = "; ".join([reason, *explain(quiet, sweep.telemetry.get(number, []))])
        marks.append(RoundMark(number, factor, disturbed, reason))
    return marks


def explain(quiet: Sequence[Telemetry], then: Sequence[Telemetry]) -> List[str]:
    """What sensors say of a disturbed round that they did not say of the quiet ones."""
    words = []
    for name, read in _CLOCKS:
        before, after = _middle(map(read, quiet)), _middle(map(read, then))
        if before is not None and after is not None and after < CLOCK_FELL * before:
            words.append("the clock of the {} fell from {:.0f} to {:.0f} MHz".format(name, before, after))
    before, after = (_middle(one.temperature_c for one in some) for some in (quiet, then))
    if before is not None and after is not None and after >= before + HEATED_C:
        words.append("it was {:.0f} °C hot, before {:.0f} °C".format(after, before))
    throttled = next((one.throttled for one in then if one.throttled), None)
    if throttled:
        words.append("throttled: {}".format(throttled))
    modes = {one.power_mode for one in then} - {one.power_mode for one in quiet}
    if quiet and len(modes) == 1:
        words.append("the power mode was {}".format(modes.pop()))
    return words


def verdict(sweep: Sweep, findings: Findings, marks: Sequence[RoundMark], widths: Sequence[float]) -> Tuple[bool, str]:
    """Whether the sweep is stable, and a sentence why not. ``widths`` are half intervals of the known units."""
    if len(marks) < 2:
        return False, "fewer than two rounds were measured, so drift cannot be seen"
    modes = _in_turn(one.power_mode for number in sorted(sweep.telemetry) for one in sweep.telemetry[number])
    if len(modes) > 1:
        return False, "the power mode changed in mid-sweep: {}".format(", then ".join(modes))
    unsure = len(sweep.units) - len(findings.known)
    if unsure:
        return False, _doubts(unsure, sweep, findings, marks)
    wide = [width for width in widths if width > WIDEST_SHARE]
    if wide:
        return False, "{} of {} units scatter so much that they are known to ±{} at best".format(
            len(wide), len(sweep.units), _PER_CENT.format(100 * max(wide))
        )
    return True, ""


def _doubts(unsure: int, sweep: Sweep, findings: Findings, marks: Sequence[RoundMark]) -> str:
    some = "{} of {} units were seen undisturbed too rarely to be known".format(unsure, len(sweep.units))
    last = max(findings.divided)
    after = [mark for mark in marks if mark.round > last]
    if len(after) > 1 and 2 * len(after) >= len(marks):
        return "{}: from round {} on {}, and it never came back".format(some, after[0].round + 1, after[0].reason)
    disturbed = [mark for mark in marks if mark.disturbed]
    blocks = sum(len(placed) for number, placed in sweep.order.items() if number in findings.divided)
    causes = []
    if disturbed:
        worst = max(disturbed, key=lambda mark: mark.factor)
        causes.append(
            "{} of {} rounds were disturbed (round {}: {})".format(
                len(disturbed), len(marks), worst.round + 1, worst.reason
            )
        )
    if findings.hit:
        where = "of the blocks of the others" if disturbed else "of all blocks"
        causes.append("{} {} were disturbed".format(_PER_CENT.format(100.0 * len(findings.hit) / blocks), where))
    return ": ".join([some, " and ".join(causes)]) if causes else some


def _mean(values: Sequence[float]) -> Optional[float]:
    return sum(values) / len(values) if values else None


_CLOCKS: List[Tuple[str, Callable[[Telemetry], Optional[float]]]] = [
    ("GPU", lambda one: one.gpu_mhz),
    ("CPU", lambda one: _mean(one.cpu_mhz)),
    ("memory", lambda one: one.memory_mhz),
]


def _middle(values: Iterable[Optional[float]]) -> Optional[float]:
    known = sorted(value for value in values if value is not None)
    return quantile(known, 0.5) if known else None


def _in_turn(values: Iterable[Optional[str]]) -> List[str]:
    """The known ones, without repetitions of the last."""
    found: List[str] = []
    for value in values:
        if value is not None and found[-1:] != [value]:
            found.append(value)
    return found
