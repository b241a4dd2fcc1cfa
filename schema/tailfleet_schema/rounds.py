"""Which blocks of a sweep were disturbed, and whether what is left can be trusted. Pure.

In stretches that were not disturbed as a whole (``speeds``), a block is disturbed where its low lies off the lowest
ones of its unit by more than noise explains. The lowest blocks may all have been disturbed alike. How likely that is
follows from how often blocks are disturbed in this sweep, told apart by how many of the two blocks measured next to
them are (long bursts hit neighbours in time, short ones do not), and from how often two disturbed blocks agree by
chance; a unit is *known* when it is unlikely enough for the error it would mean. So a calm sweep needs two agreeing
blocks of a unit, and one that is disturbed half of the time some more. A single quiet block will do where stretches
that were slower in all units alike confirm it.

Left to others: figures and intervals of units (``quiet``), the verdict's words (``verdict``), what to measure again
(the worker).
"""

import bisect
import math
from typing import Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

from tailfleet_schema.speeds import Speeds, Sweep, quantile, speeds_of

ALIKE = (2, 0.06)
"""So many blocks of stretches that were slower in all units alike confirm a single quiet one that is no further off."""

LEAST_TOLERANCE = 0.02
MOST_TOLERANCE = 0.05
"""How far lows of undisturbed blocks of one unit lie apart, at least and at most."""

WRONG = 0.0024
"""A unit counts as known when the odds that its lowest blocks are all disturbed, times by how much disturbed blocks are
slower, lie below this."""

MOST_ODDS = 0.05
"""However little slower those are."""

PRIOR_BLOCKS = 2.0
"""As if so many blocks of each kind had been seen, disturbed as often as blocks in general."""

HEAVY = 1.15
CALM = (0.1, 0.33)
"""Two blocks of a unit must agree; where a larger share of all is slower by ``HEAVY``, three, and four."""

_Ratios = Dict[int, Dict[int, float]]


class Findings(NamedTuple):
    """What was found of a sweep's stretches and blocks."""

    speeds: Speeds
    hit: Set[Tuple[int, int]]
    """Disturbed blocks (unit, stretch) of stretches that are not."""
    doubts: Dict[int, float]
    """By unit, the odds that its lowest blocks were all disturbed; of a single block certain."""
    known: Set[int]
    confirmed: Dict[int, int]
    """By unit that has a quiet block, how many others confirm it."""
    tolerance: float
    slower: float
    """How much slower a disturbed block typically was; 1 where none is."""

    def usable(self, unit: int, blocks: Iterable[int]) -> Dict[int, float]:
        """By stretch among those of ``blocks`` in which ``unit`` was undisturbed, what its calls are divided by."""
        divisors = self.speeds.divisors(unit, blocks)
        return {number: factor for number, factor in divisors.items() if (unit, number) not in self.hit}


def examine(sweep: Sweep) -> Findings:
    """Judge the rounds and blocks of ``sweep``."""
    everything = set(sweep.units)
    found = _examine(sweep, everything)
    # A unit whose blocks were all disturbed would vouch for the rounds that disturbed it.
    return _examine(sweep, found.known) if found.known and found.known != everything else found


def _examine(sweep: Sweep, witnesses: Set[int]) -> Findings:
    speeds = speeds_of(sweep, witnesses)
    ratios = _ratios(sweep, speeds)
    tolerance = _tolerance(ratios)
    hit = {
        (unit, number)
        for unit, blocks in ratios.items()
        if len(blocks) > 1
        for number, ratio in blocks.items()
        if ratio > 1.0 + tolerance * _spread(len(blocks))
    }
    slower = sorted(ratios[unit][number] for unit, number in hit)
    doubts, known = _known(sweep, ratios, hit, slower, tolerance)
    confirmed = _confirmed(sweep, speeds)
    for unit in set(confirmed) - known:
        doubts[unit] = 0.0
        known.add(unit)
    return Findings(speeds, hit, doubts, known, confirmed, tolerance, quantile(slower, 0.5) if slower else 1.0)


def _confirmed(sweep: Sweep, speeds: Speeds) -> Dict[int, int]:
    """By unit that has a quiet block, how many of slower stretches agree with it; without those of too few."""
    least, most = ALIKE
    found = {}
    for unit, blocks in sweep.units.items():
        quiet = [blocks[number].low_ns / speeds.divided[number] for number in blocks if number in speeds.divided]
        others = sorted(blocks[n].low_ns / factor for n, factor in speeds.stand_ins(unit, blocks).items())
        if quiet and len(others) >= least and abs(min(quiet) / quantile(others, 0.5) - 1.0) <= most:
            found[unit] = len(others)
    return found


def _ratios(sweep: Sweep, speeds: Speeds) -> _Ratios:
    """Of each unit and stretch that may say how fast it is: low, divided, ÷ the unit's lowest."""
    found: _Ratios = {}
    for unit, blocks in sweep.units.items():
        lows = {number: blocks[number].low_ns / factor for number, factor in speeds.divisors(unit, blocks).items()}
        if lows:
            lowest = min(lows.values())
            found[unit] = {number: low / lowest for number, low in lows.items()}
    return found


def _spread(blocks: int) -> float:
    """How much further apart the lowest and the highest of so many lows lie than of three: the expected range of
    normal ones, whose lowest falls with their number, nearly."""
    return math.pow(max(1.0, math.log(blocks) / math.log(3.0)), 0.77)


def _tolerance(ratios: _Ratios) -> float:
    """How far apart undisturbed lows of one unit lie: from the gap between its lowest two, where that is small."""
    gaps = sorted(sorted(rounds.values())[1] - 1.0 for rounds in ratios.values() if len(rounds) > 1)
    if not gaps:
        return LEAST_TOLERANCE
    # A quarter of the gaps is below 0.25 standard deviations for normal scatter in three rounds; three lows spread
    # over three standard deviations at most, but for a few in a hundred.
    return min(MOST_TOLERANCE, max(LEAST_TOLERANCE, 12.0 * quantile(gaps, 0.25)))


def _agreement(slower: List[float], tolerance: float) -> float:
    """The share of pairs of disturbed blocks (``slower``, ascending) that agree by chance."""
    agreeing, last = 0, 0
    for first, ratio in enumerate(slower):
        while last < len(slower) and slower[last] <= ratio * (1.0 + tolerance):
            last += 1
        agreeing += last - first - 1
    pairs = len(slower) * (len(slower) - 1) // 2
    # As if of ten pairs seen before three had agreed.
    return (agreeing + 3.0) / (pairs + 10.0)


def _known(
    sweep: Sweep, ratios: _Ratios, hit: Set[Tuple[int, int]], slower: List[float], tolerance: float
) -> Tuple[Dict[int, float], Set[int]]:
    """Of each unit the odds that all its lowest blocks were disturbed, and the units of which they are small;
    ``slower`` by how much the disturbed ones are, ascending."""
    agreement = _agreement(slower, tolerance)
    excess = quantile(slower, 0.75) - 1.0 if slower else 0.0
    limit = min(MOST_ODDS, WRONG / excess) if excess else MOST_ODDS
    kinds = _kinds(sweep, ratios, hit)
    compared = [(unit, number) for unit, rounds in ratios.items() if len(rounds) > 1 for number in rounds]
    odds = _odds([(kinds[block], block in hit) for block in compared])
    heavy = len(slower) - bisect.bisect_left(slower, HEAVY)
    least = 2 + sum(heavy > share * len(compared) for share in CALM)
    doubts, known = {}, set()
    for unit, rounds in ratios.items():
        agreeing = [number for number in rounds if (unit, number) not in hit]
        logarithm = sum(odds[kinds[unit, number]] for number in agreeing) + (len(agreeing) - 1) * math.log(agreement)
        doubts[unit] = math.exp(min(0.0, logarithm)) if len(agreeing) > 1 else 1.0
        if len(agreeing) >= least and doubts[unit] < limit:
            known.add(unit)
    return doubts, known


def _kinds(sweep: Sweep, ratios: _Ratios, hit: Set[Tuple[int, int]]) -> Dict[Tuple[int, int], int]:
    """Blocks that are disturbed as often as each other: by how many blocks beside them are, and by how long their
    unit's calls take, since long ones are hit more often."""
    bases = {unit: min(block.low_ns for block in rounds.values()) for unit, rounds in sweep.units.items()}
    usual = quantile(sorted(bases.values()), 0.5) if bases else 0.0
    kinds = {}
    for number, placed in sweep.order.items():
        marks = [(unit, number) in hit for unit in placed]
        for place, unit in enumerate(placed):
            if unit in ratios:
                around = marks[max(0, place - 1) : place] + marks[place + 1 : place + 2]
                # At the ends of a round one neighbour stands for both.
                beside = round(2.0 * sum(around) / len(around)) if around else 1
                kinds[unit, number] = beside + (3 if bases[unit] > usual else 0)
    return kinds


def _odds(marks: Sequence[Tuple[int, bool]]) -> List[float]:
    """The log odds that a block of each kind is disturbed."""
    hits, blocks = [0.0] * 6, [0.0] * 6
    for kind, disturbed in marks:
        blocks[kind] += 1
        hits[kind] += disturbed
    share = (sum(hits) + 0.5) / (sum(blocks) + 1.0)
    chances = [(hits[kind] + PRIOR_BLOCKS * share) / (blocks[kind] + PRIOR_BLOCKS) for kind in range(6)]
    return [math.log(chance / (1.0 - chance)) for chance in chances]
