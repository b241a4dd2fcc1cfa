"""What people are told of a sweep's rounds: which were disturbed and why, and whether the curve can be trusted.

The times decide, sensors explain: a sensor that says nothing certifies no round. Left to others: which blocks are
disturbed (``rounds``), what sensors say in words (``state``), and figures (``quiet``).
"""

from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from tailfleet_schema.curve import Part
from tailfleet_schema.rounds import Findings
from tailfleet_schema.speeds import Sweep, quantile
from tailfleet_schema.state import changes, hindrances

WIDEST_SHARE = 0.08
"""A unit that is known no better than this makes a curve unstable."""

SPARE_SHARE = 0.05
"""Of a curve's counts, so many at most may be inferred although they were measured."""

_PER_CENT = "{:.0f} %"


@dataclass(frozen=True)
class RoundMark:
    """One round of a sweep as it is to be read."""

    round: int
    factor: float
    """How much slower its undisturbed part was than in the quietest rounds; 1: as quiet."""
    disturbed: bool
    """As a whole: the machine was slower for most of it."""
    reason: str


def mark_rounds(sweep: Sweep, findings: Findings) -> List[RoundMark]:
    """One mark a round, in order."""
    stretches: Dict[int, List[int]] = {}
    for stretch, number in sweep.rounds.items():
        stretches.setdefault(number, []).append(stretch)
    calm = {number for number, some in stretches.items() if all(stretch in findings.speeds.divided for stretch in some)}
    marks = []
    for number in sorted(stretches):
        some = stretches[number]
        factor = quantile(sorted(findings.speeds.factors[stretch] for stretch in some), 0.5)
        disturbed = 2 * sum(stretch not in findings.speeds.divided for stretch in some) > len(some)
        reason = ""
        if disturbed:
            reason = "everything took {:.2f} times as long as in the quietest rounds".format(factor)
            reason = "; ".join([reason, *_explained(sweep, calm, number)])
        marks.append(RoundMark(number, factor, disturbed, reason))
    return marks


def spare(sweep: Sweep, findings: Findings) -> Set[int]:
    """Counts of the curve that are not known, where they are few enough to be inferred from the others."""
    curve = {unit for unit in sweep.units if sweep.names[unit].part is Part.MODEL}
    lost = curve - findings.known
    ends = {choose(curve, key=lambda unit: sweep.names[unit].tokens) for choose in (min, max)} if lost else set()
    return set() if lost & ends or len(lost) > SPARE_SHARE * len(curve) else lost


def _explained(sweep: Sweep, calm: Set[int], number: int) -> List[str]:
    """What sensors say at the end of round ``number`` that they did not say in the last calm one before it; without
    one, what hinders the board at that moment."""
    then = sweep.telemetry.get(number)
    if not then:
        return []
    before = [sweep.telemetry[other] for other in sorted(calm) if other < number and sweep.telemetry.get(other)]
    return changes(before[-1][-1], then[-1]) if before else hindrances(then[-1])


def verdict(
    sweep: Sweep, findings: Findings, lost: Set[int], marks: Sequence[RoundMark], widths: Sequence[float]
) -> Tuple[bool, str]:
    """Whether the sweep is stable, and a sentence why not. ``lost`` are the ``spare`` units, ``widths`` half intervals
    of the known ones."""
    if len(marks) < 2:
        return False, "fewer than two rounds were measured, so drift cannot be seen"
    modes = _in_turn(one.power_mode for number in sorted(sweep.telemetry) for one in sweep.telemetry[number])
    if len(modes) > 1:
        return False, "the power mode changed in mid-sweep: {}".format(", then ".join(modes))
    unsure = len(sweep.units) - len(findings.known) - len(lost)
    some = "{} of {} units were seen undisturbed too rarely to be known".format(unsure, len(sweep.units))
    last = max((mark.round for mark in marks if not mark.disturbed), default=-1)
    after = [mark for mark in marks if mark.round > last]
    once = sum(sum(stretch in findings.speeds.divided for stretch in blocks) < 2 for blocks in sweep.units.values())
    if len(after) > 1 and 2 * once > len(sweep.units):
        words = "from round {} on {}, and it never came back".format(after[0].round + 1, after[0].reason)
        return False, "{}: {}".format(some, words) if unsure else words
    if unsure:
        return False, ": ".join([some, *_causes(sweep, findings, marks)])
    wide = [width for width in widths if width > WIDEST_SHARE]
    if wide:
        return False, "{} of {} units scatter so much that they are known to ±{} at best".format(
            len(wide), len(sweep.units), _PER_CENT.format(100 * max(wide))
        )
    return True, ""


def _causes(sweep: Sweep, findings: Findings, marks: Sequence[RoundMark]) -> List[str]:
    """Why units are not known, in one phrase; or none."""
    disturbed = [mark for mark in marks if mark.disturbed]
    blocks = sum(len(placed) for stretch, placed in sweep.order.items() if stretch in findings.speeds.divided)
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
    return [" and ".join(causes)] if causes else []


def _in_turn(values: Iterable[Optional[str]]) -> List[str]:
    """The known ones, without repetitions of the last."""
    found: List[str] = []
    for value in values:
        if value is not None and found[-1:] != [value]:
            found.append(value)
    return found
